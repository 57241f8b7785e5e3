"""The log: one line of JSON on stderr for each event, from every process of the service.

A line says when, how grave, which part of the service, what happened, and whatever the caller gives as
`extra` ("job", "worker", ...). Everything logged while a request is served carries that request's id too, so
that a job's whole story is found by its id, and a client's request by the X-Request-ID it was answered with.

Lines hold no secrets and no folders of this machine: both are replaced on the way out. Nor do they hold
characters that a terminal would obey: what strangers send is in them, too.
"""

from __future__ import annotations

import json
import logging
import logging.config
import re
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import datetime, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from mead.installation import ROOT
from mead.queue.client import redis_passwords, without_password
from mead.registry import MODELS
from mead.settings import SHORTEST_KEY, Settings
from mead.terminal import printable

if TYPE_CHECKING:  # the inference server has no use for Flask
    from flask import Flask, Response

log = logging.getLogger(__name__)

REQUEST_ID = "X-Request-ID"
_GOOD_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds by machines
_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[\w.@+-]+/)+")
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_NUMBERS = (bool, int, float)

_PACKAGES = {"mead", *(spec.module.partition(".")[0] for spec in MODELS.values())}

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being served."""


def set_up(settings: Settings) -> None:
    """Log from now on as the settings say, warnings and whatever ends this process or a thread too."""
    logging.config.dictConfig(configuration(settings))
    logging.captureWarnings(True)
    # What no line holds need not be found out.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    warnings.filterwarnings("ignore", module=r"PIL\.")  # thousands, of a damaged file
    sys.excepthook = _log_crash
    threading.excepthook = lambda crash: _log_crash(crash.exc_type, crash.exc_value, crash.exc_traceback)


def configuration(settings: Settings) -> dict[str, Any]:
    """The logging of a process, as `logging.config.dictConfig` (and gunicorn's `logconfig_dict`) takes it."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": {"()": Line, "settings": settings}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"level": "DEBUG" if settings.debug else "INFO", "handlers": ["stderr"]},
        "loggers": {
            "gunicorn.error": {"handlers": [], "propagate": True},  # gunicorn's own lines take the same way
            "werkzeug": {"level": "WARNING"},
            "PIL": {"level": "CRITICAL"},  # what it says of a stranger's file is in the answer
        },
    }


class Line(logging.Formatter):
    """Makes a line of each event: a JSON object, or plain text where `log_json` is off.

    An error is told by its type, its reason and the last place it passed in the code; its whole trace is
    there only at level DEBUG.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.json = settings.log_json
        self.traces = settings.debug
        self.hidden = _hidden(settings)

    def format(self, record: logging.LogRecord) -> str:
        """The event as one line."""
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        event: dict[str, Any] = {
            "time": time,
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            event["request"] = current
        event |= {name: value for name, value in vars(record).items() if name not in _USUAL}
        error = record.exc_info[1] if record.exc_info else None
        if error is not None:
            event["error"] = reason(error)
            event["at"] = _place(error)
            if self.traces:
                event["trace"] = self.formatException((type(error), error, error.__traceback__))
        shown = self._shown(event) if self._may_hide(event) else event
        return json.dumps(shown) if self.json else printable(_plain(shown))

    def _may_hide(self, event: dict[str, Any]) -> bool:
        """Whether anything of an event might have to be hidden: of most lines nothing has."""
        texts = [value for value in event.values() if value is not None and type(value) not in _NUMBERS]
        try:
            whole = "\n".join(texts)
        except TypeError:  # not all are texts
            return True
        return any(what in whole for what, _ in self.hidden)

    def _shown(self, value: Any) -> Any:
        """A value without what is hidden. (Once it is encoded, that might not be found in it any more.)"""
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, dict):
            return {self._hide(str(name)): self._shown(one) for name, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._shown(one) for one in value]
        return self._hide(str(value))

    def _hide(self, text: str) -> str:
        for what, name in self.hidden:
            text = text.replace(what, name)
        return text


def reason(error: BaseException) -> str:
    """What anybody may be told of an error: its type and its message's first line, files without folders."""
    if isinstance(error, OSError) and error.strerror:
        message = error.strerror
    else:
        message = _FOLDERS.sub("", str(error).strip().partition("\n")[0])
    name = type(error).__name__
    return f"{name}: {message}" if message else name


