"""The form fields with which a client asks for webhooks."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)

from mead.params import ParamsError
from mead.queue.outbox import EVENTS, Event
from mead.receivers import LONGEST_URL, NOT_PUBLIC, AllowedReceivers, check_url

EXAMPLE = "https://example.com/hook"


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


_ONE = "|".join(EVENTS)
EventsFilter = Annotated[
    tuple[Event, ...],
    BeforeValidator(_split),
    Field(min_length=1),
    WithJsonSchema(
        {"type": "string", "pattern": f"^({_ONE})(,({_ONE}))*$", "examples": ["start,completed"]},
    ),
]


class WebhookForm(BaseModel):
    """Where a client wants to be told of its job, and of what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    webhook: Annotated[str, AfterValidator(check_url)] | None = Field(
        None,
        description="A URL that gets a POST with the job's record once the job has ended.",
        json_schema_extra={"format": "uri", "maxLength": LONGEST_URL, "examples": [EXAMPLE]},
    )
    webhook_events_filter: EventsFilter | None = Field(
        None,
        description="What it is told of, separated by commas: `start`, `output` (steps were done), "
        "`completed`; only of the end when left out.",
    )

    @model_validator(mode="after")
    def _has_receiver(self) -> WebhookForm:
        if self.webhook is None and self.webhook_events_filter is not None:
            raise ValueError("webhook_events_filter: there is no webhook to be told")
        return self

    def check_receiver(self, allowed: AllowedReceivers) -> None:
        """Refuse a URL with an address that would be refused when it is connected to.

        Raises:
            ParamsError
        """
        if self.webhook is not None and allowed.refuses(self.webhook):
            raise ParamsError("webhook", NOT_PUBLIC, out_of_range=True)

    def recorded(self) -> dict[str, str]:
        """What a job's record holds of it."""
        if self.webhook is None:
            return {}
        events = dict.fromkeys(self.webhook_events_filter or ("completed",))
        return {"webhook": self.webhook, "webhook_events_filter": ",".join(events)}
