"""API keys for tests."""

from __future__ import annotations

import hashlib

import httpx
from pydantic import SecretStr

from service.settings import Settings
from tests.conftest import RunningApi

KEYS = {name: f"duet_{name}-key-of-the-tests" for name in ("alice", "bob")}


def with_keys(settings: Settings, **changes: object) -> Settings:
    """The settings with a key each for alice and bob."""
    pairs = (f"{name}:{hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items())
    return settings.model_copy(update={"api_keys": SecretStr(" ".join(pairs)), **changes})


def client_of(api: RunningApi, name: str | None) -> httpx.Client:
    """An HTTP client with this user's key, or without one."""
    headers = {"Authorization": f"Bearer {KEYS[name]}"} if name else {}
    return httpx.Client(base_url=api.url, headers=headers, timeout=120, trust_env=False)
