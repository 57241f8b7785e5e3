"""What the service knows of a model: everything that HTTP, the inference server, the command line, the page
and the weights need to offer it. A model's folder has its own in `spec.py`; `mead.registry` lists them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from mead.params import JobParams

if TYPE_CHECKING:  # a weights set is only handed on
    from mead.weights.sets import WeightSet


ParamsClass: TypeAlias = type[JobParams]
Class: TypeAlias = type[Any]


@dataclass(frozen=True)
class Extent:
    """How much a job computes: so many steps, each on a picture of width x height pixels and its cutouts."""

    width: int
    height: int
    cutouts: int
    steps: int


@dataclass(frozen=True)
class NetworkSpec:
    """A network of a weights set.

    Attributes:
        name: in the set, as in "vqgan".
        loads: the class it is loaded as, "package.module.Class"; imported when it is needed.
        hyperparameters: attributes of that class that describe the network, beside the shapes of its tensors.
        optional: whether the model works without it.
        trained_with: networks it only works beside if they are the very ones it was trained with.
        extra: tensors of its file that are not the network's own: by name, the attributes of the class that
            give their shape.
    """

    name: str
    loads: str
    hyperparameters: tuple[str, ...] = ()
    optional: bool = False
    trained_with: frozenset[str] = frozenset()
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def load_class(self) -> Any:
        """The class; imports its module, and PyTorch with it."""
        return load_object(self.loads)


@dataclass(frozen=True)
class FormField:
    """A field of the page's form; what else there is to say of it comes from the model's parameters.

    Attributes:
        name: of the field, as in HTTP.
        label: what stands above it.
        about: in place of the parameter's own description.
        weight_of: the field whose weight this is.
        first_weight: the weight it gets once that field is filled in.
    """

    name: str
    label: str
    about: str = ""
    weight_of: str = ""
    first_weight: str = ""


@dataclass(frozen=True)
class PageForm:
    """A model's form on the page. Parameters that no section names follow under "More".

    Attributes:
        title: of its tab.
        submit: text of its button.
        sections: fields by legend.
        reuse: text of the button that takes a finished picture as this form's `img`; "" for none.
    """

    title: str
    submit: str
    sections: Mapping[str, tuple[FormField, ...]]
    reuse: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """A model of the service.

    Attributes:
        type: the `type` of its jobs' records.
        name: of its Python class, of its section in manifests and, in capitals, of its settings.
        route: of the POST, and the name of its command.
        summary: what it does, in a sentence.
        about: more of it, for the API's description.
        params: the model that checks its parameters.
        hyperparameters: the dataclass of what a weights set may say of it, with the published values.
        networks: what it loads of a weights set.
        module: has the class `name`, `load_pipeline(weights, device)` and `trial(pipeline)`, which makes a
            first step and returns its loss; imported when it is needed, and PyTorch with it.
        own_extent: how much a job computes that leaves everything to the weights set.
        form: of the page.
        required_files: pictures that the service cannot do without.
        examples: whole forms, each by what it shows.
        demo: the form and the files (names of sample photos) of the demonstration's job.
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
    about: str = ""
    required_files: tuple[str, ...] = ()
    examples: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    demo: tuple[Mapping[str, str], Mapping[str, str]] | None = None

    @property
    def queue_setting(self) -> str:
        """The setting that names its queue, and that queue's name by default."""
        return f"{self.name.lower()}_queue"

    @property
    def threads_setting(self) -> str:
        """The setting that says how many of its jobs run in one batch."""
        return f"{self.name.lower()}_threads"

    @property
    def output_path(self) -> str:
        """The folder of pictures made without a server."""
        return f"{self.name.lower()}_out"

    @property
    def required_networks(self) -> frozenset[str]:
        """Names of the networks that a weights set must have for it."""
        return frozenset(network.name for network in self.networks if not network.optional)

    def load_pipeline(self, weights: str, device: str) -> Any:
        """Its `mead.revision.Pipeline`, loaded once a process.

        Raises:
            WeightsError: naming the file that is missing or not whole.
        """
        return load_object(f"{self.module}.load_pipeline")(weights, device)

    def trial(self, weights: str, device: str) -> float:
        """The loss of a first step with a weights set."""
        loss: float = load_object(f"{self.module}.trial")(self.load_pipeline(weights, device))
        return loss

    def load_class(self) -> Any:
        """Its Python class."""
        return load_object(f"{self.module}.{self.name}")


def load_object(path: str) -> Any:
    """What "package.module.name" names."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


CLIP = NetworkSpec(
    "clip", "mead.nn.perceptor.Perceptor", hyperparameters=("input_size", "context_length", "embed_dim")
)
"""The network that all models share."""
