"""The web page's pictures, in a real browser on the real service: made, followed, kept in the gallery."""

from __future__ import annotations

import os
import re
import signal
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import ViewportSize, expect

from mead.cli.local_redis import free_port
from tests.conftest import Process, answers, report
from tests.mead.http.browsing import faults, fill, form, go, on_stage, state
from tests.mead.http.conftest import Visit

pytestmark = [pytest.mark.browser, pytest.mark.service, pytest.mark.slow]


def test_a_picture_made_downloaded_and_used_again(visit: Visit, service: Any, tmp_path: Path) -> None:
    page = visit(service.url)
    fill(page, "latent_revision", prompt="a cat at sunset", iterations=3, seed=7, upscale=1)
    go(page)
    state(page, "^Done$")
    expect(page.locator("#steps")).to_have_text(re.compile(r"^in \d+ (second|minute)s?$"))
    expect(page.locator("#facts")).to_contain_text("Seed: 7 · Steps: 3")
    expect(page.locator("#facts")).to_contain_text("goes in 24 h")
    expect(page.locator("#notes")).to_have_text("the demo weights have not learned: cat")
    first = on_stage(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download", exact=True).click()
    assert download.value.suggested_filename.startswith("a-cat-at-sunset-")
    download.value.save_as(tmp_path / "it.png")
    image = requests.get(f"{service.url}/jobs/{first}/image", timeout=60).content
    assert (tmp_path / "it.png").read_bytes() == image
    assert faults(page) == []

    new_seed = page.get_by_role("button", name="New seed")
    new_seed.press("Enter")
    expect(page).not_to_have_url(f"{service.url}/#{first}")
    state(page, "^Done$")
    expect(new_seed).to_be_focused()  # again
    again = requests.get(f"{service.url}/jobs/{on_stage(page)}", timeout=60).json()
    assert (again["prompt"], again["iterations"]) == ("a cat at sunset", 3) and again["seed"] != 7
    page.reload()  # the address has the job
    state(page, "^Done$")
    expect(page.get_by_role("img", name="a cat at sunset")).to_be_visible()
    page.get_by_role("button", name="4 variations").click()
    cards = page.get_by_role("button", name=re.compile("Picture . of 4: Done"))
    expect(cards).to_have_count(4)
    page.get_by_role("button", name="Use as starter").click()
    name = page.locator("#latent_revision-img").evaluate("input => input.files[0].name")
    assert name.startswith("a-cat-at-sunset-")

    other = visit(service.url)  # another window lists the same
    other.get_by_role("searchbox").fill("no such prompt")
    expect(other.get_by_text("Nothing found.")).to_be_visible()
    other.get_by_role("searchbox").fill("CAT AT")
    expect(other.locator("#gallery li:visible")).to_have_count(6)
    other.locator("#gallery li:visible button").last.click()
    assert on_stage(other) == first


def test_a_face_edited_by_keyboard_alone_and_compared(visit: Visit, service: Any, face: Path) -> None:
    page = visit(service.url)
    page.get_by_role("tab", name="Make", exact=True).focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Edit a face")).to_be_focused()
    page.locator("#styleclip-img").focus()
    page.locator("#styleclip-img").set_input_files(face)
    expect(page.get_by_role("button", name="Face 1")).to_be_visible()
    page.locator("#styleclip-prompt").focus()
    page.keyboard.type("a person with blue hair")
    page.keyboard.press("Control+Enter")
    state(page, "^Done$")
    slider = page.get_by_role("slider", name="Before and after")
    expect(slider).to_be_visible()
    slider.press("Home")
    expect(page.get_by_role("img", name="Before: a person with blue hair")).to_be_visible()
    page.get_by_role("button", name="Edit this face").click()  # it has one
    expect(page.locator("#styleclip-prompt")).to_be_focused()
    expect(page.get_by_role("button", name="Face 1")).to_be_visible()
    fill(page, "styleclip", output="pair", iterations=2)
    go(page)
    expect(page.locator("#facts")).to_contain_text("Result: Before and after")
    state(page, "^Done$")
    page.reload()  # the picture has both
    expect(slider).to_be_visible()


def test_a_job_outlives_the_page_and_is_cancelled(visit: Visit, service: Any) -> None:
    page = visit(service.url)
    fill(page, "latent_revision", prompt="a red heart", iterations=2000, n=2)
    go(page)
    expect(page.locator("#picture")).to_be_visible()  # a preview
    expect(page.locator("#group img")).to_have_count(2)  # of each
    state(page, "^Running$")
    page.reload()
    state(page, "^Running$")
    expect(page.locator("#steps")).to_have_text(re.compile(r"step \d+ of 2000, about .* left"))
    expect(page).to_have_title(re.compile(r"^\d+% "))
    page.get_by_role("button", name="Cancel all").click()
    state(page, "^Cancelled$")
    record = requests.get(f"{service.url}/jobs/{on_stage(page)}", timeout=60).json()
    assert record["status"] == "cancelled"
    with page.expect_download() as download:  # what there was of it
        page.get_by_role("button", name="Download", exact=True).click()
    assert download.value.suggested_filename.endswith("-unfinished.png")


def test_two_windows_with_eight_jobs(visit: Visit, service: Any) -> None:
    """They share one stream, so that connections are left: a browser opens six."""
    pages = [visit(service.url), visit(service.url)]
    for page in pages:
        fill(page, "latent_revision", prompt="a green tree", iterations=4, upscale=1)
        form(page).get_by_role("button", name="4", exact=True).click()
        go(page)
    for page in pages:
        cards = page.get_by_role("button", name=re.compile("Picture . of 4: Done"))
        expect(cards).to_have_count(4)
        state(page, "^Done$")


def test_a_place_in_the_queue(visit: Visit, waiting_room: Any) -> None:
    page = visit(waiting_room.url)
    fill(page, "latent_revision", prompt="a house")
    expect(page.locator("#outage")).to_contain_text("No inference server is running")
    go(page)
    expect(page.locator("[data-route=latent_revision] > .error")).to_contain_text("no inference server")
    waiting_room.jobs.heartbeat("idle", ["latentrevisions_queue", "styleclip_queue"], 600)
    expect(page.locator("#outage")).to_be_hidden()
    go(page)
    state(page, "^Waiting: next in line$")
    first = on_stage(page)
    go(page)
    state(page, "^Waiting: 1 before this one$")
    assert waiting_room.jobs.cancel(first)
    state(page, "^Waiting: next in line$")
    expect(page.locator(f"#gallery [data-id='{first}']")).to_have_count(0)  # nothing came of it
    job = waiting_room.jobs.claim("latentrevisions_queue", "idle")
    report(waiting_room.jobs, job, 1, 4)
    expect(page.locator("#steps")).to_have_text("step 1 of 4")
    expect(page).to_have_title(re.compile("^25% "))
    waiting_room.jobs.fail(job, "idle", "the disk was full", "internal")
    state(page, "^Failed: the disk was full$")

    page.goto(f"{waiting_room.url}/queue")
    page.set_viewport_size(ViewportSize(width=375, height=667))
    failed = page.get_by_role("row", name=re.compile("the disk was full"))
    expect(failed).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("^latentrevisions_queue"))).to_be_visible()
    assert faults(page) == []
    for place in page.locator("body, .table").all():
        assert place.evaluate("element => element.scrollWidth") <= 375  # nothing is cut off
    failed.get_by_role("button", name="Again").click()
    expect(page.get_by_text("Nothing has failed.")).to_be_visible()
    expect(page.get_by_role("row", name=re.compile("a house waiting, 0 before it"))).to_be_visible()
    waiting_room.jobs.cancel(job.id)


