"""The processes that decode uploaded pictures; `mead.imaging.decoder_pool` starts and uses them.

`python -m mead.imaging.decoder_process` is a template: it has imported all that decoding needs, handles
no picture itself, and forks a decoder on request, in milliseconds. A decoder has no secrets, no files and few
privileges. The kernel ends it when a picture exceeds its CPU time, and refuses it more memory than its limit.
All these processes end with the server, however it ends.

The server sends requests to the template over the socket that is its standard input, and shares another
socket with each decoder. A message is a JSON object and bytes: a file one way, a bitmap the other.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from mead.imaging.encoding import Bitmap
from mead.imaging.formats import FORMATS
from mead.imaging.pictures import BYTES_PER_PIXEL, PictureError, read_picture

REQUEST = struct.Struct("!ii")
"""0 and a niceness: fork a decoder for the attached socket. A process id and 0: end that decoder."""
REPLY = struct.Struct("!i")
"""The process id of the new decoder, or the exit status of the ended one, or minus a signal."""
_LENGTHS = struct.Struct("!II")  # of the two parts of a message

NOBODY = 65534
LARGE_BLOCK = 2**20  # bytes; smaller blocks are kept for the next picture
_SET_PARENT_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38  # of prctl


def send(link: socket.socket, head: dict[str, Any], length: int = 0) -> None:
    """Send the first part of a message; the caller sends the `length` bytes of the second.

    Raises:
        OSError: the other side has ended, or does not read in time.
    """
    text = json.dumps(head).encode()
    link.sendall(_LENGTHS.pack(len(text), length) + text)


def receive(
    link: socket.socket, longest: int, deadline: float | None = None
) -> tuple[dict[str, Any], bytearray]:
    """The next message.

    Args:
        longest: bytes that each part may have.
        deadline: when the message must be complete (time.monotonic).

    Raises:
        EOFError: the other side has ended.
        OSError: the message is invalid, or does not arrive in time.
    """
    lengths = _LENGTHS.unpack(_receive(link, _LENGTHS.size, deadline))
    if max(lengths) > longest:
        raise OSError("the message is too long")
    head, content = (_receive(link, length, deadline) for length in lengths)
    return json.loads(head), content


def _receive(link: socket.socket, length: int, deadline: float | None) -> bytearray:
    received = bytearray(length)
    rest = memoryview(received)
    while rest:
        if deadline is not None:
            link.settimeout(max(0.001, deadline - time.monotonic()))
        count = link.recv_into(rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return received


def main() -> None:
    """Fork and end decoders as the server requests, until it ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the server, which may need decoders until it ends
    _prctl(_SET_NO_NEW_PRIVILEGES, 1)
    give_back_memory(LARGE_BLOCK)
    _import_all()
    gc.freeze()  # a collection in a decoder would copy the memory that it shares with this process
    control = socket.socket(fileno=0)
    decoders: set[int] = set()
    while True:
        request, links, _, _ = socket.recv_fds(control, REQUEST.size, 1)
        if len(request) < REQUEST.size:
            return
        process, niceness = REQUEST.unpack(request)
        if process:
            reply = -signal.SIGKILL
            if process in decoders:
                decoders.remove(process)
                os.kill(process, signal.SIGKILL)  # it may have ended already, but was not reaped
                reply = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        else:
            template = os.getpid()
            reply = os.fork()
            if reply == 0:
                _run_decoder(control, socket.socket(fileno=links[0]), template, niceness)
            os.close(links[0])
            decoders.add(reply)
        control.sendall(REPLY.pack(reply))


def _run_decoder(control: socket.socket, link: socket.socket, template: int, niceness: int) -> None:
    """Decode what comes over `link` until the server closes it. Does not return."""
    status = 1
    try:
        devnull = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):  # the template's socket, and libtiff's messages about damaged files
            os.dup2(devnull, standard)
        os.close(devnull)
        control.detach()
        os.nice(niceness)
        _drop_privileges()
        _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        while os.getppid() == template:
            _decode_next(link)
    except (EOFError, OSError):  # the server needs no more pictures, or has ended
        status = 0
    finally:
        os._exit(status)


