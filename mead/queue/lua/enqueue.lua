-- Creates a job: its record, its ticket and its place at the end of the queue.
-- Returns "accepted" and the job's id (an earlier job's id if the idempotency key was used before), or why not:
-- "repeated" (the key belongs to another request), "full" (the queue), "many" (unfinished jobs of this client), or the
-- name of the limit on what is kept that has been reached.
-- ARGV: id, queue, type, owner, client, idempotency key, fingerprint, now, now in ms, bytes, longest, most, limits on the
-- kept jobs and bytes of all clients and of this one; then names and values of parameters.
local id, queue, kind, owner, client, key, fingerprint, now, now_ms, bytes = unpack(ARGV, 1, 10)
local longest, most = tonumber(ARGV[11]), tonumber(ARGV[12])
local limits = {
    {'kept_jobs', tonumber(ARGV[13]), 'kept_bytes', tonumber(ARGV[14])},
    {'client_kept_jobs', tonumber(ARGV[15]), 'client_kept_bytes', tonumber(ARGV[16])},
}
local places = kept_places(client)
local sums = {}  -- of the bytes kept in each place, with this job's

-- Which limit on what is kept this job would exceed.
local function limit_reached()
    for n, sum in ipairs(redis.call('MGET', places[1] .. BYTES, places[2] .. BYTES)) do
        sums[n] = (tonumber(sum) or 0) + bytes
        local jobs, most_jobs, total, most_bytes = unpack(limits[n])
        if most_jobs > 0 and redis.call('ZCARD', places[n]) >= most_jobs then return jobs end
        if most_bytes > 0 and sums[n] > most_bytes then return total end
    end
end

local function forget_expired()
    for _, place in ipairs(places) do
        local expired = redis.call('ZRANGEBYSCORE', place, '-inf', now_ms / 1000, 'LIMIT', 0, 100)
        for _, entry in ipairs(expired) do forget(place, entry) end
    end
end

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
elseif longest > 0 and length >= longest and length - redis.call('ZCARD', queue .. CANCELLED) >= longest then
    return {'full', ''}
end
if limit_reached() then
    forget_expired()
    local reached = limit_reached()
    if reached then return {reached, ''} end
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
for n, place in ipairs(places) do
    redis.call('ZADD', place, 'inf', id .. ':' .. bytes)
    redis.call('PERSIST', place)
    redis.call('SET', place .. BYTES, string.format('%.0f', sums[n]))  -- has no time to live then, either
end
local ticket = redis.call('INCR', queue .. TICKETS)
redis.call('RPUSH', queue, id)
local record = {unpack(ARGV, 17)}
for _, part in ipairs({
    'id', id, 'type', kind, 'queue', queue, 'created_at', now, 'created_ms', now_ms, 'owner', owner, 'client', client,
    'fingerprint', fingerprint, 'bytes', bytes, 'status', 'queued', 'ticket', ticket, 'seq', 1, 'attempts', 0,
    'steps', 0,
}) do record[#record + 1] = part end
if key ~= '' then
    record[#record + 1] = 'idempotency_key'
    record[#record + 1] = key
end
redis.call('HSET', JOB .. id, unpack(record))  -- from here on there is a job
announce(id, {status = 'queued', ticket = ticket, seq = 1})
count(kind, 'accepted')
if ticket % 16 == 0 then forget_expired() end
return {'accepted', id}
