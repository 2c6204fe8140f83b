"""The job record and its state machine. Only these functions change a status. All are pure: a record in, a record out.

    queued ──start──▶ in_progress ──complete──▶ completed
     │ ▲ │                │ │ │ └─────fail─────▶ failed
     │ │ │                │ │ └─cancel, stopped▶ canceled
     │ │ └─cancel─────────┼─┼──────────────────▶ canceled
     │ └──hand_back, strike, abandon            (back to queued; failed at the third strike)
     └────────fail────────┴────────────────────▶ failed

`claim` names the holder and increments `attempt`, the fencing token; writes with an older token are refused. It keeps
the status, because a claimed job is not running yet. A held job cannot be claimed until its holder releases it
(`hand_back`, `strike`) or the reaper does after the holder's lease has expired (`abandon`).

A strike counts against a job: it raised, or its worker died while it ran alone. Jobs that a dead worker held together
get no strike; each is run alone next. A job fails at the third strike.

Every transition is idempotent for its token, so a commit whose answer was lost can be sent again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from ulid import ULID

from model.media.edits import Edit
from model.media.mix_levels import REPLACE, Mix
from model.media.streams import AudioStream, VideoStream
from model.request import SamplingParams

PRIORITIES = ("low", "normal", "high")
STRIKES = 3
"""Number of strikes at which a job fails."""

SPOOL = ":spool"
"""Suffix of a holder that is a spool on a disk, where a result waits for its upload, and not a process."""

SCHEMA = 1
"""Version of the record. Raise it when older versions of Duet could not read what this one writes."""


class Status(StrEnum):
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED, Status.CANCELED)


class IllegalTransition(Exception):
    """The state machine has no such transition."""


class UnreadableRecord(Exception):
    """The record was written by a version of Duet that this one does not understand, or is damaged."""


class StaleClaim(Exception):
    """The fencing token is outdated: the job has been claimed again."""


@dataclass(frozen=True)
class Window:
    """The part of an upload that a job uses, in seconds, and the numbers of its tracks, as in the file, from 0.

    Two tracks are the left and the right channel of one sound. Records of older versions do not name them. `notice`
    says why the window ends before the upload does, if the user did not ask for that.
    """

    start: float
    duration: float
    tracks: tuple[int, ...] = ()
    notice: str | None = None


@dataclass(frozen=True)
class Input:
    """An upload. `name` is its name in the API (`input.mp4`), `key` its key in storage; `duration` in seconds."""

    filename: str
    bytes: int
    sha256: str
    duration: float
    video: VideoStream | None
    audio: AudioStream | None
    used: Window
    name: str
    key: str


@dataclass(frozen=True)
class Scores:
    """How well sound and picture of an output agree: `sync` and `av_align` 0 … 1, `lag` of the sound in seconds. None
    for what cannot be said; `reason` says why, in words."""

    sync: float | None = None
    av_align: float | None = None
    lag: float | None = None
    reason: Annotated[str | None, Field(exclude_if=lambda reason: reason is None)] = field(default=None, compare=False)

    def by_name(self) -> dict[str, float | None]:
        return {"sync": self.sync, "av_align": self.av_align, "lag": self.lag}


@dataclass(frozen=True)
class Output:
    """One generated clip. `files` maps the plain name (`video.mp4`) to the key in storage; an output that was not kept
    has none. Records of older versions have no scores."""

    index: int
    seed: int
    files: dict[str, str]
    scores: Scores = Scores()


@dataclass(frozen=True)
class JobError:
    """Why a job failed. `message` is for its owner."""

    code: str
    message: str
    retryable: bool
    attempt: int


@dataclass(frozen=True)
class Timings:
    """Seconds spent in each stage."""

    queued: float = 0.0
    decode: float = 0.0
    base: float = 0.0
    sr: float = 0.0
    encode: float = 0.0
    upload: float = 0.0


@dataclass(frozen=True)
class Webhook:
    """Where to report the end of the job. `events`: the statuses to report."""

    url: str
    events: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """Progress of the current attempt: `step` of `total_steps` in `stage`, `progress` 0 … 1 over all stages."""

    stage: str
    step: int
    total_steps: int
    progress: float
    eta_seconds: float | None = None


@dataclass(frozen=True)
class Job:
    """A whole job. `params` has every default resolved; `attempt` counts claims and is the fencing token.

    `owner` is the name of the API key that submitted it, None without keys. `holder` is the worker or spool that has
    it. `alone`: it runs alone on its worker, now or at its next attempt. `retried_from` is the id of the job that it
    repeats. `mix`: how a new sound is joined with that of the upload. `edit`: what a job of
    kind edit makes anew. `request_id` and `traceparent` (W3C Trace
    Context) identify the request that created it, in logs and traces. `expires_at` counts from the end of the job;
    before that, from its creation. `model_missing_since`: when a worker without its model first received it, unless a
    worker has claimed it since. `model_loading_since`: when its holder began to load its model, or to wait for room for
    it, unless the engine has begun since.
    """

    id: str
    kind: str
    status: Status
    model: str
    params: SamplingParams
    priority: str
    created_at: datetime
    expires_at: datetime
    started_at: datetime | None = None
    completed_at: datetime | None = None
    attempt: int = 0
    input: Input | None = None
    outputs: tuple[Output, ...] = ()
    error: JobError | None = None
    timings: Timings | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    owner: str | None = None
    cancel_requested_at: datetime | None = None
    retried_from: str | None = None
    holder: str | None = None
    alone: bool = False
    strikes: int = 0
    webhook: Webhook | None = None
    mix: Mix = REPLACE
    edit: Edit | None = None
    request_id: str | None = None
    traceparent: str | None = None
    model_missing_since: datetime | None = None
    model_loading_since: datetime | None = None
    schema: Annotated[int, Field(ge=1, le=SCHEMA)] = SCHEMA

    @property
    def wants_webhook(self) -> bool:
        """Whether the job has a webhook for its current status."""
        return self.webhook is not None and self.status in self.webhook.events

    @property
    def storage_prefix(self) -> str:
        return storage_prefix(self.id)

    def attempt_key(self, name: str) -> str:
        """Storage key of the file `name` of the current attempt. Attempts never overwrite each other's files."""
        return f"{self.storage_prefix}attempt-{self.attempt}/{name}"

    def to_json(self) -> str:
        return _codec.dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Job:
        """Read a record. Fields that this version does not know are ignored. Raises UnreadableRecord."""
        try:
            job = _codec.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise UnreadableRecord(f"{where}: {first['msg']}") from error
        return job if job.schema == SCHEMA else replace(job, schema=SCHEMA)


