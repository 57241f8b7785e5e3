"""The Python client, against a real service; and against one that breaks connections."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest
from PIL import Image

from mead.client import (
    AddressError,
    AsyncClient,
    Client,
    JobCancelledError,
    JobFailedError,
    MeadError,
    RefusedError,
    UnreachableError,
)
from mead.client.results import together
from mead.client.steps import Reply
from tests.conftest import ROOT, RedisServer, Service, frames_of

pytestmark = pytest.mark.service

FORM: dict[str, Any] = {"iterations": 2, "size": (64, 64), "upscale": 1, "seed": 7}


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


def test_pictures_of_several_seeds(client: Client, tmp_path: Path) -> None:
    first, second = client.generate("a red house", n=2, **FORM)
    assert (first.seed, second.seed) == (7, 8) and first.png != second.png
    assert first.image.size == (64, 64) and first._repr_png_() == first.png
    assert first.save(tmp_path / "house.png").read_bytes() == first.png
    (again,) = client.generate("a red house", **{**FORM, "seed": 8, "size": "64x64"})
    assert again.png == second.png


def test_a_kept_job(client: Client) -> None:
    job = client.submit("a red house", **FORM)
    long = client.submit("a red house", **{**FORM, "iterations": 2000})
    with pytest.raises(RefusedError, match="no picture to keep"):
        long.keep()
    long.cancel()
    job.wait()
    job.keep()
    assert job.record()["kept"] is True and next(client.jobs(kept=True))["id"] == job.id
    job.unkeep()
    assert "kept" not in job.record() and job.id not in [one["id"] for one in client.jobs(kept=True)]


def test_pictures_may_be_paths_bytes_or_images(client: Client, face: Path) -> None:
    edits = [
        client.edit(img, "a person with glasses", seed=1, iterations=1)[0].png
        for img in (face, str(face), face.read_bytes(), Image.open(face))
    ]
    assert edits[0] == edits[1] == edits[2]
    assert Image.open(io.BytesIO(edits[3])).size == (512, 512)
    with pytest.raises(FileNotFoundError, match=r"img: cannot read none\.jpg"):
        client.edit("none.jpg", "a smile")


def test_several_texts_may_be_mappings_and_lists(client: Client, face: Path) -> None:
    job = client.submit(
        "a house", prompts={"at night": 2, "blurry": -1.5}, story=["a boat", "a car"], iterations=3
    )
    record = job.record()
    assert (record["prompts"], record["story"]) == ("at night:2 | blurry:-1.5", "a boat ^ a car")
    edit = client.submit(model="edit", img=face, sliders={"age": 3, "smile": -1})
    assert edit.record()["sliders"] == "age:3 | smile:-1"
    for wrong in ({"prompts": {"a|b": 1}}, {"story": ["a^b"]}):
        with pytest.raises(ValueError, match=r"^(prompts|story): 'a[|^]b' holds"):
            client.submit("a house", **wrong)


def test_a_job_as_it_goes(client: Client) -> None:
    job = client.submit("a cat", **{**FORM, "iterations": 6, "frames": 3})
    assert job.notes == ("the demo weights have not learned: cat",)
    progress = list(job.progress())
    assert progress[-1].status == "succeeded" and progress[-1].ended and progress[-1].steps == 6
    assert [one.steps for one in progress] == sorted(one.steps for one in progress)
    assert [one.status for one in job.progress()] == ["succeeded"]
    (picture,) = job.wait()
    assert picture == job.image and picture.notes == job.notes and picture.seed == 7
    assert client.job(job.id).record()["status"] == "succeeded"
    assert job.preview() == picture.png
    assert len(frames_of(job.timelapse())) == 3
    assert job.timelapse("mp4")[4:8] == b"ftyp"
    with pytest.raises(ValueError, match="kind"):
        job.timelapse("gif")
    with pytest.raises(RefusedError) as refused:
        job.cancel()
    assert refused.value.status == 409 and refused.value.job_id == job.id


def test_a_job_that_goes_on(client: Client, face: Path) -> None:
    first, whole = (client.submit("a red house", **{**FORM, "iterations": steps}) for steps in (1, 3))
    (short,), (long,) = first.wait(), whole.wait()
    job = first.resume(2, frames=2)
    assert job.id != first.id and job.record()["continues"] == first.id
    (picture,) = job.wait()
    assert picture.png == long.png != short.png and len(frames_of(job.timelapse())) == 2
    with pytest.raises(RefusedError) as wrong:
        first.resume(2, size="128x128")
    assert (wrong.value.field, wrong.value.status) == ("size", 422)
    edit = client.submit("a smile", model="edit", img=face, iterations=1)
    edit.wait()
    with pytest.raises(RefusedError, match="iterations: cannot change as a job goes on"):
        edit.resume(2)


def test_an_edit_with_another_strength(client: Client, face: Path) -> None:
    edit = client.submit(model="edit", img=face, mapper="glasses", seed=1)
    (whole,) = edit.wait()
    half = edit.at_strength(0.5, output="photo")
    assert half.record()["continues"] == edit.id and len(half.notes) == 0
    assert half.wait()[0].image.size == Image.open(face).size
    assert half.at_strength(1, output="face").wait()[0].png == whole.png
    with pytest.raises(RefusedError) as wrong:
        edit.at_strength(3)
    assert (wrong.value.field, wrong.value.status) == ("strength", 422)


def test_a_group_is_listed_and_cancelled(client: Client) -> None:
    job = client.submit("a red house", n=3, iterations=2000)
    with pytest.raises(TimeoutError):
        job.wait(timeout=0.2)
    job.cancel()
    with pytest.raises(JobCancelledError) as cancelled:
        job.wait()
    assert cancelled.value.job_id == job.id
    assert [record["id"] for record in client.jobs(group=job.id)] == list(job.ids)
    newest = list(client.jobs(limit=2))
    assert {record["id"] for record in newest} < set(job.ids) and len(newest) == 2
    assert len(list(client.jobs(status="cancelled"))) >= 3


def test_a_job_that_waits_for_too_long(client: Client) -> None:
    job = client.submit("a red house", iterations=2000)
    with pytest.raises(TimeoutError, match=job.id):
        job.wait(timeout=0.3)
    job.cancel()


def test_what_is_wrong_is_told(client: Client, face: Path, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"^w0: must be a number") as wrong:
        client.generate("a red house", w0="heavy")
    assert (wrong.value.field, wrong.value.status) == ("w0", 400)
    with pytest.raises(RefusedError) as unknown:
        client.generate("a red house", colour="red")
    assert unknown.value.field == "colour"
    with pytest.raises(MeadError, match=r"^model: this service has no paint; it has generate, edit"):
        client.submit("a red house", model="paint")
    Image.new("RGB", (64, 64), "teal").save(tmp_path / "teal.png")
    with pytest.raises(JobFailedError) as failed:
        client.edit(tmp_path / "teal.png", "a smile")
    assert failed.value.field == "img" and failed.value.job_id
    with pytest.raises(RefusedError) as gone:
        client.job("0" * 32).wait()
    assert gone.value.status == 404


def test_queues_and_models(client: Client) -> None:
    assert [queue["type"] for queue in client.queues()["queues"]] == ["lr", "sc"]
    models = client.models()
    assert [model["command"] for model in models["models"]] == ["generate", "edit"]
    assert client.models() is models


def test_a_service_that_is_away() -> None:
    with Client("http://127.0.0.1:1", patience=0) as client, pytest.raises(UnreachableError) as away:
        client.generate("a red house")
    assert away.value.status is None
    assert str(away.value).startswith("the service at http://127.0.0.1:1 does not answer: ")


def test_another_address(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEAD_URL", service.url.replace("://", "://me:secret@") + "/below/")
    for ask in (
        Client.models,
        lambda client: client.job("0" * 32).record(),
        lambda client: client.job("0").wait(),
    ):
        with Client(patience=0) as client, pytest.raises(AddressError) as wrong:
            ask(client)
        assert wrong.value.status == 404 and wrong.value.field is None
        begins = f"{service.url}/below (MEAD_URL) is not the address of a mead-backend: "
        assert str(wrong.value).startswith(begins)
    with Client(service.url + "/docs?", patience=0) as client, pytest.raises(AddressError):
        client.models()


@pytest.mark.parametrize("content", [b"<html>Not Found</html>", b"[]", b'{"detail": "Not Found"}'])
def test_what_another_server_answers(content: bytes) -> None:
    with pytest.raises(AddressError, match=r"^http://here is not the address"):
        raise Reply(404, content).error("http://here")
    assert str(Reply(500, content).error("http://here")).endswith(
        "http://here has answered with HTTP status 500"
    )
    assert str(Reply(404, content).error(None)) == "the object store has answered with HTTP status 404"
    own = Reply(404, b'{"status": "error", "message": "there is no job 1", "field": null}').error(
        "http://here"
    )
    assert not isinstance(own, AddressError) and own.message == "there is no job 1"


def test_the_environment_names_the_service(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEAD_URL", service.url + "/")
    with Client() as client:
        assert client.models()["weights"] == "demo"


def test_the_same_with_await(service: Service, face: Path) -> None:
    async def use() -> None:
        async with AsyncClient(service.url) as client:
            first, second = await client.generate("a red house", n=2, **FORM)
            assert (first.seed, second.seed) == (7, 8)
            job = await client.submit("a red house", frames=1, **FORM)
            progress = [one async for one in job.progress()]
            assert progress[-1].status == "succeeded"
            (picture,) = await job.wait()
            assert picture.png == first.png == (await job.image).png == await job.preview()
            assert (await job.timelapse())[:4] == b"RIFF"
            assert (await (await job.resume(1)).wait())[0].png != picture.png
            (edit,) = await client.edit(face, "a smile", iterations=1)
            assert edit.image.format == "PNG"
            assert [record["id"] async for record in client.jobs(limit=1)] == [edit.id]
            assert (await job.record())["seed"] == 7 and (await client.queues())["workers"]
            with pytest.raises(RefusedError):
                await client.job(job.id).retry()
            long = await client.submit("a red house", iterations=2000)
            with pytest.raises(TimeoutError):
                await long.wait(timeout=0.3)
            await long.cancel()
            with pytest.raises(JobCancelledError):
                await long.wait()

    anyio.run(use)


class Breaking(BaseHTTPRequestHandler):
    """Passes requests on to a service, and breaks every first connection once the service has answered."""

    service = ""
    seen: set[tuple[str, str]]

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        import httpx2

        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
        answer = httpx2.request(
            self.command, self.service + self.path, content=body, headers=headers, timeout=120
        )
        key = (self.command, self.path)
        if key not in self.seen:
            self.seen.add(key)
            self.connection.close()
            return
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def breaking(service: Service) -> Iterator[str]:
    """The address of a server between client and service that loses the first answer to each request."""
    handler = type("Handler", (Breaking,), {"service": service.url, "seen": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_lost_answer_makes_no_second_job(breaking: str, service: Service) -> None:
    with Client(service.url) as direct:
        before = len(list(direct.jobs()))
        with Client(breaking) as client:
            (picture,) = client.generate("a red house", **FORM)
        after = list(direct.jobs())
    assert len(after) == before + 1 and after[0]["id"] == picture.id


def test_the_client_waits_for_a_service_that_comes_back(tmp_path: Path) -> None:
    redis_server = RedisServer(tmp_path)
    service = Service(tmp_path, redis_server)
    inference = service.process("tests/colour_server.py", service.environment, tmp_path / "inference.log")
    inference.wait_until(lambda: service.answers("/readyz"))
    with Client(service.url) as client:
        job = client.submit("teal", iterations=200)
        progress = job.progress()
        next(progress)
        service.caching.stop()
        service.caching = service.process("caching_server.py", service.environment, tmp_path / "caching.log")
        assert list(progress)[-1].status == "succeeded"
        assert job.image.image.size == (8, 8)
    inference.stop()
    service.caching.stop()
    redis_server.stop()


def test_the_client_imports_nothing_of_the_service() -> None:
    code = (
        "import sys, mead.client; "
        "heavy = {'torch', 'numpy', 'pydantic', 'flask', 'redis', 'PIL', 'safetensors', 'mead.registry'}; "
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def record(status: str, steps: int = 0, total: int | None = None, rank: int = 0) -> dict[str, Any]:
    return {"status": status, "steps": steps, "total_steps": total, "rank": rank}


def test_the_progress_of_a_group() -> None:
    waits = together([record("queued", rank=3), record("queued", rank=4)])
    assert (waits.status, waits.rank, waits.total_steps, waits.ended) == ("queued", 3, None, False)
    goes = together([record("processing", 4, 10), record("queued", rank=1), record("succeeded", 10, 10)])
    assert (goes.status, goes.steps, goes.total_steps, goes.rank) == ("processing", 14, 30, 0)
    assert together([record("succeeded", 10, 10), record("failed", 2, 10)]).status == "failed"
    assert together([record("succeeded", 10, 10)] * 2).ended