def test_a_lost_server_and_a_key(visit: Visit, waiting_room: Any, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{(port := free_port())}"
    environment = {**waiting_room.environment, "PORT": str(port), "API_KEYS": "first-key-1"}
    waiting_room.jobs.heartbeat("idle", ["latentrevisions_queue", "styleclip_queue"], 600)
    server = Process("caching_server.py", environment, tmp_path / "log")
    try:
        server.wait_until(lambda: answers(url + "/healthz"))
        page = visit(url)
        door = page.get_by_label("API key")
        expect(door).to_be_hidden()  # until it is needed
        fill(page, "latent_revision", prompt="a house")
        go(page)
        for key, why in (("wrong-key-1", "asks for a key"), ("first-key-1", "not known")):
            expect(page.get_by_role("alert").filter(has_text=why)).to_be_visible()
            expect(door).to_be_focused()
            page.keyboard.type(key)
            page.keyboard.press("Enter")
        state(page, "^Waiting")
        page.reload()  # in the same tab the key is remembered, by the follower too
        state(page, "^Waiting")

        server.stop()
        expect(page.locator("#outage")).to_contain_text(re.compile("does not answer|Redis is away"))
        first, waits = on_stage(page), page.locator("#waits")
        page.get_by_role("button", name="Cancel", exact=True).click()
        expect(waits).to_be_visible()
        fill(page, "latent_revision", prompt="a house after the outage")
        go(page)
        server = Process("caching_server.py", environment, tmp_path / "log")
        expect(page.locator("#outage")).to_be_hidden()
        expect(page.locator("#caption")).to_have_text("a house after the outage")  # it was sent
        expect(page.locator(f"#gallery [data-id='{first}']")).to_have_count(0)
        expect(waits).to_be_hidden()
        assert waiting_room.jobs.get(first).status == "cancelled"
        assert waiting_room.jobs.cancel(on_stage(page))
        state(page, "^Cancelled$")

        page.get_by_role("button", name="Forget key").click()
        expect(page.get_by_role("button", name="Enter your key")).to_be_visible()
        expect(page.locator("#gallery li")).to_have_count(0)
    finally:
        server.stop()


def test_redis_that_hangs(visit: Visit, waiting_room: Any) -> None:
    """Every call ends, and the page says why."""
    waiting_room.jobs.heartbeat("idle", ["latentrevisions_queue", "styleclip_queue"], 600)
    page = visit(waiting_room.url)
    fill(page, "latent_revision", prompt="a slow house")
    pid = waiting_room.redis.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        go(page)
        expect(page.locator("#outage")).to_contain_text(re.compile("does not answer|Redis is away"))
        error = page.locator("[data-route=latent_revision] > .error").filter(has_text="Redis is away")
        expect(error.or_(page.locator("#waits:visible"))).to_be_visible()  # refused, or no answer
    finally:
        os.kill(pid, signal.SIGCONT)
    expect(page.locator("#outage")).to_be_hidden()  # it is back
    expect(form(page)).not_to_have_attribute("aria-busy", "true")


def test_on_app_py(visit: Visit, door: Any, tmp_path: Path) -> None:
    page = visit(door("app.py", tmp_path))
    fill(page, "latent_revision", prompt="a red house", iterations=3, upscale=1)
    go(page)
    state(page, "^Done$")
    expect(page.locator("#steps")).to_be_empty()
    expect(page.get_by_role("img", name="a red house")).to_be_visible()
    fill(page, "latent_revision", iterations=0)
    go(page)
    expect(page.locator("#latent_revision-iterations-error")).not_to_be_empty()


def test_a_picture_kept_played_and_continued(visit: Visit, service: Any) -> None:
    page = visit(service.url)
    early = {"iterations": 60, "patience": 2, "init_weight": 1000, "upscale": 1}  # a loss that cannot fall
    fill(page, "latent_revision", prompt="a blue star", frames=3, cutouts=4, size="64x64", **early)
    go(page)
    state(page, "^Done$")
    first = on_stage(page)
    expect(page.locator("#steps")).to_have_text(re.compile(r", ended early after \d+ steps$"))
    expect(page.locator("#facts")).to_contain_text("End early after, steps: 2")
    heights = page.locator("#actions").evaluate("row => [row.clientHeight, row.firstChild.offsetHeight]")
    assert heights[0] == heights[1]  # one line
    page.get_by_role("button", name="Edit this face").click()
    expect(page.locator("#done")).to_have_text("There is no face in this picture.")
    expect(page.get_by_role("button", name="Edit this face")).to_have_count(0)
    page.get_by_role("button", name="☆ Keep").click()
    expect(page.locator("#facts")).to_contain_text("kept")
    page.get_by_role("button", name="★ Kept", exact=True).last.click()  # the filter of the gallery
    expect(page.locator("#gallery li:visible button:not(.starred)")).to_have_count(0)
    page.get_by_role("button", name="Play time-lapse").click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download time-lapse").click()
    assert re.search(r"\.(mp4|webp)$", download.value.suggested_filename)
    page.get_by_role("button", name="Continue").click()
    expect(page).not_to_have_url(f"{service.url}/#{first}")
    state(page, "^Done$")
    page.goto(f"{service.url}/#{first}")
    page.locator("#actions .star").click()
    expect(page.locator("#facts")).to_contain_text("goes in")


def test_an_edit_at_another_strength(visit: Visit, service: Any, face: Path) -> None:
    page = visit(service.url)
    page.get_by_role("tab", name="Edit a face").click()
    page.locator("#styleclip-img").set_input_files(face)
    page.get_by_role("slider", name="glasses").fill("2")
    go(page)
    state(page, "^Done$")
    first, facts = on_stage(page), page.locator("#facts")
    strength = page.locator("#anew").get_by_role("slider", name="Strength")
    for value in ("0.2", "0.5", "0.8", "1.4"):
        strength.fill(value)
    expect(facts).to_contain_text("Strength: 1.4")  # the last one counts
    strength.press("ArrowRight")
    expect(facts).to_contain_text("Strength: 1.45")
    expect(strength).to_be_focused()
    record = requests.get(f"{service.url}/jobs/{on_stage(page)}", timeout=60).json()
    assert (record["continues"], record["strength"], record["sliders"]) == (first, 1.45, "glasses:2")
    cards = page.get_by_role("button", name="glasses:2")
    expect(cards).to_have_count(2)  # the first and the newest
    expect(cards.filter(has_text="Strength 1.45")).to_have_count(1)
    expect(cards.filter(has_text="Strength")).to_have_count(1)
    page.get_by_role("button", name="Edit this face").wait_for()
    held, hold = page.locator("#held"), page.get_by_role("button", name="Hold: before")
    hold.hover()
    page.mouse.down()
    expect(held).to_be_visible()
    page.mouse.up()
    expect(held).to_be_hidden()
    assert faults(page) == []
    page.reload()  # without the photo, the picture before is that of strength 0
    hold.focus()
    page.keyboard.down("Space")
    expect(held).to_be_visible()
    page.keyboard.up("Space")
    expect(held).to_be_hidden()
    page.locator("#anew").get_by_role("button", name="The photo").click()
    expect(facts).to_contain_text("Result: The photo")
    expect(cards).to_have_count(2)

    for latents in (service.folder / "var" / "latents").iterdir():
        latents.unlink()
    strength.fill("0.3")
    expect(page.locator("#done")).to_contain_text("cannot go on any more")
    expect(page.locator("#anew")).to_be_hidden()
    page.reload()
    expect(page.locator("#anew")).to_be_visible()
    page.clock.set_fixed_time(datetime.now() + timedelta(hours=2))  # the page knows when they go
    page.reload()
    state(page, "^Done$")
    expect(page.locator("#facts")).to_contain_text("Result: The photo")
    expect(page.locator("#anew")).to_be_hidden()


def test_of_a_row_of_live_edits_the_last_one_stays(visit: Visit, service: Any, face: Path) -> None:
    page = visit(service.url)
    page.get_by_role("tab", name="Edit a face").click()
    page.locator("#styleclip-img").set_input_files(face)
    smile = page.get_by_role("slider", name="smile")
    smile.fill("1")
    form(page).get_by_label("Live", exact=True).check()
    cards = page.locator("#gallery li:visible .words").filter(has_text="smile:")
    for value in ("1.5", "2"):
        smile.fill(value)
        expect(page.locator("#caption")).to_have_text(f"smile:{value}")
        state(page, "^Done$")
        expect(cards).to_have_text([f"smile:{value}"])
    page.reload()
    state(page, "^Done$")
    expect(cards).to_have_text(["smile:2"])


def test_an_edit_without_a_prompt_is_listed_by_what_it_did(visit: Visit, service: Any, face: Path) -> None:
    made = requests.post(
        f"{service.url}/styleclip", data={"mapper": "beard"}, files={"img": face.read_bytes()}, timeout=120
    )
    assert made.status_code == 200
    page = visit(service.url)
    page.get_by_role("searchbox").fill("beard")
    card = page.locator("#gallery li:visible button")
    expect(card).to_have_count(1)
    expect(card.locator("img")).to_be_visible()
    card.click()
    expect(page.get_by_role("img", name="beard")).to_be_visible()
    expect(page.get_by_role("button", name="Download", exact=True)).to_be_visible()
