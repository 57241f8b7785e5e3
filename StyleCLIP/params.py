"""The parameters of a StyleCLIP job."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from mead.params import UPSCALE, JobParams, Upscale


class StyleCLIPParams(JobParams):
    """A face and what it should become."""

    img_path: Path | None = Field(None, description="The photo of a face; the average face when left out.")
    method: Literal["optimisation"] = Field(
        "optimisation", description="How the edit is found: by optimising the codes w+."
    )
    start: Literal["inversion", "learned"] | None = Field(
        None,
        description="Where to start: at the face's own codes, or where a network moves them that has learned "
        "what words ask for; the weights set's own start when left out.",
    )
    upscale: Upscale | None = Field(None, description=UPSCALE)
