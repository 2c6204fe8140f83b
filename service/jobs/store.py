"""Where job records live: the one place that talks to Redis about jobs.

Keys: `duet:job:{id}` the record (JSON), `duet:job:{id}:progress` a hash of the running attempt, `duet:jobs` all ids by
time of creation, `duet:queued` the waiting ids in the order in which they will run, `duet:workers` the workers by the
time until which their last sign of life is good.

A change reads the record, lets `record` compute the next one, and commits it only if the record is still the one that
was read (compare-and-set in a script, because another process may change it between). Progress is apart from the
record, so that a step costs a few bytes; the script that writes it checks the fencing token itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from service.jobs import record
from service.jobs.record import PRIORITIES, Job, JobError, Output, Progress, Timings
from service.settings import Settings

_COMPARE_AND_SET = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
if ARGV[4] ~= '' then
  redis.call('DEL', KEYS[2])
  if ARGV[4] ~= 'ended' then redis.call('HSET', KEYS[2], 'attempt', ARGV[4]) end
end
if ARGV[5] ~= 'queued' then redis.call('ZREM', KEYS[3], ARGV[3]) end
return 1
"""
_PROGRESS = """
if redis.call('HGET', KEYS[1], 'attempt') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
"""
_JOBS, _QUEUED, _WORKERS = "duet:jobs", "duet:queued", "duet:workers"
_UNWRITABLE = (redis.exceptions.ReadOnlyError, redis.exceptions.OutOfMemoryError)


class StoreUnavailable(Exception):
    """Redis cannot be reached, or takes no writes. Nothing is known about a change that was under way."""


class UnknownJob(LookupError):
    """No record under this id."""


def connect(settings: Settings) -> redis.Redis:
    """A client that gives up within seconds: who waits for an answer is better served by a 503 than by silence."""
    return redis.Redis.from_url(
        settings.redis_url,
        socket_connect_timeout=1.0,
        socket_timeout=2.0,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(cap=0.1, base=0.02), retries=2),
    )


