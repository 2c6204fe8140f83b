"""Job records in Redis: reading them, and changing them by compare-and-set.

A change reads the record, has `record` compute the next one, and commits it only if the record has not changed since it
was read. The commit script also derives every index from the new record, appends to the event stream, and adds the
webhook of a job that ends to the outbox. Lease and progress are stored apart from the record, so renewing a lease costs
a few bytes; their scripts check the fencing token themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import redis

from service.jobs import record, scripts
from service.jobs.connection import reachable
from service.jobs.deliveries import DUE, Delivery, deliveries_key
from service.jobs.event_keys import EventKind, events_key, previews_key
from service.jobs.keys import (
    EXPIRY,
    LEASES,
    QUEUED,
    UNCLAIMED,
    UNREADABLE,
    attempt_key,
    gone_key,
    index_key,
    indexes,
    record_key,
)
from service.jobs.record import PRIORITIES, Job, Progress, Status, UnreadableRecord
from service.log import log

LEASE = 20.0
"""Seconds for which a claim is valid unless it is renewed."""

AGEING = 300.0
"""Seconds of waiting that raise a job's priority by one."""

_WAITS = {"stage": None, "step": None, "total_steps": None, "progress": 0.0, "eta_seconds": None}


class UnknownJob(LookupError):
    """No record under this id."""


@dataclass(frozen=True)
class JobSnapshot:
    """A job, the progress of its attempt, the number of jobs that run before it, and the log of its webhook."""

    job: Job
    progress: Progress | None
    queue_position: int | None
    deliveries: tuple[Delivery, ...]


