"""Speed of the workers: averages in Redis, and `/models`, which shows them."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from service.jobs.connection import connect
from service.jobs.speeds import Speed, Speeds
from service.settings import Settings
from tests.conftest import RedisServer, RunningApi


def test_the_latest_job_has_a_weight_of_three_tenths(settings: Settings) -> None:
    speeds = Speeds(connect(settings))
    assert speeds.of(["demo"]) == {"demo": {}}
    speeds.add("demo", "generate", Speed(step=1.0, sr_step=None, files=0.5))
    assert speeds.of(["demo", "other"]) == {"demo": {"generate": Speed(1.0, None, 0.5)}, "other": {}}
    speeds.add("demo", "generate", Speed(step=2.0, sr_step=4.0, files=1.5))
    speeds.add("demo", "v2a", Speed(step=3.0, sr_step=None, files=0.0))
    assert speeds.of(["demo"])["demo"] == {
        "generate": Speed(pytest.approx(1.3), 4.0, pytest.approx(0.8)),
        "v2a": Speed(3.0, None, 0.0),
    }


def test_models_show_the_speed(client: httpx.Client, settings: Settings) -> None:
    (demo,) = client.get("/models").json()["data"]
    assert demo["speed"] == {}
    Speeds(connect(settings)).add("demo", "v2a", Speed(step=0.25, sr_step=None, files=0.5))
    (demo,) = client.get("/models").json()["data"]
    assert demo["speed"] == {"v2a": {"step": 0.25, "sr_step": None, "files": 0.5}}


def test_models_are_listed_without_redis(
    settings: Settings, own_redis: RedisServer, run_api: Callable[[Settings], RunningApi]
) -> None:
    api = run_api(settings.model_copy(update={"redis_url": own_redis.url}))
    own_redis.kill()
    (demo,) = httpx.get(f"{api.url}/models", trust_env=False).json()["data"]
    assert demo["speed"] == {}
