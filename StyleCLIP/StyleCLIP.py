"""StyleCLIP: a face edited by words, by optimising its StyleGAN2 codes until CLIP agrees.

Patashnik et al., "StyleCLIP: Text-Driven Manipulation of StyleGAN Imagery", ICCV 2021 (arXiv 2103.17249), its
first method, latent optimisation. Unlike the published code, CLIP gets pictures with its own normalisation
and range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mead.imaging.pictures import read_picture
from mead.imaging.tensors import to_picture, to_tensor
from mead.model import Model
from mead.nn.cutouts import Cutouts
from mead.nn.losses import Apply, Scale, Sum
from mead.nn.perceptor import Perceptor
from mead.nn.precision import Precision
from mead.params import ParamsError
from mead.revision import Progress, optimise, result_of
from mead.upscaling import Upscaler, chosen_factor
from mead.weights.errors import WeightsError
from mead.weights.loading import OncePerProcess
from mead.weights.perceptor import load_perceptor
from mead.weights.sets import WeightSet
from mead.weights.upscaler import load_upscaler
from StyleCLIP.e4e import Encoder4Editing
from StyleCLIP.face_classifier import FaceClassifier
from StyleCLIP.faces import find_all, find_faces, load_classifier, main_face
from StyleCLIP.hyperparameters import Hyperparameters
from StyleCLIP.identity import Identity
from StyleCLIP.losses import CosineDistance, IdentityLoss, SquaredDistance
from StyleCLIP.mapper import LatentMapper
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.photo import PhotoEdit
from StyleCLIP.revision import StyleRevision, ramp
from StyleCLIP.stylegan2 import Generator

ALIGNED = 256  # side, in pixels, of the aligned photo


class StyleCLIPPipeline:
    """The loaded networks and the objective; a `mead.revision.Pipeline`.

    Args:
        generator: synthesises faces from codes w+.
        encoder: inverts faces to codes, as offsets from `average`.
        average: codes of the average face [n_latent, style_dim].
        identity: embeds faces so that those of one person are close.
        perceptor: CLIP.
        mapper: edits the first codes as the prompt says; None if the weights set has no such network.
        classifier: knows faces other than people's, such as drawn ones; None if the set has no such network.
        hyperparameters: the weights set's.
        device: the networks' device.
        upscaler: enlarges finished pictures; None if the weights set has none.
    """

    def __init__(
        self,
        generator: Generator,
        encoder: Encoder4Editing,
        average: Tensor,
        identity: Identity,
        perceptor: Perceptor,
        mapper: LatentMapper | None,
        classifier: FaceClassifier | None,
        hyperparameters: Hyperparameters,
        device: torch.device,
        upscaler: Upscaler | None = None,
    ) -> None:
        self.generator = generator
        self.encoder = encoder
        self.average = average[None]
        self.identity = identity
        self.perceptor = perceptor
        self.mapper = mapper
        self.upscaler = upscaler
        self.classifier = classifier
        self.hyperparameters = hyperparameters
        self.device = device
        self.precision = Precision(device)
        self.scaler = self.precision.scaler()
        self.cutouts = Cutouts(hyperparameters)

    @torch.no_grad()
    def start(self, params: StyleCLIPParams) -> StyleRevision:
        """Find the face, align it and invert it to codes w+; without a picture, take the average face's.

        Raises:
            ParamsError: for a start or an upscaler the weights set does not have, or a face not in the photo.
            PictureError, FileNotFoundError: for a picture that cannot be read or shows no face.
        """
        if params.img_path is None:
            return self._start_with(None, params)
        if not params.looks_for_all:
            return self._start_with(self.aligned(params.img_path), params)
        picture = read_picture(params.img_path, "img")
        photo = PhotoEdit(picture, find_all(picture, self.classifier), params)
        return self._start_with(photo.cut_out(0, ALIGNED), params, photo)

    @torch.no_grad()
    def _start_with(
        self, aligned: Image.Image | None, params: StyleCLIPParams, photo: PhotoEdit | None = None
    ) -> StyleRevision:
        """Start with an aligned face, or the average one; `photo` is where it is from, if it has others."""
        hyper = self.hyperparameters
        upscale = chosen_factor(params.upscale, hyper.upscale, self.upscaler)
        face = self.average if aligned is None else self.invert(aligned)
        prompt = self.perceptor.embed_text([params.prompt])
        codes, rate, l2 = face, hyper.learning_rate, hyper.l2
        own_start = hyper.start if self.mapper is not None else "inversion"  # a set may lack the network
        if (params.start or own_start) == "learned":
            codes = self._mapped(face, prompt)
            rate, l2 = hyper.learned_start_rate, hyper.learned_start_l2
        drawn = self._synthesise(face)
        features = self._features(drawn)
        latents = codes.clone().requires_grad_()
        return StyleRevision(
            latents=latents,
            optimiser=torch.optim.Adam([latents], lr=rate),
            generator=torch.Generator(self.device).manual_seed(params.seed),
            steps=(params.iterations or hyper.iterations) * (1 if photo is None else len(photo.chosen)),
            upscaler=self.upscaler,
            upscale=upscale,
            faces=() if photo is None else photo.faces,
            codes=codes,
            features=features,
            learning_rate=rate,
            objective=self._objective(prompt[0], codes, features, l2),
            photo=photo,
            before=None if photo is None else to_picture(drawn / 2 + 0.5),
        )

    def aligned(self, path: Path) -> Image.Image:
        """The picture's face, upright and framed as FFHQ's are, [ALIGNED, ALIGNED].

        Raises:
            PictureError: if it shows no face.
        """
        return main_face(read_picture(path, "img"), self.classifier, ALIGNED)

    @torch.no_grad()
    def invert(self, face: Image.Image) -> Tensor:
        """The codes w+ [1, n_latent, style_dim] of an aligned face."""
        size = self.encoder.input_size
        image = to_tensor(face.resize((size, size), Image.Resampling.LANCZOS)).to(self.device)
        with self.precision.autocast():
            offsets = self.encoder(image * 2 - 1)
        return offsets.float() + self.average

    def step(self, revisions: Sequence[StyleRevision]) -> None:
        """Advance each revision by one step, all in one pass."""
        for revision in revisions:
            if revision.photo is not None and revision.face_is_finished:  # turn to the photo's next one
                after, photo = self.image(revision), revision.photo
                aligned = photo.cut_out(len(photo.edited) + 1, ALIGNED)
                revision.turn_to(self._start_with(aligned, photo.params, photo), after)
        codes = torch.cat([revision.latents for revision in revisions])
        images = self._synthesise(codes)
        losses = []
        for i, revision in enumerate(revisions):
            image = images[i : i + 1]
            # CLIP sees each job's face apart: how its matrix products round depends on the batch size, and
            # the optimisation amplifies a rounding error into a different picture.
            with self.precision.autocast():
                embeddings = self.perceptor.embed_image(self._views(revision, image))
            inputs = {
                "embeddings": embeddings,
                "codes": revision.latents,
                "features": self._features(image),
            }
            losses.append(revision.objective(inputs))
            for group in revision.optimiser.param_groups:
                group["lr"] = revision.learning_rate * ramp(revision.done)
        optimise(revisions, losses, self.scaler)

    @torch.no_grad()
    def image(self, revision: StyleRevision) -> Image.Image:
        """The face so far."""
        return to_picture(self._synthesise(revision.latents) / 2 + 0.5)

    def _objective(self, prompt: Tensor, codes: Tensor, features: Tensor, l2: float) -> Sum:
        """1 - cos(E(prompt), I) + l2 · ‖w+ - w+₀‖² + identity · (1 - cos(f, f₀)).

        Args:
            prompt: its embedding [d].
            codes: w+₀ [1, n_latent, style_dim].
            features: f₀ [1, d], the identity of the face as it was.
            l2: a weight.
        """
        return Sum(
            [
                Apply(CosineDistance(prompt), "embeddings"),
                Scale(Apply(SquaredDistance(codes), "codes"), l2),
                Scale(Apply(IdentityLoss(features), "features"), self.hyperparameters.identity),
            ]
        )

    def _mapped(self, codes: Tensor, prompt: Tensor) -> Tensor:
        """Codes w+ [1, n_latent, style_dim], edited as a prompt's embedding [1, d] says."""
        if self.mapper is None:
            raise ParamsError(
                "start", 'these weights have no learned start; use "inversion"', out_of_range=True
            )
        return self.mapper(codes, prompt)

    def _synthesise(self, codes: Tensor) -> Tensor:
        """Codes w+ [N, n_latent, style_dim] -> faces [N, 3, H, W], about [-1, 1]."""
        # always the same memory layout: the order of later sums depends on it
        return self.precision.batch_invariant(self.generator.synthesise, codes).contiguous()

    def _features(self, images: Tensor) -> Tensor:
        """Identity features of faces [N, 3, H, W]: [N, d], unit length."""
        with self.precision.autocast():
            return self.identity.of_face(images).float()

    def _views(self, revision: StyleRevision, image: Tensor) -> Tensor:
        """What CLIP sees of a face [1, 3, H, W] in this step: all of it, and random crops."""
        side = self.perceptor.input_size
        picture = (image.clamp(-1, 1) + 1) / 2
        views = F.interpolate(picture, (side, side), mode="bicubic", align_corners=False, antialias=True)
        if not self.hyperparameters.cutouts:
            return views
        maps = self.cutouts.draw(side, side, revision.generator)
        crops = self.cutouts.add_noise(self.cutouts.cut(picture, maps[None], side), revision.generator)
        return torch.cat([views, crops])


