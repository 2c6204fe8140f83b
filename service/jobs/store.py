"""Claims of jobs: leases, reports of workers, and what the reaper needs to take jobs from dead workers."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

import redis

from service.jobs import record, scripts
from service.jobs.connection import reachable
from service.jobs.event_keys import events_key
from service.jobs.keys import LEASES, UNCLAIMED, WORKERS, attempt_key
from service.jobs.record import Job, JobError, Output, Progress, Timings, UnreadableRecord
from service.jobs.records import AGEING, LEASE, RecordStore, UnknownJob, decoded, progress_data
from service.jobs.speeds import Speeds

LONGEST_HEARTBEAT = 15.0
"""Maximum validity of a worker's heartbeat, in seconds."""

MODEL_RETRY = 5.0
"""Seconds until a job whose model a worker lacks is offered to the next one."""

LONGEST_RETRY = 60.0
"""Most seconds for which `offer_later` puts a message off."""


class JobStore(RecordStore):
    """The records, with the operations of workers and the reaper. Raises as RecordStore."""

    def __init__(self, client: redis.Redis, lease: float = LEASE, ageing: float = AGEING) -> None:
        super().__init__(client, lease, ageing)
        self._write_progress = client.register_script(scripts.PROGRESS)
        self._renew = client.register_script(scripts.RENEW)
        self.speeds = Speeds(client)

    def claim(self, job_id: str, holder: str, alone: bool = False) -> Job | None:
        """Claim a job: the new record, whose `attempt` is the fencing token.

        The claim is valid for `lease` seconds and has to be renewed. `holder` is the name of the process; `alone`:
        the job runs alone there. None if the job cannot be claimed: it has ended, was erased, or is held.
        """
        try:
            return self._change(job_id, lambda job: record.claim(job, holder, alone))
        except (UnknownJob, UnreadableRecord, record.IllegalTransition):
            return None

    def model_missing(self, job_id: str, patience: timedelta) -> Job:
        """A worker without the job's model received its message. The job waits for another worker, and fails after
        `patience`. The reaper sends its next message in MODEL_RETRY seconds.

        Raises UnknownJob; IllegalTransition if it has ended or is held.
        """
        job = self._change(job_id, lambda job: record.model_missing(job, patience))
        self._postpone(UNCLAIMED, int(1000 * MODEL_RETRY), [job_id])
        return job

    def model_loading(self, job_id: str, token: int) -> Job:
        """The holder loads the job's model first. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.model_loading(job, token))

    def offer_later(self, job_id: str, seconds: float) -> None:
        """A worker without a free place for this job received its message: the reaper sends the next one in `seconds`,
        at most LONGEST_RETRY."""
        self._postpone(UNCLAIMED, int(1000 * min(seconds, LONGEST_RETRY)), [job_id])

    def renew(self, job_id: str, token: int) -> bool:
        """Extend the lease by `lease` seconds, even if it has expired but nobody has claimed the job since.

        Returns whether a cancel was requested. Raises StaleClaim if the job is no longer held with this token.
        """
        with reachable():
            answer = self._renew(keys=[attempt_key(job_id), LEASES], args=[token, job_id, self._milliseconds()])
        return self._asked_to_stop(answer, job_id, token)

    def start(self, job_id: str, token: int) -> Job:
        """The engine begins with the job. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.start(job, token))

    def progress(self, job_id: str, token: int, progress: Progress) -> bool:
        """Report a step; returns whether a cancel was requested. Raises StaleClaim as `renew`."""
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
        """The worker has stopped a job whose cancel was requested. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.stopped(job, token))

    def hand_back(self, job_id: str, token: int) -> Job:
        """Release a job without a strike. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.hand_back(job, token))

    def strike(self, job_id: str, token: int, error: JobError) -> Job:
        """The attempt failed with `error`, and another one may succeed: the job is requeued, or fails at its last
        strike. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.strike(job, token, error))

    def spooled(self, job_id: str, token: int, holder: str) -> Job:
        """The result waits for its upload at `holder`. Raises UnknownJob, StaleClaim, IllegalTransition."""
        return self._change(job_id, lambda job: record.spooled(job, token, holder))

    def announce_worker(self, name: str, seconds: float = LONGEST_HEARTBEAT) -> None:
        """Write a worker's heartbeat, valid for `seconds`, at most LONGEST_HEARTBEAT."""
        with reachable():
            self._redis.zadd(WORKERS, {name: self._now() + min(seconds, LONGEST_HEARTBEAT)})

    def forget_worker(self, name: str) -> None:
        """Remove the heartbeat of a worker that shuts down."""
        with reachable():
            self._redis.zrem(WORKERS, name)

    def workers(self) -> list[str]:
        """Names of the workers with a valid heartbeat. One that expires later than LONGEST_HEARTBEAT from now was
        written before Redis' clock went back and is ignored: a live worker writes the next one within seconds."""
        with reachable():
            now = self._now()
            self._redis.zremrangebyscore(WORKERS, "-inf", now)
            names: Any = self._redis.zrangebyscore(WORKERS, now, now + LONGEST_HEARTBEAT)
        return sorted(decoded(name) for name in names)

    def uptime(self) -> float:
        """Seconds since Redis was started, by its wall clock."""
        return self.server()[1]

    def server(self) -> tuple[str, float]:
        """The id of this run of Redis, and the seconds since it was started, by its wall clock."""
        with reachable():
            info: Any = self._redis.info("server")
        return str(info["run_id"]), float(info["uptime_in_seconds"])

    def leases_run_out(self, limit: int = 100) -> list[str]:
        """Ids of held jobs whose lease was not renewed in time.

        No lease ends later than one lease from now, even if Redis' clock went back since it was renewed.
        """
        return self._ids_due(LEASES, limit, longest=self._milliseconds())

    def held(self, holder: str) -> list[Job]:
        """The jobs of the holders whose names begin with `holder`."""
        with reachable():
            ids: Any = self._redis.zrange(LEASES, 0, -1)
        jobs = self.readable([decoded(job_id) for job_id in ids])
        return [job for job in jobs if job.holder and job.holder.startswith(holder)]

    def abandon(self, job_id: str, known_dead: bool = False) -> Job | None:
        """Take the job from a holder whose lease has expired, or that is `known_dead`: it is requeued or fails.

        None if the lease was renewed meanwhile, or the holder has released the job.
        """
        try:
            return self._change(job_id, lambda job: record.abandon(job, job.attempt), guarded=not known_dead)
        except record.StaleClaim:
            return None
        except (UnknownJob, UnreadableRecord, record.IllegalTransition):
            # Postponed: `leases_run_out` has a limit, and ids that stay due would block the others.
            self._postpone(LEASES, self._milliseconds(), [job_id])
            return None

    def without_message(self, limit: int = 100) -> list[str]:
        """Ids of queued jobs without a holder that should have been claimed by now."""
        return self._ids_due(UNCLAIMED, limit, longest=max(self._patience(), int(1000 * LONGEST_RETRY)))

    def expect_claims(self, job_ids: list[str]) -> None:
        """A message was sent for each of them: `without_message` does not list them for a while."""
        self._postpone(UNCLAIMED, self._patience(), job_ids)

    @staticmethod
    def _asked_to_stop(answer: Any, job_id: str, token: int) -> bool:
        if not answer:
            raise record.StaleClaim(f"{job_id}: attempt {token} is not the one that runs")
        return int(answer) == 2

    def _now(self) -> float:
        """Seconds since 1970 by Redis' clock. The workers' clocks may differ."""
        seconds, microseconds = self._redis.time()
        return seconds + microseconds / 1e6
