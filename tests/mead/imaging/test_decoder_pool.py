"""The processes that decode pictures: what they give, what they may take, and what is left when one dies."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.fuzz_uploads import HOSTILE, encoded, jpeg_in_a_tiff, jpeg_of_arithmetic_scans
from mead.imaging.decoder_pool import DecodeLimits, Decoders
from mead.imaging.fair_semaphore import BusyError, FairSemaphore
from mead.imaging.pictures import PictureError, read_picture
from tests.conftest import eventually
from tests.mead.imaging.test_pictures import GREYS, KINDS

ROOT = Path(__file__).parents[3]
WITHIN = (1024, 1024)
LONG = jpeg_of_arithmetic_scans(3_500, 98)  # takes some seconds
ALL = Decoders(DecodeLimits())  # for tests that leave it as it was; starts nothing until it is asked


@pytest.fixture
def decoders() -> Decoders:
    return Decoders(DecodeLimits())


@pytest.fixture
def patient() -> Decoders:
    """Decoders that give a picture long enough to be looked at meanwhile."""
    return Decoders(DecodeLimits(seconds=1000))


def decode(decoders: Decoders, content: bytes, client: str = "me") -> Image.Image:
    with decoders.decoded(io.BytesIO(content), "img", client) as bitmap:
        return bitmap.picture()


def children(process: int, thread: int | None = None) -> list[int]:
    """Of a thread of a process, the first one if not said; none if it has ended, as those of other tests do
    meanwhile.
    """
    try:
        path = Path(f"/proc/{process}/task/{thread or process}/children")
        return [int(pid) for pid in path.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def command_line(pid: str) -> bytes:
    """Of a process; nothing once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def processes() -> list[int]:
    """The decoders of this process, of all its templates."""
    threads = [int(path.name) for path in Path("/proc/self/task").iterdir()]
    templates = [
        pid
        for thread in threads
        for pid in children(os.getpid(), thread)
        if b"mead.imaging.decoder_process" in command_line(str(pid))
    ]
    return [decoder for template in templates for decoder in children(template)]


