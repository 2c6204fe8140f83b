"""Who is asking: API keys (RFC 6750), and signed URLs for media that a browser fetches without headers.

A key is 256 bits of chance, so a plain SHA-256 of it can be kept where the key must not be (`DUET_API_KEYS`): there is
nothing to guess. Whoever has no valid key gets 401; the jobs of others are not there (404), whatever is asked of them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

import structlog
from fastapi import Depends, FastAPI, Request
from starlette.concurrency import run_in_threadpool

from service.api.problems import Problem, responses
from service.api.services import Services, ServicesHere
from service.settings import Settings

KEY_PREFIX = "duet_"
"""How a key begins, so that people and scanners of leaked secrets know what it is."""

SIGNATURE_STEP = 900
"""Seconds: a signed URL is good for one to two of these, and stays the same for one, so that caches and ETags hold."""

_SCHEME = "ApiKey"
_OPEN = ("/healthz", "/readyz")


@dataclass(frozen=True)
class Caller:
    """Who asks: the name of the key; None where no keys are set, so that nobody is asked for one."""

    name: str | None

    def sees(self, owner: str | None) -> bool:
        """Whether a job of `owner` is there for this caller. Where nobody is asked who they are, all are one."""
        return self.name is None or self.name == owner


def new_key() -> tuple[str, str]:
    """A key for a user, and the hash (SHA-256, hexadecimal) that the service is given."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def key_name(settings: Settings, key: str) -> str | None:
    """Whose key it is. Takes as long for one that is almost right as for any other, and for the first as the last."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    found = None
    for name, known in settings.key_hashes:
        if hmac.compare_digest(digest, known):
            found = name
    return found


async def authenticate(request: Request, services: ServicesHere) -> Caller:
    """The caller, by `Authorization: Bearer …`. Raises Problem 401, 403, and 429 beyond the requests of a minute."""
    if not services.settings.key_hashes:
        _refuse_other_sites(request)
        return Caller(None)
    name = _bearer(request, services.settings)
    structlog.contextvars.bind_contextvars(key=name)
    wait = await run_in_threadpool(services.rate_limit.take, name)
    if wait:
        allowed = f"{services.settings.max_requests_per_minute} requests a minute"
        raise Problem(429, "rate_limited", f"A key may send {allowed}.", headers={"Retry-After": str(wait)})
    return Caller(name)


async def authenticate_media(request: Request, services: ServicesHere) -> Caller:
    """As `authenticate`; a URL signed by this service counts as well, for GET and HEAD."""
    signature = request.query_params.get("signature")
    if signature is None or not services.settings.key_hashes or "authorization" in request.headers:
        return await authenticate(request, services)
    owner, expires = request.query_params.get("key", ""), request.query_params.get("expires", "")
    secret = await run_in_threadpool(services.url_secret.get)
    expected = _sign(secret, _bare(request.scope["path"], request.scope.get("root_path", "")), owner, expires)
    genuine = hmac.compare_digest(signature.encode("utf-8", "surrogateescape"), expected.encode())
    known = owner in {name for name, _ in services.settings.key_hashes}
    if not (genuine and known):
        raise _unauthorised("The signature of this URL is not ours.", "invalid_token")
    if int(expires) < time.time():
        raise _unauthorised("This URL has expired: fetch the job again for a new one.", "invalid_token")
    return Caller(owner)


CallerHere = Annotated[Caller, Depends(authenticate)]
"""A route that declares a parameter of this type is for callers with a key, and gets to know whose."""

MediaCallerHere = Annotated[Caller, Depends(authenticate_media)]
"""The same for routes that take signed URLs, too."""


class UrlSigner:
    """Signs the media URLs of one caller. Without keys there is nothing to sign: URLs stay as they are."""

    def __init__(self, services: Services, caller: Caller, root: str) -> None:
        """`root`: what a proxy put before every path. Raises StoreUnavailable: the secret is kept in Redis."""
        self._owner = caller.name
        self._root = root
        self._secret = services.url_secret.get() if caller.name is not None else b""

    def __call__(self, path: str) -> str:
        """`path` with a query that lets it be fetched without the key for a quarter to half an hour."""
        if self._owner is None:
            return path
        expires = str((int(time.time()) // SIGNATURE_STEP + 2) * SIGNATURE_STEP)
        signature = _sign(self._secret, _bare(path, self._root), self._owner, expires)
        return f"{path}?{urlencode({'key': self._owner, 'expires': expires, 'signature': signature})}"


def describe(app: FastAPI, settings: Settings) -> None:
    """Say in the API's description which routes want a key, where keys are set."""
    if not settings.key_hashes:
        return
    plain = app.openapi

    def describe_with_keys() -> dict[str, Any]:
        description = plain()
        schemes = description.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes[_SCHEME] = {"type": "http", "scheme": "bearer", "description": "an API key"}
        for path, operations in description["paths"].items():
            for operation in operations.values() if path not in _OPEN else ():
                operation["security"] = [{_SCHEME: []}]
                for status, problem in responses(401, 429, 503).items():
                    operation["responses"].setdefault(str(status), problem)
        return description

    setattr(app, "openapi", describe_with_keys)  # noqa: B010 - FastAPI's way to extend it; mypy forbids assignment


def _bearer(request: Request, settings: Settings) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise _unauthorised("An API key is wanted: Authorization: Bearer …")
    name = key_name(settings, key.strip())
    if name is None:
        raise _unauthorised("This API key is not known here.", "invalid_token")
    return name


def _refuse_other_sites(request: Request) -> None:
    """Where no key is asked for, any page in the user's browser could send its forms here: Problem 403 for those."""
    if request.method in ("GET", "HEAD"):
        return
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    same = origin is None or origin.partition("://")[2] == request.headers.get("host")
    if site not in ("same-origin", "none") or not same:
        raise Problem(403, "cross_site", "Pages of other sites cannot send this where no API keys are set.")


def _unauthorised(detail: str, error: str | None = None) -> Problem:
    challenge = 'Bearer realm="duet"' + (f', error="{error}"' if error else "")
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})


def _sign(secret: bytes, path: str, owner: str, expires: str) -> str:
    """HMAC-SHA-256 over what must not be changed: no part can contain the line feed that separates them."""
    return hmac.new(secret, "\n".join((path, owner, expires)).encode("utf-8", "surrogateescape"), "sha256").hexdigest()


def _bare(path: str, root: str) -> str:
    """The path without a proxy's prefix and `/v1`: one signature for both spellings."""
    return path.removeprefix(root).removeprefix("/v1")
