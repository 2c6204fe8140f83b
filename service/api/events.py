"""`GET /jobs/{id}/events`: a job as it happens, as server-sent events.

The stream of a job (`service.jobs.events`) has all of it, so a client that was cut off says by `Last-Event-ID` what it
saw last and misses nothing; one that comes fresh gets the job as it is, and what happens from then on. A client that
saw the end and comes back is told by 204 to stay away, which is how a browser's EventSource learns it.
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
from service.api.lookup import JobId, Viewer, find
from service.api.problems import Problem, responses
from service.api.services import Services, ServicesHere
from service.jobs.concurrency import TooManyOpen
from service.jobs.connection import StoreUnavailable
from service.jobs.event_keys import EventKind
from service.jobs.events import Event, Follower, TooManyFollowers, order
from service.jobs.record import Job, Status
from service.jobs.records import UnknownJob, progress_data
from service.jobs.view import JobView
from service.log import log

router = APIRouter(tags=["jobs"])

BREATH = 15.0
"""Seconds between two comments, by which proxies and clients know that the connection lives."""

_COMMENT = b": still here\n\n"
_RETRY = b"retry: 2000\n\n"
_OF_A_RECORD = (EventKind.STATUS, EventKind.COMPLETED, EventKind.FAILED, EventKind.CANCELED)
"""What holds a record, which is shown as `GET` does."""

_AGAIN = 0.5
"""Seconds before Redis is asked again where it did not answer."""

_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

_EVENT = {
    "type": "object",
    "required": ["event", "id", "data"],
    "properties": {
        "event": {
            "type": "string",
            "enum": [kind.value for kind in EventKind],
            "description": "what kind of news it is",
        },
        "id": {"type": "string", "description": "what to send as `Last-Event-ID`", "examples": ["1795492765064-0"]},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "description": "JSON: the job where the event is named as a status or `status`, else how far it is",
        },
    },
}
"""One event of a stream."""

_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "events, as they happen: `status`, `progress`, `preview`, and at the end `completed`, `failed`, "
        "`canceled` or `gone`",
        "content": {"text/event-stream": {"schema": _EVENT}},
    },
    204: {"description": "the job has ended, and the client has seen that"},
}


async def _follower(job_id: JobId, services: ServicesHere, caller: CallerHere) -> AsyncIterator[Follower]:
    """Raises Problem 429, 503."""
    most = services.settings.max_event_streams_per_key
    async with AsyncExitStack() as stack:
        try:
            if caller.name is not None:
                await stack.enter_async_context(services.concurrency.slot("streams", caller.name, most))
            follower = stack.enter_context(services.events.follow(job_id))
        except TooManyOpen as error:
            detail = f"{most} event streams of this key are open. Close one, or poll the job."
            raise Problem(429, "too_many_streams_of_key", detail, headers={"Retry-After": "5"}) from error
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
            description="`id` of the last event that the client has seen: it gets what followed",
        ),
    ] = "",
) -> Response:
    """Follow the job: its status, every step, pictures of what emerges, and its end. The stream ends with the job."""
    # In this order: what happens between the two is both in the record and in the stream, and told twice, not never.
    first, last = await services.events.span(job_id)
    job = await run_in_threadpool(find, services, caller, job_id)
    seen = last_event_id if last_event_id and order(first) <= order(last_event_id) <= order(last) else None
    if seen and job.status.ended and seen == (await services.events.span(job_id))[1]:
        return Response(status_code=204)
    if request.method == "HEAD":
        return Response(media_type="text/event-stream", headers=_HEADERS)

    def view(record: Job) -> JobView:
        return Viewer(request, services, caller)(record)  # a new one each time: what it signs is good for a while

    watch = _Watch(job_id, follower, services, view, seen or last, job.attempt)
    opening = await watch.opening(job) if seen is None else []
    follower.waiting = job.status is Status.QUEUED
    return StreamingResponse(watch.stream(opening), media_type="text/event-stream", headers=_HEADERS)


@dataclass
class _Watch:
    """One client that watches one job. `view` shows it a record; `position` is the entry that it was told last."""

    job_id: str
    follower: Follower
    services: Services
    view: Callable[[Job], JobView]
    position: str
    attempt: int
    over: bool = False
    told: int | None = None
    """The place in the queue that the client knows."""

    async def opening(self, job: Job) -> list[bytes]:
        """What a client gets that comes fresh: the job, and how far its clips have emerged. Raises StoreUnavailable."""
        shown = [await self._shown(job, self.position)]
        if not self.over:
            previews = await self.services.events.previews(self.job_id)
            seen = [each for each in previews if order(each.id) <= order(self.position)]
            shown += [_formatted(self.position, each.kind, each.data) for each in seen]
        return shown

    async def stream(self, opening: list[bytes]) -> AsyncIterator[bytes]:
        """`opening`, then what happens, until the job or this process ends. Redis may come and go meanwhile."""
        yield b"".join([_RETRY, *opening])
        breath = time.monotonic() + BREATH
        answers = True
        while not (self.over or self.services.events.closing):
            chunks = []
            try:
                chunks = await self._news()
                if time.monotonic() >= breath and not self.over:
                    chunks += await self._record_has_ended()
                answers = True
            except StoreUnavailable as error:
                if answers:
                    log.warning("a client that follows a job waits for Redis", job=self.job_id, error=str(error))
                answers = False
            if time.monotonic() >= breath:
                breath = time.monotonic() + BREATH
                chunks.append(_COMMENT)
            if chunks:
                yield b"".join(chunks)
            elif answers:
                await self.follower.woken(max(0.0, breath - time.monotonic()))
            else:
                await asyncio.sleep(_AGAIN)

    async def _news(self) -> list[bytes]:
        """What has happened since. Raises StoreUnavailable, and then all of it is still to be told."""
        if self.follower.erased:
            return [self._gone()]
        entries, behind = await self.services.events.after(self.job_id, self.position)
        chunks = [await self._told(entry) for entry in entries]
        self.position = behind
        position = self.follower.queue_position
        if self.follower.waiting and position is not None and position != self.told:
            self.told = position
            chunks.append(_formatted(self.position, EventKind.PROGRESS, progress_data(None, position, self.attempt)))
        return chunks

    async def _told(self, entry: Event) -> bytes:
        if entry.kind in _OF_A_RECORD:
            return await self._shown(Job.from_json(entry.data), entry.id)
        self.over |= entry.kind.last
        return _formatted(entry.id, entry.kind, entry.data)

    async def _shown(self, job: Job, position: str) -> bytes:
        """The job as `GET` gives it."""
        view = await run_in_threadpool(self.view, job)
        self.over |= job.status.ended
        self.told, self.attempt = view.queue_position, job.attempt
        self.follower.waiting, self.follower.queue_position = job.status is Status.QUEUED, None
        return _formatted(
            position, EventKind(job.status) if job.status.ended else EventKind.STATUS, view.model_dump_json()
        )

    async def _record_has_ended(self) -> list[bytes]:
        """The end, if the stream does not have it: Redis may have lost the one and not the other."""
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
