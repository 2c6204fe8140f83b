"""Where job records live: the one place that talks to Redis about jobs.

    duet:job:{id}              the record, JSON
    duet:job:{id}:attempt      the attempt that is held: its number, its progress, whether a cancel was asked for
    duet:index:{o}:{s}:{k}     ids of the jobs with owner, status and kind; an empty part stands for any
    duet:queued                ids that wait, in the order in which they will run
    duet:waiting:{p}           ids that wait, of this priority
    duet:leases                ids that are held, by the end of the lease
    duet:unclaimed             ids that wait and that nobody holds, by the time at which they need another message
    duet:expiry                all ids, by the time at which they are to be erased
    duet:gone:{id}             the owner of a job that was erased, for a while
    duet:workers               workers, by the end of their last sign of life
    duet:events:{id} …         what happened to the job, for those who watch (`streams`)
    duet:webhooks …            what is to be delivered, and what was (`deliveries`)

A change reads the record, lets `record` compute the next one, and commits it only if the record is still the one that
was read. The script that commits also puts every index right, from the new record alone, so that none can drift, tells
those who watch, and enters the webhook of a job that ends among those to be delivered; all times are those of Redis'
clock. Lease and progress are apart from the record, so that keeping a job costs a few bytes;
their scripts check the fencing token themselves.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from service.jobs import record
from service.jobs.deliveries import DUE, Delivery, deliveries_key
from service.jobs.event_keys import (
    ANNOUNCE,
    CHANNEL,
    GONE,
    KEPT_MS,
    PREVIEWS_KEPT_MS,
    Kind,
    events_key,
    previews_key,
)
from service.jobs.record import PRIORITIES, Job, JobError, Output, Progress, Status, Timings
from service.settings import Settings

LEASE = 20.0
"""Seconds for which a claim is good unless it is renewed."""

AGEING = 300.0
"""Seconds of waiting that raise a job's priority by one."""

NOW = "local time = redis.call('TIME') local now = time[1] * 1000 + math.floor(time[2] / 1000)"
"""Lua: `now`, milliseconds since 1970 by Redis' clock."""

_COMMIT = f"""
{NOW}
{ANNOUNCE}
local record, attempt, queued, leases, unclaimed, expiry, events, previews, webhooks = unpack(KEYS, 1, 9)
local old, new, id, held, claimed, cancel, turn, lease, wake, expires, guarded = unpack(ARGV, 1, 11)
local happened, ended, deliver = unpack(ARGV, 12, 14)
local current = redis.call('GET', record) or ''
if current == new then return 1 end
if current ~= old then return 0 end
if guarded == '1' and tonumber(redis.call('ZSCORE', leases, id) or 0) > now then return -1 end
redis.call('SET', record, new)
if held == '' then
  redis.call('DEL', attempt)
  redis.call('ZREM', leases, id)
elseif claimed == '1' then
  redis.call('DEL', attempt, previews)
  redis.call('HSET', attempt, 'attempt', held)
  redis.call('ZADD', leases, now + lease, id)
end
if held ~= '' and cancel == '1' then redis.call('HSET', attempt, 'cancel', 1) end
if turn == '' then redis.call('ZREM', queued, id) else redis.call('ZADD', queued, turn, id) end
if wake == '' then redis.call('ZREM', unclaimed, id) else redis.call('ZADD', unclaimed, now + wake, id) end
redis.call('ZADD', expiry, expires, id)
if happened ~= '' then announce(events, id, happened, new) end
if ended == '1' then
  redis.call('PEXPIRE', events, {KEPT_MS})
  redis.call('PEXPIRE', previews, {PREVIEWS_KEPT_MS})
end
if deliver == '1' then redis.call('ZADD', webhooks, now, id) end
local leave = tonumber(ARGV[15])
for i = 10, 9 + leave do redis.call('ZREM', KEYS[i], id) end
for i = 10 + leave, #KEYS do redis.call('ZADD', KEYS[i], 0, id) end
return 1
"""
_ERASE = f"""
local record, attempt, gone, events, previews, deliveries = unpack(KEYS, 1, 6)
local old, id, remember, owner = unpack(ARGV, 1, 4)
if redis.call('GET', record) ~= old then return 0 end
redis.call('DEL', record, attempt, events, previews, deliveries)
for i = 7, #KEYS do redis.call('ZREM', KEYS[i], id) end
if remember ~= '' then redis.call('SET', gone, owner, 'PX', remember) end
redis.call('PUBLISH', '{CHANNEL}', id .. '{GONE}')
return 1
"""
_PROGRESS = f"""
{ANNOUNCE}
local token, id, data = unpack(ARGV, 1, 3)
if redis.call('HGET', KEYS[1], 'attempt') ~= token then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 4))
announce(KEYS[2], id, '{Kind.PROGRESS}', data)
return redis.call('HEXISTS', KEYS[1], 'cancel') == 1 and 2 or 1
"""
_RENEW = f"""
{NOW}
if redis.call('HGET', KEYS[1], 'attempt') ~= ARGV[1] then return 0 end
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[2])
return redis.call('HEXISTS', KEYS[1], 'cancel') == 1 and 2 or 1
"""
_DUE = f"{NOW} return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])"
_WAKE_LATER = f"{NOW} for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', now + ARGV[1], ARGV[i]) end"

