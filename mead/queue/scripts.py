"""The Lua scripts in mead/queue/lua, each of which is one change of state: nobody ever sees half of it.

What a script has to publish, it publishes at its end, when the whole change is made.

A script looks at the record first, so that sending it twice (after a dropped connection) does nothing the
second time. Scripts name further keys from what the records say, which one Redis server allows (a Redis
Cluster does not).
"""

from __future__ import annotations

import hashlib
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
"""


class Script:
    """A script that Redis keeps once it has seen it (EVALSHA).

    Where Redis does not have it, its text goes along (EVAL). redis-py's own class loads the text first,
    perhaps into another Redis than the one that is to run it: a failover may come between.
    """

    def __init__(self, client: redis.Redis, text: str) -> None:
        self.client = client
        self.text = text
        self.sha = hashlib.sha1(text.encode()).hexdigest()

    def __call__(self, *arguments: Any) -> Any:
        """Run it; what it returns."""
        try:
            return self.client.evalsha(self.sha, 0, *arguments)
        except redis.exceptions.NoScriptError:
            return self.client.eval(self.text, 0, *arguments)


def load_script(client: redis.Redis, name: str) -> Script:
    """The script mead/queue/lua/NAME.lua."""
    common, script = ((_FOLDER / f"{part}.lua").read_text("utf-8") for part in ("common", name))
    run = f"local function run()\n{script}end\nlocal answer = run()\npublish()\nreturn answer\n"
    return Script(client, _NAMES + common + run)
