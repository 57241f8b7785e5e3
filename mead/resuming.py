"""Going on with a job that has ended, exactly where it was.

What its next step depends on beside its parameters, its *latents* for short, is kept as a safetensors file,
with what must be the same when it goes on.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ValidationError

from mead.params import ParamsError
from mead.provenance import Weights

if TYPE_CHECKING:
    from torch import Tensor

    from mead.revision import Revision

FIELD = "from"  # the parameter that names the job to go on with
KEY = "mead"  # of the file's metadata
UNREADABLE = "the latents of that job are damaged, or of another version"
LONGEST_HEADER = 2**20  # bytes


class Origin(BaseModel):
    """What has made latents.

    Attributes:
        format: of the file.
        model: the name of the model's class.
        weights: the set that was used.
        device: the type of the device, "cpu" or "cuda".
    """

    format: Literal[1] = 1
    model: str
    weights: Weights
    device: str

    def check(self, here: Origin) -> None:
        """Check that a job of this origin can go on here.

        Raises:
            ParamsError: with what is different.
        """
        self.check_weights(here.weights)
        if self.model != here.model:
            raise _conflict(f"that job was made by {self.model}, not by {here.model}")
        if self.device != here.device:
            raise _conflict(f"that job ran on the device {self.device}; it cannot go on on {here.device}")

    def check_weights(self, here: Weights) -> None:
        """Check that the weights are the same. Raises as `check`."""
        if self.weights.name != here.name:
            raise _conflict(f"that job was made with the weights {self.weights.name!r}, not {here.name!r}")
        if self.weights != here:
            raise _conflict(f"the weights {self.weights.name!r} have changed since that job")


def origin_of(content: bytes) -> Origin:
    """What has made the latents in a file; needs no PyTorch.

    Raises:
        ParamsError: it is damaged, or of another version.
    """
    try:
        (length,) = struct.unpack_from("<Q", content)
        header = json.loads(content[8 : 8 + min(length, LONGEST_HEADER)])
        return Origin.model_validate_json(header["__metadata__"][KEY])
    except (struct.error, ValueError, LookupError, TypeError, RecursionError, ValidationError) as error:
        raise _conflict(UNREADABLE) from error


def latents_file(revision: Revision, origin: Origin) -> bytes | None:
    """The latents of a revision that has ended, as a file; None if its model cannot go on."""
    from safetensors.torch import save

    state = revision.state()
    if state is None:
        return None
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    return save(tensors, {KEY: origin.model_dump_json()})


def restore(revision: Revision, content: bytes, here: Origin) -> None:
    """Have a new revision go on where another has ended, of the same parameters but for the number of steps.

    Args:
        content: of `latents_file`.
        here: what makes latents here.

    Raises:
        ParamsError: the file is damaged, of another origin, or of a job with other parameters.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    origin_of(content).check(here)
    try:
        state: Mapping[str, Tensor] = load(content)
        revision.restore(state)
    except (SafetensorError, LookupError, ValueError, RuntimeError) as error:
        raise _conflict(UNREADABLE) from error


def _conflict(why: str) -> ParamsError:
    return ParamsError(FIELD, why, out_of_range=True)
