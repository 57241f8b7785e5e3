"""StyleCLIP: a face edited by words, by optimising its StyleGAN2 codes until CLIP agrees.

Patashnik et al., "StyleCLIP: Text-Driven Manipulation of StyleGAN Imagery", ICCV 2021 (arXiv 2103.17249), all
three of its methods: latent optimisation, mappers and global directions. Unlike the published code, CLIP gets
pictures with its own normalisation and range.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from mead.imaging.pictures import read_picture
from mead.model import Model
from mead.params import check
from mead.revision import Progress, result_of
from StyleCLIP.faces import find_faces
from StyleCLIP.loading import load_pipeline, trial
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.pipeline import StyleCLIPPipeline

__all__ = ["StyleCLIP", "StyleCLIPPipeline", "load_pipeline", "trial"]


class StyleCLIP(Model):
    """A face edited by words: `StyleCLIP("a smile", img_path="me.jpeg").run()` returns the picture's path."""

    find_faces = staticmethod(find_faces)

    def __init__(
        self,
        prompt: str = "",
        uid: str | None = None,
        output_path: str | Path = "./styleclip_out",
        img_path: str | Path | None = None,
        *,
        seed: int | None = None,
        iterations: int | None = None,
        n: int = 1,
        frames: int = 0,
        method: str = "optimisation",
        mapper: str | None = None,
        sliders: str | Mapping[str, float] | None = None,
        space: str | None = None,
        refine: int | None = None,
        start: str | None = None,
        neutral: str | None = None,
        alpha: float | None = None,
        beta: float | str | None = None,
        l2: float | None = None,
        identity: float | None = None,
        strength: float = 1.0,
        upscale: int | None = None,
        output: str = "face",
        face: str | int = "largest",
        weights: str = "demo",
        device: str | None = None,
        callback: Callable[[Progress], None] | None = None,
        progress: bool = False,
    ) -> None:
        """Check the arguments; nothing is loaded yet.

        Args:
            prompt: what the face should become; 1 to 2000 characters. It may be left out, default "",
                with sliders and for the method "mapper".
            uid: the PNG's name without its suffix; default None: a new one for each run.
            output_path: folder for the PNG, created if needed; default "./styleclip_out".
            img_path: photo of a face; default None: the average face.
            seed: the same seed with the same arguments gives the same picture; 0 to 9223372036854775807,
                default None: random.
            iterations: optimisation steps; 1 to 2000, default None: the weights set's.
            n: how many pictures `run_all` makes, with the seeds `seed`, `seed` + 1 and so on; 1 to 16,
                default 1.
            frames: how many pictures of the way are kept for `timelapse`, evenly spread over the steps; 0 to
                100, default 0.
            method: how the edit is found: by optimising the codes, in one pass by a global direction, or by a
                network that has learned it; "optimisation" or "global" or "mapper", default "optimisation",
                or "mapper" if there is one.
            mapper: which edit the method "mapper" makes, such as "beard"; 1 to 100 characters, default None.
            sliders: how far the face goes along known directions, such as "age:3 | smile:-1", beside what the
                method does or alone; 1 to 2000 characters, default None.
            space: what is optimised: codes or styles; "w+" or "s", default None: the weights set's.
            refine: steps that refine the inversion of the photo before the edit; 0 to 500, default None: the
                weights set's.
            start: where to start: at the face's own codes or where the mapper moves them; "inversion" or
                "learned", default None: the weights set's.
            neutral: what the face is before the edit, in words, for a global direction; 1 to 2000
                characters, default None: the weights set's.
            alpha: how far to go along a global direction; -10 to 10, default None: the weights set's.
            beta: how relevant a channel must be for a global direction to change it; "auto" or 0 to 1,
                default None: the weights set's.
            l2: weight of the squared distance from the first codes; 0 to 1000, default None: the weights
                set's.
            identity: weight of the identity loss; 0 to 1000, default None: the weights set's.
            strength: how much of the edit the picture shows; 0 to 2, default 1.0.
            upscale: how many times as wide and high the finished picture is made; 1 or 2 or 4, default None:
                the weights set's.
            output: what the result shows: the face alone, the whole photo with the edited face in it, or the
                photo before and after; "face" or "photo" or "pair", default "face".
            face: which face of the photo is edited; "largest", a number from the left from 1, or "all",
                default "largest".
            weights: name of a weights set; default "demo".
            device: PyTorch device, such as "cpu" or "cuda:0"; default None: the GPU if there is one.
            callback: called with a `mead.revision.Progress` after each step; default None.
            progress: whether to show a progress bar on stderr or in the notebook; default False.

        Raises:
            ValueError: naming the argument that is wrong.
            FileNotFoundError: naming the picture that does not exist.
        """
        if uid is not None and (Path(uid).name != uid or uid in {"", ".."} or "\0" in uid):
            raise ValueError(f"uid: must be a plain file name, not {uid!r}")
        given: dict[str, Any] = {
            "prompt": prompt or None,
            "img_path": img_path,
            "seed": seed,
            "iterations": iterations,
            "n": n,
            "frames": frames,
            "method": None if method == "optimisation" else method,
            "mapper": mapper,
            "sliders": sliders,
            "space": space,
            "refine": refine,
            "start": start,
            "neutral": neutral,
            "alpha": alpha,
            "beta": beta,
            "l2": l2,
            "identity": identity,
            "strength": strength,
            "upscale": upscale,
            "output": output,
            "face": face,
        }
        super().__init__(
            StyleCLIPParams, given, load_pipeline, output_path, weights, device, callback, progress, uid
        )

    def at_strength(
        self, strength: float, output: str | None = None, upscale: int | None = None, variant: int = 0
    ) -> str:
        """Show an edit that was made last with another strength, without computing it again.

        Args:
            strength: 0 to 2.
            output: "face", "photo" or "pair"; by default as it was. A photo that was not wanted at first is
                the one at `img_path` now.
            upscale: 1, 2 or 4; by default as it was.
            variant: which of several edits that `run_all` has made, from 0 on.

        Returns:
            The path of the new PNG, beside that of the edit.

        Raises:
            ValueError: naming the argument that is wrong.
            RuntimeError: if nothing has been made yet.
            IndexError: if there is no such edit.
            OSError: if `output_path` cannot be written, or the photo cannot be read.
        """
        if not self._made:
            raise RuntimeError("run() comes first: there is no edit yet")
        if variant not in range(len(self._made)):
            raise IndexError(f"variant: {variant}, of {len(self._made)} edits that were made")
        path, revision = self._made[variant]
        was = check(StyleCLIPParams, self.params.variants()[variant].model_dump() | {"frames": 0})
        given = {"output": output, "upscale": upscale}
        changes = {name: value for name, value in given.items() if value is not None}
        params = check(StyleCLIPParams, was.model_dump() | {"strength": strength} | changes)
        pipeline: StyleCLIPPipeline = load_pipeline(self.weights, self.device)
        photo = None if revision.photo is None else revision.photo.picture
        if photo is None and params.output != "face" and params.img_path is not None:
            photo = read_picture(params.img_path, "img")
        with torch.no_grad():
            anew = pipeline.resume(params, revision.state(), photo)
            picture = result_of(pipeline, anew)
        self._note(anew.notes, stacklevel=3)
        name = f"{path.stem}-{params.strength:g}"
        name += "" if params.output == was.output else f"-{params.output}"
        name += "" if params.upscale == was.upscale else f"-x{params.upscale}"
        target = path.with_name(f"{name}.png")
        self._write(picture, target, params, anew)
        return str(target)
