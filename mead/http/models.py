"""What the service can make, and what it would note on a form before a job is made of it."""

from __future__ import annotations

from collections.abc import Callable

from flask import Blueprint, Response, request

from mead.http.description import Description, describe
from mead.http.fields import refuse_fields
from mead.http.form_schema import form_schema, weight_set
from mead.http.forms import read_params
from mead.http.responses import json_response
from mead.http.schemas import FormNotes, ModelDescription, Models, NumberRange
from mead.model_spec import ModelSpec
from mead.registry import MODELS
from mead.settings import Settings
from mead.weights.notes import notes_on
from mead.weights.texts import most_tokens, token_counts


def blueprint(settings: Settings, *, files_required: bool = True) -> Blueprint:
    """GET /models, and the notes of each model.

    Args:
        files_required: whether the models require the files that their specs say.
    """
    routes = Blueprint("models", __name__)

    @routes.get("/models")
    @describe(Description({200: [Models]}, errors=(400,)))
    def models() -> Response:
        """What this service can make: its models with their parameters, and what the weights can draw."""
        refuse_fields(request)
        return json_response(models_of(settings, files_required=files_required))

    for spec in MODELS.values():
        path = f"/{spec.route}/notes"
        routes.add_url_rule(path, f"{spec.route}_notes", _notes_view(spec, settings), methods=["POST"])
    return routes


def models_of(settings: Settings, *, files_required: bool = True) -> Models:
    """The models, with the settings' weights set and limits.

    Args:
        files_required: as for `blueprint`.

    Raises:
        WeightsError: there is no such weights set.
    """
    weights = weight_set(settings.weights)
    return Models(
        weights=weights.name,
        description=weights.description,
        draws=weights.draws,
        models=[_described(spec, settings, files_required) for spec in MODELS.values()],
    )


def _described(spec: ModelSpec, settings: Settings, files_required: bool) -> ModelDescription:
    form = form_schema(spec.params, spec.required_files if files_required else (), settings)
    return ModelDescription(
        type=spec.type,
        name=spec.name,
        route=f"/{spec.route}",
        command=spec.command_name,
        summary=spec.summary,
        parameters=form["properties"],
        required=form["required"],
        examples=list(weight_set(settings.weights).examples.get(spec.name, ())),
        choices={
            field: {
                name: None if allowed is None else NumberRange(minimum=allowed.least, maximum=allowed.most)
                for name, allowed in names.items()
            }
            for field, names in spec.params.offered(weight_set(settings.weights)).items()
        },
    )


def _notes_view(spec: ModelSpec, settings: Settings) -> Callable[[], Response]:
    def view() -> Response:
        params = read_params(request, spec.params, settings)
        return json_response(
            FormNotes(
                notes=list(notes_on(params, settings.weights)),
                tokens=token_counts(params),
                most_tokens=most_tokens(settings.weights),
            )
        )

    view.__doc__ = f"""What would be noted on a job of {spec.name} with this form.

    Makes no job. Pictures are not looked at: an empty file in place of each will do.
    """
    errors = (400, 403, 413, 415, 422)
    return describe(Description({200: [FormNotes]}, errors, spec.params, tag="pictures"))(view)
