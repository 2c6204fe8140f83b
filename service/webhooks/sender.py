"""Sends one webhook: signed as Standard Webhooks has it, to the very address that was found fit to be sent to.

The name of the receiver is looked up once, by us; its addresses are judged (`service.webhooks.ssrf`) and one of them is
connected to. Nobody looks the name up again, so it cannot lead elsewhere in between. Redirects are not followed, the
answer is read no further than politeness asks, and nothing of it but the status and `Retry-After` is used: what a
receiver says is never shown to whoever named it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import httpcore
import httpx
from standardwebhooks import Webhook

from service.jobs.record import Job
from service.jobs.view import job_view
from service.webhooks.ssrf import Lookup, TargetRefused, look_up, permitted

MOST_READ = 64 * 1024
"""Bytes of an answer's body."""

_CONNECT_S = 5.0
"""Seconds for each address of a receiver that has several."""


@dataclass(frozen=True)
class Answer:
    """What came of it: the HTTP status, or why there is none, and the seconds after which the receiver would have us
    try again."""

    status: int | None = None
    error: str | None = None
    retry_after: float | None = None


def message(job: Job, public_url: str) -> bytes:
    """The body: the same at each try. The job as `GET` gives it, its paths behind `public_url`, and of the webhook's
    log nothing, which would be another one each time."""
    data = job_view(job, None, None, public_url, lambda path: path).model_dump(mode="json")
    body = {"type": f"job.{job.status}", "timestamp": data["completed_at"], "data": data}
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def signed(job: Job, body: bytes, secrets: Iterable[str], now: datetime) -> dict[str, str]:
    """The headers that say which message this is, when it was sent, and that it is ours: a signature a secret."""
    name = f"msg_{job.id.removeprefix('job_')}"
    signatures = (Webhook(secret).sign(name, now, body.decode()) for secret in secrets)
    return {
        "webhook-id": name,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


class Sender:
    """Sends, to public addresses only unless `allow_private`, and waits `timeout` seconds for each answer."""

    def __init__(self, timeout: float, allow_private: bool, lookup: Lookup = look_up) -> None:
        self._timeout = timeout
        self._backend = _Guarded(allow_private, lookup)
        self._tls = httpx.create_ssl_context(trust_env=False)

    async def post(self, url: str, headers: dict[str, str], body: bytes) -> Answer:
        """Send once. What goes wrong is an answer, too."""
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
            return answer  # that of a receiver which answered and then went on for ever counts
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
        """A new one each time: a connection that is kept would be one whose address was judged long ago."""
        return httpcore.AsyncConnectionPool(ssl_context=self._tls, max_connections=1, network_backend=self._backend)


class _Guarded(httpcore.AsyncNetworkBackend):
    """Connects to nothing but what it has looked up and judged itself. TLS still checks the name, not the address."""

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
    """A receiver that is cut off while it answers might take that for a failure of its own."""
    read = 0
    async for chunk in response.aiter_stream():
        read += len(chunk)
        if read > MOST_READ:
            return


def _seconds(retry_after: str) -> float | None:
    """`Retry-After` (RFC 9110, section 10.2.3), seconds or a date; None where it is neither."""
    if retry_after.isascii() and retry_after.isdecimal():
        return float(retry_after[:9])
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
