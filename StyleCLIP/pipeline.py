"""StyleCLIP's networks and objective: jobs are started, advanced together and rendered."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from mead.imaging.pictures import read_picture
from mead.imaging.tensors import to_picture, to_tensor
from mead.nn.graphs import Recorded
from mead.nn.optimisers import Adam
from mead.nn.paces import Paces
from mead.nn.perceptor import Perceptor
from mead.nn.precision import Precision
from mead.nn.side_by_side import side_by_side
from mead.params import ParamsError
from mead.revision import optimise
from mead.upscaling import Upscaler, chosen_factor
from StyleCLIP.e4e import Encoder4Editing
from StyleCLIP.edits import Edits
from StyleCLIP.face_classifier import FaceClassifier
from StyleCLIP.faces import find_all, main_face
from StyleCLIP.frozen_generator import FrozenGenerator
from StyleCLIP.frozen_identity import FrozenIdentity
from StyleCLIP.global_directions import GlobalDirections, GlobalEdits
from StyleCLIP.hyperparameters import Hyperparameters
from StyleCLIP.identity import Identity, crop
from StyleCLIP.levels_mapper import LevelsMapper
from StyleCLIP.losses import objective
from StyleCLIP.mapper import LatentMapper
from StyleCLIP.params import StyleCLIPParams
from StyleCLIP.pasting_notes import notes_on_pasting
from StyleCLIP.photo import PhotoEdit
from StyleCLIP.refinement import Refinement
from StyleCLIP.revision import StyleRevision, ramp
from StyleCLIP.showing_anew import shown_anew
from StyleCLIP.sliders import Sliders
from StyleCLIP.spaces import Spaces
from StyleCLIP.stylegan2 import Generator
from StyleCLIP.views import Views
from StyleCLIP.worn import Worn

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
        mappers: make one edit each, by name.
        sliders: known directions; None if the weights set has none.

    Raises:
        WeightsError: if directions, mappers or sliders do not fit the other networks.
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
        mappers: Mapping[str, LevelsMapper] | None = None,
        sliders: Sliders | None = None,
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
        self.ignores_threads = self.precision.ignores_threads and perceptor.ignores_threads
        self._paces = Paces()
        self._faces, self._embed = Recorded(self._pass_generator), Recorded(self._pass_perceptor)
        self._features = Recorded(self._pass_identity)
        self.views = Views(perceptor.input_size, hyperparameters)
        self.spaces = Spaces(self.generator)
        parts = perceptor, self.generator, hyperparameters, self.precision
        global_edits = None if directions is None else GlobalEdits(directions, *parts)
        self.edits = Edits(self.spaces, global_edits, mappers or {}, sliders)
        self.worn = Worn(hyperparameters.worn, sliders, self._pass_generator)
        self.styles = None if global_edits is None else global_edits.range_around(self.average)

    @torch.no_grad()
    def start(self, params: StyleCLIPParams) -> StyleRevision:
        """Find the face, align it and invert it to codes w+; without a picture, take the average face's.

        Raises:
            ParamsError: for what the weights set does not have, or a face not in the photo.
            PictureError, FileNotFoundError: for a picture that cannot be read or shows no face.
        """
        if params.img_path is None:
            return self._start_with(None, params)
        picture = read_picture(params.img_path, "img")
        if not params.looks_for_all:
            face, square = main_face(picture, self.classifier, ALIGNED)
            revision = self._start_with(face, params)
            revision.squares = [square]
            return revision
        photo = PhotoEdit(picture, find_all(picture, self.classifier), params, self.classifier)
        revision = self._start_with(photo.cut_out(0, ALIGNED), params, photo)
        revision.squares = photo.squares
        revision.notes = self.notes_on(photo)
        return revision

    def notes_on(self, photo: PhotoEdit) -> tuple[str, ...]:
        """What a client should know of an edit that is pasted into a photo."""
        return notes_on_pasting(photo, self.hyperparameters.suits_people)

    @torch.no_grad()
    def resume(
        self, params: StyleCLIPParams, state: Mapping[str, Tensor], photo: Image.Image | None = None
    ) -> StyleRevision:
        """A finished job, to be shown anew, see `StyleCLIP.showing_anew`."""
        return shown_anew(self, params, state, photo)

    def _start_with(
        self, aligned: Image.Image | None, params: StyleCLIPParams, photo: PhotoEdit | None = None
    ) -> StyleRevision:
        """Start with an aligned face, or the average one; `photo` is where it is from, if it has others."""
        if aligned is None:
            return self._edit(self.average, params, None, refine=0)
        face, picture = self.invert(aligned), self._seen(aligned)
        refine = self._own_refine(face, picture) if params.refine is None else params.refine
        if not refine:
            return self._edit(self.worn.taken_off(face, picture), params, photo, refine)
        edit = self._edit(face, params, photo, refine)  # which may be refused, before any step
        return self._refinement(edit, face, picture, refine)

    @torch.no_grad()
    def _own_refine(self, face: Tensor, picture: Tensor) -> int:
        """The weights set's steps that refine the codes w+ of a face, see `_seen`.

        A generator of drawn faces draws a person badly if it comes as close as it can, and takes what light
        there is for skin. So a set may refine only what it draws nearly.
        """
        far = F.mse_loss(self._pass_generator(face), picture) if self.hyperparameters.refine else 0.0
        return self.hyperparameters.refine if far <= self.hyperparameters.refine_within else 0

    @torch.no_grad()
    def _edit(
        self, face: Tensor, params: StyleCLIPParams, photo: PhotoEdit | None, refine: int
    ) -> StyleRevision:
        """Start the edit of a face's codes w+ [1, n_latent, style_dim], after `refine` steps."""
        hyper = self.hyperparameters
        upscale = chosen_factor(params.upscale, hyper.upscale, self.upscaler)
        job: dict[str, Any] = {"upscaler": self.upscaler, "upscale": upscale, "photo": photo}
        job["styles"] = self.styles
        if photo is not None:
            job |= {"faces": photo.faces, "before": self.picture(face)}
        number = 1 if photo is None else len(photo.chosen)
        found = self.edits.found(face, params)
        if found is not None:
            beside = self.edits.beside(face, found[0], params)
            steps = (1 + refine) * number
            return StyleRevision.found(*found, params, steps=steps, refine=refine, beside=beside, **job)
        prompt = self.perceptor.embed_text([params.prompt])
        own_start = hyper.start if self.mapper is not None else "inversion"  # a set may lack the network
        learned = (params.start or own_start) == "learned"
        codes = self._mapped(face, prompt) if learned else face
        rate = hyper.learned_start_rate if learned else hyper.learning_rate
        l2 = hyper.learned_start_l2 if learned else hyper.l2
        first = face
        if (params.space or hyper.space) == "s":
            first, codes = self.spaces.to_styles(face), self.spaces.to_styles(codes)
            rate, l2 = hyper.style_rate, hyper.style_l2
        l2 = l2 if params.l2 is None else params.l2
        identity = hyper.identity if params.identity is None else params.identity
        features = self._features(self._faces(face))
        latents = codes.clone().requires_grad_()
        return StyleRevision(
            latents=latents,
            optimiser=self._adam(latents, rate),
            generator=torch.Generator(self.device).manual_seed(params.seed),
            steps=((params.iterations or hyper.iterations) + refine) * number,
            params=params,
            face=first,
            strength=params.strength,
            codes=codes,
            features=features,
            learning_rate=rate,
            objective=objective(prompt[0], codes, features, l2, identity),
            beside=self.edits.beside(face, codes, params),
            refine=refine,
            **job,
        )

    def _seen(self, aligned: Image.Image) -> Tensor:
        """An aligned face as large as the networks see the generator's, [1, 3, S, S] in [-1, 1]."""
        picture = self.views.shrunk(to_tensor(aligned).to(self.device) * 2 - 1)
        return F.adaptive_avg_pool2d(picture, min(self.generator.size, picture.shape[-1]))

    @torch.no_grad()
    def _refinement(self, edit: StyleRevision, face: Tensor, picture: Tensor, refine: int) -> StyleRevision:
        """Refine the codes w+ of a face, see `_seen`, first, in a job whose edit starts like that."""
        revision = copy.copy(edit)
        revision.refinement = Refinement(picture, self._features(picture).clone(), face, refine)
        revision.latents = face.clone().requires_grad_()
        revision.learning_rate = self.hyperparameters.refine_rate
        revision.optimiser = self._adam(revision.latents, revision.learning_rate)
        return revision

    def _adam(self, latents: Tensor, rate: float) -> Adam:
        return Adam([latents], lr=rate, fused=self.precision.fused)

    def aligned(self, path: Path) -> Image.Image:
        """The picture's face, upright and framed as FFHQ's are, [ALIGNED, ALIGNED].

        Raises:
            PictureError: if it shows no face.
        """
        return main_face(read_picture(path, "img"), self.classifier, ALIGNED)[0]

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
            self._turn(revision)
            if not revision.optimises and revision.refinement is None:  # there is nothing to do
                revision.step, revision.loss = revision.step + 1, 0.0
        going = [each for each in revisions if each.optimises or each.refinement is not None]
        for revision in going:
            for group in revision.optimiser.param_groups:
                group["lr"] = revision.learning_rate * ramp(revision.done)
        if self.ignores_threads:
            side_by_side(self._optimise, going, self._paces, _size_of)
        else:
            self._optimise(going)

    def _optimise(self, revisions: Sequence[StyleRevision]) -> None:
        """Take a step of the optimiser for each revision, those in one space in one pass."""
        in_codes = [revision for revision in revisions if revision.latents.ndim == 3]
        in_styles = [revision for revision in revisions if revision.latents.ndim == 2]
        for some in filter(None, (in_codes, in_styles)):
            latents = torch.cat([revision.latents for revision in some])
            optimise(some, self._faces(latents), self._loss, self.scaler)

    def _turn(self, revision: StyleRevision) -> None:
        """Turn a revision to its photo's next face, or to the edit of one that is refined, if it is time."""
        if revision.photo is not None and revision.face_is_finished:
            photo = revision.photo
            revision.finish_face(self.image(revision))
            aligned = photo.cut_out(len(photo.edited), ALIGNED)
            revision.turn_to(self._start_with(aligned, photo.params, photo))
        if revision.is_refined:
            assert revision.refinement is not None
            face = self.worn.taken_off(revision.latents.detach(), revision.refinement.picture)
            revision.turn_to(self._edit(face, revision.params, revision.photo, revision.refine))

    @torch.no_grad()
    def features(self, faces: Tensor) -> Tensor:
        """The identity of faces [N, 3, H, W] in [-1, 1]: [N, d], of unit length."""
        return self._pass_identity(self.views.shrunk(faces.to(self.device)))

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
        return self.picture(revision.shown)

    def picture(self, latents: Tensor) -> Image.Image:
        """The face of latents of one of the spaces."""
        return to_picture(self.spaces.synthesise(latents) / 2 + 0.5)

    def _loss(self, revision: StyleRevision, face: Tensor) -> Tensor:
        """A job's loss, a scalar, with one of `_faces`.

        CLIP sees each job's face apart: how its matrix products round depends on the batch size, and the
        optimisation amplifies a rounding error into a different picture.
        """
        if revision.refinement is not None:
            features = self._features(face)
            return revision.refinement.loss(face, features, revision.latents, self.hyperparameters)
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

    def _pass_generator(self, latents: Tensor) -> Tensor:
        """The faces of latents, see `Spaces`, as the networks see them, see `Views`."""
        return self.views.shrunk(self.spaces.synthesise(latents))

    def _pass_perceptor(self, views: Tensor) -> Tensor:
        """Pictures [N, 3, S, S] in [0, 1] -> CLIP's embeddings [N, d]."""
        with self.precision.autocast():
            return self.perceptor.embed_image(views)

    def _pass_identity(self, faces: Tensor) -> Tensor:
        """Identity features of `_faces`: [N, d], unit length."""
        features: Tensor = self.identity(crop(faces, self.identity.input_size))
        return features


def _size_of(revision: StyleRevision) -> Hashable:
    """What the time of a job's step depends on: its space, and whether CLIP looks."""
    return revision.latents.ndim, revision.refinement is None
