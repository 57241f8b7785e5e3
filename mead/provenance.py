"""How a picture was made: two text chunks that its PNG carries.

`parameters` is for people, and for the tools that show it; `mead` is JSON, from which the picture can be made
again. Neither has a time, path, key or id, so the same job gives the same file.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from mead.installation import version
from mead.params import JobParams
from mead.weights.sets import WeightSet

PARAMETERS, MEAD = "parameters", "mead"


class Weights(BaseModel):
    """A weights set, as it was.

    Attributes:
        sha256: of each network's file.
    """

    name: str
    sha256: Mapping[str, str | None]

    @classmethod
    def of(cls, name: str) -> Weights:
        """A set as it is here.

        Raises:
            WeightsError: there is none of that name.
        """
        files = WeightSet.find(name).files
        return cls(name=name, sha256={network: files[network].sha256 for network in sorted(files)})

    @property
    def digest(self) -> str:
        """Tells sets apart that have other files, in 16 hex digits; "" if a file has not been checked."""
        if None in self.sha256.values():
            return ""
        return hashlib.sha256(json.dumps(self.sha256, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def recorded_weights(name: str) -> Mapping[str, str]:
    """A set as a job's record has it, as it was when this process first asked: its name and digest.

    Raises:
        WeightsError: there is no such set.
    """
    return {"weights": name, "weights_digest": Weights.of(name).digest}


class Provenance(BaseModel):
    """How a picture was made.

    Attributes:
        model: the name of the model's class.
        parameters: all that had a value, as they are written in JSON; pictures excepted, and what does not
            change the picture.
        pictures: the form fields of the pictures that were given.
        steps: that were made.
        further: how many of them a job made that went on after its last step, on a way that depends on the
            number of steps; 0 if a job that asks for all of them makes the same.
        weights: the set that was used.
        version: of this project.
    """

    model: str
    parameters: Mapping[str, str | int | float]
    pictures: Sequence[str] = ()
    steps: int
    further: int = Field(0, exclude_if=lambda further: further == 0)
    weights: Weights
    version: str = Field(default_factory=version)

    @classmethod
    def of(cls, model: str, params: JobParams, steps: int, weights: str, further: int = 0) -> Provenance:
        """That of a job's picture.

        Args:
            steps, further: as the attributes.

        Raises:
            WeightsError: there is no such weights set.
        """
        pictures = list(params.pictures())
        given = params.model_dump(
            mode="json", exclude_none=True, exclude={"n", "frames", *(f"{field}_path" for field in pictures)}
        )
        if further:
            given["iterations"] = steps - further
        return cls(
            model=model,
            parameters=given,
            pictures=pictures,
            steps=steps,
            further=further,
            weights=Weights.of(weights),
        )

    def chunks(self) -> dict[str, str]:
        """The text chunks of the picture's PNG, by keyword."""
        return {PARAMETERS: self._text(), MEAD: json.dumps(self.model_dump(mode="json"))}

    def _text(self) -> str:
        """As AUTOMATIC1111's web UI writes it: the prompt, and a line of what else there is to say."""
        told: dict[str, Any] = {"Steps": self.steps, "Seed": self.parameters.get("seed")}
        told |= {"Further steps": self.further} if self.further else {}
        told |= {"Model": self.model, "Weights": self.weights.name}
        told |= {name: value for name, value in self.parameters.items() if name not in ("prompt", "seed")}
        told |= {"pictures": " ".join(self.pictures)} if self.pictures else {}
        told["Version"] = f"mead {self.version}"
        line = ", ".join(f"{name}: {_quoted(str(value))}" for name, value in told.items())
        return f"{self.parameters.get('prompt', '')}\n{line}"


def chunks_of(params: JobParams, steps: int, model: str, weights: str, further: int = 0) -> dict[str, str]:
    """The text chunks of a job's picture, see `Provenance.of`."""
    return Provenance.of(model, params, steps, weights, further).chunks()


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False) if any(sign in value for sign in ',:\n"') else value
