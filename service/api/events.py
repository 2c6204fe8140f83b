"""`GET /jobs/{id}/events`: the events of a job, as server-sent events.

Redis keeps the stream of a job (`service.jobs.events`), so a client that reconnects with `Last-Event-ID` misses
nothing. A new client receives the current state of the job, then its events. A client that reconnects after the last
event receives 204, at which a browser's EventSource stops.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from service.api.auth import CallerHere
from service.api.limits import stream_slot
from service.api.lookup import JobId, Viewer, find
from service.api.problems import Problem, responses
from service.api.services import Services, ServicesHere
from service.jobs.connection import StoreUnavailable
from service.jobs.event_keys import EventKind
from service.jobs.events import Event, Follower, TooManyFollowers, order
from service.jobs.record import Job, Status
from service.jobs.records import UnknownJob, progress_data
from service.jobs.view import JobView
from service.log import log

router = APIRouter(tags=["jobs"])

HEARTBEAT_S = 15.0
"""Seconds between two comments, which keep the connection open in proxies and clients."""

_COMMENT = b": still here\n\n"
_RETRY = b"retry: 2000\n\n"
_RECORD_EVENTS = (EventKind.STATUS, EventKind.COMPLETED, EventKind.FAILED, EventKind.CANCELED)
"""Kinds of events whose data is a record, shown as by `GET`."""

_RETRY_S = 0.5
"""Seconds between two attempts to read from a Redis that does not answer."""

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_EVENT = {
    "type": "object",
    "required": ["event", "id", "data"],
    "properties": {
        "event": {
            "type": "string",
            "enum": [kind.value for kind in EventKind],
            "description": "kind of the event",
        },
        "id": {"type": "string", "description": "value for `Last-Event-ID`", "examples": ["1795492765064-0"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "description": "JSON: the job, or for `progress` and `preview` the progress or the preview",
        },
    },
}
"""Schema of one event."""

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "events: `status`, `progress`, `preview`, and at the end `completed`, `failed`, `canceled` or "
        "`gone`",
        "content": {"text/event-stream": {"schema": _EVENT}},
    },
    204: {"description": "the job has ended, and the client has received the last event"},
}


async def _follower(job_id: JobId, services: ServicesHere, caller: CallerHere) -> AsyncIterator[Follower]:
    """Raises Problem 429, 503."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(stream_slot(services, caller))
        try:
            follower = stack.enter_context(services.events.follow(job_id))
        except TooManyFollowers as error:
            detail = "This server has its maximum of event streams open. Poll the job, or try again."
            raise Problem(503, "too_many_streams", detail, headers={"Retry-After": "5"}) from error
        with services.metrics.event_streams.track_inprogress():
            yield follower


@router.get(
    "/jobs/{job_id}/events", response_class=StreamingResponse, responses=_ANSWERS | responses(404, 410, 422, 503)
)
@router.head("/jobs/{job_id}/events", include_in_schema=False)
async def events(
    job_id: JobId,
    request: Request,
    services: ServicesHere,
    caller: CallerHere,
    follower: Annotated[Follower, Depends(_follower)],
    last_event_id: Annotated[
        str,
        Header(
            alias="Last-Event-ID",
            examples=["1763890867250-0"],
            pattern=r"^([0-9]{1,20}-[0-9]{1,20})?$",
            description="`id` of the last event received; the stream continues after it",
        ),
    ] = "",
) -> Response:
    """Follow the job: its status, each step, previews, and its end. The stream ends with the job."""
    # In this order, an event between the two reads is sent twice rather than never.
    first, last = await services.events.span(job_id)
    job = await run_in_threadpool(find, services, caller, job_id)
    seen = last_event_id if last_event_id and order(first) <= order(last_event_id) <= order(last) else None
    if seen and job.status.ended and seen == (await services.events.span(job_id))[1]:
        return Response(status_code=204)
    if request.method == "HEAD":
        return Response(media_type="text/event-stream", headers=_HEADERS)

    def view(record: Job) -> JobView:
        return Viewer(request, services, caller)(record)  # a new one each time, because signed URLs expire

    stream = _Stream(job_id, follower, services, view, seen or last, job.attempt)
    opening = await stream.opening(job) if seen is None else []
    follower.waiting = job.status is Status.QUEUED
    return StreamingResponse(stream.chunks(opening), media_type="text/event-stream", headers=_HEADERS)


