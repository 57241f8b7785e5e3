-- The places of jobs in their queues. Prepended to every script, after common.lua.
--
-- A queue's list holds its jobs in the order they run in. Jobs without an owner join at the end. Those of owners take
-- turns (start-time fair queueing): an owner's jobs have turns 1 / priority apart, the first one the turn that is reached
-- now, and a job joins behind all whose turn is not later. QUEUE:order has the turns of waiting jobs, to find the place in
-- the list and the rank in O(log n); QUEUE:turns the turn of each owner's next job.

-- An entry of QUEUE:order; see mead.queue.keys.place.
local function place(ticket, id) return string.format('%.0f:%s', 1e15 + (tonumber(ticket) or 0), id) end

-- Whether the job of an entry still waits there. A worker of an older version leaves the entries of jobs it claims.
local function waits(entry)
    local number, id = string.match(entry, '^(%d+):(.*)$')
    local job = read(id, 'status', 'ticket')
    return job[1] == 'queued' and place(job[2], id) == number .. ':' .. id, id
end

-- The id of the job at a rank in the order, nil if there is none; entries of jobs that no longer wait are dropped.
local function waiting_at(queue, rank)
    for _ = 1, 1000 do
        local entry = redis.call('ZRANGE', queue .. ORDER, rank, rank)[1]
        if not entry then return nil end
        local waiting, id = waits(entry)
        if waiting then return id end
        redis.call('ZREM', queue .. ORDER, entry)
    end
end

-- Takes a job that no longer waits out of the order. With a priority, the owner gets the job's turn back.
local function leave(queue, owner, ticket, id, priority)
    if (owner or '') == '' then return end
    local left = redis.call('ZREM', queue .. ORDER, place(ticket, id))
    if left == 1 and priority then redis.call('ZADD', queue .. TURNS, 'XX', 'INCR', -1 / priority, owner) end
    waiting_at(queue, 0)
end

-- Puts jobs of one owner, with tickets from `ticket` on, into a queue.
local function join(queue, owner, ids, ticket, priority)
    if owner == '' then return redis.call('RPUSH', queue, unpack(ids)) end
    local order, turns = queue .. ORDER, queue .. TURNS
    waiting_at(queue, 0)
    local reached = tonumber(redis.call('ZRANGEBYSCORE', order, '(-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2])
    if reached then redis.call('ZREMRANGEBYSCORE', turns, '-inf', reached) else redis.call('DEL', turns) end
    local turn = tonumber(redis.call('ZSCORE', turns, owner) or reached or 0)
    for n, id in ipairs(ids) do
        local entry = place(ticket + n - 1, id)
        redis.call('ZADD', order, turn, entry)
        local behind = waiting_at(queue, redis.call('ZRANK', order, entry) + 1)
        -- LINSERT passes the ids in front: 0.01 ms for a thousand.
        if not behind or redis.call('LINSERT', queue, 'BEFORE', behind, id) < 1 then redis.call('RPUSH', queue, id) end
        turn = turn + 1 / priority
    end
    redis.call('ZADD', turns, turn, owner)
end

-- Prepares a queue for its next ticket, also after its list was deleted by hand; returns its length.
local function open_queue(queue)
    local length = redis.call('LLEN', queue)
    if length == 0 then
        redis.call('SET', queue .. SERVED, tonumber(redis.call('GET', queue .. TICKETS) or 0) or 0)
        redis.call('DEL', queue .. CANCELLED, queue .. ORDER, queue .. TURNS)
    end
    return length
end

-- Puts a job back at the front of its queue. The id is pushed first: claim skips it until the record says "queued".
-- Notes and faces go: the next worker may be of an older version, which takes them for parameters.
local function requeue(id, queue, attempts)
    local served = tonumber(redis.call('GET', queue .. SERVED) or 0)
    redis.call('LPUSH', queue, id)
    redis.call('SET', queue .. SERVED, served - 1)
    local job = read(id, 'owner', 'ticket')
    if (job[1] or '') ~= '' then
        redis.call('ZREM', queue .. ORDER, place(job[2], id))
        redis.call('ZADD', queue .. ORDER, '-inf', place(served, id))
    end
    redis.call('HDEL', JOB .. id, 'worker', 'started_at', 'started_ms', 'loss', 'notes', 'faces')
    change(id, {status = 'queued', ticket = served, steps = 0, attempts = attempts})
end

-- Requeues the job of a dead worker, counting its attempt; after `most` attempts the job fails.
local function recover_job(id, queue, now, now_ms, ttl, most)
    local job = read(id, 'attempts', 'type')
    local attempts = tonumber(job[1]) or 1
    if attempts >= tonumber(most) then
        local times = attempts == 1 and 'once' or attempts .. ' times'
        local why = {status = 'failed', error_kind = 'internal', error = 'its worker died ' .. times}
        finish(id, why, now, now_ms, ttl)
    else
        requeue(id, queue, attempts)
        count(job[2], 'recovered')
    end
end
