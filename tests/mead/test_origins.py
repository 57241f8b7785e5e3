"""Origins and host names in one spelling."""

from __future__ import annotations

import pytest

from mead.origins import is_allowed_host, normal_host, normal_origin


@pytest.mark.parametrize(
    ("written", "sent"),
    [
        ("https://app.example.com", "https://app.example.com"),
        ("https://App.Example.COM/", "https://app.example.com"),
        ("HTTPS://app.example.com:443", "https://app.example.com"),
        ("http://app.example.com:80/", "http://app.example.com"),
        ("http://app.example.com:443", "http://app.example.com:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("http://[0:0::1]:8080", "http://[::1]:8080"),
        ("http://my_service", "http://my_service"),
        ("chrome-extension://abcdefgh", "chrome-extension://abcdefgh"),
        ("null", "null"),
    ],
)
def test_an_origin_has_one_spelling(written: str, sent: str) -> None:
    assert normal_origin(written) == sent == normal_origin(sent)


@pytest.mark.parametrize(
    "wrong",
    [
        *("app.example.com", "//app.example.com", "https://", "https://app.example.com/app", "https://a?b"),
        *(
            "https://a#b",
            "https://user@a",
            "https://*.example.com",
            "https://a:99999",
            "https://a b",
            "",
            "*",
        ),
        *("https://a..b", "https://[::1", "file:///home"),
    ],
)
def test_no_origin(wrong: str) -> None:
    with pytest.raises(ValueError, match="scheme://host"):
        normal_origin(wrong)


def test_a_host_has_one_spelling() -> None:
    names = ["Pictures.Example.com", ".example.com", "bücher.example.", "[::1]", "::1", "10.0.0.1", "studio"]
    normal = ["pictures.example.com", ".example.com", "xn--bcher-kva.example", "[::1]", "[::1]"]
    assert [normal_host(name) for name in names] == [*normal, "10.0.0.1", "studio"]
    for wrong in ("https://pictures.example.com", "pictures.example.com:8080", "a/b", "*.example.com", ""):
        with pytest.raises(ValueError, match="name without scheme, port and path"):
            normal_host(wrong)


@pytest.mark.parametrize(
    ("host", "known"),
    [
        *[(name, True) for name in ("localhost", "localhost:5000", "LOCALHOST.", "mead.localhost", "x")],
        *[(name, True) for name in ("127.0.0.1:5000", "127.1", "192.168.1.2", "[::1]", "[fe80::1]:5000")],
        *[(name, True) for name in ("studio.lan", "Studio.LAN.:80", "in.example.com", "a.in.example.com")],
        *[(name, False) for name in ("evil.example", "evil.example:5000", "studio.lan.evil.example")],
        *[(name, False) for name in ("example.com", "notin.example.com", "127.0.0.1.evil.example")],
        *[(name, False) for name in ("localhost.evil.example", "me@localhost", "a b", "a/b", "", ":80")],
    ],
)
def test_which_names_are_the_services(host: str, known: bool) -> None:
    assert is_allowed_host(host, {"studio.lan", ".in.example.com"}) is known
