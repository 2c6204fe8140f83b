"""Events of jobs: workers publish previews, API processes read the streams.

A worker publishes previews by `Previews`; the store appends status and steps itself (`event_keys` has the keys). In an
API process, `Events` wakes the followers of a job and reads its stream. One connection subscribes for all followers,
and one query a second gives the queue positions of all queued jobs that are followed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import redis

from service.jobs.connection import connect_async, reachable
from service.jobs.event_keys import CHANNEL, GONE, EventKind, events_key, previews_key
from service.jobs.keys import QUEUED, attempt_key
from service.jobs.record import StaleClaim
from service.jobs.scripts import ANNOUNCE
from service.log import log
from service.settings import Settings

MAX_SPRITE = 24 * 1024
"""Bytes of a preview picture; a job with eight outputs stays far below 300 KB."""

START = "0-0"
"""Before the first entry of any stream."""

_BATCH = 100
_POSITIONS_S = 1.0
_RETRY_S = 0.5

_PREVIEW = f"""
{ANNOUNCE}
local token, id, index, header, sprite = unpack(ARGV, 1, 5)
if redis.call('HGET', KEYS[1], 'attempt') ~= token then return 0 end
local entry = announce(KEYS[2], id, '{EventKind.PREVIEW}', index)
redis.call('HSET', KEYS[3], index, entry .. '\\n' .. header .. '\\n' .. sprite)
return 1
"""


@dataclass(frozen=True)
class Sprite:
    """Frames in one WebP picture, row by row; `width` and `height` of one frame in pixels."""

    webp: bytes
    columns: int
    rows: int
    frames: int
    width: int
    height: int


@dataclass(frozen=True)
class Preview:
    """Preview of output `index` after `step` of `total_steps` in `stage`.

    `waveform`: minimum and maximum, in [-1, 1], of equal parts of the sound. The modality that the user uploaded is
    None.
    """

    index: int
    stage: str
    step: int
    total_steps: int
    sprite: Sprite | None
    waveform: tuple[tuple[float, float], ...] | None


@dataclass(frozen=True)
class Event:
    """One entry of a stream. `data` is JSON: the job's record if the kind is a status, otherwise as sent to clients."""

    id: str
    kind: EventKind
    data: str


class Previews:
    """Publishes previews, in workers."""

    def __init__(self, client: redis.Redis) -> None:
        self._publish = client.register_script(_PREVIEW)

    def publish(self, job_id: str, token: int, preview: Preview) -> None:
        """Replace the last preview of the same output by `preview`, and announce it.

        Raises StaleClaim if `token` is outdated, StoreUnavailable, and ValueError for a sprite of more than MAX_SPRITE
        bytes.
        """
        sprite = preview.sprite
        if sprite is not None and len(sprite.webp) > MAX_SPRITE:
            raise ValueError(f"the sprite has {len(sprite.webp)} bytes; at most {MAX_SPRITE} are allowed")
        header = {
            "attempt": token,
            "index": preview.index,
            "stage": preview.stage,
            "step": preview.step,
            "total_steps": preview.total_steps,
            "sprite": sprite and {name: value for name, value in asdict(sprite).items() if name != "webp"},
            "waveform": preview.waveform,
        }
        keys = [attempt_key(job_id), events_key(job_id), previews_key(job_id)]
        text = json.dumps(header, separators=(",", ":"))
        with reachable():
            published = self._publish(
                keys=keys, args=[token, job_id, preview.index, text, sprite.webp if sprite else b""]
            )
        if not published:
            raise StaleClaim(f"{job_id}: attempt {token} is not the one that runs")


class TooManyFollowers(Exception):
    """This process has its maximum of followers."""


