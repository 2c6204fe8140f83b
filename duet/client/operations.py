"""What the client does beyond a single request: retries, event streams, waiting for a job, saving files. Every function
is an operation (see `duet.client.effects`)."""

from __future__ import annotations

import functools
import io
import json
import math
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from duet.client import effects
from duet.client.effects import Operation
from duet.client.errors import JobGone, Refused, ServerUnreachable, StillRunning
from duet.client.events import Event, read
from duet.client.requests import Request, Response
from duet.client.resources import ENDED

STREAM_TIMEOUT = 40.0
"""Seconds without data after which an event stream counts as broken. The server sends a heartbeat every 15."""

MAX_DELAY = 30.0
"""Seconds. If the server asks for a longer delay, the request is not repeated."""

POLL_DELAYS = (0.1, 0.2, 0.3, 0.5, 1.0)
"""Seconds between polls of a job without an event stream; the last one repeats."""

_UNAVAILABLE = (429, 502, 503, 504)
_PROGRESS = ("stage", "step", "total_steps", "progress", "eta_seconds", "queue_position", "attempt")


@dataclass(frozen=True)
class RetryPolicy:
    """Delays in seconds before each repetition of a request that did not reach the server, or that the server answered
    with 429, 502, 503 or 504. `Retry-After` makes a delay longer, never shorter."""

    delays: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)


def send(request: Request, retry: RetryPolicy, stream: bool = False) -> Operation[Response]:
    """The server's 2xx response. Every request may be repeated, because those that make jobs have an Idempotency-Key;
    one without `repeat_after_timeout` not after a timeout.

    Raises ServerUnreachable, Refused.
    """
    delays = iter(retry.delays)
    while True:
        delay = next(delays, None)
        try:
            response: Response = yield effects.OpenStream(request) if stream else effects.Send(request)
        except httpx.TransportError as error:
            if delay is None or (isinstance(error, httpx.ReadTimeout) and not request.repeat_after_timeout):
                raise _unreachable(error) from error
            yield effects.Sleep(delay)
            continue
        if response.is_success:
            return response
        refused = Refused.read(response.status, response.headers, response.body)
        wanted = _retry_after(response)
        repeatable = refused.status in _UNAVAILABLE or refused.code == "idempotency_in_progress"
        repeatable &= refused.status != 504 or request.repeat_after_timeout
        if delay is None or not repeatable or wanted > MAX_DELAY:
            raise refused
        yield effects.Sleep(max(delay, wanted))


def fetch_json(request: Request, retry: RetryPolicy, *members: str) -> Operation[dict[str, Any]]:
    """The JSON object in the response, which has these members.

    Raises ServerUnreachable, and Refused for any other response, such as a proxy's own page.
    """
    response = yield from send(request, retry)
    try:
        found = json.loads(response.body)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not found.keys() >= set(members):
        raise _not_duet(response)
    return found


def _not_duet(response: Response) -> Refused:
    return Refused(response.status, "not_duet", "The server at this URL is not Duet.", (), "")


def fetch_job(method: str, path: str, retry: RetryPolicy, **request: Any) -> Operation[dict[str, Any]]:
    """The job in the response. Raises ServerUnreachable, Refused."""
    return (yield from fetch_json(Request(method, path, **request), retry, "id", "kind", "status"))


def cancel(job_id: str, retry: RetryPolicy) -> Operation[dict[str, Any]]:
    """Cancel a job. No error if it is already canceled, because the response to an earlier attempt may be lost."""
    try:
        return (yield from fetch_job("POST", f"/jobs/{job_id}/cancel", retry))
    except Refused as refused:
        if refused.code != "already_ended":
            raise
        data = yield from fetch_job("GET", f"/jobs/{job_id}", retry)
        if data["status"] != "canceled":
            raise
        return data


def events(job_id: str, retry: RetryPolicy, deadline: float | None = None) -> Operation[None]:
    """Emit every Event until the last one. A stream that breaks is resumed after the last event received.

    Ends early at the `deadline`, on the monotonic clock, at the next event or heartbeat. Raises ServerUnreachable,
    Refused: also if the server has no events, or too many listeners, or if the response is no event stream.
    """
    delays = iter(retry.delays)
    last_id = ""
    wanted = 0.0
    while deadline is None or time.monotonic() < deadline:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
        # Heartbeats are noticed only after an event with an id on the same connection. Without Last-Event-ID the server
        # begins with one, so a deadline is also kept on a silent stream.
        if last_id and deadline is None:
            headers["Last-Event-ID"] = last_id
        broken: httpx.TransportError | None = None
        try:
            request = Request("GET", f"/jobs/{job_id}/events", headers=headers, timeout=STREAM_TIMEOUT)
            response: Response = yield effects.OpenStream(request)
            if not response.is_success:
                raise Refused.read(response.status, response.headers, response.body)
            if response.status == 204:  # there is no event after `last_id`
                return
            if response.headers.get("content-type", "").partition(";")[0].strip().lower() != "text/event-stream":
                raise _not_duet(response)
            while message := (yield effects.ReadEvent()):
                if message.retry is not None:
                    wanted = min(max(message.retry, 0), 1000 * MAX_DELAY) / 1000
                if event := read(message):
                    last_id = event.id or last_id
                    delays = iter(retry.delays)  # the connection works: earlier failures no longer count
                    yield effects.Emit(event)
                    if event.last:
                        return
                if deadline is not None and time.monotonic() > deadline:
                    return
        except httpx.TransportError as error:
            broken = error
        delay = next(delays, None)
        if delay is None:
            raise _unreachable(broken) if broken else ServerUnreachable(f"The event stream of {job_id} keeps breaking.")
        yield effects.Sleep(max(delay, wanted))


