"""LatentRevisions' pipeline: the loaded networks, and what a step computes.

After Ryan Murdoch's (advadnoun's) Latent Revisions notebook of 2021, whose defaults are the defaults here.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from LatentRevisions.denoiser import Denoiser
from LatentRevisions.first_latents import FirstLatents, load_start
from LatentRevisions.group_norm_kernels import compile_kernels
from LatentRevisions.guide import Guide
from LatentRevisions.hyperparameters import Hyperparameters
from LatentRevisions.losses import MeanSquaredDistance, Similarity, TotalVariation
from LatentRevisions.masking import Masked
from LatentRevisions.mixer import Mixer
from LatentRevisions.params import LatentRevisionsParams
from LatentRevisions.prior import Prior
from LatentRevisions.revision import LatentRevision
from LatentRevisions.start import LearnedStart
from LatentRevisions.story import Chapters
from LatentRevisions.vqgan import VQGAN
from mead.imaging.pictures import read_picture
from mead.imaging.tensors import to_picture
from mead.nn.cutouts import Cutouts
from mead.nn.freed import give_back
from mead.nn.frozen import freeze
from mead.nn.graphs import Recorded
from mead.nn.losses import Apply, Scale, Sum
from mead.nn.optimisers import AdamW
from mead.nn.paces import Paces
from mead.nn.perceptor import Perceptor
from mead.nn.precision import Precision
from mead.nn.side_by_side import side_by_side
from mead.resuming import readable
from mead.revision import optimise, result_of
from mead.upscaling import Upscaler, chosen_factor
from mead.weights.loading import OncePerProcess
from mead.weights.perceptor import load_perceptors
from mead.weights.sets import WeightSet
from mead.weights.upscaler import load_upscaler

LATENT_LIMIT = 6.0  # latents are clipped to [-LATENT_LIMIT, LATENT_LIMIT], as published


class LatentRevisionsPipeline:
    """The loaded networks and the objective; a `mead.revision.Pipeline`.

    Args:
        vqgan: the generator whose latents are optimised.
        perceptor: CLIP, which chooses learned starts too.
        learned_start: draws first latents for a target; None if the weights set has no such network.
        prior: keeps latents those of pictures; None if the weights set has no denoiser.
        hyperparameters: the weights set's.
        device: the networks' device.
        upscaler: enlarges finished pictures; None if the weights set has none.
        others: further CLIPs, whose losses count as much as the first one's.
    """

    def __init__(
        self,
        vqgan: VQGAN,
        perceptor: Perceptor,
        learned_start: LearnedStart | Mixer | None,
        prior: Prior | None,
        hyperparameters: Hyperparameters,
        device: torch.device,
        upscaler: Upscaler | None = None,
        others: Sequence[Perceptor] = (),
    ) -> None:
        self.vqgan = vqgan
        self.perceptor = perceptor
        self.learned_start = learned_start
        self.prior = prior
        self.upscaler = upscaler
        self.hyperparameters = hyperparameters
        self.device = device
        self.precision = Precision(device)
        self.scaler = self.precision.scaler()
        self._paces = Paces()
        self._decoded = Recorded(self._pass_decoder)
        self.guides = [Guide(each, device) for each in (perceptor, *others)]
        self.aims = self.guides[0].aims
        self.ignores_threads = self.precision.ignores_threads and all(
            guide.perceptor.ignores_threads for guide in self.guides
        )
        self._has_stepped = False
        give_back()  # what the weights took in the formats that they were read in

    @property
    def _beginnings(self) -> FirstLatents:
        return FirstLatents(
            vqgan=self.vqgan,
            encode=self._encode,
            decode=self._decode,
            aims=self.aims,
            learned_start=self.learned_start,
            has_prior=self.prior is not None,
            hyperparameters=self.hyperparameters,
            device=self.device,
        )

    @torch.no_grad()
    def start(self, params: LatentRevisionsParams) -> LatentRevision:
        """Read the pictures and compute the target and the first latents.

        Raises:
            ParamsError: for a start or an upscaler the weights set does not have, or texts and pictures that
                cancel out.
            PictureError, FileNotFoundError: for a picture that cannot be read.
        """
        hyper = self.hyperparameters
        upscale = chosen_factor(params.upscale, hyper.upscale, self.upscaler)
        generator = torch.Generator(self.device).manual_seed(params.seed)
        targets, *others = (guide.aims.targets(params) for guide in self.guides)
        target = targets[0]
        beginnings = self._beginnings
        way = beginnings.way(params)
        size = params.size or hyper.sides
        starter = None if params.img_path is None else read_picture(params.img_path, "img")
        masked = None
        if starter is not None and params.mask_path is not None:
            masked = Masked.of(
                starter, params.mask_path, size, upscale, hyper.mask_feather, self.vqgan.factor, self.device
            )
        steps = params.iterations or hyper.iterations
        half = 0
        if way == "noise" and masked is None and all(side % (2 * self.vqgan.factor) == 0 for side in size):
            half = round(hyper.half_size * steps)
        if half:
            size = (size[0] // 2, size[1] // 2)
        draughtsman = beginnings.draughtsman(params.prompt)
        made, way = beginnings.make(size, draughtsman, way, starter, masked, target, generator)
        first = made.float()
        learning_rate, init_weight, noise, guidance = hyper.beginning(
            "masked" if params.mask_path is not None and way != "noise" else way
        )
        init_weight = init_weight if params.init_weight is None else params.init_weight
        tv_weight = hyper.tv_weight if params.tv_weight is None else params.tv_weight
        shown = None
        if way in ("starter", "changed") and starter is not None and hyper.starter_hint:
            shown = hyper.starter_hint * self.aims.embed_picture(starter).float()
        z = first.clone().requires_grad_()
        pairs = [
            guide.losses(each[0], hyper, len(self.guides))
            for guide, each in zip(self.guides, [targets, *others], strict=True)
        ]
        (towards, _), *further = pairs
        anchor = MeanSquaredDistance(first)
        cutouts = params.cutouts or hyper.cutouts
        return LatentRevision(
            latents=z,
            optimiser=AdamW(
                [z], lr=learning_rate, weight_decay=hyper.weight_decay, fused=self.precision.fused
            ),
            generator=generator,
            steps=steps,
            upscaler=self.upscaler,
            upscale=upscale,
            target=target,
            objective=_objective(pairs, anchor, init_weight, tv_weight),
            towards=towards,
            further=[(each, goals) for (each, _), goals in zip(further, others, strict=True)],
            anchor=anchor,
            chapters=Chapters(targets, steps) if params.story else None,
            hints=self._hints(target, shown) if noise else None,
            shown=shown,
            guidance=guidance,
            noise=(noise, hyper.noise_last),
            first=first,
            masked=masked,
            draughtsman=draughtsman,
            last_cutouts=Cutouts(replace(hyper, cutouts=cutouts)),
            first_cutouts=min(hyper.first_cutouts or cutouts, cutouts),
            half=half,
            patience=_patience(params, hyper),
            full_steps=hyper.iterations,
            step_decay=hyper.step_decay,
            notes=tuple(beginnings.notes),
        )

    def resume(self, params: LatentRevisionsParams, state: Mapping[str, Tensor]) -> LatentRevision:
        """A revision that goes on where one with this state has ended, see `mead.resuming`."""
        revision = self.start(params)
        with readable():
            revision.restore(state)
        return revision

    def step(self, revisions: Sequence[LatentRevision]) -> None:
        """Advance each revision by one step, those of the same size in one pass, or parts side by side."""
        if self.ignores_threads:
            by_size = sorted(revisions, key=lambda revision: revision.latents.shape)
            side_by_side(self._step_by_size, by_size, self._paces, _size_of)
        else:
            self._step_by_size(revisions)
        if not self._has_stepped:
            self._has_stepped = True
            give_back()  # what the weights took before they were rearranged

    def record_graphs(self, jobs: int) -> None:
        """Record CUDA graphs of the passes of 1 to `jobs` jobs with the weights set's own settings."""
        hyper = self.hyperparameters

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=self.device)

        width, height = hyper.sides
        latents = zeros(jobs, self.vqgan.embed_dim, height // self.vqgan.factor, width // self.vqgan.factor)
        for number in range(1, jobs + 1):
            self._decoded.record(latents[:number].clone().requires_grad_())
        picture = zeros(1, 3, height, width).requires_grad_()
        for guide in self.guides:
            guide.record_graph(picture, hyper.cutouts)
        if self.prior is not None:
            self.prior.record_graphs(latents[:1])

    @torch.no_grad()
    def image(self, revision: LatentRevision) -> Image.Image:
        """The picture so far, in its final size."""
        picture = to_picture((self._decoded(revision.latents) + 1) / 2)
        if revision.half:
            picture = picture.resize((2 * picture.width, 2 * picture.height), Image.Resampling.BICUBIC)
        return picture if revision.masked is None else revision.masked.blend(picture)

    def _step_by_size(self, revisions: Sequence[LatentRevision]) -> None:
        for shape in {revision.latents.shape for revision in revisions}:
            self._step([revision for revision in revisions if revision.latents.shape == shape])

    def _step(self, revisions: Sequence[LatentRevision]) -> None:
        for revision in revisions:
            if revision.chapters is not None:
                self._aim(revision, revision.chapters)
        pictures = self._decode(torch.cat([revision.latents for revision in revisions]))
        optimise(revisions, pictures, self._loss, self.scaler)
        for revision in revisions:
            self._settle(revision)

    def _loss(self, revision: LatentRevision, picture: Tensor) -> Tensor:
        """A job's loss, a scalar, with its picture [1, 3, H, W].

        CLIP sees each job's cutouts apart: how its matrix products round depends on the batch size, and the
        optimisation amplifies a rounding error into a different picture.
        """
        cutouts, generator = revision.cutouts, revision.generator
        picture = revision.seen(picture)
        maps = cutouts.draw(picture.shape[3], picture.shape[2], generator)
        inputs = {"latents": revision.latents, "picture": picture}
        for number, guide in enumerate(self.guides):
            inputs[_embeddings(number)] = guide.embed(picture, maps, cutouts, generator)
        return revision.objective(inputs).mean()

    @torch.no_grad()
    def _aim(self, revision: LatentRevision, chapters: Chapters) -> None:
        """Set the target of the next step of a story."""
        revision.target = revision.towards.target = chapters.target(revision.step)
        for towards, targets in revision.further:
            towards.target = chapters.target(revision.step, targets)
        if revision.hints is not None:
            revision.hints = self._hints(revision.target, revision.shown)

    def _hints(self, target: Tensor, shown: Tensor | None) -> Tensor | None:
        """What the prior is told of a target [d], and of a starter picture's embedding [d], [1, hints]."""
        if self.prior is None:
            return None
        return self.prior.hints(target if shown is None else F.normalize(target + shown, dim=0))

    @torch.no_grad()
    def _settle(self, revision: LatentRevision) -> None:
        """What happens to latents after each step of the optimiser."""
        latents = revision.latents
        if self.prior is not None and revision.hints is not None:
            share = revision.size_of(revision.step)
            self.prior.pull(latents, revision.hints, revision.guidance, revision.noise_level, share)
        if revision.chapters is not None:
            if revision.chapters.begins(revision.step):
                self._begin_chapter(revision, revision.chapters)
            if revision.coming is not None:
                approach = revision.chapters.approach(revision.step)
                latents.lerp_(revision.coming, approach)
                revision.coming = None if approach == 1 else revision.coming
        if revision.masked is not None:
            latents.copy_(revision.masked.merge(latents, revision.first))
        if revision.half and revision.step == revision.half:
            revision.grow()
        revision.shrink_step()
        revision.end_if_settled()

    def _begin_chapter(self, revision: LatentRevision, chapters: Chapters) -> None:
        """Draw where the next text of a story starts, if the weights set says so: in the scene so far."""
        hyper = self.hyperparameters
        revision.noise = (hyper.noise_last, hyper.noise_last)
        draughtsman = revision.draughtsman if hyper.story_start == "learned" else None
        if draughtsman is None:
            return
        target, generator = chapters.targets[chapters.of(revision.step)], revision.generator
        scene = self.aims.embed_picture(self.image(revision)).float()
        if revision.masked is not None:
            coming = draughtsman.draw_inside(revision.masked, revision.first, scene, target, generator)
        else:
            grid = (revision.latents.shape[2], revision.latents.shape[3])
            coming = draughtsman.draw(target, grid, generator, scene)
        beginning = hyper.beginning("learned")
        revision.coming = revision.anchor.first = coming
        revision.noise, revision.guidance = (beginning.noise, hyper.noise_last), beginning.guidance
        revision.optimiser.state.clear()
        for group in revision.optimiser.param_groups:
            group["lr"] = beginning.learning_rate

    def _decode(self, z: Tensor) -> Tensor:
        """Latents [N, embed_dim, h, w] -> pictures [N, 3, H, W] in [0, 1]."""
        return (self._decoded(z).clamp(-1, 1) + 1) / 2

    def _pass_decoder(self, z: Tensor) -> Tensor:
        """Latents [N, embed_dim, h, w] -> pictures [N, 3, H, W], about [-1, 1]."""
        pictures = self.precision.batch_invariant(self.vqgan.decode, z.clamp(-LATENT_LIMIT, LATENT_LIMIT))
        # always the same memory layout: the order of later sums depends on it
        return pictures.float().contiguous()

    def _encode(self, picture: Tensor) -> Tensor:
        """Picture [1, 3, H, W] in [0, 1] -> latents [1, embed_dim, h, w]."""
        with self.precision.autocast():
            return self.vqgan.encode(picture * 2 - 1)


def _patience(params: LatentRevisionsParams, hyper: Hyperparameters) -> int:
    """A job's patience; who asks for steps gets them all."""
    if params.patience is not None:
        return params.patience
    return hyper.patience if params.iterations is None else 0


def _objective(
    pairs: Sequence[tuple[Similarity, Similarity]],
    anchor: MeanSquaredDistance,
    init_weight: float,
    tv_weight: float,
) -> Sum:
    """The mean over the guides of their two losses, for each cutout; where their weights are not 0,
    + init_weight · mean (z - z₀)² + tv_weight · total variation.
    """
    losses: list[nn.Module] = []
    for number, pair in enumerate(pairs):
        losses += [Apply(each, _embeddings(number)) for each in pair]
    if init_weight:
        losses.append(Scale(Apply(anchor, "latents"), init_weight))
    if tv_weight:
        losses.append(Scale(Apply(TotalVariation(), "picture"), tv_weight))
    return Sum(losses)


def _size_of(revision: LatentRevision) -> Hashable:
    """What the time of a job's step depends on."""
    return revision.latents.shape, revision.cutouts.hyperparameters.cutouts, revision.hints is None


def _embeddings(guide: int) -> str:
    """The name of what a guide sees, among the inputs of an objective."""
    return f"embeddings of guide {guide}"


@OncePerProcess
def load_pipeline(weights: str, device: str) -> LatentRevisionsPipeline:
    """The pipeline of a weights set on a device, loaded once per process and shared.

    Raises:
        WeightsError: naming the file that is missing or damaged.
    """
    chosen = WeightSet.find(weights)
    dtype = Precision(torch.device(device)).dtype
    vqgan = VQGAN.from_state_dict(chosen.read("vqgan")).freeze(dtype).to(device)
    perceptor, *others = load_perceptors(weights, device)
    learned_start = load_start(chosen, vqgan, perceptor)
    if learned_start is not None:
        learned_start = freeze(learned_start, dtype).to(device)
    hyper = chosen.settings("LatentRevisions", Hyperparameters)
    prior = None
    if isinstance(learned_start, LearnedStart) and "denoiser" in chosen.files:
        denoiser = freeze(Denoiser.from_state_dict(chosen.read("denoiser")), dtype).to(device)
        prior = Prior(denoiser, learned_start, hyper.denoise, hyper.sharpen, torch.device(device))
    upscaler = load_upscaler(weights, device)
    if torch.device(device).type == "cpu":
        compile_kernels(dtype)
    return LatentRevisionsPipeline(
        vqgan, perceptor, learned_start, prior, hyper, torch.device(device), upscaler, others
    )


def trial(pipeline: LatentRevisionsPipeline) -> float:
    """The loss of a small job's first step, from a learned start if there is one; its picture is made too."""
    start: Literal["learned", "noise"] = "noise" if pipeline.learned_start is None else "learned"
    params = LatentRevisionsParams(
        prompt="a red circle", seed=0, iterations=1, cutouts=2, size=(128, 128), start=start
    )
    revision = pipeline.start(params)
    pipeline.step([revision])
    result_of(pipeline, revision)
    return revision.loss
