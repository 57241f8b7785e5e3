-- Creates one job or a group of them, all or none: their records, their tickets and their places in the queue.
-- Returns "accepted", the first job's id and their number (an earlier request's if the idempotency key was used before), or
-- why not: "repeated" (the key belongs to another request), "full" (the queue), "many" (unfinished jobs of this client),
-- "fast" and in how many ms (too many jobs of this owner in a minute), or the name of the limit on what is kept that has
-- been reached, and in how many ms there will be room (-1: that depends on jobs that have not ended, or are kept).
-- ARGV: deadline, queue, type, owner, client, idempotency key, fingerprint, now, now in ms, bytes of each, priority, limits
-- (longest, most, a minute, on the kept jobs and bytes of all clients and of this one), number of jobs; then of each job:
-- its id, the length of what follows, names and values of parameters.
local deadline = table.remove(ARGV, 1)
local queue, kind, owner, client, key, fingerprint, now, now_ms, bytes, priority = unpack(ARGV, 1, 10)
local longest, most, a_minute = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local limits = {
    {'kept_jobs', tonumber(ARGV[14]), 'kept_bytes', tonumber(ARGV[15])},
    {'client_kept_jobs', tonumber(ARGV[16]), 'client_kept_bytes', tonumber(ARGV[17])},
}
local number = tonumber(ARGV[18])
local ids, records = {}, {}
local at = 19
for n = 1, number do
    ids[n] = ARGV[at]
    records[n] = {unpack(ARGV, at + 2, at + 1 + ARGV[at + 1])}
    at = at + 2 + ARGV[at + 1]
end
local places = kept_places(client)
local sums = {}  -- of the bytes kept in each place, with those of these jobs

-- In how many ms a score, the second of an expiry, comes; -1 for one that does not.
local function ms_until(score)
    if not score or score == 'inf' then return -1 end
    return math.max(0, score * 1000 - now_ms)
end

-- In how many ms so many bytes of what is kept in a place will have expired, if the next 200 jobs and latents say it.
local function bytes_expire(place, bytes)
    local expiring = {}
    for _, set in ipairs({place, place .. LATENTS}) do
        local entries = redis.call('ZRANGEBYSCORE', set, '-inf', '(+inf', 'WITHSCORES', 'LIMIT', 0, 200)
        for n = 1, #entries, 2 do expiring[#expiring + 1] = {entries[n + 1], string.match(entries[n], '%d+$')} end
    end
    table.sort(expiring, function(one, other) return tonumber(one[1]) < tonumber(other[1]) end)
    for _, one in ipairs(expiring) do
        bytes = bytes - one[2]
        if bytes <= 0 then return ms_until(one[1]) end
    end
    return -1
end

-- Which limit on what is kept these jobs would exceed, and in how many ms they would not.
local function limit_reached()
    for n, sum in ipairs(redis.call('MGET', places[1] .. BYTES, places[2] .. BYTES)) do
        local kept = redis.call('ZCARD', places[n])
        if kept == 0 then  -- it may have been deleted by hand
            redis.call('DEL', places[n] .. LATENTS)
            sum = 0
        end
        sums[n] = (tonumber(sum) or 0) + bytes * number
        local jobs, most_jobs, total, most_bytes = unpack(limits[n])
        if most_jobs > 0 and kept + number > most_jobs then
            local last = kept + number - most_jobs - 1
            return jobs, ms_until(redis.call('ZRANGE', places[n], last, last, 'WITHSCORES')[2])
        end
        if most_bytes > 0 and sums[n] > most_bytes then return total, bytes_expire(places[n], sums[n] - most_bytes) end
    end
end

-- In how many ms the owner may make these jobs, if that is not now.
local function too_soon()
    local since = now_ms - 60000
    local made = redis.call('ZCOUNT', KEPT_JOBS .. owner, '(' .. since, '+inf')
    local over = made + number - a_minute
    if over <= 0 then return nil end
    local last = redis.call('ZRANGEBYSCORE', KEPT_JOBS .. owner, '(' .. since, '+inf', 'WITHSCORES', 'LIMIT', over - 1, 1)
    return last[2] - since
