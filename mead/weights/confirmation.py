"""The page that Google Drive sends for a file that it has not scanned for viruses: "Download anyway"."""

from __future__ import annotations

from html.parser import HTMLParser
from urllib.parse import urlencode, urljoin, urlsplit

import requests

FORM = "download-form"
PAGE_BYTES = 1 << 18  # of such a page


class _Form(HTMLParser):
    """The address and the hidden fields of the form FORM."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self._within = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._within = given.get("id") == FORM
            self.action = given.get("action", "") if self._within else self.action
        elif tag == "input" and self._within and given.get("type") == "hidden" and "name" in given:
            self.fields[given["name"]] = given.get("value", "")

    def handle_endtag(self, tag: str) -> None:
        self._within = self._within and tag != "form"


def is_page(response: requests.Response) -> bool:
    """Whether a server sends a web page, which no weight file is."""
    return response.status_code == 200 and response.headers.get("Content-Type", "").startswith("text/html")


def confirmed_url(response: requests.Response) -> str | None:
    """Where the form of a page leads; None if it is another page.

    It is only followed on the host that it came from.
    """
    page = next(response.iter_content(PAGE_BYTES), b"")
    form = _Form()
    form.feed(page.decode("utf-8", "replace"))
    if form.action is None:
        return None
    url = urljoin(response.url, form.action)
    if urlsplit(url)[:2] != urlsplit(response.url)[:2]:
        return None
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(form.fields)}"
