"""StyleCLIP's hyperparameters. The caching server reads them too, without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from mead.nn.cutout_hyperparameters import CutoutHyperparameters


@dataclass(frozen=True, kw_only=True)
class Hyperparameters(CutoutHyperparameters):
    """What a weights set's manifest may set for this model; the defaults are the published values.

    The published method shows CLIP the whole picture and no cutouts. A set that asks for some gets crops that
    stay close to the face.
    """

    iterations: int = 50
    start: str = "inversion"
    learning_rate: float = 0.1
    learned_start_rate: float = 0.1
    """Learning rate from a learned start, which is nearer to its goal."""
    l2: float = 0.008
    """Weight of the squared distance from the first codes."""
    learned_start_l2: float = 0.008
    """The same from a learned start."""
    identity: float = 0.005
    """Weight of the identity loss."""
    space: str = "w+"
    """The space that an edit is optimised in: "w+" or "s"."""
    style_rate: float = 0.1
    """Learning rate in style space."""
    style_l2: float = 0.008
    """Weight of the squared distance from the first styles."""
    refine: int = 0
    """Steps that refine a face's inversion before the edit."""
    refine_within: float = 4.0
    """Mean squared difference of pixels, from -1 to 1, up to which an inversion is near enough for them."""
    refine_rate: float = 0.02
    """Learning rate of these steps."""
    refine_identity: float = 0.1
    """Weight of the identity loss in these steps, beside the mean squared difference of pixels."""
    refine_l2: float = 0.0
    """Weight of the squared distance from the first codes in these steps."""
    worn: str = ""
    """What an inversion is not to wear where the photo does not: sliders, see `StyleCLIP.worn.Worn`."""
    neutral: str = "face"
    """What a face is before an edit by a global direction, in words."""
    alternatives: str = ""
    """Words that exclude each other, one kind a line, see `StyleCLIP.neutral.Alternatives`. An edit by a
    global direction starts at the prompt with those that fit the face, if it names any."""
    alpha: float = 4.1
    """How far an edit goes along a global direction."""
    searches_alpha: bool = False
    """Whether CLIP chooses how far, from 0.7 times `alpha` to twice as far."""
    beta: str = "0.15"
    """How relevant a channel must be for a global direction to change it, or "auto"."""
    style_range: float = 0.0
    """With a strength above 1, how many standard deviations from its mean a style ends, if the set has global
    directions; one that the face or the edit has further away stays there. 0: it goes on as published."""
    templates: bool = True
    """Whether CLIP reads the words of a global direction in ImageNet's templates, "a bad photo of a ..."."""
    suits_people: str = ""
    """What suits a photo of a person when it is pasted back, one word for each, if little else does: of a set
    whose faces are not people's."""
    upscale: int = 1
    """How many times as wide and high the finished picture is made, if the set has an upscaler."""

    cutouts: int = 0
    cutout_mean: float = 0.95
    cutout_deviation: float = 0.1
    cutout_smallest: float = 0.8
    cutout_largest: float = 1.1
    cutout_degrees: float = 8.0
    cutout_shift: float = 0.03
