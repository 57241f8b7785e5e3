-- Makes a job: its record, its ticket, its place at the end of the queue.
-- Returns "accepted" and its id (or the earlier job's of the same idempotency key), or why not: "repeated" (the key
-- was another request's), "full" (the queue), "many" (of the client's jobs).
-- ARGV: id, queue, type, owner, client, idempotency key, fingerprint, longest, most, then fields and values.
local id, queue, kind, owner, client, key, fingerprint = unpack(ARGV, 1, 7)
local longest, most = tonumber(ARGV[8]), tonumber(ARGV[9])
if redis.call('EXISTS', JOB .. id) == 1 then return {'accepted', id} end
if key ~= '' then
    local earlier = redis.call('GET', IDEMPOTENCY .. owner .. ':' .. key)
    local made_by = earlier and redis.call('HGET', JOB .. earlier, 'fingerprint')
    if made_by == fingerprint then return {'accepted', earlier} end
    if made_by then return {'repeated', earlier} end
end
local length = redis.call('LLEN', queue)
if length == 0 then  -- also when somebody has emptied it by hand
    redis.call('SET', queue .. SERVED, redis.call('GET', queue .. TICKETS) or 0)
    redis.call('DEL', queue .. CANCELLED)
elseif longest > 0 and length - redis.call('ZCARD', queue .. CANCELLED) >= longest then
    return {'full', ''}
end
if most > 0 then
    local unfinished = UNFINISHED .. client
    if redis.call('SCARD', unfinished) >= most then
        for _, one in ipairs(redis.call('SMEMBERS', unfinished)) do  -- records may have been deleted by hand
            if redis.call('EXISTS', JOB .. one) == 0 then redis.call('SREM', unfinished, one) end
        end
        if redis.call('SCARD', unfinished) >= most then return {'many', ''} end
    end
    redis.call('SADD', unfinished, id)
end
local ticket = redis.call('INCR', queue .. TICKETS)
redis.call('HSET', JOB .. id, unpack(ARGV, 10))
if key ~= '' then
    redis.call('HSET', JOB .. id, 'idempotency_key', key)
    redis.call('SET', IDEMPOTENCY .. owner .. ':' .. key, id)
end
change(id, {status = 'queued', ticket = ticket})
redis.call('RPUSH', queue, id)
count(kind, 'accepted')
return {'accepted', id}
