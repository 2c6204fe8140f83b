"""HTTP requests of the client as data, and how they are sent to a server."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from service.settings import is_loopback

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 90.0
"""Seconds. Long, because the server probes an upload before it answers."""

OnUpload = Callable[[int, int], None]
"""Called while a file is sent, with the bytes sent so far and the size of the file."""


@dataclass(frozen=True)
class Request:
    """One HTTP request.

    `path` is relative to the server's URL; an absolute URL names another server. With `upload` the body is a multipart
    form: that file, `mask` if there is one, and `body` as JSON in the field `params`, if there is one. Otherwise it is
    `body` as JSON.
    `timeout` is the longest time in seconds without data from the server. `repeat_after_timeout`: whether to send it
    again where that time has passed here or at a proxy, and the server may have done what was asked.
    """

    method: str
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    upload: Path | None = None
    mask: Path | None = None
    on_upload: OnUpload | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = READ_TIMEOUT
    repeat_after_timeout: bool = True


@dataclass(frozen=True)
class Response:
    """The response to a Request. `body` is empty if it is streamed."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx. Redirects are not followed: they would take a key or an upload elsewhere."""
        return 200 <= self.status < 300


@dataclass(frozen=True)
class Endpoint:
    """URL and API key of a server. Raises ValueError if either is malformed."""

    url: str
    key: str | None = None

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ValueError(f"{self.url!r} is not a URL: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"{self.url!r} is not a URL of a server: it must begin with http:// or https://")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise ValueError("the API key contains characters that no key has")

    @property
    def trust_env(self) -> bool:
        """Whether a proxy from the environment may be used: never for this machine."""
        return not is_loopback(httpx.URL(self.url).host)

    @contextmanager
    def build(self, http: httpx.Client | httpx.AsyncClient, request: Request) -> Iterator[httpx.Request]:
        """The request for `http` to send; its file stays open inside the context. Raises OSError for the file."""
        own = request.path.startswith("/")
        url = self.url.rstrip("/") + request.path if own else request.path
        headers = dict(request.headers)
        if self.key and own:  # no other server gets the key, not even a store with signed URLs
            headers["Authorization"] = f"Bearer {self.key}"
        body: dict[str, Any] = {}
        with ExitStack() as files:
            if request.upload is not None:
                file = files.enter_context(_UploadFile(request.upload, request.on_upload))
                params = {} if request.body is None else {"params": json.dumps(request.body)}
                parts: dict[str, Any] = {"file": (request.upload.name, file)}
                if request.mask is not None:
                    parts["mask"] = (request.mask.name, request.mask.read_bytes(), "image/png")
                body = {"files": parts, "data": params}
            elif request.body is not None:
                body = {"json": request.body}
            timeout = httpx.Timeout(request.timeout, connect=CONNECT_TIMEOUT)
            query = dict(request.query) or None
            yield http.build_request(request.method, url, params=query, headers=headers, timeout=timeout, **body)


class _UploadFile(io.FileIO):
    """A file that reports how much of it has been read."""

    def __init__(self, path: Path, notify: OnUpload | None) -> None:
        super().__init__(path, "rb")
        self._notify = notify
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size)
        if self._notify is not None:
            self._notify(self.tell(), self._size)
        return data or b""
