"""What happens to jobs, for those who watch: any API process reads it, from wherever a client left off.

A worker adds previews by `Previews`; status and steps the store adds itself (`streams` has the names). In an API
process `Events` wakes whoever follows a job, and reads the job's stream for them: one connection listens for all of
them, and one look a second tells all who wait where they stand in the queue.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Iterable, Iterator
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
"""Bytes of a preview's picture, so that a job with eight outputs stays far below 300 KB."""

START = "0-0"
"""Before the first entry of any stream."""

_BATCH = 100
_LOOK_S = 1.0
_AGAIN_S = 0.5

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
    """Frames side by side in one WebP picture, row by row; `width` and `height` in pixels are those of one frame."""

    webp: bytes
    columns: int
    rows: int
    frames: int
    width: int
    height: int


@dataclass(frozen=True)
class Preview:
    """The clip as it emerges, for output `index` after `step` of `total_steps` in `stage`.

    `waveform` are the least and the greatest value, in [-1, 1], of equal parts of the sound. A side that the user
    brought along is None.
    """

    index: int
    stage: str
    step: int
    total_steps: int
    sprite: Sprite | None
    waveform: tuple[tuple[float, float], ...] | None


@dataclass(frozen=True)
class Event:
    """One entry of a stream; `data` is JSON: a job's record where the kind is a status, else what clients get."""

    id: str
    kind: EventKind
    data: str


class Previews:
    """The worker's side."""

    def __init__(self, client: redis.Redis) -> None:
        self._publish = client.register_script(_PREVIEW)

    def publish(self, job_id: str, token: int, preview: Preview) -> None:
        """Show `preview` in place of the last one of the same output, to whoever watches the job.

        Raises StaleClaim if `token` is not the current one any more, StoreUnavailable, and ValueError for a sprite of
        more than MAX_SPRITE bytes.
        """
        sprite = preview.sprite
        if sprite is not None and len(sprite.webp) > MAX_SPRITE:
            raise ValueError(f"a sprite of {len(sprite.webp)} bytes: {MAX_SPRITE} are allowed")
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
    """As many clients follow jobs in this process as it is set to bear."""


class Follower:
    """One client that follows one job. It sets `waiting` while the job waits; `queue_position` is then looked up.
    `erased`: nothing is left to follow."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.waiting = False
        self.erased = False
        self.queue_position: int | None = None
        self._woken = asyncio.Event()

    def wake(self) -> None:
        self._woken.set()

    async def woken(self, seconds: float) -> None:
        """Return when there may be something new, at the latest after `seconds`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)
        self._woken.clear()


class Events:
    """The API's side, one in a process: an asynchronous context, in which clients may follow jobs."""

    def __init__(self, settings: Settings) -> None:
        self.closing = False
        self._limit = settings.max_event_streams
        self._followers: dict[str, set[Follower]] = {}
        self._count = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._redis = connect_async(settings)

    async def __aenter__(self) -> Events:
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._look())]
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._redis.aclose()

    def close(self) -> None:
        """Every stream is to end: the process is about to. Their clients come back to another one."""
        self.closing = True
        self._wake(list(self._followers))

    @contextlib.contextmanager
    def follow(self, job_id: str) -> Iterator[Follower]:
        """Be woken when something happens to the job. Raises TooManyFollowers."""
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
        """Ids of the first and the last entry that are kept; both START where none is. Raises StoreUnavailable."""
        with reachable():
            async with self._redis.pipeline(transaction=True) as pipeline:
                key = events_key(job_id)
                pipeline.xrange(key, count=1)
                pipeline.xrevrange(key, count=1)
                first, last = await pipeline.execute()
        return (first[0][0].decode(), last[0][0].decode()) if first else (START, START)

    async def after(self, job_id: str, position: str) -> tuple[list[Event], str]:
        """What followed the entry `position`, some of it if it is much, and the position behind it. Of the previews,
        those that are still the last of their output. Raises StoreUnavailable."""
        with reachable():
            entries: Any = await self._redis.xrange(events_key(job_id), f"({position}", count=_BATCH)
        known = {kind.value for kind in EventKind}  # a newer version may write others
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
            told = (event if event.kind is not EventKind.PREVIEW else latest.get(event.id) for event in events)
            events = [event for event in told if event]
        return events, behind

    async def previews(self, job_id: str) -> list[Event]:
        """The last preview of each output, in the order in which they came. Raises StoreUnavailable."""
        with reachable():
            kept: Any = await self._redis.hvals(previews_key(job_id))
        return sorted((_preview(each) for each in kept), key=lambda event: order(event.id))

    async def _listen(self) -> None:
        """Wake followers when their job's stream has grown, and all of them when this connection is a new one: what
        was said meanwhile it has not heard."""
        answers = True
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(CHANNEL)
                    while True:
                        message = await channel.get_message(timeout=_AGAIN_S)
                        if message is None:
                            continue
                        if message["type"] == "message":
                            said = message["data"].decode()
                            self._wake([said.removesuffix(GONE)], erased=said.endswith(GONE))
                        else:
                            self._wake(list(self._followers))
                            answers = True
            except (redis.RedisError, OSError) as error:
                if answers:
                    log.warning("those who follow jobs wait for Redis", error=str(error))
                answers = False
                await asyncio.sleep(_AGAIN_S)

    async def _look(self) -> None:
        """Tell those who wait where they stand."""
        while True:
            await asyncio.sleep(_LOOK_S)
            waiting = [job_id for job_id, those in self._followers.items() if any(each.waiting for each in those)]
            if not waiting:
                continue
            with contextlib.suppress(redis.RedisError):  # `_listen` says so already; the next look is a second away
                async with self._redis.pipeline(transaction=False) as pipeline:
                    for job_id in waiting:
                        pipeline.zrank(QUEUED, job_id)
                    positions = await pipeline.execute()
                for job_id, position in zip(waiting, positions, strict=True):
                    for follower in self._followers.get(job_id, ()):
                        if position != follower.queue_position:
                            follower.queue_position = position
                            follower.wake()

    def _wake(self, job_ids: Iterable[str], erased: bool = False) -> None:
        for job_id in job_ids:
            for follower in self._followers.get(job_id, ()):
                follower.erased |= erased
                follower.wake()


def order(entry: str) -> tuple[int, int]:
    """By which ids of entries are sorted: their time and their number in its millisecond."""
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number)


def _preview(kept: bytes) -> Event:
    """A preview as it was kept, as clients get it: the picture as a URL that holds it."""
    entry, header, webp = kept.split(b"\n", 2)
    data = json.loads(header)
    if data["sprite"]:
        data["sprite"] = {"url": f"data:image/webp;base64,{base64.b64encode(webp).decode()}", **data["sprite"]}
    return Event(entry.decode(), EventKind.PREVIEW, json.dumps(data, separators=(",", ":")))