end

local function forget_expired()
    for _, place in ipairs(places) do
        local expired = redis.call('ZRANGEBYSCORE', place, '-inf', now_ms / 1000, 'LIMIT', 0, 100)
        for _, entry in ipairs(expired) do
            redis.call('ZREM', KEPT_JOBS .. owner, (string.gsub(entry, ':%d+$', '')))
            uncount(place, entry)
        end
        local latents = place .. LATENTS
        for _, entry in ipairs(redis.call('ZRANGEBYSCORE', latents, '-inf', now_ms / 1000, 'LIMIT', 0, 100)) do
            uncount(latents, entry)
        end
    end
end

if redis.call('EXISTS', JOB .. ids[1]) == 1 then
    confirm(ids[1])
    return {'accepted', ids[1], number}
end
if key ~= '' then
    local earlier = redis.call('GET', IDEMPOTENCY .. owner .. ':' .. key)
    local made = earlier and redis.call('HMGET', JOB .. earlier, 'fingerprint', 'n') or {}
    if made[1] == fingerprint then
        confirm(earlier)
        return {'accepted', earlier, tonumber(made[2]) or 1}
    end
    if made[1] then return {'repeated'} end
end

local refused = late(deadline)
if refused then return refused end
local length = open_queue(queue)
local room = longest - number
if longest > 0 and length > room and length - redis.call('ZCARD', queue .. CANCELLED) > room then return {'full'} end
if limit_reached() then
    forget_expired()
    local reached, wait = limit_reached()
    if reached then return {reached, wait} end
end
if a_minute > 0 then
    local wait = too_soon()
    if wait then return {'fast', wait} end
end
if most > 0 then
    local unfinished = UNFINISHED .. client
    if redis.call('SCARD', unfinished) + number > most then
        for _, job in ipairs(redis.call('SMEMBERS', unfinished)) do  -- records may have been deleted by hand
            if redis.call('EXISTS', JOB .. job) == 0 then redis.call('SREM', unfinished, job) end
        end
        if redis.call('SCARD', unfinished) + number > most then return {'many'} end
    end
    redis.call('SADD', unfinished, unpack(ids))
end

if key ~= '' then redis.call('SET', IDEMPOTENCY .. owner .. ':' .. key, ids[1]) end
for n, place in ipairs(places) do
    for _, id in ipairs(ids) do redis.call('ZADD', place, 'inf', id .. ':' .. bytes) end
    if persist_place(place) then redis.call('PERSIST', KEPT_JOBS .. owner) end
    redis.call('SET', place .. BYTES, string.format('%.0f', sums[n]))  -- has no time to live then, either
end
local last = redis.call('INCRBY', queue .. TICKETS, number)
join(queue, owner, ids, last - number + 1, priority)
for n, id in ipairs(ids) do
    redis.call('ZADD', KEPT_JOBS .. owner, now_ms, id)
    local ticket = last - number + n
    local fields = {
        'id', id, 'type', kind, 'queue', queue, 'created_at', now, 'created_ms', now_ms, 'owner', owner, 'client', client,
        'fingerprint', fingerprint, 'bytes', bytes, 'status', 'queued', 'ticket', ticket, 'seq', 1, 'attempts', 0,
        'steps', 0, unpack(records[n]),
    }
    if key ~= '' then
        fields[#fields + 1] = 'idempotency_key'
        fields[#fields + 1] = key
    end
    if number > 1 then
        for _, part in ipairs({'group', ids[1], 'n', number}) do fields[#fields + 1] = part end
    end
    records[n] = fields
    announce(id, {status = 'queued', ticket = ticket, seq = 1})
end
for n, id in ipairs(ids) do redis.call('HSET', JOB .. id, unpack(records[n])) end  -- from here on there are jobs
for _ = 1, number do count(kind, 'accepted') end
if last % 16 < number then forget_expired() end
return {'accepted', ids[1], number}
