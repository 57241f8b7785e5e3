"""Which receivers of webhooks are allowed."""

from __future__ import annotations

import ipaddress

import pytest

from mead.receivers import AllowedReceivers, check_allowed, check_url, is_public, origin_of


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1"])
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1", "::127.0.0.1", "2001:db8::1"),
        *("64:ff9b::7f00:1", "64:ff9b::a00:1", "2002:7f00:1::", "2002:a00:1::1"),
    ],
)
def test_other_addresses(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))
    assert not AllowedReceivers().allows("example.com", address, 443)


def test_what_is_named_is_allowed() -> None:
    allowed = AllowedReceivers(["10.0.0.0/8", "receiver.lan", ".studio.internal", "::1", "192.168.1.7"])
    for host, address in (
        ("anything.example.com", "10.1.2.3"),
        ("anything.example.com", "::ffff:10.1.2.3"),
        ("receiver.lan", "192.168.1.1"),
        ("RECEIVER.lan.", "127.0.0.1"),
        ("a.studio.internal", "fe80::1%eth0"),
        ("localhost", "::1"),
        ("192.168.1.7", "192.168.1.7"),
    ):
        assert allowed.allows(host, address, 80), (host, address)
    assert not allowed.allows("other.lan", "192.168.1.1", 80) and not allowed.allows("a", "127.0.0.1", 80)
    assert AllowedReceivers("*").allows("a", "127.0.0.1", 80)


def test_a_port_may_be_the_only_one() -> None:
    allowed = AllowedReceivers(["receiver.lan:8000", "10.0.0.0/8:9", "[fd00::7]:8000", "[::1]", ".in.lan:80"])
    for host, address in (("receiver.lan", "127.0.0.1"), ("fd00::7", "fd00::7")):
        assert allowed.allows(host, address, 8000) and not allowed.allows(host, address, 6379), host
    assert allowed.allows("a", "10.1.2.3", 9) and not allowed.allows("a", "10.1.2.3", 80)
    assert allowed.allows("::1", "::1", 6379)
    assert allowed.allows("receiver.lan", "8.8.8.8", 443), "a public one is allowed anyway"
    assert not allowed.refuses("http://a.in.lan/") and allowed.refuses("http://10.0.0.1:99/")
    assert not allowed.refuses("http://10.0.0.1:9/")


@pytest.mark.parametrize(
    ("url", "refused"),
    [
        *(("http://127.0.0.1/", True), ("http://[::1]:80/", True), ("http://localhost:9/a", True)),
        *(("http://a.localhost/", True), ("https://8.8.8.8/", False), ("https://example.com/", False)),
    ],
)
def test_what_is_refused_without_looking_up_a_name(url: str, refused: bool) -> None:
    assert AllowedReceivers().refuses(url) is refused
    assert not AllowedReceivers("*").refuses(url)


@pytest.mark.parametrize(
    "url",
    [
        *("", "example.com/a", "ftp://example.com/", "https://", "https:///a", "https://example.com:x/"),
        *(
            "https://example.com/#a",
            "https://exa mple.com/",
            "https://example.com/\r\nX: y",
            "https://é.com/",
        ),
        *("https://example.com/" + "a" * 2000, "https://[::1/", "https://.example.com/", "https://e:99999/"),
    ],
)
def test_what_is_no_url_of_a_receiver(url: str) -> None:
    with pytest.raises(ValueError, match="must be the URL of a receiver") as wrong:
        check_url(url)
    assert "a" * 2000 not in str(wrong.value)


def test_what_is_shown_of_a_url() -> None:
    assert origin_of("https://me:secret@example.com:8443/token/a?key=b") == "https://example.com:8443"


@pytest.mark.parametrize("entry", ["10.0.0.0/33", "a b", "http://a/", "a:b", "a:0", "a:65536", "::1:x"])
def test_entries_that_are_neither_hosts_nor_networks(entry: str) -> None:
    with pytest.raises(ValueError, match="is not"):
        check_allowed(entry)
