"""What the client does, each as one flow (see `duet.client.exchange`): ask again with sense, submit once, follow,
fetch."""

from __future__ import annotations

import functools
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from duet.client.errors import JobGone, Refused, ServerUnreachable, StillRunning
from duet.client.events import Event, read
from duet.client.exchange import Answer, Call, Emit, Flow, OnUpload, Open, Pause, Read, ReadEvent, Run, Send
from duet.client.facts import ENDED

SILENCE = 40.0
"""Seconds after which a stream of events is given up: the server says something every 15."""

LONGEST_PAUSE = 30.0
"""Seconds. A server that wants more is not waited for."""

POLLS = (0.1, 0.2, 0.3, 0.5, 1.0)
"""Seconds between looks at a job where there are no events; the last one again and again."""

PAGE = 100

_BUSY = (429, 502, 503, 504)
_PROGRESS = ("stage", "step", "total_steps", "progress", "eta_seconds", "queue_position", "attempt")


@dataclass(frozen=True)
class Patience:
    """Seconds to wait before each further try of a call that did not reach the server, or that it wants to come later.
    `Retry-After` makes a pause longer, never shorter."""

    pauses: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)


def ask(call: Call, patience: Patience, open_body: bool = False) -> Flow[Answer]:
    """The server's answer. Every call here may be sent again: those that make jobs carry a key.

    Raises ServerUnreachable, Refused.
    """
    tries = iter(patience.pauses)
    while True:
        pause = next(tries, None)
        try:
            answer: Answer = yield Open(call) if open_body else Send(call)
        except httpx.TransportError as error:
            if pause is None:
                raise unreachable(error) from error
            yield Pause(pause)
            continue
        if 200 <= answer.status < 300:  # redirects are not followed: they would take a key or an upload elsewhere
            return answer
        refused = Refused.read(answer.status, answer.headers, answer.body)
        wanted = _retry_after(answer)
        if pause is None or not _passes(refused) or wanted > LONGEST_PAUSE:
            raise refused
        yield Pause(max(pause, wanted))


def unreachable(error: httpx.TransportError) -> ServerUnreachable:
    """The same in words."""
    address = ""
    with suppress(RuntimeError):  # an error without its request
        url = error.request.url
        address = f" at {url.scheme}://{url.netloc.decode()}"
    return ServerUnreachable(f"no server answers{address}: {error or type(error).__name__}")


def submit(
    kind: str,
    params: Mapping[str, Any],
    upload: Path | None,
    key: str | None,
    on_upload: OnUpload | None,
    patience: Patience,
) -> Flow[dict[str, Any]]:
    """Make a job, once: the same Idempotency-Key goes with every try, so that one whose answer was lost is found
    again."""
    body = {name: value for name, value in params.items() if value is not None}
    headers = {"Idempotency-Key": key or secrets.token_hex(16)}
    call = Call("POST", f"/{kind}", body=body, upload=upload, on_upload=on_upload, headers=headers)
    return _object((yield from ask(call, patience)))


def get(job_id: str, patience: Patience) -> Flow[dict[str, Any]]:
    """A job."""
    return _object((yield from ask(Call("GET", f"/jobs/{job_id}"), patience)))


def page(status: str | None, kind: str | None, limit: int, patience: Patience) -> Flow[list[dict[str, Any]]]:
    """The newest `limit` jobs."""
    found: list[dict[str, Any]] = []
    after: str | None = None
    while len(found) < limit:
        given = {"status": status, "kind": kind, "limit": min(PAGE, limit - len(found)), "after": after}
        query = {name: value for name, value in given.items() if value is not None}
        part = _object((yield from ask(Call("GET", "/jobs", query=query), patience)))
        found += part["data"]
        after = part["next"]
        if after is None:
            break
    return found


def models(patience: Patience) -> Flow[list[dict[str, Any]]]:
    """What the server can make clips with."""
    return list(_object((yield from ask(Call("GET", "/models"), patience)))["data"])


def cancel(job_id: str, patience: Patience) -> Flow[dict[str, Any]]:
    """Stop a job. That it is canceled already is no error: the first answer may have been lost."""
    try:
        return _object((yield from ask(Call("POST", f"/jobs/{job_id}/cancel"), patience)))
    except Refused as refused:
        if refused.code != "already_ended":
            raise
        data = yield from get(job_id, patience)
        if data["status"] != "canceled":
            raise
        return data


def delete(job_id: str, patience: Patience) -> Flow[None]:
    """Erase a job and all its files."""
    yield from ask(Call("DELETE", f"/jobs/{job_id}"), patience)


def retry(job_id: str, patience: Patience) -> Flow[dict[str, Any]]:
    """A new job like this one."""
    headers = {"Idempotency-Key": secrets.token_hex(16)}
    return _object((yield from ask(Call("POST", f"/jobs/{job_id}/retry", headers=headers), patience)))