def processor_seconds(process: int) -> float:
    """Processor time that a running process has used; 0 if it sleeps or has ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return 0.0 if fields[0] in "SZ" else (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def at_work() -> int | None:
    """A decoder in the middle of a picture."""
    return next((process for process in processes() if processor_seconds(process) > 0.1), None)


@pytest.fixture
def in_background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


# What they give


@pytest.mark.parametrize("kind", [*KINDS, *GREYS])
def test_the_same_pixels_as_in_this_process(kind: str, face: Path) -> None:
    photo = read_picture(face, "img").resize((96, 64))
    file = {**KINDS, **GREYS}[kind](photo)
    content = file.getvalue()
    assert decode(ALL, content).tobytes() == read_picture(file, "img", within=WITHIN).tobytes()


def test_what_is_wrong_names_the_field() -> None:
    for content, kind in ((b"", "not_a_picture"), (HOSTILE["a size of gigabytes"](), "too_large")):
        with pytest.raises(PictureError, match=r"^img: ") as caught:
            decode(ALL, content)
        assert (caught.value.field, caught.value.kind) == ("img", kind)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_the_largest_pictures_pass(form: str) -> None:
    """On a machine as busy as it may be: the limits are of processor time."""
    options = {"WEBP": {"method": 0}, "PNG": {"compress_level": 1}}.get(form, {})
    mode = {"TIFF": "F", "JPEG": "CMYK", "GIF": "P", "BMP": "L"}.get(form, "RGBA")
    picture = decode(ALL, encoded(Image.new(mode, (7_071, 7_071)), form, **options))
    assert picture.size == WITHIN and picture.mode == "RGB"


# What they may take


@pytest.mark.parametrize("packed", ["alone", "in a TIFF"])
def test_too_much_time(packed: str, face: Path) -> None:
    bomb = jpeg_of_arithmetic_scans(7_000, 98)
    decoders = Decoders(DecodeLimits(seconds=0.5))
    with pytest.raises(PictureError, match=r"img: takes more than 0\.5 seconds of CPU") as caught:
        decode(decoders, bomb if packed == "alone" else jpeg_in_a_tiff(bomb, 7_000))
    assert caught.value.kind == "too_large"
    assert decode(decoders, face.read_bytes()).mode == "RGB"


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "progressive JPEG"])
def test_too_much_memory(form: str, face: Path) -> None:
    decoders = Decoders(DecodeLimits(memory_bytes=64 * 2**20))
    options = {"progressive JPEG": {"progressive": True}, "WEBP": {"method": 0}}.get(form, {})
    large = encoded(Image.new("RGB", (7_000, 7_000), "teal"), form.split()[-1], **options)
    with pytest.raises(PictureError, match=r"img: takes more than 64 MiB of memory") as caught:
        decode(decoders, large)
    assert caught.value.kind == "too_large"
    assert decode(decoders, face.read_bytes()).mode == "RGB"


@pytest.mark.slow
def test_this_process_does_not_grow() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    largest = HOSTILE["large frames"]()
    decode(ALL, largest)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident()
    decode(ALL, largest)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    assert peak - before < 40e6  # of the 750 MB that decoding it takes


@pytest.mark.slow
def test_a_long_picture_leaves_the_others_alone(
    patient: Decoders, in_background: ThreadPoolExecutor, face: Path
) -> None:
    long = [in_background.submit(decode, patient, LONG) for _ in range(2)]
    eventually(at_work)
    assert decode(patient, face.read_bytes(), "somebody else").mode == "RGB"
    assert {one.result().size for one in long} == {(1024, 1024)}


@pytest.mark.slow
def test_what_a_decoder_holds(
    monkeypatch: pytest.MonkeyPatch, patient: Decoders, in_background: ThreadPoolExecutor
) -> None:
    monkeypatch.setenv("API_KEYS", "secret-key-1")
    done = in_background.submit(decode, patient, LONG)
    process = eventually(at_work)
    proc = Path(f"/proc/{process}")
    environment = (proc / "environ").read_bytes()
    status = (proc / "status").read_text()
    limits = {line[:26].strip(): line.split()[-3] for line in (proc / "limits").read_text().splitlines()[1:]}
    files = {str(file.readlink()) for file in (proc / "fd").iterdir()}
    assert b"API_KEYS" not in environment and b"REDIS_URL" not in environment
    assert "NoNewPrivs:\t1" in status
    assert limits["Max file size"] == limits["Max core file size"] == limits["Max processes"] == "0"
    assert len([file for file in files if file.startswith("socket:")]) == 1 and len(files) == 2
    if os.geteuid() == 0:
        assert "Uid:\t65534\t65534\t65534\t65534" in status
    os.kill(process, signal.SIGKILL)
    assert done.result().size == (1024, 1024)


# What is left when one dies


@pytest.mark.slow
def test_a_killed_decoder_costs_no_picture(patient: Decoders, in_background: ThreadPoolExecutor) -> None:
    done = in_background.submit(decode, patient, LONG)
    os.kill(eventually(at_work), signal.SIGKILL)
    assert done.result().size == (1024, 1024)


def test_a_picture_that_crashes_its_decoders(patient: Decoders, in_background: ThreadPoolExecutor) -> None:
    done: Future[Image.Image] = in_background.submit(decode, patient, LONG)

    def crashed() -> int | None:
        process = at_work()
        if process is not None:
            os.kill(process, signal.SIGSEGV)
        return 1 if done.done() else None

    eventually(crashed)
    with pytest.raises(PictureError, match=r"img: .*its decoder crashes") as caught:
        done.result()
    assert caught.value.kind == "not_a_picture"
    assert decode(patient, KINDS["PNG"](Image.new("RGB", (8, 8))).getvalue()).size == (8, 8)


def test_all_that_wait_for_work_are_killed(decoders: Decoders, face: Path) -> None:
    decode(decoders, face.read_bytes())
    for process in processes():
        os.kill(process, signal.SIGKILL)
    assert decode(decoders, face.read_bytes()).mode == "RGB"


def test_the_template_is_killed(decoders: Decoders, face: Path) -> None:
    before = set(processes())
    decode(decoders, face.read_bytes())
    mine = next(process for process in processes() if process not in before)
    template = int(Path(f"/proc/{mine}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(template, signal.SIGKILL)
    assert decode(decoders, face.read_bytes()).mode == "RGB"


SERVER = """
import io, threading, time
from benchmarks.fuzz_uploads import jpeg_of_arithmetic_scans
from mead.imaging.decoder_pool import DecodeLimits, Decoders

