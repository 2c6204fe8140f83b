"""How a job comes to be, whatever its kind: once a key, all of it or nothing, and answered as the client prefers.

202 is a promise: file and record are on disk by then. What a refused request has left is taken back, or swept later if
Redis or storage is away.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import structlog
from fastapi import Depends, Header, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from service.api.auth import Caller, CallerHere
from service.api.limits import check_room
from service.api.lookup import Viewer, find
from service.api.media_types import content_type
from service.api.problems import Problem, responses
from service.api.schemas import JobView, job_view
from service.api.services import Services, ServicesHere, prefix
from service.jobs.idempotency import IdempotentRequest, KeyReused, StillReserved
from service.jobs.queue import QueueUnavailable
from service.jobs.record import Job
from service.jobs.store import StoreUnavailable, UnknownJob
from service.log import log
from service.storage import StorageUnavailable

_OUTAGES = (StoreUnavailable, QueueUnavailable, StorageUnavailable)
_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*', re.IGNORECASE)
_LOOKS = (0.05, 0.1, 0.2, 0.4)
"""Seconds between looks at a job that a client waits for; the last one again and again."""

ACCEPTED: dict[str, Any] = {"status_code": 202, "response_model": JobView, "response_description": "the job, queued"}
"""How a submitting route describes its answer."""

_HEADERS = {
    "Location": {"schema": {"type": "string"}, "description": "path of the job"},
    "Idempotency-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "the job was made by an earlier request with this Idempotency-Key",
    },
}


def answers(*statuses: int, waits: bool = True) -> dict[int | str, dict[str, Any]]:
    """What a submitting route answers, for the API's description: the job, and the problems of these statuses."""
    job = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobView"}}}}
    applied = {"schema": {"type": "string"}, "description": "the wait that was granted"}
    retry_after = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    waited = {"Preference-Applied": applied} if waits else {}
    ended = {
        200: {"description": "the job, ended in the time that `Prefer` gave it", **job, "headers": _HEADERS | waited}
    }
    accepted = {202: {"headers": _HEADERS | waited | retry_after}}
    return (ended if waits else {}) | accepted | responses(403, 429, 503, *statuses)


@dataclass(frozen=True)
class Accepted:
    """A job that was made, now or by an earlier request with the same key."""

    job: Job
    replayed: bool


