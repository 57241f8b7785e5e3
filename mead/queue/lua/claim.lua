-- Gives a worker the first job that waits. Returns its record, false (none waits), "alone" (the next one must run
-- alone) or "again" (many in front had ended; ask again).
-- ARGV: queue, worker, now, whether the worker holds no other job (1 or 0).
local queue, worker, now, alone = unpack(ARGV)
for _ = 1, 1000 do
    local id = redis.call('LINDEX', queue, 0)
    if not id then return false end
    local job = read(id, 'status', 'attempts', 'ticket', 'type', 'created_at')
    local waits = job[1] == 'queued'
    local attempts = tonumber(job[2] or 0) or 0
    if waits and attempts > 0 and alone == '0' then return 'alone' end
    local ticket = tonumber(job[3] or redis.call('ZSCORE', queue .. CANCELLED, id) or 0) or 0
    if ticket > tonumber(redis.call('GET', queue .. SERVED) or 0) then
        redis.call('SET', queue .. SERVED, ticket)
    end
    if waits then
        redis.call('SADD', WORKERS, worker)
        redis.call('LMOVE', queue, queue .. PROCESSING .. worker, 'LEFT', 'RIGHT')
        redis.call('HDEL', JOB .. id, 'error', 'error_kind', 'error_field', 'finished_at')
        change(id, {status = 'processing', worker = worker, started_at = now, attempts = attempts + 1})
        if attempts == 0 then observe(job[4], 'wait', job[5], now) end
        return redis.call('HGETALL', JOB .. id)
    end
    redis.call('LPOP', queue)  -- it ended while it waited, or its record is gone
    redis.call('ZREM', queue .. CANCELLED, id)
end
return 'again'  -- others want to have their turn at Redis
