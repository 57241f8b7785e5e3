-- Puts a failed job into its queue, as if it had just been made. Returns 1, 0 (it cannot run again: it has not
-- failed, or failed for its input, and its uploads are gone) or -1 (there is no such job).
-- ARGV: deadline, id, whether the number of a client's unfinished jobs is limited (1 or 0), priority.
local deadline, id, limited, priority = unpack(ARGV)
local refused = late(deadline)
if refused then return refused end
local job = read(id, 'status', 'error_kind', 'queue', 'owner', 'client', 'idempotency_key', 'bytes', 'created_ms')
if not job[1] then return -1 end
if job[1] ~= 'failed' or job[2] == 'input' then return 0 end
local queue, owner, client, bytes = job[3], job[4] or '', job[5] or '', job[7] or '0'
for _, place in ipairs(kept_places(client)) do
    if redis.call('ZADD', place, 'inf', id .. ':' .. bytes) == 1 then redis.call('INCRBY', place .. BYTES, bytes) end
    persist_place(place)
end
redis.call('ZADD', KEPT_JOBS .. owner, job[8] or 0, id)
redis.call('PERSIST', KEPT_JOBS .. owner)
if limited == '1' then redis.call('SADD', UNFINISHED .. client, id) end
if job[6] then redis.call('PERSIST', IDEMPOTENCY .. owner .. ':' .. job[6]) end
redis.call('PERSIST', JOB .. id)
redis.call('HDEL', JOB .. id, 'worker', 'started_at', 'started_ms', 'finished_at', 'loss', 'error', 'error_kind',
    'error_field', 'notes', 'webhook_status', 'webhook_error')
open_queue(queue)
local ticket = redis.call('INCR', queue .. TICKETS)
join(queue, owner, {id}, ticket, priority)
change(id, {status = 'queued', ticket = ticket, steps = 0, attempts = 0})
return 1
