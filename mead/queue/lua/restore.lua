-- Puts a job that has not ended back into the list where its record says that it is, if it is not there: a script was
-- stopped half way, or somebody has deleted the list. Returns 1 if it did.
-- ARGV: id, now, time to live, most attempts.
local id, now, ttl, most = unpack(ARGV)
local job = read(id, 'status', 'queue', 'worker', 'attempts')
local status, queue, worker = unpack(job, 1, 3)
if not queue then return 0 end
if status == 'queued' then
    if redis.call('LPOS', queue, id) then return 0 end
    put_back(id, queue, tonumber(job[4]) or 0)
elseif status == 'processing' and worker then
    local processing = queue .. PROCESSING .. worker
    if redis.call('LPOS', processing, id) then return 0 end
    if redis.call('EXISTS', WORKER .. worker) == 1 then
        redis.call('RPUSH', processing, id)
    else
        recover_job(id, queue, now, ttl, most)
    end
else
    return 0
end
return 1
