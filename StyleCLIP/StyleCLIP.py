"""StyleCLIP: a face edited by words, by optimising its StyleGAN2 codes until CLIP agrees.

Patashnik et al., "StyleCLIP: Text-Driven Manipulation of StyleGAN Imagery", ICCV 2021 (arXiv 2103.17249), its
first method, latent optimisation. Unlike the published code, CLIP gets pictures with its own normalisation
and range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import cos, pi
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F

from mead.imaging.pictures import PictureError, read_picture, to_picture, to_tensor
from mead.model import Model
from mead.nn.cutouts import Cutouts
from mead.nn.perceptor import Perceptor
from mead.nn.precision import Precision
from mead.params import ParamsError
from mead.revision import Progress, Revision
from mead.weights.errors import WeightsError
from mead.weights.loading import OncePerProcess
from mead.weights.sets import WeightSet, load_perceptor
from StyleCLIP.align import NoFaceError, align, find_face, off_frame
from StyleCLIP.e4e import Encoder4Editing
from StyleCLIP.identity import Identity
from StyleCLIP.mapper import LatentMapper
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.settings import Settings as Settings
from StyleCLIP.stylegan2 import Generator

ALIGNED = 256  # side, in pixels, of the aligned photo


class Agreement(nn.Module):
    """1 - the cosine between each embedding and a target's: [N] from [N, d] and [d], unit length."""

    def forward(self, embeddings: Tensor, target: Tensor) -> Tensor:
        return 1 - embeddings @ target


class Closeness(nn.Module):
    """weight times the squared distance of w+ from where it began: a number for [1, n, d] and [1, n, d]."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, codes: Tensor, first: Tensor) -> Tensor:
        return self.weight * (codes - first).square().sum()


class SameIdentity(nn.Module):
    """weight times 1 - the cosine of two faces' features: [N] from [N, d] and [N, d], unit length."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, features: Tensor, first: Tensor) -> Tensor:
        return self.weight * (1 - (features * first).sum(-1))


@dataclass(eq=False, kw_only=True)
class StyleRevision(Revision):
    """One face being edited: its latents are the codes w+ [1, n_latent, style_dim]."""

    prompt: Tensor  # the prompt's embedding [d]
    codes: Tensor  # w+ where it began [1, n_latent, style_dim]
    learning_rate: float  # the largest, see `ramp`
    features: Tensor  # identity of the face as it was [1, d]


