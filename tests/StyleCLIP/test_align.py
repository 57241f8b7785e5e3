"""Finding and aligning faces, on real photos."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from StyleCLIP.align import Landmarks, NoFaceError, align, find_face

DATA = Path(__file__).parents[1] / "data"
SIZE = 256


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.open(DATA / "face.jpeg").convert("RGB")


def assert_in_ffhq_pose(picture: Image.Image) -> None:
    """Eyes level, and eyes and mouth where FFHQ's faces have them (0 to 1, from the upper left corner)."""
    assert picture.mode == "RGB" and picture.size == (SIZE, SIZE)
    face = find_face(picture)
    np.testing.assert_allclose(np.divide(face.right_eye, SIZE), (0.375, 0.48), atol=0.03)
    np.testing.assert_allclose(np.divide(face.left_eye, SIZE), (0.625, 0.48), atol=0.03)
    mouth = np.add(face.right_mouth, face.left_mouth) / 2
    np.testing.assert_allclose(mouth / SIZE, (0.5, 0.71), atol=0.03)


def test_finds_the_face(photo: Image.Image) -> None:
    face = find_face(photo)
    np.testing.assert_allclose(face.right_eye, (202, 103), atol=5)
    np.testing.assert_allclose(face.left_eye, (245, 102), atol=5)
    np.testing.assert_allclose(face.nose, (222, 126), atol=5)
    np.testing.assert_allclose(face.right_mouth, (204, 142), atol=5)
    np.testing.assert_allclose(face.left_mouth, (244, 142), atol=5)


@pytest.mark.parametrize("angle", [0, 20, -30, 45, 90, 135, 180, 270])
def test_a_turned_photo_is_turned_back(photo: Image.Image, angle: int) -> None:
    turned = photo.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor="grey")
    assert_in_ffhq_pose(align(turned, find_face(turned), SIZE))


@pytest.mark.parametrize(
    "box", [(160, 40, 290, 190), (170, 60, 275, 180), (0, 70, 400, 512)], ids=["close", "closer", "forehead"]
)
def test_the_picture_goes_on_beyond_its_border(photo: Image.Image, box: tuple[int, int, int, int]) -> None:
    cut = photo.crop(box)
    assert_in_ffhq_pose(align(cut, find_face(cut), SIZE))


def test_faces_of_any_size(photo: Image.Image) -> None:
    large = photo.resize((2048, 2048), Image.Resampling.BICUBIC)
    assert_in_ffhq_pose(align(large, find_face(large), SIZE))
    wide = Image.new("RGB", (2000, 1500), "darkgreen")
    wide.paste(photo.resize((200, 200)), (1500, 900))
    assert_in_ffhq_pose(align(wide, find_face(wide), SIZE))


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "CMYK"])
def test_any_mode(photo: Image.Image, mode: str) -> None:
    picture = photo.convert(mode)
    assert_in_ffhq_pose(align(picture, find_face(picture), SIZE))


def test_of_several_faces_the_largest(photo: Image.Image) -> None:
    group = Image.new("RGB", (1000, 600), "grey")
    group.paste(photo.resize((300, 300)), (0, 250))
    group.paste(photo, (450, 50))
    assert find_face(group).nose == pytest.approx((450 + 222, 50 + 126), abs=8)


@pytest.mark.parametrize("name", ["chelsea.jpg", "coffee.jpg"])
def test_no_face(name: str) -> None:
    with pytest.raises(NoFaceError, match="found no face"):
        find_face(Image.open(DATA / name))


@pytest.mark.parametrize("size", [(1, 1), (3000, 2), (64, 64)])
def test_no_face_in_an_empty_picture(size: tuple[int, int]) -> None:
    with pytest.raises(NoFaceError):
        find_face(Image.new("RGB", size, "grey"))


def test_an_upright_face_in_the_middle_is_cropped_as_it_stands() -> None:
    """The square by hand: 4 eye distances wide, its centre a tenth of the way from the eyes to the mouth."""
    columns = np.linspace(0, 255, 400)
    picture = Image.fromarray(np.tile(columns, (400, 1)).astype(np.uint8))
    face = Landmarks(
        (190, 190), (210, 190), (200, 200), (192, 210), (208, 210)
    )  # square: x 160-240, y 152-232
    row = np.asarray(align(picture, face, 80))[40, :, 0]
    np.testing.assert_allclose(row, np.linspace(columns[160], columns[239], 80), atol=2)
