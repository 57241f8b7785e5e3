-- Ends a job that its worker holds. Returns 1, or 0 if it was not the worker's to end.
-- ARGV: queue, worker, id, time to live, then fields and values.
local queue, worker, id, ttl = unpack(ARGV, 1, 4)
local fields = {}
for n = 5, #ARGV, 2 do fields[ARGV[n]] = ARGV[n + 1] end
local held = holds(worker, id)
if held then finish(id, fields, ttl) end
redis.call('LREM', queue .. PROCESSING .. worker, 1, id)
if held then return 1 end
-- A call sent twice has ended it all the same; no two results have one path.
return fields.out_path and redis.call('HGET', JOB .. id, 'out_path') == fields.out_path and 1 or 0
