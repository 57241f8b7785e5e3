-- Creates a job: its record, its ticket and its place at the end of the queue.
-- Returns "accepted" and the job's id (an earlier job's id if the idempotency key was used before), or why not:
-- "repeated" (the key belongs to another request), "full" (the queue), "many" (unfinished jobs of this client), or the
-- name of the limit on what is kept that has been reached.
-- ARGV: id, queue, type, owner, client, idempotency key, fingerprint, now in ms, bytes, longest, most, limits on the
-- kept jobs and bytes of all clients and of this one; then fields and values of the record.
local id, queue, kind, owner, client, key, fingerprint, now_ms, bytes = unpack(ARGV, 1, 9)
local longest, most = tonumber(ARGV[10]), tonumber(ARGV[11])
local limits = {
    {'kept_jobs', tonumber(ARGV[12]), 'kept_bytes', tonumber(ARGV[13])},
    {'client_kept_jobs', tonumber(ARGV[14]), 'client_kept_bytes', tonumber(ARGV[15])},
}
if redis.call('EXISTS', JOB .. id) == 1 then return {'accepted', id} end
if key ~= '' then
    local earlier = redis.call('GET', IDEMPOTENCY .. owner .. ':' .. key)
    local made_by = earlier and redis.call('HGET', JOB .. earlier, 'fingerprint')
    if made_by == fingerprint then return {'accepted', earlier} end
    if made_by then return {'repeated', earlier} end
end

local length = redis.call('LLEN', queue)
if length == 0 then  -- also after it was deleted by hand
    redis.call('SET', queue .. SERVED, redis.call('GET', queue .. TICKETS) or 0)
    redis.call('DEL', queue .. CANCELLED)
elseif longest > 0 and length - redis.call('ZCARD', queue .. CANCELLED) >= longest then
    return {'full', ''}
end
for n, place in ipairs(kept_places(client)) do
    local jobs, most_jobs, total, most_bytes = unpack(limits[n])
    for _, entry in ipairs(redis.call('ZRANGEBYSCORE', place, '-inf', now_ms / 1000, 'LIMIT', 0, 100)) do
        forget(place, entry)  -- its record has expired
    end
    if most_jobs > 0 and redis.call('ZCARD', place) >= most_jobs then return {jobs, ''} end
    local sum = tonumber(redis.call('GET', place .. BYTES) or 0)
    if most_bytes > 0 and sum + tonumber(bytes) > most_bytes then return {total, ''} end
end
if most > 0 then
    local unfinished = UNFINISHED .. client
    if redis.call('SCARD', unfinished) >= most then
        for _, job in ipairs(redis.call('SMEMBERS', unfinished)) do  -- records may have been deleted by hand
            if redis.call('EXISTS', JOB .. job) == 0 then redis.call('SREM', unfinished, job) end
        end
        if redis.call('SCARD', unfinished) >= most then return {'many', ''} end
    end
    redis.call('SADD', unfinished, id)
end

if key ~= '' then redis.call('SET', IDEMPOTENCY .. owner .. ':' .. key, id) end
keep(client, id, bytes, 'inf')
local ticket = redis.call('INCR', queue .. TICKETS)
redis.call('RPUSH', queue, id)
local first = {'status', 'queued', 'ticket', ticket, 'seq', 1, 'bytes', bytes, 'idempotency_key', key}
if key == '' then first = {unpack(first, 1, 8)} end
for n = 16, #ARGV do first[#first + 1] = ARGV[n] end
redis.call('HSET', JOB .. id, unpack(first))  -- from here on there is a job
announce(id, {status = 'queued', ticket = ticket, seq = 1})
count(kind, 'accepted')
return {'accepted', id}