class Submission:
    """One request for a job."""

    def __init__(
        self, request: Request, services: Services, caller: Caller, key: str | None, wait: float | None
    ) -> None:
        """`wait`: seconds that the client gives the job to end before the answer."""
        self.services = services
        self.caller = caller
        self._request = request
        self._key = key
        self._wait = None if wait is None else min(wait, services.settings.max_wait_s)

    def check_room(self) -> None:
        """Refuse before the body is read what could not be queued anyway. Raises Problem, StoreUnavailable."""
        if self._key is None:  # with a key it may be a job that is there already
            check_room(self.services, self.caller)
        self.services.store.ping()

    def submit(self, asked: Mapping[str, Any], make: Callable[[], tuple[Job, Path | None]]) -> Accepted:
        """Make the job, unless the same request with the same key has made it before.

        `asked`: all that the client asked for, as JSON values. `make` judges it and returns the record and the file to
        keep with it. Raises Problem, StoreUnavailable, QueueUnavailable, StorageUnavailable; then there is no job.
        """
        request = self._idempotent(asked)
        if request is not None:
            made = _answered(self.services.idempotency.made, request)
            if made is not None:
                return self._again(made)
        check_room(self.services, self.caller)
        made_job, file = make()
        job = replace(
            made_job,
            request_id=structlog.contextvars.get_contextvars().get("request_id"),
            traceparent=self.services.tracing.traceparent(),
        )
        try:
            self.services.retention.watch(job.id)
            if file is not None:
                assert job.input is not None
                self.services.storage.put_file(job.input.key, file, content_type(job.input.name))
            if request is not None:
                made = _answered(self.services.idempotency.reserve, request, job.id)
                if made is not None:
                    self._take_back(job, None)
                    return self._again(made)
            self.services.store.create(job)
            self.services.queue.enqueue(job)
        except (*_OUTAGES, Problem):
            self._take_back(job, request)
            raise
        self._note(job, request)
        self.services.metrics.accepted(job.kind, job.priority)
        log.info("job accepted", job=job.id, kind=job.kind, model=job.model, priority=job.priority)
        return Accepted(job, replayed=False)

    async def answer(self, accepted: Accepted) -> JSONResponse:
        """202 and the job, or 200 if it has ended in the time that the client gave it."""
        job, headers = accepted.job, {}
        if accepted.replayed:
            headers["Idempotency-Replayed"] = "true"
        if self._wait is not None:
            headers["Preference-Applied"] = f"wait={self._wait:g}"
            job = await self._until_ended(job, self._wait)
        status = 200 if self._wait is not None and job.status.ended else 202
        if status == 202:
            headers["Retry-After"] = "2"
        view = await run_in_threadpool(self._view, job)
        return JSONResponse(view.model_dump(mode="json"), status, {"Location": view.urls["self"], **headers})

    def _view(self, job: Job) -> JobView:
        """The job as it is; if Redis went away since it was accepted, what is known of it, for it is accepted."""
        try:
            return Viewer(self._request, self.services, self.caller)(job)
        except StoreUnavailable as error:
            log.warning("Redis went away after a job was accepted", job=job.id, error=str(error))
            return job_view(job, None, None, prefix(self._request), lambda path: path)

    async def _until_ended(self, job: Job, seconds: float) -> Job:
        """The job when it has ended, the time is over, or nobody waits for the answer any more."""
        deadline = time.monotonic() + seconds
        looks = iter(_LOOKS)
        pause = 0.0
        while not job.status.ended and (left := deadline - time.monotonic()) > 0:
            pause = next(looks, pause)
            await asyncio.sleep(min(pause, left))
            if await self._request.is_disconnected():
                break
            try:
                job = await run_in_threadpool(self.services.store.get, job.id)
            except (UnknownJob, StoreUnavailable) as error:
                # It was accepted, and that is what the answer says; how it went on is for the next request.
                log.warning("nothing more is known of a job that a client waits for", job=job.id, error=repr(error))
                break
        return job

    def _idempotent(self, asked: Mapping[str, Any]) -> IdempotentRequest | None:
        if self._key is None:
            return None
        canonical = json.dumps(asked, sort_keys=True, separators=(",", ":"))
        return IdempotentRequest(self.caller.name, self._key, hashlib.sha256(canonical.encode()).hexdigest())

    def _again(self, job_id: str) -> Accepted:
        """The job that the key stands for. Raises Problem 410 if it is not kept any more."""
        try:
            return Accepted(find(self.services, self.caller, job_id), replayed=True)
        except Problem as problem:
            raise Problem(410, "gone", f"This Idempotency-Key made {job_id}, which is no longer kept.") from problem

    def _take_back(self, job: Job, request: IdempotentRequest | None) -> None:
        try:
            self.services.retention.take_back(job.id)
            if request is not None:
                self.services.idempotency.release(request, job.id)
        except (StoreUnavailable, StorageUnavailable) as error:
            log.warning("what a refused request left will be swept", job=job.id, error=str(error))

    def _note(self, job: Job, request: IdempotentRequest | None) -> None:
        """Confirm the key. Nothing is lost without: the record itself says so as long as it is there."""
        try:
            if request is not None:
                self.services.idempotency.confirm(request, job.id)
        except StoreUnavailable as error:
            log.warning("Redis went away after a job was accepted", job=job.id, error=str(error))


def _answered(ask: Callable[..., str | None], *arguments: Any) -> str | None:
    """What the keys say, as a problem where it is one."""
    try:
        return ask(*arguments)
    except KeyReused as error:
        raise Problem(
            422, "idempotency_key_reused", "This Idempotency-Key came with another request before."
        ) from error
    except StillReserved as error:
        raise Problem(
            409,
            "idempotency_in_progress",
            "The first request with this Idempotency-Key is still being answered.",
            headers={"Retry-After": "2"},
        ) from error


def preferred_wait(headers: list[str]) -> int | None:
    """Seconds that `Prefer: wait=N` (RFC 7240, section 4.3) asks for; None where it does not."""
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
        description="the same key with the same request gives the same job again, with another request 422",
    ),
]


async def _submission(
    request: Request,
    services: ServicesHere,
    caller: CallerHere,
    idempotency_key: IdempotencyKey = None,
    prefer: Annotated[
        str | None,
        Header(examples=["wait=30"], description="`wait=30`: answer when the job has ended, or after 30 seconds"),
    ] = None,
) -> Submission:
    return Submission(request, services, caller, idempotency_key, preferred_wait(request.headers.getlist("prefer")))


async def _unhurried(
    request: Request, services: ServicesHere, caller: CallerHere, idempotency_key: IdempotencyKey = None
) -> Submission:
    return Submission(request, services, caller, idempotency_key, None)


SubmissionHere = Annotated[Submission, Depends(_submission)]
"""A route that declares a parameter of this type makes jobs."""

UnhurriedSubmissionHere = Annotated[Submission, Depends(_unhurried)]
"""The same, and never waits for the job."""