QUEUED = "duet:queued"
"""The ids of the jobs that wait, in their order."""

LEASES = "duet:leases"
"""The ids of the jobs that are held, by the end of the lease."""

WORKERS = "duet:workers"
"""The names of the workers, by the end of their last sign of life."""

_UNCLAIMED, _EXPIRY = "duet:unclaimed", "duet:expiry"
_UNWRITABLE = (redis.exceptions.ReadOnlyError, redis.exceptions.OutOfMemoryError)


_WAITS = {"stage": None, "step": None, "total_steps": None, "progress": 0.0, "eta_seconds": None}


class StoreUnavailable(Exception):
    """Redis cannot be reached, or takes no writes. Nothing is known about a change that was under way."""


class UnknownJob(LookupError):
    """No record under this id."""


SOCKET_TIMEOUT = 2.0
"""Seconds that a command may take."""


def connect(settings: Settings) -> redis.Redis:
    """A client that gives up within seconds: who waits for an answer is better served by a 503 than by silence.

    So what broke is tried again, and what took too long is not: redis-py has its retries around connecting and around
    the command, and a server that accepts connections and says nothing would cost nine times the timeout.
    """
    return redis.Redis.from_url(
        settings.redis_url,
        socket_connect_timeout=1.0,
        socket_timeout=SOCKET_TIMEOUT,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), 2, (redis.exceptions.ConnectionError,)),
    )


def connect_async(settings: Settings) -> redis.asyncio.Redis:
    """The same for an event loop."""
    return redis.asyncio.Redis.from_url(
        settings.redis_url,
        socket_connect_timeout=1.0,
        socket_timeout=SOCKET_TIMEOUT,
        health_check_interval=30,
        retry=AsyncRetry(ExponentialBackoff(cap=0.1, base=0.02), 2, (redis.exceptions.ConnectionError,)),
    )


@dataclass(frozen=True)
class Sight:
    """A job as it stands: how far its attempt is, how many run before it, what became of its webhook."""

    job: Job
    progress: Progress | None
    queue_position: int | None
    deliveries: tuple[Delivery, ...]