@OncePerProcess
def load_pipeline(weights: str, device: str) -> StyleCLIPPipeline:
    """The pipeline of a weights set on a device, loaded once per process and shared.

    Raises:
        WeightsError: naming the file that is missing or damaged, or networks that do not fit together.
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
    return StyleCLIPPipeline(
        generator,
        encoder,
        average,
        identity,
        perceptor,
        mapper,
        load_classifier(weights, device),
        chosen.settings("StyleCLIP", Hyperparameters),
        torch.device(device),
        load_upscaler(weights, device),
    )


def trial(pipeline: StyleCLIPPipeline) -> float:
    """The loss of a first step on the average face; its picture is made and inverted too."""
    revision = pipeline.start(StyleCLIPParams(prompt="a smiling face", seed=0, iterations=1))
    pipeline.step([revision])
    codes = pipeline.invert(result_of(pipeline, revision))
    return revision.loss + float(codes.abs().sum())


class StyleCLIP(Model):
    """A face edited by words: `StyleCLIP("a smile", img_path="me.jpeg").run()` returns the picture's path."""

    find_faces = staticmethod(find_faces)

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
            prompt: what the face should become; 1 to 2000 characters.
            uid: the PNG's name without its suffix; default None: a new one for each run.
            output_path: folder for the PNG, created if needed; default "./styleclip_out".
            img_path: photo of a face; default None: the average face.
            seed: the same seed with the same arguments gives the same picture; 0 to 9223372036854775807,
                default None: random.
            iterations: optimisation steps; 1 to 2000, default None: the weights set's.
            method: how the edit is found; "optimisation", default "optimisation".
            start: where to start: at the face's own codes or where the mapper moves them; "inversion" or
                "learned", default None: the weights set's.
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
            "prompt": prompt,
            "img_path": img_path,
            "seed": seed,
            "iterations": iterations,
            "method": method,
            "start": start,
            "upscale": upscale,
            "output": output,
            "face": face,
        }
        super().__init__(
            StyleCLIPParams, given, load_pipeline, output_path, weights, device, callback, progress, uid
        )