def follow(
    data: dict[str, Any], on_change: Callable[[dict[str, Any]], object], timeout: float | None, retry: RetryPolicy
) -> Operation[None]:
    """Call `on_change` with the job's JSON at every change, until it has ended.

    Uses the event stream. Polls if there is none, and shortly before the timeout, because a stream may be silent for
    longer than that. Raises StillRunning after `timeout` seconds, JobGone, ServerUnreachable, Refused.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    if data["status"] not in ENDED:
        data = yield from _follow_events(
            data, on_change, None if deadline is None else deadline - STREAM_TIMEOUT, retry
        )
    delays = iter(POLL_DELAYS)
    delay = POLL_DELAYS[-1]
    while data["status"] not in ENDED:
        delay = next(delays, delay)
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise StillRunning(data["id"], timeout or 0.0)
            delay = min(delay, left)
        yield effects.Sleep(delay)
        before, data = data, (yield from fetch_job("GET", f"/jobs/{data['id']}", retry))
        if data != before:
            yield effects.Notify(functools.partial(on_change, data))


def _follow_events(
    data: dict[str, Any], on_change: Callable[[dict[str, Any]], object], deadline: float | None, retry: RetryPolicy
) -> Operation[dict[str, Any]]:
    """As `follow`. Returns a job that has not ended at the deadline, or if the event stream cannot be used."""
    execution = effects.Execution(events(data["id"], retry, deadline))
    while True:
        try:
            effect = execution.next()
        except ServerUnreachable:
            return data
        except Refused as refused:
            if refused.code in ("unknown_job", "gone") or refused.status in (401, 403):
                raise
            return data
        if isinstance(effect, effects.Done):
            return data
        if isinstance(effect, effects.Emit):
            data = _apply(effect.value, data)
            if effect.value.name != "preview":
                yield effects.Notify(functools.partial(on_change, data))
            continue
        try:
            execution.resume((yield effect))
        except httpx.TransportError as error:
            execution.fail(error)


def _apply(event: Event, data: dict[str, Any]) -> dict[str, Any]:
    """The job's JSON after the event. Raises JobGone."""
    if event.name == "gone":
        raise JobGone(data["id"])
    if event.name == "progress":
        return data | {name: event.data[name] for name in _PROGRESS if name in event.data}
    return event.data if "status" in event.data else data


def fetch_file(url: str, path: Path, retry: RetryPolicy) -> Operation[None]:
    """Write the file to `path`, complete or not at all; an existing file is replaced.

    Raises Refused for a response that is not the whole file, ServerUnreachable for a body that stays too short.
    """
    partial = path.with_name(f".{path.name}-{secrets.token_hex(4)}.part")
    try:
        with (yield effects.RunBlocking(functools.partial(partial.open, "xb"))) as file:
            yield from _download(url, file, retry)
        yield effects.RunBlocking(functools.partial(os.replace, partial, path))
    finally:
        partial.unlink(missing_ok=True)


def fetch_bytes(url: str, retry: RetryPolicy, limit: int | None) -> Operation[bytes | None]:
    """The content of the file; None if it has more than `limit` bytes. Raises as `fetch_file`."""
    file = io.BytesIO()
    return file.getvalue() if (yield from _download(url, file, retry, limit)) else None


def _download(url: str, file: BinaryIO, retry: RetryPolicy, limit: int | None = None) -> Operation[bool]:
    """Write the whole file to `file`; False as soon as it is known to be longer than `limit` bytes."""
    most = math.inf if limit is None else limit
    delays = iter(retry.delays)
    while True:
        delay = next(delays, None)
        try:
            response = yield from send(Request("GET", url), retry, stream=True)
            if response.status != 200:
                raise Refused.read(response.status, response.headers, response.body)
            while file.tell() <= most and (chunk := (yield effects.ReadBytes())):
                yield effects.RunBlocking(functools.partial(file.write, chunk))
            if file.tell() > most:
                return False
            yield effects.RunBlocking(file.flush)
            _check_length(response, file.tell())
            return True
        except httpx.TransportError as error:
            if delay is None:
                raise _unreachable(error) from error
        file.seek(0)
        file.truncate()
        yield effects.Sleep(delay)


def _check_length(response: Response, size: int) -> None:
    """Raise a TransportError, which is retried, if the body is shorter or longer than announced."""
    announced = response.headers.get("content-length", "")
    plain = announced.isascii() and announced.isdigit() and "content-encoding" not in response.headers
    if plain and int(announced) != size:
        raise httpx.ReadError(f"received {size} bytes instead of {announced}")


def _unreachable(error: httpx.TransportError) -> ServerUnreachable:
    address = ""
    with suppress(RuntimeError):  # an error without its request
        url = error.request.url
        address = f" at {url.scheme}://{url.netloc.decode()}"
    return ServerUnreachable(f"Cannot reach the server{address}: {str(error) or type(error).__name__}")


def _retry_after(response: Response) -> float:
    """Seconds until the server wants the next attempt. Dates are ignored: Duet sends seconds."""
    wanted = response.headers.get("retry-after", "")
    return float(wanted) if wanted.isascii() and wanted.isdigit() else 0.0
