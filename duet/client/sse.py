"""Server-sent events (the event stream format of the HTML standard), piece by piece as they arrive."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from duet.client.errors import DuetError

_LINE_END = re.compile(r"\r\n|\n|\r")

ENDS = ("completed", "failed", "canceled", "gone")
"""Events after which a job's stream has no more."""


@dataclass(frozen=True)
class Event:
    """One event of a job: its name, the data that came with it, and the id to go on from."""

    name: str
    data: dict[str, Any]
    id: str = ""

    @property
    def last(self) -> bool:
        """Whether the stream ends with it."""
        return self.name in ENDS


class EventParser:
    """Takes a stream apart. `last_id` is where to go on when it breaks; `retry` after how many seconds, None where the
    server has not said."""

    def __init__(self) -> None:
        self.last_id = ""
        self.retry: float | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest = ""
        self._name = ""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that are whole with this piece. Raises DuetError for data that is no JSON object."""
        text = self._rest + self._decoder.decode(piece)
        held = "\r" if text.endswith("\r") else ""  # perhaps half of a line's end
        *lines, self._rest = _LINE_END.split(text.removesuffix(held))
        self._rest += held
        for line in lines:
            if line:
                self._field(line)
            elif event := self._event():
                yield event

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._name = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\0" not in value:
            self.last_id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = int(value) / 1000

    def _event(self) -> Event | None:
        name, data = self._name or "message", "\n".join(self._data)
        self._name, self._data = "", []
        if not data and name not in ENDS:
            return None
        try:
            found = json.loads(data or "{}")
        except ValueError as error:
            raise DuetError(f"the event {name} does not hold JSON: {data[:80]!r}") from error
        if not isinstance(found, dict):
            raise DuetError(f"the event {name} does not hold a JSON object: {data[:80]!r}")
        return Event(name, found, self.last_id)
