"""The web page's forms, in a real browser. Nothing is made here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from playwright.sync_api import ViewportSize, expect

from LatentRevisions.params import LatentRevisionsParams
from mead.imaging.encoding import add_texts, write_picture
from mead.provenance import chunks_of
from tests.conftest import DATA
from tests.mead.http.browsing import drop, faults, fill, form, go, on_stage, state
from tests.mead.http.conftest import Visit
from tests.StyleCLIP.test_faces import PLACES, group

pytestmark = pytest.mark.browser


def test_what_can_be_drawn_and_what_is_not_known(visit: Visit, waiting_room: Any) -> None:
    page = visit(waiting_room.url)
    expect(page.locator("#draws")).to_contain_text("make drawings")
    note, tokens = form(page).locator(".bar .note"), form(page).locator(".tokens")
    fill(page, "latent_revision", prompt="A Cat astronaut in a red house")
    expect(note).to_have_text("the demo weights have not learned: Cat, astronaut")
    expect(tokens).to_have_text("7 of 38 tokens")
    fill(page, "latent_revision", prompt="a red house under the moon")
    expect(note).to_be_empty()
    fill(page, "latent_revision", prompt="a red house " * 20)
    expect(note).to_contain_text("CLIP reads 38 tokens of a text and this has 60")


def test_a_weight_counts_while_its_text_or_picture_is_there(visit: Visit, waiting_room: Any) -> None:
    page = visit(waiting_room.url)
    w1, w2 = page.locator("#latent_revision-w1"), page.locator("#latent_revision-w2")
    slider = page.get_by_role("slider", name="Weight").nth(1)
    fill(page, "latent_revision", prompt="a house")
    expect(w1).to_be_disabled()
    expect(slider).to_be_disabled()
    fill(page, "latent_revision", text_to_add="at night")
    expect(w1).to_have_value("2")
    slider.fill("-1.5")
    expect(w1).to_have_value("-1.5")
    w1.fill("7")  # beyond the slider
    expect(slider).to_have_value("5")
    fill(page, "latent_revision", text_to_add="")
    expect(w1).to_be_disabled()
    expect(w1).to_have_value("")
    expect(page.locator("[data-field=text_to_add] #latent_revision-w1")).to_be_visible()  # at its text
    expect(page.locator("#latent_revision-patience-hint")).to_contain_text("0: take them all. Usually")
    summary = form(page).locator("summary")
    expect(summary).to_have_text("Advanced")
    drop(page, "#latent_revision-img_enc", DATA / "chelsea.jpg")
    thumbnail = page.locator("[data-field=img_enc] .drop img")
    expect(thumbnail).to_have_js_property("complete", True)
    assert thumbnail.evaluate("image => image.naturalWidth") > 100
    expect(w2).to_have_value("5")
    expect(summary).to_have_text("Advanced: Towards, Weight")  # what is filled in
    page.locator("[data-field=img_enc]").get_by_role("button", name="Remove").click()
    expect(w2).to_be_disabled()


def test_the_quick_choices_and_what_is_avoided(visit: Visit, waiting_room: Any) -> None:
    waiting_room.jobs.heartbeat("idle", ["latentrevisions_queue"], 600)
    page = visit(waiting_room.url)
    for name in ("Draft", "tall: 112x144", "2"):
        form(page).get_by_role("button", name=name, exact=name == "2").click()
    form(page).get_by_role("button", name="Time-lapse").click()
    expect(page.locator("#latent_revision-frames")).to_have_value("30")
    form(page).get_by_role("button", name="Time-lapse").click()
    fill(page, "latent_revision", prompt="a house", prompts="at night:2")
    page.get_by_label("Avoid", exact=True).fill("a tree | people")
    form(page).get_by_role("button", name="Throw a seed").click()
    seed = int(page.locator("#latent_revision-seed").input_value())
    page.locator("#latent_revision-prompt").press("Control+Enter")
    state(page, "^Waiting")
    record = requests.get(f"{waiting_room.url}/jobs/{on_stage(page)}", timeout=60).json()
    assert [record[name] for name in ("iterations", "size", "n", "seed")] == [20, "112x144", 2, seed]
    assert record["prompts"] == "at night:2 | a tree:-5 | people:-5"
    expect(page.get_by_role("button", name=re.compile("Picture . of 2"))).to_have_count(2)
    page.get_by_role("button", name="Cancel all").click()
    state(page, "^Cancelled$")
    expect(page.get_by_role("button", name="Picture 2 of 2: Cancelled")).to_be_visible()
    expect(page.locator(f"#gallery [data-id='{record['id']}']")).to_have_count(0)  # nothing came of it
    page.get_by_role("button", name="More").click()
    fill(page, "latent_revision", prompts="", seed="")
    page.get_by_label("Avoid", exact=True).fill("")
    page.get_by_role("button", name="Reuse settings").click()
    expect(page.get_by_label("Avoid", exact=True)).to_have_value("a tree | people")
    expect(page.locator("#latent_revision-prompts")).to_have_value("at night:2")
    expect(page.locator("#latent_revision-seed")).to_have_value(str(seed))


def test_what_is_wrong_is_said_at_its_field(visit: Visit, waiting_room: Any, tmp_path: Path) -> None:
    waiting_room.jobs.heartbeat("idle", ["latentrevisions_queue", "styleclip_queue"], 600)
    page = visit(waiting_room.url)
    before = len(requests.get(f"{waiting_room.url}/jobs", timeout=60).json()["jobs"])
    page.get_by_role("tab", name="Edit a face").click()
    go(page)  # all that is missing is named at once
    expect(page.locator("#styleclip-prompt-error")).to_have_text("Say what it should show.")
    expect(page.locator("#styleclip-img-error")).to_have_text("Choose a picture.")
    expect(page.locator("#styleclip-prompt")).to_be_focused()
    expect(page.locator("#styleclip-prompt")).to_have_attribute("aria-invalid", "true")
    page.get_by_role("tab", name="Make", exact=True).click()
    fill(page, "latent_revision", prompt="a house", w0=5000)
    go(page)
    expect(page.locator("#latent_revision-w0-error")).to_contain_text("Must be at most 1000")
    (tmp_path / "song.mp3").write_bytes(b"no picture")
    drop(page, "#latent_revision-img", tmp_path / "song.mp3")
    fill(page, "latent_revision", w0=5)
    expect(page.locator("#latent_revision-w0-error")).to_be_empty()
    go(page)
    expect(page.locator("#latent_revision-img-error")).not_to_be_empty()
    assert len(requests.get(f"{waiting_room.url}/jobs", timeout=60).json()["jobs"]) == before


def test_a_click_on_an_example_starts(visit: Visit, waiting_room: Any, face: Path) -> None:
    """Or says what is missing. The tab follows the job on the stage."""
    waiting_room.jobs.heartbeat("idle", ["latentrevisions_queue", "styleclip_queue"], 600)
    page = visit(waiting_room.url)
    page.get_by_role("button", name="a red house under the moon", exact=True).click()
    state(page, "^Waiting")
    house = on_stage(page)
    expect(page.locator("#caption")).to_have_text("a red house under the moon")
    page.get_by_role("tab", name="Edit a face").click()
    example = form(page).get_by_role("button", name="a person with glasses", exact=True)
    example.click()
    expect(page.locator("#styleclip-img-error")).to_have_text("Choose a picture.")
    expect(page.locator("#styleclip-prompt")).to_have_value("a person with glasses")
    assert on_stage(page) == house
    page.locator("#styleclip-img").set_input_files(face)
    example.click()
    expect(page.locator("#caption")).to_have_text("a person with glasses")
    edit = on_stage(page)
    for job_id, tab in ((house, "Make"), (edit, "Edit a face")):
        page.locator(f"#gallery [data-id='{job_id}'] button").click()
        expect(page.get_by_role("tab", name=tab, exact=True)).to_have_attribute("aria-selected", "true")
        assert waiting_room.jobs.cancel(job_id)


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
    filled = {"prompt": prompt, "seed": "7", "prompts": "at night:2", "upscale": "2", "w0": "", "cutouts": ""}
    for name, value in filled.items():
        expect(page.locator(f"#latent_revision-{name}")).to_have_value(value)
    expect(page.locator("#latent_revision-prompt")).to_be_focused()
    said = page.locator("[data-route=latent_revision] > .error")
    expect(said).to_have_text("Choose the pictures again: Starter.")
    write_picture(Image.new("RGB", (8, 8)), tmp_path / "other.png")
    drop(page, "#stage", tmp_path / "other.png")
    expect(said).to_contain_text("does not say how it was made")
    expect(page.locator("#latent_revision-seed")).to_have_value("7")
    drop(page, "#latent_revision-img", tmp_path / "made.png")  # there it is a starter
    expect(page.locator("[data-route=latent_revision] [data-field=img] .drop")).to_contain_text("made.png")


def test_an_error_comes_into_sight(visit: Visit, waiting_room: Any) -> None:
    waiting_room.jobs.heartbeat("idle", ["latentrevisions_queue"], 600)
    page = visit(waiting_room.url)
    page.set_viewport_size(ViewportSize(width=375, height=667))
    fill(page, "latent_revision", prompt="a house", tv_weight=5000)
    prompt, wrong = (page.locator(f"#latent_revision-{name}") for name in ("prompt", "tv_weight"))
    prompt.press("Control+Enter")  # the server says what is wrong far below
    expect(page.locator("#latent_revision-tv_weight-error")).to_be_in_viewport()
    expect(wrong).to_be_focused()
    prompt.fill("")
    wrong.press("Control+Enter")  # the page says what is missing far above
    expect(page.locator("#latent_revision-prompt-error")).to_be_in_viewport()
    expect(prompt).to_be_focused()


def test_a_draft_outlives_a_reload_until_it_is_sent(visit: Visit, waiting_room: Any) -> None:
    waiting_room.jobs.heartbeat("idle", ["latentrevisions_queue", "styleclip_queue"], 600)
    page = visit(waiting_room.url)
    written = {"prompt": "a house\nat night", "text_to_add": "the moon", "w1": "3", "n": "2"}
    fill(page, "latent_revision", **written)
    page.get_by_label("Avoid", exact=True).fill("a tree")
    page.get_by_role("tab", name="Edit a face").click()
    page.get_by_role("slider", name="smile").fill("1.5")
    page.reload()
    expect(page.get_by_role("tab", name="Edit a face")).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("slider", name="smile")).to_have_value("1.5")
    form(page).get_by_role("button", name="Clear").click()
    expect(page.locator("#styleclip-sliders")).to_have_value("")
    expect(form(page).get_by_role("button", name="Clear")).to_be_hidden()
    page.get_by_role("tab", name="Make", exact=True).click()
    for name, value in written.items():
        expect(page.locator(f"#latent_revision-{name}")).to_have_value(value)
    expect(page.get_by_label("Avoid", exact=True)).to_have_value("a tree")
    go(page)
    state(page, "^Waiting")
    page.reload()
    expect(page.locator("#latent_revision-prompt")).to_have_value("")
    expect(page.locator("#styleclip-sliders")).to_have_value("")
    page.get_by_role("button", name="Cancel all").click()
    state(page, "^Cancelled$")


def test_a_mask_is_painted_over_the_starter(visit: Visit, waiting_room: Any, tmp_path: Path) -> None:
    page = visit(waiting_room.url)
    paint = form(page).get_by_role("button", name="Paint the mask")
    fill(page, "latent_revision")
    expect(paint).to_be_disabled()
    page.locator("#latent_revision-img").set_input_files(DATA / "coffee.jpg")
    paint.click()
    canvas = page.get_by_role("img", name="The mask")
    expect(canvas).to_be_focused()
    canvas.press("Space")  # in the middle
    page.get_by_role("button", name="Use this mask").click()
    expect(paint).to_be_focused()
    mask = page.evaluate(
        """async () => {
            const [file] = document.querySelector("#latent_revision-mask").files;
            const picture = await createImageBitmap(file);
            const context = new OffscreenCanvas(picture.width, picture.height).getContext("2d");
            context.drawImage(picture, 0, 0);
            const grey = (x, y) => context.getImageData(x, y, 1, 1).data[0];
            return [picture.width, picture.height, grey(picture.width / 2, picture.height / 2), grey(0, 0)];
        }"""
    )
    with Image.open(DATA / "coffee.jpg") as photo:
        assert mask == [*photo.size, 255, 0]


@pytest.mark.slow
def test_a_face_is_chosen_in_the_photo(visit: Visit, waiting_room: Any, tmp_path: Path) -> None:
    group(*PLACES).save(tmp_path / "group.png")
    page = visit(waiting_room.url)
    page.get_by_role("tab", name="Edit a face").click()
    page.locator("#styleclip-img").set_input_files(tmp_path / "group.png")
    expect(page.get_by_text("The photo shows 3 faces.")).to_be_visible()
    faces = [page.get_by_role("button", name=f"Face {number}", exact=True) for number in (1, 2, 3)]
    pressed = [face.get_attribute("aria-pressed") for face in faces]
    assert pressed.count("true") == 1  # the largest
    faces[1].click()
    expect(page.locator("#styleclip-face")).to_have_value("2")
    expect(faces[1]).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="All faces").click()
    expect(page.locator("#styleclip-face")).to_have_value("all")
    expect(page.locator("#styleclip-output")).to_have_value("photo")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_used_by_all_and_on_a_phone(visit: Visit, waiting_room: Any, scheme: Any) -> None:
    page = visit(waiting_room.url)
    page.emulate_media(color_scheme=scheme)
    for summary in page.locator("details summary").all():
        summary.evaluate("summary => { summary.parentElement.open = true; }")
    assert faults(page) == []
    page.get_by_role("tab", name="Edit a face").click()
    assert faults(page) == []
    page.get_by_role("tab", name="Make", exact=True).click()
    for width in (375, 320):
        page.set_viewport_size(ViewportSize(width=width, height=667))
        assert page.evaluate("document.documentElement.scrollWidth") == width
        box = form(page).locator(".go").bounding_box()
        assert box["y"] + box["height"] <= 667  # in sight without scrolling
