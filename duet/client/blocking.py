"""The client for plain code: calls that return when the answer is there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
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


class Duet:
    """A server. `key` goes with every request where the server has API keys.

    Every method raises ServerUnreachable where no server answers, also after some tries, and Refused where it says no;
    ValueError for an address that is none. Thread-safe.
    """

    def __init__(
        self, url: str = "http://127.0.0.1:8000", key: str | None = None, patience: Patience | None = None
    ) -> None:
        self.server = Server(url, key)
        self.patience = patience or Patience()
        self._http = httpx.Client(trust_env=self.server.asks_proxy)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def generate(self, *, idempotency_key: str | None = None, **params: Unpack[GenerateParameters]) -> Job:
        """Have a sounding video made from nothing."""
        return self.submit("generate", params, idempotency_key=idempotency_key)

    def v2a(
        self,
        file: str | Path,
        *,
        idempotency_key: str | None = None,
        on_upload: OnUpload | None = None,
        **params: Unpack[V2AParameters],
    ) -> Job:
        """Have a sound made for a video. Raises OSError if the file cannot be read."""
        return self.submit("v2a", params, file, idempotency_key=idempotency_key, on_upload=on_upload)

    def a2v(
        self,
        file: str | Path,
        *,
        idempotency_key: str | None = None,
        on_upload: OnUpload | None = None,
        **params: Unpack[A2VParameters],
    ) -> Job:
        """Have a video made for a sound, or for the sound of a video. Raises OSError if the file cannot be read."""
        return self.submit("a2v", params, file, idempotency_key=idempotency_key, on_upload=on_upload)

    def submit(
        self,
        kind: Kind,
        params: Mapping[str, Any],
        file: str | Path | None = None,
        *,
        idempotency_key: str | None = None,
        on_upload: OnUpload | None = None,
    ) -> Job:
        """Have a job of any kind done. What is None in `params` is left to the server."""
        upload = None if file is None else Path(file)
        flow = flows.submit(kind, params, upload, idempotency_key, on_upload, self.patience)
        return Job(self, self.run(flow))

    def jobs(self, status: str | None = None, kind: str | None = None, limit: int = 20) -> list[Job]:
        """The newest jobs, of all that the key may see."""
        return [Job(self, data) for data in self.run(flows.page(status, kind, limit, self.patience))]

    def job(self, job_id: str) -> Job:
        """One job."""
        return Job(self, self.run(flows.get(job_id, self.patience)))

    def models(self) -> list[Model]:
        """What the server can make clips with."""
        return [Model.read(data) for data in self.run(flows.models(self.patience))]

    def run(self, flow: Flow[T], emit: Callable[[Any], object] = lambda _: None) -> T:
        """Drive a flow to its end; `emit` gets what it emits."""
        with closing(_Conversation(self._http, self.server, flow)) as conversation:
            while not isinstance(news := conversation.advance(), Done):
                emit(news.value)
            return news.value

    def emitted(self, flow: Flow[None]) -> Iterator[Any]:
        """What a flow emits, as it comes."""
        with closing(_Conversation(self._http, self.server, flow)) as conversation:
            while not isinstance(news := conversation.advance(), Done):
                yield news.value


class Job(JobFacts):
    """A job at a server, as it was when last heard of."""

    def __init__(self, duet: Duet, data: dict[str, Any]) -> None:
        super().__init__(data)
        self._duet = duet

    def refresh(self) -> Self:
        """Ask how it is now."""
        self.data = self._duet.run(flows.get(self.id, self._duet.patience))
        return self

    def wait(self, on_progress: Callable[[Job], object] | None = None, timeout: float | None = None) -> Self:
        """Return when it has completed; `on_progress` is called with this job whenever there is news.

        Raises JobFailed, JobCanceled, JobGone; StillRunning, a TimeoutError, after `timeout` seconds.
        """

        def take(data: dict[str, Any]) -> None:
            self.data = data
            if on_progress is not None:
                on_progress(self)

        self.data = self._duet.run(flows.follow(self.data, timeout, self._duet.patience), take)
        self.check()
        return self

    def events(self) -> Iterator[Event]:
        """Everything that is told about it, previews too, until its end."""
        return self._duet.emitted(flows.events(self.id, self._duet.patience))

    def cancel(self) -> Self:
        """Stop it; a running one ends within a step. Raises Refused if it has completed or failed already."""
        self.data = self._duet.run(flows.cancel(self.id, self._duet.patience))
        return self

    def delete(self) -> None:
        """Stop it, and erase it with its upload and results."""
        self._duet.run(flows.delete(self.id, self._duet.patience))

    def retry(self) -> Job:
        """A new job with the same upload, parameters and seed."""
        return Job(self._duet, self._duet.run(flows.retry(self.id, self._duet.patience)))

    def save(self, path: str | Path, output: int = 0, file: str = "video.mp4") -> Path:
        """Write a file of an output to `path`, or into the folder `path`; return where it is.

        What was there is replaced by the whole file or stays. Raises ValueError for a file that the job does not have.
        """
        place, target = self.place(file, output), self.target(path, file, output)
        self._duet.run(flows.fetch(place, target, self._duet.patience))
        return target


class _Conversation(Generic[T]):
    """A flow and the connection that it works with."""

    def __init__(self, http: httpx.Client, server: Server, flow: Flow[T]) -> None:
        self._http = http
        self._server = server
        self._flow = flow
        self._reply: Callable[[], Action] = partial(next, flow)
        self._open: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._events: Iterator[ServerSentEvent] = iter(())

    def advance(self) -> Emit | Done[T]:
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
                self._reply = partial(self._flow.send, self._do(action))
            except httpx.TransportError as error:
                self._reply = partial(self._flow.throw, error)

    def close(self) -> None:
        self._flow.close()
        self._close_body()

    def _do(self, action: Send | Open | Read | ReadEvent | Pause | Run) -> Any:
        if isinstance(action, Pause):
            return time.sleep(action.seconds)
        if isinstance(action, Run):
            return action.function()
        if isinstance(action, Read):
            return next(self._pieces, b"")
        if isinstance(action, ReadEvent):
            return next(self._events, None)
        self._close_body()
        with self._server.request(self._http, action.call) as request:
            response = self._http.send(request, stream=True)
        if isinstance(action, Open) and response.is_success:
            self._open, self._pieces = response, response.iter_bytes()
            self._events = events.source(response).iter_sse()
            return Answer(response.status_code, response.headers)
        with closing(response):
            return Answer(response.status_code, response.headers, response.read())

    def _close_body(self) -> None:
        if self._open is not None:
            self._open.close()
            self._open, self._pieces, self._events = None, iter(()), iter(())
