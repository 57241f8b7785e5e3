-- Takes a webhook out of the outbox: it was delivered, has failed for good, or is to be sent again later. Returns 1, or 0 if
-- it was no longer there.
-- ARGV: its entry, what came of it ('delivered', 'failed' or 'again'), its entry for the next attempt, ms until then, the job
-- to whose record this is told ('' for none), why it has failed.
local entry, outcome, again, pause, id, why = unpack(ARGV)
if not redis.call('ZSCORE', WEBHOOKS, entry) then return 0 end
redis.call('PERSIST', WEBHOOKS)  -- see allow_without_memory
if id ~= '' and redis.call('EXISTS', JOB .. id) == 1 then
    redis.call('HSET', JOB .. id, 'webhook_status', outcome == 'again' and 'waiting' or outcome)
    if why == '' then
        redis.call('HDEL', JOB .. id, 'webhook_error')
    else
        redis.call('HSET', JOB .. id, 'webhook_error', why)
    end
end
if outcome == 'again' then
    redis.call('ZADD', WEBHOOKS, clock() + pause, again)
else
    redis.pcall('HINCRBY', WEBHOOK_COUNTS, outcome, 1)
end
return redis.call('ZREM', WEBHOOKS, entry)