class JobStore:
    """Job records in Redis. Every method raises StoreUnavailable where Redis does not answer or refuses to write.

    `lease`: seconds for which a claim is good unless it is renewed; `ageing`: seconds of waiting that raise a job's
    priority by one. The same in all processes.
    """

    def __init__(self, client: redis.Redis, lease: float = LEASE, ageing: float = AGEING) -> None:
        self.lease = lease
        self._ageing = ageing
        self._redis = client
        self._commit = client.register_script(_COMMIT)
        self._erase = client.register_script(_ERASE)
        self._write_progress = client.register_script(_PROGRESS)
        self._renew = client.register_script(_RENEW)
        self._due = client.register_script(_DUE)
        self._wake_later = client.register_script(_WAKE_LATER)

    # For whoever submits and asks.

    def ping(self) -> None:
        """Raise StoreUnavailable unless Redis answers."""
        with reachable():
            self._redis.ping()

    def create(self, job: Job) -> None:
        """Write a new record; on return it is on Redis' disk as far as Redis is set to put it there."""
        if not self._written("", None, job):
            raise ValueError(f"{job.id} exists already")

    def get(self, job_id: str) -> Job:
        """The record. Raises UnknownJob."""
        return Job.from_json(self._text(job_id))

    def page(
        self,
        status: Status | None = None,
        kind: str | None = None,
        owner: str | None = None,
        after: str | None = None,
        limit: int = 20,
    ) -> tuple[list[Job], str | None]:
        """Jobs, newest first, those of `status`, `kind` and `owner` where given, that are older than the id `after`.

        Returns at most `limit` of them, and the id after which the next page begins, None if there is none.
        """
        end = f"({after}" if after else "+"
        with reachable():
            found: Any = self._redis.zrevrangebylex(index_key(owner, status, kind), end, "-", 0, limit + 1)
            ids = [_decoded(each) for each in found]
            texts: Any = self._redis.mget([record_key(job_id) for job_id in ids[:limit]]) if ids else []
        jobs = [Job.from_json(text) for text in texts if text is not None]
        return jobs, ids[limit - 1] if len(ids) > limit else None

    def count_queued(self, owner: str | None = None) -> int:
        """Jobs that wait, those of `owner` where given."""
        with reachable():
            return int(self._redis.zcard(index_key(owner, Status.QUEUED, None)))

    def look(self, job_id: str) -> Sight:
        """The job and all that is known about it, in one round trip. Raises UnknownJob."""
        with reachable():
            asked: Any = self._redis.pipeline(transaction=False)
            asked.get(record_key(job_id)).hgetall(attempt_key(job_id)).zrank(QUEUED, job_id)
            text, attempt, position, deliveries = asked.lrange(deliveries_key(job_id), 0, -1).execute()
        if text is None:
            raise UnknownJob(job_id)
        return Sight(
            Job.from_json(text), _progress(attempt), position, tuple(Delivery.from_json(entry) for entry in deliveries)
        )

    def progress_of(self, job: Job) -> Progress | None:
        """How far the job is; None where no attempt has reported anything yet."""
        with reachable():
            return _progress(self._redis.hgetall(attempt_key(job.id)))

    def queue_position(self, job: Job) -> int | None:
        """Jobs that will run before this one; None once it runs or has ended."""
        with reachable():
            position = self._redis.zrank(QUEUED, job.id)
        return position if isinstance(position, int) else None

    def deliveries(self, job: Job) -> list[Delivery]:
        """What became of the job's webhook so far, oldest first."""
        if job.webhook is None:
            return []
        with reachable():
            entries: Any = self._redis.lrange(deliveries_key(job.id), 0, -1)
        return [Delivery.from_json(entry) for entry in entries]

    def request_cancel(self, job_id: str) -> Job:
        """Cancel a job that waits; ask the worker of a running one to stop, which its next step or renewal tells it.

        Raises UnknownJob; IllegalTransition if it has ended.
        """
        return self._change(job_id, record.cancel)

    def erase(self, job_id: str, remember: timedelta | None = None) -> None:
        """Erase the record and all that points to it; whoever holds the job is fenced off. An unknown id is no error.

        For as long as `remember` says, `erased_owner` knows that there was such a job.
        """
        while True:
            try:
                text = self._text(job_id)
            except UnknownJob:
                return
            job = Job.from_json(text)
            keys = [
                *(record_key(job_id), attempt_key(job_id), _gone_key(job_id)),
                *(events_key(job_id), previews_key(job_id), deliveries_key(job_id)),
                *(QUEUED, LEASES, _UNCLAIMED, _EXPIRY, DUE),
            ]
            milliseconds = int(remember.total_seconds() * 1000) if remember else ""
            with reachable():
                if self._erase(keys=keys + _indexes(job), args=[text, job_id, milliseconds, job.owner or ""]):
                    return

    def erased_owner(self, job_id: str) -> str | None:
        """Whose job it was that is erased and remembered: "" for nobody's; None if there is no memory of such a job."""
        with reachable():
            owner = self._redis.get(_gone_key(job_id))
        return None if owner is None else _decoded(owner)

    def expired(self, limit: int = 100) -> list[str]:
        """Ids of jobs whose retention is over, those first whose it was over first."""
        return self._ids_due(_EXPIRY, limit)

    # For workers.

    def claim(self, job_id: str, holder: str, alone: bool = False) -> Job | None:
        """Take a job over and become its only holder: the new record, whose `attempt` is the fencing token.

        The claim is good for `lease` seconds and has to be renewed. `holder` is the name of the process, `alone`
        whether it does nothing else meanwhile. None where nothing is to be done: the job has ended, was erased, or is
        held.
        """
        try:
            return self._change(job_id, lambda job: record.claim(job, holder, alone))
        except (UnknownJob, record.IllegalTransition):
            return None

    def renew(self, job_id: str, token: int) -> bool:
        """Hold the job for another `lease` seconds, also when the lease ran out and nobody took the job since.

        Returns whether a cancel was asked for. Raises StaleClaim if the job is no longer held with this token.
        """
        with reachable():
            answer = self._renew(keys=[attempt_key(job_id), LEASES], args=[token, job_id, self._milliseconds()])
        return self._asked_to_stop(answer, job_id, token)

    def start(self, job_id: str, token: int) -> Job:
        """The engine begins with the job. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.start(job, token))

    def progress(self, job_id: str, token: int, progress: Progress) -> bool:
        """Report a step; returns whether a cancel was asked for. Raises StaleClaim as `renew`."""
        values = {key: "" if value is None else value for key, value in asdict(progress).items()}
        happened = progress_data(progress, None, token)
        arguments: list[Any] = [token, job_id, happened, *(part for pair in values.items() for part in pair)]
        with reachable():
            answer = self._write_progress(keys=[attempt_key(job_id), events_key(job_id)], args=arguments)
        return self._asked_to_stop(answer, job_id, token)

    def complete(self, job_id: str, token: int, outputs: list[Output], timings: Timings) -> Job:
        """Commit the result, once. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.complete(job, token, tuple(outputs), timings))

    def fail(self, job_id: str, token: int, error: JobError) -> Job:
        """Commit a failure, once. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.fail(job, token, error))

    def cancelled(self, job_id: str, token: int) -> Job:
        """The job that was to be cancelled is stopped. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.stopped(job, token))

    def hand_back(self, job_id: str, token: int) -> Job:
        """Let go of a job; nothing is counted. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.hand_back(job, token))

    def strike(self, job_id: str, token: int, error: JobError) -> Job:
        """The attempt failed with `error`, which might pass: the job waits again, or has failed if this was its last
        strike. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.strike(job, token, error))

    def spooled(self, job_id: str, token: int, holder: str) -> Job:
        """The result waits for its upload at `holder`. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.spooled(job, token, holder))

    def announce_worker(self, name: str, seconds: float = 15.0) -> None:
        """A worker's sign of life, good for `seconds`; `workers` lists those that are still good."""
        with reachable():
            self._redis.zadd(WORKERS, {name: self._now() + seconds})

    def forget_worker(self, name: str) -> None:
        """A worker leaves in order."""
        with reachable():
            self._redis.zrem(WORKERS, name)

    def workers(self) -> list[str]:
        """Names of the workers that gave a sign of life lately."""
        with reachable():
            now = self._now()
            self._redis.zremrangebyscore(WORKERS, "-inf", now)
            names: Any = self._redis.zrange(WORKERS, 0, -1)
        return sorted(_decoded(name) for name in names)

    # For the reaper.

    def uptime(self) -> float:
        """Seconds since Redis was started."""
        with reachable():
            info: Any = self._redis.info("server")
        return float(info["uptime_in_seconds"])

    def leases_run_out(self, limit: int = 100) -> list[str]:
        """Ids of held jobs whose lease was not renewed in time."""
        return self._ids_due(LEASES, limit)

    def held(self, holder: str) -> list[Job]:
        """What those work on whose names begin with `holder`."""
        with reachable():
            ids: Any = self._redis.zrange(LEASES, 0, -1)
            texts: Any = self._redis.mget([record_key(_decoded(job_id)) for job_id in ids]) if ids else []
        jobs = [Job.from_json(text) for text in texts if text is not None]
        return [job for job in jobs if job.holder and job.holder.startswith(holder)]

    def abandon(self, job_id: str, known_dead: bool = False) -> Job | None:
        """Take the job from a holder whose lease has run out, or that is `known_dead`: it waits again, or has failed.

        None where nothing is to be done: the lease was renewed meanwhile, or the holder let go of the job.
        """
        try:
            return self._change(job_id, lambda job: record.abandon(job, job.attempt), guarded=not known_dead)
        except (UnknownJob, record.StaleClaim, record.IllegalTransition):
            return None

    def without_message(self, limit: int = 100) -> list[str]:
        """Ids of jobs that wait, that nobody holds, and that should have been claimed by now."""
        return self._ids_due(_UNCLAIMED, limit)

    def expect_claims(self, job_ids: list[str]) -> None:
        """A message for each of them is on its way: `without_message` does not list them for a while."""
        with reachable():
            self._wake_later(keys=[_UNCLAIMED], args=[self._patience(), *job_ids])

    def _ids_due(self, key: str, limit: int) -> list[str]:
        with reachable():
            ids: Any = self._due(keys=[key], args=[limit])
        return [_decoded(job_id) for job_id in ids]

    @staticmethod
    def _asked_to_stop(answer: Any, job_id: str, token: int) -> bool:
        if not answer:
            raise record.StaleClaim(f"{job_id}: attempt {token} is not the one that runs")
        return int(answer) == 2

    def _milliseconds(self) -> int:
        return int(self.lease * 1000)

    def _patience(self) -> int:
        """Milliseconds in which a free worker has claimed a job for which there is a message."""
        return self._milliseconds() // 2

    def _now(self) -> float:
        """Seconds since 1970 by Redis' clock: those of the workers may differ."""
        seconds, microseconds = self._redis.time()
        return seconds + microseconds / 1e6

    def _text(self, job_id: str) -> str:
        with reachable():
            text = self._redis.get(record_key(job_id))
        if text is None:
            raise UnknownJob(job_id)
        return _decoded(text)

    def _change(self, job_id: str, transition: Callable[[Job], Job], guarded: bool = False) -> Job:
        """Apply `transition` atomically. `guarded`: only if the lease has run out; raises StaleClaim if not."""
        while True:
            text = self._text(job_id)
            job = Job.from_json(text)
            changed = transition(job)
            if changed == job or self._written(text, job, changed, guarded):
                return changed

    def _written(self, old: str, before: Job | None, job: Job, guarded: bool = False) -> bool:
        """Commit `job` in place of the record `old`; False if the record is another one by now."""
        held = job.holder is not None
        claimed = held and (before is None or before.attempt != job.attempt)
        waits = job.status is Status.QUEUED
        # A new job has its message at once; one that comes back may have lost it.
        wake: int | str = "" if held or not waits else self._patience() if before is None else 0
        happened = _event(before, job)
        deliver = before is not None and job.status.ended and not before.status.ended and job.wants_webhook
        leave = [key for key in _indexes(before) if key not in _indexes(job)] if before else []
        with reachable():
            answer = self._commit(
                keys=[
                    *(record_key(job.id), attempt_key(job.id), QUEUED, LEASES, _UNCLAIMED, _EXPIRY),
                    *(events_key(job.id), previews_key(job.id), DUE),
                    *leave,
                    *_indexes(job),
                ],
                args=[
                    *(old, job.to_json(), job.id, job.attempt if held else "", int(claimed)),
                    *(
                        int(job.cancel_requested_at is not None),
                        _turn(job, self._ageing) if waits else "",
                        self._milliseconds(),
                    ),
                    *(wake, int(job.expires_at.timestamp() * 1000), int(guarded)),
                    *(happened or "", int(job.status.ended), int(deliver), len(leave)),
                ],
            )
        if answer == -1:
            raise record.StaleClaim(f"{job.id}: its lease was renewed")
        return bool(answer)


