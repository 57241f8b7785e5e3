"""Loading the Lua scripts in mead/queue/lua.

Each script is one atomic change of state, and publishes its events at the end. It checks the record first,
so running it again (after a dropped connection) changes nothing. Scripts derive names of keys from records,
which a single Redis server allows and a Redis Cluster does not.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import redis

from mead.queue import keys
from mead.queue.statistics import BUCKETS

_FOLDER = Path(__file__).parent / "lua"

_NAMES = f"""
local JOB, EVENTS, PREVIEW = '{keys.job_key("")}', '{keys.events_key("")}', '{keys.preview_key("")}'
local WORKER = '{keys.worker_key("")}'
local IDEMPOTENCY, UNFINISHED = '{keys.idempotency_key("", "")[:-1]}', '{keys.unfinished_key("")}'
local WORKERS, STATISTICS = '{keys.WORKERS_KEY}', '{keys.STATISTICS_KEY}'
local BUCKETS = {{ {", ".join(map(str, BUCKETS))} }}
local PROCESSING, TICKETS = '{keys.processing_key("", "")}', '{keys.tickets_key("")}'
local SERVED, CANCELLED = '{keys.served_key("")}', '{keys.cancelled_key("")}'
local KEPT, BYTES = '{keys.KEPT_KEY}', '{keys.kept_bytes_key("")}'
local KEPT_JOBS = '{keys.kept_jobs_key("")}'
"""


class Script:
    """Runs a script by its hash (EVALSHA), and sends the text (EVAL) if Redis does not have it.

    redis-py's own class sends the text in a separate command first (SCRIPT LOAD). After a failover in
    between, the script would run on a server that does not have it.
    """

    def __init__(self, client: redis.Redis, text: str) -> None:
        self.client = client
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()

    def __call__(self, *arguments: Any) -> Any:
        """Run the script; returns its result."""
        try:
            return self.client.evalsha(self.sha, 0, *arguments)
        except redis.exceptions.NoScriptError:
            return self.client.eval(self.text, 0, *arguments)


class TimelyScript:
    """Runs a script that changes nothing once its caller has given up.

    A Redis that stalls (stopped, swapping, a slow disk) keeps what was sent in its sockets' buffers and runs
    it when it wakes. The script's first argument is therefore a deadline, which it compares with TIME. The
    deadline is SECONDS after a time that Redis itself has told just before: clocks of other machines do not
    matter. Until then the call is repeated; an error that does not come from Redis is only raised later.
    """

    SECONDS = (
        7.0  # longer than one answer may take (mead.http.services.REDIS_TIMEOUT), so that one repeat fits
    )

    def __init__(self, script: Script) -> None:
        self.script = script

    def __call__(self, *arguments: Any) -> Any:
        """Run the script; returns its result.

        Raises:
            redis.ResponseError: it changed nothing; the message begins with "LATE" if it came too late.
            redis.RedisError: Redis did not answer. From now on the script changes nothing, but if Redis died
                as it answered, it may have run before.
        """
        seconds, microseconds = self.script.client.time()
        end = time.monotonic() + self.SECONDS
        deadline = seconds * 1000 + microseconds // 1000 + int(self.SECONDS * 1000)
        while True:
            try:
                return self.script(deadline, *arguments)
            except (redis.ConnectionError, redis.TimeoutError):
                if time.monotonic() >= end:
                    raise
                time.sleep(0.1)


def load_script(client: redis.Redis, name: str) -> Script:
    """The script mead/queue/lua/NAME.lua, with what all scripts share."""
    common, script = ((_FOLDER / f"{part}.lua").read_text("utf-8") for part in ("common", name))
    run = f"local function run()\n{script}end\nlocal answer = run()\npublish()\nreturn answer\n"
    return Script(client, _NAMES + common + run)
