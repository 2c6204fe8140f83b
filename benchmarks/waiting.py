"""Discrete-event simulation of jobs waiting for workers with batched engines.

Arrivals are Poisson. A worker holds up to `batch` jobs, which run together: with k jobs each takes `times[k]` seconds,
as measured. A job that finds no free place waits in a FIFO queue.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WARM = 0.1
"""Fraction of jobs at the start that are not counted, because the workers start idle."""


@dataclass(frozen=True)
class Statistics:
    """Results over the counted jobs, in seconds."""

    wait_p50: float
    wait_p95: float
    wait_mean: float
    latency_p95: float
    batch_mean: float
    jobs_per_s: float


class _Worker:
    """An engine. `_age` is the progress of a hypothetical job that runs from the start, in whole jobs."""

    def __init__(self, times: Sequence[float]) -> None:
        self._times = times
        self._ends: list[tuple[float, int]] = []
        self._age = 0.0
        self._now = 0.0
        self.stamp = 0

    def __len__(self) -> int:
        return len(self._ends)

    def begin(self, now: float, job: int, work: float) -> None:
        self._go_on(now)
        heapq.heappush(self._ends, (self._age + work, job))

    def end(self, now: float) -> int:
        self._go_on(now)
        return heapq.heappop(self._ends)[1]

    def next_end(self) -> float:
        """End of its first job, if no other joins."""
        return self._now + max(0.0, self._ends[0][0] - self._age) * self._times[len(self._ends)]

    def _go_on(self, now: float) -> None:
        if self._ends:
            self._age += (now - self._now) / self._times[len(self._ends)]
        self._now = now
        self.stamp += 1


def batch_times(seconds: Mapping[int, float]) -> list[float]:
    """Seconds of a batch of k jobs for each k up to the largest measured size, linearly interpolated."""
    sizes = sorted(seconds)
    times = [0.0]
    for count in range(1, sizes[-1] + 1):
        above = next(size for size in sizes if size >= count)
        below = max((size for size in sizes if size <= count), default=above)
        share = (count - below) / (above - below) if above > below else 0.0
        times.append(seconds[below] + share * (seconds[above] - seconds[below]))
    return times


def simulate(
    workers: int, times: Sequence[float], load: float, jobs: int, seed: int, works: Sequence[float] = (1.0,)
) -> Statistics:
    """Simulate `jobs` jobs. `load` is the fraction of the workers' capacity. `works` are the job sizes, equally likely;
    `times` apply to size 1."""
    chance = random.Random(seed)
    batch = len(times) - 1
    fastest = max(count / times[count] for count in range(1, batch + 1))
    rate = load * workers * fastest / (sum(works) / len(works))
    engines = [_Worker(times) for _ in range(workers)]
    free = list(range(workers))
    place = {number: number for number in free}  # position of an engine in `free`
    arrived, waited, took = [0.0] * jobs, [0.0] * jobs, [0.0] * jobs
    queue: deque[int] = deque()
    events: list[tuple[float, int, int]] = []
    work = [chance.choice(works) for _ in range(jobs)]
    coming, next_arrival = 0, chance.expovariate(rate)
    busy_jobs = last = 0.0
    running = 0

    def schedule(number: int) -> None:
        engine = engines[number]
        if len(engine):
            heapq.heappush(events, (engine.next_end(), number, engine.stamp))

    def begin(job: int, number: int, now: float) -> None:
        nonlocal running
        waited[job] = now - arrived[job]
        engines[number].begin(now, job, work[job])
        running += 1
        if len(engines[number]) == batch:  # full: the last in the list takes its position
            gap, moved = place.pop(number), free.pop()
            if moved != number:
                free[gap], place[moved] = moved, gap
        schedule(number)

    while coming < jobs or running:
        while events and events[0][2] != engines[events[0][1]].stamp:
            heapq.heappop(events)  # outdated: a job has joined since
        arrival = coming < jobs and (not events or next_arrival <= events[0][0])
        now = next_arrival if arrival else events[0][0]
        busy_jobs += running * (now - last)
        last = now
        if arrival:
            arrived[coming] = now
            if free:
                begin(coming, chance.choice(free), now)
            else:
                queue.append(coming)
            coming += 1
            next_arrival = now + chance.expovariate(rate)
            continue
        number = heapq.heappop(events)[1]
        ended = engines[number].end(now)
        running -= 1
        took[ended] = now - arrived[ended]
        if number not in place:
            place[number] = len(free)
            free.append(number)
        if queue:
            begin(queue.popleft(), number, now)
        else:
            schedule(number)
    counted = slice(int(WARM * jobs), jobs)
    waits = sorted(waited[counted])
    latencies = sorted(took[counted])
    return Statistics(
        wait_p50=_quantile(waits, 0.5),
        wait_p95=_quantile(waits, 0.95),
        wait_mean=sum(waits) / len(waits),
        latency_p95=_quantile(latencies, 0.95),
        batch_mean=busy_jobs / last / workers,
        jobs_per_s=rate,
    )


def _quantile(values: Sequence[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))]
