"""Strangers' pictures, decoded in processes of their own, so that none can harm the server or hold it up.

A picture may take DECODE_SECONDS of processor time and DECODE_MEMORY_BYTES, and few good ones need a
hundredth of that. So that those which do need it hold nobody else up, there are levels, each with decoders of
its own (a multilevel feedback queue): small pictures are done at the first, those of telephones and cameras
at the second, and whatever needs more starts again at the third, one at a time and at a low priority. At each
level clients take turns, however many pictures each has sent.
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

from mead.imaging.decoder import ANSWER, ORDER, receive, send
from mead.imaging.encoding import BMP_HEADER, Bitmap
from mead.imaging.pictures import PictureError
from mead.imaging.turns import BusyError, Turns
from mead.installation import ROOT

log = logging.getLogger(__name__)

PICTURES = 100  # that one process decodes
IN_MEMORY = 8  # pictures that one process of the server holds
BLOCK = 2**18  # bytes of a file sent at a time
ENVIRONMENT = ("PATH", "HOME", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")  # where Python finds itself


class _ExceededError(Exception):
    """A picture takes more than it may, of "time" or of "memory"."""

    def __init__(self, what: Literal["time", "memory"]) -> None:
        super().__init__(what)
        self.what = what


@dataclass(frozen=True)
class DecodeLimits:
    """What decoding may take, and what comes out of it.

    Attributes:
        seconds: of processor time, for one picture.
        memory_bytes: for one picture.
        max_pixels: width times height of a picture that is decoded at all.
        within: largest width and height of what comes out; the aspect is kept.
        processes: how many processes like this one share the machine.
        waiting: how many pictures may wait for a decoder; a quarter as many for those of the slow levels.
    """

    seconds: float = 10
    memory_bytes: int = 2**30
    max_pixels: int = 50_000_000
    within: tuple[int, int] = (1024, 1024)
    processes: int = 1
    waiting: int = 512


class Decoders:
    """Decodes pictures in other processes, which are started when they are first needed.

    The first two levels have as many decoders as this process has processors to itself, and the first at
    least two.
    """

    def __init__(self, limits: DecodeLimits) -> None:
        template = _Template()
        share = (os.cpu_count() or 1) // limits.processes
        self._limits = limits
        self._in_memory = threading.BoundedSemaphore(IN_MEMORY)
        self._levels = (
            _Level(template, limits, decoders=max(2, share), niceness=0, time=0.006, memory=1 / 16),
            _Level(template, limits, decoders=max(1, share), niceness=5, time=0.06, memory=1 / 4),
            _Level(template, limits, decoders=1, niceness=15, time=1, memory=1),
        )

    @contextmanager
    def decoded(self, file: BinaryIO, field: str, client: str) -> Iterator[Bitmap]:
        """Decode a picture as `imaging.pictures.read_picture` does, shrunk to the largest stored size.

        Until the block ends the picture is one of the few that may be in memory.

        Args:
            file: open for reading; read from its beginning.
            field: what to call it in errors.
            client: who sent it.

        Raises:
            PictureError: for everything wrong with the content; "too_large" if decoding it takes too much.
            BusyError: others were in front of it for too long.
        """
        exceeded = ""
        for level in self._levels:
            with level.turns.turn(client, field):
                try:
                    picture = level.decode(file, field)
                except _ExceededError as error:
                    exceeded = error.what
                    continue
                self._in_memory.acquire()  # before the next one is decoded
            try:
                yield picture
            finally:
                self._in_memory.release()
            return
        limits = {
            "time": f"{self._limits.seconds:g} seconds of processor time",
            "memory": f"{self._limits.memory_bytes / 2**20:,.0f} MiB of memory",
        }
        log.info("a picture takes too much to decode", extra={"what": exceeded, "client": client})
        raise PictureError(field, "too_large", f"takes more than {limits[exceeded]} to decode")


class _Level:
    """Some decoders, and what they may take for one picture.

    Args:
        decoders: how many, each a process.
        niceness: theirs.
        time, memory: shares of what the limits allow.
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
        # A quarter of the server's threads may wait for long pictures, all of them for short ones.
        self.turns = Turns(decoders, limits.waiting if niceness == 0 else limits.waiting // 4)
        self._template = template
        self._niceness = niceness
        self._asked = {
            "seconds": time * limits.seconds,
            "memory": round(memory * limits.memory_bytes),
            "whole_memory": memory == 1,
            "max_pixels": limits.max_pixels,
            "within": limits.within,
        }
        self._idle: list[_Decoder] = []

    def decode(self, file: BinaryIO, field: str) -> Bitmap:
        """Decode a picture within what this level may take.

        If the decoder is killed, another gets the picture, once.

        Raises:
            _ExceededError: the picture takes more than this level has.
            PictureError, BusyError: as `Decoders.decoded` says.
        """
        for take in (self._take, self._start):
            decoder = take(field)
            try:
                picture = decoder.decode(file, field, self._asked)
            except (PictureError, _ExceededError):
                decoder.end()  # what it could not decode may have done it harm
                raise
            except Exception as error:  # it has ended, is stuck or talks nonsense
                status = decoder.end()
                if status == -signal.SIGPROF:
                    raise _ExceededError("time") from None
                log.warning("a decoder ended", extra={"status": status, "error": repr(error)})
                if isinstance(error, TimeoutError):
                    raise BusyError(field) from None
                continue
            if decoder.pictures < PICTURES:
                self._idle.append(decoder)
            else:
                decoder.end()
            return picture
        if status == -signal.SIGKILL:  # twice, and not by us
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
            log.error("no decoder starts", extra={"error": str(error)})
            raise BusyError(field) from error


class _Decoder:
    """The server's side of one process that decodes pictures.

    Raises:
        OSError: it does not start.
    """

    def __init__(self, template: _Template, niceness: int) -> None:
        self.pictures = 0
        self._template = template
        self._link, theirs = socket.socketpair()
        with theirs:
            self._process = template.order(0, niceness, theirs)

    def decode(self, file: BinaryIO, field: str, asked: dict[str, Any]) -> Bitmap:
        """Decode a picture.

        Raises:
            PictureError: for what is wrong with the picture.
            _ExceededError: it takes too much memory.
            TimeoutError: the process is stuck, or has too little of the processors.
            Exception: of any other kind, it has ended (perhaps as its time was up) or talks nonsense.
        """
        self.pictures += 1
        deadline = time.monotonic() + 20 * asked["seconds"] + 20  # others want the processors, too
        self._link.settimeout(deadline - time.monotonic())
        file.seek(0, os.SEEK_END)
        send(self._link, asked, file.tell())
        file.seek(0)
        while block := file.read(BLOCK):
            self._link.sendall(block)
        width, height = asked["within"]
        answer, bitmap = receive(self._link, BMP_HEADER.size + 4 * width * height + 65_536, deadline)
        if answer.get("kind") == "memory":
            raise _ExceededError("memory")
        if "kind" in answer:
            raise PictureError(field, answer["kind"], answer["reason"])
        return Bitmap(tuple(answer["size"]), bitmap)

    def end(self) -> int:
        """End the process, if it has not ended; how it ended: its status, or minus a signal."""
        self._link.close()
        try:
            return self._template.order(self._process)
        except OSError:
            return -signal.SIGKILL


class _Template:
    """The process that forks decoders; started when it is first needed, and again should it be killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._end: Callable[[], object] = lambda: None

    def order(self, process: int, niceness: int = 0, link: socket.socket | None = None) -> int:
        """Send an order; the answer. See `mead.imaging.decoder.ORDER` and ANSWER.

        Raises:
            OSError: it does not start.
        """
        message = ORDER.pack(process, niceness)
        with self._lock:
            for _ in range(2):
                control = self._control or self._start()
                with suppress(OSError):
                    socket.send_fds(control, [message], [link.fileno()] if link else [])
                    answer = control.recv(ANSWER.size)
                    if answer:
                        return int(ANSWER.unpack(answer)[0])
                self._end()
                self._control = None
        raise ChildProcessError("python -m mead.imaging.decoder ends as it starts")

    def _start(self) -> socket.socket:
        known = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
        control, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "mead.imaging.decoder"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd=ROOT,
                env={"OPENBLAS_NUM_THREADS": "1", **known},
            )
        self._end = weakref.finalize(self, _end, control, process)
        self._control = control
        return control


def _end(control: socket.socket, template: subprocess.Popen[bytes]) -> None:
    """End a template, and with it all its decoders."""
    control.close()
    template.wait()
