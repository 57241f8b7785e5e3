"""The web page: what it is made of, and what an artist meets in a real browser on the real service."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize, expect

from caching_config import Settings
from LatentRevisions.params import LatentRevisionsParams
from mead.cli.local_redis import free_port
from mead.http.app import create_app
from mead.http.page import ASSETS, FOLDER
from mead.imaging.encoding import add_texts, write_picture
from mead.provenance import chunks_of
from tests.conftest import DATA, Process, answers, report
from tests.StyleCLIP.test_faces import PLACES, group

LIMIT = 120_000  # milliseconds; far more than anything here takes
PARTS = {name: (FOLDER / name).read_text("utf-8") for name in ASSETS}

expect.set_options(timeout=LIMIT)


class Tags(HTMLParser):
    """All tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note it."""
        self.found.append((tag, dict(attrs)))


# What it is made of


def test_it_is_served_without_a_key(settings: Settings) -> None:
    http = create_app(Settings(**{**dict(settings), "api_keys": "first-key-1"})).test_client()
    for path in ("/", "/page/page.css", "/page/page.js"):
        answer = http.get(path)
        assert answer.status_code == 200 and "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert http.get(path, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304
    assert http.get("/page/__init__.py").status_code == http.get("/page/").status_code == 404


def test_it_needs_nothing_from_elsewhere_and_nothing_inline(settings: Settings) -> None:
    index = create_app(settings).test_client().get("/").text
    for name, text in {**PARTS, "index.html": index}.items():
        code = re.sub(r"(^|\s)// .*", "", text, flags=re.MULTILINE)  # without comments
        addresses = set(re.findall(r"(?:https?:)?//[\w.]+", code))
        assert addresses <= {"http://www.w3.org"}, name  # the name of SVG, which nobody fetches
    for tag, attributes in Tags(index).found:
        assert tag != "style" and not (tag == "script" and "src" not in attributes)
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_every_field_it_places_is_the_apis_own(settings: Settings) -> None:
    http = create_app(settings).test_client()
    paths = http.get("/openapi.json").get_json()["paths"]
    fields: dict[str, Any] = {}
    placed = 0
    for _, attributes in Tags(http.get("/").text).found:
        if route := attributes.get("data-route"):
            form = paths[f"/{route}"]["post"]["requestBody"]["content"]["multipart/form-data"]
            fields = form["schema"]["properties"]
        for kind in ("data-field", "data-of"):
            if kind in attributes:
                placed += 1
                assert attributes[kind] in fields
    assert placed > 10


# In a browser


Visit = Callable[[str], Page]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens the page in a window of its own; at the end nothing has been asked of any other site, and nothing
    went wrong in the page or against its policy."""
    context = browser.new_context(viewport=ViewportSize(width=1280, height=900), accept_downloads=True)
    context.set_default_timeout(LIMIT)
    asked, wrong = set(), []
    page = context.new_page()
    page.on("request", lambda request: asked.add(re.sub(r"^(\w+://[^/]*|data|blob).*", r"\1", request.url)))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
    urls = {"data", "blob"}

    def open_page(url: str) -> Page:
        urls.add(url)
        page.goto(url + "/")
        expect(page.get_by_label("Prompt prompt", exact=True)).to_have_count(2)
        return page

    yield open_page
    context.close()
    assert asked <= urls and not wrong


def fill(page: Page, route: str, **fields: object) -> None:
    """Write into the fields of a form, by the API's names."""
    for details in page.locator(f"[data-route={route}] details:not([open]) summary").all():
        details.click()
    for name, value in fields.items():
        page.locator(f"#{route}-{name}").fill(str(value))


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


def newest(page: Page) -> str:
    """The id of the newest job this browser remembers."""
    return str(page.evaluate("JSON.parse(localStorage.getItem('mead.jobs'))[0]"))


