"""Decoding of uploaded pictures in separate processes, so that none can harm or block the server.

A picture may take DECODE_SECONDS of CPU time and DECODE_MEMORY_BYTES, but most need less than a hundredth of
that. So that expensive pictures do not delay the others, there are levels with decoders of their own (a
multilevel feedback queue): small pictures are decoded at the first level, photos at the second, and what
needs more starts again at the third, one at a time and with low priority. At each level clients are served
in turn.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

from mead.imaging.decoder_process import REPLY, REQUEST, receive, send
from mead.imaging.encoding import BMP_HEADER, Bitmap
from mead.imaging.fair_semaphore import BusyError, FairSemaphore
from mead.imaging.pictures import PictureError
from mead.installation import ROOT

log = logging.getLogger(__name__)

PICTURES_PER_DECODER = 100  # before it is replaced
BLOCK = 2**18  # bytes of a file sent at a time
ENVIRONMENT = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")  # what Python needs to start


class _ExceededError(Exception):
    """A picture takes more than its level allows, of "time" or of "memory"."""

    def __init__(self, resource: Literal["time", "memory"]) -> None:
        super().__init__(resource)
        self.resource = resource


@dataclass(frozen=True)
class DecodeLimits:
    """What decoding may take, and the size of its results.

    Attributes:
        seconds: CPU time for one picture.
        memory_bytes: memory for one picture.
        max_pixels: the largest picture that is decoded, width times height.
        within: the largest width and height of the result; the aspect ratio is kept.
        processes: how many processes like this one share the machine.
        waiting: how many pictures may wait for a decoder; a quarter of that at the slower levels.
        in_memory: how many decoded pictures the process of the server holds.
    """

    seconds: float = 10
    memory_bytes: int = 2**30
    max_pixels: int = 50_000_000
    within: tuple[int, int] = (1024, 1024)
    processes: int = 1
    waiting: int = 512
    in_memory: int = 8


class Decoders:
    """Decodes pictures in other processes, which are started on first use.

    The first two levels have as many decoders as this process's share of the CPUs, the first at least two.
    """

    def __init__(self, limits: DecodeLimits) -> None:
        template = _Template()
        share = (os.cpu_count() or 1) // limits.processes
        self._limits = limits
        self._in_memory = threading.BoundedSemaphore(limits.in_memory)
        self._levels = (
            _Level(template, limits, decoders=max(2, share), niceness=0, time=0.006, memory=1 / 16),
            _Level(template, limits, decoders=max(1, share), niceness=5, time=0.06, memory=1 / 4),
            _Level(template, limits, decoders=1, niceness=15, time=1, memory=1),
        )

    @contextmanager
    def decoded(self, file: BinaryIO, field: str, client: str, mask: bool = False) -> Iterator[Bitmap]:
        """Decode a picture like `imaging.pictures.read_picture`, reduced to the largest stored size.

        Only `in_memory` such blocks run at a time, of `DecodeLimits`.

        Args:
            file: open for reading; read from its beginning.
            field: the name of the picture in errors.
            client: the client that has sent it.
            mask: whether it is a mask; the bitmap is then grey.

        Raises:
            PictureError: the picture is invalid; "too_large" if decoding takes too much.
            BusyError: too many pictures are being decoded.
        """
        exceeded = ""
        for level in self._levels:
            with level.semaphore.acquire(client, field):
                try:
                    picture = level.decode(file, field, mask)
                except _ExceededError as error:
                    exceeded = error.resource
                    continue
                self._in_memory.acquire()  # before the next one is decoded
            try:
                yield picture
            finally:
                self._in_memory.release()
            return
        limits = {
            "time": f"{self._limits.seconds:g} seconds of CPU time",
            "memory": f"{self._limits.memory_bytes / 2**20:,.0f} MiB of memory",
        }
        log.info("a picture takes too much to decode", extra={"what": exceeded, "client": client})
        raise PictureError(field, "too_large", f"takes more than {limits[exceeded]} to decode")


class _Level:
    """Some decoders, and their limits for one picture.

    Args:
        decoders: the number of processes.
        niceness: their niceness.
        time, memory: their limits, as fractions of `limits`.
    """

    def __init__(
        self,
        template: _Template,
        limits: DecodeLimits,
        *,
        decoders: int,
        niceness: int,
        time: float,
        memory: float,
    ) -> None:
        # All threads of the server may wait for cheap pictures, a quarter of them for expensive ones.
        self.semaphore = FairSemaphore(decoders, limits.waiting if niceness == 0 else limits.waiting // 4)
        self._template = template
        self._niceness = niceness
        self._limits = {
            "seconds": time * limits.seconds,
            "memory": round(memory * limits.memory_bytes),
            "whole_memory": memory == 1,
            "max_pixels": limits.max_pixels,
            "within": limits.within,
        }
        self._idle: list[_Decoder] = []

    def decode(self, file: BinaryIO, field: str, mask: bool) -> Bitmap:
        """Decode a picture within this level's limits.

        If its decoder is killed, another one tries once more.

        Raises:
            _ExceededError: the picture exceeds this level's limits.
            PictureError, BusyError: as `Decoders.decoded`.
        """
        for take in (self._take, self._start):
            decoder = take(field)
            try:
                picture = decoder.decode(file, field, {**self._limits, "mask": mask})
            except (PictureError, _ExceededError):
                decoder.end()  # the picture may have left it in a bad state
                raise
            except Exception as error:  # it has ended, hangs or replies nonsense
                status = decoder.end()
                if status == -signal.SIGPROF:
                    raise _ExceededError("time") from None
                log.warning("a decoder ended", extra={"status": status, "error": repr(error)})
                if isinstance(error, TimeoutError):
                    raise BusyError(field) from None
                continue
            if decoder.pictures < PICTURES_PER_DECODER:
                self._idle.append(decoder)
            else:
                decoder.end()
            return picture
        if status == -signal.SIGKILL:  # twice, by the system
            raise BusyError(field)
        raise PictureError(field, "not_a_picture", "not a picture that can be read (its decoder crashes)")

    def _take(self, field: str) -> _Decoder:
        with suppress(IndexError):
            return self._idle.pop()
        return self._start(field)

    def _start(self, field: str) -> _Decoder:
        try:
            return _Decoder(self._template, self._niceness)
        except OSError as error:
            log.error("no decoder can be started", extra={"error": str(error)})
            raise BusyError(field) from error


class _Decoder:
    """A process that decodes pictures, as the server sees it.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, template: _Template, niceness: int) -> None:
        self.pictures = 0
        self._template = template
        self._link, theirs = socket.socketpair()
        with theirs:
            self._process = template.request(0, niceness, theirs)

    def decode(self, file: BinaryIO, field: str, limits: dict[str, Any]) -> Bitmap:
        """Decode a picture.

        Raises:
            PictureError: the picture is invalid.
            _ExceededError: the picture takes too much memory.
            TimeoutError: the process hangs, or gets too little CPU time.
            Exception: any other; the process has ended (perhaps by its time limit) or replies nonsense.
        """
        self.pictures += 1
        deadline = time.monotonic() + 20 * limits["seconds"] + 20  # other processes need the CPUs, too
        self._link.settimeout(deadline - time.monotonic())
        file.seek(0, os.SEEK_END)
        send(self._link, limits, file.tell())
        file.seek(0)
        while block := file.read(BLOCK):
            self._link.sendall(block)
        width, height = limits["within"]
        pixels = min(width * height, limits["max_pixels"])
        reply, bitmap = receive(self._link, BMP_HEADER.size + 4 * pixels + 65_536, deadline)
        if reply.get("kind") == "memory":
            raise _ExceededError("memory")
        if "kind" in reply:
            raise PictureError(field, reply["kind"], reply["reason"])
        return Bitmap(tuple(reply["size"]), bitmap)

    def end(self) -> int:
        """End the process, unless it has ended; returns its exit status, or minus a signal."""
        self._link.close()
        try:
            return self._template.request(self._process)
        except OSError:
            return -signal.SIGKILL


class _Template:
    """The process that forks decoders; started on first use, and again if it was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._end: Callable[[], object] = lambda: None

    def request(self, process: int, niceness: int = 0, link: socket.socket | None = None) -> int:
        """Send a request and return the reply; see REQUEST and REPLY in `mead.imaging.decoder_process`.

        Raises:
            OSError: the process cannot be started.
        """
        message = REQUEST.pack(process, niceness)
        with self._lock:
            for _ in range(2):
                control = self._control or self._start()
                with suppress(OSError):
                    socket.send_fds(control, [message], [link.fileno()] if link else [])
                    reply = control.recv(REPLY.size)
                    if reply:
                        return int(REPLY.unpack(reply)[0])
                self._end()
                self._control = None
        raise ChildProcessError("python -m mead.imaging.decoder_process exits at once")

    def _start(self) -> socket.socket:
        environment = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        control, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "mead.imaging.decoder_process"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd=ROOT,
                env={"OPENBLAS_NUM_THREADS": "1", **environment},
            )
        self._end = weakref.finalize(self, _end, control, process)
        self._control = control
        return control


def _end(control: socket.socket, template: subprocess.Popen[bytes]) -> None:
    """End a template process and all its decoders."""
    control.close()
    template.wait()
