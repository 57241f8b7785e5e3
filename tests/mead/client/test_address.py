"""Where the client looks for the service, and for the key."""

from __future__ import annotations

import pytest

from mead.client import AsyncClient, Client
from mead.client.address import DEFAULT_URL, service_key, service_url, shown_address


def test_what_is_given_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEAD_URL", "https://[::1]:8000/pictures/")
    monkeypatch.setenv("MEAD_API_KEY", "one")
    assert service_url("http://here") == "http://here" and service_key("other") == "other"
    assert service_url(None) == "https://[::1]:8000/pictures" and service_key(None) == "one"
    monkeypatch.setenv("MEAD_URL", "")
    monkeypatch.delenv("MEAD_API_KEY")
    assert service_url(None) == DEFAULT_URL and service_key("") is None


@pytest.mark.parametrize(
    "url",
    ["nonsense", "here:5000", "ftp://here", "http://", "http://here:99999", "http://a b", "http://[::1"],
)
def test_what_is_no_address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    for client in (Client, AsyncClient):
        with pytest.raises(ValueError, match=r"^url: .* is not the address of a service, such as http://"):
            client(url)
    monkeypatch.setenv("MEAD_URL", url)
    with pytest.raises(ValueError, match=r"^MEAD_URL: "):
        Client()


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"^url: 'here:port' is not"):
        service_url("http://me:secret@here:port")
    assert shown_address("http://me:secret@here:80/a/?key=secret") == "http://here:80/a/"
    monkeypatch.setenv("MEAD_URL", "https://me:secret@[::1]:8000/")
    assert (
        shown_address(None) == "https://[::1]:8000 (MEAD_URL)"
        and shown_address("http://here") == "http://here"
    )
    monkeypatch.delenv("MEAD_URL")
    assert shown_address(None) == DEFAULT_URL
    monkeypatch.setenv("MEAD_API_KEY", "geheim-ü")
    with pytest.raises(ValueError, match=r"^MEAD_API_KEY: ") as caught:
        service_key(None)
    assert "geheim" not in str(caught.value)