@pytest.mark.slow
def test_a_picture_from_words_and_pictures(visit: Visit, service: Any, tmp_path: Path) -> None:
    page = visit(service.url)
    hints = page.locator("form:visible .hint")
    assert hints.evaluate_all(
        "hints => hints.every((hint) => hint.scrollWidth <= hint.clientWidth)"
    )  # not cut
    fill(page, "latent_revision", prompt="a boat at sunset", text_to_add="purple eyes", iterations=3, seed=7)
    for field, file in (("img", "coffee.jpg"), ("img_enc", "chelsea.jpg")):
        drop(page, f"#latent_revision-{field}", DATA / file)
        thumbnail = page.locator(f"[data-field={field}] .drop img").first
        expect(thumbnail).to_have_js_property("complete", True)
        assert thumbnail.evaluate("image => image.naturalWidth") > 100
    expect(page.locator("#latent_revision-w1")).to_have_value("2")  # what is given has a weight
    expect(page.locator("#latent_revision-w2")).to_have_value("5")
    expect(page.locator("#latent_revision-w3")).to_have_value("")
    page.get_by_role("button", name="Make the picture").click()
    state(page, "^Done$")
    expect(page.locator("#steps")).to_have_text("step 3 of 3")
    record = requests.get(f"{service.url}/jobs/{newest(page)}", timeout=60).json()
    assert (record["w1"], record["w2"], record["w3"], record["seed"]) == (2, 5, 0, 7)
    assert record["files"] == ["img", "img_enc"]

    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename.startswith("a-boat-at-sunset-")
    download.value.save_as(tmp_path / "it.png")
    image = requests.get(f"{service.url}{record['image']}", timeout=60).content
    assert (tmp_path / "it.png").read_bytes() == image

    page.get_by_role("button", name="Use as starter").click()
    name = page.locator("#latent_revision-img").evaluate("input => input.files[0].name")
    assert name == download.value.suggested_filename


def test_what_can_be_drawn_and_what_is_not_known(visit: Visit, service: Any) -> None:
    page = visit(service.url)
    expect(page.locator("#draws")).to_contain_text("make drawings")
    note = page.locator("#panel-latent_revision form .note")
    fill(page, "latent_revision", prompt="A Cat astronaut in a red house", w2=1)
    unknown = "the demo weights have not learned: Cat, astronaut"
    expect(note).to_have_text(f"{unknown}\nw2 has no effect: there is no img_enc")
    drop(page, "#latent_revision-img_enc", DATA / "chelsea.jpg")  # it is not sent for a note
    expect(note).to_have_text(unknown)
    page.get_by_role("button", name="a red house under the moon").click()
    expect(page.locator("#latent_revision-prompt")).to_have_value("a red house under the moon")
    expect(page.locator("#latent_revision-prompt")).to_be_focused()
    expect(note).to_be_empty()


@pytest.mark.slow
def test_notes_are_shown_under_the_picture(visit: Visit, service: Any) -> None:
    page = visit(service.url)
    unknown = "the demo weights have not learned: cat"
    fill(page, "latent_revision", prompt="a cat", iterations=2)
    page.get_by_role("button", name="Make the picture").click()
    expect(page.locator("#notes")).to_have_text(unknown)
    state(page, "^Done$")
    expect(page.locator("#notes")).to_have_text(unknown)
    page.reload()
    expect(page.locator("#notes")).to_have_text(unknown)
    fill(page, "latent_revision", prompt="a red house", iterations=2)
    page.get_by_role("button", name="Make the picture").click()
    state(page, "^Done$")
    expect(page.locator("#notes")).to_be_empty()


@pytest.mark.slow
def test_a_face_edited_by_keyboard_alone(visit: Visit, service: Any, face: Path) -> None:
    page = visit(service.url)
    page.get_by_role("tab", name="New picture").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Edit a face")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#styleclip-img")).to_be_focused()
    page.locator("#styleclip-img").set_input_files(face)
    page.locator("#styleclip-prompt").focus()
    page.keyboard.type("a person with blue hair")
    page.get_by_text("More", exact=True).last.press("Enter")
    page.locator("#styleclip-iterations").focus()
    page.keyboard.type("2")
    page.keyboard.press("Enter")
    state(page, "^Done$")
    expect(page.get_by_role("img", name="a person with blue hair")).to_be_visible()


