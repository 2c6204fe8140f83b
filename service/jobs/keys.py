"""Keys of jobs in Redis.

    duet:job:{id}              the record, JSON
    duet:job:{id}:attempt      the attempt in progress: its number, its progress, whether a cancel was requested
    duet:index:{o}:{s}:{k}     ids of the jobs with owner, status and kind; an empty part matches any
    duet:queued                ids of the queued jobs, in the order in which they will run
    duet:waiting:{p}           ids of the queued jobs of this priority
    duet:leases                ids of the held jobs, by the end of the lease
    duet:unclaimed             ids of the queued jobs that nobody holds, by the time at which they need another message
    duet:expiry                ids of the ended jobs, by the time at which they are to be erased
    duet:gone:{id}             the owner of an erased job; expires
    duet:unreadable            ids of the jobs whose record this version of Duet cannot read
    duet:models                number of the latest reload of the models
    duet:workers               names of the workers, by the end of their last heartbeat

The stream of a job's events is in `event_keys`, the log of its webhook in `deliveries`, the speed of the workers in
`speeds`.
"""

from __future__ import annotations

import itertools

from service.jobs.record import Job, Status

QUEUED = "duet:queued"
LEASES = "duet:leases"
UNCLAIMED = "duet:unclaimed"
EXPIRY = "duet:expiry"
UNREADABLE = "duet:unreadable"
WORKERS = "duet:workers"
MODELS = "duet:models"


def record_key(job_id: str) -> str:
    """The record."""
    return f"duet:job:{job_id}"


def attempt_key(job_id: str) -> str:
    """The attempt in progress: the field `attempt` is the current fencing token."""
    return f"duet:job:{job_id}:attempt"


def gone_key(job_id: str) -> str:
    """The owner of an erased job."""
    return f"duet:gone:{job_id}"


def index_key(owner: str | None, status: Status | None, kind: str | None) -> str:
    """The ids of the jobs with this owner, status and kind; None matches any."""
    return f"duet:index:{owner or ''}:{status or ''}:{kind or ''}"


def waiting_key(priority: str) -> str:
    """The ids of the queued jobs of this priority."""
    return f"duet:waiting:{priority}"


def indexes(job: Job) -> list[str]:
    """Every index that the job belongs to."""
    owners = [None, job.owner] if job.owner else [None]
    keys = [index_key(*part) for part in itertools.product(owners, (None, job.status), (None, job.kind))]
    return [*keys, waiting_key(job.priority)] if job.status is Status.QUEUED else keys
