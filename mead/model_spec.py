"""The description of a model: everything that HTTP, the inference server, the command line, the page and the
weights need to know about it. Each model defines its own in `spec.py`; `mead.registry` lists them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from mead.params import JobParams

if TYPE_CHECKING:  # only passed on
    from mead.weights.sets import WeightSet


ParamsClass: TypeAlias = type[JobParams]
Class: TypeAlias = type[Any]


@dataclass(frozen=True)
class Extent:
    """The size of a job: its steps, and the width, height (pixels) and cutouts of each step.

    The finished picture is `upscale` times as wide and high. `refine` of the steps come before the first of
    its iterations. Each of `clips` sees all cutouts.
    """

    width: int
    height: int
    cutouts: int
    steps: int
    upscale: int = 1
    refine: int = 0
    clips: int = 1


@dataclass(frozen=True)
class NetworkSpec:
    """A network of a weights set.

    Attributes:
        name: its name in the set, such as "vqgan". A set may have several of "mapper_*", each with a name of
            its own in place of the star.
        loads: its class, "package.module.Class"; imported on first use.
        several: whether a set may have more of it, named NAME-OTHER, such as "clip-rn50".
        others: further classes that it may be, by a key that only their state dicts have.
        hyperparameters: attributes of that class that describe the network, besides its tensors' shapes.
        optional: whether the model works without it.
        trained_with: networks that it only works with if it was trained with exactly those.
        extra: tensors of its file that are not parameters of the network: by name, the attributes of the
            class that give their shape.
    """

    name: str
    loads: str
    hyperparameters: tuple[str, ...] = ()
    optional: bool = False
    trained_with: frozenset[str] = frozenset()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    several: bool = False
    others: Mapping[str, str] = field(default_factory=dict)

    def is_of(self, network: str) -> bool:
        """Whether a network of a set is described by this."""
        if self.several and network.partition("-")[0] == self.name:
            return True
        prefix, star, _ = self.name.partition("*")
        return network.startswith(prefix) and network != prefix if star else network == self.name

    def class_of(self, keys: Container[str]) -> str:
        """The name of the class that loads a state dict with these keys."""
        return next((name for key, name in self.others.items() if key in keys), self.loads)

    def load_class(self, keys: Container[str] = ()) -> Any:
        """The class that loads a state dict with these keys; imports its module, and PyTorch with it."""
        return load_object(self.class_of(keys))


@dataclass(frozen=True)
class FormField:
    """A field of the page's form; everything else comes from the model's parameters.

    Attributes:
        name: the field's name in HTTP.
        label: its label.
        about: its description, instead of the parameter's.
        weight_of: the field whose weight this is.
        first_weight: its value once that field is filled in.
    """

    name: str
    label: str
    about: str = ""
    weight_of: str = ""
    first_weight: str = ""


@dataclass(frozen=True)
class PageForm:
    """A model's form on the page. Parameters that are in no section follow under "More".

    Attributes:
        title: the title of its tab.
        submit: the label of its button.
        sections: its fields, by legend.
        reuse: the label of the button that uses a finished picture as this form's `img`; "" for none.
        first: the fields that are shown at once, beside the button; the others are behind "Advanced".
    """

    title: str
    submit: str
    sections: Mapping[str, tuple[FormField, ...]]
    reuse: str = ""
    first: tuple[str, ...] = ("prompt",)


@dataclass(frozen=True)
class ModelSpec:
    """A model of the service.

    Attributes:
        type: the `type` of its jobs' records.
        name: the name of its Python class, of its section in manifests and the prefix of its settings.
        route: the path of its POST.
        summary: what it does, in a sentence.
        command: the name of its command; the route if "".
        about: more about it, for the API's description.
        params: the pydantic model of its parameters.
        hyperparameters: the dataclass of its settings in a weights set, with the published values.
        networks: the networks that it loads from a weights set.
        module: has the class `name`, `load_pipeline(weights, device)` and `trial(pipeline)`, which makes one
            step and returns its loss; imported, and PyTorch with it, on first use.
        own_extent: the size of a job that leaves everything to the weights set.
        form: its form on the page.
        required_files: file fields that its POST requires.
        examples: examples of its form, by title.
        demo: the form and the files (names of sample photos) of the demo's job.
        anew: what a job that names a finished one (`from`) may choose anew, see `mead.resuming`; all else is
            as it was. Empty if its jobs cannot go on.
        finder: a function that loads with a weights set what finds the faces of an RGB photo, as its jobs
            would, "package.module.name"; "" if it looks for no faces.
    """

    type: str
    name: str
    route: str
    summary: str
    params: ParamsClass
    hyperparameters: Class
    networks: tuple[NetworkSpec, ...]
    module: str
    own_extent: Callable[[WeightSet], Extent]
    form: PageForm
    command: str = ""
    about: str = ""
    required_files: tuple[str, ...] = ()
    examples: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    demo: tuple[Mapping[str, str], Mapping[str, str]] | None = None
    anew: tuple[str, ...] = ()
    finder: str = ""

    @property
    def goes_on(self) -> bool:
        """Whether its jobs can go on with further steps."""
        return "iterations" in self.anew

    @property
    def command_name(self) -> str:
        """The name of its command, and of its method in the Python client."""
        return self.command or self.route

    @property
    def queue_setting(self) -> str:
        """The setting for the name of its queue, and the default name."""
        return f"{self.name.lower()}_queue"

    @property
    def threads_setting(self) -> str:
        """The setting for the size of its batches."""
        return f"{self.name.lower()}_threads"

    @property
    def output_path(self) -> str:
        """The folder for pictures made without a server."""
        return f"{self.name.lower()}_out"

    @property
    def required_networks(self) -> frozenset[str]:
        """The names of the networks that it requires of a weights set."""
        return frozenset(network.name for network in self.networks if not network.optional)

    def load_pipeline(self, weights: str, device: str) -> Any:
        """Its `mead.revision.Pipeline`, loaded once per process.

        Raises:
            WeightsError: a file is missing or incomplete.
        """
        return load_object(f"{self.module}.load_pipeline")(weights, device)

    def trial(self, weights: str, device: str) -> float:
        """The loss of one step with a weights set."""
        loss: float = load_object(f"{self.module}.trial")(self.load_pipeline(weights, device))
        return loss

    def load_finder(self, weights: str) -> Any:
        """What finds the faces of an RGB picture with a weights set, a function.

        Raises:
            WeightsError: a file is missing or incomplete.
        """
        return load_object(self.finder)(weights)

    def load_class(self) -> Any:
        """Its Python class."""
        return load_object(f"{self.module}.{self.name}")


def load_object(path: str) -> Any:
    """Import the object "package.module.name"."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


CLIP = NetworkSpec(
    "clip",
    "mead.nn.perceptor.Perceptor",
    hyperparameters=("input_size", "context_length", "embed_dim"),
    several=True,
)
"""CLIP, which all models share."""
UPSCALER = NetworkSpec(
    "upscaler",
    "mead.nn.upscaler.SRVGGNetCompact",
    hyperparameters=("num_feat", "num_conv", "scale"),
    optional=True,
)
"""What enlarges finished pictures, which models may share."""