class StyleCLIPPipeline:
    """The loaded networks and the objective; the verbs are those of `mead.revision.Pipeline`.

    Args:
        generator: makes faces of codes w+.
        encoder: finds a face's codes, as offsets from `average`.
        average: codes of the average face [n_latent, style_dim].
        identity: tells who a face is.
        perceptor: the CLIP that looks.
        mapper: changes first codes as the prompt says, where the weights set has such a network.
        settings: the weights set's.
        device: where all of them are.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: Encoder4Editing,
        average: Tensor,
        identity: Identity,
        perceptor: Perceptor,
        mapper: LatentMapper | None,
        settings: Settings,
        device: torch.device,
    ) -> None:
        self.generator = generator
        self.encoder = encoder
        self.average = average[None]
        self.identity = identity
        self.perceptor = perceptor
        self.mapper = mapper
        self.settings = settings
        self.device = device
        self.precision = Precision(device)
        self.scaler = self.precision.scaler()
        self.cutouts = Cutouts(
            settings.cutouts, mean=0.95, deviation=0.1, smallest=0.8, largest=1.1, degrees=8.0, shift=0.03
        )
        self.agreement = Agreement()
        self.closeness = Closeness(settings.l2)
        self.same_identity = SameIdentity(settings.identity)

    @torch.no_grad()
    def start(self, params: StyleCLIPParams) -> StyleRevision:
        """Find the face, align it and invert it to codes w+; without a picture, take the average face's.

        Raises:
            ParamsError: for a start the weights do not have.
            PictureError, FileNotFoundError: for a picture that cannot be read or shows no face.
        """
        settings = self.settings
        face = self.average if params.img_path is None else self.invert(self.aligned(params.img_path))
        prompt = self.perceptor.embed_text([params.prompt])
        codes, rate = face, settings.learning_rate
        if (params.start or settings.start) == "learned":
            codes, rate = self._mapped(face, prompt), settings.learned_start_rate
        latents = codes.clone().requires_grad_()
        return StyleRevision(
            latents=latents,
            optimiser=torch.optim.Adam([latents], lr=rate),
            generator=torch.Generator(self.device).manual_seed(params.seed),
            steps=params.iterations or settings.iterations,
            prompt=prompt[0],
            codes=codes,
            learning_rate=rate,
            features=self._features(self._synthesise(face)),
        )

    def aligned(self, path: Path) -> Image.Image:
        """The photo's face, upright and framed as FFHQ's are, [ALIGNED, ALIGNED].

        Raises:
            PictureError: where no face is found and the weights need one.
        """
        picture = read_picture(path, "img")
        try:
            face = find_face(picture)
            if off_frame(picture, face) > self.settings.framed_within:
                return align(picture, face, ALIGNED)
        except NoFaceError as error:
            if self.settings.face_needed:
                raise PictureError("img", "no_face", str(error)) from error
        return ImageOps.fit(picture, (ALIGNED, ALIGNED), Image.Resampling.LANCZOS)

    @torch.no_grad()
    def invert(self, face: Image.Image) -> Tensor:
        """The codes w+ [1, n_latent, style_dim] of an aligned face."""
        size = self.encoder.input_size
        image = to_tensor(face.resize((size, size), Image.Resampling.LANCZOS)).to(self.device)
        with self.precision.autocast():
            offsets = self.encoder(image * 2 - 1)
        return offsets.float() + self.average

    def step(self, revisions: Sequence[StyleRevision]) -> None:
        """Advance each revision by one, all in one pass."""
        codes = torch.cat([revision.latents for revision in revisions])
        images = self._synthesise(codes)
        losses = []
        for i, revision in enumerate(revisions):
            image = images[i : i + 1]
            # Each job's face is looked at apart: matrix products round differently in a batch of another
            # size, and what begins as a rounding error ends as another picture.
            with self.precision.autocast():
                seen = self.perceptor.embed_image(self._views(revision, image))
            losses.append(
                self.agreement(seen, revision.prompt).mean()
                + self.closeness(revision.latents, revision.codes)
                + self.same_identity(self._features(image), revision.features)[0]
            )
        for revision in revisions:
            revision.optimiser.zero_grad()
            for group in revision.optimiser.param_groups:
                group["lr"] = revision.learning_rate * ramp(revision.step / revision.steps)
        self.scaler.scale(torch.stack(losses).sum()).backward()
        for revision, loss in zip(revisions, torch.stack(losses).tolist(), strict=True):
            self.scaler.step(revision.optimiser)
            revision.step += 1
            revision.loss = loss
        self.scaler.update()

    @torch.no_grad()
    def image(self, revision: StyleRevision) -> Image.Image:
        """The face as it is now."""
        return to_picture(self._synthesise(revision.latents) / 2 + 0.5)

    def _mapped(self, codes: Tensor, prompt: Tensor) -> Tensor:
        """Codes w+ [1, n_latent, style_dim] as a prompt's embedding [1, d] changes them."""
        if self.mapper is None:
            raise ParamsError(
                "start", 'these weights have no learned start; use "inversion"', out_of_range=True
            )
        return self.mapper(codes, prompt)

    def _synthesise(self, codes: Tensor) -> Tensor:
        """Codes w+ [N, n_latent, style_dim] -> faces [N, 3, H, W], about [-1, 1]."""
        # in one layout in memory whatever the batch, since another one is summed in another order
        return self.precision.independently(self.generator.synthesise, codes).contiguous()

    def _features(self, images: Tensor) -> Tensor:
        """Who the faces [N, 3, H, W] are: [N, d], unit length."""
        with self.precision.autocast():
            return self.identity.of_face(images).float()

    def _views(self, revision: StyleRevision, image: Tensor) -> Tensor:
        """What CLIP sees of a face [1, 3, H, W] in this step: the whole of it, and random crops."""
        side = self.perceptor.input_size
        picture = (image.clamp(-1, 1) + 1) / 2
        views = F.interpolate(picture, (side, side), mode="bicubic", align_corners=False, antialias=True)
        if not self.cutouts.number:
            return views
        maps = self.cutouts.draw(side, side, revision.generator)
        crops = self.cutouts.add_noise(self.cutouts.cut(picture, maps[None], side), revision.generator)
        return torch.cat([views, crops])