def _decode_next(link: socket.socket) -> None:
    _limit_memory(None)
    limits, file = receive(link, 2**32 - 1)
    signal.setitimer(signal.ITIMER_PROF, limits["seconds"])  # SIGPROF ends the process
    _limit_memory(limits["memory"])
    bitmap: bytes | bytearray = b""
    expected = 0  # bytes of memory

    def check_pixels(pixels: int) -> None:
        nonlocal expected
        expected = pixels * BYTES_PER_PIXEL
        if (
            limits["memory"] < expected <= limits["max_pixels"] * BYTES_PER_PIXEL
            and not limits["whole_memory"]
        ):
            raise MemoryError  # the next level has more

    try:
        if file[8:12] == b"WEBP":  # Pillow cannot open one without enough memory
            check_pixels(_webp_pixels(file))
        picture = read_picture(
            BytesIO(file), "", limits["max_pixels"], tuple(limits["within"]), check_pixels, limits["mask"]
        )
        bitmap = Bitmap.of(picture.convert("RGB")).file
        reply: dict[str, Any] = {"size": picture.size}
    except MemoryError:
        reply = {"kind": "memory"}
    except PictureError as error:
        reply = {"kind": error.kind, "reason": error.reason[:1000]}
        if error.kind == "not_a_picture" and expected > limits["memory"]:
            reply = {"kind": "memory"}  # not all of Pillow's decoders report a lack of memory
    signal.setitimer(signal.ITIMER_PROF, 0)
    send(link, reply, len(bitmap))
    link.sendall(bitmap)


def _webp_pixels(file: bytearray) -> int:
    """The number of pixels in the header of a WebP file.

    Its sides have 14 bits each, or 24 bits, less one, in the extended format.
    """
    if file[12:16] == b"VP8X":
        numbers = int.from_bytes(file[24:30], "little")
        return ((numbers & 0xFFFFFF) + 1) * ((numbers >> 24) + 1)
    if file[12:16] == b"VP8L":
        numbers = int.from_bytes(file[21:25], "little")
        return ((numbers & 0x3FFF) + 1) * ((numbers >> 14 & 0x3FFF) + 1)
    return (int.from_bytes(file[26:28], "little") & 0x3FFF) * (int.from_bytes(file[28:30], "little") & 0x3FFF)


def _import_all() -> None:
    """Let Pillow import now what it would import for the first picture: decoders cannot open files."""
    Image.init()
    for form in FORMATS:
        file = BytesIO()
        Image.new("RGBA" if form == "PNG" else "RGB", (8, 8)).save(file, form)
        read_picture(BytesIO(file.getvalue()), "", within=(2, 2))


def _drop_privileges() -> None:
    """Forbid processes, writing to files and core dumps, and allow few open files; if root, become nobody."""
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (value, value))
    if os.geteuid() == 0:
        with suppress(OSError):  # a container may have no other user
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)


def _limit_memory(more: int | None) -> None:
    """Let this process use `more` bytes of memory than it has now; None removes the limit."""
    if sys.platform != "linux":
        return
    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    limit = most
    if more is not None:
        limit = more + int(Path("/proc/self/statm").read_bytes().split()[0]) * resource.getpagesize()
        if most != resource.RLIM_INFINITY:
            limit = min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))


def give_back_memory(threshold: int = 2**18) -> None:
    """Make glibc return every block of at least `threshold` bytes to the system as soon as it is freed.

    Up to four times as much is kept at the end of a heap, for the next small picture.

    By default glibc raises this threshold with each large block that is freed, and then keeps the memory of
    large pictures: hundreds of megabytes per thread. Other C libraries neither need this nor offer it.
    """
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, threshold)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 4 * threshold)  # M_TRIM_THRESHOLD


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    main()
