"""One run of chaos: jobs are submitted to the embedded stack while its parts are killed, and in the end every accepted
job is accounted for. The same seed gives the same jobs and the same faults at the same times; what the faults hit
depends on the machine.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import httpx
from moto.server import ThreadedMotoServer

from service.jobs.connection import StoreUnavailable, connect
from service.jobs.queue import JobQueue, QueueUnavailable
from service.jobs.record import SPOOL, Job, Status
from service.jobs.records import UnknownJob
from service.jobs.store import JobStore
from service.settings import Settings
from tests.chaos.proxy import Proxy
from tests.chaos.worker import BEHAVIOUR, LEDGER
from tests.clips import Film, Track, make
from tests.processes import children
from tests.tiny_model import add_tiny_model
from tests.waiting import until
from workers.app import process_name

ACCESS, BUCKET = "chaos", "chaos"


@dataclass(frozen=True)
class Plan:
    """How much of everything, within `seconds`; then `patience` seconds until all must be over."""

    seed: int
    jobs: int
    seconds: float
    worker_kills: int
    api_kills: int
    redis_kills: int
    outages: int
    poison: int
    raising: int
    lease: float
    outage_seconds: float = 4.0
    step_seconds: float = 0.25
    patience: float = 150.0


@dataclass
class Outcome:
    """What became of it all. `recovery`: seconds from a fault until what it interrupted went on."""

    accepted: int = 0
    completed: int = 0
    failed_by_design: int = 0
    failed_otherwise: int = 0
    lost: int = 0
    duplicates: int = 0
    stuck: int = 0
    incomplete: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    interrupted: int = 0
    doubled: int = 0
    refused: int = 0
    recovery: list[float] = field(default_factory=list)
    most_runs: int = 0
    most_runs_alone_of_poison: int = 0
    made_twice: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    def percentile(self, percent: int) -> float:
        return statistics.quantiles(self.recovery, n=100, method="inclusive")[percent - 1] if self.recovery else 0.0

    def table(self) -> str:
        """In Markdown."""
        rows: list[tuple[str, Any]] = [
            ("accepted", self.accepted),
            ("completed", self.completed),
            ("failed by design", self.failed_by_design),
            ("failed otherwise", self.failed_otherwise),
            ("lost", self.lost),
            ("visible duplicates", self.duplicates),
            ("stuck", self.stuck),
            ("completed with a file missing or of another attempt", self.incomplete),
            ("workers killed (kill -9)", self.faults["worker"]),
            ("API killed (kill -9)", self.faults["api"]),
            ("Redis killed (kill -9)", self.faults["redis"]),
            ("object store taken away", self.faults["storage"]),
            ("messages delivered twice", self.doubled),
            ("submissions refused with 503 or cut off, then repeated", self.refused),
            ("runs interrupted by a kill", self.interrupted),
            ("recovery p50", f"{self.percentile(50):.1f} s"),
            ("recovery p99", f"{self.percentile(99):.1f} s"),
            ("most runs of one job", self.most_runs),
            ("most runs alone of a poison job", self.most_runs_alone_of_poison),
            ("results made a second time after they were complete", self.made_twice),
            ("duration", f"{self.seconds:.0f} s"),
        ]
        return "\n".join(["| what | count |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


class Chaos:
    """One run, in `folder`."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None] = print) -> None:
        self.plan = plan
        self.outcome = Outcome()
        self._folder = folder
        self._say = say
        self._data = folder / "data"
        self._ledger = folder / "ledger"
        self._accepted: dict[str, str] = {}
        self._ended: dict[str, dict[str, Any]] = {}
        self._over = threading.Event()

    def run(self) -> Outcome:
        """Raises AssertionError if the stack does not start."""
        began = time.monotonic()
        with ExitStack() as stack:
            logging.getLogger("werkzeug").setLevel(logging.WARNING)
            s3 = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
            s3.start()
            stack.callback(s3.stop)
            target = s3.get_host_and_port()
            self._bucket = boto3.client(
                "s3",
                endpoint_url=f"http://{target[0]}:{target[1]}",
                region_name="us-east-1",
                aws_access_key_id=ACCESS,
                aws_secret_access_key=ACCESS,
            )
            self._bucket.create_bucket(Bucket=BUCKET)
            self._proxy = Proxy(target)
            stack.callback(self._proxy.close)
            self._start(stack)
            self._say(f"seed {self.plan.seed}: {self.plan.jobs} jobs within {self.plan.seconds:g} s")
            pool = stack.enter_context(ThreadPoolExecutor(32))
            watcher = pool.submit(self._watch)
            self._go(pool)
            self._wait_for_the_end()
            self._over.set()
            watcher.result()
            self._account()
            self.outcome.seconds = time.monotonic() - began
        return self.outcome

    # What is run.

    def _start(self, stack: ExitStack) -> None:
        models = add_tiny_model(self._folder / "models")
        self._film = make(self._folder / "film.mp4", Film(), Track())
        self._sound = make(self._folder / "sound.wav", sound=Track(codec="pcm_s16le", format="s16"))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DUET_")} | {
            "DUET_DATA": str(self._data),
            "DUET_PORT": "0",
            "DUET_MODELS": str(models),
            "DUET_DEFAULT_MODEL": "tiny",
            "DUET_STORAGE": f"s3://{BUCKET}/duet",
            "DUET_S3_ENDPOINT": f"http://127.0.0.1:{self._proxy.port}",
            "DUET_S3_ACCESS_KEY": ACCESS,
            "DUET_S3_SECRET_KEY": ACCESS,
            "DUET_WORKERS": "2",
            "DUET_SLOTS": "3",
            "DUET_LEASE": str(self.plan.lease),
            "DUET_MAX_REQUESTS_PER_MINUTE": "100000",
            "DUET_MAX_QUEUED_PER_KEY": "10000",
            "DUET_MAX_QUEUED": "10000",
            "DUET_CHAOS_STEP": str(self.plan.step_seconds),
            LEDGER: str(self._ledger),
        }
        self._log = self._folder / "stack.log"
        with self._log.open("wb") as log:
            self._stack = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.stack"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )
        stack.callback(self._stop)
        until(self._address, "the stack is ready", 60)
        self._client = stack.enter_context(httpx.Client(base_url=self._url, timeout=20, trust_env=False))
        settings = Settings(redis_url=f"unix://{self._data / 'redis' / 'redis.sock'}", data=self._data)
        self._store = JobStore(connect(settings), self.plan.lease)
        self._queue = JobQueue(settings)
        stack.callback(self._queue.close)

    def _address(self) -> bool:
        assert self._stack.poll() is None, self._log.read_text()
        ready = [line for line in self._log.read_text(errors="replace").splitlines() if "Ready after" in line]
        if ready:
            self._url = ready[0].split()[-1]
        return bool(ready)

    def _stop(self) -> None:
        self._stack.send_signal(signal.SIGINT)
        try:
            self._stack.wait(60)
        finally:
            self._stack.kill()

    # What happens to it.

    def _go(self, pool: ThreadPoolExecutor) -> None:
        """Everything that the seed has planned, each at its time."""
        plan, chance = self.plan, random.Random(self.plan.seed)
        events: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []
        behaviours = ["poison"] * plan.poison + ["raise"] * plan.raising
        behaviours += [""] * (plan.jobs - len(behaviours))
        chance.shuffle(behaviours)
        for number, behaviour in enumerate(behaviours):
            kind = chance.choice(("generate", "v2a", "a2v"))
            twice = chance.random() < 0.2
            events.append((chance.uniform(0, plan.seconds), self._submit, (number, kind, behaviour, twice)))
        for count, fault in (
            (plan.worker_kills, self._kill_worker),
            (plan.api_kills, self._kill_api),
            (plan.redis_kills, self._kill_redis),
            (plan.outages, self._take_storage_away),
        ):
            for number in range(count):  # spread evenly, each somewhere within its share of the time
                share = plan.seconds / count
                events.append(((number + chance.random()) * share, fault, (chance.random(),)))
        began = time.monotonic()
        pending = []
        for moment, action, arguments in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0.0, began + moment - time.monotonic()))
            pending.append(pool.submit(action, *arguments))
        for each in pending:
            each.result()
        self._say(f"all is submitted and broken after {time.monotonic() - began:.0f} s: {dict(self.outcome.faults)}")

    def _submit(self, number: int, kind: str, behaviour: str, twice: bool) -> None:
        """As a client does that repeats its request until it has an answer."""
        params: dict[str, Any] = {"seed": number, "steps": 2, "metadata": {"number": str(number)}}
        if behaviour:
            params["metadata"][BEHAVIOUR] = behaviour
        headers = {"Idempotency-Key": f"chaos-{number}"}
        deadline = time.monotonic() + self.plan.patience
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError):
                if kind == "generate":
                    answer = self._client.post("/generate", json=params, headers=headers)
                else:
                    path = self._film if kind == "v2a" else self._sound
                    files = {"file": (path.name, path.read_bytes())}
                    answer = self._client.post(
                        f"/{kind}", files=files, data={"params": json.dumps(params)}, headers=headers
                    )
                if answer.status_code == 202 or (answer.status_code == 200 and "id" in answer.json()):
                    job_id = answer.json()["id"]
                    self._accepted[job_id] = behaviour
                    if twice:
                        self._deliver_again(job_id)
                    return
                if answer.status_code not in (409, 503):
                    self.outcome.problems.append(f"{kind}: {answer.status_code} {answer.text[:300]}")
            self.outcome.refused += 1
            time.sleep(0.3)
        self.outcome.problems.append(f"job {number} was never accepted")

    def _deliver_again(self, job_id: str) -> None:
        with suppress(StoreUnavailable, QueueUnavailable, UnknownJob):
            self._queue.enqueue(self._store.get(job_id))
            self.outcome.doubled += 1

    def _kill_worker(self, chance: float) -> None:
        pids = until(self._working, "a worker is there", 60)
        pid = pids[int(chance * len(pids))]
        interrupted: list[Job] = []
        with suppress(StoreUnavailable):
            interrupted = [job for job in self._store.held(process_name(pid)) if self._is_innocent(job)]
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.outcome.faults["worker"] += 1
        self.outcome.interrupted += len(interrupted)
        began = time.monotonic()
        for job in interrupted:
            self._recovers(began, lambda job=job: self._goes_on(job), f"{job.id} after its worker was killed")

    def _kill_api(self, _: float) -> None:
        for pid in until(lambda: self._parts("duet api"), "the API is there", 60):
            os.kill(pid, signal.SIGKILL)
        self.outcome.faults["api"] += 1
        self._recovers(time.monotonic(), lambda: self._answers("/healthz"), "the API")

    def _kill_redis(self, _: float) -> None:
        for pid in until(lambda: self._parts("redis-server"), "Redis is there", 60):
            os.kill(pid, signal.SIGKILL)
        self.outcome.faults["redis"] += 1
        self._recovers(time.monotonic(), lambda: self._answers("/readyz"), "the stack after Redis was killed")

    def _take_storage_away(self, _: float) -> None:
        self._proxy.take_away()
        time.sleep(self.plan.outage_seconds)
        spooled: list[Job] = []
        with suppress(StoreUnavailable):
            spooled = [job for job in self._store.held("") if job.holder and job.holder.endswith(SPOOL)]
        self._proxy.put_back()
        self.outcome.faults["storage"] += 1
        began = time.monotonic()
        for job in spooled:
            self._recovers(began, lambda job=job: self._goes_on(job, True), f"{job.id}, whose result was spooled")

    def _recovers(self, began: float, recovered: Callable[[], bool], what: str) -> None:
        while not recovered():
            if time.monotonic() - began > self.plan.patience:
                self.outcome.problems.append(f"never recovered: {what}")
                break
            time.sleep(0.2)
        self.outcome.recovery.append(time.monotonic() - began)

    def _goes_on(self, before: Job, to_its_end: bool = False) -> bool:
        """Whether the job is held again, or has ended."""
        try:
            job = self._store.get(before.id)
        except (StoreUnavailable, UnknownJob):
            return False
        spooled = job.holder is not None and job.holder.endswith(SPOOL)
        return job.status.ended or (
            not to_its_end and job.holder is not None and (job.attempt > before.attempt or spooled)
        )

    def _is_innocent(self, job: Job) -> bool:
        return BEHAVIOUR not in job.metadata

    def _answers(self, path: str) -> bool:
        try:
            return self._client.get(path).is_success
        except httpx.HTTPError:
            return False

    def _working(self) -> list[int]:
        """Processes of the workers that have started and said so."""
        with suppress(StoreUnavailable):
            names = self._store.workers()
            return [
                pid for pid in self._parts("tests.chaos.worker") if any(n.startswith(process_name(pid)) for n in names)
            ]
        return []

    def _parts(self, name: str) -> list[int]:
        return sorted(pid for pid, command in children(self._stack.pid) if name in command)

    # What comes of it.

    def _watch(self) -> None:
        """See every end that a user could have seen, and whether it stays."""
        while not self._over.wait(1):
            query: dict[str, Any] | None = {"limit": 100}
            while query:
                try:
                    answer = self._client.get("/jobs", params=query)
                except httpx.HTTPError:
                    break
                if not answer.is_success:
                    break
                for job in answer.json()["data"]:
                    if Status(job["status"]).ended:
                        self._ended.setdefault(job["id"], job)
                following = answer.json()["next"]
                query = {"limit": 100, "after": following} if following else None

    def _wait_for_the_end(self) -> None:
        deadline = time.monotonic() + self.plan.patience
        while time.monotonic() < deadline and not self._accepted.keys() <= self._ended.keys():
            time.sleep(0.2)

    def _account(self) -> None:
        outcome = self.outcome
        outcome.accepted = len(self._accepted)
        for job_id, behaviour in self._accepted.items():
            answer = self._client.get(f"/jobs/{job_id}")
            if answer.status_code == 404:
                outcome.lost += 1
                continue
            job = answer.json()
            if not Status(job["status"]).ended:
                outcome.stuck += 1
                outcome.problems.append(f"stuck: {self._store.get(job_id)}")
            elif job["status"] == "completed" and not behaviour:
                outcome.completed += 1
                outcome.incomplete += not self._is_whole(self._store.get(job_id))
            elif job["status"] == "failed" and behaviour:
                outcome.failed_by_design += 1
            else:
                outcome.failed_otherwise += 1
                outcome.problems.append(f"{behaviour or 'sound'} job ended as {job['status']}: {job['error']}")
            if job_id in self._ended and self._ended[job_id] != job:
                outcome.duplicates += 1
                outcome.problems.append(f"{job_id} ended twice")
        known, after = [], None
        while True:
            page, after = self._store.page(after=after, limit=100)
            known += page
            if after is None:
                break
        numbers = Counter(job.metadata["number"] for job in known)
        outcome.duplicates += sum(count - 1 for count in numbers.values())
        self._read_ledger()

    def _is_whole(self, job: Job) -> bool:
        """Whether every file is there and comes from the attempt that was committed."""
        for output in job.outputs:
            for key in output.files.values():
                try:
                    body = self._bucket.get_object(Bucket=BUCKET, Key=f"duet/{key}")["Body"].read()
                except self._bucket.exceptions.NoSuchKey:
                    return False
                if json.loads(body) != {"job": job.id, "attempt": job.attempt, "index": output.index}:
                    return False
        return len(job.outputs) == job.params.num_outputs

    def _read_ledger(self) -> None:
        lines = [json.loads(line) for line in self._ledger.read_text().splitlines()]
        runs = Counter(line["job"] for line in lines if line["what"] == "begin")
        alone = Counter(line["job"] for line in lines if line["what"] == "begin" and line["alone"])
        made = Counter(line["job"] for line in lines if line["what"] == "made")
        poison = [job_id for job_id, behaviour in self._accepted.items() if behaviour == "poison"]
        self.outcome.most_runs = max(runs.values(), default=0)
        self.outcome.most_runs_alone_of_poison = max((alone[job_id] for job_id in poison), default=0)
        self.outcome.made_twice = sum(count - 1 for count in made.values())
