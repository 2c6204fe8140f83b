"""Measured speed of the workers, by model and kind of job, from which clients estimate the time of a job.

duet:speed:{model}         exponential moving averages in seconds; fields `{kind}:step`, `{kind}:sr_step`,
                           `{kind}:files`
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

import redis

from service.jobs.connection import reachable

WEIGHT = 0.3
"""Of the latest job in the averages."""

TTL = timedelta(days=30)
"""How long the figures of a model are kept after its latest job."""

_ADD = """
for i = 3, #ARGV, 2 do
  local known = redis.call('HGET', KEYS[1], ARGV[i])
  local mean = tonumber(ARGV[i + 1])
  if known then mean = ARGV[1] * mean + (1 - ARGV[1]) * known end
  redis.call('HSET', KEYS[1], ARGV[i], string.format('%.6g', mean))
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""


@dataclass(frozen=True)
class Speed:
    """Seconds of one step of the base network for one window of one output, of one step of super-resolution for the
    frames of one window (None if the job had none), and of writing and storing the files of one output."""

    step: float
    sr_step: float | None
    files: float


class Speeds:
    """The averages in Redis, shared by all workers."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._add = client.register_script(_ADD)

    def add(self, model: str, kind: str, speed: Speed) -> None:
        """Count what a job of this kind took. Raises StoreUnavailable."""
        values = [
            part for name, value in asdict(speed).items() if value is not None for part in (f"{kind}:{name}", value)
        ]
        with reachable():
            self._add(keys=[_key(model)], args=[WEIGHT, int(TTL.total_seconds()), *values])

    def of(self, models: Iterable[str]) -> dict[str, dict[str, Speed]]:
        """By model, then by kind; kinds of which no job was measured are absent. Raises StoreUnavailable."""
        names = list(models)
        with reachable():
            asked: Any = self._redis.pipeline(transaction=False)
            for name in names:
                asked.hgetall(_key(name))
            answers: Any = asked.execute()
        return {name: _parsed(answer) for name, answer in zip(names, answers, strict=True)}


def _parsed(answer: dict[bytes, bytes]) -> dict[str, Speed]:
    kinds: dict[str, dict[str, float]] = defaultdict(dict)
    for field, value in answer.items():
        kind, _, name = field.decode().partition(":")
        kinds[kind][name] = float(value)
    return {kind: Speed(found["step"], found.get("sr_step"), found["files"]) for kind, found in kinds.items()}


def _key(model: str) -> str:
    return f"duet:speed:{model}"
