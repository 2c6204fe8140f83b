"""What all API processes share about API keys: how much each has asked lately, and the secret that signs URLs."""

from __future__ import annotations

import math
import secrets
from typing import Any

import redis

from service.jobs.connection import reachable

_SECRET = "duet:url-secret"

# One number a key: the time at which the requests so far would have come one by one, evenly (the "generic cell rate
# algorithm" of ATM networks). A minute's worth may come at once; after that one is free every minute / limit.
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


class Keyring:
    """In Redis. Every method raises StoreUnavailable."""

    def __init__(self, client: redis.Redis, per_minute: int) -> None:
        self._redis = client
        self._per_minute = per_minute
        self._take = client.register_script(_TAKE)

    def take(self, name: str) -> int:
        """Count one request of this key. 0 if it may go on, else the whole seconds after which it may come again."""
        with reachable():
            answer: Any = self._take(keys=[f"duet:rate:{name}"], args=[self._per_minute])
        return math.ceil(float(answer))

    def url_secret(self) -> bytes:
        """What media URLs are signed with: drawn by whoever needs it first."""
        with reachable():
            secret: Any = self._redis.get(_SECRET)
            if secret is None:
                self._redis.set(_SECRET, secrets.token_bytes(32), nx=True)
                secret = self._redis.get(_SECRET)
        assert isinstance(secret, bytes)
        return secret
