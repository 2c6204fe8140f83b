"""What a client does on the wire, as data: calls, answers, and the steps of a flow.

A flow is a generator that yields what it wants done and gets the outcome back. The flows (`duet.client.flows`) hold
all that the client knows, are written once, and leave the wire to whoever drives them: `duet.client.blocking` with
plain calls, `duet.client.asynchronous` with awaited ones.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx

from service.settings import is_loopback

T = TypeVar("T")

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 90.0
"""How long a server may take to answer: it looks at an upload before it does."""

OnUpload = Callable[[int, int], None]
"""Called while a file is sent: bytes sent, bytes in all."""


@dataclass(frozen=True)
class Call:
    """One request. `path` is below the server's address, or a whole URL of another's. With `upload` the body is a form
    of that file and, as JSON in its field `params`, of `body`; else it is `body` as JSON."""

    method: str
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    upload: Path | None = None
    on_upload: OnUpload | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = ANSWER_SECONDS
    """The longest silence of the server."""


@dataclass(frozen=True)
class Answer:
    """What came back. Of a stream that was opened well, `body` is empty: it is read piece by piece."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Send:
    """Send the call; get the Answer."""

    call: Call


@dataclass(frozen=True)
class Open:
    """Send the call, and keep its body open if the answer is no error; get the Answer. Closes what was open before."""

    call: Call


@dataclass(frozen=True)
class Read:
    """Get the next bytes of what is open, b"" at its end."""


@dataclass(frozen=True)
class ReadEvent:
    """Get the next ServerSentEvent of what is open, None at its end."""


@dataclass(frozen=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Run:
    """Call the function, which may block on a disk; get its result."""

    function: Callable[[], Any]


@dataclass(frozen=True)
class Emit:
    """Hand the value to whoever runs the flow."""

    value: Any


@dataclass(frozen=True)
class Done(Generic[T]):
    """The flow has ended with this value."""

    value: T


Action = Send | Open | Read | ReadEvent | Pause | Run | Emit
Flow = Generator[Action, Any, T]
"""Actions are answered as they say; what httpx raises as TransportError is thrown into the flow."""


@dataclass(frozen=True)
class Server:
    """An address and the key for it. Raises ValueError for an address that is none."""

    url: str
    key: str | None = None

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ValueError(f"{self.url!r} is no address: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError(f"{self.url!r} is no address: it must begin with http:// or https://")
        if self.key is not None and not (self.key.isascii() and self.key.isprintable()):
            raise ValueError("the key has characters that no key has")

    @property
    def asks_proxy(self) -> bool:
        """Whether a proxy of the environment may stand between: never on this machine."""
        return not is_loopback(httpx.URL(self.url).host)

    @contextmanager
    def request(self, http: httpx.Client | httpx.AsyncClient, call: Call) -> Iterator[httpx.Request]:
        """The call as `http` sends it; its file is open as long as the context is. Raises OSError for the file."""
        own = call.path.startswith("/")
        url = self.url.rstrip("/") + call.path if own else call.path
        headers = dict(call.headers)
        if self.key and own:  # nobody else gets the key, a store of files with signed addresses neither
            headers["Authorization"] = f"Bearer {self.key}"
        body: dict[str, Any] = {}
        with ExitStack() as files:
            if call.upload is not None:
                file = files.enter_context(_Upload(call.upload, call.on_upload))
                body = {"files": {"file": (call.upload.name, file)}, "data": {"params": json.dumps(call.body or {})}}
            elif call.body is not None:
                body = {"json": call.body}
            timeout = httpx.Timeout(call.seconds, connect=CONNECT_SECONDS)
            query = dict(call.query) or None
            yield http.build_request(call.method, url, params=query, headers=headers, timeout=timeout, **body)


class _Upload(io.FileIO):
    """A file that tells how far it has been read."""

    def __init__(self, path: Path, notify: OnUpload | None) -> None:
        super().__init__(path, "rb")
        self._notify = notify
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(-1 if size is None else size)
        if self._notify is not None:
            self._notify(self.tell(), self._size)
        return data or b""
