"""LatentRevisions: pictures from words, by optimising VQGAN's latents until CLIP agrees."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.pipeline import load_pipeline, trial
from mead.model import Model
from mead.revision import Progress

__all__ = ["LatentRevisions", "load_pipeline", "trial"]


class LatentRevisions(Model):
    """A picture from words: `LatentRevisions("a house", seed=7).run()` makes it and returns its path."""

    def __init__(
        self,
        prompt: str,
        output_path: str | Path = "./latentrevisions_out",
        img_path: str | Path | None = None,
        w0: float = 5.0,
        text_to_add: str | None = None,
        w1: float = 0.0,
        img_enc_path: str | Path | None = None,
        w2: float = 0.0,
        ne_img_enc_path: str | Path | None = None,
        w3: float = 0.0,
        *,
        prompts: str | Mapping[str, float] | None = None,
        story: str | None = None,
        mask_path: str | Path | None = None,
        seed: int | None = None,
        iterations: int | None = None,
        n: int = 1,
        frames: int = 0,
        cutouts: int | None = None,
        size: tuple[int, int] | None = None,
        start: str | None = None,
        init_weight: float | None = None,
        tv_weight: float | None = None,
        upscale: int | None = None,
        weights: str = "demo",
        device: str | None = None,
        callback: Callable[[Progress], None] | None = None,
        progress: bool = False,
    ) -> None:
        """Check the arguments; nothing is loaded yet.

        Args:
            prompt: what the picture should show; 1 to 2000 characters.
            output_path: folder for the PNG, created if needed; default "./latentrevisions_out".
            img_path: starter picture, cropped to the size asked for; default None.
            w0: weight of the prompt; -1000 to 1000, default 5.0.
            text_to_add: a second text; 1 to 2000 characters, default None.
            w1: weight of text_to_add, negative moves away from it; -1000 to 1000, default 0.0.
            img_enc_path: picture to move towards; default None.
            w2: weight of img_enc_path; -1000 to 1000, default 0.0.
            ne_img_enc_path: picture to move away from; default None.
            w3: weight of ne_img_enc_path, positive moves away from it; -1000 to 1000, default 0.0.
            prompts: further texts and their weights, as in "at night:2 | blurry:-1"; up to 16, 1 to 2000
                characters together, default None.
            story: texts that follow the prompt, as in "at sunset ^ at night", each for an equal share of the
                steps; up to 16, 1 to 2000 characters together, default None.
            mask_path: what of img_path may change: what is white in it or, if a part of it is transparent,
                what is transparent; the rest of img_path stays as it is; default None.
            seed: the same seed with the same arguments gives the same picture; 0 to 9223372036854775807,
                default None: random.
            iterations: optimisation steps; 1 to 2000, default None: the weights set's.
            n: how many pictures `run_all` makes, with the seeds `seed`, `seed` + 1 and so on; 1 to 16,
                default 1.
            frames: how many pictures of the way are kept for `timelapse`, evenly spread over the steps; 0 to
                100, default 0.
            cutouts: random crops CLIP sees in each step; 1 to 256, default None: the weights set's.
            size: (width, height) in pixels, before `upscale`; each a multiple of 16, 16 to 1024, default
                None: the weights set's.
            start: where to start without a starter picture, or in what a mask lets change of it; "noise" or
                "learned", default None: the weights set's.
            init_weight: weight of the mean squared distance from the first latents, which keeps the picture
                close to its start; 0 to 1000, default None: the weights set's.
            tv_weight: weight of the picture's total variation, which smooths it; 0 to 1000, default None: the
                weights set's.
            upscale: how many times as wide and high the finished picture is made; 1 or 2 or 4, default None:
                the weights set's.
            weights: name of a weights set; default "demo".
            device: PyTorch device, such as "cpu" or "cuda:0"; default None: the GPU if there is one.
            callback: called with a `mead.revision.Progress` after each step; default None.
            progress: whether to show a progress bar on stderr or in the notebook; default False.

        Raises:
            ValueError: naming the argument that is wrong.
            FileNotFoundError: naming the picture that does not exist.
        """
        given: dict[str, Any] = {
            "prompt": prompt,
            "img_path": img_path,
            "w0": w0,
            "text_to_add": text_to_add,
            "w1": w1,
            "img_enc_path": img_enc_path,
            "w2": w2,
            "ne_img_enc_path": ne_img_enc_path,
            "w3": w3,
            "prompts": prompts,
            "story": story,
            "mask_path": mask_path,
            "seed": seed,
            "iterations": iterations,
            "n": n,
            "frames": frames,
            "cutouts": cutouts,
            "size": size,
            "start": start,
            "init_weight": init_weight,
            "tv_weight": tv_weight,
            "upscale": upscale,
        }
        super().__init__(
            LatentRevisionsParams, given, load_pipeline, output_path, weights, device, callback, progress
        )

    def resume(self, iterations: int) -> str:
        """Take further steps with the picture that `run` has made, and return the path of another PNG.

        The steps go on exactly where it was. Where the way does not depend on the number of steps, the PNG is
        the same, byte for byte, as that of one run with all the steps. Otherwise it goes on as the last step
        was: in a `story` with the last text, and where the denoiser starts from noise, at its lowest level.

        Args:
            iterations: further steps; with those before them at most 2000.

        Raises:
            RuntimeError: if `run` has not made a picture, or `run_all` has made several.
            ValueError: for a wrong number of steps.
            OSError, FloatingPointError: as `run`.
        """
        return self._go_on(iterations)
