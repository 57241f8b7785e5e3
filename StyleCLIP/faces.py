"""The faces of a photo: people's, and those that a weights set's own classifier knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from mead.imaging.faces import FoundFace, Square, found_faces
from mead.imaging.pictures import PictureError, read_picture
from mead.weights.sets import WeightSet
from StyleCLIP.align import (
    NoFaceError,
    cut_out,
    find_face,
    find_people,
    glimpses,
    is_among,
    square_of,
)
from StyleCLIP.params import MOST_FACES

if TYPE_CHECKING:  # a set without a classifier needs no PyTorch
    from StyleCLIP.face_classifier import FaceClassifier


def main_face(
    picture: Image.Image, classifier: FaceClassifier | None, size: int
) -> tuple[Image.Image, Square]:
    """The most prominent face of an RGB picture, upright and framed as FFHQ's are, [size, size]; and where.

    Raises:
        PictureError: if it shows no face.
    """
    frame = None if classifier is None else classifier.frame(picture)
    if frame is not None:
        return picture.resize((size, size), Image.Resampling.LANCZOS, frame), Square.of_box(*frame)
    try:
        square = square_of(find_face(picture))
        return cut_out(picture, square, size), square
    except NoFaceError as error:
        raise PictureError("img", "no_face", str(error)) from error


def find_all(picture: Image.Image, classifier: FaceClassifier | None) -> list[Square]:
    """The squares of the faces in an RGB picture, from the left; the surest MOST_FACES of them."""
    seen = glimpses(picture)
    drawn: list[Square] = []
    frame = None if classifier is None else classifier.frame(picture)
    if classifier is not None:
        whole = (0.0, 0.0, float(picture.width), float(picture.height))
        if frame == whole:  # a drawing framed as faces are: no other place fits better
            drawn = [Square.of_box(*frame)]
        places = [] if frame is None else [Square.of_box(*frame)]
        places += [glimpse.square for glimpse in seen]
        drawn = drawn_near(places, picture, classifier, drawn)
    people = find_people(picture, [one for one in seen if not is_among(one.square, drawn)])
    if classifier is not None:  # of drawn faces too, it is better known now where they are
        drawn = drawn_near(people, picture, classifier, drawn)
        people = [square for square in people if not is_among(square, drawn)]
    if classifier is not None and frame is None and not drawn and not people:
        drawn = anywhere(picture, classifier)
    if not drawn and not people:  # what is the most prominent face is one
        try:
            return [square_of(find_face(picture)) if frame is None else Square.of_box(*frame)]
        except NoFaceError:
            return []
    return sorted([*drawn, *people][:MOST_FACES], key=lambda square: float(square.centre[0]))


def drawn_near(
    places: list[Square], picture: Image.Image, classifier: FaceClassifier, known: list[Square]
) -> list[Square]:
    """The known faces, and those near other places of an RGB picture that a classifier takes for some."""
    found = list(known)
    for place in places:
        if not is_among(place, found):
            face = classifier.refine(picture, place)
            if face is not None and not is_among(face, found):
                found.append(face)
    return found


def anywhere(picture: Image.Image, classifier: FaceClassifier) -> list[Square]:
    """The faces of an RGB picture that a classifier is very sure of, wherever they are."""
    from StyleCLIP.face_classifier import CLOSER, VERY_SURE

    found: list[Square] = []
    for square in classifier.glimpses(picture)[:CLOSER]:
        if not is_among(square, found):
            face = classifier.refine(picture, square, VERY_SURE)
            if face is not None and not is_among(face, found):
                found.append(face)
    return found


def load_classifier(weights: str, device: str) -> FaceClassifier | None:
    """The face classifier of a weights set, if it has one.

    Raises:
        WeightsError: its file is missing or damaged.
    """
    chosen = WeightSet.find(weights)
    if "face" not in chosen.files:
        return None
    from StyleCLIP.face_classifier import FaceClassifier

    return FaceClassifier.from_state_dict(chosen.read("face")).requires_grad_(False).to(device)


def load_finder(weights: str) -> Callable[[Image.Image], tuple[FoundFace, ...]]:
    """What finds the faces of an RGB photo as jobs of StyleCLIP with a weights set do, on the processor.

    Raises:
        WeightsError: a file is missing or damaged.
    """
    classifier = load_classifier(weights, "cpu")
    return lambda picture: found_faces(find_all(picture, classifier), picture.size)


def find_faces(img_path: str | Path, weights: str = "demo") -> tuple[FoundFace, ...]:
    """The faces of a photo, from the left: what the argument `face` chooses among.

    Args:
        img_path: the photo.
        weights: name of a weights set.

    Raises:
        FileNotFoundError: there is no such file.
        PictureError: (a ValueError) it is not a picture.
        WeightsError: the weights are missing.
    """
    return load_finder(weights)(read_picture(Path(img_path), "img_path"))