def ramp(done: float, up: float = 0.05, down: float = 0.25) -> float:
    """The learning rate's factor when `done` of all steps are: up first, down along a cosine at the end."""
    falling = min(1.0, (1 - done) / down)
    return (1 - cos(pi * falling)) / 2 * min(1.0, done / up)


@OncePerProcess
def load_pipeline(weights: str, device: str) -> StyleCLIPPipeline:
    """The pipeline of a weights set on a device; loaded once a process and shared.

    Raises:
        WeightsError: naming the file that is missing or not whole, or networks that do not fit together.
    """
    chosen = WeightSet.find(weights)
    generator = Generator.from_state_dict(chosen.read("stylegan2")).requires_grad_(False).to(device)
    inversion = chosen.read("e4e")
    average = inversion.pop("latent_avg").float().to(device)
    if average.shape != (generator.n_latent, generator.style_dim):
        raise WeightsError(
            f"weights: in the set {weights!r}, e4e finds codes of shape {tuple(average.shape)} and stylegan2 "
            f"takes {(generator.n_latent, generator.style_dim)}; give the set an e4e made for its stylegan2"
        )
    encoder = Encoder4Editing.from_state_dict(inversion).requires_grad_(False).to(device)
    identity = Identity.from_state_dict(chosen.read("identity")).requires_grad_(False).to(device)
    perceptor = load_perceptor(weights, device)
    mapper = None
    if "mapper" in chosen.files:
        mapper = LatentMapper.from_state_dict(chosen.read("mapper")).requires_grad_(False).to(device)
    settings = chosen.settings("StyleCLIP", Settings)
    return StyleCLIPPipeline(
        generator, encoder, average, identity, perceptor, mapper, settings, torch.device(device)
    )


def trial(pipeline: StyleCLIPPipeline) -> float:
    """The loss of a first step on the average face; its picture is made and inverted too."""
    revision = pipeline.start(StyleCLIPParams(prompt="a smiling face", seed=0, iterations=1))
    pipeline.step([revision])
    codes = pipeline.invert(pipeline.image(revision))
    return revision.loss + float(codes.abs().sum())


class StyleCLIP(Model):
    """A face edited by words; `run()` edits it and returns the picture's path.

    Args:
        prompt: what the face should become.
        uid: the PNG's name without its ending; a new one each time when left out.
        output_path: folder the PNG is written to; made if it is not there.
        img_path: the photo of a face; the average face when left out.
        seed, iterations, method, start: see `StyleCLIPParams`.
        weights: name of a weights set of the manifest.
        device: a torch device; the GPU if there is one when left out.
        callback: called with a `Progress` after each step.

    Raises:
        ValueError: naming the argument that is wrong, before any weights are loaded.
        FileNotFoundError: naming the picture that is not there.
    """

    def __init__(
        self,
        prompt: str,
        uid: str | None = None,
        output_path: str | Path = "./styleclip_out",
        img_path: str | Path | None = None,
        *,
        seed: int | None = None,
        iterations: int | None = None,
        method: str = "optimisation",
        start: str | None = None,
        weights: str = "demo",
        device: str | None = None,
        callback: Callable[[Progress], None] | None = None,
    ) -> None:
        if uid is not None and (Path(uid).name != uid or uid in {"", ".."} or "\0" in uid):
            raise ValueError(f"uid: must be a plain file name, not {uid!r}")
        given: dict[str, Any] = {
            "prompt": prompt,
            "img_path": img_path,
            "seed": seed,
            "iterations": iterations,
            "method": method,
            "start": start,
        }
        super().__init__(StyleCLIPParams, given, load_pipeline, output_path, weights, device, callback, uid)
