"""The service as its users meet it: real processes, real HTTP, the demo weights."""

from __future__ import annotations

import base64
import io
import json
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from tests.conftest import Process, channel, end_of, follow_until

pytestmark = pytest.mark.service

ASYNC = {"Prefer": "respond-async"}
LIMIT = 300  # seconds; far more than anything here takes


def post(
    service: Any, route: str, form: dict[str, Any], img: Path | None = None, **more: Any
) -> requests.Response:
    files = {"img": img.read_bytes()} if img else None
    return requests.post(service.url + route, data=form, files=files, timeout=LIMIT, **more)


def picture_of(answer: requests.Response) -> Image.Image:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["status"] == "success" and body["id"]
    picture = Image.open(io.BytesIO(base64.b64decode(body["image"])))
    assert picture.format == "PNG"
    picture.load()
    return picture


# Without an inference server


def test_the_door_is_open(waiting_room: Any, face: Path) -> None:
    url = waiting_room.url
    assert requests.get(url + "/index", timeout=LIMIT).json() == "Hello, its up!"
    assert requests.get(url + "/healthz", timeout=LIMIT).status_code == 200
    not_ready = requests.get(url + "/readyz", timeout=LIMIT)
    assert not_ready.status_code == 503 and "no live worker" in not_ready.json()["message"]
    refused = post(waiting_room, "/styleclip", {"prompt": "A girl with purple eyes"}, face)
    assert refused.status_code == 503 and refused.json()["status"] == "error"


def test_too_large_a_request_is_told_so(waiting_room: Any) -> None:
    answer = requests.post(
        waiting_room.url + "/styleclip",
        data={"prompt": "A face"},
        files={"img": bytes(40 * 2**20)},
        timeout=LIMIT,
    )
    assert answer.status_code == 413 and answer.json()["status"] == "error"
    assert "33,554,432 bytes (MAX_UPLOAD_BYTES)" in answer.json()["message"]


def test_a_request_without_a_host_is_refused(waiting_room: Any) -> None:
    host, port = waiting_room.url.removeprefix("http://").split(":")
    for version, status in (("1.1", b"400"), ("1.0", b"200")):
        with socket.create_connection((host, int(port)), LIMIT) as client, client.makefile("rb") as answer:
            client.sendall(f"GET /healthz HTTP/{version}\r\n\r\n".encode())
            assert answer.readline().split()[1] == status


def test_an_empty_origin_is_none(waiting_room: Any) -> None:
    """Some programs send one; no browser does."""
    url = f"{waiting_room.url}/jobs/{'0' * 32}"
    assert requests.delete(url, headers={"Origin": ""}, timeout=LIMIT).status_code == 404
    assert requests.delete(url, headers={"Origin": "null"}, timeout=LIMIT).status_code == 403


def test_it_serves_a_waiting_crowd_and_others(waiting_room: Any) -> None:
    """Twenty-four requests wait for a worker that does not come; the door still answers others."""
    waiting_room.jobs.heartbeat("idle", ["latentrevisions_queue"], 600)
    try:
        with ThreadPoolExecutor(24) as pool:
            waiting = [
                pool.submit(post, waiting_room, "/latent_revision", {"prompt": "teal"}) for _ in range(24)
            ]
            ids: list[str] = []
            while len(ids) < 24:
                ids = waiting_room.redis.lrange("latentrevisions_queue", 0, -1)
            for job_id in ids:
                job = waiting_room.jobs.claim("latentrevisions_queue", "idle")
                assert job is not None and job.id == job_id
                check = requests.post(waiting_room.url + "/check", data={"id": job_id}, timeout=LIMIT).json()
                assert check["status"] == "processing"
                waiting_room.jobs.fail(job, "idle", "nobody is here", "internal")
            answers = [future.result() for future in waiting]
        assert {(answer.status_code, answer.json()["message"]) for answer in answers} == {
            (500, "nobody is here")
        }
    finally:
        waiting_room.jobs.deregister("idle", ["latentrevisions_queue"])


# The whole round


def test_a_picture_from_words(service: Any) -> None:
    picture = picture_of(post(service, "/latent_revision", {"prompt": "A beautiful person", "iterations": 3}))
    assert picture.mode == "RGB" and min(picture.size) >= 64


def test_a_picture_from_everything(service: Any, face: Path) -> None:
    form = {
        "prompt": "A beautiful person",
        "text_to_add": "queen looking at us",
        "w0": 5,
        "w1": 2,
        "w2": 5,
        "w3": 1,
        "size": "128x96",
        "iterations": 2,
        "start": "noise",
    }
    files = {
        "img": face.read_bytes(),
        "img_enc": face.with_name("chelsea.jpg").read_bytes(),
        "ne_img_enc": face.with_name("coffee.jpg").read_bytes(),
    }
    answer = requests.post(service.url + "/latent_revision", data=form, files=files, timeout=LIMIT)
    assert picture_of(answer).size == (512, 384)  # four times as wide and high


def test_a_masked_revision_says_how_it_was_made(service: Any, face: Path) -> None:
    """What the mask keeps is the photo's own; it is as large as the picture."""
    mask = Image.new("RGBA", (100, 100), "white")
    mask.paste((0, 0, 0, 0), (20, 30, 70, 80))
    file = io.BytesIO()
    mask.save(file, "PNG")
    form = {"prompt": "a red star", "prompts": "a blue background:2", "story": "a heart", "iterations": 2}
    files = {"img": face.read_bytes(), "mask": file.getvalue()}
    answer = requests.post(service.url + "/latent_revision", data=form, files=files, timeout=LIMIT)
    picture = picture_of(answer)
    before, after = (np.asarray(one.convert("RGB"), int) for one in (Image.open(face), picture))
    assert before.shape == after.shape == (512, 512, 3)
    changed = (before != after).any(2)
    assert changed[180:390, 130:340].mean() > 0.9
    changed[150:414, 100:362] = False  # inside, and what the mask's edge is stretched over
    assert not changed.any()
    made = json.loads(picture.info["mead"])
    assert made["model"] == "LatentRevisions" and made["pictures"] == ["img", "mask"] and made["steps"] == 2
    assert made["parameters"].items() >= form.items() and answer.json()["id"] not in str(picture.info)