def events(job_id: str, patience: Patience, last_id: str = "", deadline: float | None = None) -> Flow[None]:
    """Emit every Event until the last one; a stream that breaks is resumed after the last event received.

    Ends early at the `deadline`, on the monotonic clock, at the next event or heartbeat. Raises ServerUnreachable,
    Refused: also where the server has no events, or too many listeners.
    """
    tries = iter(patience.pauses)
    retry_seconds = 0.0
    while deadline is None or time.monotonic() < deadline:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        # Heartbeats are noticed only after an event with an id on the same connection. Without Last-Event-ID the server
        # begins with one, so a deadline is also kept on a silent stream.
        if last_id and deadline is None:
            headers["Last-Event-ID"] = last_id
        broken: httpx.TransportError | None = None
        try:
            answer: Answer = yield Open(Call("GET", f"/jobs/{job_id}/events", headers=headers, seconds=SILENCE))
            if not 200 <= answer.status < 300:
                raise Refused.read(answer.status, answer.headers, answer.body)
            if answer.status == 204:  # there is nothing after `last_id`
                return
            while message := (yield ReadEvent()):
                if message.retry is not None:
                    retry_seconds = max(message.retry, 0) / 1000
                if event := read(message):
                    last_id = event.id or last_id
                    tries = iter(patience.pauses)  # the connection works: earlier failures no longer count
                    yield Emit(event)
                    if event.last:
                        return
                if deadline is not None and time.monotonic() > deadline:
                    return
        except httpx.TransportError as error:
            broken = error
        pause = next(tries, None)
        if pause is None:
            raise unreachable(broken) if broken else ServerUnreachable(f"the events of {job_id} break off")
        yield Pause(max(pause, retry_seconds))


def follow(data: dict[str, Any], seconds: float | None, patience: Patience) -> Flow[dict[str, Any]]:
    """Emit the job's data as often as there is news; return it once it has ended.

    By events; by asking again and again where there are none, and when the time that is left is short, because a stream
    may be silent for longer. Raises StillRunning, JobGone, ServerUnreachable, Refused.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    if data["status"] not in ENDED:
        with suppress(_NoEvents):
            data = yield from _by_events(data, None if deadline is None else deadline - SILENCE, patience)
    looks = iter(POLLS)
    look = POLLS[-1]
    while data["status"] not in ENDED:
        look = next(looks, look)
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise StillRunning(data["id"], seconds or 0.0)
            look = min(look, left)
        yield Pause(look)
        data = yield from get(data["id"], patience)
        yield Emit(data)
    return data


class _NoEvents(Exception):
    """Events cannot be had here, now."""


def _by_events(data: dict[str, Any], deadline: float | None, patience: Patience) -> Flow[dict[str, Any]]:
    """As `follow`; returns the job unended at the deadline. Raises _NoEvents where it is to be asked for instead."""
    source = events(data["id"], patience, deadline=deadline)
    reply: Any = None
    fault: BaseException | None = None
    while True:
        try:
            action = source.throw(fault) if fault is not None else source.send(reply)
        except StopIteration:
            return data
        except ServerUnreachable as error:
            raise _NoEvents from error
        except Refused as refused:
            if refused.code in ("unknown_job", "gone") or refused.status in (401, 403):
                raise
            raise _NoEvents from refused
        reply, fault = None, None
        if isinstance(action, Emit):
            data = _told(data, action.value)
            if action.value.name != "preview":
                yield Emit(data)
            continue
        try:
            reply = yield action
        except httpx.TransportError as error:
            fault = error


def _told(data: dict[str, Any], event: Event) -> dict[str, Any]:
    """The job after the event."""
    if event.name == "gone":
        raise JobGone(data["id"])
    if event.name == "progress":
        return data | {name: event.data[name] for name in _PROGRESS if name in event.data}
    return event.data if "status" in event.data else data


def fetch(place: str, path: Path, patience: Patience) -> Flow[None]:
    """Write the file to `path`, complete or not at all; an existing file is replaced.

    Raises Refused for an answer that is not the whole file, ServerUnreachable for a body that stays too short.
    """
    tries = iter(patience.pauses)
    partial = path.with_name(f".{path.name}-{secrets.token_hex(4)}.part")
    try:
        with (yield Run(functools.partial(partial.open, "xb"))) as file:
            while True:
                pause = next(tries, None)
                try:
                    answer = yield from ask(Call("GET", place), patience, open_body=True)
                    if answer.status != 200:
                        raise Refused.read(answer.status, answer.headers, answer.body)
                    while piece := (yield Read()):
                        yield Run(functools.partial(file.write, piece))
                    yield Run(file.flush)
                    _check_length(answer, file.tell())
                    break
                except httpx.TransportError as error:
                    if pause is None:
                        raise unreachable(error) from error
                file.seek(0)
                file.truncate()
                yield Pause(pause)
        yield Run(functools.partial(os.replace, partial, path))
    finally:
        partial.unlink(missing_ok=True)


def _check_length(answer: Answer, size: int) -> None:
    """Raise a TransportError, which is tried again, if the body is shorter or longer than announced."""
    announced = answer.headers.get("content-length", "")
    plain = announced.isascii() and announced.isdigit() and "content-encoding" not in answer.headers
    if plain and int(announced) != size:
        raise httpx.ReadError(f"{size} bytes came instead of {announced}")


def _passes(refused: Refused) -> bool:
    """Whether the same call may go better in a moment."""
    return refused.status in _BUSY or refused.code == "idempotency_in_progress"


def _retry_after(answer: Answer) -> float:
    """Seconds that the server wants to be left alone; only the form with seconds is read."""
    wanted = answer.headers.get("retry-after", "")
    return float(wanted) if wanted.isascii() and wanted.isdigit() else 0.0


def _object(answer: Answer) -> dict[str, Any]:
    """The JSON object of an answer. Raises Refused for an answer that is none: another server's, or a proxy's page."""
    try:
        found = answer.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refused(answer.status, "not_duet", "What answers at this address is not Duet.", (), "")
    return found
