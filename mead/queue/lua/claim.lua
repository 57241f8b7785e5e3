-- Gives a worker the next queued job. Returns its record, false (the queue is empty), "alone" (the next job must run
-- alone) or "again" (many ended jobs were skipped; call again).
-- ARGV: queue, worker, now, now in ms, whether the worker holds no other job (1 or 0).
local queue, worker, now, now_ms, alone = unpack(ARGV)
for _ = 1, 1000 do
    local id = redis.call('LINDEX', queue, 0)
    if not id then return false end
    local job = read(id, 'status', 'attempts', 'ticket', 'type', 'created_ms', 'owner', 'webhook_events_filter')
    local queued = job[1] == 'queued'
    local attempts = tonumber(job[2] or 0) or 0
    if queued and attempts > 0 and alone == '0' then return 'alone' end
    local ticket = tonumber(job[3] or redis.call('ZSCORE', queue .. CANCELLED, id) or 0) or 0
    if ticket > tonumber(redis.call('GET', queue .. SERVED) or 0) then
        redis.call('SET', queue .. SERVED, ticket)
    end
    if queued then
        redis.call('SADD', WORKERS, worker)
        redis.call('LMOVE', queue, queue .. PROCESSING .. worker, 'LEFT', 'RIGHT')
        leave(queue, job[6], ticket, id)
        redis.call('HDEL', JOB .. id, 'error', 'error_kind', 'error_field', 'finished_at', 'notes',
            'faces')
        notify(job[7], 'start', id, attempts + 1)
        change(id, {status = 'processing', worker = worker, started_at = now, started_ms = now_ms,
            attempts = attempts + 1})
        if attempts == 0 then observe(job[4], 'wait', job[5], now_ms) end
        return redis.call('HGETALL', JOB .. id)
    end
    redis.call('LPOP', queue)  -- it was cancelled, or its record is gone
    redis.call('ZREM', queue .. CANCELLED, id)
end
return 'again'  -- a long script would block every other client
