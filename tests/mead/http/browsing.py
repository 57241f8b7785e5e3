"""What the tests of the web page do in a browser."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

LIMIT = 120_000  # milliseconds; far more than anything here takes


def form(page: Page) -> Locator:
    """The form in sight."""
    return page.locator("form[data-route]:visible")


def fill(page: Page, route: str, **fields: object) -> None:
    """Write into the fields of a form, by the API's names."""
    for summary in page.locator(f"[data-route={route}] details:not([open]) summary").all():
        summary.click()
    for name, value in fields.items():
        field = page.locator(f"#{route}-{name}")
        if field.evaluate("element => element.tagName") == "SELECT":
            field.select_option(str(value))
        else:
            field.fill(str(value))


def go(page: Page) -> None:
    """Send the form in sight."""
    form(page).locator(".go").click()


def drop(page: Page, field: str, file: Path) -> None:
    """Drop a file on a field, as from a folder's window."""
    page.evaluate(
        """([field, name, bytes]) => {
            const dataTransfer = new DataTransfer();
            dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
            const event = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
            document.querySelector(field).dispatchEvent(event);
        }""",
        [field, file.name, list(file.read_bytes())],
    )


def state(page: Page, text: str) -> None:
    """Wait until the page says this of the job on stage."""
    expect(page.locator("#state")).to_have_text(re.compile(text))


def on_stage(page: Page) -> str:
    """The id of the job on stage, which the address has."""
    expect(page).to_have_url(re.compile("#[0-9a-f]{32}$"))
    return str(page.evaluate("location.hash.slice(1)"))


def faults(page: Page) -> list[Any]:
    """What axe finds wrong with the page as it is."""
    found = Axe().run(page).response["violations"]
    return [(fault["id"], [node["html"] for node in fault["nodes"]]) for fault in found]
