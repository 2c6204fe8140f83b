"""Finds jobs for a caller. A job of another key does not exist for the caller."""

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

JobId = Annotated[str, Path(description="job id", examples=[JOB["id"]], json_schema_extra={"pattern": ID_PATTERN})]
"""Path parameter. Not validated: an invalid id is an unknown job, 404 and not 422."""


class Viewer:
    """Builds the JSON view of jobs for the caller of one request."""

    def __init__(self, request: Request, services: Services, caller: Caller) -> None:
        """Raises StoreUnavailable."""
        self._store = services.store
        self._prefix = prefix(request)
        self._sign = UrlSigner(services, caller, request.scope.get("root_path", ""))

    def __call__(self, job: Job) -> JobView:
        """The view of the job with its current progress. Raises StoreUnavailable."""
        return self.show(self._store.snapshots([job])[0])

    def show(self, snapshot: JobSnapshot) -> JobView:
        """The view of a snapshot."""
        status = snapshot.job.status
        progress = snapshot.progress if not status.ended else None
        position = snapshot.queue_position if status is Status.QUEUED else None
        return job_view(snapshot.job, progress, position, self._prefix, self._sign, snapshot.deliveries)


def find(services: Services, caller: Caller, job_id: str) -> Job:
    """The caller's job. Raises Problem 404, or 410 if it was erased recently; StoreUnavailable."""
    return look(services, caller, job_id).job


def look(services: Services, caller: Caller, job_id: str) -> JobSnapshot:
    """The caller's job with its progress and its place in the queue. Raises as `find`."""
    snapshot = None
    if _ID.fullmatch(job_id):
        try:
            snapshot = services.store.look(job_id)
        except UnknownJob:
            if _was_erased(services, caller, job_id):
                raise _gone(job_id) from None
    if snapshot is None or not caller.sees(snapshot.job.owner):
        raise Problem(404, "unknown_job", f"There is no job {job_id}.")
    if snapshot.job.status.ended and snapshot.job.expires_at <= datetime.now(UTC):  # not swept yet
        raise _gone(job_id)
    return snapshot


def _was_erased(services: Services, caller: Caller, job_id: str) -> bool:
    """Whether this was a job of the caller and was erased recently. Raises StoreUnavailable."""
    owner = services.store.erased_owner(job_id)
    return owner is not None and caller.sees(owner or None)


def _gone(job_id: str) -> Problem:
    return Problem(410, "gone", f"{job_id} has expired or was deleted.")
