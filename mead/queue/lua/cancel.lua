-- Cancels jobs that are queued or running. Returns of each 1, 0 (it had already ended) or -1 (there is no such job).
-- ARGV: deadline, now, now in ms, time to live, priority, then ids.
local deadline, now, now_ms, ttl, priority = unpack(ARGV, 1, 5)

local function cancel(id)
    local job = read(id, 'status', 'queue', 'ticket', 'worker', 'owner')
    if not job[1] then return -1 end
    if job[1] ~= 'queued' and job[1] ~= 'processing' then return 0 end
    finish(id, {status = 'cancelled', bytes = 0}, now, now_ms, ttl)
    if job[1] == 'queued' then
        redis.call('ZADD', job[2] .. CANCELLED, job[3] or 0, id)
        leave(job[2], job[5], job[3], id, priority)
    else
        redis.call('LREM', job[2] .. PROCESSING .. (job[4] or ''), 1, id)
    end
    return 1
end

local refused = late(deadline)
if refused then return refused end
local cancelled = {}
for n = 6, #ARGV do cancelled[#cancelled + 1] = cancel(ARGV[n]) end
return cancelled
