-- Prepended to every other script, after the names of the keys (see mead/queue/scripts.py).
--
-- Redis may abort a script half way: the user lacks a right, or memory runs out. So each script writes last what makes
-- the change count, and what it wrote before means nothing on its own. Events are published at the very end.

-- Statistics are best effort: an error here never aborts a script.
local function count(kind, what)
    if kind then redis.pcall('HINCRBY', STATISTICS, kind .. ':' .. what, 1) end
end

-- Adds the time between two moments, in milliseconds since 1970, to a histogram. Records of older
-- versions lack the first one; their jobs are left out.
local function observe(kind, what, from_ms, to_ms)
    local from, to = tonumber(from_ms), tonumber(to_ms)
    if not (kind and from and to) then return end
    local took = math.max(0, to - from) / 1000
    local bucket = 'inf'
    for _, bound in ipairs(BUCKETS) do
        if took <= bound then bucket = bound break end
    end
    count(kind, what .. ':' .. bucket)
    redis.pcall('HINCRBYFLOAT', STATISTICS, kind .. ':' .. what .. ':sum', string.format('%.3f', took))
end

-- The time by Redis's clock, in ms since 1970.
local function clock()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The error of a script that runs after its deadline by that clock; nil before: see TimelyScript.
local function late(deadline)
    if clock() < tonumber(deadline) then return nil end
    return redis.error_reply('LATE the client has given up')
end

local messages = {}  -- channel and message

local function announce(id, fields) messages[#messages + 1] = {EVENTS .. id, cjson.encode(fields)} end

-- A change that cannot be published still holds: clients that wait for it also read the record from time to time.
local function publish()
    for _, message in ipairs(messages) do redis.pcall('PUBLISH', message[1], message[2]) end
end

-- Changes fields of a record in one command, and queues the change to be published when the script ends.
local function change(id, fields)
    fields.seq = (tonumber(redis.call('HGET', JOB .. id, 'seq')) or 0) + 1
    local flat = {}
    for name, value in pairs(fields) do
        flat[#flat + 1] = name
        flat[#flat + 1] = tostring(value)
    end
    redis.call('HSET', JOB .. id, unpack(flat))
    announce(id, fields)
end

-- Writes a job's id again. The WAIT that follows waits, since Redis 7.2, only for what its own connection has written;
-- that of a repeated call has written nothing yet, and would let pass what no replica has.
local function confirm(id) redis.call('HSET', JOB .. id, 'id', id) end

-- Reads fields of a record with HMGET. Returns an empty table if the key holds something other than a hash.
local function read(id, ...)
    local fields = redis.pcall('HMGET', JOB .. id, ...)
    return fields.err and {} or fields
end

local function holds(worker, id)
    local held = read(id, 'status', 'worker')
    return held[1] == 'processing' and held[2] == worker
end

-- Lets a script write although Redis is out of memory, so that a running job can still report and end. Redis checks
-- its memory only before a script's first write, and only if that write may use more; PERSIST does not. (The record of
-- a job that has not ended has no time to live, so PERSIST changes nothing.)
local function allow_without_memory(id) redis.call('PERSIST', JOB .. id) end

-- Puts an event of a job into the outbox of webhooks, if the job has one for it (`wanted`, a comma-separated text); see
-- mead/queue/outbox.py. It comes before the change that it tells of: one of a change that was not made is not sent.
local function notify(wanted, event, id, number)
    if not wanted or not string.find(',' .. wanted .. ',', ',' .. event .. ',', 1, true) then return end
    local now = clock()
    redis.call('ZADD', WEBHOOKS, now, table.concat({event, id, number, 0, now}, ':'))
end

-- The keys that count what is kept, for all clients and for one. Each is a sorted set of entries ID:BYTES, scored by
-- the second in which the record expires (inf until the job has ended). A second sorted set has what a job that has
-- succeeded can go on with, its latents and its uploads, likewise, scored by the second until which it can. A third key
-- holds the sum of the bytes of both.
local function kept_places(client) return {KEPT, KEPT .. ':' .. client} end

-- Takes an entry out of a place, or of the latents there.
local function uncount(set, entry)
    if redis.call('ZREM', set, entry) == 0 then return end
    local place = string.gsub(set, LATENTS .. '$', '')
    redis.call('DECRBY', place .. BYTES, string.match(entry, '%d+$'))
    if redis.call('EXISTS', place) == 0 then redis.call('DEL', place .. BYTES, place .. LATENTS) end
end

-- Lets a place count for as long as it has jobs that have not ended, or are kept.
local function persist_place(place)
    if redis.call('PERSIST', place) == 0 then return false end
    redis.call('PERSIST', place .. BYTES)
    redis.call('PERSIST', place .. LATENTS)
    return true
end

-- Counts the bytes that stay of a job that has ended, in place of those counted before. A place expires with the last of
-- its jobs; while one has not ended, it has no time to live. The same holds for the sorted set of the owner's jobs.
-- `latents` are the bytes that the job can go on with until `latents_expire`.
local function keep_ended(owner, client, id, before, bytes, expires, latents, latents_expire)
    for n, place in ipairs(kept_places(client)) do
        local counted = redis.call('ZREM', place, id .. ':' .. before) == 1
        local more = (tonumber(bytes) or 0) - (counted and tonumber(before) or 0)
        redis.call('ZADD', place, expires, id .. ':' .. bytes)
        if latents then
            redis.call('ZADD', place .. LATENTS, latents_expire, id .. ':' .. latents)
            more = more + latents
        end
        if more ~= 0 then redis.call('INCRBY', place .. BYTES, string.format('%.0f', more)) end
        if redis.call('ZCOUNT', place, '+inf', '+inf') == 0 then
            redis.call('EXPIREAT', place, expires)
            redis.call('EXPIREAT', place .. BYTES, expires)
            redis.call('EXPIREAT', place .. LATENTS, expires)
            if owner ~= '' or n == 1 then redis.call('EXPIREAT', KEPT_JOBS .. owner, expires) end
        end
    end
end

-- Ends a job. `fields` hold its status and, if some of its files are removed, the bytes that stay. If it can go on for
-- `latents_ttl` seconds, its latents of `latents` bytes and its uploads stay so long.
local function finish(id, fields, now, now_ms, ttl, latents, latents_ttl)
    local job = read(id, 'status', 'type', 'started_ms', 'owner', 'client', 'idempotency_key', 'bytes',
        'webhook_events_filter', 'seq')
    local owner, client, bytes = job[4] or '', job[5] or '', job[7] or '0'
    fields.bytes = fields.bytes or bytes
    fields.finished_at = now
    allow_without_memory(id)
    notify(job[8], 'completed', id, (tonumber(job[9]) or 0) + 1)
    change(id, fields)
    redis.call('EXPIRE', JOB .. id, ttl)
    if job[6] then redis.call('EXPIRE', IDEMPOTENCY .. owner .. ':' .. job[6], ttl) end
    redis.call('SREM', UNFINISHED .. client, id)
    local ended = now_ms / 1000
    if latents then latents = string.format('%.0f', latents + bytes) end
    local latents_expire = math.floor(ended + math.min(ttl, latents_ttl or 0))
    keep_ended(owner, client, id, bytes, fields.bytes, math.floor(ended + ttl), latents, latents_expire)
    count(job[2], fields.status)
    if fields.error_kind then count(job[2], 'failed:' .. fields.error_kind) end
    if job[1] == 'processing' then observe(job[2], 'run', job[3], now_ms) end
end
