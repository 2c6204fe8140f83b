"""The methods of `Duet`, `AsyncDuet` and their jobs, each written once.

A method is an operation (see `duet.client.effects`). The decorator `method` makes it a plain method of classes derived
from `Blocking`, and a coroutine method, with the same arguments, of those derived from `Awaited`.
"""

from __future__ import annotations

import functools
import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, Unpack, cast, overload

from duet.client import operations
from duet.client.effects import Operation
from duet.client.operations import RetryPolicy, fetch_job, fetch_json
from duet.client.parameters import A2VParameters, EditParameters, GenerateParameters, Kind, V2AParameters
from duet.client.requests import Request
from duet.client.resources import JobData, Model

RELOAD_TIMEOUT = 600.0
"""Seconds. The server loads torch to check the weights, and reads them whole."""

P = ParamSpec("P")
T = TypeVar("T")
JobT = TypeVar("JobT", bound="JobMethods[Any]")


class Blocking(ABC):
    """Performs operations with plain calls."""

    @abstractmethod
    def run(self, operation: Operation[T]) -> T: ...


class Awaited(ABC):
    """Performs operations with awaited calls."""

    @abstractmethod
    async def run(self, operation: Operation[T]) -> T: ...


class method(Generic[P, T]):  # a decorator
    """Makes an operation a plain method of a Blocking class, and a coroutine method of an Awaited one."""

    def __init__(self, operation: Callable[Concatenate[Any, P], Operation[T]]) -> None:
        @functools.wraps(operation)
        def blocking(self: Blocking, *args: P.args, **kwargs: P.kwargs) -> T:
            return self.run(operation(self, *args, **kwargs))

        @functools.wraps(operation)
        async def awaited(self: Awaited, *args: P.args, **kwargs: P.kwargs) -> T:
            return await self.run(operation(self, *args, **kwargs))

        self._blocking, self._awaited = blocking, awaited

    @overload
    def __get__(self, instance: Blocking, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, instance: Awaited, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, instance: Blocking | Awaited | None, owner: type) -> Any:
        function = self._awaited if issubclass(owner, Awaited) else self._blocking
        return function if instance is None else MethodType(function, instance)


class ServerMethods(ABC, Generic[JobT]):
    """What a server can be asked for."""

    retry: RetryPolicy

    @abstractmethod
    def _job(self, data: dict[str, Any]) -> JobT: ...

    @method
    def generate(self, **arguments: Unpack[GenerateParameters]) -> Operation[JobT]:
        """Generate a video with sound from noise.

        With an `idempotency_key` of your own, a second call with the same key returns the same job.
        """
        return self._submit("generate", arguments)

    @method
    def v2a(self, file: str | Path, **arguments: Unpack[V2AParameters]) -> Operation[JobT]:
        """Generate a soundtrack for a video. `on_upload` is called with the bytes sent and the size of the file.

        Raises OSError if the file cannot be read.
        """
        return self._submit("v2a", arguments, file)

    @method
    def a2v(self, file: str | Path, **arguments: Unpack[A2VParameters]) -> Operation[JobT]:
        """Generate a video for a sound, or for the sound of a video. Otherwise as `v2a`."""
        return self._submit("a2v", arguments, file)

    @method
    def edit(self, file: str | Path, **arguments: Unpack[EditParameters]) -> Operation[JobT]:
        """Make parts of a video anew: exactly one of `retake`, `extend` and `region`. `mask` is a PNG file that says
        where a region is. Otherwise as `v2a`."""
        return self._submit("edit", arguments, file)

    @method
    def submit(self, kind: Kind, arguments: Mapping[str, Any], file: str | Path | None = None) -> Operation[JobT]:
        """Submit a job of any kind, with the arguments of the method of that name. Those that are None are omitted."""
        return self._submit(kind, arguments, file)

    def _submit(self, kind: Kind, arguments: Mapping[str, Any], file: str | Path | None = None) -> Operation[JobT]:
        """Every attempt has the same Idempotency-Key, so a job whose response was lost is found again."""
        params = {name: value for name, value in arguments.items() if value is not None}
        headers = _idempotent(params.pop("idempotency_key", None))
        upload, on_upload = None if file is None else Path(file), params.pop("on_upload", None)
        mask = Path(params.pop("mask")) if "mask" in params else None
        request = {"body": params, "upload": upload, "mask": mask, "on_upload": on_upload, "headers": headers}
        return self._job((yield from fetch_job("POST", f"/{kind}", self.retry, **request)))

    @method
    def jobs(self, status: str | None = None, kind: str | None = None, limit: int = 20) -> Operation[list[JobT]]:
        """The newest jobs that the key may see."""
        found: list[dict[str, Any]] = []
        after: str | None = None
        while len(found) < limit:
            given = {"status": status, "kind": kind, "limit": min(100, limit - len(found)), "after": after}
            query = {name: value for name, value in given.items() if value is not None}
            page = yield from fetch_json(Request("GET", "/jobs", query=query), self.retry, "data", "next")
            found += page["data"]
            after = page["next"]
            if after is None:
                break
        return [self._job(data) for data in found]

    @method
    def job(self, job_id: str) -> Operation[JobT]:
        """The job with this id."""
        return self._job((yield from fetch_job("GET", f"/jobs/{job_id}", self.retry)))

    @method
    def models(self) -> Operation[list[Model]]:
        """The models of the server."""
        found = yield from fetch_json(Request("GET", "/models"), self.retry, "data")
        return [Model.read(data) for data in found["data"]]

    @method
    def reload_models(self) -> Operation[dict[str, Any]]:
        """Make the server read its folders of models again: the response of `POST /models/reload`, with the names
        `added`, `changed` and `removed`. Raises Refused if a folder cannot be taken, or the key may not reload, and
        ServerUnreachable if the server does not answer within RELOAD_TIMEOUT: a second reload would not say what the
        first one has changed."""
        request = Request("POST", "/models/reload", timeout=RELOAD_TIMEOUT, repeat_after_timeout=False)
        return (yield from fetch_json(request, self.retry, "added", "changed", "removed"))

    @method
    def verify(self, file: str | Path) -> Operation[dict[str, Any]]:
        """What a file says of its making: the response of `POST /verify`. Raises OSError if it cannot be read."""
        return (yield from fetch_json(Request("POST", "/verify", upload=Path(file)), self.retry, "credentials"))


