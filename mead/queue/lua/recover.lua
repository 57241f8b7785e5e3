-- Requeues the jobs of a dead worker, or fails those that have had too many attempts. Returns their ids. A worker that
-- holds no jobs of these queues stays registered: it may hold jobs of others.
-- ARGV: worker, now, now in ms, time to live, most attempts, then queues.
local worker, now, now_ms, ttl, most = unpack(ARGV, 1, 5)
local recovered, holds_jobs = {}, false
if redis.call('EXISTS', WORKER .. worker) == 1 then return recovered end
for n = 6, #ARGV do
    local queue = ARGV[n]
    local processing = queue .. PROCESSING .. worker
    local id = redis.call('LINDEX', processing, -1)
    holds_jobs = holds_jobs or id
    while id do  -- newest first, so that the oldest ends up in front
        if holds(worker, id) then
            recover_job(id, queue, now, now_ms, ttl, most)
            recovered[#recovered + 1] = id
        elseif read(id, 'status')[1] == 'queued' then  -- half claimed
            requeue(id, queue, tonumber(read(id, 'attempts')[1]) or 0)
            recovered[#recovered + 1] = id
        end
        redis.call('RPOP', processing)
        id = redis.call('LINDEX', processing, -1)
    end
end
if holds_jobs then redis.call('SREM', WORKERS, worker) end
return recovered
