"""The parameter `webhook`: the URL that receives a message when the job has ended."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from service.api.problems import FieldError, Problem
from service.api.services import Services
from service.jobs.record import Status, Webhook
from service.webhooks.ssrf import LONGEST_URL, TargetRefused, check_target, plain_url

ENDS = tuple(status.value for status in Status if status.ended)

URL_ALLOWED = (
    f"an http:// or https:// URL of at most {LONGEST_URL} characters, without user name, password and fragment"
)
ALLOWED = {
    "webhook": 'an object such as {"url": "https://example.com/hook", "events": ["completed", "failed"]}',
    "webhook.url": URL_ALLOWED,
    "webhook.events": f"a list of at least one of {', '.join(ENDS)}",
}
"""Allowed values of each field, for error messages."""

_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["url"],
    "properties": {
        "url": {
            "type": "string",
            "format": "uri",
            "maxLength": LONGEST_URL,
            "description": URL_ALLOWED,
            "examples": ["https://example.com/hook"],
        },
        "events": {
            "type": "array",
            "items": {"type": "string", "enum": list(ENDS)},
            "minItems": 1,
            "default": list(ENDS),
            "description": "events to report; all by default",
        },
    },
}
"""Inlined, because references would not resolve where the schemas of parameters are embedded."""


def _plain(url: str) -> str:
    try:
        return plain_url(url)
    except TargetRefused as error:
        raise ValueError(str(error)) from error


def _known(events: list[str]) -> list[str]:
    """The events in the order of ENDS, without duplicates. Raises ValueError for unknown events or an empty list."""
    if not events or not set(events) <= set(ENDS):
        raise ValueError(ALLOWED["webhook.events"])
    return [event for event in ENDS if event in events]


class WebhookParameters(BaseModel):
    """The parameter as sent by the client."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Annotated[str, AfterValidator(_plain)]
    events: Annotated[list[str], AfterValidator(_known)] = Field(default_factory=lambda: list(ENDS))


WebhookParameter = Annotated[WebhookParameters | None, WithJsonSchema({"anyOf": [_SCHEMA, {"type": "null"}]})]
"""Type of the field in a route's parameters."""


async def checked_webhook(asked: WebhookParameters | None, services: Services) -> Webhook | None:
    """The webhook as recorded. Looks up the host for a few seconds at most.

    Raises Problem 422 if nothing would ever be sent there.
    """
    if asked is None:
        return None
    try:
        check = partial(check_target, asked.url, services.settings.webhook_allow_private)
        await to_thread.run_sync(check, limiter=services.threads.lookups)
    except TargetRefused as error:
        wrong = FieldError("webhook.url", asked.url, f"{URL_ALLOWED}, on a public address")
        raise Problem(422, "invalid_parameter", f"The webhook cannot be sent: {error}.", [wrong]) from error
    return Webhook(asked.url, tuple(asked.events))
