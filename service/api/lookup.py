"""The caller's own jobs: to everybody else they are not there."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path, Request

from service.api.auth import Caller, UrlSigner
from service.api.examples import JOB
from service.api.problems import Problem
from service.api.schemas import JobView, job_view
from service.api.services import Services, prefix
from service.jobs.record import Job, Status
from service.jobs.store import UnknownJob

ID_PATTERN = r"^job_[0-9A-HJKMNP-TV-Z]{26}$"

JobId = Annotated[
    str, Path(description="the id of a job", examples=[JOB["id"]], json_schema_extra={"pattern": ID_PATTERN})
]
"""A path parameter. Described but not checked: what is no id is a job that is not there, 404 and not 422."""


class Viewer:
    """Shows jobs as the caller of one request sees them."""

    def __init__(self, request: Request, services: Services, caller: Caller) -> None:
        """Raises StoreUnavailable."""
        self._store = services.store
        self._prefix = prefix(request)
        self._sign = UrlSigner(services, caller, request.scope.get("root_path", ""))

    def __call__(self, job: Job) -> JobView:
        """Raises StoreUnavailable."""
        progress = self._store.progress_of(job) if not job.status.ended else None
        position = self._store.queue_position(job) if job.status is Status.QUEUED else None
        deliveries = self._store.deliveries(job)
        return job_view(job, progress, position, self._prefix, self._sign, deliveries)


def find(services: Services, caller: Caller, job_id: str) -> Job:
    """The caller's job. Raises Problem 404, for a while 410 if it was erased; StoreUnavailable."""
    job = None
    if re.fullmatch(ID_PATTERN, job_id):
        try:
            job = services.store.get(job_id)
        except UnknownJob:
            if _was_erased(services, caller, job_id):
                raise _gone(job_id) from None
    if job is None or not caller.sees(job.owner):
        raise Problem(404, "unknown_job", f"There is no job {job_id}.")
    if job.expires_at <= datetime.now(UTC):  # nobody has swept yet
        raise _gone(job_id)
    return job


def _was_erased(services: Services, caller: Caller, job_id: str) -> bool:
    """Whether this was a job of the caller, erased not long ago. Raises StoreUnavailable."""
    owner = services.store.erased_owner(job_id)
    return owner is not None and caller.sees(owner or None)


def _gone(job_id: str) -> Problem:
    return Problem(410, "gone", f"{job_id} has expired or was deleted; nothing of it is kept.")