@contextlib.contextmanager
def reachable() -> Iterator[None]:
    """Around everything that talks to Redis: what goes wrong there becomes StoreUnavailable."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, *_UNWRITABLE) as error:
        raise StoreUnavailable(str(error)) from error
    except redis.ResponseError as error:
        # No memory left, or Redis' own last save failed, say on a full disk; met by a script, its words come wrapped.
        if not re.search(r"\b(MISCONF|OOM)\b", str(error)):
            raise
        raise StoreUnavailable(str(error)) from error


def _decoded(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def progress_data(progress: Progress | None, queue_position: int | None, attempt: int) -> str:
    """What an event tells of a job's progress, JSON; None for one that waits."""
    steps = asdict(progress) if progress else _WAITS
    return json.dumps({**steps, "queue_position": queue_position, "attempt": attempt}, separators=(",", ":"))


def _event(before: Job | None, job: Job) -> Kind | None:
    """What those who watch are told of a change: nothing where only the holder is another."""
    if before is not None and (before.status, before.cancel_requested_at) == (job.status, job.cancel_requested_at):
        return None
    return Kind(job.status) if job.status.ended else Kind.STATUS


def _progress(attempt: Any) -> Progress | None:
    """What an attempt has reported last."""
    values = {_decoded(key): _decoded(value) for key, value in attempt.items()}
    if "stage" not in values:
        return None
    return Progress(
        stage=values["stage"],
        step=int(values["step"]),
        total_steps=int(values["total_steps"]),
        progress=float(values["progress"]),
        eta_seconds=float(values["eta_seconds"]) if values["eta_seconds"] else None,
    )