def test_a_face_edited_by_words(service: Any, face: Path) -> None:
    form = {"prompt": "A girl with purple eyes", "iterations": 2}
    picture = picture_of(post(service, "/styleclip", form, face))
    assert picture.width == picture.height >= 64


def test_a_picture_of_the_size_asked_for(service: Any) -> None:
    form = {"prompt": "A red house", "iterations": 1, "size": "64x64", "upscale": 2}
    answer = post(service, "/latent_revision", form)
    assert picture_of(answer).size == (128, 128)
    assert requests.get(f"{service.url}/jobs/{answer.json()['id']}", timeout=LIMIT).json()["upscale"] in (
        "2",
        2,
    )


def test_the_same_seed_gives_the_same_picture(service: Any) -> None:
    form = {"prompt": "A red house", "iterations": 3, "seed": 11}
    first, second = (post(service, "/latent_revision", form).json()["image"] for _ in range(2))
    other = post(service, "/latent_revision", {**form, "seed": 12}).json()["image"]
    assert first == second != other


def test_what_redis_shows_while_a_job_runs(service: Any, face: Path) -> None:
    form = {"prompt": "A man with a hat", "iterations": 30, "w0": 2.5}
    answer = post(service, "/latent_revision", form, headers=ASYNC)
    assert answer.status_code == 202
    job_id = answer.json()["id"]
    client = service.redis
    with channel(client, job_id) as story:
        next(event for event in story if event.get("steps"))
        (worker,) = client.smembers("workers")
        assert client.type(f"worker:{worker}") == "string" and client.ttl(f"worker:{worker}") > 0
        assert client.type(f"job:{job_id}") == "hash"
        record = client.hgetall(f"job:{job_id}")
        assert record["type"] == "lr" and record["prompt"] == form["prompt"] and record["w0"] == "2.5"
        assert record["worker"] == worker and record["attempts"] == "1"
        for name in ("created_at", "started_at"):
            assert record[name].endswith("+00:00")

        assert list(story)[-1]["status"] == "succeeded"
    record = requests.get(service.url + answer.headers["Location"], timeout=LIMIT).json()
    assert record["status"] == "succeeded" and record["steps"] == record["total_steps"] == 30
    assert "out_path" not in record  # a path is of no use to a client
    assert record["image"] == f"/jobs/{job_id}/image"
    assert (service.folder / "var" / "results" / client.hget(f"job:{job_id}", "out_path")).is_file()
    assert client.lrange(f"latentrevisions_queue:processing:{worker}", 0, -1) == []
    assert 0 < client.ttl(f"job:{job_id}") <= 24 * 3600
    image = requests.get(f"{service.url}/jobs/{job_id}/image", timeout=LIMIT)
    check = requests.post(service.url + "/check", data={"id": job_id}, timeout=LIMIT)
    assert image.content == base64.b64decode(check.json()["image"])


def test_twenty_four_clients_at_once(service: Any, face: Path) -> None:
    def ask(number: int) -> requests.Response:
        form: dict[str, Any] = {"prompt": f"A face, number {number}", "iterations": 2, "seed": number}
        if number % 3 == 0:
            return post(service, "/styleclip", form, face)
        return post(service, "/latent_revision", {**form, "size": "64x64"}, face)

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(24)))
    for answer in answers:
        picture_of(answer)
    assert len({answer.json()["id"] for answer in answers}) == 24


def test_an_inference_server_that_stops_loses_nothing(waiting_room: Any) -> None:
    def stop_in_a_job(server: Process, number: signal.Signals, iterations: int) -> str:
        """The id of a job that a server has handed back."""
        form = {"prompt": "A blue bird", "iterations": iterations, "seed": 5}
        job_id: str = post(waiting_room, "/latent_revision", form, headers=ASYNC).json()["id"]
        follow_until(waiting_room.jobs, job_id, lambda job: job.steps > 0)
        server.process.send_signal(number)
        assert server.process.wait(60) == 0
        assert waiting_room.redis.lrange("latentrevisions_queue", 0, -1) == [job_id]
        assert waiting_room.jobs.get(job_id).status == "queued"
        return job_id

    job_id = stop_in_a_job(waiting_room.start_inference(), signal.SIGTERM, 40)
    second = waiting_room.start_inference()
    assert end_of(waiting_room.jobs, job_id).status == "succeeded"
    assert waiting_room.jobs.cancel(stop_in_a_job(second, signal.SIGINT, 2000))


# app.py, without Redis


def test_app_without_redis(tmp_path: Path, face: Path, door: Any) -> None:
    url = door("app.py", tmp_path)

    def ask(route: str, img: Path | None = None) -> requests.Response:
        files = {"img": img.read_bytes()} if img else None
        return requests.post(
            url + route, data={"prompt": "A man with glasses", "iterations": 2}, files=files, timeout=LIMIT
        )

    assert requests.get(url + "/index", timeout=LIMIT).json() == "Hello, its up!"
    picture_of(ask("/latent_revision"))
    picture_of(ask("/styleclip", face))
    picture_of(ask("/styleclip"))  # starts from the average face
    wrong = requests.post(url + "/latent_revision", data={"prompt": ""}, timeout=LIMIT)
    assert wrong.status_code == 400 and wrong.json()["field"] == "prompt"
