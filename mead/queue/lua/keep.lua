-- Keeps a job that has ended with a picture until it is released. Returns 1, 0 (it has no picture), -1 (there is no such job)
-- or -2 (its owner keeps as many as allowed).
-- ARGV: deadline, id, now, now in ms, the most that an owner may keep.
local deadline, id, now, now_ms, most = unpack(ARGV)
local refused = late(deadline)
if refused then return refused end
local job = read(id, 'status', 'out_path', 'kept', 'owner', 'client', 'bytes', 'created_ms')
if not job[1] then return -1 end
if not job[2] or job[1] == 'queued' or job[1] == 'processing' then return 0 end
if job[3] then return 1 end
local owner, client, bytes = job[4] or '', job[5] or '', job[6] or '0'
local keeps = KEEPS .. owner
if redis.call('SCARD', keeps) >= tonumber(most) then
    for _, other in ipairs(redis.call('SMEMBERS', keeps)) do  -- records may have been deleted by hand
        if not read(other, 'kept')[1] then redis.call('SREM', keeps, other) end
    end
    if redis.call('SCARD', keeps) >= tonumber(most) then return -2 end
end
redis.call('SADD', keeps, id)
for _, place in ipairs(kept_places(client)) do
    if redis.call('ZADD', place, 'inf', id .. ':' .. bytes) == 1 then redis.call('INCRBY', place .. BYTES, bytes) end
    persist_place(place)
end
redis.call('ZADD', KEPT_JOBS .. owner, job[7] or now_ms, id)
redis.call('PERSIST', KEPT_JOBS .. owner)
redis.call('HSET', JOB .. id, 'kept', now)
redis.call('PERSIST', JOB .. id)
return 1
