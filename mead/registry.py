"""The models of the service. This is the only module of mead/ that names them; all others loop over MODELS.

A new model needs a folder with a `spec.py`, and one line here.
"""

from __future__ import annotations

from LatentRevisions.spec import SPEC as LATENT_REVISIONS
from mead.model_spec import ModelSpec, NetworkSpec
from mead.params import JobParams
from StyleCLIP.spec import SPEC as STYLECLIP

MODELS: dict[str, ModelSpec] = {spec.type: spec for spec in (LATENT_REVISIONS, STYLECLIP)}
"""The models, by the `type` of their jobs."""


def networks() -> dict[str, NetworkSpec]:
    """The networks of all models, by name; models may share networks."""
    return {network.name: network for spec in MODELS.values() for network in spec.networks}


def network(name: str) -> NetworkSpec:
    """The description of a network of a weights set, such as "vqgan", "clip-rn50" or "mapper_beard".

    Raises:
        KeyError: there is none.
    """
    for spec in networks().values():
        if spec.is_of(name):
            return spec
    raise KeyError(name)


def spec_of(params: type[JobParams]) -> ModelSpec:
    """The model of a parameters class.

    Raises:
        KeyError: there is none.
    """
    for spec in MODELS.values():
        if issubclass(params, spec.params):
            return spec
    raise KeyError(params.__name__)