@dataclass
class _Stream:
    """The events of one job for one client. `view` shows a record; `position` is the last entry that was sent."""

    job_id: str
    follower: Follower
    services: Services
    view: Callable[[Job], JobView]
    position: str
    attempt: int
    over: bool = False
    queue_position: int | None = None
    """The last one that was sent."""

    async def opening(self, job: Job) -> list[bytes]:
        """The first events of a new client: the job, and the latest previews. Raises StoreUnavailable."""
        shown = [await self._shown(job, self.position)]
        if not self.over:
            previews = await self.services.events.previews(self.job_id)
            seen = [each for each in previews if order(each.id) <= order(self.position)]
            shown += [_formatted(self.position, each.kind, each.data) for each in seen]
        return shown

    async def chunks(self, opening: list[bytes]) -> AsyncIterator[bytes]:
        """`opening`, then events until the job or this process ends. Continues after an outage of Redis."""
        yield b"".join([_RETRY, *opening])
        heartbeat = time.monotonic() + HEARTBEAT_S
        answers = True
        while not (self.over or self.services.events.closing):
            chunks = []
            try:
                chunks = await self._news()
                if time.monotonic() >= heartbeat and not self.over:
                    chunks += await self._record_has_ended()
                answers = True
            except StoreUnavailable as error:
                if answers:
                    log.warning("an event stream waits for Redis", job=self.job_id, error=str(error))
                answers = False
            if time.monotonic() >= heartbeat:
                heartbeat = time.monotonic() + HEARTBEAT_S
                chunks.append(_COMMENT)
            if chunks:
                yield b"".join(chunks)
            elif answers:
                await self.follower.woken(max(0.0, heartbeat - time.monotonic()))
            else:
                await asyncio.sleep(_RETRY_S)

    async def _news(self) -> list[bytes]:
        """The events since `position`. Raises StoreUnavailable; the next call then returns them."""
        if self.follower.erased:
            return [self._gone()]
        entries, behind = await self.services.events.after(self.job_id, self.position)
        chunks = [await self._event(entry) for entry in entries]
        self.position = behind
        position = self.follower.queue_position
        if self.follower.waiting and position is not None and position != self.queue_position:
            self.queue_position = position
            chunks.append(_formatted(self.position, EventKind.PROGRESS, progress_data(None, position, self.attempt)))
        return chunks

    async def _event(self, entry: Event) -> bytes:
        if entry.kind in _RECORD_EVENTS:
            return await self._shown(Job.from_json(entry.data), entry.id)
        self.over |= entry.kind.last
        return _formatted(entry.id, entry.kind, entry.data)

    async def _shown(self, job: Job, position: str) -> bytes:
        """The job as `GET` shows it, as an event."""
        view = await run_in_threadpool(self.view, job)
        self.over |= job.status.ended
        self.queue_position, self.attempt = view.queue_position, job.attempt
        self.follower.waiting, self.follower.queue_position = job.status is Status.QUEUED, None
        return _formatted(
            position, EventKind(job.status) if job.status.ended else EventKind.STATUS, view.model_dump_json()
        )

    async def _record_has_ended(self) -> list[bytes]:
        """The last event, if the record has ended and the stream is lost."""
        try:
            job = await run_in_threadpool(self.services.store.get, self.job_id)
        except UnknownJob:
            return [self._gone()]
        return [await self._shown(job, self.position)] if job.status.ended else []

    def _gone(self) -> bytes:
        self.over = True
        return _formatted(self.position, EventKind.GONE, json.dumps({"id": self.job_id}))


def _formatted(position: str, kind: EventKind, data: str) -> bytes:
    return format_sse_event(id=position, event=kind.value, data_str=data)
