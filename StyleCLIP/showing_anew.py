"""Showing a finished edit anew: with another strength, output or size, without computing it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from mead.imaging.pictures import read_picture
from mead.params import UPLOAD_SIDE
from mead.resuming import readable
from mead.upscaling import chosen_factor
from StyleCLIP.finished import FinishedFaces
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.photo import PhotoEdit
from StyleCLIP.revision import StyleRevision

if TYPE_CHECKING:
    from StyleCLIP.pipeline import StyleCLIPPipeline


def shown_anew(
    pipeline: StyleCLIPPipeline,
    params: StyleCLIPParams,
    state: Mapping[str, Tensor],
    picture: Image.Image | None = None,
) -> StyleRevision:
    """A finished job that is only to be rendered.

    Args:
        params: the job's, but for `strength`, `output` and `upscale`.
        state: of `StyleRevision.state`.
        picture: the job's photo, if it is at hand; else it is read.

    Raises:
        ParamsError: the state is not that of such a job, or the weights set has no upscaler.
        PictureError, FileNotFoundError: for a photo that cannot be read.
    """
    with readable():
        finished = FinishedFaces.of_state(state, pipeline.spaces.shapes)
    photo = None
    notes: list[str] = []
    if params.output != "face" and params.img_path is not None:
        kept_for_the_face = picture is None and not finished.found  # when its first output was decided
        picture = picture or read_picture(params.img_path, "img")
        photo = PhotoEdit(picture, list(finished.squares), params, pipeline.classifier)
        if kept_for_the_face and max(picture.size) >= UPLOAD_SIDE:  # a smaller one was not shrunk
            size = f"{picture.width}x{picture.height}"
            notes = [f"the photo has the size in which it was kept for the face alone, {size} pixels"]
        notes += pipeline.notes_on(photo)
    upscale = chosen_factor(params.upscale, pipeline.hyperparameters.upscale, pipeline.upscaler)
    job: dict[str, Any] = {"upscaler": pipeline.upscaler, "upscale": upscale, "photo": photo}
    job |= {"styles": pipeline.styles}
    job |= {"squares": finished.squares, "faces": tuple(finished.found), "notes": tuple(notes)}
    job |= {"steps": finished.steps, "step": finished.steps, "loss": finished.loss}
    latents = (each.to(pipeline.device).split(1) for each in (finished.before, finished.after))
    *turns, last = (
        StyleRevision.found(before, after, params, **job) for before, after in zip(*latents, strict=True)
    )
    last.turns = turns
    if photo is not None:
        last.before = pipeline.picture(last.face)
        photo.edited = [(pipeline.picture(turn.face), pipeline.image(turn)) for turn in turns]
    return last
