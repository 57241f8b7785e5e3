-- Puts what a dead worker holds back at the front, or fails what has killed its workers too often. Returns the ids.
-- ARGV: worker, now, time to live, most attempts, then queues.
local worker, now, ttl, most = unpack(ARGV, 1, 4)
local recovered = {}
if redis.call('EXISTS', WORKER .. worker) == 1 then return recovered end
for n = 5, #ARGV do
    local queue = ARGV[n]
    local processing = queue .. PROCESSING .. worker
    local id = redis.call('LINDEX', processing, -1)
    while id do  -- from the newest to the oldest, which comes to lie in front
        if holds(worker, id) then
            recover_job(id, queue, now, ttl, most)
            recovered[#recovered + 1] = id
        elseif read(id, 'status')[1] == 'queued' then  -- half taken
            put_back(id, queue, tonumber(read(id, 'attempts')[1]) or 0)
            recovered[#recovered + 1] = id
        end
        redis.call('RPOP', processing)
        id = redis.call('LINDEX', processing, -1)
    end
end
redis.call('SREM', WORKERS, worker)
return recovered
