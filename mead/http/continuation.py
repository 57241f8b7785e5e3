"""Forms that go on with a job that has succeeded: `from` names it, and all that is not sent is as it was."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from flask import Request

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

LATENTS = "latents"  # the field under whose name a job's copy of the latents is stored


def about(spec: ModelSpec) -> str:
    """What `/openapi.json` says about the field; "" if a model's jobs cannot go on."""
    if not spec.anew:
        return ""
    further = "to go on with: `iterations` are further steps"
    purpose = further if spec.goes_on else "to show its edit anew, without computing it again"
    others = " and ".join(f"`{field}`" for field in spec.required_files) or "`prompt`"
    return (
        f"The id of a job that has succeeded, {purpose}. Only {_listed(spec.anew)} can change; everything "
        f"else is as it was and need not be sent, not even {others}."
    )


def goes_on(request: Request, spec: ModelSpec) -> bool:
    """Whether a request goes on with another job."""
    return bool(spec.anew) and FIELD in request.form


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
            raise ApiError(422, f"{field}: {_fixed(spec)}", field)
    sent = read_texts(request, {FIELD, *spec.params.model_fields, *WebhookForm.model_fields})
    texts = {name: text for name, text in sent.items() if name not in {FIELD, *WebhookForm.model_fields}}
    if job.type != spec.type:
        raise ApiError(422, f"{FIELD}: job {job.id} was not made by {spec.name}", FIELD)
    if job.status != "succeeded":
        raise ApiError(409, f"{FIELD}: job {job.id} cannot go on: it is {job.status}", FIELD, job.id)
    settings = services.settings
    over = datetime.now(timezone.utc) - timedelta(seconds=settings.latents_ttl)
    if job.finished_at is not None and job.finished_at < over:
        raise _too_late(job, settings.latents_ttl)
    pictures = {name: value for name, value in job.parameters.items() if name.endswith("_path")}
    paths = {name: uploads.path(name.removesuffix("_path")) for name in pictures}
    try:
        receiver = services.forms.receiver(sent)
        changed = _longer if spec.goes_on else _anew
        params = changed(job, spec, {**job.parameters, **paths}, texts, services)
        latents = services.storage.read_latents(job)
        origin_of(latents).check_weights(Weights.of(services.settings.weights))
        uploads.add(LATENTS, latents)
        for name, value in pictures.items():
            uploads.copy(name.removesuffix("_path"), job, value)
    except ParamsError as error:
        conflict = error.field == FIELD
        raise (ApiError(409, str(error), FIELD, job.id) if conflict else input_error(error)) from error
    except FileNotFoundError:
        raise _too_late(job, settings.latents_ttl) from None
    also = {"continues": job.id, "latents": uploads.path(LATENTS).name, **receiver}
    return Form(params, fingerprint_of(request.path, sent, {}), also)


def _too_late(job: Job, seconds: int) -> ApiError:
    kept = (
        f"for {seconds} seconds after its end (LATENTS_TTL)" if seconds != 1 else "for a second (LATENTS_TTL)"
    )
    why = f"{FIELD}: job {job.id} cannot go on any more: its latents were kept {kept}"
    return ApiError(409, why, FIELD, job.id)


def _anew(
    job: Job, spec: ModelSpec, before: Mapping[str, Any], texts: Mapping[str, str], services: Services
) -> JobParams:
    """The parameters of a job that shows anew what another one has made. Raises as `_longer`."""
    before = {name: value for name, value in before.items() if name != "frames"}  # there is no way to show
    params = _changed(spec, before, texts)
    check_limits(params, services.settings)
    return params


def _longer(
    job: Job, spec: ModelSpec, before: Mapping[str, Any], texts: Mapping[str, str], services: Services
) -> JobParams:
    """The parameters of a job that makes the steps of another one and further ones.

    Args:
        before: the other one's parameters.
        texts: those of the form.

    Raises:
        ParamsError: naming the field at fault.
    """
    before = {name: value for name, value in before.items() if name != "iterations"}
    further = extent(_changed(spec, before, texts), services.settings.weights).steps
    total = job.steps + further
    try:
        given = {**before, **texts, "iterations": total}
        given.pop("patience", None)  # all of the further steps are taken
        params = check(spec.params, given)
        check_limits(params, services.settings)
    except ParamsError as error:
        if error.field != "iterations":
            raise
        why = str(error).removeprefix("iterations: ")
        message = f"{job.steps} steps and {further} further ones are {total}, {why}"
        raise ParamsError("iterations", message, error.out_of_range) from None
    return params


def _changed(spec: ModelSpec, before: Mapping[str, Any], texts: Mapping[str, str]) -> JobParams:
    """A job's parameters with what may be chosen anew. Raises as `_longer`."""
    was, asked = check(spec.params, before), check(spec.params, {**before, **texts})
    for name in texts.keys() - set(spec.anew):
        if getattr(asked, name) != getattr(was, name):
            raise ParamsError(name, _fixed(spec), out_of_range=True)
    return asked


def _fixed(spec: ModelSpec) -> str:
    return f"cannot change as a job goes on; only {_listed(spec.anew)} can"


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"
