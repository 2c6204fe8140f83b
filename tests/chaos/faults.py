"""The faults of a chaos run. Each breaks one thing, and measures how long the system takes to go on.

Kills of workers and API processes and outages of the object store come at any time. All other faults take away what
everything depends on, so they come one after the other, each when the previous one is over and the system works again.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import redis

from service.jobs import keys
from service.jobs.connection import StoreUnavailable
from service.jobs.record import SPOOL, Job, Status, new_job_id
from service.jobs.records import UnknownJob
from tests.chaos.outcome import Outcome, Plan
from tests.chaos.system import WORKERS, System
from tests.chaos.worker import BEHAVIOUR
from tests.redis_faults import FAULTS as REDIS_FAULTS
from tests.small_disk import fill
from tests.waiting import until
from workers.app import process_name

POLL = 0.2
SUBMIT_INTERVAL = 1.0
"""Seconds between two jobs that are submitted to see whether the workers work."""


class Faults:
    """Acts on `system`; `submit` submits one more job. Their methods measure into `outcome`."""

    def __init__(self, system: System, plan: Plan, outcome: Outcome, submit: Callable[[], None]) -> None:
        self.system = system
        self.plan = plan
        self.outcome = outcome
        self.unreadable: list[str] = []
        """Ids of the records that were made unreadable."""
        self._submit = submit
        self._calm = 0.0

    def happen(self, name: str, chance: random.Random) -> None:
        """The fault of this name, to its end and until the system has recovered."""
        if name in NEED_SMALL_DISKS and self.system.disks:
            self.outcome.skipped[name] = self.system.disks
            return
        try:
            FAULTS[name].act(self, name, chance)
        except AssertionError as error:
            self.outcome.problems.append(f"{name}: {error}")

    # At any time.

    def kill_worker(self, name: str, chance: random.Random) -> None:
        pid = chance.choice(until(self.system.workers, "a worker is there", 90))
        interrupted: list[Job] = []
        with suppress(StoreUnavailable):
            held = self.system.store.held(process_name(pid))
            interrupted = [job for job in held if BEHAVIOUR not in job.metadata]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.outcome.interrupted += len(interrupted)
        began = time.monotonic()
        for job in interrupted:
            self._recovers(name, began, lambda job=job: self._goes_on(job), f"{job.id} after its worker was killed")

    def kill_api(self, name: str, chance: random.Random) -> None:
        for pid in until(lambda: self.system.processes("API"), "the API is there", 60):
            os.kill(pid, signal.SIGKILL)
        self._recovers(name, time.monotonic(), lambda: self.system.answers("/healthz"), "the API")

    def take_storage_away(self, name: str, chance: random.Random) -> None:
        self.system.proxy.take_away()
        time.sleep(self.plan.unavailable_seconds)
        spooled: list[Job] = []
        with suppress(StoreUnavailable):
            spooled = [job for job in self.system.store.held("") if job.holder and job.holder.endswith(SPOOL)]
        self.system.proxy.put_back()
        began = time.monotonic()
        self._recovers(name, began, lambda: self.system.answers("/readyz"), "the stack without storage")
        for job in spooled:
            self._recovers(name, began, lambda job=job: self._goes_on(job, True), f"{job.id}, whose result was spooled")

    # One after the other.

    def kill_redis(self, name: str, chance: random.Random) -> None:
        for pid in until(lambda: self.system.processes("Redis"), "Redis is there", 60):
            os.kill(pid, signal.SIGKILL)
        self._works_again(name)

    def redis_refuses(self, name: str, chance: random.Random) -> None:
        with (
            redis.Redis(unix_socket_path=self.system.redis_socket) as client,
            REDIS_FAULTS[name.removeprefix("Redis ")](client),
        ):
            time.sleep(self._refusing(chance))
        self._works_again(name)

    def stop_process(self, name: str, chance: random.Random) -> None:
        process = name.removeprefix("stopped ")
        pid = (
            self.system.pid
            if process == "supervisor"
            else chance.choice(until(lambda: self.system.processes(process), f"a process of {process} is there", 60))
        )
        apis = self.system.processes("API")
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(self.plan.stopped_seconds)
            if not self.system.answers("/healthz") and apis == self.system.processes("API"):  # none was killed
                self.outcome.problems.append(f"no API process answered while a process was stopped: {process}")
        finally:
            with suppress(ProcessLookupError):  # it was killed meanwhile
                os.kill(pid, signal.SIGCONT)
        self._works_again(name)

    def fill_worker_disk(self, name: str, chance: random.Random) -> None:
        """Uploads, temporary files and finished results have no room; Redis has."""
        filler, apis = self.system.data / "filler", self.system.processes("API")
        fill(filler)
        time.sleep(self._refusing(chance))
        if not self.system.answers("/jobs") and apis == self.system.processes("API"):
            self.outcome.problems.append("jobs could not be listed on a full disk")
        filler.unlink()
        self._works_again(name)

    def fill_data_disk(self, name: str, chance: random.Random) -> None:
        """Nothing has room."""
        fillers = [self.system.data / "filler", self.system.redis_folder / "filler"]
        apis = self.system.processes("API")
        for filler in fillers:
            fill(filler)
        time.sleep(self._refusing(chance))
        if not self.system.answers("/healthz") and apis == self.system.processes("API"):
            self.outcome.problems.append("no API process answered on a full data disk")
        for filler in fillers:
            filler.unlink()
        self._works_again(name)

    def restart_without_model(self, name: str, chance: random.Random) -> None:
        """Restart both workers without the model, then with it."""
        self.system.without_model.touch()
        self._restart_workers()
        self._submit()
        until(self._a_job_misses_its_model, "a job says that its model is missing", 60)
        time.sleep(self._refusing(chance))
        self.system.without_model.unlink()
        self._restart_workers()
        self._works_again(name)

    def damage_record(self, name: str, chance: random.Random) -> None:
        """A queued and a claimed job with records that this version cannot read, in every index and with a message."""
        sound = self.system.store.page(limit=1)[0]
        if not sound:
            self._submit()
            sound = self.system.store.page(limit=1)[0]
        with redis.Redis(unix_socket_path=self.system.redis_socket) as client:
            for damage in (('"status":"queued"', '"status":"paused"'), ('"kind":', '"sort":')):
                job = replace(
                    sound[0], id=new_job_id(), status=Status.QUEUED, holder=None, webhook=None, completed_at=None
                )
                text = job.to_json()
                assert damage[0] in text
                members = {job.id: 0}
                for index in keys.indexes(job):
                    client.zadd(index, members)
                client.set(keys.record_key(job.id), text.replace(*damage))
                for index in (keys.QUEUED, keys.UNCLAIMED, keys.LEASES, keys.EXPIRY):
                    client.zadd(index, members)
                self.system.queue.enqueue(job)
                self.unreadable.append(job.id)
        self._works_again(name)

    def take_terminal_away(self, name: str, chance: random.Random) -> None:
        """Then kill what is started again only if the supervision goes on."""
        self.system.take_terminal_away()
        before = {*self.system.processes("API"), *self.system.processes("webhooks")}
        for pid in before:
            os.kill(pid, signal.SIGKILL)

        def restarted() -> bool:
            now = {*self.system.processes("API"), *self.system.processes("webhooks")}
            return len(now) == len(before) and not now & before

        self._works_again(name, restarted)

    # Recovery.

    def _refusing(self, chance: random.Random) -> float:
        return chance.uniform(*self.plan.refusing_seconds)

    def _works_again(self, name: str, also: Callable[[], bool] = lambda: True) -> None:
        """Recovered when the stack is ready, each worker has begun a job since now, and `also`. Jobs are submitted
        for it."""
        self._calm = time.monotonic()
        over = threading.Event()
        submitting = threading.Thread(target=self._keep_submitting, args=[over])
        submitting.start()
        since = time.time()
        try:
            self._recovers(
                name, self._calm, lambda: also() and not self.idle_workers(since) and self._ready(), "the stack"
            )
        finally:
            over.set()
            submitting.join()

    def _keep_submitting(self, over: threading.Event) -> None:
        while not over.wait(SUBMIT_INTERVAL):
            self._submit()

    def idle_workers(self, since: float) -> list[int]:
        """Worker processes that have begun no job since this time; 0 stands for one that is missing."""
        busy = {entry["pid"] for entry in self.system.ledger.entries() if entry["at"] > since}
        there = self.system.processes("worker")
        return [pid for pid in there if pid not in busy] + [0] * (WORKERS - len(there))

    def _ready(self) -> bool:
        return self.system.answers("/readyz") and self.system.answers("/jobs")

    def _recovers(self, name: str, began: float, recovered: Callable[[], bool], what: str) -> None:
        """Measure the time from `began`, or from the end of the latest of the faults that come one after the other."""
        while not recovered():
            if time.monotonic() - max(began, self._calm) > self.plan.patience:
                self.outcome.problems.append(f"never recovered from {name!r}: {what}")
                break
            time.sleep(POLL)
        self.outcome.recovery[name].append(time.monotonic() - max(began, self._calm))

    def _goes_on(self, before: Job, to_its_end: bool = False) -> bool:
        """Whether the job is held again, or has ended."""
        try:
            job = self.system.store.get(before.id)
        except (StoreUnavailable, UnknownJob):
            return False
        spooled = job.holder is not None and job.holder.endswith(SPOOL)
        return job.status.ended or (
            not to_its_end and job.holder is not None and (job.attempt > before.attempt or spooled)
        )

    def _restart_workers(self) -> None:
        before = self.system.processes("worker")
        for pid in before:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        until(
            lambda: (now := self.system.workers()) and not set(now) & set(before), "the workers are started again", 60
        )

    def _a_job_misses_its_model(self) -> bool:
        with suppress(StoreUnavailable):
            waiting, _ = self.system.store.page(Status.QUEUED, limit=100)
            return any(job.model_missing_since for job in waiting)
        return False


@dataclass(frozen=True)
class Fault:
    """`title` in the table; `at_any_time` if it does not wait for others."""

    title: str
    act: Callable[[Faults, str, random.Random], None]
    at_any_time: bool = False


FAULTS: dict[str, Fault] = {
    "worker": Fault("worker killed (kill -9)", Faults.kill_worker, at_any_time=True),
    "API": Fault("all API processes killed (kill -9)", Faults.kill_api, at_any_time=True),
    "storage": Fault("object store taken away", Faults.take_storage_away, at_any_time=True),
    "Redis": Fault("Redis killed (kill -9)", Faults.kill_redis),
    "Redis full": Fault("Redis full (`maxmemory`)", Faults.redis_refuses),
    "Redis read-only": Fault("Redis read-only, as after a failover", Faults.redis_refuses),
    "Redis without replicas": Fault("Redis without its replicas (NOREPLICAS)", Faults.redis_refuses),
    "Redis busy": Fault("Redis in a long script (BUSY)", Faults.redis_refuses),
    "stopped API": Fault("API process stopped (SIGSTOP)", Faults.stop_process),
    "stopped worker": Fault("worker stopped (SIGSTOP)", Faults.stop_process),
    "stopped Redis": Fault("Redis stopped (SIGSTOP)", Faults.stop_process),
    "stopped webhooks": Fault("sender of webhooks stopped (SIGSTOP)", Faults.stop_process),
    "stopped supervisor": Fault("supervisor stopped (SIGSTOP)", Faults.stop_process),
    "full worker disk": Fault("disk of worker and uploads full", Faults.fill_worker_disk),
    "full data disk": Fault("every disk full, that of Redis too", Faults.fill_data_disk),
    "without model": Fault("workers restarted without the jobs' model, then with it", Faults.restart_without_model),
    "unreadable record": Fault("two unreadable records among the others", Faults.damage_record),
    "terminal": Fault("terminal of `duet serve` gone, then API and webhooks killed", Faults.take_terminal_away),
}
NEED_SMALL_DISKS = {"full worker disk", "full data disk"}
"""Those that are skipped where the tests may not mount them."""

TITLES = {name: fault.title for name, fault in FAULTS.items()}
