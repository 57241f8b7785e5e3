-- Hands jobs back to the front of their queue, as if they had not been taken. Returns the ids handed back.
-- ARGV: queue, worker, then ids; all that the worker holds when there are none.
local queue, worker = unpack(ARGV, 1, 2)
local processing = queue .. PROCESSING .. worker
local ids = #ARGV > 2 and {unpack(ARGV, 3)} or redis.call('LRANGE', processing, 0, -1)
local done = {}
for n = #ids, 1, -1 do  -- the oldest comes to lie in front
    local id = ids[n]
    local job = read(id, 'attempts', 'status')
    local attempts = tonumber(job[1]) or 0
    local held = holds(worker, id)
    if held or (job[2] == 'queued' and redis.call('LPOS', processing, id)) then  -- taken, or half taken
        put_back(id, queue, held and attempts - 1 or attempts)
        done[#done + 1] = id
    end
    redis.call('LREM', processing, 1, id)
end
return done
