"""The events of a job, read from a stream of server-sent events."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx
from httpx_sse import EventSource, ServerSentEvent

from duet.client.errors import DuetError

ENDS = ("completed", "failed", "canceled", "gone")
"""A job's stream ends with one of these events."""


@dataclass(frozen=True)
class Event:
    """One event of a job: its name, its data, and the id to resume after."""

    name: str
    data: dict[str, Any]
    id: str = ""

    @property
    def last(self) -> bool:
        """Whether the stream ends with this event."""
        return self.name in ENDS


def source(response: httpx.Response) -> EventSource:
    """The server-sent events of an open response. They are UTF-8, whatever charset its header claims."""
    response.encoding = "utf-8-sig"
    return EventSource(response)


def read(message: ServerSentEvent) -> Event | None:
    """The job's event in `message`; None if there is none, as in a heartbeat or a `retry` field.

    Raises DuetError for data that is not a JSON object.
    """
    name, data = message.event, message.data
    if not data and name not in ENDS:
        return None
    try:
        found = json.loads(data or "{}")
    except ValueError as error:
        raise DuetError(f"the event {name!r} is not JSON: {data[:80]!r}") from error
    if not isinstance(found, dict):
        raise DuetError(f"the event {name!r} is not a JSON object: {data[:80]!r}")
    return Event(name, found, message.id)
