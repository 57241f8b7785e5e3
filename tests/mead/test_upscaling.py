"""Enlarging pictures: tiles leave no trace, 2 is the mean of 4, and weights without an upscaler say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flask.testing import FlaskClient
from PIL import Image

from caching_config import Settings
from LatentRevisions.LatentRevisions import LatentRevisions
from LatentRevisions.params import LatentRevisionsParams
from mead.http.app import create_app
from mead.imaging.tensors import to_picture, to_tensor
from mead.limits import check_limits, extent
from mead.nn.upscaler import SRVGGNetCompact
from mead.params import ParamsError
from mead.queue.jobs import Jobs
from mead.upscaling import Upscaler, chosen_factor
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.StyleCLIP import StyleCLIP

FETCH = "python -m mead weights fetch full --with upscaler"


def upscaler(scale: int = 4) -> Upscaler:
    torch.manual_seed(0)
    return Upscaler(SRVGGNetCompact(8, 3, scale).eval(), torch.device("cpu"))


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))


def enlarged(by: Upscaler, picture: Image.Image, factor: int) -> Image.Image:
    *parts, whole = by.enlarge(picture, factor)
    assert whole is not None and not any(parts)
    return whole


def levels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


@pytest.fixture
def tiles_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("mead.upscaling.TILE", 32)
    yield


@pytest.mark.parametrize("size", [(128, 64), (100, 70), (32, 33), (5, 90), (3, 3)])
def test_tiles_leave_no_trace(tiles_of: None, size: tuple[int, int]) -> None:
    ours = upscaler()
    picture = noise(*size)
    with torch.inference_mode(), ours.precision.autocast():
        whole = to_picture(ours.network(to_tensor(picture)))
    tiled = enlarged(ours, picture, 4)
    assert tiled.size == whole.size == (4 * size[0], 4 * size[1])
    # sums in another order may round otherwise
    assert np.abs(levels(tiled) - levels(whole)).max() <= 1


def test_other_work_can_be_done_between_tiles(tiles_of: None) -> None:
    assert len(list(upscaler().enlarge(noise(70, 40), 4))) == 3 * 2
    assert len(list(upscaler().enlarge(noise(32, 32), 4))) == 1


def test_twice_is_the_mean_of_four_times(tiles_of: None) -> None:
    ours = upscaler()
    twice, four_times = (enlarged(ours, noise(50, 40), factor) for factor in (2, 4))
    assert twice.size == (100, 80)
    assert np.abs(levels(twice) - levels(four_times.reduce(2))).max() <= 1


def test_what_is_asked_for_or_the_weights_own() -> None:
    ours = upscaler()
    assert [chosen_factor(asked, 4, ours) for asked in (None, 1, 2, 4)] == [4, 1, 2, 4]
    assert [chosen_factor(asked, own, None) for asked, own in ((None, 1), (None, 4), (1, 4))] == [1, 1, 1]
    with pytest.raises(ParamsError, match=f"^upscale: .*{FETCH}") as caught:
        chosen_factor(2, 1, None)
    assert caught.value.field == "upscale" and caught.value.out_of_range
    with pytest.raises(ParamsError, match="enlarge 2 times, not 4"):
        chosen_factor(4, 1, upscaler(2))
    assert chosen_factor(None, 4, upscaler(2)) == 1  # a default never fails


@pytest.mark.parametrize("kind", [LatentRevisionsParams, StyleCLIPParams])
def test_weights_without_an_upscaler_name_the_command(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    settings = Settings(weights="full")
    check_limits(kind(prompt="a face"), settings)
    check_limits(kind(prompt="a face", upscale=1), settings)
    with pytest.raises(ParamsError, match=f"^upscale: .*{FETCH}") as caught:
        check_limits(kind(prompt="a face", upscale=2), settings)
    assert caught.value.field == "upscale" and caught.value.out_of_range


def test_the_classes_name_it_as_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    for model in (LatentRevisions, StyleCLIP):
        model("a face", weights="full")
        with pytest.raises(ValueError, match=f"^upscale: .*{FETCH}"):
            model("a face", weights="full", upscale=4)


def test_http_answers_422_and_queues_nothing(
    settings: Settings, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEIGHTS_DIR", str(tmp_path))
    jobs.heartbeat("worker", list(settings.queues), 600)
    door: FlaskClient = create_app(settings.model_copy(update={"weights": "full"})).test_client()
    for upscale, code in (("4", 422), ("3", 422), ("0", 422), ("two", 400), ("2.5", 400)):
        answer = door.post("/latent_revision", data={"prompt": "a house", "upscale": upscale})
        assert (answer.status_code, answer.get_json()["field"]) == (code, "upscale"), upscale
    assert FETCH in door.post("/latent_revision", data={"prompt": "a house", "upscale": 2}).text
    assert jobs.queue_length(settings.queues[0]) == 0


def test_an_enlarged_picture_counts_towards_the_limit() -> None:
    large = LatentRevisionsParams(prompt="a house", size=(1024, 1024), cutouts=128, iterations=1, upscale=4)
    assert extent(large, "demo").upscale == 4
    check_limits(large, Settings())
    with pytest.raises(ParamsError, match=r"^upscale: 4096x4096 is more than one job may take") as caught:
        check_limits(large, Settings(max_job_pixels=2_000_000))
    assert caught.value.field == "upscale"
    small = large.model_copy(update={"upscale": 1})
    check_limits(small, Settings(max_job_pixels=2_000_000))
