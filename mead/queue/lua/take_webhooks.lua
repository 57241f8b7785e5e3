-- Leases the webhooks that are due, the oldest first: another sender gets one of them only when the lease has ended.
-- Returns Redis's time in ms since 1970, then their entries in the outbox.
-- ARGV: the most, length of the lease in ms.
local now = clock()
local due = redis.call('ZRANGEBYSCORE', WEBHOOKS, '-inf', now, 'LIMIT', 0, ARGV[1])
redis.call('PERSIST', WEBHOOKS)  -- see allow_without_memory
for _, entry in ipairs(due) do redis.call('ZADD', WEBHOOKS, 'XX', now + ARGV[2], entry) end
return {tostring(now), unpack(due)}
