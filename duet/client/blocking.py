"""`Duet` and `Job`: the client with plain, blocking calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Self, TypeVar

import httpx
from httpx_sse import ServerSentEvent

from duet.client import effects, events, operations
from duet.client.effects import Operation
from duet.client.events import Event
from duet.client.methods import Blocking, JobMethods, ServerMethods
from duet.client.operations import RetryPolicy
from duet.client.requests import Endpoint, Response

T = TypeVar("T")


class Duet(ServerMethods["Job"], Blocking):
    """A client of one server; `key` is an API key, if the server requires one. Thread-safe.

    Every method raises ServerUnreachable if the server does not respond, even after retries, and Refused if it refuses
    the request. A malformed URL or key is a ValueError.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", key: str | None = None, retry: RetryPolicy | None = None
    ) -> None:
        self.endpoint = Endpoint(url, key)
        self.retry = retry or RetryPolicy()
        self._http = httpx.Client(trust_env=self.endpoint.trust_env)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def run(self, operation: Operation[T]) -> T:
        """Perform an operation."""
        with closing(_Execution(operation, self._http, self.endpoint)) as execution:
            while not isinstance(effect := execution.advance(), effects.Done):
                if isinstance(effect, effects.Notify):
                    effect.callback()
            return effect.value

    def stream(self, operation: Operation[None]) -> Iterator[Any]:
        """Perform an operation; yields what it emits."""
        with closing(_Execution(operation, self._http, self.endpoint)) as execution:
            while not isinstance(effect := execution.advance(), effects.Done):
                if isinstance(effect, effects.Emit):
                    yield effect.value

    def _job(self, data: dict[str, Any]) -> Job:
        return Job(self, data)


class Job(JobMethods["Job"], Blocking):
    """A job of a server, in its last received state."""

    def __init__(self, duet: Duet, data: dict[str, Any]) -> None:
        super().__init__(data)
        self._duet: Duet = duet

    def events(self) -> Iterator[Event]:
        """All events of the job until its end, with previews."""
        return self._duet.stream(operations.events(self.id, self._duet.retry))

    def run(self, operation: Operation[T]) -> T:
        """Perform an operation."""
        return self._duet.run(operation)


class _Execution(effects.Execution[T]):
    """An operation and its connection to the server."""

    def __init__(self, operation: Operation[T], http: httpx.Client, endpoint: Endpoint) -> None:
        super().__init__(operation)
        self._http = http
        self._endpoint = endpoint
        self._stream: httpx.Response | None = None
        self._chunks: Iterator[bytes]
        self._events: Iterator[ServerSentEvent]

    def advance(self) -> effects.Notify | effects.Emit | effects.Done[T]:
        """Go on to the next effect that is left to the caller."""
        while isinstance(effect := self.next(), effects.Exchange):
            try:
                self.resume(self._perform(effect))
            except httpx.TransportError as error:
                self.fail(error)
        return effect

    def close(self) -> None:
        self.operation.close()
        self._close_stream()

    def _perform(self, effect: effects.Exchange) -> Any:
        if isinstance(effect, effects.Sleep):
            return time.sleep(effect.seconds)
        if isinstance(effect, effects.RunBlocking):
            return effect.function()
        if isinstance(effect, effects.ReadBytes):
            return next(self._chunks, b"")
        if isinstance(effect, effects.ReadEvent):
            return next(self._events, None)
        self._close_stream()
        with self._endpoint.build(self._http, effect.request) as request:
            response = self._http.send(request, stream=True)
        if isinstance(effect, effects.OpenStream) and response.is_success:
            self._stream, self._chunks = response, response.iter_bytes()
            self._events = events.source(response).iter_sse()
            return Response(response.status_code, response.headers)
        with closing(response):
            return Response(response.status_code, response.headers, response.read())

    def _close_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None
