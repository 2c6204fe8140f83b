"""Idempotency keys: the same request sent twice makes one job, also when both arrive at the same moment.

A key is an entry in Redis, `duet:idempotency:{hash of owner and key}`: fingerprint of the request and id of the job. It
is reserved before the record is written and confirmed afterwards. A request that finds it reserved waits until the
record appears, the reservation is released, or it expires (`LEASE`) because the process that made it died.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import redis

from service.jobs.connection import reachable
from service.jobs.keys import record_key

AT_LEAST = timedelta(hours=24)
"""A key is kept as long as its job, at least for this time."""

LEASE = 15.0
"""Validity of a reservation without a record, in seconds. The record takes two writes with timeouts of seconds."""

_LOOK_INTERVAL = 0.05

_RESERVE = """
local found = redis.call('HMGET', KEYS[1], 'fingerprint', 'job', 'until', 'confirmed')
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
if found[1] then
  if found[1] ~= ARGV[1] then return {'other'} end
  if found[4] == '1' or redis.call('EXISTS', ARGV[5] .. found[2]) == 1 then return {'made', found[2]} end
  local ahead = tonumber(found[3]) - now
  if ahead > 0 and ahead <= tonumber(ARGV[3] ~= '' and ARGV[3] or '0') then return {'reserved'} end
end
if ARGV[2] == '' then return {'free'} end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1], 'job', ARGV[2], 'until', tostring(now + ARGV[3]), 'confirmed', '0')
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'ours'}
"""
_CONFIRM = """
if redis.call('HGET', KEYS[1], 'job') == ARGV[1] then redis.call('HSET', KEYS[1], 'confirmed', '1') end
"""
_RELEASE = """
if redis.call('HGET', KEYS[1], 'job') == ARGV[1] then redis.call('DEL', KEYS[1]) end
"""


class KeyReused(Exception):
    """The key was used with another request."""


class StillReserved(Exception):
    """The first request with this key is still in progress."""


@dataclass(frozen=True)
class IdempotentRequest:
    """A request with an idempotency key: owner of the key, key, and fingerprint of the request."""

    owner: str | None
    key: str
    fingerprint: str

    @property
    def entry(self) -> str:
        # The length separates the parts unambiguously; the hash keeps client text out of Redis' key names.
        named = f"{len(self.owner)}:{self.owner}" if self.owner is not None else "-"
        return f"duet:idempotency:{hashlib.sha256(f'{named}:{self.key}'.encode()).hexdigest()}"


class IdempotencyKeys:
    """The keys in Redis. Every method raises StoreUnavailable."""

    def __init__(self, client: redis.Redis, retention: timedelta) -> None:
        self._kept_ms = int(max(retention, AT_LEAST).total_seconds() * 1000)
        self._reserve = client.register_script(_RESERVE)
        self._confirm = client.register_script(_CONFIRM)
        self._release = client.register_script(_RELEASE)

    def made(self, request: IdempotentRequest) -> str | None:
        """Id of the job that an earlier request with this key created. Raises KeyReused."""
        answer, *job_id = self._ask(request, "")
        return job_id[0] if answer == "made" else None

    def reserve(self, request: IdempotentRequest, job_id: str, wait: float = 2 * LEASE) -> str | None:
        """Reserve the key for the job `job_id`, or return the id of the job that was created with it.

        Waits up to `wait` seconds while another request holds the key. Raises KeyReused, StillReserved.
        """
        deadline = time.monotonic() + wait
        while True:
            answer, *made = self._ask(request, job_id)
            if answer == "ours":
                return None
            if answer == "made":
                return made[0]
            if time.monotonic() >= deadline:
                raise StillReserved(request.entry)
            time.sleep(_LOOK_INTERVAL)

    def confirm(self, request: IdempotentRequest, job_id: str) -> None:
        """The record is written."""
        with reachable():
            self._confirm(keys=[request.entry], args=[job_id])

    def release(self, request: IdempotentRequest, job_id: str) -> None:
        """Free the key, because no record was written."""
        with reachable():
            self._release(keys=[request.entry], args=[job_id])

    def _ask(self, request: IdempotentRequest, job_id: str) -> list[str]:
        arguments: list[Any] = [request.fingerprint, job_id, LEASE, self._kept_ms, record_key("")]
        with reachable():
            answer: Any = self._reserve(keys=[request.entry], args=arguments)
        words = [word.decode() for word in answer]
        if words[0] == "other":
            raise KeyReused(request.entry)
        return words
