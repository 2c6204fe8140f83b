"""Authentication: API keys (RFC 6750), and signed URLs for media that a browser fetches without headers.

A key has 256 random bits and cannot be guessed, so the service keeps a plain SHA-256 of it (`DUET_API_KEYS`). A request
without a valid key is refused with 401. Jobs of other keys do not exist for the caller (404).

A URL is signed with a secret from Redis and the hash of the key that asked for it. It ends with that key, also while
another key of the same name stays valid.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlencode

import structlog
from fastapi import Depends, FastAPI, Request
from starlette.concurrency import run_in_threadpool

from service.api.cross_origin import refuse_other_sites
from service.api.description import extend_description
from service.api.problems import Problem, responses
from service.api.services import Services, ServicesHere
from service.settings import Settings

KEY_PREFIX = "duet_"
"""Prefix of every key, by which people and secret scanners recognise it."""

SIGNATURE_STEP = 900
"""Seconds. A signed URL is valid for one to two steps and does not change within a step, so caches and ETags hold."""

_SCHEME = "ApiKey"
_OPEN = ("/healthz", "/readyz")
_BY_TOKEN = "/study/"
"""Beginning of the paths whose secret token is the authority."""


@dataclass(frozen=True)
class ApiKey:
    """An entry of DUET_API_KEYS: the name of its user and the SHA-256 of the key."""

    name: str
    digest: bytes = field(repr=False)


@dataclass(frozen=True)
class Caller:
    """The sender of a request. `key` is None if no keys are set."""

    key: ApiKey | None
    signed_url: bool = False
    """Whether a signed URL named the key. Pages of any origin may embed what it serves."""

    @property
    def name(self) -> str | None:
        return self.key.name if self.key else None

    def sees(self, owner: str | None) -> bool:
        """Whether the caller may see a job of `owner`. Without keys every caller sees every job."""
        return self.name is None or self.name == owner


def new_key() -> tuple[str, str]:
    """A new key for a user, and the hash (SHA-256, hexadecimal) for the service."""
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def find_key(settings: Settings, key: str) -> ApiKey | None:
    """The entry of this key; None for an unknown key. Takes the same time for every key, known or not."""
    digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
    found = None
    for name, known in settings.key_hashes:
        if hmac.compare_digest(digest, known):
            found = ApiKey(name, known)
    return found


async def authenticate(request: Request, services: ServicesHere) -> Caller:
    """The caller, by `Authorization: Bearer …`. Raises Problem 401 or 403, and 429 above the request rate."""
    if not services.settings.key_hashes:
        refuse_other_sites(request, services.settings)
        return Caller(None)
    key = _bearer(request, services.settings)
    structlog.contextvars.bind_contextvars(key=key.name)
    wait = await run_in_threadpool(services.rate_limit.take, key.name)
    if wait:
        allowed = f"{services.settings.max_requests_per_minute} requests a minute"
        raise Problem(429, "rate_limited", f"A key may send {allowed}.", headers={"Retry-After": str(wait)})
    return Caller(key)


async def authenticate_media(request: Request, services: ServicesHere) -> Caller:
    """As `authenticate`, but also accepts URLs signed by this service, for GET and HEAD."""
    signature = request.query_params.get("signature")
    if signature is None or not services.settings.key_hashes or "authorization" in request.headers:
        return await authenticate(request, services)
    owner, expires = request.query_params.get("key", ""), request.query_params.get("expires", "")
    secret = await run_in_threadpool(services.url_secret.get)
    path = _bare(request.scope["path"], request.scope.get("root_path", ""))
    given = signature.encode("utf-8", "surrogateescape")
    for key in (ApiKey(name, digest) for name, digest in services.settings.key_hashes if name == owner):
        if hmac.compare_digest(given, _sign(secret, key, path, expires).encode()):
            if int(expires) < time.time():
                raise _unauthorised("This URL has expired. Fetch the job again for a new one.", "invalid_token")
            return Caller(key, signed_url=True)
    raise _unauthorised("The signature of this URL is not valid.", "invalid_token")


async def authenticate_admin(request: Request, services: ServicesHere) -> Caller:
    """As `authenticate`, for what only operators may do: with keys, those that DUET_ADMIN_KEYS names; without keys
    everyone who reaches the API, since it serves this machine only. Raises Problem 403 otherwise."""
    caller = await authenticate(request, services)
    if caller.name is not None and caller.name not in services.settings.admin_names:
        raise Problem(403, "not_an_admin", "Only the keys that DUET_ADMIN_KEYS names may do this.")
    return caller


CallerHere = Annotated[Caller, Depends(authenticate)]
"""Parameter type of routes that need a key."""

AdminHere = Annotated[Caller, Depends(authenticate_admin)]
"""Parameter type of routes for operators."""

MediaCallerHere = Annotated[Caller, Depends(authenticate_media)]
"""Parameter type of routes that also accept signed URLs."""


class UrlSigner:
    """Signs media URLs for one caller. Without keys, URLs stay unsigned."""

    def __init__(self, services: Services, caller: Caller, root: str) -> None:
        """`root`: the path prefix of a proxy. Raises StoreUnavailable, because the secret is kept in Redis."""
        self._key = caller.key
        self._root = root
        self._secret = services.url_secret.get() if caller.key else b""

    def __call__(self, path: str) -> str:
        """`path` with a query that allows fetching it without the key for 15 to 30 minutes."""
        if self._key is None:
            return path
        expires = str((int(time.time()) // SIGNATURE_STEP + 2) * SIGNATURE_STEP)
        signature = _sign(self._secret, self._key, _bare(path, self._root), expires)
        return f"{path}?{urlencode({'key': self._key.name, 'expires': expires, 'signature': signature})}"


def describe(app: FastAPI, settings: Settings) -> None:
    """Mark the routes that need a key in the OpenAPI description, if keys are set."""
    if not settings.key_hashes:
        return

    def add_security(description: dict[str, Any]) -> None:
        schemes = description.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes[_SCHEME] = {"type": "http", "scheme": "bearer", "description": "an API key"}
        for path, operations in description["paths"].items():
            for operation in () if path in _OPEN or path.startswith(_BY_TOKEN) else operations.values():
                operation["security"] = [{_SCHEME: []}]
                for status, problem in responses(401, 429, 503).items():
                    operation["responses"].setdefault(str(status), problem)

    extend_description(app, add_security)


def _bearer(request: Request, settings: Settings) -> ApiKey:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given.strip():
        raise _unauthorised("An API key is required: Authorization: Bearer …")
    key = find_key(settings, given.strip())
    if key is None:
        raise _unauthorised("This API key is not valid.", "invalid_token")
    return key


def _unauthorised(detail: str, error: str | None = None) -> Problem:
    challenge = 'Bearer realm="duet"' + (f', error="{error}"' if error else "")
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})


def _sign(secret: bytes, key: ApiKey, path: str, expires: str) -> str:
    """HMAC-SHA-256 over path, name and time, none of which can contain the line feed between them. The HMAC key is made
    of the service's secret and the hash of the API key."""
    parts = "\n".join((path, key.name, expires)).encode("utf-8", "surrogateescape")
    return hmac.new(secret + key.digest, parts, "sha256").hexdigest()


def _bare(path: str, root: str) -> str:
    """The path without a proxy's prefix and `/v1`, so one signature fits every spelling."""
    return path.removeprefix(root).removeprefix("/v1")
