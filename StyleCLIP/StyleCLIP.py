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

from mead.imaging.pictures import read_picture
from mead.imaging.tensors import to_picture, to_tensor
from mead.model import Model
from mead.nn.graphs import Recorded
from mead.nn.perceptor import Perceptor
from mead.nn.precision import Precision
from mead.nn.side_by_side import side_by_side
from mead.params import ParamsError, lacking
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
from StyleCLIP.frozen_generator import FrozenGenerator
from StyleCLIP.frozen_identity import FrozenIdentity
from StyleCLIP.global_directions import GlobalDirections, GlobalEdits
from StyleCLIP.hyperparameters import Hyperparameters
from StyleCLIP.identity import Identity, crop
from StyleCLIP.losses import objective
from StyleCLIP.mapper import LatentMapper
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.photo import PhotoEdit
from StyleCLIP.revision import StyleRevision, ramp
from StyleCLIP.stylegan2 import Generator
from StyleCLIP.views import Views

ALIGNED = 256  # side, in pixels, of the aligned photo


class StyleCLIPPipeline:
    """The loaded networks and the objective; a `mead.revision.Pipeline`.

    Args:
        generator: synthesises faces from codes w+.
        encoder: inverts faces to codes, as offsets from `average`.
        average: codes of the average face [n_latent, style_dim].
        identity: embeds faces so that those of one person are close; frozen here, as the generator is, unless
            both are another pipeline's.
        perceptor: CLIP.
        mapper: edits the first codes as the prompt says; None if the weights set has no such network.
        classifier: knows faces other than people's, such as drawn ones; None if the set has no such network.
        hyperparameters: the weights set's.
        device: the networks' device.
        upscaler: enlarges finished pictures; None if the weights set has none.
        directions: of the generator's styles; None if the weights set has none.

    Raises:
        WeightsError: if the directions do not fit the other networks.
    """

    def __init__(
        self,
        generator: Generator | FrozenGenerator,
        encoder: Encoder4Editing,
        average: Tensor,
        identity: Identity | FrozenIdentity,
        perceptor: Perceptor,
        mapper: LatentMapper | None,
        classifier: FaceClassifier | None,
        hyperparameters: Hyperparameters,
        device: torch.device,
        upscaler: Upscaler | None = None,
        directions: GlobalDirections | None = None,
    ) -> None:
        self.precision = Precision(device)
        dtype = self.precision.dtype
        self.generator = generator.freeze(dtype) if isinstance(generator, Generator) else generator
        self.encoder = encoder
        self.average = average[None]
        self.identity = identity.freeze(dtype) if isinstance(identity, Identity) else identity
        self.perceptor = perceptor
        self.mapper = mapper
        self.upscaler = upscaler
        self.classifier = classifier
        self.hyperparameters = hyperparameters
        self.device = device
        self.scaler = self.precision.scaler()
        self._faces, self._embed = Recorded(self._pass_generator), Recorded(self._pass_perceptor)
        self._features = Recorded(self._pass_identity)
        self.views = Views(perceptor.input_size, hyperparameters)
        parts = perceptor, self.generator, hyperparameters, self.precision
        self.global_edits = None if directions is None else GlobalEdits(directions, *parts)

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
        job: dict[str, Any] = {"upscaler": self.upscaler, "upscale": upscale, "photo": photo}
        if photo is not None:
            job |= {"faces": photo.faces, "before": self._picture(self.generator.styles(face))}
        number = 1 if photo is None else len(photo.chosen)
        if params.method == "global":
            if self.global_edits is None:
                raise lacking("method", "directions")
            styles = self.global_edits.styles(face, params)
            return StyleRevision.of_styles(styles, face, params.seed, steps=number, **job)
        prompt = self.perceptor.embed_text([params.prompt])
        codes, rate, l2 = face, hyper.learning_rate, hyper.l2
        own_start = hyper.start if self.mapper is not None else "inversion"  # a set may lack the network
        if (params.start or own_start) == "learned":
            codes = self._mapped(face, prompt)
            rate, l2 = hyper.learned_start_rate, hyper.learned_start_l2
        l2 = l2 if params.l2 is None else params.l2
        identity = hyper.identity if params.identity is None else params.identity
        features = self._features(self._faces(face))
        latents = codes.clone().requires_grad_()
        return StyleRevision(
            latents=latents,
            optimiser=torch.optim.Adam([latents], lr=rate, fused=self.precision.fused),
            generator=torch.Generator(self.device).manual_seed(params.seed),
            steps=(params.iterations or hyper.iterations) * number,
            face=face,
            strength=params.strength,
            codes=codes,
            features=features,
            learning_rate=rate,
            objective=objective(prompt[0], codes, features, l2, identity),
            **job,
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
        """Advance each revision by one step, all in one pass or side by side."""
        for revision in revisions:
            if revision.photo is not None and revision.face_is_finished:  # turn to the photo's next one
                after, photo = self.image(revision), revision.photo
                aligned = photo.cut_out(len(photo.edited) + 1, ALIGNED)
                revision.turn_to(self._start_with(aligned, photo.params, photo), after)
            if revision.styles is not None:  # there is nothing to do
                revision.step, revision.loss = revision.step + 1, 0.0
        revisions = [revision for revision in revisions if revision.styles is None]
        if not revisions:
            return
        for revision in revisions:
            for group in revision.optimiser.param_groups:
                group["lr"] = revision.learning_rate * ramp(revision.done)
        if self.precision.ignores_threads:
            side_by_side(self._optimise, revisions)
        else:
            self._optimise(revisions)

    def _optimise(self, revisions: Sequence[StyleRevision]) -> None:
        """Take a step of the optimiser for each revision, all in one pass."""
        codes = torch.cat([revision.latents for revision in revisions])
        optimise(revisions, self._faces(codes), self._loss, self.scaler)

    def record_graphs(self, jobs: int) -> None:
        """Record CUDA graphs of the passes of 1 to `jobs` jobs."""
        codes = self.average.repeat(jobs, 1, 1)
        for number in range(1, jobs + 1):
            self._faces.record(codes[:number].clone().requires_grad_())
        with torch.no_grad():
            face = self._faces(codes[:1]).clone()
        self._features.record(face.requires_grad_())
        side = self.perceptor.input_size
        shape = (1 + self.hyperparameters.cutouts, 3, side, side)
        self._embed.record(torch.zeros(shape, device=self.device, requires_grad=True))

    @torch.no_grad()
    def image(self, revision: StyleRevision) -> Image.Image:
        """The face so far."""
        return self._picture(revision.styles or self.generator.styles(revision.shown))

    def _picture(self, styles: Sequence[Tensor]) -> Image.Image:
        """The face of styles [1, in]."""
        return to_picture(self.generator.synthesise_styles(styles) / 2 + 0.5)

    def _loss(self, revision: StyleRevision, face: Tensor) -> Tensor:
        """A job's loss, a scalar, with one of `_faces`.

        CLIP sees each job's face apart: how its matrix products round depends on the batch size, and the
        optimisation amplifies a rounding error into a different picture.
        """
        embeddings = self._embed(self.views.for_clip(face, revision.generator))
        inputs = {"embeddings": embeddings, "codes": revision.latents, "features": self._features(face)}
        return revision.objective(inputs)

    def _mapped(self, codes: Tensor, prompt: Tensor) -> Tensor:
        """Codes w+ [1, n_latent, style_dim], edited as a prompt's embedding [1, d] says."""
        if self.mapper is None:
            raise ParamsError(
                "start", 'these weights have no learned start; use "inversion"', out_of_range=True
            )
        return self.mapper(codes, prompt)

    def _pass_generator(self, codes: Tensor) -> Tensor:
        """The faces of codes w+ [N, n_latent, style_dim], as the networks see them, see `Views`."""
        return self.views.shrunk(self.generator.synthesise(codes))

    def _pass_perceptor(self, views: Tensor) -> Tensor:
        """Pictures [N, 3, S, S] in [0, 1] -> CLIP's embeddings [N, d]."""
        with self.precision.autocast():
            return self.perceptor.embed_image(views)

    def _pass_identity(self, faces: Tensor) -> Tensor:
        """Identity features of `_faces`: [N, d], unit length."""
        features: Tensor = self.identity(crop(faces, self.identity.input_size))
        return features


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

    def optional(network: str, kind: Any) -> Any:
        if network not in chosen.files:
            return None
        return kind.from_state_dict(chosen.read(network)).requires_grad_(False).to(device)

    return StyleCLIPPipeline(
        generator,
        encoder,
        average,
        identity,
        perceptor,
        optional("mapper", LatentMapper),
        load_classifier(weights, device),
        chosen.settings("StyleCLIP", Hyperparameters),
        torch.device(device),
        load_upscaler(weights, device),
        optional("directions", GlobalDirections),
    )


def trial(pipeline: StyleCLIPPipeline) -> float:
    """The loss of a first step on the average face; its picture is made and inverted too."""
    revision = pipeline.start(StyleCLIPParams(prompt="a smiling face", seed=0, iterations=1))
    pipeline.step([revision])
    if pipeline.global_edits is not None:
        edit = pipeline.start(StyleCLIPParams(prompt="a smiling face", seed=0, method="global", beta=0.0))
        pipeline.image(edit)
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
        n: int = 1,
        frames: int = 0,
        method: str = "optimisation",
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
            prompt: what the face should become; 1 to 2000 characters.
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
            method: how the edit is found: by optimising the codes, or in one pass by a global direction;
                "optimisation" or "global", default "optimisation".
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
            "prompt": prompt,
            "img_path": img_path,
            "seed": seed,
            "iterations": iterations,
            "n": n,
            "frames": frames,
            "method": method,
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
