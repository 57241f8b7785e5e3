"""A photo whose faces are edited one after the other, and pasted back."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from PIL import Image

from mead.imaging.faces import FoundFace, Square, found_faces
from mead.imaging.pasting import change, paste
from mead.imaging.pictures import PictureError
from mead.params import ParamsError
from StyleCLIP.align import NO_FACE, cut_out
from StyleCLIP.params import StyleCLIPParams

if TYPE_CHECKING:
    from StyleCLIP.face_classifier import FaceClassifier

LOOKED_AT = 256  # side, in pixels, of a face that is looked at

Enlarge: TypeAlias = Callable[[Image.Image], Iterator["Image.Image | None"]]
"""Enlarges a picture in parts: None after each but the last, then the picture."""


class PhotoEdit:
    """The photo of a job, and how far the edits of its faces are.

    Args:
        picture: the photo, RGB.
        squares: where its faces are, from the left.
        params: the job's.
        classifier: knows faces that are not people's, such as drawn ones; None if there is none.

    Attributes:
        faces: what clients are told of the faces.
        chosen: the faces to edit, by their places in `squares`.
        edited: the faces that are finished, each before and after.

    Raises:
        PictureError: "no_face".
        ParamsError: naming `face`, if there are fewer faces.
    """

    def __init__(
        self,
        picture: Image.Image,
        squares: list[Square],
        params: StyleCLIPParams,
        classifier: FaceClassifier | None = None,
    ) -> None:
        if not squares:
            raise PictureError("img", "no_face", NO_FACE)
        self.picture = picture
        self.squares = squares
        self.params = params
        self.output = params.output
        self.faces: tuple[FoundFace, ...] = found_faces(squares, picture.size)
        self.chosen = chosen(squares, params.face)
        self.edited: list[tuple[Image.Image, Image.Image]] = []
        self.classifier = classifier
        self._drawn: dict[int, bool] = {}

    def is_drawn(self, turn: int) -> bool:
        """Whether the face whose turn it is, from 0, is one that the classifier knows."""
        if turn not in self._drawn:
            face = None if self.classifier is None else self.classifier.frame(self.cut_out(turn, LOOKED_AT))
            self._drawn[turn] = face is not None
        return self._drawn[turn]

    def cut_out(self, turn: int, size: int) -> Image.Image:
        """The face whose turn it is, from 0, upright, [size, size]."""
        return cut_out(self.picture, self.squares[self.chosen[turn]], size)

    def finished(
        self, before: Image.Image, after: Image.Image, enlarge: Enlarge
    ) -> Iterator[Image.Image | None]:
        """The photo with all edited faces in it, in parts; beside the photo as it was for the output "pair".

        Args:
            before, after: the last face.
            enlarge: for faces that are larger in the photo than they are drawn.

        Yields:
            None after each part but the last, then the picture.
        """
        pasted = np.array(self.picture)
        for turn, (inversion, edit) in enumerate([*self.edited, (before, after)]):
            square = self.squares[self.chosen[turn]]
            if square.side > edit.width:
                inversion = yield from _last(enlarge(inversion))
                edit = yield from _last(enlarge(edit))
            others = [other for other in self.squares if other is not square]
            changed = change(inversion, edit, self.params.strength, replaces=self.is_drawn(turn))
            paste(pasted, changed, square, others)
            yield None
        result = Image.fromarray(pasted)
        if self.output == "pair":
            result = beside(self.picture, result)
        yield result


def chosen(squares: list[Square], face: str | int) -> list[int]:
    """The places in `squares` of the faces that a job's `face` asks for.

    Raises:
        ParamsError: there are fewer.
    """
    if face == "all":
        return list(range(len(squares)))
    if face == "largest":
        return [max(range(len(squares)), key=lambda place: squares[place].side)]
    assert isinstance(face, int)
    if face > len(squares):
        there = "is 1 face" if len(squares) == 1 else f"are {len(squares)} faces"
        raise ParamsError("face", f"there {there} in the photo, so there is no face {face}", True)
    return [face - 1]


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures of the same height side by side."""
    both = Image.new("RGB", (left.width + right.width, left.height))
    both.paste(left, (0, 0))
    both.paste(right, (left.width, 0))
    return both


def _last(parts: Iterator[Image.Image | None]) -> Generator[None, None, Image.Image]:
    """Passes on the parts but the last, which it returns."""
    for part in parts:
        if part is not None:
            return part
        yield None
    raise AssertionError("there is no last part")
