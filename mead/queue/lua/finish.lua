-- Ends a job that the worker holds. Returns 1, or 0 if the worker does not hold it.
-- ARGV: queue, worker, id, now, now in ms, time to live, bytes of its latents and their time to live (0: it cannot go on),
-- then fields and values.
local queue, worker, id, now, now_ms, ttl, latents, latents_ttl = unpack(ARGV, 1, 8)
local fields = {}
for n = 9, #ARGV, 2 do fields[ARGV[n]] = ARGV[n + 1] end
local held = holds(worker, id)
if held then finish(id, fields, now, now_ms, ttl, latents ~= '0' and latents or nil, latents_ttl) end
redis.call('LREM', queue .. PROCESSING .. worker, 1, id)
if held then return 1 end
-- A repeated call also returns 1: no two results have the same path, so this worker has ended the job before.
return fields.out_path and redis.call('HGET', JOB .. id, 'out_path') == fields.out_path and 1 or 0
