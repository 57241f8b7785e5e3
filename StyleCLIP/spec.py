"""What the service knows of StyleCLIP."""

from __future__ import annotations

from safetensors import safe_open

from mead.model_spec import CLIP, UPSCALER, Extent, FormField, ModelSpec, NetworkSpec, PageForm
from mead.weights.sets import WeightSet
from StyleCLIP.hyperparameters import Hyperparameters
from StyleCLIP.params import StyleCLIPParams

FACE_SIDE = 1024  # of the published StyleGAN2's pictures


def own_extent(weights: WeightSet) -> Extent:
    """How much a job computes that leaves everything to the weights set."""
    own = weights.settings("StyleCLIP", Hyperparameters)
    side = _face_side(weights)
    upscale = own.upscale if "upscaler" in weights.files else 1
    cutouts = own.cutouts + 1  # CLIP sees the whole picture too
    return Extent(side, side, cutouts, own.iterations + own.refine, upscale, own.refine)


def _face_side(weights: WeightSet) -> int:
    """The side of StyleGAN2's pictures, which each of its levels doubles, from 4 pixels on."""
    file = weights.files.get("stylegan2")
    if file is None or not file.path.is_file():
        return FACE_SIDE
    with safe_open(file.path, framework="np") as tensors:
        names: list[str] = list(tensors.keys())
    levels = {name.split(".")[1] for name in names if name.startswith("to_rgbs.")}
    return 2 ** (2 + len(levels))


SPEC = ModelSpec(
    type="sc",
    name="StyleCLIP",
    route="styleclip",
    command="edit",
    summary="Edit the photo of a face by words (StyleGAN2 + CLIP).",
    params=StyleCLIPParams,
    hyperparameters=Hyperparameters,
    networks=(
        CLIP,
        NetworkSpec("stylegan2", "StyleCLIP.stylegan2.Generator", ("size", "style_dim", "n_latent")),
        NetworkSpec(
            "e4e",
            "StyleCLIP.e4e.Encoder4Editing",
            ("input_size", "n_styles", "style_dim"),
            extra={"latent_avg": ("n_styles", "style_dim")},
        ),
        NetworkSpec("identity", "StyleCLIP.identity.Identity", ("input_size", "embed_dim")),
        NetworkSpec(
            "mapper",
            "StyleCLIP.mapper.LatentMapper",
            ("style_dim", "embed_dim"),
            optional=True,
            trained_with=frozenset({"clip", "stylegan2", "e4e"}),
        ),
        NetworkSpec(
            "directions",
            "StyleCLIP.global_directions.GlobalDirections",
            ("channels", "embed_dim"),
            optional=True,
            trained_with=frozenset({"clip", "stylegan2"}),
        ),
        NetworkSpec(
            "mapper_*",
            "StyleCLIP.levels_mapper.LevelsMapper",
            ("style_dim", "levels"),
            optional=True,
            trained_with=frozenset({"stylegan2", "e4e"}),
        ),
        NetworkSpec(
            "sliders",
            "StyleCLIP.sliders.Sliders",
            ("style_dim", "codes"),
            optional=True,
            trained_with=frozenset({"stylegan2"}),
        ),
        UPSCALER,
        NetworkSpec(
            "face",
            "StyleCLIP.face_classifier.FaceClassifier",
            ("input_size",),
            optional=True,
            trained_with=frozenset({"e4e"}),  # it is to know the faces that e4e knows
        ),
    ),
    module="StyleCLIP.StyleCLIP",
    own_extent=own_extent,
    form=PageForm(
        title="Edit a face",
        submit="Edit",
        sections={
            "Face and words": (
                FormField("img", "Photo", about="The photo of a face."),
                FormField(
                    "prompt", "Prompt", about="What the face should become, as in: a person with blue hair."
                ),
                FormField("method", "Method"),
                FormField("mapper", "Ready-made edit"),
                FormField("sliders", "Sliders"),
                FormField("output", "Result"),
                FormField("face", "Which face"),
            ),
            "Global direction": (
                FormField("neutral", "Neutral words"),
                FormField("alpha", "Alpha"),
                FormField("beta", "Beta"),
            ),
            "How much": (FormField("strength", "Strength"),),
        },
        reuse="Edit this face",
        first=("img", "prompt"),
    ),
    required_files=("img",),
    about="The result is the face alone, or with `output` the whole photo with the edited face in it; `face` "
    "chooses one of several faces, which POST /faces lists.",
    examples={
        "words for a face": {"prompt": "A girl with purple eyes", "iterations": 50},
        "a global direction, in one pass": {
            "prompt": "a face with a smile",
            "method": "global",
            "neutral": "a face",
            "alpha": 3,
            "beta": "auto",
        },
        "a mapper, which knows one edit": {"mapper": "beard"},
        "sliders alone": {"sliders": "age:3 | smile:-1"},
        "back into the photo": {"prompt": "a person with glasses", "output": "photo"},
        "the second face from the left": {"prompt": "a smiling man", "output": "photo", "face": "2"},
        "half of a finished edit": {"from": "8d3f0c6f2b1e4c55a6b1f0c2d4e6a700", "strength": 0.5},
    },
    anew=("strength", "output", "upscale"),
    demo=({"prompt": "A girl with purple eyes", "seed": "1"}, {"img": "face.jpeg"}),
    finder="StyleCLIP.faces.load_finder",
)