class JobMethods(JobData, Generic[JobT]):
    """What can be done with a job."""

    _duet: ServerMethods[JobT]

    def _updated(self, data: dict[str, Any]) -> JobT:
        self.data = data
        return cast("JobT", self)

    @method
    def refresh(self) -> Operation[JobT]:
        """Fetch the current state; returns this job."""
        return self._updated((yield from fetch_job("GET", f"/jobs/{self.id}", self._duet.retry)))

    @method
    def wait(
        self, on_progress: Callable[[JobT], object] | None = None, timeout: float | None = None
    ) -> Operation[JobT]:
        """Wait until the job has completed, and return it. `on_progress` is called with this job at every change; in
        asyncio it may be a coroutine function.

        Raises JobFailed, JobCanceled, JobGone; StillRunning, a TimeoutError, after `timeout` seconds.
        """

        def change(data: dict[str, Any]) -> object:
            job = self._updated(data)
            return None if on_progress is None else on_progress(job)

        yield from operations.follow(self.data, change, timeout, self._duet.retry)
        self.check()
        return self._updated(self.data)

    @method
    def cancel(self) -> Operation[JobT]:
        """Cancel the job: at once if it is queued, within a step if it runs. Returns this job."""
        return self._updated((yield from operations.cancel(self.id, self._duet.retry)))

    @method
    def delete(self) -> Operation[None]:
        """Delete the job and all of its files."""
        yield from operations.send(Request("DELETE", f"/jobs/{self.id}"), self._duet.retry)

    @method
    def retry(self) -> Operation[JobT]:
        """Submit the same job again; returns the new one."""
        path, headers = f"/jobs/{self.id}/retry", _idempotent(None)
        return self._duet._job((yield from fetch_job("POST", path, self._duet.retry, headers=headers)))

    @method
    def save(self, path: str | Path, output: int | None = None, file: str = "video.mp4") -> Operation[Path]:
        """Save a file of the job, completely or not at all, and return its path. If `path` is a folder, the server's
        name for the file is used. An existing file is replaced. Without `output` it is the first, with `keep` the best.

        Raises ValueError if the job has no such file, OSError if it cannot be written.
        """
        target = self.target(path, file, output)
        yield from operations.fetch_file(self.file_url(file, output), target, self._duet.retry)
        return target

    @method
    def read(
        self, output: int | None = None, file: str = "video.mp4", limit: int | None = None
    ) -> Operation[bytes | None]:
        """The content of a file of the job; None if it has more than `limit` bytes. Otherwise as `save`."""
        return (yield from operations.fetch_bytes(self.file_url(file, output), self._duet.retry, limit))


def _idempotent(key: str | None) -> dict[str, str]:
    return {"Idempotency-Key": key or secrets.token_hex(16)}
