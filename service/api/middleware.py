"""Middleware of every request: request id, log line, metrics, trace, limits on the body, security headers, and a
response even after an unexpected error."""

from __future__ import annotations

import asyncio
import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.cross_origin import with_cors
from service.api.hosts import known_host
from service.api.problems import Problem, problem_response
from service.log import log
from service.metrics.api import ApiMetrics
from service.settings import Settings
from service.study.record import TOKEN
from service.tracing import Tracing

MAX_BODY = 2**20
"""Largest body of a request in bytes, unless its route allows more."""

RATE_PERIOD_S = 30
"""Seconds over which the rate of a body is measured."""

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of every response unless its route sets others: it is not a page and must not be cached. No referrer is sent,
because a signed URL grants access to its file."""

_LENGTH = re.compile(r"[0-9]{1,19}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def privacy(settings: Settings) -> str:
    """`Cache-Control` of responses with an ETag. With keys nothing is stored, because users may share a cache."""
    return "private, no-store" if settings.key_hashes else "private, no-cache"


def _misdirected() -> Problem:
    return Problem(
        421,
        "unknown_host",
        "Without API keys this service is available only at localhost and at the host of DUET_PUBLIC_URL. Use one of "
        "them, or set DUET_API_KEYS.",
    )


class BodyLimit:
    """Bounds the size of a request body, and from below the rate at which it arrives. A route that accepts larger
    bodies calls `allow` before it reads."""

    def __init__(self, scope: Scope, receive: Receive, least_rate: int = 0) -> None:
        """`least_rate`: bytes a second; 0 for no bound."""
        self.allow(MAX_BODY, Problem(413, "too_large", f"The body of this request may have at most {MAX_BODY} bytes."))
        length = Headers(scope=scope).get("content-length", "")
        self.announced = int(length) if _LENGTH.fullmatch(length) else 0
        self._receive = receive
        self._received = 0
        self._least = least_rate * RATE_PERIOD_S
        self._recent = 0
        self._deadline: float | None = None
        self._complete = False

    def allow(self, maximum: int, problem: Problem) -> None:
        """Allow bodies of `maximum` bytes; a larger one raises `problem`."""
        self._maximum, self._problem = maximum, problem

    async def receive(self) -> Message:
        """The next message. Raises the problem if the body is too large, at once if Content-Length says so, and Problem
        408 if it arrives too slowly."""
        self._check(self.announced)
        message = await self._next()
        size = len(message.get("body", b""))
        self._received += size
        self._recent += size
        self._complete = not message.get("more_body", False)
        self._check(self._received)
        return message

    async def _next(self) -> Message:
        if not self._least or self._complete:
            return await self._receive()
        now = asyncio.get_running_loop().time()
        if self._deadline is None or self._recent >= self._least:
            self._deadline, self._recent = now + RATE_PERIOD_S, 0
        try:
            async with asyncio.timeout_at(self._deadline):
                return await self._receive()
        except TimeoutError as error:
            detail = f"The body arrived too slowly: less than {self._least} bytes in {RATE_PERIOD_S} s."
            raise Problem(408, "too_slow", detail, headers={"Connection": "close"}) from error

    def _check(self, size: int) -> None:
        if size > self._maximum:
            raise self._problem


def body_limit(request: Request) -> BodyLimit:
    """The limit that bounds this request's body."""
    limit = request.state.body_limit
    assert isinstance(limit, BodyLimit)
    return limit


class RequestContext:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, metrics: ApiMetrics, tracing: Tracing, settings: Settings) -> None:
        self._app = app
        self._least_rate = settings.min_upload_rate
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        self._answer = with_cors(self._handle, settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        limit = BodyLimit(scope, receive, self._least_rate)
        scope.setdefault("state", {}).update(request_id=request_id, body_limit=limit)
        quiet = scope["path"].removeprefix(scope.get("root_path", "")).removeprefix("/v1") in _QUIET
        tracing = _UNTRACED if quiet else self._tracing
        status: int | None = None
        began = time.perf_counter()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                seconds = time.perf_counter() - began  # a stream of events may go on for hours from here
                self._metrics.answered(_route(scope), scope["method"], message["status"], seconds)
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        with (
            structlog.contextvars.bound_contextvars(request_id=request_id),
            tracing.request(scope["method"], Headers(scope=scope), request_id) as ended,
        ):
            await self._answer(scope, limit.receive, send_with_id)
            ended(_route(scope), status)
            took = round((time.perf_counter() - began) * 1000, 1)
            report = log.debug if quiet else log.info
            report("request", method=scope["method"], **_origin(scope), status=status, milliseconds=took)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The response, also to a request for another host and after an unexpected error."""
        started = False

        async def send_started(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            if not known_host(Headers(scope=scope).get("host", ""), self._settings):
                response: Response = problem_response(Request(scope), _misdirected())
            elif scope.get("root_path") and scope["path"] == scope["root_path"]:
                # The relative links of the studio page need the slash.
                query = scope["query_string"].decode("latin-1")
                response = RedirectResponse(f"{scope['root_path']}/{'?' if query else ''}{query}", 308)
            else:
                await self._app(scope, receive, send_started)
                return
        except ClientDisconnect:
            log.info("client disconnected", method=scope["method"], path=_origin(scope)["path"])
            return
        except Exception:
            log.exception("request failed", method=scope["method"], path=_origin(scope)["path"])
            if started:
                raise  # part of the response is sent: closing the connection is the only way to report it
            failure = Problem(500, "internal_error", "Internal error. The log has the cause under this request_id.")
            response = problem_response(Request(scope), failure)
        await response(scope, receive, send)


_QUIET = ("/healthz", "/readyz", "/metrics")
"""Routes that monitoring calls every few seconds."""

_UNTRACED = Tracing()


_STUDY = re.compile(r"(/study/)(?!page/)[^/]+")

_TOKEN = re.compile(rf"(/)[^/]*{TOKEN.pattern}[^/]*")
"""A segment that has the form of a study's token, in any path: links are mistyped."""


def _origin(scope: Scope) -> dict[str, str | None]:
    """Path and client of a request, for the log. Of a study without its token, which is a secret, and without the
    client, because raters stay anonymous."""
    path: str = scope["path"]
    bare, masked = _TOKEN.subn(r"\1…", path)
    bare, studies = _STUDY.subn(r"\1…", bare)
    client = scope["client"][0] if scope.get("client") and not (masked or studies) else None
    return {"path": bare, "client": client}


def _route(scope: Scope) -> str | None:
    """The template of the matching route, such as `/jobs/{job_id}`, without `/v1`; None without a match."""
    path = getattr(scope.get("route"), "path_format", None)
    return path.removeprefix("/v1") if isinstance(path, str) else None