def storage_prefix(job_id: str) -> str:
    """Prefix of all storage keys of this job."""
    return f"jobs/{job_id}/"


def new_job_id(now: float | None = None) -> str:
    """`job_` and a ULID, so ids sort by time, also those created within one millisecond.

    `now`: seconds since 1970; the current time if absent.
    """
    return f"job_{ULID() if now is None else ULID.from_timestamp(now)}"


def made_at(job_id: str) -> float:
    """When an id was created, in seconds since 1970."""
    return ULID.from_str(job_id.removeprefix("job_")).timestamp


def new_job(
    kind: str,
    model: str,
    params: SamplingParams,
    *,
    priority: str,
    metadata: dict[str, str],
    retention: timedelta,
    input: Input | None = None,
    job_id: str | None = None,
    owner: str | None = None,
    retried_from: str | None = None,
    webhook: Webhook | None = None,
    mix: Mix = REPLACE,
    edit: Edit | None = None,
) -> Job:
    """The record of a new, queued job."""
    now = _now()
    return Job(
        id=job_id or new_job_id(now.timestamp()),
        kind=kind,
        status=Status.QUEUED,
        model=model,
        params=params,
        priority=priority,
        created_at=now,
        expires_at=now + retention,
        input=input,
        metadata=metadata,
        owner=owner,
        retried_from=retried_from,
        webhook=webhook,
        mix=mix,
        edit=edit,
    )


def claim(job: Job, holder: str, alone: bool = False) -> Job:
    """Claim the job for the process `holder`; a repeated claim by the same holder changes nothing. `alone`: nothing
    else runs beside it there. Raises IllegalTransition if the job has ended or another process holds it."""
    if job.status.ended:
        raise IllegalTransition(f"{job.id} is {job.status} and cannot be claimed")
    if job.holder == holder:
        return job
    if job.holder is not None:
        raise IllegalTransition(f"{job.id} is held by {job.holder}")
    return replace(job, attempt=job.attempt + 1, holder=holder, alone=alone or job.alone, model_missing_since=None)


def model_loading(job: Job, token: int) -> Job:
    """The holder has to load the job's model before it can begin."""
    _running(job, token, "wait for its model")
    return replace(job, model_loading_since=job.model_loading_since or _now())


def start(job: Job, token: int) -> Job:
    """The engine begins. `started_at` is that of the latest attempt."""
    _running(job, token, "start")
    if job.status is Status.IN_PROGRESS:
        return job
    return replace(job, status=Status.IN_PROGRESS, started_at=_now(), model_loading_since=None)