class RecordStore:
    """Job records. Every method raises StoreUnavailable if Redis does not answer or refuses to write, and
    UnreadableRecord if it needs a record that cannot be read.

    `lease`: seconds for which a claim is valid unless it is renewed; `ageing`: seconds of waiting that raise a job's
    priority by one. The same in all processes.
    """

    def __init__(self, client: redis.Redis, lease: float = LEASE, ageing: float = AGEING) -> None:
        self.lease = lease
        self._ageing = ageing
        self._redis = client
        self._commit = client.register_script(scripts.COMMIT)
        self._erase = client.register_script(scripts.ERASE)
        self._due = client.register_script(scripts.DUE)
        self._postpone_in = client.register_script(scripts.POSTPONE)
        self._keep = client.register_script(scripts.KEEP)

    def ping(self) -> None:
        """Raise StoreUnavailable unless Redis answers."""
        with reachable():
            self._redis.ping()

    def create(self, job: Job) -> None:
        """Write a new record. On return it is as durable as Redis is configured to make it."""
        if not self._written("", None, job):
            raise ValueError(f"{job.id} exists already")

    def get(self, job_id: str) -> Job:
        """The record. Raises UnknownJob."""
        return self._parsed(job_id, self._text(job_id))

    def page(
        self,
        status: Status | None = None,
        kind: str | None = None,
        owner: str | None = None,
        after: str | None = None,
        limit: int = 20,
        oldest_first: bool = False,
    ) -> tuple[list[Job], str | None]:
        """Jobs, newest first, those of `status`, `kind` and `owner` where given, that come after the id `after`.

        Returns at most `limit` of them, and the id after which the next page begins, None if there is none. Records
        that cannot be read are skipped.
        """
        key = index_key(owner, status, kind)
        begin = f"({after}" if after else "-" if oldest_first else "+"

        def ids_of_page() -> Any:
            if oldest_first:
                return self._redis.zrangebylex(key, begin, "+", 0, limit + 1)
            return self._redis.zrevrangebylex(key, begin, "-", 0, limit + 1)

        found = self._read(ids_of_page)
        ids = [decoded(each) for each in found]
        return self.readable(ids[:limit]), ids[limit - 1] if len(ids) > limit else None

    def readable(self, job_ids: list[str]) -> list[Job]:
        """The records of these jobs, without those that are erased or cannot be read."""
        if not job_ids:
            return []
        texts: Any = self._read(lambda: self._redis.mget([record_key(job_id) for job_id in job_ids]))
        jobs = []
        for job_id, text in zip(job_ids, texts, strict=True):
            try:
                jobs += [self._parsed(job_id, text)] if text is not None else []
            except UnreadableRecord:
                continue  # `_parsed` has reported it
        return jobs

    def count_queued(self, owner: str | None = None) -> int:
        """Queued jobs, those of `owner` where given."""
        return int(self._read(lambda: self._redis.zcard(index_key(owner, Status.QUEUED, None))))

    def look(self, job_id: str) -> JobSnapshot:
        """The job with its progress, queue position and deliveries, in one round trip. Raises UnknownJob."""
        text, *facts = self._ask([job_id], with_record=True)[0]
        if text is None:
            raise UnknownJob(job_id)
        return _snapshot(self._parsed(job_id, text), facts)

    def snapshots(self, jobs: Iterable[Job]) -> list[JobSnapshot]:
        """The same for several jobs, in one round trip."""
        wanted = list(jobs)
        answers = self._ask([job.id for job in wanted], with_record=False)
        return [_snapshot(job, facts) for job, facts in zip(wanted, answers, strict=True)]

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a queued job. The worker of a running one learns of the request at its next step or renewal.

        Raises UnknownJob; IllegalTransition if it has ended.
        """
        return self._change(job_id, record.cancel)

    def erase(self, job_id: str, remember: timedelta | None = None) -> None:
        """Erase the record and everything that refers to it, and fence off its holder. An unknown id is ignored.

        `erased_owner` returns the job's owner for the time `remember`.
        """
        while True:
            try:
                text = self._text(job_id)
            except UnknownJob:
                return
            job = self._parsed(job_id, text)
            keys = [
                *(record_key(job_id), attempt_key(job_id), gone_key(job_id)),
                *(events_key(job_id), previews_key(job_id), deliveries_key(job_id)),
                *(QUEUED, LEASES, UNCLAIMED, EXPIRY, DUE),
            ]
            milliseconds = int(remember.total_seconds() * 1000) if remember else ""
            with reachable():
                if self._erase(keys=keys + indexes(job), args=[text, job_id, milliseconds, job.owner or ""]):
                    return

    def erased_owner(self, job_id: str) -> str | None:
        """The owner of an erased job, "" if it had none; None if no such job is remembered."""
        owner = self._read(lambda: self._redis.get(gone_key(job_id)))
        return None if owner is None else decoded(owner)

    def expired(self, limit: int = 100, skip: int = 0) -> list[str]:
        """Ids of jobs whose retention is over, the earliest first, without the first `skip`."""
        return self._ids_due(EXPIRY, limit, skip)

    def drop_expiry(self, job_id: str) -> None:
        """Remove an id from the expiry set if it has no record, or its job has not ended."""
        with reachable():
            text: Any = self._redis.get(record_key(job_id))
            if text is None or not self._parsed(job_id, text).status.ended:
                self._keep(keys=[record_key(job_id), EXPIRY], args=[text or "", job_id])

    def recheck_unreadable(self) -> None:
        """Remove ids from the set of unreadable records if they were erased, or this version can read them."""
        with reachable():
            ids: Any = self._redis.smembers(UNREADABLE)
        for job_id in map(decoded, ids):
            try:
                self.get(job_id)
            except UnreadableRecord:
                continue
            except UnknownJob:
                pass
            with reachable():
                self._redis.srem(UNREADABLE, job_id)

    def _ids_due(self, key: str, limit: int, skip: int = 0, longest: int | None = None) -> list[str]:
        """`longest`: bound of times in this set, in milliseconds from now; None for no bound."""
        with reachable():
            ids: Any = self._due(keys=[key], args=[limit, skip, "" if longest is None else longest])
        return [decoded(job_id) for job_id in ids]

    def _postpone(self, key: str, milliseconds: int, job_ids: list[str]) -> None:
        with reachable():
            self._postpone_in(keys=[key], args=[milliseconds, *job_ids])

    def _milliseconds(self) -> int:
        return int(self.lease * 1000)

    def _patience(self) -> int:
        """Milliseconds within which a free worker claims a job that has a message."""
        return self._milliseconds() // 2

    def _text(self, job_id: str) -> str:
        text = self._read(lambda: self._redis.get(record_key(job_id)))
        if text is None:
            raise UnknownJob(job_id)
        try:
            return decoded(text)
        except UnicodeDecodeError as error:
            self._report_unreadable(job_id, str(error))
            raise UnreadableRecord(str(error)) from error

    def _parsed(self, job_id: str, text: str | bytes) -> Job:
        """Raises UnreadableRecord."""
        try:
            return Job.from_json(text)
        except UnreadableRecord as error:
            self._report_unreadable(job_id, str(error))
            raise

    def _report_unreadable(self, job_id: str, reason: str) -> None:
        """Count the record. Only the first process that reads it logs it."""
        with reachable():
            new = self._redis.sadd(UNREADABLE, job_id)
        if new:
            log.error("a job's record cannot be read", job=job_id, reason=reason)

    def _read(self, ask: Callable[[], Any]) -> Any:
        """Read, once more after a timeout, such as with a busy disk."""
        with reachable():
            try:
                return ask()
            except redis.TimeoutError:
                return ask()

    def _ask(self, job_ids: list[str], with_record: bool) -> list[list[Any]]:
        """For each job: its record if wanted, attempt, queue position and webhook log."""

        def ask() -> Any:
            asked: Any = self._redis.pipeline(transaction=False)
            for job_id in job_ids:
                if with_record:
                    asked.get(record_key(job_id))
                asked.hgetall(attempt_key(job_id)).zrank(QUEUED, job_id).lrange(deliveries_key(job_id), 0, -1)
            return asked.execute()

        answers = self._read(ask)
        width = 4 if with_record else 3
        return [answers[start : start + width] for start in range(0, len(answers), width)]

    def _change(self, job_id: str, transition: Callable[[Job], Job], guarded: bool = False) -> Job:
        """Apply `transition` atomically. `guarded`: only if the lease has expired; raises StaleClaim otherwise."""
        while True:
            text = self._text(job_id)
            job = self._parsed(job_id, text)
            changed = transition(job)
            if changed == job or self._written(text, job, changed, guarded):
                return changed

    def _written(self, old: str, before: Job | None, job: Job, guarded: bool = False) -> bool:
        """Replace the record `old` by `job`. False if the record has changed meanwhile."""
        held, waits, ended = job.holder is not None, job.status is Status.QUEUED, job.status.ended
        change: dict[str, Any] = {
            "id": job.id,
            "old": old,
            "new": job.to_json(),
            "guarded": guarded,
            "record": record_key(job.id),
            "attempt": attempt_key(job.id),
            "queued": QUEUED,
            "leases": LEASES,
            "unclaimed": UNCLAIMED,
            "expiry": EXPIRY,
            "events": events_key(job.id),
            "previews": previews_key(job.id),
            "webhooks": DUE,
            "lease": self._milliseconds(),
            "cancel": job.cancel_requested_at is not None,
            "ended": ended,
            "deliver": before is not None and ended and not before.status.ended and job.wants_webhook,
            "leave": [key for key in indexes(before) if key not in indexes(job)] if before else [],
            "enter": indexes(job),
        }
        if held:
            change |= {"held": job.attempt, "claimed": before is None or before.attempt != job.attempt}
        if waits:
            change["turn"] = _turn(job, self._ageing)
        if waits and not held:  # a new job has a message already; a requeued one may have lost it
            change["wake"] = self._patience() if before is None else 0
        if ended:
            change["expires"] = int(job.expires_at.timestamp() * 1000)
        if kind := _event(before, job):
            change["event"] = kind
        with reachable():
            answer = self._commit(args=[json.dumps(change, ensure_ascii=False, separators=(",", ":"))])
        if answer == -1:
            raise record.StaleClaim(f"{job.id}: its lease was renewed")
        return bool(answer)


def decoded(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def progress_data(progress: Progress | None, queue_position: int | None, attempt: int) -> str:
    """The data of a progress event, JSON; `progress` is None for a queued job."""
    steps = asdict(progress) if progress else _WAITS
    return json.dumps({**steps, "queue_position": queue_position, "attempt": attempt}, separators=(",", ":"))


def _event(before: Job | None, job: Job) -> EventKind | None:
    """The kind of event for a change; None if only the holder changed."""
    if before is not None and _shown(before) == _shown(job):
        return None
    return EventKind(job.status) if job.status.ended else EventKind.STATUS


def _shown(job: Job) -> tuple[object, ...]:
    return job.status, job.cancel_requested_at, job.model_missing_since is None, job.model_loading_since is None


def _snapshot(job: Job, facts: list[Any]) -> JobSnapshot:
    attempt, position, deliveries = facts
    log_of_webhook = tuple(found for entry in deliveries if (found := Delivery.parsed(entry)) is not None)
    return JobSnapshot(job, _progress(attempt), position, log_of_webhook)


def _progress(attempt: Any) -> Progress | None:
    """The latest progress report of an attempt; None if there is none, or none that this version can read."""
    values = {decoded(key): decoded(value) for key, value in attempt.items()}
    if "stage" not in values:
        return None
    try:
        return Progress(
            stage=values["stage"],
            step=int(values["step"]),
            total_steps=int(values["total_steps"]),
            progress=float(values["progress"]),
            eta_seconds=float(values["eta_seconds"]) if values["eta_seconds"] else None,
        )
    except (KeyError, ValueError):
        return None


def _turn(job: Job, ageing: float) -> int:
    """Score of a job in the queue: jobs that were claimed before come first, then the oldest, where each priority below
    the highest counts as `ageing` seconds. Exact in a double, the type of Redis' scores."""
    created = int(job.created_at.timestamp() * 1000)
    if job.attempt:
        return created - 10**13
    return created + int(1000 * ageing) * (len(PRIORITIES) - 1 - PRIORITIES.index(job.priority))
