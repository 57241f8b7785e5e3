-- Ends a job that the worker holds. Returns 1, or 0 if the worker does not hold it.
-- ARGV: queue, worker, id, now, now in ms, time to live, then fields and values.
local queue, worker, id, now, now_ms, ttl = unpack(ARGV, 1, 6)
local fields = {}
for n = 7, #ARGV, 2 do fields[ARGV[n]] = ARGV[n + 1] end
local held = holds(worker, id)
if held then finish(id, fields, now, now_ms, ttl) end
redis.call('LREM', queue .. PROCESSING .. worker, 1, id)
if held then return 1 end
-- A repeated call also returns 1: no two results have the same path, so this worker has ended the job before.
return fields.out_path and redis.call('HGET', JOB .. id, 'out_path') == fields.out_path and 1 or 0