def log_requests(app: Flask) -> None:
    """Give each request an id, which its answer carries and its log lines name; log how it was answered.

    A client's own X-Request-ID is kept where it is a word of at most 64 letters, digits and `_.:-`. The job
    a request is about is the one in its address, or `g.job_id`.
    """
    from flask import g, request

    @app.before_request
    def begin() -> None:
        given = request.headers.get(REQUEST_ID, "")
        g.request_id = given if _GOOD_ID.fullmatch(given) else secrets.token_hex(8)
        g.began = time.monotonic()
        request_id.set(g.request_id)

    @app.after_request
    def end(answer: Response) -> Response:
        answer.headers[REQUEST_ID] = g.request_id
        level = logging.DEBUG if request.path in _QUIET else logging.INFO
        told = {
            "method": request.method,
            "route": request.url_rule.rule if request.url_rule else None,
            "status": answer.status_code,
            "seconds": round(time.monotonic() - g.began, 3),
        }
        if job_id := g.get("job_id") or (request.view_args or {}).get("job_id"):
            told["job"] = job_id
        log.log(level, "answered", extra=told)
        return answer

    @app.teardown_request
    def forget(error: BaseException | None) -> None:
        request_id.set(None)


def _log_crash(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if error is not None and not isinstance(error, (KeyboardInterrupt, SystemExit)):
        log.critical("crashed", exc_info=(kind, error, trace))


def _plain(event: dict[str, Any]) -> str:
    time, level, logger, what, *_ = event.values()
    more = " ".join(f"{name}={value}" for name, value in list(event.items())[4:])
    return f"{time} {level:<7} {logger}: {what} {more}".replace("\n", "\n    ").rstrip()


def _place(error: BaseException) -> str | None:
    """Where an error was raised, as in "mead.worker.batch:80 _step": the last frame of the project."""
    here = None
    trace = error.__traceback__
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if here is None or module.partition(".")[0] in _PACKAGES:
            here = f"{module}:{trace.tb_lineno} {trace.tb_frame.f_code.co_name}"
        trace = trace.tb_next
    return here


def _hidden(settings: Settings) -> list[tuple[str, str]]:
    """What no line may hold, and what stands there instead."""

    def pairs() -> Iterator[tuple[str, str]]:
        hidden = {key.get_secret_value(): "***" for key in settings.api_keys}
        for password in redis_passwords(settings.redis_url):
            hidden |= {f":{password}@": ":***@", f"password={password}": "password=***"}
            if len(password) >= SHORTEST_KEY:  # a shorter one may be a part of many words
                hidden[password] = "***"
        hidden[settings.redis_url] = without_password(settings.redis_url)
        for secret, name in hidden.items():
            yield from ((spelled, name) for spelled in _spellings(secret))
        yield str(settings.data_dir.resolve()), "DATA_DIR"
        yield str(ROOT), "."
        yield sys.prefix, "PYTHON"

    # the longest first: one folder may lie in another
    return sorted(set(pairs()), key=lambda pair: (-len(pair[0]), pair))


def _spellings(secret: str) -> set[str]:
    """A secret as texts may hold it: plain, as JSON and Python quote it, percent-encoded."""
    encoded = {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    return {
        secret,
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        ascii(secret)[1:-1],
        repr(secret)[1:-1],
        repr(secret.encode())[2:-1],
        secret.replace("\\", "\\\\"),
        *encoded,
        *(re.sub("%..", lambda code: code[0].lower(), one) for one in encoded),
    }
