"""What `/openapi.json` says about a route beyond what its models say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

from pydantic import BaseModel

from mead.job_record import Answer

Route = TypeVar("Route", bound=Callable[..., Any])
Content: TypeAlias = "type[Answer] | str"
"""The content of an answer: a JSON object, or a media type."""


@dataclass(frozen=True)
class Description:
    """The description of a route.

    Attributes:
        answers: the contents of successful answers, by status; several if the request chooses.
        errors: the statuses of its errors.
        form: the model that checks its form.
        further: a model of further fields of its form.
        query: the model that checks its query string.
        required_files: files that the form must have, beyond the model's own required fields.
        headers: the request headers that it uses, from `openapi_texts.PARAMETERS`.
        continues: what a job is for that the form may name instead (`from`); "" if it may not.
        examples: examples of the form, by title.
        tag: its tag, from `openapi_texts.TAGS`.
    """

    answers: Mapping[int, Sequence[Content]]
    errors: Sequence[int] = ()
    form: type[BaseModel] | None = None
    further: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    required_files: Sequence[str] = ()
    headers: Sequence[str] = ()
    continues: str = ""
    examples: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tag: str = "service"


def describe(description: Description) -> Callable[[Route], Route]:
    """Attach a description to a view. The view's docstring is the text of the operation."""

    def attach(view: Route) -> Route:
        view.description = description  # type: ignore[attr-defined]
        return view

    return attach