decoders, bomb = Decoders(DecodeLimits(seconds=10_000)), jpeg_of_arithmetic_scans(7_000, 98)

def decode():
    with decoders.decoded(io.BytesIO(bomb), "img", "me"):
        pass

threading.Thread(target=decode).start()
while decoders is not None:
    print("at work", flush=True)
    time.sleep(1)
"""


def test_they_end_with_the_server() -> None:
    """However it ends, and whatever they are at."""
    server = subprocess.Popen([sys.executable, "-c", SERVER], cwd=ROOT, stdout=subprocess.PIPE)
    assert server.stdout is not None
    server.stdout.readline()

    def busy() -> int | None:
        threads = [int(task.name) for task in Path(f"/proc/{server.pid}/task").iterdir()]
        templates = [pid for thread in threads for pid in children(server.pid, thread)]
        decoders = [decoder for template in templates for decoder in children(template)]
        return next((decoder for decoder in decoders if processor_seconds(decoder) > 0.1), None)

    decoder = eventually(busy)
    template = int(Path(f"/proc/{decoder}/stat").read_text().rsplit(")", 1)[1].split()[1])
    server.kill()
    server.wait()

    def gone() -> int | None:
        return None if any(Path(f"/proc/{process}/cwd").exists() for process in (decoder, template)) else 1

    eventually(gone)


# Turns


def test_clients_take_turns() -> None:
    semaphore = FairSemaphore(1, 100)
    order: list[str] = []

    def work(client: str) -> None:
        with semaphore.acquire(client, "img"):
            order.append(client)

    threads = []
    with semaphore.acquire("first", "img"):
        for number, client in enumerate(["a"] * 5 + ["b", "c"], start=1):
            threads.append(threading.Thread(target=work, args=[client]))
            threads[-1].start()
            eventually(lambda number=number: semaphore.waiting == number)  # type: ignore[misc]
    for thread in threads:
        thread.join()
    assert "".join(order) == "abcaaaa"


def test_no_more_wait_than_there_are_places() -> None:
    semaphore = FairSemaphore(1, 4, timeout=600)
    with ThreadPoolExecutor(4) as pool:

        def wait(client: str) -> None:
            with semaphore.acquire(client, "img"):
                pass

        with semaphore.acquire("first", "img"):
            waiting = [pool.submit(wait, "a") for _ in range(2)]
            eventually(lambda: semaphore.waiting == 2)
            with pytest.raises(BusyError, match="img: too many pictures"):  # half of the places are others'
                wait("a")
            waiting.append(pool.submit(wait, "b"))
            eventually(lambda: semaphore.waiting == 3)
        for one in waiting:
            one.result()
    assert semaphore.waiting == 0


def test_nobody_waits_for_ever() -> None:
    semaphore = FairSemaphore(1, 4, timeout=0.05)
    with semaphore.acquire("a", "img"), pytest.raises(BusyError), semaphore.acquire("b", "img"):
        pass
    with semaphore.acquire("b", "img"):
        assert semaphore.waiting == 0
