"""The number of the latest reload of the models, in Redis: every API process and worker reads it and follows."""

from __future__ import annotations

from typing import Any

import redis

from service.jobs.connection import reachable
from service.jobs.keys import MODELS


class ModelGeneration:
    """The number that all processes share. Every method raises StoreUnavailable."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def current(self) -> int:
        """The number now; 0 before the first reload."""
        with reachable():
            found: Any = self._redis.get(MODELS)
        return int(found or 0)

    def advance(self) -> int:
        """Tell all processes to read their folders of models again; returns the new number."""
        with reachable():
            number: Any = self._redis.incr(MODELS)
        return int(number)
