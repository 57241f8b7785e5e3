-- Releases a kept job: it goes as if it had ended now. Returns 1, 0 (it was not kept) or -1 (there is no such job).
-- ARGV: deadline, id, now in ms, time to live.
local deadline, id, now_ms, ttl = unpack(ARGV)
local refused = late(deadline)
if refused then return refused end
local job = read(id, 'status', 'kept', 'owner', 'client', 'bytes')
if not job[1] then return -1 end
if not job[2] then return 0 end
local owner, client, bytes = job[3] or '', job[4] or '', job[5] or '0'
redis.call('SREM', KEEPS .. owner, id)
keep_ended(owner, client, id, bytes, bytes, math.floor(now_ms / 1000 + ttl))
redis.call('EXPIRE', JOB .. id, ttl)
redis.call('HDEL', JOB .. id, 'kept')
return 1
