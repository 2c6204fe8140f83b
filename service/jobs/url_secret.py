"""The secret that signs media URLs, shared by all API processes."""

from __future__ import annotations

import secrets
from typing import Any

import redis

from service.jobs.connection import reachable

_KEY = "duet:url-secret"


class UrlSecret:
    """Kept in Redis, and generated on first use."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def get(self) -> bytes:
        """32 bytes. Raises StoreUnavailable."""
        with reachable():
            secret: Any = self._redis.get(_KEY)
            if secret is None:
                self._redis.set(_KEY, secrets.token_bytes(32), nx=True)
                secret = self._redis.get(_KEY)
        assert isinstance(secret, bytes)
        return secret
