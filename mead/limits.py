"""Limits on a job: those of the service's settings, and the length of the texts that CLIP reads."""

from __future__ import annotations

import functools

from safetensors import safe_open

from mead.model_spec import Extent
from mead.nn.tokeniser import load_tokeniser, surely_fits
from mead.params import JobParams, ParamsError
from mead.registry import spec_of
from mead.settings import Settings
from mead.weights.sets import WeightSet

CONTEXT_LENGTH = 77  # of every published CLIP: the ids it reads, two of which begin and end the text
CUTOUT_PIXELS = 2048
"""Pixels of VQGAN's picture that cost what a cutout does.

Forward and backward, the published VQGAN takes 7.8 MFLOP a pixel, and the published CLIP 17.7 GFLOP a cutout.
"""
SHOWN = 60  # characters of a text that an error repeats


def check_limits(params: JobParams, settings: Settings) -> None:
    """Check what a request asks of the service.

    Raises:
        ParamsError: naming the field, and the limit that is passed.
    """
    if params.iterations is not None and params.iterations > settings.max_iterations:
        raise _too_much("iterations", f"at most {settings.max_iterations} here")
    size = getattr(params, "size", None)
    if size is not None and max(size) > settings.max_side:
        raise _too_much("size", f"at most {settings.max_side} pixels wide and high here")
    cutouts = getattr(params, "cutouts", None)
    if cutouts is not None and cutouts > settings.max_cutouts:
        raise _too_much("cutouts", f"at most {settings.max_cutouts} here")
    _check_extent(extent(params, settings.weights), settings.max_job_pixels)
    check_texts(params, settings.weights)


def extent(params: JobParams, weights: str) -> Extent:
    """How much a job computes; what its parameters leave open is the weights set's own.

    Raises:
        UnknownSetError: when the manifest has no such set.
    """
    own = _own_extent(type(params), weights)
    width, height = getattr(params, "size", None) or (own.width, own.height)
    cutouts = getattr(params, "cutouts", None) or own.cutouts
    return Extent(width, height, cutouts, params.iterations or own.steps)


@functools.cache
def _own_extent(kind: type[JobParams], weights: str) -> Extent:
    """The extent of a job that leaves all of it to the weights set."""
    return spec_of(kind).own_extent(WeightSet.find(weights))


def _check_extent(job: Extent, most: int) -> None:
    steps = most // (job.width * job.height + CUTOUT_PIXELS * job.cutouts)
    if job.steps <= steps:
        return
    cutouts = "1 cutout" if job.cutouts == 1 else f"{job.cutouts} cutouts"
    raise _too_much(
        "iterations",
        f"{job.width}x{job.height} with {cutouts} for {job.steps} steps is more than one job may take here; "
        f"at most {steps} steps at this size and number of cutouts",
    )


def check_texts(params: JobParams, weights: str) -> None:
    """Check that CLIP of a weights set reads a job's texts to their end. Loads no weights and no PyTorch.

    Raises:
        ParamsError: naming the text and the words that would not be read.
        UnknownSetError: when the manifest has no such set.
    """
    room = context_length(weights) - 2
    for field, text in params.texts().items():
        if surely_fits(text, room):
            continue
        read, unread, ids = load_tokeniser().cut(text, room)
        if not unread:
            continue
        where = f'after "{_end_of(read)}"' if read else "within its first word"
        raise _too_much(
            field,
            f"CLIP reads {room} tokens of a text and this has {ids}: it would stop {where} and not read "
            f'"{_start_of(unread)}"; make it shorter',
        )


@functools.cache
def context_length(weights: str) -> int:
    """How many ids the CLIP of a set reads: its file's header says; CLIP's usual number if it is not there.

    Raises:
        UnknownSetError: when the manifest has no such set.
    """
    file = WeightSet.find(weights).files.get("clip")
    if file is None or not file.path.is_file():
        return CONTEXT_LENGTH
    with safe_open(file.path, framework="np") as tensors:
        length: int = tensors.get_slice("positional_embedding").get_shape()[0]
    return length


def _too_much(field: str, message: str) -> ParamsError:
    return ParamsError(field, message, out_of_range=True)


def _start_of(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN].rpartition(' ')[0] or text[:SHOWN]} ..."


def _end_of(text: str) -> str:
    return text if len(text) <= SHOWN else f"... {text[-SHOWN:].partition(' ')[2] or text[-SHOWN:]}"