def complete(job: Job, token: int, outputs: tuple[Output, ...], timings: Timings) -> Job:
    """The result is complete, all files in storage. It counts even if a cancel was requested meanwhile."""
    if job.status is Status.COMPLETED and job.attempt == token and job.outputs == tuple(outputs):
        return job
    _running(job, token, "complete")
    if job.status is not Status.IN_PROGRESS:
        raise IllegalTransition(f"{job.id} is {job.status} and cannot complete")
    return _end(job, Status.COMPLETED, outputs=tuple(outputs), timings=timings, error=None)


def fail(job: Job, token: int, error: JobError) -> Job:
    """The job ends without a result. A claimed job may fail before the engine begins."""
    if job.status is Status.FAILED and job.attempt == token and job.error == error:
        return job
    _running(job, token, "fail")
    return _end(job, Status.FAILED, error=error)


def cancel(job: Job) -> Job:
    """The owner cancels: a queued job ends at once, a running one when its worker sees the request.

    Raises IllegalTransition if it has ended.
    """
    if job.status.ended:
        raise IllegalTransition(f"{job.id} is {job.status} and cannot be canceled")
    job = replace(job, cancel_requested_at=job.cancel_requested_at or _now())
    return _end(job, Status.CANCELED) if job.status is Status.QUEUED else job


def model_missing(job: Job, patience: timedelta) -> Job:
    """A worker without the job's model received it. It waits for another worker, and fails after `patience`.

    Raises IllegalTransition if it has ended or is held.
    """
    if job.status is not Status.QUEUED or job.holder is not None:
        raise IllegalTransition(f"{job.id} is {job.status}, held by {job.holder}: it does not wait for a model")
    since = job.model_missing_since or _now()
    if _now() - since < patience:
        return replace(job, model_missing_since=since)
    message = f"no worker with the model {job.model!r} claimed the job within {patience}"
    return _end(job, Status.FAILED, error=JobError("model_unavailable", message, True, job.attempt))


def stopped(job: Job, token: int) -> Job:
    """The worker has stopped a job whose cancel was requested."""
    if job.status is Status.CANCELED and job.attempt == token:
        return job
    _running(job, token, "stop")
    if job.cancel_requested_at is None:
        raise IllegalTransition(f"no cancel of {job.id} was requested")
    return _end(job, Status.CANCELED)


def hand_back(job: Job, token: int) -> Job:
    """The worker releases the job through no fault of the job, such as at shutdown. Counts no strike."""
    if job.attempt == token and job.status is Status.QUEUED and job.holder is None:
        return job
    _running(job, token, "be handed back")
    if job.cancel_requested_at is not None:
        return _end(job, Status.CANCELED)
    return replace(job, status=Status.QUEUED, holder=None, started_at=None, model_loading_since=None)


def strike(job: Job, token: int, error: JobError) -> Job:
    """The attempt failed by the job's fault. It is retried, alone, until the last strike."""
    if job.attempt == token and job.holder is None and job.strikes and not job.status.ended:
        return job
    _running(job, token, "be tried again")
    job = replace(job, strikes=job.strikes + 1, alone=True)
    return fail(job, token, error) if job.strikes >= STRIKES else hand_back(job, token)


def abandon(job: Job, token: int) -> Job:
    """The holder of the token died or hangs."""
    _running(job, token, "be abandoned")
    if job.alone:
        message = f"the worker died or hung {job.strikes + 1} times while it ran this job alone"
        return strike(job, token, JobError("worker_died", message, False, token))
    return hand_back(replace(job, alone=True), token)


def spooled(job: Job, token: int, holder: str) -> Job:
    """The result waits on a disk for its upload. `holder` is now that spool, not a process; if the result is lost
    there, the job gets no strike."""
    _running(job, token, "be spooled")
    return replace(job, holder=holder, alone=False)


def _end(job: Job, status: Status, **changes: Any) -> Job:
    """End the job. `expires_at` moves, because retention counts from the end."""
    now = _now()
    expires_at = now + (job.expires_at - job.created_at)
    return replace(job, status=status, completed_at=now, expires_at=expires_at, holder=None, **changes)


def _running(job: Job, token: int, what: str) -> None:
    """Raise unless the token's attempt is under way."""
    _current(job, token)
    if job.status.ended:
        raise IllegalTransition(f"{job.id} is {job.status} and cannot {what}")
    if job.holder is None:
        raise StaleClaim(f"{job.id}: attempt {token} was released")


def _current(job: Job, token: int) -> None:
    if token != job.attempt or token < 1:
        raise StaleClaim(f"{job.id}: token {token} is stale, attempt {job.attempt} is current")


def _now() -> datetime:
    return datetime.now(UTC)


_codec = TypeAdapter(Job)
"""Reads and writes records, compiled: at a thousand requests per second it takes most of a request's time."""
