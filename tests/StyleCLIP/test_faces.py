"""Finding all faces of a photo: people's and drawn ones, in groups and crowds, turned and at the edge."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mead.imaging.faces import Square
from StyleCLIP.face_classifier import FaceClassifier
from StyleCLIP.faces import anywhere, find_all, find_faces, load_classifier, load_finder, main_face
from StyleCLIP.params import MOST_FACES
from StyleCLIP.StyleCLIP import StyleCLIP
from tests.conftest import DATA, ROOT
from training.world import Face, draw


@pytest.fixture(scope="module")
def classifier() -> FaceClassifier:
    found = load_classifier("demo", "cpu")
    assert found is not None
    return found


def person() -> Image.Image:
    """A person's head and shoulders, 250 x 250, whose face has its middle at (125, 107)."""
    with Image.open(DATA / "face.jpeg") as photo:
        return photo.convert("RGB").crop((98, 0, 348, 250))


def group(*places: tuple[float, float, float, float], size: tuple[int, int] = (1200, 700)) -> Image.Image:
    """Heads with their middles at x and y, so large and turned clockwise by so many degrees."""
    picture = Image.new("RGB", size, (120, 130, 140))
    for x, y, side, degrees in places:
        head = person().resize((round(side), round(side)), Image.Resampling.LANCZOS).convert("RGBA")
        turned = head.rotate(-degrees, Image.Resampling.BICUBIC, expand=True)
        picture.paste(turned, (round(x - turned.width / 2), round(y - turned.height / 2)), turned)
    return picture


PLACES = ((200, 300, 300, -20), (600, 350, 420, 10), (1000, 300, 180, 0))


def near(squares: list[Square], places: tuple[tuple[float, float, float, float], ...]) -> bool:
    return len(squares) == len(places) and all(
        np.hypot(*(square.centre - (x, y))) < 0.15 * side and abs(square.angle - degrees - 6) < 8
        for square, (x, y, side, degrees) in zip(squares, places, strict=True)
    )


@pytest.mark.parametrize("with_classifier", [True, False])
def test_a_group_from_the_left(classifier: FaceClassifier, with_classifier: bool) -> None:
    found = find_all(group(*PLACES), classifier if with_classifier else None)
    assert near(found, PLACES), [(square.centre, square.angle) for square in found]


@pytest.mark.slow
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_photo_that_lies_on_its_side(quarters: int) -> None:
    turned = group(*PLACES).rotate(-90 * quarters, expand=True)
    found = find_all(turned, None)
    assert len(found) == 3
    for square in found:
        away = (square.angle - 90 * quarters + 180) % 360 - 180
        assert abs(away) < 35


@pytest.mark.parametrize(("x", "y"), [(60, 300), (1140, 300), (600, 60), (600, 640)])
def test_a_face_near_the_edge(x: int, y: int) -> None:
    (found,) = find_all(group((x, y, 300, 0)), None)
    assert np.hypot(*(found.centre - (x, y))) < 50


def test_a_small_face_in_a_large_photo() -> None:
    (found,) = find_all(group((2300, 400, 120, 0), size=(3000, 2000)), None)
    assert near([found], ((2300, 400, 120, 0),))