class Follower:
    """One client that follows one job. While it sets `waiting`, `queue_position` is updated. `erased`: the job was
    erased."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.waiting = False
        self.erased = False
        self.queue_position: int | None = None
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def woken(self, seconds: float) -> None:
        """Return when there may be new events, at the latest after `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)
        self._woken.clear()


class Events:
    """Reads events, in an API process: an asynchronous context manager in which clients can follow jobs."""

    def __init__(self, settings: Settings, failed: Callable[[str], None] = lambda name: None) -> None:
        """`failed` is called with the name of a background task for each of its failures."""
        self.closing = False
        self._failed = failed
        self._limit = settings.max_event_streams
        self._followers: dict[str, set[Follower]] = {}
        self._count = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._redis = connect_async(settings)

    async def __aenter__(self) -> Events:
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._update_positions())]
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    def close(self) -> None:
        """End every stream, because this process ends. Clients reconnect to another one."""
        self.closing = True
        self._wake(list(self._followers))

    @contextlib.contextmanager
    def follow(self, job_id: str) -> Iterator[Follower]:
        """A follower that is woken at each event of the job. Raises TooManyFollowers."""
        if self._count >= self._limit:
            raise TooManyFollowers(f"{self._count} streams are open")
        follower = Follower(job_id)
        self._followers.setdefault(job_id, set()).add(follower)
        self._count += 1
        try:
            yield follower
        finally:
            self._count -= 1
            self._followers[job_id].remove(follower)
            if not self._followers[job_id]:
                del self._followers[job_id]

    async def span(self, job_id: str) -> tuple[str, str]:
        """Ids of the first and the last entry kept; both START if there is none. Raises StoreUnavailable."""
        with reachable():
            async with self._redis.pipeline(transaction=True) as pipeline:
                key = events_key(job_id)
                pipeline.xrange(key, count=1)
                pipeline.xrevrange(key, count=1)
                first, last = await pipeline.execute()
        return (first[0][0].decode(), last[0][0].decode()) if first else (START, START)

    async def after(self, job_id: str, position: str) -> tuple[list[Event], str]:
        """The next entries after `position`, at most a batch, and the position after them. Previews that a later one of
        the same output has replaced are left out. Raises StoreUnavailable."""
        with reachable():
            entries: Any = await self._redis.xrange(events_key(job_id), f"({position}", count=_BATCH)
        known = {kind.value for kind in EventKind}  # a newer version may write other kinds
        events = [
            Event(name.decode(), EventKind(kind), what[b"data"].decode())
            for name, what in entries
            if (kind := what[b"kind"].decode()) in known
        ]
        if not entries:
            return [], position
        behind = entries[-1][0].decode()
        if any(event.kind is EventKind.PREVIEW for event in events):
            latest = {preview.id: preview for preview in await self.previews(job_id)}
            shown = (event if event.kind is not EventKind.PREVIEW else latest.get(event.id) for event in events)
            events = [event for event in shown if event]
        return events, behind

    async def previews(self, job_id: str) -> list[Event]:
        """The last preview of each output, oldest first. Raises StoreUnavailable."""
        with reachable():
            kept: Any = await self._redis.hvals(previews_key(job_id))
        return sorted((_preview(each) for each in kept), key=lambda event: order(event.id))

    async def _listen(self) -> None:
        """Wake the followers of a job when its stream has grown; after a reconnection wake all, because messages sent
        while disconnected were lost."""
        answers = True
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(CHANNEL)
                    while True:
                        message = await channel.get_message(timeout=_RETRY_S)
                        if message is None:
                            continue
                        if message["type"] == "message":
                            text = message["data"].decode(errors="replace")
                            self._wake([text.removesuffix(GONE)], erased=text.endswith(GONE))
                        else:
                            self._wake(list(self._followers))
                            answers = True
            except Exception as error:  # this task must not end before the process does
                self._failed("events")
                if answers:
                    known = isinstance(error, redis.RedisError | OSError)
                    log.warning("event streams wait for Redis", error=str(error), exc_info=not known)
                answers = False
                await asyncio.sleep(_RETRY_S)

    async def _update_positions(self) -> None:
        """Update the queue position of followers of queued jobs."""
        while True:
            await asyncio.sleep(_POSITIONS_S)
            waiting = [job_id for job_id, those in self._followers.items() if any(each.waiting for each in those)]
            if not waiting:
                continue
            try:
                positions = await self._positions(waiting)
            except redis.RedisError:
                continue  # `_listen` has logged it
            except Exception as error:  # this task must not end before the process does
                self._failed("positions")
                log.warning("queue positions not updated", error=str(error), exc_info=True)
                continue
            for job_id, position in zip(waiting, positions, strict=True):
                for follower in self._followers.get(job_id, ()):
                    if position != follower.queue_position:
                        follower.queue_position = position
                        follower.wake()

    async def _positions(self, job_ids: list[str]) -> list[int | None]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.zrank(QUEUED, job_id)
            positions: list[int | None] = await pipeline.execute()
        return positions

    def _wake(self, job_ids: Iterable[str], erased: bool = False) -> None:
        for job_id in job_ids:
            for follower in self._followers.get(job_id, ()):
                follower.erased |= erased
                follower.wake()


def order(entry: str) -> tuple[int, int]:
    """Sort key of entry ids: time in milliseconds and number within it."""
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number)


def _preview(kept: bytes) -> Event:
    """A stored preview as sent to clients, with the picture as a data URL."""
    entry, header, webp = kept.split(b"\n", 2)
    data = json.loads(header)
    if data["sprite"]:
        data["sprite"] = {"url": f"data:image/webp;base64,{base64.b64encode(webp).decode()}", **data["sprite"]}
    return Event(entry.decode(), EventKind.PREVIEW, json.dumps(data, separators=(",", ":")))
