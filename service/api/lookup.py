"""The caller's own jobs: to everybody else they are not there."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Path, Request

from service.api.auth import Caller, UrlSigner
from service.api.examples import JOB
from service.api.problems import Problem
from service.api.services import Services, prefix
from service.jobs.record import Job, Status
from service.jobs.records import JobSnapshot, UnknownJob
from service.jobs.view import JobView, job_view

ID_PATTERN = r"^job_[0-9A-HJKMNP-TV-Z]{26}$"

_ID = re.compile(ID_PATTERN)

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
        """The job with what is known about it now. Raises StoreUnavailable."""
        return self.show(self._store.snapshots([job])[0])

    def show(self, sight: JobSnapshot) -> JobView:
        """What was seen."""
        status = sight.job.status
        progress = sight.progress if not status.ended else None
        position = sight.queue_position if status is Status.QUEUED else None
        return job_view(sight.job, progress, position, self._prefix, self._sign, sight.deliveries)


def find(services: Services, caller: Caller, job_id: str) -> Job:
    """The caller's job. Raises Problem 404, for a while 410 if it was erased; StoreUnavailable."""
    return look(services, caller, job_id).job


def look(services: Services, caller: Caller, job_id: str) -> JobSnapshot:
    """The caller's job and all that is known about it. Raises as `find`."""
    sight = None
    if _ID.fullmatch(job_id):
        try:
            sight = services.store.look(job_id)
        except UnknownJob:
            if _was_erased(services, caller, job_id):
                raise _gone(job_id) from None
    if sight is None or not caller.sees(sight.job.owner):
        raise Problem(404, "unknown_job", f"There is no job {job_id}.")
    if sight.job.status.ended and sight.job.expires_at <= datetime.now(UTC):  # nobody has swept yet
        raise _gone(job_id)
    return sight


def _was_erased(services: Services, caller: Caller, job_id: str) -> bool:
    """Whether this was a job of the caller, erased not long ago. Raises StoreUnavailable."""
    owner = services.store.erased_owner(job_id)
    return owner is not None and caller.sees(owner or None)


def _gone(job_id: str) -> Problem:
    return Problem(410, "gone", f"{job_id} has expired or was deleted; nothing of it is kept.")
