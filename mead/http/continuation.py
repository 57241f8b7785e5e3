"""Forms that go on with a job that has succeeded: `from` names it, and all that is not sent is as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Request
from pydantic import BaseModel, ConfigDict, Field

from mead.http.errors import ApiError, input_error
from mead.http.forms import Form, fingerprint_of, read_texts
from mead.http.services import Services
from mead.http.uploads import PendingUploads
from mead.limits import check_limits, extent
from mead.model_spec import ModelSpec
from mead.params import JobParams, ParamsError, check
from mead.provenance import Weights
from mead.queue.job import Job
from mead.resuming import FIELD, origin_of
from mead.webhooks.form import WebhookForm

CHANGEABLE = ("iterations", "upscale", "frames")
"""What may be sent beside `from`."""
ALLOWED = f"{', '.join(CHANGEABLE[:-1])} and {CHANGEABLE[-1]}"
FIXED = f"is as it was in the job to go on with; only {ALLOWED} can change"
LATENTS = "latents"  # the field under whose name a job's copy of the latents is stored


class ContinuationForm(BaseModel):
    """What `/openapi.json` says about the field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(
        alias=FIELD,
        pattern="^[0-9a-f]{32}$",
        description="The id of a job that has succeeded, to go on with: `iterations` are further steps. Only "
        f"{ALLOWED} can change; everything else is as it was and need not be sent, not even `prompt`.",
    )


def goes_on(request: Request, spec: ModelSpec) -> bool:
    """Whether a request goes on with another job."""
    return spec.goes_on and FIELD in request.form


def read(request: Request, spec: ModelSpec, uploads: PendingUploads, services: Services) -> Form[JobParams]:
    """Check a form, and store copies of the job's latents and pictures as `uploads`.

    Raises:
        ApiError: 400 a field is malformed or unknown; 404 there is no such job; 409 it cannot go on; 422 a
            value is out of range, or cannot be changed.
        OSError: something cannot be stored.
    """
    job = services.find_job(request.form[FIELD], FIELD)
    for field in request.files:
        if f"{field}_path" in spec.params.model_fields:
            raise ApiError(422, f"{field}: {FIXED}", field)
    sent = read_texts(request, {FIELD, *spec.params.model_fields, *WebhookForm.model_fields})
    texts = {name: text for name, text in sent.items() if name not in WebhookForm.model_fields}
    if job.type != spec.type:
        raise ApiError(422, f"{FIELD}: job {job.id} was not made by {spec.name}", FIELD)
    if job.status != "succeeded":
        raise ApiError(409, f"{FIELD}: job {job.id} cannot go on: it is {job.status}", FIELD, job.id)
    pictures = {name: value for name, value in job.parameters.items() if name.endswith("_path")}
    paths = {name: uploads.path(name.removesuffix("_path")) for name in pictures}
    try:
        receiver = services.forms.receiver(sent)
        params = _longer(job, spec, {**job.parameters, **paths}, texts, services)
        latents = services.storage.read_latents(job)
        origin_of(latents).check_weights(Weights.of(services.settings.weights))
        uploads.copy(LATENTS, latents)
        for name, value in pictures.items():
            uploads.copy(name.removesuffix("_path"), services.storage.read_upload(job, value))
    except ParamsError as error:
        conflict = error.field == FIELD
        raise (ApiError(409, str(error), FIELD, job.id) if conflict else input_error(error)) from error
    except FileNotFoundError:
        kept = f"{services.settings.latents_ttl} seconds after its end (LATENTS_TTL)"
        why = f"{FIELD}: job {job.id} cannot go on any more: its latents were kept for {kept}"
        raise ApiError(409, why, FIELD, job.id) from None
    also = {"continues": job.id, "latents": uploads.path(LATENTS).name, **receiver}
    return Form(params, fingerprint_of(request.path, sent, {}), also)


def _longer(
    job: Job, spec: ModelSpec, before: Mapping[str, Any], texts: Mapping[str, str], services: Services
) -> JobParams:
    """The parameters of a job that makes the steps of another one and further ones.

    Args:
        before: the other one's parameters.
        texts: the form.

    Raises:
        ParamsError: naming the field at fault.
    """
    before = {name: value for name, value in before.items() if name != "iterations"}
    given = {**before, **{name: value for name, value in texts.items() if name != FIELD}}
    was, asked = check(spec.params, before), check(spec.params, given)
    for name in texts.keys() - {FIELD, *CHANGEABLE}:
        if getattr(asked, name) != getattr(was, name):
            raise ParamsError(name, FIXED, out_of_range=True)
    further = extent(asked, services.settings.weights).steps
    total = job.steps + further
    try:
        params = check(spec.params, {**given, "iterations": total})
        check_limits(params, services.settings)
    except ParamsError as error:
        if error.field != "iterations":
            raise
        why = str(error).removeprefix("iterations: ")
        message = f"{job.steps} steps and {further} further ones are {total}, {why}"
        raise ParamsError("iterations", message, error.out_of_range) from None
    return params
