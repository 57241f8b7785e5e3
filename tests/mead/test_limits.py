"""How much one job may ask for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app import create_app as create_trial_app
from caching_config import Settings
from LatentRevisions.LatentRevisions import LatentRevisions
from LatentRevisions.params import LatentRevisionsParams
from mead.http.app import create_app
from mead.limits import check_limits, check_steps, extent
from mead.model_spec import Extent
from mead.nn.tokeniser import load_tokeniser
from mead.params import JobParams, ParamsError
from mead.queue.jobs import Jobs
from mead.weights.perceptor import load_perceptor
from mead.weights.texts import check_texts, context_length
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.StyleCLIP import StyleCLIP
from StyleCLIP.StyleCLIP import load_pipeline as load_faces

ROOT = Path(__file__).parents[2]
ROOM = context_length("demo") - 2
LONG = "a red house " * ROOM


@pytest.fixture
def door(settings: Settings, jobs: Jobs) -> FlaskClient:
    """A client of an API whose workers are there."""
    jobs.heartbeat("worker", [settings.queues[0], settings.queues[1]], 600)
    return create_app(settings).test_client()


def test_the_context_length_is_the_networks_own() -> None:
    assert context_length("demo") == load_perceptor("demo", "cpu").model.context_length


def test_clip_reads_a_text_that_just_fits() -> None:
    words = ["house"] * ROOM
    check_texts(LatentRevisionsParams(prompt=" ".join(words)), "demo")
    with pytest.raises(ParamsError, match=r'would stop after ".*house" and not read "tree"') as caught:
        check_texts(LatentRevisionsParams(prompt=" ".join([*words, "tree"])), "demo")
    assert caught.value.field == "prompt" and caught.value.out_of_range
    assert str(ROOM) in str(caught.value) and str(ROOM + 1) in str(caught.value)


def test_what_is_refused_is_what_clip_would_not_see() -> None:
    """Two texts that differ only behind the cut are one to CLIP."""
    perceptor = load_perceptor("demo", "cpu")
    text = "a red house by the sea, " * 20
    read, unread, _ = load_tokeniser().cut(text, ROOM)
    whole, cut, other = perceptor.embed_text([text, read, f"a girl {read}"])
    assert unread and float(whole @ cut) > 0.999 > float(whole @ other)


def test_a_word_longer_than_all_that_is_read() -> None:
    with pytest.raises(ParamsError, match="within its first word"):
        check_texts(StyleCLIPParams(prompt="ab" * 900), "demo")


def test_each_text_is_named() -> None:
    with pytest.raises(ParamsError, match=r"^text_to_add: ") as caught:
        check_texts(LatentRevisionsParams(prompt="a house", text_to_add=LONG), "demo")
    assert caught.value.field == "text_to_add"
    assert len(str(caught.value)) < 400


def test_what_the_settings_allow() -> None:
    settings = Settings(max_iterations=50, max_side=256)
    check_limits(LatentRevisionsParams(prompt="a house", iterations=50, size=(256, 256)), settings)
    check_limits(StyleCLIPParams(prompt="a face"), settings)
    for given, field in (({"iterations": 51}, "iterations"), ({"size": (256, 272)}, "size")):
        with pytest.raises(ParamsError, match=rf"^{field}: at most ") as caught:
            check_limits(LatentRevisionsParams(prompt="a house", **given), settings)
        assert caught.value.field == field and caught.value.out_of_range


def test_cutouts_are_limited() -> None:
    settings = Settings(max_cutouts=64)
    check_limits(LatentRevisionsParams(prompt="a house", cutouts=64), settings)
    with pytest.raises(ParamsError, match=r"^cutouts: at most 64 here") as caught:
        check_limits(LatentRevisionsParams(prompt="a house", cutouts=65), settings)
    assert caught.value.field == "cutouts" and caught.value.out_of_range


@pytest.mark.parametrize("weights", ["demo", "full"])
@pytest.mark.parametrize("kind", [LatentRevisionsParams, StyleCLIPParams])
def test_an_extent_is_the_weights_own_where_it_is_left_open(kind: type[JobParams], weights: str) -> None:
    published = {
        ("demo", LatentRevisionsParams): Extent(128, 128, 12, 40, upscale=4),
        ("demo", StyleCLIPParams): Extent(128, 128, 7, 40, upscale=4, refine=20),
        ("full", LatentRevisionsParams): Extent(512, 512, 32, 100),
        ("full", StyleCLIPParams): Extent(1024, 1024, 1, 50),
    }
    assert extent(kind(prompt="a house"), weights) == published[weights, kind]
    job = extent(kind(prompt="a house", iterations=7), weights)
    assert job.steps == 7 + job.refine == 7 + published[weights, kind].refine
    assert extent(StyleCLIPParams(prompt="a face", iterations=7, refine=5), weights).steps == 12


def test_the_side_of_a_face_is_what_the_generator_makes() -> None:
    assert extent(StyleCLIPParams(prompt="a face"), "demo").width == load_faces("demo", "cpu").generator.size


@pytest.mark.parametrize(
    ("size", "cutouts"), [((256, 256), 32), ((256, 256), 64), ((512, 512), 64), ((1024, 1024), 64)]
)
def test_the_usual_jobs_are_far_within_the_limits(size: tuple[int, int], cutouts: int) -> None:
    for weights in ("demo", "full"):
        settings = Settings(weights=weights)
        check_limits(
            LatentRevisionsParams(prompt="a house", size=size, cutouts=cutouts, iterations=500), settings
        )
        check_limits(StyleCLIPParams(prompt="a face", iterations=500), settings)


def test_a_job_too_large_in_all_names_the_steps_it_may_have() -> None:
    settings = Settings()
    large = {"prompt": "a house", "size": (1024, 1024), "cutouts": 128}
    with pytest.raises(ParamsError, match=r"^iterations: 1024x1024 with 128 cutouts for 2000 ") as caught:
        check_limits(LatentRevisionsParams(**large, iterations=2000), settings)
    assert caught.value.field == "iterations" and caught.value.out_of_range
    told = re.search(r"at most (\d+) steps", str(caught.value))
    assert told is not None
    check_limits(LatentRevisionsParams(**large, iterations=int(told[1])), settings)
    with pytest.raises(ParamsError, match="iterations"):
        check_limits(LatentRevisionsParams(**large, iterations=int(told[1]) + 1), settings)


def test_steps_left_to_the_weights_count() -> None:
    settings = Settings(weights="full", max_job_pixels=30_000_000)
    with pytest.raises(ParamsError, match=r"^iterations: 512x512 with 32 cutouts for 100 steps"):
        check_limits(LatentRevisionsParams(prompt="a house"), settings)
    check_limits(LatentRevisionsParams(prompt="a house", iterations=50), settings)


def test_http_answers_422_and_queues_nothing(door: FlaskClient, jobs: Jobs, settings: Settings) -> None:
    forms = {
        "cutouts": {"cutouts": "129"},
        "iterations": {"size": "1024x1024", "cutouts": "128", "iterations": "2000"},
    }
    for field, form in forms.items():
        answer = door.post("/latent_revision", data={"prompt": "a house", **form})
        assert (answer.status_code, answer.get_json()["field"]) == (422, field)
    assert jobs.queue_length(settings.queues[0]) == 0


def test_the_trial_server_has_the_same_limits(settings: Settings) -> None:
    client = create_trial_app(settings).test_client()
    form = {"prompt": "a house", "size": "1024x1024", "cutouts": "128", "iterations": "2000"}
    answer = client.post("/latent_revision", data=form)
    assert (answer.status_code, answer.get_json()["field"]) == (422, "iterations")


def test_the_classes_have_no_such_limits() -> None:
    made = LatentRevisions("a house", size=(1024, 1024), cutouts=256, iterations=2000)
    assert (made.params.cutouts, made.params.iterations) == (256, 2000)  # type: ignore[attr-defined]


@pytest.mark.parametrize("field", ["prompt", "text_to_add"])
def test_http_says_so_before_anything_is_queued(
    door: FlaskClient, jobs: Jobs, settings: Settings, field: str
) -> None:
    answer = door.post("/latent_revision", data={"prompt": "a house", field: LONG})
    body = answer.get_json()
    assert (answer.status_code, body["field"]) == (422, field) and "would stop after" in body["message"]
    assert jobs.queue_length(settings.queues[0]) == 0
    assert not list(settings.data_dir.rglob("*.png"))


def test_the_classes_say_so_as_they_are_made(face: Path) -> None:
    with pytest.raises(ValueError, match=r"^prompt: CLIP reads"):
        LatentRevisions(LONG)
    with pytest.raises(ValueError, match=r"^text_to_add: CLIP reads"):
        LatentRevisions("a house", text_to_add=LONG)
    with pytest.raises(ValueError, match=r"^prompt: CLIP reads"):
        StyleCLIP(LONG, img_path=str(face))


@pytest.mark.slow
def test_the_command_line_says_so(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "mead", "latent_revision", LONG, "--output_path", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 2 and ended.stderr.startswith("mead: prompt: CLIP reads")
    assert not list(tmp_path.iterdir())


def test_none_of_it_needs_torch() -> None:
    code = (
        "import sys; from mead.limits import *; from LatentRevisions.params import *\n"
        "check_limits(LatentRevisionsParams(prompt='a house'), Settings()); print('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


def test_how_many_faces_one_job_may_edit(settings: Settings) -> None:
    """Known only once they are found; what one face takes was checked before."""
    params = StyleCLIPParams(
        prompt="a smile", iterations=10, refine=0, img_path=Path("group"), output="photo", face="all"
    )
    check_steps(params, 40 * 10, settings)
    small = settings.model_copy(update={"max_job_pixels": 2_000_000})
    check_steps(params, 10, small)
    with pytest.raises(
        ParamsError, match=r"^face: 40 faces with 10 steps each are more .* at most (\d+)"
    ) as caught:
        check_steps(params, 40 * 10, small)
    assert caught.value.field == "face" and caught.value.out_of_range
    found = re.search(r"at most (\d+)", str(caught.value))
    assert found is not None
    most = int(found[1])
    check_steps(params, most * 10, small)
    with pytest.raises(ParamsError):
        check_steps(params, (most + 1) * 10, small)
