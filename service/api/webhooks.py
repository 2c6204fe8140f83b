"""The parameter `webhook`: where the owner of a job wants to hear of its end."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from service.api.problems import FieldError, Problem
from service.jobs.record import Status, Webhook
from service.settings import Settings
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
"""What each part takes, in words."""

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
            "description": "of which ends to hear; all where absent",
        },
    },
}
"""In one piece: where the schemas of parameters are put, references would point to nothing."""


def _plain(url: str) -> str:
    try:
        return plain_url(url)
    except TargetRefused as error:
        raise ValueError(str(error)) from error


def _known(events: list[str]) -> list[str]:
    """In the order of ENDS, each once. Raises ValueError for others, or for none."""
    if not events or not set(events) <= set(ENDS):
        raise ValueError(ALLOWED["webhook.events"])
    return [event for event in ENDS if event in events]


class WebhookParameters(BaseModel):
    """As the client gives it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    url: Annotated[str, AfterValidator(_plain)]
    events: Annotated[list[str], AfterValidator(_known)] = Field(default_factory=lambda: list(ENDS))


WebhookParameter = Annotated[WebhookParameters | None, WithJsonSchema({"anyOf": [_SCHEMA, {"type": "null"}]})]
"""A field of a route's parameters."""


def accepted(asked: WebhookParameters | None, settings: Settings) -> Webhook | None:
    """What the record keeps. Blocks for as long as it takes to look up the host, some seconds at most.

    Raises Problem 422 if nothing would be sent there.
    """
    if asked is None:
        return None
    try:
        check_target(asked.url, settings.webhook_allow_private)
    except TargetRefused as error:
        wrong = FieldError("webhook.url", asked.url, f"{URL_ALLOWED}, on a public address")
        raise Problem(422, "invalid_parameter", f"No webhook can be sent there: {error}.", [wrong]) from error
    return Webhook(asked.url, tuple(asked.events))
