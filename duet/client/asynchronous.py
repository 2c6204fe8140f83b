"""The client for asyncio: the same as `duet.client.blocking`, awaited."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial
from inspect import isawaitable
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, Unpack

import httpx
from httpx_sse import ServerSentEvent

from duet.client import events, flows
from duet.client.events import Event
from duet.client.exchange import (
    Action,
    Answer,
    Done,
    Emit,
    Flow,
    OnUpload,
    Open,
    Pause,
    Read,
    ReadEvent,
    Run,
    Send,
    Server,
)
from duet.client.facts import JobFacts, Model
from duet.client.flows import Patience
from duet.client.parameters import A2VParameters, GenerateParameters, Kind, V2AParameters

T = TypeVar("T")


class AsyncDuet:
    """A server. See `Duet`: arguments, answers and exceptions are the same. For use in one event loop."""

    def __init__(
        self, url: str = "http://127.0.0.1:8000", key: str | None = None, patience: Patience | None = None
    ) -> None:
        self.server = Server(url, key)
        self.patience = patience or Patience()
        self._http = httpx.AsyncClient(trust_env=self.server.asks_proxy)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def generate(self, *, idempotency_key: str | None = None, **params: Unpack[GenerateParameters]) -> AsyncJob:
        return await self.submit("generate", params, idempotency_key=idempotency_key)

    async def v2a(
        self,
        file: str | Path,
        *,
        idempotency_key: str | None = None,
        on_upload: OnUpload | None = None,
        **params: Unpack[V2AParameters],
    ) -> AsyncJob:
        return await self.submit("v2a", params, file, idempotency_key=idempotency_key, on_upload=on_upload)

    async def a2v(
        self,
        file: str | Path,
        *,
        idempotency_key: str | None = None,
        on_upload: OnUpload | None = None,
        **params: Unpack[A2VParameters],
    ) -> AsyncJob:
        return await self.submit("a2v", params, file, idempotency_key=idempotency_key, on_upload=on_upload)

    async def submit(
        self,
        kind: Kind,
        params: Mapping[str, Any],
        file: str | Path | None = None,
        *,
        idempotency_key: str | None = None,
        on_upload: OnUpload | None = None,
    ) -> AsyncJob:
        upload = None if file is None else Path(file)
        flow = flows.submit(kind, params, upload, idempotency_key, on_upload, self.patience)
        return AsyncJob(self, await self.run(flow))

    async def jobs(self, status: str | None = None, kind: str | None = None, limit: int = 20) -> list[AsyncJob]:
        return [AsyncJob(self, data) for data in await self.run(flows.page(status, kind, limit, self.patience))]

    async def job(self, job_id: str) -> AsyncJob:
        return AsyncJob(self, await self.run(flows.get(job_id, self.patience)))

    async def models(self) -> list[Model]:
        return [Model.read(data) for data in await self.run(flows.models(self.patience))]

    async def run(self, flow: Flow[T], emit: Callable[[Any], object] = lambda _: None) -> T:
        """Drive a flow to its end; `emit` gets what it emits, and is awaited if it can be."""
        async with aclosing(_Conversation(self._http, self.server, flow)) as conversation:
            while not isinstance(news := await conversation.advance(), Done):
                waiting = emit(news.value)
                if isawaitable(waiting):
                    await waiting
            return news.value

    async def emitted(self, flow: Flow[None]) -> AsyncIterator[Any]:
        """What a flow emits, as it comes."""
        async with aclosing(_Conversation(self._http, self.server, flow)) as conversation:
            while not isinstance(news := await conversation.advance(), Done):
                yield news.value


class AsyncJob(JobFacts):
    """A job at a server. See `Job`; `on_progress` may be a coroutine function."""

    def __init__(self, duet: AsyncDuet, data: dict[str, Any]) -> None:
        super().__init__(data)
        self._duet = duet

    async def refresh(self) -> Self:
        self.data = await self._duet.run(flows.get(self.id, self._duet.patience))
        return self

    async def wait(
        self,
        on_progress: Callable[[AsyncJob], Awaitable[object] | object] | None = None,
        timeout: float | None = None,
    ) -> Self:
        def take(data: dict[str, Any]) -> object:
            self.data = data
            return on_progress(self) if on_progress is not None else None

        self.data = await self._duet.run(flows.follow(self.data, timeout, self._duet.patience), take)
        self.check()
        return self

    def events(self) -> AsyncIterator[Event]:
        return self._duet.emitted(flows.events(self.id, self._duet.patience))

    async def cancel(self) -> Self:
        self.data = await self._duet.run(flows.cancel(self.id, self._duet.patience))
        return self

    async def delete(self) -> None:
        await self._duet.run(flows.delete(self.id, self._duet.patience))

    async def retry(self) -> AsyncJob:
        return AsyncJob(self._duet, await self._duet.run(flows.retry(self.id, self._duet.patience)))

    async def save(self, path: str | Path, output: int = 0, file: str = "video.mp4") -> Path:
        place, target = self.place(file, output), self.target(path, file, output)
        await self._duet.run(flows.fetch(place, target, self._duet.patience))
        return target


class _Conversation(Generic[T]):
    """A flow and the connection that it works with."""

    def __init__(self, http: httpx.AsyncClient, server: Server, flow: Flow[T]) -> None:
        self._http = http
        self._server = server
        self._flow = flow
        self._reply: Callable[[], Action] = partial(next, flow)
        self._open: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] = _nothing()
        self._events: AsyncIterator[ServerSentEvent] = _nothing()

    async def advance(self) -> Emit | Done[T]:
        """Go on to what the flow emits next, or to its end."""
        while True:
            try:
                action = self._reply()
            except StopIteration as stop:
                return Done(stop.value)
            if isinstance(action, Emit):
                self._reply = partial(self._flow.send, None)
                return action
            try:
                self._reply = partial(self._flow.send, await self._do(action))
            except httpx.TransportError as error:
                self._reply = partial(self._flow.throw, error)

    async def aclose(self) -> None:
        self._flow.close()
        await self._close_body()

    async def _do(self, action: Send | Open | Read | ReadEvent | Pause | Run) -> Any:
        if isinstance(action, Pause):
            return await asyncio.sleep(action.seconds)
        if isinstance(action, Run):
            return await asyncio.to_thread(action.function)
        if isinstance(action, Read):
            return await anext(self._pieces, b"")
        if isinstance(action, ReadEvent):
            return await anext(self._events, None)
        await self._close_body()
        with self._server.request(self._http, action.call) as request:
            response = await self._http.send(request, stream=True)
        if isinstance(action, Open) and response.is_success:
            self._open, self._pieces = response, response.aiter_bytes()
            self._events = events.source(response).aiter_sse()
            return Answer(response.status_code, response.headers)
        async with aclosing(response):
            return Answer(response.status_code, response.headers, await response.aread())

    async def _close_body(self) -> None:
        if self._open is not None:
            await self._open.aclose()
            self._open, self._pieces, self._events = None, _nothing(), _nothing()


async def _nothing() -> AsyncIterator[Any]:
    return
    yield
