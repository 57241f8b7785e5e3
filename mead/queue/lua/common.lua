-- Goes before each of the other scripts, after the names of keys (see mead/queue/scripts.py).
--
-- A script may be stopped half way: Redis's user may lack a right, Redis may have no memory left. So what is written
-- last makes the change count, and what was written before means nothing without it. Nobody is told before the end.

-- Seconds since 1970 of a time in UTC (days from the civil date after Howard Hinnant's days_from_civil); nil if it is
-- not one.
local function seconds(iso)
    local y, m, d, h, min, s = string.match(iso or '', '(%d+)-(%d+)-(%d+)T(%d+):(%d+):([%d.]+)')
    if not y then return nil end
    if m <= '02' then y = y - 1 end
    local era = math.floor(y / 400)
    local year = y - era * 400
    local day = math.floor((153 * ((m + 9) % 12) + 2) / 5) + d - 1
    local days = era * 146097 + year * 365 + math.floor(year / 4) - math.floor(year / 100) + day - 719468
    return ((days * 24 + h) * 60 + min) * 60 + s
end

-- Counting never stops a job.
local function count(kind, what)
    if kind then redis.pcall('HINCRBY', STATISTICS, kind .. ':' .. what, 1) end
end

local function observe(kind, what, from, to)
    local began, ended = seconds(from), seconds(to)
    if not (kind and began and ended) then return end
    local took = math.max(0, ended - began)
    local bucket = 'inf'
    for _, bound in ipairs(BUCKETS) do
        if took <= bound then bucket = bound break end
    end
    count(kind, what .. ':' .. bucket)
    redis.pcall('HINCRBYFLOAT', STATISTICS, kind .. ':' .. what .. ':sum', string.format('%.3f', took))
end

local messages = {}  -- channel and message

local function announce(id, fields) messages[#messages + 1] = {EVENTS .. id, cjson.encode(fields)} end

-- The change holds even if it may not be published: those who wait for it look at the record now and then.
local function publish()
    for _, message in ipairs(messages) do redis.pcall('PUBLISH', message[1], message[2]) end
end

-- Changes fields of a record, all in one command. It is published as the script ends.
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

-- Fields of a record, as HMGET gives them; nothing where there is no record, or something else under its key.
local function read(id, ...)
    local fields = redis.pcall('HMGET', JOB .. id, ...)
    return fields.err and {} or fields
end

local function holds(worker, id)
    local held = read(id, 'status', 'worker')
    return held[1] == 'processing' and held[2] == worker
end

-- Lets a script go on when Redis's memory is full: Redis refuses its first write then, if that may take memory, but no
-- later one. A job that runs must be able to report and to end. The record of such a job has no time to live.
local function even_without_memory(id) redis.call('PERSIST', JOB .. id) end

-- What is kept of jobs, of all clients and of one: entries ID:BYTES in a sorted set, by the second in which they go
-- (inf while the job has not ended), and beside it the sum of their bytes.
local function kept_places(client) return {KEPT, KEPT .. ':' .. client} end

local function forget(place, entry)
    if redis.call('ZREM', place, entry) == 0 then return end
    redis.call('DECRBY', place .. BYTES, string.match(entry, '%d+$'))
    if redis.call('EXISTS', place) == 0 then redis.call('DEL', place .. BYTES) end
end

-- Counts a job that has ended with the bytes that are kept of it. A place goes with the last of its jobs; while one has
-- not ended, it has no time to live.
local function keep_ended(client, id, before, bytes, goes)
    for _, place in ipairs(kept_places(client)) do
        local counted = redis.call('ZREM', place, id .. ':' .. before) == 1
        local more = (tonumber(bytes) or 0) - (counted and tonumber(before) or 0)
        redis.call('ZADD', place, goes, id .. ':' .. bytes)
        if more ~= 0 then redis.call('INCRBY', place .. BYTES, string.format('%.0f', more)) end
        if redis.call('ZCOUNT', place, '+inf', '+inf') == 0 then
            redis.call('EXPIREAT', place, goes)
            redis.call('EXPIREAT', place .. BYTES, goes)
        end
    end
end

-- Ends a job; `fields` hold its status, finished_at and, unless all its files stay, the bytes that do.
local function finish(id, fields, ttl)
    local job = read(id, 'status', 'type', 'started_at', 'owner', 'client', 'idempotency_key', 'bytes')
    local client, bytes = job[5] or '', job[7] or '0'
    fields.bytes = fields.bytes or bytes
    even_without_memory(id)
    change(id, fields)
    redis.call('EXPIRE', JOB .. id, ttl)
    if job[6] then redis.call('EXPIRE', IDEMPOTENCY .. (job[4] or '') .. ':' .. job[6], ttl) end
    redis.call('SREM', UNFINISHED .. client, id)
    local goes = math.floor((seconds(fields.finished_at) or 0) + ttl)
    keep_ended(client, id, bytes, fields.bytes, goes)
    count(job[2], fields.status)
    if job[1] == 'processing' then observe(job[2], 'run', job[3], fields.finished_at) end
end

-- Puts a job at the front of its queue. An id in the queue whose record does not wait is passed over.
local function put_back(id, queue, attempts)
    local served = tonumber(redis.call('GET', queue .. SERVED) or 0)
    redis.call('LPUSH', queue, id)
    redis.call('SET', queue .. SERVED, served - 1)
    redis.call('HDEL', JOB .. id, 'worker', 'started_at', 'loss')
    change(id, {status = 'queued', ticket = served, steps = 0, attempts = attempts})
end

-- Puts the job of a dead worker back with its attempt counted, or fails it after as many attempts as `most`.
local function recover_job(id, queue, now, ttl, most)
    local job = read(id, 'attempts', 'type')
    local attempts = tonumber(job[1]) or 1
    if attempts >= tonumber(most) then
        local times = attempts == 1 and 'once' or attempts .. ' times'
        finish(id, {status = 'failed', finished_at = now, error_kind = 'internal',
            error = 'its worker died ' .. times}, ttl)
    else
        put_back(id, queue, attempts)
        count(job[2], 'recovered')
    end
end
