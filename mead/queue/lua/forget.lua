-- Drops what still counts or names jobs whose records are gone: deleted by hand, evicted or expired. Returns how many
-- entries it dropped.
-- ARGV: a key, then entries of it; or '', then idempotency keys.
local key = ARGV[1]
local dropped = 0

local function drop(entry)
    if key == '' then
        redis.call('DEL', entry)
    elseif string.sub(key, 1, #UNFINISHED) == UNFINISHED then
        redis.call('SREM', key, entry)
    elseif string.sub(key, 1, #KEEPS) == KEEPS then
        redis.call('SREM', key, entry)
    elseif string.sub(key, 1, #KEPT_JOBS) == KEPT_JOBS then
        redis.call('ZREM', key, entry)
    else
        uncount(key, entry)
    end
    dropped = dropped + 1
end

for n = 2, #ARGV do
    local entry = ARGV[n]
    local id = key == '' and redis.call('GET', entry) or string.gsub(entry, ':%d+$', '')
    if redis.call('EXISTS', JOB .. id) == 0 then drop(entry) end
end
return dropped
