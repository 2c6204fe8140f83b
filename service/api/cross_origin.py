"""Requests from web pages of other origins: CORS by DUET_CORS_ORIGINS, and the refusal of all others."""

from __future__ import annotations

from urllib.parse import urlsplit

from fastapi import Request
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from service.api.problems import Problem
from service.settings import Settings

_REQUEST_HEADERS = (
    "Authorization",
    "Idempotency-Key",
    "If-None-Match",
    "If-Range",
    "Last-Event-ID",
    "Prefer",
    "Range",
    "Traceparent",
    "Tracestate",
    "X-Request-ID",
)
_RESPONSE_HEADERS = (
    "Accept-Ranges",
    "Allow",
    "Content-Disposition",
    "Content-Range",
    "ETag",
    "Idempotency-Replayed",
    "Location",
    "Preference-Applied",
    "Retry-After",
    "WWW-Authenticate",
    "X-Inference-Time-S",
    "X-Model",
    "X-Request-ID",
    "X-Should-Retry",
    "X-Stage-Durations",
    "X-Video-Id",
)


def with_cors(app: ASGIApp, settings: Settings) -> ASGIApp:
    """`app` with CORS for the allowed origins; `app` itself if none is.

    Credentials in CORS' sense (cookies) are not allowed: the API uses none. The Authorization header is.
    """
    if not settings.allowed_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=settings.allowed_origins,
        allow_methods=("GET", "HEAD", "POST", "DELETE"),
        allow_headers=_REQUEST_HEADERS,
        allow_private_network=True,
        expose_headers=_RESPONSE_HEADERS,
    )


def refuse_other_sites(request: Request, settings: Settings) -> None:
    """Without API keys any page in the user's browser could send requests here. Raises Problem 403 for requests that
    change something and come from a page of an origin that is not allowed.

    A browser that sends Sec-Fetch-Site has compared the origins itself; others send the page's Origin.
    """
    if request.method in ("GET", "HEAD"):
        return
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site")
    if site is None:
        own = (request.headers.get("host"), urlsplit(settings.public_url).netloc or None)
        same = origin is None or origin.partition("://")[2] in own
    else:
        same = site in ("same-origin", "none")
    allowed = settings.allowed_origins
    if not (same or "*" in allowed or origin in allowed):
        page = (origin or "other sites")[:200]
        raise Problem(
            403,
            "cross_site",
            f"Pages of {page} may not send this. To allow it, set DUET_CORS_ORIGINS to the page's origin. If this is "
            "Duet's own page behind a proxy, have the proxy pass the Host header, or set DUET_TRUSTED_PROXIES.",
        )
