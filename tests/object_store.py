"""An object store for the tests: moto's server, behind a proxy that ages objects and injects faults."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime, parsedate_to_datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
from botocore.config import Config

from mead.bucket_storage import BucketStorage
from mead.cli.local_redis import free_port

BUCKET = "pictures"
SLOW_SECONDS = 2.5
TIMEOUT = 1.0  # seconds, of clients that meet slow answers
PAGE = 50  # objects in a page of a listing


class ObjectStore:
    """moto's server and the proxy in front of it.

    Attributes:
        url: of the proxy.
        fault: what happens to requests: None, "500", "slow", "reset" (before moto sees them) or "lost" (the
            answer of moto).
        faults: how many more requests it happens to.
        requests: methods and paths of the requests so far.
        headers: the names of their headers, in lower case.
        busy: how many requests are being handled.
    """

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        with (folder / "moto.log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-p", str(self.port)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                assert self.process.poll() is None and time.monotonic() < deadline, "moto does not start"
                time.sleep(0.05)
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            config=Config(proxies={}),
        )
        self.client.create_bucket(Bucket=BUCKET)
        self.fault: str | None = None
        self.faults = 0
        self.requests: list[tuple[str, str]] = []
        self.headers: set[str] = set()
        self.busy = 0
        self._ages: dict[str, float] = {}  # by key, seconds
        self.lock = threading.Lock()
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._proxy.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._proxy.server_port}"
        threading.Thread(target=self._proxy.serve_forever, args=[0.05], daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead a client here."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
        }

    def stop(self) -> None:
        """Stop both."""
        self._proxy.shutdown()
        self._proxy.server_close()
        self.process.terminate()
        self.process.wait(30)

    def fail(self, fault: str | None, times: int = 10**9) -> None:
        """Let the next requests meet a fault; None: none."""
        with self.lock:
            self.fault, self.faults = fault, times

    def next_fault(self) -> str | None:
        """What the request that is being handled meets."""
        with self.lock:
            if self.fault is None or self.faults == 0:
                return None
            self.faults -= 1
            return self.fault

    def keys(self, prefix: str) -> set[str]:
        """The keys below a prefix, without it."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/")
        found = (entry["Key"] for page in pages for entry in page.get("Contents", []))
        return {key.removeprefix(f"{prefix}/") for key in found}

    def put(self, storage: BucketStorage, path: Path | str, content: bytes) -> None:
        """Write an object behind the storage's back."""
        self.client.put_object(Bucket=BUCKET, Key=f"{storage.prefix}/{path}", Body=content)

    def get(self, storage: BucketStorage, path: Path) -> bytes:
        """Read an object behind the storage's back."""
        answer = self.client.get_object(Bucket=BUCKET, Key=f"{storage.prefix}/{path}")
        return bytes(answer["Body"].read())

    def age(self, storage: BucketStorage, path: Path, seconds: float) -> None:
        """Let an object look as if it had been written some time ago."""
        self._ages[f"{storage.prefix}/{path}"] = seconds

    def aged(self, path: str, headers: dict[str, str], body: bytes) -> bytes:
        """moto's answer, with what `age` asks for."""
        key = unquote(urlsplit(path).path).removeprefix(f"/{BUCKET}/")
        if key in self._ages:
            for name in [name for name in headers if name.lower() == "last-modified"]:
                older = parsedate_to_datetime(headers[name]) - timedelta(seconds=self._ages[key])
                headers[name] = format_datetime(older.astimezone(timezone.utc), usegmt=True)
        if b"<ListBucketResult" in body:
            text = re.sub(r"<Contents>.*?</Contents>", self._age_entry, body.decode(), flags=re.DOTALL)
            return text.encode()
        return body

    def _age_entry(self, entry: re.Match[str]) -> str:
        key = re.search(r"<Key>(.*?)</Key>", entry[0])
        if key is None or key[1] not in self._ages:
            return entry[0]
        older = datetime.now(timezone.utc) - timedelta(seconds=self._ages[key[1]])
        stamp = older.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return re.sub(r"(?<=<LastModified>).*?(?=</LastModified>)", stamp, entry[0])


def _handler(store: ObjectStore) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self) -> None:
            with store.lock:
                store.busy += 1
            try:
                self._pass_on()
            finally:
                with store.lock:
                    store.busy -= 1

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            store.requests.append((self.command, self.path))
            store.headers.update(map(str.lower, self.headers))
            fault = store.next_fault()
            if fault == "reset":
                self._reset()
            elif fault == "500":
                self._answer(500, {}, b"<Error><Code>InternalError</Code></Error>")
            else:
                if fault == "slow":
                    time.sleep(SLOW_SECONDS)
                status, headers, answer = self._ask(body)
                if fault == "lost":
                    self._reset()
                else:
                    self._answer(status, headers, store.aged(self.path, headers, answer))

        def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            path = self.path
            if "list-type=2" in path:
                path += f"&max-keys={PAGE}"
            moto = HTTPConnection("127.0.0.1", store.port, timeout=30)
            try:
                moto.request(self.command, path, body, dict(self.headers.items()))
                answer = moto.getresponse()
                skipped = {"transfer-encoding", "connection", "content-length", "date", "server"}
                headers = {name: value for name, value in answer.getheaders() if name.lower() not in skipped}
                if self.command == "HEAD":
                    headers["Content-Length"] = answer.getheader("Content-Length") or "0"
                return answer.status, headers, answer.read()
            finally:
                moto.close()

        def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            with suppress(OSError):  # the client has given up
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        def _reset(self) -> None:
            """Close the connection so that the client's kernel reports a reset."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def finish(self) -> None:
            """Flush, unless the connection was reset."""
            with suppress(OSError):
                super().finish()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815

    return Handler
