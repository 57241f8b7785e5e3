"""Where the whole service listens, and how it is asked there."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from mead.cli.local_redis import free_port
from mead.cli.local_service import check_address, reachable_host
from mead.processes.child import ServiceError


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("fd00::2", "[fd00::2]"),
        ("localhost", "localhost"),
        ("mead.example", "mead.example"),
    ],
)
def test_the_host_in_the_url(host: str, asked: str) -> None:
    assert reachable_host(host) == asked


def check_free(host: str) -> None:
    """Check a free port. Another process may take it meanwhile, so several are tried."""
    for _ in range(10):
        with suppress(ServiceError):
            check_address(host, free_port())
            return
    pytest.fail("ten free ports in a row are in use")


@contextmanager
def another_server(host: str, family: socket.AddressFamily = socket.AF_INET) -> Iterator[int]:
    """The port of a server that is none of ours: it hangs up on everybody."""
    with socket.create_server((host, 0), family=family) as server:

        def hang_up() -> None:
            with suppress(OSError):  # it is closed
                while True:
                    server.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        try:
            yield int(server.getsockname()[1])
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_port_must_be_free_where_it_listens(host: str) -> None:
    check_free(host)
    with another_server("127.0.0.1") as port, pytest.raises(ServiceError, match="is in use"):
        check_address(host, port)


@pytest.mark.skipif(not socket.has_ipv6, reason="a machine without IPv6")
@pytest.mark.parametrize("host", ["::", "::1"])
def test_a_port_of_ipv6(host: str) -> None:
    check_free(host)
    with another_server("::1", socket.AF_INET6) as port, pytest.raises(ServiceError, match="is in use"):
        check_address(host, port)
