"""What the service knows of LatentRevisions."""

from __future__ import annotations

from LatentRevisions.hyperparameters import Hyperparameters
from LatentRevisions.params import LatentRevisionsParams
from mead.model_spec import CLIP, UPSCALER, Extent, FormField, ModelSpec, NetworkSpec, PageForm
from mead.weights.sets import WeightSet


def own_extent(weights: WeightSet) -> Extent:
    """How much a job computes that leaves everything to the weights set."""
    own = weights.settings("LatentRevisions", Hyperparameters)
    upscale = own.upscale if "upscaler" in weights.files else 1
    return Extent(*own.sides, own.cutouts, own.iterations, upscale, clips=len(weights.perceptors))


SPEC = ModelSpec(
    type="lr",
    name="LatentRevisions",
    route="latent_revision",
    command="generate",
    summary="Make a picture from words (VQGAN + CLIP).",
    about="Further texts, a picture to move towards and one to move away from can be added, each with its "
    "weight; `img` is a picture to start from, and `mask` says what of it may change.",
    params=LatentRevisionsParams,
    hyperparameters=Hyperparameters,
    networks=(
        CLIP,
        NetworkSpec("vqgan", "LatentRevisions.vqgan.VQGAN", ("factor", "embed_dim", "n_embed")),
        NetworkSpec(
            "start",
            "LatentRevisions.start.LearnedStart",
            others={"mixer.1.weight": "LatentRevisions.mixer.Mixer"},
            optional=True,
            trained_with=frozenset({"clip", "vqgan"}),
        ),
        NetworkSpec(
            "denoiser",
            "LatentRevisions.denoiser.Denoiser",
            optional=True,
            trained_with=frozenset({"clip", "vqgan", "start"}),
        ),
        UPSCALER,
    ),
    module="LatentRevisions.LatentRevisions",
    own_extent=own_extent,
    form=PageForm(
        title="Make",
        submit="Make",
        sections={
            "Words": (
                FormField("prompt", "Prompt"),
                FormField(
                    "w0", "Weight of the prompt", about="How much it counts beside other texts and pictures."
                ),
                FormField("text_to_add", "Second text"),
                FormField("w1", "Weight", weight_of="text_to_add", first_weight="2"),
                FormField("prompts", "Further texts"),
                FormField("story", "Story"),
            ),
            "Pictures": (
                FormField("img", "Starter", about="The new picture grows out of this one."),
                FormField(
                    "mask",
                    "Mask",
                    about="What of the starter may change: white, or, if a part of it is transparent, that. "
                    "The rest stays as it is.",
                ),
                FormField("img_enc", "Towards"),
                FormField("w2", "Weight", weight_of="img_enc", first_weight="5"),
                FormField("ne_img_enc", "Away from"),
                FormField("w3", "Weight", weight_of="ne_img_enc", first_weight="1"),
            ),
        },
        reuse="Use as starter",
    ),
    examples={
        "words": {"prompt": "a boat on the sea at sunset"},
        "a second text": {"prompt": "a queen", "w0": 5, "text_to_add": "purple eyes", "w1": 2, "seed": 7},
        "more texts": {"prompt": "a house", "prompts": "at night:2 | the moon:-1", "seed": 7},
        "a story": {
            "prompt": "a green tree",
            "story": "a red tree ^ a red tree at night",
            "iterations": 90,
        },
        "another size": {"prompt": "a red house under the moon", "size": "128x96", "iterations": 60},
    },
    anew=("iterations", "upscale", "frames"),
    demo=({"prompt": "a girl with green hair", "w2": "1", "seed": "9"}, {"img_enc": "face.jpeg"}),
)