@pytest.mark.slow
def test_a_face_of_a_group_back_in_its_photo(visit: Visit, service: Any, tmp_path: Path) -> None:
    """The page says which faces there are, and shows the whole photo in the end."""
    group(*PLACES).save(tmp_path / "group.png")
    page = visit(service.url)
    page.get_by_role("tab", name="Edit a face").click()
    page.locator("#styleclip-img").set_input_files(tmp_path / "group.png")
    expect(page.get_by_text("The photo shows 3 faces.")).to_be_visible()
    options = page.locator("#styleclip-face-choices option")
    assert [option.get_attribute("value") for option in options.all()] == ["largest", "all", "1", "2", "3"]
    page.locator("#styleclip-output").select_option("photo")
    fill(page, "styleclip", prompt="a person with glasses", face="2", iterations=2)
    page.get_by_role("button", name="Edit the face").click()
    state(page, "^Done$")
    expect(page.locator("#facts")).to_contain_text("face 2 · iterations 2 · output photo")
    page.wait_for_function("document.querySelector('#picture').naturalWidth === 1200")
    page.locator("#styleclip-face").fill("4")
    page.get_by_role("button", name="Edit the face").click()
    expect(page.locator("#styleclip-face-error")).to_contain_text("there are 3 faces in the photo")


def test_what_is_wrong_is_said_at_its_field(visit: Visit, service: Any, tmp_path: Path) -> None:
    page = visit(service.url)
    go = page.get_by_role("button", name="Make the picture")
    go.click()
    expect(page.locator("#latent_revision-prompt-error")).to_have_text("must be given")
    expect(page.locator("#latent_revision-prompt")).to_be_focused()
    expect(page.locator("#latent_revision-prompt")).to_have_attribute("aria-invalid", "true")
    fill(page, "latent_revision", prompt="a house", w0=5000)
    expect(page.locator("#latent_revision-prompt-error")).to_be_empty()
    go.click()
    expect(page.locator("#latent_revision-w0-error")).to_contain_text("must be at most 1000")
    (tmp_path / "song.mp3").write_bytes(b"no picture")
    drop(page, "#latent_revision-img", tmp_path / "song.mp3")
    fill(page, "latent_revision", w0=5)
    go.click()
    expect(page.locator("#latent_revision-img-error")).not_to_be_empty()
    expect(page.locator("#gallery")).to_be_hidden()  # no job was made


def test_a_picture_dropped_on_the_page_fills_in_its_form(
    visit: Visit, waiting_room: Any, tmp_path: Path
) -> None:
    page = visit(waiting_room.url)
    picture = Image.new("RGB", (8, 8))
    prompt = "ein „Haus“\nin Rot"
    params = LatentRevisionsParams(prompt=prompt, seed=7, prompts="at night:2", upscale=2, img_path="x.png")
    add_texts(picture, chunks_of(params, 40, "LatentRevisions", "demo"))
    write_picture(picture, tmp_path / "made.png")
    fill(page, "latent_revision", cutouts=3)
    page.get_by_role("tab").nth(1).click()
    drop(page, "#stage", tmp_path / "made.png")
    for name, value in {
        "prompt": prompt,
        "seed": "7",
        "prompts": "at night:2",
        "upscale": "2",
        "w0": "5",
    }.items():
        expect(page.locator(f"#latent_revision-{name}")).to_have_value(value)
    expect(page.locator("#latent_revision-cutouts")).to_have_value("")
    expect(page.locator("#latent_revision-prompt")).to_be_focused()
    expect(page.locator("[data-route=latent_revision] > .error")).to_have_text(
        "Choose the pictures again: img."
    )
    write_picture(Image.new("RGB", (8, 8)), tmp_path / "other.png")
    drop(page, "#stage", tmp_path / "other.png")
    expect(page.locator("[data-route=latent_revision] > .error")).to_contain_text(
        "does not say how it was made"
    )
    expect(page.locator("#latent_revision-seed")).to_have_value("7")
    drop(page, "#latent_revision-img", tmp_path / "made.png")  # there it is a starter
    expect(page.locator("[data-field=img] .drop").first).to_contain_text("made.png")


