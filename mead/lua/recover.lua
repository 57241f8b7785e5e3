-- Puts what a dead worker holds back at the front, or fails what has killed its workers too often. Returns the ids.
-- ARGV: worker, now, time to live, most attempts, then queues.
local worker, now, ttl, most = unpack(ARGV, 1, 4)
local recovered = {}
if redis.call('EXISTS', WORKER .. worker) == 1 then return recovered end
for n = 5, #ARGV do
    local processing = ARGV[n] .. PROCESSING .. worker
    local id = redis.call('RPOP', processing)
    while id do  -- from the newest to the oldest, which comes to lie in front
        if holds(worker, id) then
            local job = redis.call('HMGET', JOB .. id, 'attempts', 'type')
            local attempts = tonumber(job[1])
            if attempts >= tonumber(most) then
                local times = attempts == 1 and 'once' or attempts .. ' times'
                finish(id, {status = 'failed', finished_at = now, error_kind = 'internal',
                    error = 'its worker died ' .. times}, ttl)
            else
                count(job[2], 'recovered')
                put_back(id, ARGV[n], attempts)
            end
            recovered[#recovered + 1] = id
        end
        id = redis.call('RPOP', processing)
    end
end
redis.call('SREM', WORKERS, worker)
return recovered
