"""Where faces are in a picture: as squares that cut them out, and as what clients are told of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

QUARTER_TURN = np.array([[0, -1], [1, 0]])  # clockwise as seen on the screen, where y points down

Box = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Square:
    """A square in a picture; it may be turned, and reach beyond the picture.

    Attributes:
        centre: [2], x and y in pixels of the picture, whose upper left corner is (0, 0).
        across: [2], half of the upper edge, to the right as seen in the cut-out picture.
    """

    centre: np.ndarray
    across: np.ndarray

    @classmethod
    def of_box(cls, left: float, upper: float, right: float, lower: float) -> Square:
        """The upright square between these edges."""
        return cls(np.array([left + right, upper + lower]) / 2, np.array([(right - left) / 2, 0.0]))

    @cached_property
    def down(self) -> np.ndarray:
        """Half of the left edge, [2], downwards as seen in the cut-out picture."""
        return QUARTER_TURN @ self.across

    @property
    def side(self) -> float:
        return 2 * float(np.hypot(*self.across))

    @property
    def corner(self) -> np.ndarray:
        """The upper left one, [2]."""
        return self.centre - self.across - self.down

    @property
    def angle(self) -> float:
        """By how many degrees it is turned clockwise, -180 to 180."""
        return math.degrees(math.atan2(self.across[1], self.across[0]))

    def bounds(self, width: int, height: int) -> Box:
        """The smallest upright box of whole pixels around it, within a picture: left, upper, right, lower."""
        reach = np.abs(self.across) + np.abs(self.down)
        left, upper = np.floor(self.centre - reach).astype(int)
        right, lower = np.ceil(self.centre + reach).astype(int)
        return (
            int(np.clip(left, 0, width)),
            int(np.clip(upper, 0, height)),
            int(np.clip(right, 0, width)),
            int(np.clip(lower, 0, height)),
        )


class FoundFace(BaseModel):
    """A face in a photo."""

    model_config = ConfigDict(frozen=True)

    number: int = Field(description="Its number from the left, from 1.")
    box: Box = Field(
        description="Left, upper, right and lower edge of what is cut out of the photo for it, in pixels of "
        "the upright photo."
    )
    angle: int = Field(description="By how many degrees the face is turned clockwise, -180 to 180.")


def found_faces(squares: list[Square], size: tuple[int, int]) -> tuple[FoundFace, ...]:
    """What clients are told of faces.

    Args:
        squares: from the left.
        size: width and height of the photo.
    """
    return tuple(
        FoundFace(number=number, box=square.bounds(*size), angle=round(square.angle))
        for number, square in enumerate(squares, 1)
    )
