"""What the Python client returns: pictures, and how far jobs are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from mead.files import write_whole

if TYPE_CHECKING:
    from PIL import Image

ENDED = frozenset({"succeeded", "failed", "cancelled"})

Record: TypeAlias = dict[str, Any]
"""A JSON object of the service's, such as a job's record."""


@dataclass(frozen=True)
class Picture:
    """A finished picture. A notebook shows it.

    Attributes:
        png: the PNG file.
        id: its job's id.
        seed: the same seed with the same parameters makes it again.
        notes: what was taken but cannot have its effect, each in a sentence.
    """

    png: bytes = field(repr=False)
    id: str
    seed: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def image(self) -> Image.Image:
        """The picture, decoded; needs Pillow."""
        from PIL import Image

        return Image.open(BytesIO(self.png))

    def save(self, path: str | Path) -> Path:
        """Write the PNG file whole: nobody sees half of it. Returns its path.

        Raises:
            OSError: it cannot be written.
        """
        write_whole(Path(path), self.png)
        return Path(path)

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True)
class Progress:
    """How far a job is, or a group of jobs together.

    Attributes:
        status: "queued", "processing", "succeeded", "failed" or "cancelled".
        steps, total_steps: optimisation steps done and in total; the total is None until it is known.
        rank: how many jobs run before it, if that is known.
    """

    status: str
    steps: int = 0
    total_steps: int | None = None
    loss: float | None = None
    rank: int | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in ENDED


def together(records: Sequence[Record]) -> Progress:
    """The progress of several jobs as one: their steps added up, and the least advanced status."""
    going = [record for record in records if record["status"] not in ENDED]
    started = [record for record in going if record["status"] == "processing"]
    done = sum(record["steps"] for record in records)
    totals = [record["total_steps"] for record in records if record.get("total_steps")]
    total = len(records) * max(totals) if totals else None
    if not going:
        bad = [record["status"] for record in records if record["status"] != "succeeded"]
        return Progress(bad[0] if bad else "succeeded", done, total)
    rank = min(record.get("rank", 0) for record in going)
    return Progress(
        "processing" if started or len(going) < len(records) else "queued", done, total, None, rank
    )
