-- Ends a job as cancelled, whether it waits or runs. Returns 1, 0 (it had ended) or -1 (there is none).
-- ARGV: id, now, time to live.
local id = ARGV[1]
local job = read(id, 'status', 'queue', 'ticket', 'worker')
if not job[1] then return -1 end
if job[1] ~= 'queued' and job[1] ~= 'processing' then return 0 end
finish(id, {status = 'cancelled', finished_at = ARGV[2], bytes = 0}, ARGV[3])
if job[1] == 'queued' then
    redis.call('ZADD', job[2] .. CANCELLED, job[3] or 0, id)
else
    redis.call('LREM', job[2] .. PROCESSING .. (job[4] or ''), 1, id)
end
return 1
