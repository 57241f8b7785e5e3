-- Records the progress of a worker's jobs of one queue. Returns the ids of those that it no longer holds, of those
-- whose preview is wanted, and of all jobs that it holds.
-- ARGV: queue, worker, then of each job: id, steps, total steps, loss ('' if not finite), notes and faces ('' if there
-- are none).
local queue, worker = unpack(ARGV, 1, 2)
local lost, watched = {}, {}

-- Of the steps of a job, one event at a time is in the outbox; it becomes due after half a second.
local function notify_output(id)
    local wanted = read(id, 'webhook_events_filter')[1]
    if wanted and string.find(wanted, 'output', 1, true) then
        redis.call('ZADD', WEBHOOKS, 'NX', clock() + 500, 'output:' .. id .. ':0:0:0')
    end
end

for n = 3, #ARGV, 6 do
    local id = ARGV[n]
    if holds(worker, id) then
        allow_without_memory(id)
        notify_output(id)
        change(id, {status = 'processing', steps = tonumber(ARGV[n + 1]),
            total_steps = tonumber(ARGV[n + 2]), loss = tonumber(ARGV[n + 3]),
            notes = ARGV[n + 4] ~= '' and ARGV[n + 4] or nil,
            faces = ARGV[n + 5] ~= '' and ARGV[n + 5] or nil})
        if redis.call('EXISTS', PREVIEW .. id) == 1 then watched[#watched + 1] = id end
    else
        lost[#lost + 1] = id
    end
end
return {lost, watched, redis.call('LRANGE', queue .. PROCESSING .. worker, 0, -1)}
