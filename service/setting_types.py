"""Types of settings: how a value is written in the environment, and which values are valid.

The error messages follow the setting's name and value: "DUET_RETENTION is '0': must be greater than 0".
"""

from __future__ import annotations

import base64
import ipaddress
import re
from datetime import timedelta
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

WEBHOOK_SECRET_PREFIX = "whsec_"

LONGEST = timedelta(days=36_500)
"""The longest duration. A date plus this one is still a valid date."""

_OWN_PATHS = "a2v docs edit generate healthz jobs metrics models openapi.json readyz studio study v1 v2a verify videos"
OWN_PATHS = frozenset(_OWN_PATHS.split())
"""First segments of the API's routes."""

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9._-]+)?")
"""A host name, an IPv4 or an IPv6 address."""

_PATH_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]{1,64}){0,16}")
_ORIGIN = re.compile(
    r"(https?)://((?=.{1,254}(?::|$))[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?|\[[0-9a-f:.]{2,45}\])(?::([0-9]{1,5}))?"
)
_KEY = re.compile(r"[A-Za-z0-9._-]{1,64}:[0-9a-f]{64}")
_KEY_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_BYTES = {
    "": 1,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def words(value: str | SecretStr) -> list[str]:
    """The entries of a list, separated by commas or white space."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return [word for word in re.split(r"[,\s]+", text) if word]


def parse_duration(value: Any) -> Any:
    """`90s`, `30m`, `12h`, `7d` or a number of seconds as a timedelta; anything else unchanged, for pydantic."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", value.strip()) if isinstance(value, str) else None
    if match is None:
        return value
    try:
        return timedelta(**{_UNITS[match[2] or "s"]: float(match[1])})
    except OverflowError:
        return timedelta.max  # refused as too long


def _memory_size(value: Any) -> Any:
    """`12GiB`, `800 MiB`, `1.5GB` or a number of bytes as bytes; anything else unchanged, for pydantic."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?b)?", value.strip().lower()) if isinstance(value, str) else None
    return value if match is None else int(float(match[1]) * _BYTES[match[2] or ""])


def _positive(size: int) -> int:
    if size <= 0:
        raise ValueError("must be greater than 0")
    return size


def path_prefix(path: str) -> str | None:
    """`path` as a prefix of other paths, without a trailing slash: `/duet/` becomes `/duet`, `/` becomes empty.

    None if it is not valid: a reserved character (RFC 3986), an empty or a dot segment, or a first segment
    in OWN_PATHS, because then nothing shows whether a proxy has stripped the prefix.
    """
    path = path.removesuffix("/")
    segments = path.split("/")[1:]
    if not _PATH_PREFIX.fullmatch(path) or {".", ".."} & set(segments) or (segments and segments[0] in OWN_PATHS):
        return None
    return path


def parse_origin(text: str) -> str | None:
    """The origin as browsers serialise it: in lower case, without the default port. None if it is not an origin."""
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        return None
    scheme, host = match[1], match[2]
    default = {"http": 80, "https": 443}[scheme]
    port = int(match[3] or default)
    if port > 65_535:
        return None
    return f"{scheme}://{host}" + (f":{port}" if port != default else "")


def _parts(url: str) -> SplitResult:
    """The parts of the URL. Raises ValueError if its host or its port is not valid."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"is not a URL: {error}") from error
    return parts


def _is_http(parts: SplitResult) -> bool:
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _redis_url(url: str) -> str:
    parts = _parts(url)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    if parts.scheme == "unix" and not parts.path.startswith("/"):
        raise ValueError("needs the path of a socket: unix:///run/redis.sock")
    if parts.scheme != "unix" and not parts.hostname:
        raise ValueError("needs a host: redis://127.0.0.1:6379/0")
    if parts.scheme != "unix" and not re.fullmatch(r"(/\d*)?", parts.path):
        raise ValueError("needs the number of a database after the host, as in redis://127.0.0.1:6379/0")
    return url


def _broker_url(url: SecretStr) -> SecretStr:
    parts = _parts(url.get_secret_value())
    if url.get_secret_value() and (parts.scheme not in ("amqp", "amqps") or not parts.hostname):
        raise ValueError("must have the form amqp://user:password@host:5672/vhost, or amqps://…")
    return url


def _storage_url(storage: str) -> str:
    scheme = urlsplit(storage).scheme
    if scheme and scheme != "s3":
        raise ValueError("must be a folder or s3://bucket/prefix")
    if scheme == "s3" and not urlsplit(storage).netloc:
        raise ValueError("needs a bucket: s3://bucket/prefix")
    return storage


def _endpoint(url: str | None) -> str | None:
    if url is not None and not _is_http(_parts(url)):
        raise ValueError("must begin with http:// or https:// and a host")
    return url


