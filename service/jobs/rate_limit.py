"""Request rate limit per API key, shared by all API processes."""

from __future__ import annotations

import math
from typing import Any

import redis

from service.jobs.connection import reachable

# Generic cell rate algorithm (ATM Forum): one number per key, the theoretical arrival time of the next request. A burst
# of a minute's requests is allowed; after it, one request every minute / limit.
_TAKE = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local interval = 60 / ARGV[1]
local last = tonumber(redis.call('GET', KEYS[1]) or '0')
local theirs = math.min(math.max(last, now), now + 60) + interval  -- further ahead only if the clock went back
if theirs - now > 60 then return tostring(theirs - now - 60) end
redis.call('SET', KEYS[1], string.format('%.6f', theirs), 'EX', 61)
return '0'
"""


class RateLimit:
    """Requests per minute of each API key, counted in Redis."""

    def __init__(self, client: redis.Redis, per_minute: int) -> None:
        self._per_minute = per_minute
        self._take = client.register_script(_TAKE)

    def take(self, name: str) -> int:
        """Count one request of the key `name`. Return 0 if it is allowed, else the whole seconds to wait.

        Raises StoreUnavailable.
        """
        with reachable():
            answer: Any = self._take(keys=[f"duet:rate:{name}"], args=[self._per_minute])
        return math.ceil(float(answer))
