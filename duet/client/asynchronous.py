"""`AsyncDuet` and `AsyncJob`: the client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from inspect import isawaitable
from typing import Any, Self, TypeVar

import httpx
from httpx_sse import ServerSentEvent

from duet.client import effects, events, operations
from duet.client.effects import Operation
from duet.client.events import Event
from duet.client.methods import Awaited, JobMethods, ServerMethods
from duet.client.operations import RetryPolicy
from duet.client.requests import Endpoint, Response

T = TypeVar("T")


class AsyncDuet(ServerMethods["AsyncJob"], Awaited):
    """A client of one server for asyncio, to be used in one event loop.

    Arguments, results and exceptions are those of `Duet`.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", key: str | None = None, retry: RetryPolicy | None = None
    ) -> None:
        self.endpoint = Endpoint(url, key)
        self.retry = retry or RetryPolicy()
        self._http = httpx.AsyncClient(trust_env=self.endpoint.trust_env)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def run(self, operation: Operation[T]) -> T:
        """Perform an operation."""
        async with aclosing(_Execution(operation, self._http, self.endpoint)) as execution:
            while not isinstance(effect := await execution.advance(), effects.Done):
                if isinstance(effect, effects.Notify) and isawaitable(waiting := effect.callback()):
                    await waiting
            return effect.value

    async def stream(self, operation: Operation[None]) -> AsyncIterator[Any]:
        """Perform an operation; yields what it emits."""
        async with aclosing(_Execution(operation, self._http, self.endpoint)) as execution:
            while not isinstance(effect := await execution.advance(), effects.Done):
                if isinstance(effect, effects.Emit):
                    yield effect.value

    def _job(self, data: dict[str, Any]) -> AsyncJob:
        return AsyncJob(self, data)


class AsyncJob(JobMethods["AsyncJob"], Awaited):
    """A job of a server, in its last received state. See `Job`."""

    def __init__(self, duet: AsyncDuet, data: dict[str, Any]) -> None:
        super().__init__(data)
        self._duet: AsyncDuet = duet

    def events(self) -> AsyncIterator[Event]:
        """All events of the job until its end, with previews."""
        return self._duet.stream(operations.events(self.id, self._duet.retry))

    async def run(self, operation: Operation[T]) -> T:
        """Perform an operation."""
        return await self._duet.run(operation)


class _Execution(effects.Execution[T]):
    """An operation and its connection to the server."""

    def __init__(self, operation: Operation[T], http: httpx.AsyncClient, endpoint: Endpoint) -> None:
        super().__init__(operation)
        self._http = http
        self._endpoint = endpoint
        self._stream: httpx.Response | None = None
        self._chunks: AsyncIterator[bytes]
        self._events: AsyncIterator[ServerSentEvent]

    async def advance(self) -> effects.Notify | effects.Emit | effects.Done[T]:
        """Go on to the next effect that is left to the caller."""
        while isinstance(effect := self.next(), effects.Exchange):
            try:
                self.resume(await self._perform(effect))
            except httpx.TransportError as error:
                self.fail(error)
        return effect

    async def aclose(self) -> None:
        self.operation.close()
        await self._close_stream()

    async def _perform(self, effect: effects.Exchange) -> Any:
        if isinstance(effect, effects.Sleep):
            return await asyncio.sleep(effect.seconds)
        if isinstance(effect, effects.RunBlocking):
            return await asyncio.to_thread(effect.function)
        if isinstance(effect, effects.ReadBytes):
            return await anext(self._chunks, b"")
        if isinstance(effect, effects.ReadEvent):
            return await anext(self._events, None)
        await self._close_stream()
        with self._endpoint.build(self._http, effect.request) as request:
            response = await self._http.send(request, stream=True)
        if isinstance(effect, effects.OpenStream) and response.is_success:
            self._stream, self._chunks = response, response.aiter_bytes()
            self._events = events.source(response).aiter_sse()
            return Response(response.status_code, response.headers)
        async with aclosing(response):
            return Response(response.status_code, response.headers, await response.aread())

    async def _close_stream(self) -> None:
        if self._stream is not None:
            await self._stream.aclose()
            self._stream = None