class JobStore:
    """Job records in Redis. Every method raises StoreUnavailable where Redis does not answer or refuses to write."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._compare_and_set = client.register_script(_COMPARE_AND_SET)
        self._write_progress = client.register_script(_PROGRESS)

    def ping(self) -> None:
        """Raise StoreUnavailable unless Redis answers."""
        with _reachable():
            self._redis.ping()

    def create(self, job: Job) -> None:
        """Write a new record; on return it is on Redis' disk as far as Redis is set to put it there."""
        with _reachable(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.set(_key(job.id), job.to_json())
            pipeline.zadd(_JOBS, {job.id: _milliseconds(job)})
            pipeline.zadd(_QUEUED, {job.id: _turn(job)})
            pipeline.execute()

    def get(self, job_id: str) -> Job:
        """The record. Raises UnknownJob."""
        return Job.from_json(self._text(job_id))

    def progress_of(self, job: Job) -> Progress | None:
        """How far the job is; None where no attempt has reported anything yet."""
        with _reachable():
            stored = self._redis.hgetall(_progress_key(job.id))
        values = {_decoded(key): _decoded(value) for key, value in stored.items()}
        if "stage" not in values:
            return None
        return Progress(
            stage=values["stage"],
            step=int(values["step"]),
            total_steps=int(values["total_steps"]),
            progress=float(values["progress"]),
            eta_seconds=float(values["eta_seconds"]) if values["eta_seconds"] else None,
        )

    def queue_position(self, job: Job) -> int | None:
        """Jobs that will run before this one; None once it runs or has ended."""
        with _reachable():
            position = self._redis.zrank(_QUEUED, job.id)
        return position if isinstance(position, int) else None

    def claim(self, job_id: str) -> Job | None:
        """Take a job over and become its only owner: the new record, whose `attempt` is the fencing token.

        None where nothing is to be done: the job has ended, or was erased. A running job can be claimed again; the
        worker that had it is then fenced off.
        """
        try:
            return self._change(job_id, record.claim)
        except (UnknownJob, record.IllegalTransition):
            return None

    def start(self, job_id: str, token: int) -> Job:
        """The engine begins with the job. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.start(job, token), repeatable=True)

    def progress(self, job_id: str, token: int, progress: Progress) -> None:
        """Report a step. Raises StaleClaim if the token is not the current one, the job has ended or was erased."""
        values = {key: "" if value is None else value for key, value in asdict(progress).items()}
        arguments: list[Any] = [token, *(part for pair in values.items() for part in pair)]
        with _reachable():
            written = self._write_progress(keys=[_progress_key(job_id)], args=arguments)
        if not written:
            raise record.StaleClaim(f"{job_id}: attempt {token} is not the one that runs")

    def complete(self, job_id: str, token: int, outputs: list[Output], timings: Timings) -> Job:
        """Commit the result, once. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.complete(job, token, tuple(outputs), timings), repeatable=True)

    def fail(self, job_id: str, token: int, error: JobError) -> Job:
        """Commit a failure, once. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.fail(job, token, error), repeatable=True)

    def unfinished(self) -> list[Job]:
        """Every job that has not ended, oldest first."""
        with _reachable():
            ids: Any = self._redis.zrange(_JOBS, 0, -1)
            texts: Any = self._redis.mget([_key(job_id.decode()) for job_id in ids]) if ids else []
        jobs = [Job.from_json(text) for text in texts if text is not None]
        return [job for job in jobs if not job.status.ended]

    def delete(self, job_id: str) -> None:
        """Erase the record; an unknown id is no error."""
        with _reachable(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.delete(_key(job_id), _progress_key(job_id))
            pipeline.zrem(_JOBS, job_id)
            pipeline.zrem(_QUEUED, job_id)
            pipeline.execute()

    def announce_worker(self, name: str, seconds: float = 15.0) -> None:
        """A worker's sign of life, good for `seconds`; `workers` lists those that are still good."""
        with _reachable():
            self._redis.zadd(_WORKERS, {name: self._now() + seconds})

    def forget_worker(self, name: str) -> None:
        """A worker leaves in order."""
        with _reachable():
            self._redis.zrem(_WORKERS, name)

    def workers(self) -> list[str]:
        """Names of the workers that gave a sign of life lately."""
        with _reachable():
            now = self._now()
            self._redis.zremrangebyscore(_WORKERS, "-inf", now)
            names: Any = self._redis.zrange(_WORKERS, 0, -1)
        return sorted(_decoded(name) for name in names)

    def _now(self) -> float:
        """Seconds since 1970 by Redis' clock: those of the workers may differ."""
        seconds, microseconds = self._redis.time()
        return seconds + microseconds / 1e6

    def _text(self, job_id: str) -> str:
        with _reachable():
            text = self._redis.get(_key(job_id))
        if text is None:
            raise UnknownJob(job_id)
        return _decoded(text)

    def _change(self, job_id: str, transition: Callable[[Job], Job], repeatable: bool = False) -> Job:
        """Apply `transition` atomically.

        `repeatable`: only the holder of the token can have written this very record, so finding it there means that our
        own commit went through and its answer was lost. A claim is not: two claimers would write the same bytes.
        """
        proposal: Job | None = None
        while True:
            text = self._text(job_id)
            job = Job.from_json(text)
            if repeatable and job == proposal:
                return job
            proposal = transition(job)
            attempt = "ended" if proposal.status.ended else proposal.attempt if proposal.attempt != job.attempt else ""
            with _reachable():
                done = self._compare_and_set(
                    keys=[_key(job_id), _progress_key(job_id), _QUEUED],
                    args=[text, proposal.to_json(), job_id, attempt, proposal.status],
                )
            if done:
                return proposal


@contextlib.contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, *_UNWRITABLE) as error:
        raise StoreUnavailable(str(error)) from error
    except redis.ResponseError as error:
        if not str(error).startswith("MISCONF"):  # what Redis says when its own last save failed, say on a full disk
            raise
        raise StoreUnavailable(str(error)) from error


def _decoded(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _key(job_id: str) -> str:
    return f"duet:job:{job_id}"


def _progress_key(job_id: str) -> str:
    return f"duet:job:{job_id}:progress"


def _milliseconds(job: Job) -> int:
    return int(job.created_at.timestamp() * 1000)


def _turn(job: Job) -> int:
    """Sorts by priority, highest first, then by age; exact in a double, which is what Redis sorts by."""
    return (len(PRIORITIES) - 1 - PRIORITIES.index(job.priority)) * 10**13 + _milliseconds(job)
