"""Going on with a job that has ended, exactly where it was.

What its next step or its picture depends on beside its parameters, its *latents* for short, is kept as a
safetensors file, with what must be the same when it goes on.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar, runtime_checkable

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

R_co = TypeVar("R_co", covariant=True)


@runtime_checkable
class ResumingPipeline(Protocol[R_co]):
    """A pipeline whose jobs can go on.

    `resume` returns a revision of these parameters that is where another one was when it had that `state`. It
    raises as `mead.revision.Pipeline.start`, and ParamsError for a state that is not of such a revision (see
    `readable`).
    """

    def resume(self, params: Any, state: Mapping[str, Tensor]) -> R_co: ...


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


def resume(pipeline: ResumingPipeline[R_co], params: Any, content: bytes, here: Origin) -> R_co:
    """A revision that goes on where another has ended.

    Args:
        params: of the other one, but for what the model lets change.
        content: of `latents_file`.
        here: what makes latents here.

    Raises:
        ParamsError: the file is damaged, of another origin, or of a job with other parameters.
        ValueError, OSError: as `ResumingPipeline.resume`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    origin_of(content).check(here)
    try:
        state: Mapping[str, Tensor] = load(content)
    except SafetensorError as error:
        raise _conflict(UNREADABLE) from error
    return pipeline.resume(params, state)


@contextmanager
def readable() -> Iterator[None]:
    """A block that reads a state; what is wrong with it is a ParamsError."""
    try:
        yield
    except (LookupError, ValueError, RuntimeError) as error:
        raise _conflict(UNREADABLE) from error


def _conflict(why: str) -> ParamsError:
    return ParamsError(FIELD, why, out_of_range=True)
