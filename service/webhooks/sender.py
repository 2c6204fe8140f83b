"""Sends one webhook by HTTP, only to an address that passed the SSRF check.

The receiver's name is resolved once; its addresses are checked (`service.webhooks.ssrf`), and the connection is made to
one of them. The name is not resolved again, so DNS rebinding has no effect. Redirects are not followed. At most
MOST_READ bytes of the response body are read, and only its status and `Retry-After` are used: the owner of the job
never sees the body.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpcore
import httpx

from service.webhooks.ssrf import Lookup, TargetRefused, look_up, permitted

MOST_READ = 64 * 1024
"""Bytes of a response body that are read."""

_CONNECT_S = 5.0
"""Connect timeout in seconds for each address of a receiver but its last."""


@dataclass(frozen=True)
class Answer:
    """The result of an attempt: the HTTP status, or the error if there is none, and the receiver's `Retry-After` in
    seconds."""

    status: int | None = None
    error: str | None = None
    retry_after: float | None = None


class Sender:
    """Sends to public addresses only, unless `allow_private`, and waits `timeout` seconds for each response."""

    def __init__(self, timeout: float, allow_private: bool, lookup: Lookup = look_up) -> None:
        self._timeout = timeout
        self._backend = GuardedNetwork(allow_private, lookup)
        self._tls = httpx.create_ssl_context(trust_env=False)

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """Send once. Never raises for a failed attempt: the failure is the `error` of the answer."""
        fields = {
            "Host": urlsplit(url).netloc,
            "Content-Type": "application/json",
            "User-Agent": "Duet-Webhooks",
            "Content-Length": str(len(body)),
            **headers,
        }
        answer = Answer(error=f"no answer within {self._timeout:g} s")
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._pool() as pool,
                pool.stream("POST", url, headers=list(fields.items()), content=body) as response,
            ):
                answer = _answer(response)
                await _read_some(response)
        except (TimeoutError, httpcore.TimeoutException):
            return answer  # a status counts even if the body never ended
        except TargetRefused as error:
            return Answer(error=f"not sent: {error}")
        except UnicodeError as error:
            return Answer(error=f"the host's name is not valid: {error}")
        except OSError as error:
            return Answer(error=f"the host was not found: {error.strerror or error}")
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            return answer if answer.status else Answer(error=f"{type(error).__name__}: {error}".removesuffix(": "))
        return answer

    def _pool(self) -> httpcore.AsyncConnectionPool:
        """A new pool for each attempt: a reused connection would rest on an old address check."""
        return httpcore.AsyncConnectionPool(ssl_context=self._tls, max_connections=1, network_backend=self._backend)


class GuardedNetwork(httpcore.AsyncNetworkBackend):
    """Connects only to addresses that it resolved and checked itself. TLS still verifies the host name."""

    def __init__(self, allow_private: bool, lookup: Lookup) -> None:
        self._allow_private = allow_private
        self._lookup = lookup
        self._backend = httpcore.AnyIOBackend()
        self._threads = ThreadPoolExecutor(16, thread_name_prefix="lookup")

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self._lookup, host, port)
        *others, last = permitted(host, found, self._allow_private)
        for address in others:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await self._backend.connect_tcp(address, port, _CONNECT_S, local_address, socket_options)
        return await self._backend.connect_tcp(last, port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def _answer(response: httpcore.Response) -> Answer:
    status = response.status
    if 200 <= status < 300:
        return Answer(status)
    if 300 <= status < 400:
        return Answer(status, "redirects are not followed")
    retry_after = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"")
    return Answer(status, f"the receiver answered {status}", _seconds(retry_after.decode("latin-1")))


async def _read_some(response: httpcore.Response) -> None:
    """Read up to MOST_READ bytes: a receiver that is cut off while it responds might count that as its own failure."""
    read = 0
    async for chunk in response.aiter_stream():
        read += len(chunk)
        if read > MOST_READ:
            return


def _seconds(retry_after: str) -> float | None:
    """Seconds of a `Retry-After` (RFC 9110, section 10.2.3), a number or a date; None if it is neither."""
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
