"""Jobs of several owners take turns, on a real Redis."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator

import pytest
import redis

from mead.queue.errors import TooFastError
from mead.queue.jobs import Jobs
from mead.queue.recovery import Recovery
from tests.conftest import recover

QUEUE = "latentrevisions_queue"


def put(jobs: Jobs, owner: str, *names: str, priority: int = 1) -> None:
    for name in names:
        jobs.enqueue(name, "lr", QUEUE, {"prompt": name}, owner=owner, priority=priority)


def together(jobs: Jobs, owner: str, *names: str, **more: int) -> None:
    group: dict[str, dict[str, str]] = {name: {} for name in names}
    jobs.enqueue_group(group, "lr", QUEUE, owner=owner, **more)


def listed(client: redis.Redis, key: str = QUEUE) -> list[str]:
    return [str(name) for name in client.lrange(key, 0, -1)]


def claims(jobs: Jobs, worker: str = "me") -> Iterator[str]:
    while job := jobs.claim(QUEUE, worker):
        yield job.id


def check_places(jobs: Jobs, client: redis.Redis) -> None:
    """The list is in the order of the turns, and the ranks are places in the list."""
    live = [name for name in client.lrange(QUEUE, 0, -1) if jobs.get(name).status == "queued"]
    assert [entry.partition(":")[2] for entry in client.zrange(f"{QUEUE}:order", 0, -1)] == live
    assert jobs.ranks([jobs.get(name) for name in live]) == list(range(len(live)))
    assert jobs.queue_length(QUEUE) == len(live)


def test_owners_take_turns(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "ann", *(f"a{n}" for n in range(6)))
    put(jobs, "bob", "b0", "b1")
    put(jobs, "cid", "c0")
    assert client.lrange(QUEUE, 0, -1) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3", "a4", "a5"]
    check_places(jobs, client)
    assert jobs.claim(QUEUE, "me").id == "a0"
    put(jobs, "dee", "d0", "d1")
    assert client.lrange(QUEUE, 0, -1)[:6] == ["b0", "c0", "d0", "a1", "b1", "d1"]
    put(jobs, "ann", "a6")
    assert client.lrange(QUEUE, 0, -1)[-1] == "a6"
    check_places(jobs, client)
    assert len(list(claims(jobs))) == 11 and not client.exists(f"{QUEUE}:order")


def test_one_job_at_a_time_gets_no_more_turns_than_many(jobs: Jobs) -> None:
    """Bob sends the next job when his last is claimed; ann has sent all of hers."""
    put(jobs, "ann", *(f"a{n}" for n in range(20)))
    put(jobs, "bob", "b0")
    ran = []
    for n in range(1, 21):
        ran.append(job := jobs.claim(QUEUE, "me").id)
        if job.startswith("b"):
            put(jobs, "bob", f"b{n}")
    assert Counter(name[0] for name in ran) == {"a": 10, "b": 10}


def test_without_owners_the_oldest_is_first(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "", *"abc")
    jobs.enqueue_group({"d": {}, "e": {}}, "lr", QUEUE, client="10.0.0.1")
    assert client.lrange(QUEUE, 0, -1) == list("abcde")
    assert set(client.keys(f"{QUEUE}:*")) == {f"{QUEUE}:served", f"{QUEUE}:tickets"}


def test_a_priority_is_a_share(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "ann", *(f"a{n}" for n in range(40)))
    put(jobs, "bob", *(f"b{n}" for n in range(40)), priority=3)
    put(jobs, "cid", *(f"c{n}" for n in range(40)), priority=4)
    check_places(jobs, client)
    ran = Counter(name[0] for name, _ in zip(claims(jobs), range(64), strict=False))
    assert ran == {"a": 8, "b": 24, "c": 32}


def test_variants_are_accepted_together_and_take_turns(jobs: Jobs, client: redis.Redis) -> None:
    together(jobs, "ann", "a0", "a1", "a2")
    together(jobs, "bob", "b0", "b1", "b2")
    assert client.lrange(QUEUE, 0, -1) == ["a0", "b0", "a1", "b1", "a2", "b2"]
    check_places(jobs, client)


def test_requeued_and_recovered_jobs_come_first_whoever_else_comes(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "ann", *(f"a{n}" for n in range(4)))
    put(jobs, "bob", "b0", "b1")
    held = [jobs.claim(QUEUE, "dead").id for _ in range(4)]
    put(jobs, "cid", "c0")
    assert sorted(recover(jobs)) == sorted(held)
    put(jobs, "dee", "d0")
    assert client.lrange(QUEUE, 0, 3) == held == ["a0", "b0", "a1", "b1"]
    check_places(jobs, client)
    again = [jobs.claim(QUEUE, "me").id for _ in range(3)]
    assert again == held[:3]
    jobs.requeue(QUEUE, "me", [again[0]])
    assert client.lrange(QUEUE, 0, 1) == ["a0", "b1"]
    check_places(jobs, client)


def test_cancelled_jobs_give_their_turns_back(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "ann", *(f"a{n}" for n in range(10)))
    put(jobs, "bob", *(f"b{n}" for n in range(4)), priority=2)
    jobs.cancel_all([f"b{n}" for n in range(4)], priority=2)
    check_places(jobs, client)
    put(jobs, "bob", "b4", "b5", priority=2)
    assert [name for name in client.lrange(QUEUE, 0, -1) if jobs.get(name).status == "queued"][:4] == [
        "a0",
        "b4",
        "b5",
        "a1",
    ]
    check_places(jobs, client)


def test_a_job_that_runs_again_takes_its_owners_turn(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "bob", "b0")
    put(jobs, "ann", *(f"a{n}" for n in range(4)))
    failed = jobs.claim(QUEUE, "me")
    jobs.fail(failed, "me", "a bug", "internal")
    assert jobs.retry("b0")
    assert client.lrange(QUEUE, 0, -1) == ["a0", "a1", "b0", "a2", "a3"]
    check_places(jobs, client)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_whatever_happens_places_and_ranks_agree(jobs: Jobs, client: redis.Redis, seed: int) -> None:
    rng = random.Random(seed)
    made = 0
    held: list[str] = []
    for _ in range(150):
        match rng.choice(["put", "put", "claim", "cancel", "requeue", "fail", "recover"]):
            case "put":
                owner = rng.choice(["ann", "bob", "cid"])
                group = [f"{seed}-{made + n}" for n in range(rng.randint(1, 4))]
                made += len(group)
                together(jobs, owner, *group, priority={"ann": 1}.get(owner, 3))
            case "claim":
                held += [job.id] if (job := jobs.claim(QUEUE, "me")) else []
            case "cancel":
                if waiting := listed(client):
                    jobs.cancel(rng.choice(waiting))
            case "requeue":
                jobs.requeue(QUEUE, "me", rng.sample(held, min(2, len(held))))
            case "fail" if held:
                job = jobs.get(held.pop())
                if jobs.fail(job, "me", "a bug", "internal") and rng.random() < 0.5:
                    jobs.retry(job.id)
            case "recover":
                recover(jobs, attempts=100)
        held = listed(client, f"{QUEUE}:processing:me")
        check_places(jobs, client)


# Side by side with older versions


def test_a_worker_of_an_older_version_runs_jobs_in_turn(jobs: Jobs, client: redis.Redis) -> None:
    """It moves ids and changes records, and knows nothing of the order."""
    put(jobs, "ann", *(f"a{n}" for n in range(4)))
    put(jobs, "bob", "b0", "b1")
    for _ in range(3):
        name = str(client.lmove(QUEUE, f"{QUEUE}:processing:old", "LEFT", "RIGHT"))
        client.hset(f"job:{name}", mapping={"status": "processing", "worker": "old"})
    assert client.lrange(f"{QUEUE}:processing:old", 0, -1) == ["a0", "b0", "a1"]
    put(jobs, "cid", "c0")
    assert client.lrange(QUEUE, 0, -1) == ["b1", "c0", "a2", "a3"]
    check_places(jobs, client)
    assert list(claims(jobs)) == ["b1", "c0", "a2", "a3"]
    jobs.requeue(QUEUE, "old")
    check_places(jobs, client)


def test_jobs_without_a_place_are_before_those_with_one(jobs: Jobs, client: redis.Redis) -> None:
    """They were made by an older version, or before there were API keys."""
    put(jobs, "", "x", "y")
    put(jobs, "ann", "a0", "a1")
    put(jobs, "bob", "b0")
    assert client.lrange(QUEUE, 0, -1) == ["x", "y", "a0", "b0", "a1"]
    assert jobs.ranks([jobs.get(name) for name in ("x", "y", "a0", "b0", "a1")]) == [0, 1, 2, 3, 4]
    assert jobs.claim(QUEUE, "me").id == "x"
    assert jobs.ranks([jobs.get(name) for name in ("y", "a0", "b0", "a1")]) == [0, 1, 2, 3]


def test_lists_deleted_by_hand(jobs: Jobs, client: redis.Redis) -> None:
    put(jobs, "ann", "a0", "a1")
    put(jobs, "bob", "b0")
    client.delete(QUEUE)
    put(jobs, "cid", "c0")
    assert client.lrange(QUEUE, 0, -1) == ["c0"]
    check_places(jobs, client)
    assert sorted(Recovery(jobs, [QUEUE], 3).restore()) == ["a0", "a1", "b0"]
    check_places(jobs, client)
    client.delete(f"{QUEUE}:order", f"{QUEUE}:turns")
    put(jobs, "ann", "a2")
    assert len(list(claims(jobs))) == 5


# Jobs a minute


def test_so_many_jobs_a_minute(jobs: Jobs, client: redis.Redis) -> None:
    def ask(name: str, owner: str = "ann", n: int = 1) -> None:
        together(jobs, owner, *(f"{name}{number}" for number in range(n)), a_minute=3)

    ask("a", n=2)
    ask("b")
    with pytest.raises(TooFastError, match="at most 3 jobs a minute are allowed; try again in") as refused:
        ask("c")
    assert 0 < refused.value.seconds <= 60
    ask("c", owner="bob")
    ask("a", n=2)  # they are there
    now = int(time.time() * 1000)
    client.zadd("kept_jobs:ann", {"a0": now - 60_001, "a1": now - 20_000}, xx=True)
    with pytest.raises(TooFastError) as refused:
        ask("d", n=2)
    assert 30 < refused.value.seconds <= 41
    ask("d")
    with pytest.raises(TooFastError):
        ask("e")
    assert client.llen(QUEUE) == 5
