-- Records how far a worker's jobs of one queue are. Returns the ids that it has lost, those somebody wants previews
-- of, and all that it holds.
-- ARGV: queue, worker, then of each job: id, steps, total steps, loss ('' if there is none).
local queue, worker = unpack(ARGV, 1, 2)
local lost, watched = {}, {}
for n = 3, #ARGV, 4 do
    local id = ARGV[n]
    if holds(worker, id) then
        even_without_memory(id)
        change(id, {status = 'processing', steps = tonumber(ARGV[n + 1]),
            total_steps = tonumber(ARGV[n + 2]), loss = tonumber(ARGV[n + 3])})
        if redis.call('EXISTS', PREVIEW .. id) == 1 then watched[#watched + 1] = id end
    else
        lost[#lost + 1] = id
    end
end
return {lost, watched, redis.call('LRANGE', queue .. PROCESSING .. worker, 0, -1)}
