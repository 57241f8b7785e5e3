"""The kinds of jobs: what a record's `type` stands for. Nothing here knows the networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from LatentRevisions.params import LatentRevisionsParams
from mead.params import JobParams
from StyleCLIP.params import StyleCLIPParams


@dataclass(frozen=True)
class Kind:
    """A kind of job.

    Attributes:
        name: the `type` of its records.
        params: the model that reads its parameters.
        must: pictures it cannot do without.
        examples: whole forms, each with what it shows.
    """

    name: str
    params: type[JobParams]
    must: tuple[str, ...]
    examples: Mapping[str, Mapping[str, object]]


LATENT_REVISION = Kind(
    "lr",
    LatentRevisionsParams,
    must=(),
    examples={
        "words": {"prompt": "a boat on the sea at sunset"},
        "a second text": {"prompt": "a queen", "w0": 5, "text_to_add": "purple eyes", "w1": 2, "seed": 7},
        "another size": {"prompt": "a red house under the moon", "size": "128x96", "iterations": 60},
    },
)
STYLECLIP = Kind(
    "sc",
    StyleCLIPParams,
    must=("img",),
    examples={"words for a face": {"prompt": "A girl with purple eyes", "iterations": 50}},
)
KINDS = {kind.name: kind for kind in (LATENT_REVISION, STYLECLIP)}
