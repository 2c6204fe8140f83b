"""A reader of server-sent events, as the HTML standard defines it."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Sent:
    """One event: `data` read as JSON."""

    id: str
    kind: str
    data: Any


class Stream:
    """An open stream of events, read in a thread, until it ends or is closed."""

    def __init__(self, client: httpx.Client, job: str, last: str | None = None) -> None:
        """`job`: the path of the job; `last`: the id of the last event that was seen."""
        headers = {} if last is None else {"Last-Event-ID": last}
        self._context = client.stream("GET", f"{job}/events", headers=headers, timeout=60)
        self.response = self._context.__enter__()
        self.comments = 0
        self.retry: int | None = None
        self._events: queue.Queue[Sent | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def next(self, kind: str | None = None, seconds: float = 10) -> Sent:
        """The next event, or the next of this `kind`. Fails if the stream ends before."""
        while True:
            event = self._events.get(timeout=seconds)
            assert event is not None, f"the stream ended without {kind or 'another event'}"
            if kind in (None, event.kind):
                return event

    def rest(self, seconds: float = 10) -> list[Sent]:
        """All events until the stream ends."""
        events = []
        while event := self._events.get(timeout=seconds):
            events.append(event)
        return events

    def nothing(self, seconds: float) -> None:
        """Fail if an event arrives or the stream ends within this time."""
        try:
            event = self._events.get(timeout=seconds)
        except queue.Empty:
            return
        raise AssertionError(f"nothing was to come, and there was {event}")

    def close(self) -> None:
        """Disconnect, like a page that is closed."""
        with contextlib.suppress(OSError):  # the stream has ended
            # Closed while the thread reads from it, the socket would stay open.
            self.response.extensions["network_stream"].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._reader.join(10)
        self._context.__exit__(None, None, None)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            for line in self.response.iter_lines():
                if line.startswith(":"):
                    self.comments += 1
                elif line:
                    name, _, value = line.partition(": ")
                    assert name not in fields, "one line each"
                    fields[name] = value
                elif fields:
                    if "retry" in fields:
                        self.retry = int(fields.pop("retry"))
                    if fields:
                        self._events.put(Sent(fields["id"], fields["event"], json.loads(fields["data"])))
                    fields = {}
        except (httpx.HTTPError, httpx.StreamError, OSError):  # closed from here, or the server is gone
            pass
        finally:
            self._events.put(None)
