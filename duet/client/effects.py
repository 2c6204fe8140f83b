"""Operations of the client as generators without I/O.

An operation (`duet.client.operations`) yields effects, such as a request to send, and receives their results. It is
written once and performed twice: by `duet.client.blocking` with plain calls, by `duet.client.asynchronous` with awaited
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from duet.client.requests import Request

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """Send the request; the result is the Response with its body."""

    request: Request


@dataclass(frozen=True)
class OpenStream:
    """Send the request; the result is the Response. The body of a 2xx stays open for ReadBytes and ReadEvent, and
    replaces the one that was open before."""

    request: Request


@dataclass(frozen=True)
class ReadBytes:
    """The next bytes of the open body; b"" at its end."""


@dataclass(frozen=True)
class ReadEvent:
    """The next ServerSentEvent of the open body; None at its end."""


@dataclass(frozen=True)
class Sleep:
    """Wait for this many seconds."""

    seconds: float


@dataclass(frozen=True)
class RunBlocking:
    """Call a function that may block on a disk; the result is what it returns."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Notify:
    """Call the user's function. In asyncio it may be a coroutine function."""

    callback: Callable[[], object]


@dataclass(frozen=True)
class Emit:
    """The next item of an operation that is iterated over."""

    value: Any


@dataclass(frozen=True)
class Done(Generic[T]):
    """The operation has returned this value."""

    value: T


Exchange = Send | OpenStream | ReadBytes | ReadEvent | Sleep | RunBlocking
"""Effects with a result. A httpx.TransportError is raised inside the operation instead."""

Operation = Generator[Exchange | Notify | Emit, Any, T]


class Execution(Generic[T]):
    """An operation that is under way: `next` gives its next effect, `resume` and `fail` the outcome of an Exchange."""

    def __init__(self, operation: Operation[T]) -> None:
        self.operation = operation
        self._advance: Callable[[], Exchange | Notify | Emit] = partial(next, operation)

    def next(self) -> Exchange | Notify | Emit | Done[T]:
        advance, self._advance = self._advance, partial(self.operation.send, None)
        try:
            return advance()
        except StopIteration as stop:
            return Done(stop.value)

    def resume(self, result: Any) -> None:
        self._advance = partial(self.operation.send, result)

    def fail(self, error: BaseException) -> None:
        self._advance = partial(self.operation.throw, error)