def record_key(job_id: str) -> str:
    """Under which Redis keeps the record."""
    return f"duet:job:{job_id}"


def attempt_key(job_id: str) -> str:
    """Under which Redis keeps the attempt that is held: its field `attempt` is the token that is current."""
    return f"duet:job:{job_id}:attempt"


def _gone_key(job_id: str) -> str:
    return f"duet:gone:{job_id}"


def index_key(owner: str | None, status: Status | None, kind: str | None) -> str:
    """Under which Redis keeps the ids of the jobs with this owner, status and kind; None stands for any."""
    return f"duet:index:{owner or ''}:{status or ''}:{kind or ''}"


def waiting_key(priority: str) -> str:
    """Under which Redis keeps the ids of the jobs of this priority that wait."""
    return f"duet:waiting:{priority}"


def _indexes(job: Job) -> list[str]:
    """Every index in which the job stands."""
    owners = [None, job.owner] if job.owner else [None]
    indexes = [index_key(*part) for part in itertools.product(owners, (None, job.status), (None, job.kind))]
    return [*indexes, waiting_key(job.priority)] if job.status is Status.QUEUED else indexes


def _turn(job: Job, ageing: float) -> int:
    """Sorts as the queue does: what was claimed before, then by age, where each priority below the highest counts as
    `ageing` seconds of it; exact in a double, which is what Redis sorts by."""
    created = int(job.created_at.timestamp() * 1000)
    if job.attempt:
        return created - 10**13
    return created + int(1000 * ageing) * (len(PRIORITIES) - 1 - PRIORITIES.index(job.priority))
