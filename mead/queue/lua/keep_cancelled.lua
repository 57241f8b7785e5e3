-- Names the picture so far in the record of a job that was cancelled as it ran. Returns 1, or 0 if the record is not that of a
-- cancelled job without a picture.
-- ARGV: id, name of the picture's file, its size in bytes, now in ms, time to live.
local id, out_path, bytes, now_ms, ttl = unpack(ARGV)
local job = read(id, 'status', 'out_path', 'owner', 'client', 'bytes')
if job[1] ~= 'cancelled' or job[2] then return 0 end
redis.call('PERSIST', KEPT)  -- see allow_without_memory; keep_ended lets it expire again
keep_ended(job[3] or '', job[4] or '', id, job[5] or '0', bytes, math.floor(now_ms / 1000 + ttl))
redis.call('HSET', JOB .. id, 'bytes', bytes, 'out_path', out_path)
return 1
