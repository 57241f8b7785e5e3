"""The processes in which strangers' pictures are decoded; `mead.imaging.decoders` starts and asks them.

`python -m mead.imaging.decoder` is a template: it has imported what decoding takes, sees no picture, and
forks a decoder whenever the server asks for one, in milliseconds. A decoder has no secrets, no files and few
rights, and the kernel ends it when a picture takes more processor time than it was given; a picture that
wants more memory gets none. Neither reaches the server. All of them end with it, whatever ends it.

The server sends the template orders over the socket that is its standard input, and shares a socket of its
own with each decoder. A message between them is a JSON object and bytes: a file one way, a bitmap the other.
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

ORDER = struct.Struct("!ii")
"""0 and a niceness: fork a decoder, for the socket that comes along. A process id and 0: end that decoder."""
ANSWER = struct.Struct("!i")
"""The process id of the new decoder, or how the ended one ended: its exit status, or minus a signal."""
_LENGTHS = struct.Struct("!II")  # of a message's two parts

NOBODY = 65534
LARGE_BLOCK = 2**20  # bytes; what a decoder needs for a small picture it keeps for the next one
_SET_PARENT_DEATH_SIGNAL, _SET_NO_NEW_PRIVILEGES = 1, 38  # of prctl


def send(link: socket.socket, head: dict[str, Any], length: int = 0) -> None:
    """Send a message's first part; the `length` bytes of its second are for the caller to send.

    Raises:
        OSError: the other side is gone, or does not read in time.
    """
    text = json.dumps(head).encode()
    link.sendall(_LENGTHS.pack(len(text), length) + text)


def receive(
    link: socket.socket, longest: int, deadline: float | None = None
) -> tuple[dict[str, Any], bytearray]:
    """The next message.

    Args:
        longest: bytes that either part may have.
        deadline: until when (time.monotonic) it must be here.

    Raises:
        EOFError: the other side has ended.
        OSError: it is broken, or does not send in time.
    """
    lengths = _LENGTHS.unpack(_receive(link, _LENGTHS.size, deadline))
    if max(lengths) > longest:
        raise OSError("a longer message than is allowed")
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
    """Fork and end decoders as the server orders, until it is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the server, which may want pictures until its end
    _prctl(_SET_NO_NEW_PRIVILEGES, 1)
    give_back_memory(LARGE_BLOCK)
    _import_all()
    gc.freeze()  # a collection in a decoder would make it copy all memory that it shares with this process
    control = socket.socket(fileno=0)
    decoders: set[int] = set()
    while True:
        order, links, _, _ = socket.recv_fds(control, ORDER.size, 1)
        if len(order) < ORDER.size:
            return
        process, niceness = ORDER.unpack(order)
        if process:
            answer = -signal.SIGKILL
            if process in decoders:
                decoders.remove(process)
                os.kill(process, signal.SIGKILL)  # it may have ended before; its number is kept for us
                answer = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        else:
            template = os.getpid()
            answer = os.fork()
            if answer == 0:
                _be_a_decoder(control, socket.socket(fileno=links[0]), template, niceness)
            os.close(links[0])
            decoders.add(answer)
        control.sendall(ANSWER.pack(answer))


def _be_a_decoder(control: socket.socket, link: socket.socket, template: int, niceness: int) -> None:
    """Decode what comes over `link` until the server closes it. Does not return."""
    status = 1
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):  # the order's socket, and what libtiff says of damaged files
            os.dup2(nowhere, standard)
        os.close(nowhere)
        control.detach()
        os.nice(niceness)
        _give_up_rights()
        _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        while os.getppid() == template:
            _decode_next(link)
    except (EOFError, OSError):  # the server has no more, or is gone
        status = 0
    finally:
        os._exit(status)


def _decode_next(link: socket.socket) -> None:
    _limit_memory(None)
    asked, file = receive(link, 2**32 - 1)
    signal.setitimer(signal.ITIMER_PROF, asked["seconds"])  # SIGPROF ends the process
    _limit_memory(asked["memory"])
    bitmap: bytes | bytearray = b""
    may_take = 0

    def look_at(pixels: int) -> None:
        nonlocal may_take
        may_take = pixels * BYTES_PER_PIXEL
        if asked["memory"] < may_take <= asked["max_pixels"] * BYTES_PER_PIXEL and not asked["whole_memory"]:
            raise MemoryError  # the next level has more

    try:
        if file[8:12] == b"WEBP":  # Pillow opens none for which there is no memory
            look_at(_webp_pixels(file))
        picture = read_picture(BytesIO(file), "", asked["max_pixels"], tuple(asked["within"]), look_at)
        bitmap = Bitmap.of(picture).file
        answer: dict[str, Any] = {"size": picture.size}
    except MemoryError:
        answer = {"kind": "memory"}
    except PictureError as error:
        answer = {"kind": error.kind, "reason": error.reason[:1000]}
        if error.kind == "not_a_picture" and may_take > asked["memory"]:
            answer = {"kind": "memory"}  # not all of Pillow's decoders say it when they get none
    signal.setitimer(signal.ITIMER_PROF, 0)
    send(link, answer, len(bitmap))
    link.sendall(bitmap)


def _webp_pixels(file: bytearray) -> int:
    """How many pixels a WebP says it has.

    Its sides are numbers of 14 bits, or of 24 less one in a file of several parts.
    """
    if file[12:16] == b"VP8X":
        numbers = int.from_bytes(file[24:30], "little")
        return ((numbers & 0xFFFFFF) + 1) * ((numbers >> 24) + 1)
    if file[12:16] == b"VP8L":
        numbers = int.from_bytes(file[21:25], "little")
        return ((numbers & 0x3FFF) + 1) * ((numbers >> 14 & 0x3FFF) + 1)
    return (int.from_bytes(file[26:28], "little") & 0x3FFF) * (int.from_bytes(file[28:30], "little") & 0x3FFF)


def _import_all() -> None:
    """Have Pillow import now what it would import for the first picture, when it may open no files."""
    Image.init()
    for form in FORMATS:
        file = BytesIO()
        Image.new("RGBA" if form == "PNG" else "RGB", (8, 8)).save(file, form)
        read_picture(BytesIO(file.getvalue()), "", within=(2, 2))


def _give_up_rights() -> None:
    """No processes, no growing files, no dumps of memory, hardly any open files; and nobody, if root."""
    for limit, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, 16),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(limit, (value, value))
    if os.geteuid() == 0:
        with suppress(OSError):  # a container may know no other user
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)


def _limit_memory(more: int | None) -> None:
    """Let this process take `more` bytes of memory beside what it has; None: as much as there is."""
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
    """Have every block of at least `threshold` bytes go back to the system as soon as it is freed.

    What is freed at the end of a heap stays, up to four times as much: the next small picture needs it again.

    Left to itself, glibc raises this threshold with each large block that it sees freed, and then keeps the
    memory of large pictures: hundreds of megabytes, for each thread that had one. Other C libraries have no
    such call and no such habit.
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
