-- Puts an unfinished job back into the list that its record names, if it is missing there: a script was aborted half
-- way, or the list was deleted. Returns 1 if it did, else 0.
-- ARGV: id, now, now in ms, time to live, most attempts.
local id, now, now_ms, ttl, most = unpack(ARGV)
local job = read(id, 'status', 'queue', 'worker', 'attempts')
local status, queue, worker = unpack(job, 1, 3)
if not queue then return 0 end
if status == 'queued' then
    if redis.call('LPOS', queue, id) then return 0 end
    requeue(id, queue, tonumber(job[4]) or 0)
elseif status == 'processing' and worker then
    local processing = queue .. PROCESSING .. worker
    if redis.call('LPOS', processing, id) then return 0 end
    if redis.call('EXISTS', WORKER .. worker) == 1 then
        redis.call('RPUSH', processing, id)
    else
        recover_job(id, queue, now, now_ms, ttl, most)
    end
else
    return 0
end
return 1
