-- Hands jobs back to the front of their queue, as if they had not been taken. Returns the ids handed back.
-- ARGV: queue, worker, then ids; all that the worker holds when there are none.
local queue, worker = unpack(ARGV, 1, 2)
local processing = queue .. PROCESSING .. worker
local ids = #ARGV > 2 and {unpack(ARGV, 3)} or redis.call('LRANGE', processing, 0, -1)
local done = {}
for n = #ids, 1, -1 do  -- the oldest comes to lie in front
    redis.call('LREM', processing, 1, ids[n])
    if holds(worker, ids[n]) then
        put_back(ids[n], queue, redis.call('HGET', JOB .. ids[n], 'attempts') - 1)
        done[#done + 1] = ids[n]
    end
end
return done
