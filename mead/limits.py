"""How much one job may ask of the service."""

from __future__ import annotations

import functools

from mead.model_spec import Extent
from mead.params import JobParams, ParamsError
from mead.registry import spec_of
from mead.settings import Settings
from mead.weights.optional import check_optional
from mead.weights.sets import WeightSet
from mead.weights.texts import check_texts

CUTOUT_PIXELS = 2048
"""Pixels of VQGAN's picture that cost what a cutout does.

Forward and backward, the published VQGAN takes 7.8 MFLOP a pixel, and the published CLIP 17.7 GFLOP a cutout.
"""


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
    check_optional(params, settings.weights)


def check_steps(params: JobParams, steps: int, settings: Settings) -> None:
    """Check how much a job computes whose number of steps depends on its photo: on the faces to be edited.

    Args:
        steps: for all faces together.

    Raises:
        ParamsError: naming `face`, and how many faces may be edited.
    """
    job = extent(params, settings.weights)
    faces = steps // job.steps
    if faces < 2:  # checked when the request arrived
        return
    most = most_steps(job, settings.max_job_pixels) // job.steps
    if faces > most:
        raise _too_much(
            "face",
            f"{faces} faces with {job.steps} steps each are more than one job may take here; at most {most}, "
            "or fewer iterations",
        )


def extent(params: JobParams, weights: str) -> Extent:
    """How much a job computes; what its parameters leave open is the weights set's own.

    Raises:
        UnknownSetError: when the manifest has no such set.
    """
    own = _own_extent(type(params), weights)
    width, height = getattr(params, "size", None) or (own.width, own.height)
    cutouts = getattr(params, "cutouts", None) or own.cutouts
    upscale = getattr(params, "upscale", None) or own.upscale
    given = getattr(params, "refine", None)
    refine = own.refine if given is None else given
    steps = (params.iterations or own.steps - own.refine) + refine
    return Extent(width, height, cutouts, steps, upscale, refine, own.clips)


@functools.cache
def _own_extent(kind: type[JobParams], weights: str) -> Extent:
    """The extent of a job that leaves all of it to the weights set."""
    return spec_of(kind).own_extent(WeightSet.find(weights))


def most_steps(job: Extent, most: int) -> int:
    """The most steps that a job may have, so that it computes at most as much as `most` pixels."""
    pixels = job.width * job.height
    enlarging = pixels if job.upscale > 1 else 0  # the published upscaler takes a third of a step
    return (most - enlarging) // (pixels + CUTOUT_PIXELS * job.cutouts * job.clips)


def _check_extent(job: Extent, most: int) -> None:
    steps = most_steps(job, most)
    if job.steps <= steps:
        return
    if steps < 1 and job.upscale > 1:
        sides = f"{job.upscale * job.width}x{job.upscale * job.height}"
        raise _too_much("upscale", f"{sides} is more than one job may take here; ask for less")
    cutouts = "1 cutout" if job.cutouts == 1 else f"{job.cutouts} cutouts"
    cutouts += f", which {job.clips} CLIPs see," if job.clips > 1 else ""
    raise _too_much(
        "iterations",
        f"{job.width}x{job.height} with {cutouts} for {job.steps} steps is more than one job may take here; "
        f"at most {steps} steps at this size and number of cutouts",
    )


def _too_much(field: str, message: str) -> ParamsError:
    return ParamsError(field, message, out_of_range=True)
