"""The face classifier: built from its weights; where it looks in a picture."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from mead.nn.state_dict import StateDictError
from StyleCLIP.face_classifier import MOST, SIDES, FaceClassifier, squares


@pytest.fixture
def classifier() -> FaceClassifier:
    torch.manual_seed(0)
    return FaceClassifier((4, 6, 8), 32).eval().requires_grad_(False)


def test_it_is_built_from_its_weights_alone(classifier: FaceClassifier) -> None:
    again = FaceClassifier.from_state_dict(classifier.state_dict())
    pictures = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)
    assert again.input_size == 32
    torch.testing.assert_close(again(pictures), classifier(pictures))


def test_a_missing_key_is_named(classifier: FaceClassifier) -> None:
    for key in ("convs.1.weight", "norms.0.bias", "face_out.weight"):
        with pytest.raises(StateDictError, match=key):
            FaceClassifier.from_state_dict({k: v for k, v in classifier.state_dict().items() if k != key})


def test_weights_that_do_not_fit_together(classifier: FaceClassifier) -> None:
    with pytest.raises(StateDictError, match=r"face_out\.weight takes 5 features"):
        FaceClassifier.from_state_dict(classifier.state_dict() | {"face_out.weight": torch.zeros(1, 5)})
    with pytest.raises(ValueError, match="multiple of 8, not 20"):
        FaceClassifier((4, 6, 8), 20)


@pytest.mark.parametrize("size", [(128, 128), (64, 200), (300, 101), (5000, 2), (1, 1)])
def test_squares_cover_the_picture_from_large_to_small(size: tuple[int, int]) -> None:
    width, height = size
    boxes = list(squares(width, height))
    assert len(boxes) <= len(SIDES) * MOST**2
    shares = [(right - left) / min(size) for left, _, right, _ in boxes]
    assert shares == sorted(shares, reverse=True) or shares == pytest.approx(sorted(shares, reverse=True))
    assert {round(share, 3) for share in shares} == set(SIDES)
    for left, upper, right, lower in boxes:
        assert lower - upper == pytest.approx(right - left)
        assert left >= 0 and upper >= 0 and right <= width + 1e-6 and lower <= height + 1e-6
    if width == height:
        assert boxes[0] == (0, 0, width, height)


@pytest.mark.parametrize(("bias", "there"), [(9.0, True), (-9.0, False)])
def test_a_frame_is_given_in_pixels_of_the_picture(
    classifier: FaceClassifier, bias: float, there: bool
) -> None:
    """Of a picture with more pixels than are looked at, and all squares alike."""
    classifier.face_out.weight.zero_()
    classifier.face_out.bias.fill_(bias)
    frame = classifier.frame(Image.new("RGB", (700, 600), "grey"))
    assert (frame is not None) == there
    if frame is not None:
        assert frame[3] - frame[1] == pytest.approx(600) and frame[2] - frame[0] == pytest.approx(600, abs=3)
        assert frame[0] >= 0 and frame[2] <= 700
