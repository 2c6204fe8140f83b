"""Job submission: idempotent and atomic; honours `Prefer: wait`.

202 is a promise: file and record are on disk by then. The remains of a refused request are deleted, or swept later if
Redis or storage is unavailable.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import structlog
from anyio import to_thread
from fastapi import Depends, Header, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from model.checkpoint.manifest import Manifest
from model.media.mix_levels import REPLACE
from service.api.auth import Caller, CallerHere
from service.api.edit_parameters import EditFields
from service.api.limits import check_room, stream_slot
from service.api.lookup import Viewer, find
from service.api.media_types import content_type
from service.api.mix_parameters import MixParameters
from service.api.parameters import Parameters
from service.api.problems import Problem, responses
from service.api.services import Services, ServicesHere, prefix
from service.api.webhook_parameter import checked_webhook
from service.jobs.connection import StoreUnavailable
from service.jobs.events import Follower, TooManyFollowers
from service.jobs.idempotency import LEASE, IdempotentRequest, KeyReused, StillReserved
from service.jobs.intake import JobRequest, Kind
from service.jobs.queue import QueueUnavailable
from service.jobs.record import Job
from service.jobs.records import UnknownJob
from service.jobs.view import JobView, job_view
from service.log import log
from service.storage import StorageUnavailable

_OUTAGES = (StoreUnavailable, QueueUnavailable, StorageUnavailable)
_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*', re.IGNORECASE)
_LOOK_S = 1.0
"""Seconds after which a job that a client waits for is read even without an event: events may be lost."""

_RESERVED_S = 0.05
"""Seconds between attempts to reserve a key that another request holds."""

ACCEPTED: dict[str, Any] = {"status_code": 202, "response_model": JobView, "response_description": "the job, queued"}
"""OpenAPI description of a successful submission."""

_HEADERS = {
    "Location": {"schema": {"type": "string"}, "description": "path of the job"},
    "Idempotency-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "the job was created by an earlier request with this Idempotency-Key",
    },
}


def answers(*statuses: int, waits: bool = True) -> dict[int | str, dict[str, Any]]:
    """OpenAPI description of a submitting route's responses: the job, and problems of these statuses."""
    job = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobView"}}}}
    applied = {"schema": {"type": "string"}, "description": "the wait that was granted"}
    retry_after = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    waited = {"Preference-Applied": applied} if waits else {}
    ended = {
        200: {
            "description": "the job, which ended within the time given by `Prefer`",
            **job,
            "headers": _HEADERS | waited,
        }
    }
    accepted = {202: {"headers": _HEADERS | waited | retry_after}}
    return (ended if waits else {}) | accepted | responses(403, 429, 503, *statuses)


@dataclass(frozen=True)
class Accepted:
    """A job created now or, if `replayed`, by an earlier request with the same key."""

    job: Job
    replayed: bool


