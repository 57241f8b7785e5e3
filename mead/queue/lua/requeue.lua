-- Puts jobs of a worker back at the front of their queue, as if they had never been claimed. Returns their ids.
-- ARGV: queue, worker, then ids; without ids, all jobs that the worker holds.
local queue, worker = unpack(ARGV, 1, 2)
local processing = queue .. PROCESSING .. worker
local ids = #ARGV > 2 and {unpack(ARGV, 3)} or redis.call('LRANGE', processing, 0, -1)
local requeued = {}
for n = #ids, 1, -1 do  -- so that the oldest ends up in front
    local id = ids[n]
    local job = read(id, 'attempts', 'status')
    local attempts = tonumber(job[1]) or 0
    local held = holds(worker, id)
    if held or (job[2] == 'queued' and redis.call('LPOS', processing, id)) then  -- claimed, or half claimed
        requeue(id, queue, held and attempts - 1 or attempts)
        requeued[#requeued + 1] = id
    end
    redis.call('LREM', processing, 1, id)
end
return requeued