@pytest.mark.slow
def test_a_job_outlives_the_page_and_is_cancelled(visit: Visit, service: Any) -> None:
    page = visit(service.url)
    fill(page, "latent_revision", prompt="a red heart", iterations=2000)
    page.get_by_role("button", name="Make the picture").click()
    expect(page.locator("#picture")).to_be_visible()  # a preview
    state(page, "^Running$")
    page.reload()
    state(page, "^Running$")
    expect(page.locator("#steps")).to_have_text(re.compile(r"step \d+ of 2000"))
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    state(page, "^Cancelled$")
    record = requests.get(f"{service.url}/jobs/{newest(page)}", timeout=60).json()
    assert record["status"] == "cancelled"


def test_on_a_phone(visit: Visit, service: Any) -> None:
    page = visit(service.url)
    for width in (390, 320):
        page.set_viewport_size(ViewportSize(width=width, height=800))
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_a_place_in_the_queue(visit: Visit, waiting_room: Any) -> None:
    page = visit(waiting_room.url)
    fill(page, "latent_revision", prompt="a house")
    go = page.get_by_role("button", name="Make the picture")
    go.click()
    expect(page.locator("[data-route=latent_revision] > .error")).to_contain_text("no inference server")
    waiting_room.jobs.heartbeat("idle", ["latentrevisions_queue"], 600)
    go.click()
    state(page, "^Waiting: next in line$")
    first = newest(page)
    go.click()
    state(page, "^Waiting: 1 before this one$")
    assert waiting_room.jobs.cancel(first)
    state(page, "^Waiting: next in line$")
    expect(page.get_by_role("button", name="a house Cancelled")).to_be_visible()
    job = waiting_room.jobs.claim("latentrevisions_queue", "idle")
    report(waiting_room.jobs, job, 1, 4)
    expect(page.locator("#steps")).to_have_text("step 1 of 4")
    waiting_room.jobs.fail(job, "idle", "size: too large for this machine", "input", "size")
    state(page, "^Failed: size: too large for this machine$")
    expect(page.locator("#latent_revision-size-error")).to_have_text("too large for this machine")


@pytest.mark.slow
def test_a_key_is_asked_for_when_it_is_needed(visit: Visit, waiting_room: Any, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    environment = {**waiting_room.environment, "PORT": str(port), "API_KEYS": "first-key-1"}
    waiting_room.jobs.heartbeat("idle", ["latentrevisions_queue"], 600)
    server = Process("caching_server.py", environment, tmp_path / "log")
    try:
        server.wait_until(lambda: answers(url + "/healthz"))
        page = visit(url)
        expect(page.get_by_label("API key")).to_be_hidden()
        fill(page, "latent_revision", prompt="a house")
        page.get_by_role("button", name="Make the picture").click()
        for key, why in (("wrong-key-1", "asks for a key"), ("first-key-1", "not known")):
            expect(page.get_by_role("alert").filter(has_text=why)).to_be_visible()
            expect(page.get_by_label("API key")).to_be_focused()
            page.keyboard.type(key)
            page.keyboard.press("Enter")
        state(page, "^Waiting")
        expect(page.get_by_label("API key")).to_be_hidden()
        fill(page, "latent_revision", prompt="a cat")
        expect(page.locator("#panel-latent_revision form .note")).to_contain_text("not learned: cat")
        page.reload()  # in the same tab the key is remembered, for the events too
        state(page, "^Waiting")
        assert waiting_room.jobs.cancel(newest(page))
        state(page, "^Cancelled$")
    finally:
        server.stop()


@pytest.mark.slow
def test_on_app_py(visit: Visit, door: Any, tmp_path: Path) -> None:
    page = visit(door("app.py", tmp_path))
    fill(page, "latent_revision", prompt="a red house", iterations=3)
    page.get_by_role("button", name="Make the picture").click()
    state(page, "^Done$")
    expect(page.locator("#steps")).to_have_text("step 3 of 3")
    expect(page.get_by_role("img", name="a red house")).to_be_visible()
    fill(page, "latent_revision", iterations=0)
    page.get_by_role("button", name="Make the picture").click()
    expect(page.locator("#latent_revision-iterations-error")).not_to_be_empty()