class Submission:
    """One request for a job.

    await submission.check_room()                  # before the body is read
    accepted = await submission.replay(asked)      # the job of an earlier request with the same key
    if accepted is None:
        accepted = await submission.commit(asked, job, file)
    return await submission.answer(accepted)
    """

    def __init__(
        self, request: Request, services: Services, caller: Caller, key: str | None, wait: float | None
    ) -> None:
        """`key`: the Idempotency-Key; `wait`: seconds that the client gives the job to end before the response."""
        self.services = services
        self.caller = caller
        self._request = request
        self._key = key
        self._wait = None if wait is None else min(wait, services.settings.max_wait_s)

    @property
    def repeatable(self) -> bool:
        """Whether the client can get the same job again, by its Idempotency-Key."""
        return self._key is not None

    async def check_room(self) -> None:
        """Refuse before the body is read if the job could not be queued. Raises Problem, StoreUnavailable."""
        if self._key is None:  # with a key the job may exist already
            await run_in_threadpool(check_room, self.services, self.caller)
        await run_in_threadpool(self.services.store.ping)

    async def replay(self, asked: Mapping[str, Any]) -> Accepted | None:
        """The job of an earlier, equal request with the same key; None if a new job is to be made.

        `asked`: all that the client asked for, as JSON values. Raises Problem if the key was used for another request,
        or if there is no room for a new job; StoreUnavailable.
        """
        request = self._idempotent(asked)
        if request is not None:
            with _key_problems():
                made = await run_in_threadpool(self.services.idempotency.made, request)
            if made is not None:
                return await run_in_threadpool(self._replayed, made)
            await run_in_threadpool(check_room, self.services, self.caller)
        return None

    async def model(self, name: str | None) -> Manifest:
        """The model of this name, or the default one, as of the latest reload. Raises Problem for an unknown name."""
        await run_in_threadpool(self.services.follow_models)
        return self.services.catalogue.find(name)

    async def job_request(self, kind: Kind, parameters: Parameters) -> JobRequest:
        """The job that the parameters describe. Raises Problem for an unknown model, for parameters that it does not
        support and for a webhook that cannot be sent."""
        manifest = await self.model(parameters.model)
        params = parameters.sampling(kind, manifest, self.services.settings)
        return JobRequest(
            kind,
            manifest,
            params,
            start=getattr(parameters, "start", 0.0),
            priority=parameters.priority,
            metadata=parameters.metadata,
            owner=self.caller.name,
            webhook=await checked_webhook(parameters.webhook, self.services),
            mix=parameters.mixing() if isinstance(parameters, MixParameters) else REPLACE,
            edit=parameters.edit() if isinstance(parameters, EditFields) else None,
        )

    async def commit(
        self, asked: Mapping[str, Any], job: Job, file: Path | None = None, mask: Path | None = None
    ) -> Accepted:
        """Store the job's `file` and `mask`, write its record and queue it. `asked` as for `replay`.

        Returns the other job if an equal request with the same key was faster. Raises Problem, StoreUnavailable,
        QueueUnavailable, StorageUnavailable; then there is no job.
        """
        services, request = self.services, self._idempotent(asked)
        job = replace(
            job,
            request_id=structlog.contextvars.get_contextvars().get("request_id"),
            traceparent=services.tracing.traceparent(),
        )
        try:
            await run_in_threadpool(services.retention.watch, job.id)
            if file is not None:
                assert job.input is not None
                await self._put(job.input.key, file)
            if mask is not None:
                assert job.edit is not None
                assert job.edit.mask is not None
                await self._put(job.edit.mask.key, mask)
            if request is not None and (made := await self._reserve(request, job.id)) is not None:
                await self._take_back(job, None)
                return await run_in_threadpool(self._replayed, made)
            await run_in_threadpool(self._queue, job)
        except (*_OUTAGES, Problem):
            await self._take_back(job, request)
            raise
        if request is not None:
            await run_in_threadpool(self._confirm, job, request)
        services.metrics.accepted(job.kind, job.priority)
        log.info("job accepted", job=job.id, kind=job.kind, model=job.model, priority=job.priority)
        return Accepted(job, replayed=False)

    async def answer(self, accepted: Accepted) -> JSONResponse:
        """202 and the job, or 200 if it ended within the time that the client gave it."""
        job, headers = accepted.job, {}
        if accepted.replayed:
            headers["Idempotency-Replayed"] = "true"
        if self._wait is not None:
            job, granted = await self._until_ended_if_free(job, self._wait)
            headers["Preference-Applied"] = f"wait={granted:g}"
        status = 200 if self._wait is not None and job.status.ended else 202
        if status == 202:
            headers["Retry-After"] = "2"
        view = await run_in_threadpool(self._view, job)
        return JSONResponse(view.model_dump(mode="json"), status, {"Location": view.urls["self"], **headers})

    def _view(self, job: Job) -> JobView:
        """The current state of the job. If Redis is away, the state that was accepted: the acceptance stands."""
        try:
            return Viewer(self._request, self.services, self.caller)(job)
        except StoreUnavailable as error:
            log.warning("Redis is unavailable after a job was accepted", job=job.id, error=str(error))
            return job_view(job, None, None, prefix(self._request), lambda path: path)

    async def _until_ended_if_free(self, job: Job, seconds: float) -> tuple[Job, float]:
        """The job after the wait, and the seconds that were granted: none if the caller has all its streams open, or if
        they cannot be counted. The job was accepted, so that is no reason to refuse the request."""
        if job.status.ended or not seconds:
            return job, seconds
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(stream_slot(self.services, self.caller))
            except (Problem, StoreUnavailable) as error:
                log.info("a client does not wait for its job", job=job.id, reason=str(error))
                return job, 0.0
            return await self.until_ended(job, seconds), seconds

    async def until_ended(self, job: Job, seconds: float) -> Job:
        """The job once it has ended, the time is over, the client has disconnected or this process stops."""
        events = self.services.events
        deadline = time.monotonic() + seconds
        with ExitStack() as following:
            try:
                follower = following.enter_context(events.follow(job.id))
            except TooManyFollowers:
                follower = Follower(job.id)  # never woken: the record is read once a second
            while not job.status.ended and (left := deadline - time.monotonic()) > 0:
                try:
                    job = await run_in_threadpool(self.services.store.get, job.id)
                except (UnknownJob, StoreUnavailable) as error:
                    # The job was accepted, and the response says so; its further state is for the next request.
                    log.warning("cannot read a job that a client waits for", job=job.id, error=repr(error))
                    break
                if job.status.ended or events.closing or await self._request.is_disconnected():
                    break
                await follower.woken(min(left, _LOOK_S))
        return job

    async def _put(self, key: str, file: Path) -> None:
        put = partial(self.services.storage.put_file, key, file, content_type(key))
        await to_thread.run_sync(put, limiter=self.services.storage_threads)

    async def _reserve(self, request: IdempotentRequest, job_id: str) -> str | None:
        """Reserve the key for this job, or return the id of the job that it stands for. Waits while an equal request
        is being answered. Raises Problem 409, 422; StoreUnavailable."""
        deadline = time.monotonic() + 2 * LEASE
        with _key_problems():
            while True:
                try:
                    return await run_in_threadpool(self.services.idempotency.reserve, request, job_id, wait=0)
                except StillReserved:
                    if time.monotonic() > deadline:
                        raise
                await asyncio.sleep(_RESERVED_S)

    def _queue(self, job: Job) -> None:
        self.services.store.create(job)
        self.services.queue.enqueue(job)

    def _idempotent(self, asked: Mapping[str, Any]) -> IdempotentRequest | None:
        if self._key is None:
            return None
        canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        return IdempotentRequest(self.caller.name, self._key, hashlib.sha256(canonical.encode()).hexdigest())

    def _replayed(self, job_id: str) -> Accepted:
        """The job that the key stands for. Raises Problem 410 if it is not kept any more."""
        try:
            return Accepted(find(self.services, self.caller, job_id), replayed=True)
        except Problem as problem:
            detail = f"The job of this Idempotency-Key, {job_id}, has expired or was deleted."
            raise Problem(410, "gone", detail) from problem

    async def _take_back(self, job: Job, request: IdempotentRequest | None) -> None:
        def take_back() -> None:
            try:
                self.services.retention.take_back(job.id)
                if request is not None:
                    self.services.idempotency.release(request, job.id)
            except (StoreUnavailable, StorageUnavailable) as error:
                log.warning("the remains of a refused request are swept later", job=job.id, error=str(error))

        await to_thread.run_sync(take_back, limiter=self.services.storage_threads)

    def _confirm(self, job: Job, request: IdempotentRequest) -> None:
        """Confirm the key. Not essential: while the record exists, it confirms the key too."""
        try:
            self.services.idempotency.confirm(request, job.id)
        except StoreUnavailable as error:
            log.warning("Redis is unavailable after a job was accepted", job=job.id, error=str(error))


