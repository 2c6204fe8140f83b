"""Limits of concurrent streams and uploads hold over all API processes, and survive the death of one."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from service.jobs.concurrency import ConcurrencyLimits, TooManyOpen
from service.jobs.connection import StoreUnavailable, connect
from service.settings import Settings
from tests.conftest import RedisServer, RunningApi
from tests.service import media
from tests.service.answers import problem
from tests.service.keys import KEYS, client_of, with_keys
from tests.service.streams import Stream
from tests.waiting import until


@pytest.fixture
def redis_client(settings: Settings) -> Iterator[redis.Redis]:
    with connect(settings) as client:
        yield client


async def is_free(limits: ConcurrencyLimits, most: int = 1) -> bool:
    try:
        async with limits.slot("streams", "alice", most):
            return True
    except TooManyOpen:
        return False


async def is_taken(limits: ConcurrencyLimits) -> bool:
    return not await is_free(limits)


async def eventually(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + 20
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within 20 s: {what}"
        await asyncio.sleep(0.05)


def test_event_streams_of_a_key_are_limited_over_all_processes(
    settings: Settings, run_api: Callable[[Settings], RunningApi]
) -> None:
    keyed = with_keys(settings, max_event_streams_per_key=2)
    first, second = run_api(keyed), run_api(keyed)
    with client_of(first, "alice") as here, client_of(second, "alice") as there, client_of(second, "bob") as bob:
        url = here.post("/generate").json()["urls"]["self"]
        streams = [Stream(client, url) for client in (here, there)]
        for stream in streams:
            assert stream.next().kind == "status"
        for client in (here, there):
            refused = client.get(f"{url}/events")
            problem(refused, 429, "too_many_streams_of_key")
            assert int(refused.headers["retry-after"]) >= 1
        with Stream(bob, bob.post("/generate").json()["urls"]["self"]) as other:
            assert other.next().kind == "status", "another key has its own limit"

        streams.pop().close()

        def free() -> bool:
            streams.append(Stream(here, url))
            return streams[-1].response.status_code == 200

        until(free, "the closed stream no longer counts", 5)
        for stream in streams:
            stream.close()


def test_requests_that_wait_count_as_event_streams_and_are_answered_at_once_beyond_the_limit(
    settings: Settings, run_api: Callable[[Settings], RunningApi], redis_client: redis.Redis
) -> None:
    keyed = with_keys(settings, max_event_streams_per_key=1)
    first, second = run_api(keyed), run_api(keyed)
    wait = {"Prefer": "wait=50"}
    with client_of(first, "alice") as here, client_of(second, "alice") as there, ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(here.post, "/generate", headers=wait)
        until(lambda: redis_client.zcard("duet:open:streams:alice"), "the request counts")
        url = here.get("/jobs").json()["data"][0]["urls"]["self"]
        problem(there.get(f"{url}/events"), 429, "too_many_streams_of_key")
        at_once = there.post("/generate", headers=wait)
        assert (at_once.status_code, at_once.json()["status"]) == (202, "queued")
        assert (at_once.headers["preference-applied"], at_once.headers["retry-after"]) == ("wait=0", "2")

        here.post(f"{url}/cancel").raise_for_status()
        assert waiting.result().json()["status"] == "canceled"
        until(lambda: not redis_client.zcard("duet:open:streams:alice"), "the answered request no longer counts")


def test_uploads_of_a_key_are_limited_over_all_processes(
    settings: Settings, run_api: Callable[[Settings], RunningApi]
) -> None:
    keyed = with_keys(settings, max_uploads_per_key=1)
    first, second = run_api(keyed), run_api(keyed)
    file = {"file": ("a.mp4", media.video(0.5))}
    with socket.create_connection(("127.0.0.1", first.port)) as slow, client_of(second, "alice") as client:
        slow.sendall(f"POST /v2a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEYS['alice']}\r\n".encode())
        slow.sendall(b"Content-Length: 9000\r\nContent-Type: multipart/form-data; boundary=XX\r\n\r\n--XX\r\n")
        until(lambda: list(settings.temporary.glob("*")), "the upload is under way")
        refused = problem(client.post("/v2a", files=file), 429, "too_many_uploads")
        assert refused["detail"] == "1 uploads of this key are in progress already."
        with client_of(second, "bob") as bob:
            assert bob.post("/v2a", files=file).status_code == 202
        slow.close()
        until(lambda: client.post("/v2a", files=file).status_code == 202, "the broken upload no longer counts", 5)


def test_what_a_dead_process_had_open_expires(redis_client: redis.Redis) -> None:
    async def both() -> None:
        dead = ConcurrencyLimits(redis_client, ttl=2.0)  # never entered: nothing is renewed
        with ConcurrencyLimits(redis_client, ttl=2.0) as live:
            async with live.slot("streams", "alice", 2):
                for _ in range(5):  # a busy machine may stop this process for longer than a slot lives
                    try:
                        await dead.slot("streams", "alice", 2).__aenter__()
                    except TooManyOpen:  # the live slot was renewed, and the dead one of the round before still counts
                        break
                    if not await is_free(live, 2):
                        break
                else:
                    pytest.fail("the slot of the dead process never counts")
                await eventually(lambda: is_free(live, 2), "the slot of the dead process expires")
                await asyncio.sleep(4.0)  # two lifetimes
                await eventually(lambda: is_taken(live), "the live one is renewed")

    asyncio.run(both())


def test_a_clock_that_was_set_back_keeps_no_slot(redis_client: redis.Redis) -> None:
    async def go() -> None:
        limits = ConcurrencyLimits(redis_client)
        redis_client.zadd("duet:open:streams:alice", {"from the future": 9e15})
        assert await is_free(limits)

    asyncio.run(go())


def test_a_slot_closed_during_a_renewal_does_not_come_back(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        limits = ConcurrencyLimits(redis_client)
        slot = limits.slot("streams", "alice", 1)
        await slot.__aenter__()
        renew_all = limits._renew_all
        closing = asyncio.get_running_loop()

        def close_first(keys: list[str], args: list[str]) -> None:
            asyncio.run_coroutine_threadsafe(slot.__aexit__(None, None, None), closing).result()
            renew_all(keys=keys, args=args)

        monkeypatch.setattr(limits, "_renew_all", close_first)
        await asyncio.to_thread(limits.renew)
        assert await is_free(limits)

    asyncio.run(go())


def test_a_slot_closed_while_redis_is_away_is_not_an_error(own_redis: RedisServer) -> None:
    async def go() -> None:
        limits = ConcurrencyLimits(connect(Settings(redis_url=own_redis.url)))
        async with limits.slot("streams", "alice", 1):
            own_redis.kill()
        with pytest.raises(StoreUnavailable):
            await is_free(limits)

    asyncio.run(go())