@pytest.mark.slow
def test_a_crowd(classifier: FaceClassifier) -> None:
    places = tuple((100 + 200 * (k % 7), 100 + 200 * (k // 7), 180 + k % 3, 0) for k in range(21))
    found = find_all(group(*places, size=(1400, 600)), classifier)
    assert len(found) == 21
    assert [square.centre[0] for square in found] == sorted(square.centre[0] for square in found)


@pytest.mark.slow
def test_no_more_than_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    places = tuple((60 + 120 * (k % 6), 60 + 120 * (k // 6), 110, 0) for k in range(12))
    crowd = group(*places, size=(720, 240))
    assert len(find_all(crowd, None)) == 12 < MOST_FACES
    monkeypatch.setattr("StyleCLIP.faces.MOST_FACES", 10)
    assert len(find_all(crowd, None)) == 10


def test_drawn_faces_beside_people(classifier: FaceClassifier) -> None:
    """Two drawings, one of them turned, and a person between them."""
    picture = group((600, 350, 300, 0))
    for seed, x, degrees in ((1, 60, 0), (4, 850, 15)):
        drawing = draw(Face.sample(np.random.default_rng(seed))).resize((256, 256)).convert("RGBA")
        turned = drawing.rotate(-degrees, Image.Resampling.BICUBIC, expand=True)
        picture.paste(turned, (x, 200), turned)
    first, second, third = find_all(picture, classifier)
    assert np.hypot(*(first.centre - (188, 328))) < 25 and abs(first.side / 256 - 1) < 0.2
    assert np.hypot(*(second.centre - (600, 350))) < 40
    assert np.hypot(*(third.centre - (850 + 157, 200 + 157))) < 25 and abs(third.angle - 15) < 8


@pytest.mark.slow
def test_a_drawing_that_is_a_face_is_framed_as_it_is(classifier: FaceClassifier) -> None:
    """So that its photo and its face are of the same edit."""
    for seed in (1, 4):
        picture = draw(Face.sample(np.random.default_rng(seed))).resize((512, 512))
        _, main = main_face(picture, classifier, 256)
        for found in (main, *find_all(picture, classifier)):
            assert found.centre.tolist() == [256, 256] and found.side == 512 and found.angle == 0


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "side", "degrees"), [(1, 200, 0), (4, 280, 120), (5, 400, -50)])
def test_the_classifier_alone_finds_small_and_turned_drawings(
    classifier: FaceClassifier, seed: int, side: int, degrees: int
) -> None:
    with Image.open(DATA / "coffee.jpg") as behind:
        picture = behind.convert("RGB").resize((1200, 900))
    drawing = draw(Face.sample(np.random.default_rng(seed))).resize((side, side)).convert("RGBA")
    turned = drawing.rotate(-degrees, Image.Resampling.BICUBIC, expand=True)
    picture.paste(turned, (500, 300), turned)
    (found,) = anywhere(picture, classifier)
    assert np.hypot(*(found.centre - (500 + turned.width / 2, 300 + turned.height / 2))) < 0.15 * side
    assert abs(found.side / side - 1) < 0.25 and abs(found.angle - degrees) < 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chelsea.jpg", "coffee.jpg"])
def test_no_face(classifier: FaceClassifier, name: str) -> None:
    with Image.open(DATA / name) as picture:
        assert find_all(picture.convert("RGB"), classifier) == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (64, 64)])
def test_no_face_in_an_empty_picture(classifier: FaceClassifier, size: tuple[int, int]) -> None:
    assert find_all(Image.new("RGB", size, "grey"), classifier) == []


def test_a_drawing_that_fills_the_picture(classifier: FaceClassifier) -> None:
    drawing = draw(Face.sample(np.random.default_rng(0)))
    (found,) = find_all(drawing, classifier)
    assert abs(found.side / drawing.width - 1) < 0.2 and abs(found.angle) < 8


@pytest.mark.slow
def test_the_class_lists_faces_with_their_boxes(tmp_path: Path) -> None:
    photo = tmp_path / "group.png"
    group(*PLACES).save(photo)
    found = StyleCLIP.find_faces(photo)
    assert [face.number for face in found] == [1, 2, 3]
    assert found == load_finder("demo")(group(*PLACES)) == find_faces(str(photo))
    left, upper, right, lower = found[1].box
    assert left < 560 and upper < 300 and right > 640 and lower > 400
    with pytest.raises(FileNotFoundError, match=r"^img_path: "):
        StyleCLIP.find_faces(tmp_path / "none.png")


def test_a_set_without_a_classifier_needs_no_pytorch() -> None:
    code = "import StyleCLIP.faces, sys; assert 'torch' not in sys.modules, sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
