"""One chaos run: submits jobs to the system while faults happen to it, and accounts for every accepted job at the end.

The same seed gives the same jobs and faults at the same times. The effect of a fault depends on the machine.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from service.jobs.connection import StoreUnavailable
from service.jobs.queue import QueueUnavailable
from service.jobs.record import Job, Status
from service.jobs.records import UnknownJob
from tests.chaos.faults import FAULTS, Faults
from tests.chaos.outcome import Outcome, Plan
from tests.chaos.system import BUCKET, System
from tests.chaos.worker import BEHAVIOUR
from tests.clips import Film, Track, make
from tests.waiting import until

TWICE = 0.2
"""Share of the jobs whose message is sent twice."""

WITH_WEBHOOK = 0.2
REPEAT_INTERVAL = 0.3
"""Seconds before a client repeats a request that was refused or lost."""


class Chaos:
    """One run, in `folder`; `say` gets a line at each stage."""

    def __init__(self, plan: Plan, folder: Path, say: Callable[[str], None] = print) -> None:
        self.plan = plan
        self.outcome = Outcome()
        self._say = say
        self._film = make(folder / "film.mp4", Film(), Track())
        self._sound = make(folder / "sound.wav", sound=Track(codec="pcm_s16le", format="s16"))
        self._system = System(folder, plan.lease, plan.step_seconds)
        self._accepted: dict[str, str] = {}
        self._with_webhook: set[str] = set()
        self._ended: dict[str, dict[str, Any]] = {}
        self._over = threading.Event()
        self._extra = itertools.count(plan.jobs)
        """Numbers of the jobs that are submitted beyond the planned ones, to see whether the workers work."""
        self._faults = Faults(self._system, plan, self.outcome, self._submit_extra)

    def run(self) -> Outcome:
        """Raises AssertionError if the stack does not start."""
        began = time.monotonic()
        with self._system, ThreadPoolExecutor(48) as pool:
            self._client = self._system.client
            self._say(f"seed {self.plan.seed}: {self.plan.jobs} jobs within {self.plan.seconds:g} s")
            watcher = pool.submit(self._watch)
            try:
                self._go(pool)
                self._every_process_works()
                self._wait_for_the_end()
            finally:
                self._over.set()
            watcher.result()
            self._account()
            self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def _go(self, pool: ThreadPoolExecutor) -> None:
        """Start the planned jobs and faults at their times, and wait until all are over."""
        plan, chance = self.plan, random.Random(self.plan.seed)
        events: list[tuple[float, Callable[[], object]]] = []
        behaviours = ["poison"] * plan.poison + ["raise"] * plan.raising
        behaviours += [""] * (plan.jobs - len(behaviours))
        chance.shuffle(behaviours)
        for number, behaviour in enumerate(behaviours):
            kind = chance.choice(("generate", "v2a", "a2v"))
            twice, webhook = chance.random() < TWICE, chance.random() < WITH_WEBHOOK
            moment = chance.uniform(0, plan.seconds)
            events.append((moment, partial(self._submit, number, kind, behaviour, twice, webhook)))
        in_turn = [name for name, count in plan.faults.items() if not FAULTS[name].at_any_time for _ in range(count)]
        chance.shuffle(in_turn)
        for name, count in plan.faults.items():
            if FAULTS[name].at_any_time:
                for number in range(count):
                    moment = (number + chance.random()) * plan.seconds / count
                    events.append((moment, partial(self._faults.happen, name, random.Random(f"{plan.seed} {moment}"))))
        began = time.monotonic()
        pending: list[Future[object]] = [pool.submit(self._one_after_the_other, in_turn, began)]
        for moment, action in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0.0, began + moment - time.monotonic()))
            pending.append(pool.submit(action))
        for each in pending:
            each.result()
        self._say(f"all submitted, all faults over after {time.monotonic() - began:.0f} s")

    def _one_after_the_other(self, names: list[str], began: float) -> None:
        """Faults at even times, or later if the one before takes longer."""
        for number, name in enumerate(names):
            time.sleep(max(0.0, began + number * self.plan.seconds / len(names) - time.monotonic()))
            self._say(f"{time.monotonic() - began:5.0f} s: {FAULTS[name].title}")
            self._faults.happen(name, random.Random(f"{self.plan.seed} {number} {name}"))

    def _submit_extra(self) -> None:
        self._submit(next(self._extra), "generate", "", False, False)

    def _submit(self, number: int, kind: str, behaviour: str, twice: bool, webhook: bool) -> None:
        """Repeat the request until it is accepted, as a client does."""
        params: dict[str, Any] = {"seed": number, "steps": 2, "metadata": {"number": str(number)}}
        if behaviour:
            params["metadata"][BEHAVIOUR] = behaviour
        if webhook:
            params["webhook"] = {"url": self._system.receiver.url}
        headers = {"Idempotency-Key": f"chaos-{number}"}
        deadline = time.monotonic() + self.plan.patience
        while time.monotonic() < deadline:
            with suppress(httpx.HTTPError):
                if kind == "generate":
                    answer = self._client.post("/generate", json=params, headers=headers)
                else:
                    path = self._film if kind == "v2a" else self._sound
                    files = {"file": (path.name, path.read_bytes())}
                    data = {"params": json.dumps(params)}
                    answer = self._client.post(f"/{kind}", files=files, data=data, headers=headers)
                if answer.status_code == 202 or (answer.status_code == 200 and "id" in answer.json()):
                    self._note_accepted(answer.json()["id"], behaviour, twice, webhook)
                    return
                if answer.status_code not in (409, 503, 507):
                    self.outcome.problems.append(f"{kind}: {answer.status_code} {answer.text[:300]}")
            self.outcome.refused += 1
            time.sleep(REPEAT_INTERVAL)
        self.outcome.problems.append(f"job {number} was never accepted")

    def _note_accepted(self, job_id: str, behaviour: str, twice: bool, webhook: bool) -> None:
        self._accepted[job_id] = behaviour
        if webhook:
            self._with_webhook.add(job_id)
        if twice:
            with suppress(StoreUnavailable, QueueUnavailable, UnknownJob):
                self._system.queue.enqueue(self._system.store.get(job_id))
                self.outcome.doubled += 1

    def _watch(self) -> None:
        """Note every end that a user could have seen. `_account` compares it with the end that stays."""
        while not self._over.wait(1):
            query: dict[str, Any] | None = {"limit": 100}
            while query:
                try:
                    answer = self._client.get("/jobs", params=query)
                except httpx.HTTPError:
                    break
                if not answer.is_success:
                    if answer.status_code != 503:
                        self.outcome.problems.append(f"GET /jobs: {answer.status_code} {answer.text[:300]}")
                    break
                for job in answer.json()["data"]:
                    if Status(job["status"]).ended:
                        self._ended.setdefault(job["id"], job)
                following = answer.json()["next"]
                query = {"limit": 100, "after": following} if following else None

    def _every_process_works(self) -> None:
        """Each worker takes a job, each API process answers. The sender of webhooks shows it by its webhooks."""
        since, apis = time.time(), set(self._system.processes("API"))
        answered: set[int | None] = set()

        def all_work() -> bool:
            self._submit_extra()
            answered.update(self._system.answering_process() for _ in range(10))
            return not self._faults.idle_workers(since) and apis <= answered

        try:
            until(all_work, "every process works", self.plan.patience)
        except AssertionError:
            self.outcome.idle = len(self._faults.idle_workers(since)) + len(apis - answered)

    def _wait_for_the_end(self) -> None:
        deadline = time.monotonic() + self.plan.patience
        while time.monotonic() < deadline and not (
            self._accepted.keys() <= self._ended.keys() and self._with_webhook <= self._webhooks()
        ):
            time.sleep(0.2)

    def _webhooks(self) -> set[str]:
        """Ids of the jobs whose webhook was received."""
        return {json.loads(each.body)["data"]["id"] for each in list(self._system.receiver.received)}

    def _account(self) -> None:
        outcome, store = self.outcome, self._system.store
        outcome.accepted = len(self._accepted)
        for job_id, behaviour in self._accepted.items():
            answer = self._client.get(f"/jobs/{job_id}")
            if answer.status_code == 404:
                outcome.lost += 1
                continue
            job = answer.json()
            if not Status(job["status"]).ended:
                outcome.stuck += 1
                outcome.problems.append(f"stuck: {store.get(job_id)}")
            elif job["status"] == "completed" and not behaviour:
                outcome.completed += 1
                outcome.incomplete += not self._is_complete(store.get(job_id))
            elif job["status"] == "failed" and behaviour:
                outcome.failed_by_design += 1
            else:
                outcome.failed_otherwise += 1
                outcome.problems.append(f"{behaviour or 'sound'} job ended as {job['status']}: {job['error']}")
            if job_id in self._ended and not _same_end(self._ended[job_id], job):
                outcome.duplicates += 1
                outcome.problems.append(f"{job_id} ended twice")
        known, after = [], None
        while True:
            page, after = store.page(after=after, limit=100)
            known += page
            if after is None:
                break
        numbers = Counter(job.metadata["number"] for job in known)
        outcome.duplicates += sum(count - 1 for count in numbers.values())
        received = self._webhooks()
        outcome.webhooks = len(self._with_webhook & received)
        outcome.webhooks_missing = len(self._with_webhook - received)
        for job_id in self._faults.unreadable:
            answer = self._client.get(f"/jobs/{job_id}")
            if (answer.status_code, answer.json()["code"]) != (500, "unreadable_record"):
                outcome.problems.append(f"an unreadable record answers {answer.status_code} {answer.text[:300]}")
        self._read_ledger()

    def _is_complete(self, job: Job) -> bool:
        """Whether every file is there and comes from the attempt that was committed."""
        bucket = self._system.bucket
        for output in job.outputs:
            for key in output.files.values():
                try:
                    body = bucket.get_object(Bucket=BUCKET, Key=f"duet/{key}")["Body"].read()
                except bucket.exceptions.NoSuchKey:
                    return False
                if json.loads(body) != {"job": job.id, "attempt": job.attempt, "index": output.index}:
                    return False
        return len(job.outputs) == job.params.num_outputs

    def _read_ledger(self) -> None:
        entries = self._system.ledger.entries()
        runs = Counter(entry["job"] for entry in entries if entry["what"] == "begin")
        alone = Counter(entry["job"] for entry in entries if entry["what"] == "begin" and entry["alone"])
        made = Counter(entry["job"] for entry in entries if entry["what"] == "made")
        poison = [job_id for job_id, behaviour in self._accepted.items() if behaviour == "poison"]
        self.outcome.most_runs = max(runs.values(), default=0)
        self.outcome.most_runs_alone_of_poison = max((alone[job_id] for job_id in poison), default=0)
        self.outcome.made_twice = sum(count - 1 for count in made.values())


def _same_end(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two answers show the same job. The log of its webhook grows after its end."""
    webhooks = [each["webhook"] and {**each["webhook"], "deliveries": []} for each in (one, other)]
    return {**one, "webhook": webhooks[0]} == {**other, "webhook": webhooks[1]}