@contextmanager
def _key_problems() -> Iterator[None]:
    """Translate the errors of idempotency keys to problems."""
    try:
        yield
    except KeyReused as error:
        detail = "This Idempotency-Key was used for a different request before."
        raise Problem(422, "idempotency_key_reused", detail) from error
    except StillReserved as error:
        detail = "The first request with this Idempotency-Key is still in progress."
        raise Problem(409, "idempotency_in_progress", detail, headers={"Retry-After": "2"}) from error


def preferred_wait(headers: list[str]) -> int | None:
    """Seconds of `Prefer: wait=N` (RFC 7240, section 4.3); None without it."""
    for preference in ",".join(headers).split(","):
        if match := _WAIT.fullmatch(preference.partition(";")[0]):
            return int(match[1])
    return None


IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        examples=["8e03978e-40d5-43e8-bc93-6894a57f9324"],
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="a repeated request with the same key returns the same job; a different request gets 422",
    ),
]


async def _submission(
    request: Request,
    services: ServicesHere,
    caller: CallerHere,
    idempotency_key: IdempotencyKey = None,
    prefer: Annotated[
        str | None,
        Header(
            examples=["wait=30"],
            description="`wait=30`: answer when the job has ended, or after 30 seconds, or at once if the key's "
            "streams are all in use",
        ),
    ] = None,
) -> Submission:
    return Submission(request, services, caller, idempotency_key, preferred_wait(request.headers.getlist("prefer")))


async def _unhurried(
    request: Request, services: ServicesHere, caller: CallerHere, idempotency_key: IdempotencyKey = None
) -> Submission:
    return Submission(request, services, caller, idempotency_key, None)


SubmissionHere = Annotated[Submission, Depends(_submission)]
"""Parameter type of routes that create jobs."""

UnhurriedSubmissionHere = Annotated[Submission, Depends(_unhurried)]
"""The same for routes that ignore `Prefer: wait`."""