def _collector(url: str) -> str:
    if url and not _is_http(_parts(url)):
        raise ValueError("must have the form http://collector:4318")
    return url.rstrip("/")


def _public_url(url: str) -> str:
    parts = _parts(url)
    if url and (not _is_http(parts) or "@" in parts.netloc or parts.query or parts.fragment):
        raise ValueError("must have the form https://duet.example, without a user")
    return url.rstrip("/")


def _host(host: str) -> str:
    if not _HOST.fullmatch(host):
        raise ValueError("must be an address or a host name, without http:// and without a port")
    return host


def _prefix(path: str) -> str:
    prefix = path_prefix(path)
    if prefix is None:
        raise ValueError(
            "must be a path such as /duet: letters, digits and - . _ ~ between slashes, not beginning with one of "
            f"Duet's own paths ({_OWN_PATHS})"
        )
    return prefix


def _networks(text: str) -> str:
    for entry in words(text):
        try:
            ipaddress.ip_network(entry)
        except ValueError as error:
            raise ValueError(f"{entry!r} is not an address or a network such as 10.0.0.0/8: {error}") from error
    return text


def _origins(text: str) -> str:
    entries = words(text)
    for entry in entries:
        if entry != "*" and parse_origin(entry) is None:
            raise ValueError(f"{entry!r} is not an origin such as https://app.example, which has no path")
    if "*" in entries and len(entries) > 1:
        raise ValueError("* allows every origin and must be the only entry")
    return text


def _webhook_secrets(secrets: SecretStr) -> SecretStr:
    for number, secret in enumerate(words(secrets), 1):
        try:
            length = len(base64.b64decode(secret.removeprefix(WEBHOOK_SECRET_PREFIX), validate=True))
        except ValueError:
            length = 0
        if not secret.startswith(WEBHOOK_SECRET_PREFIX) or not 24 <= length <= 64:
            raise ValueError(f"entry {number} is not {WEBHOOK_SECRET_PREFIX} and the base64 of 24 to 64 bytes")
    return secrets


def _key_hashes(keys: SecretStr) -> SecretStr:
    for number, pair in enumerate(words(keys), 1):
        if not _KEY.fullmatch(pair):
            raise ValueError(f"entry {number} does not have the form name:sha256 that `duet key NAME` prints")
    return keys


def _key_names(names: str) -> str:
    for name in words(names):
        if not _KEY_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a key: letters, digits, dots, hyphens and underscores")
    return names


def _not_longer(duration: timedelta) -> timedelta:
    if not timedelta() <= duration <= LONGEST:
        raise ValueError(f"must be 0 s … {LONGEST.days} d")
    return duration


def _longer_than_zero(duration: timedelta) -> timedelta:
    if duration <= timedelta():
        raise ValueError("must be greater than 0")
    return duration


def _durations(text: str) -> str:
    for each in text.split():
        duration = parse_duration(each)
        if not isinstance(duration, timedelta) or duration > LONGEST:
            raise ValueError("must be durations such as 5s 5m 2h, separated by spaces")
    return text


UNSET_IF_EMPTY = BeforeValidator(lambda value: None if value == "" else value)
"""For optional settings: compose files pass an absent variable on as an empty one."""

RedisUrl = Annotated[str, AfterValidator(_redis_url)]
BrokerUrl = Annotated[SecretStr, AfterValidator(_broker_url)]
StorageUrl = Annotated[str, AfterValidator(_storage_url)]
EndpointUrl = Annotated[str | None, UNSET_IF_EMPTY, AfterValidator(_endpoint)]
CollectorUrl = Annotated[str, AfterValidator(_collector)]
PublicUrl = Annotated[str, AfterValidator(_public_url)]
Host = Annotated[str, AfterValidator(_host)]
HostOrEmpty = Annotated[str, AfterValidator(lambda host: host and _host(host))]
PathPrefix = Annotated[str, AfterValidator(_prefix)]
Networks = Annotated[str, AfterValidator(_networks)]
Origins = Annotated[str, AfterValidator(_origins)]
WebhookSecrets = Annotated[SecretStr, AfterValidator(_webhook_secrets)]
KeyNames = Annotated[str, AfterValidator(_key_names)]
MemorySize = Annotated[int, BeforeValidator(_memory_size), AfterValidator(_positive)]
KeyHashes = Annotated[SecretStr, AfterValidator(_key_hashes)]
Duration = Annotated[timedelta, BeforeValidator(parse_duration), AfterValidator(_not_longer)]
PositiveDuration = Annotated[Duration, AfterValidator(_longer_than_zero)]
Durations = Annotated[str, AfterValidator(_durations)]
