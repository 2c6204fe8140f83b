"""Every setting of Duet, read from the environment (`DUET_…`) and nowhere else."""

from __future__ import annotations

import base64
import difflib
import ipaddress
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    BeforeValidator,
    DirectoryPath,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "DUET_"
WEBHOOK_SECRET_PREFIX = "whsec_"
_SECRET = ("api_keys", "broker_url", "s3_secret_key", "webhook_secret")
"""Settings whose value is never shown, a wrong one neither."""

_NO_SETTINGS = re.compile(rf"{PREFIX}(URL|KEY|TEST_\w+)")
"""Variables of the command line and of the tests, however much they look like a setting."""

LONGEST = timedelta(days=36_500)
"""The longest duration: a date plus this one is still a date."""

_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9._-]+)?")
"""A name, or an address of either kind."""

_PATH_PREFIX = re.compile(r"(/[A-Za-z0-9._~-]{1,64}){0,16}")
_ORIGIN = re.compile(r"(https?)://([a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::([0-9]{1,5}))?")

_OWN_PATHS = "a2v docs edit generate healthz jobs metrics models openapi.json readyz studio v1 v2a verify"
OWN_PATHS = frozenset(_OWN_PATHS.split())
"""First segments of the API's routes."""

_KEY = re.compile(r"[A-Za-z0-9._-]{1,64}:[0-9a-f]{64}")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _duration(value: Any) -> Any:
    """`90s`, `30m`, `12h`, `7d`, or a plain number of seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", value.strip()) if isinstance(value, str) else None
    if match is None:
        return value
    try:
        return timedelta(**{_UNITS[match[2] or "s"]: float(match[1])})
    except OverflowError:
        return timedelta.max  # too long, as its field will say


def _unset(value: Any) -> Any:
    """An empty variable, as compose files pass on what is not there, for a setting that may be absent."""
    return None if value == "" else value


def _parts(url: str) -> SplitResult:
    """The URL taken apart. Raises ValueError if its host or its port cannot be one."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValueError(f"is no URL: {error}") from error
    return parts


class Settings(BaseSettings):
    """One object for all processes: API, worker and command line read the same settings."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="Redis that keeps job records and the queue: redis://, rediss:// or unix://",
    )
    broker_url: SecretStr = Field(
        default=SecretStr(""),
        description="RabbitMQ that keeps the queue instead of Redis, which keeps the records all the same: "
        "amqp://user:password@host:5672/vhost, or amqps://; where unset the queue is in Redis too",
    )
    data: Path = Field(default=Path("data"), description="folder of everything Duet keeps on this machine")
    storage: str = Field(
        default="",
        description="where uploads and results are kept: a folder or s3://bucket/prefix; where unset <data>/storage",
    )
    s3_endpoint: Annotated[str | None, BeforeValidator(_unset)] = Field(
        default=None, description="URL of the S3 server; Amazon's own where unset"
    )
    s3_region: str = Field(default="us-east-1", pattern=r"^[A-Za-z0-9-]{1,64}$", description="S3 region")
    s3_access_key: Annotated[str | None, BeforeValidator(_unset)] = Field(
        default=None, description="S3 access key; boto3's own search where unset"
    )
    secrets: Annotated[DirectoryPath | None, BeforeValidator(_unset)] = Field(
        default=None,
        description="folder with secret settings as files, one each, named for the setting in lower case "
        "(duet_s3_secret_key); the environment goes first",
    )
    s3_secret_key: Annotated[SecretStr | None, BeforeValidator(_unset)] = Field(
        default=None, description="S3 secret key"
    )
    s3_path_style: bool = Field(
        default=True, description="buckets in the path (most servers) or in the host name (Amazon)"
    )
    models: Annotated[Path | None, BeforeValidator(_unset)] = Field(
        default=None, description="folder of further models, one folder each with a model.json"
    )
    default_model: str = Field(default="demo", min_length=1, description="the model of a request that names none")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$",
        description="where the worker computes: cpu, cuda, cuda:1 …; auto takes a GPU if there is one",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="what the networks compute in; auto is bfloat16 where the device computes in it, float32 elsewhere",
    )
    threads: int = Field(
        default=0, ge=0, le=1024, description="threads that a worker computes with on a CPU; 0: the cores there are"
    )
    compile: bool = Field(
        default=False, description="compile the networks at start: takes minutes, worth it on a GPU that stays busy"
    )
    buckets: str = Field(
        default="auto",
        pattern=r"^(auto|[1-9]\d{0,2}(,\s*[1-9]\d{0,2})*)$",
        description="batch sizes of the base network, as `1,2,4,8`; auto chooses by device and memory. With a single "
        "size, batches are filled up to it, and a clip is the same to the bit whoever else is served",
    )
    host: str = Field(default="127.0.0.1", description="address the API listens on")
    port: int = Field(default=8000, ge=0, le=65535, description="port the API listens on; 0 takes a free one")
    published_on: str = Field(
        default="",
        description="address under which users reach the API where that is not `host`, as with containers: without "
        "DUET_API_KEYS it must be this machine's own, 127.0.0.1",
    )
    api_keys: SecretStr = Field(
        default=SecretStr(""),
        description="who may use the API: name:sha256 pairs as `duet key NAME` prints them, separated by commas or "
        "spaces; where unset nobody is asked, and the API serves this machine only",
    )
    max_requests_per_minute: int = Field(default=600, ge=1, description="requests a minute of one API key")
    max_queued_per_key: int = Field(default=100, ge=1, description="jobs of one API key that may wait at a time")
    max_queued: int = Field(default=1000, ge=1, description="jobs that may wait at a time")
    max_wait_s: float = Field(
        default=60, ge=0, le=3600, description="longest wait that a client gets by `Prefer: wait=…`"
    )
    max_event_streams: int = Field(
        default=500, ge=1, description="clients of one API process that may follow jobs by /jobs/{id}/events at a time"
    )
    max_event_streams_per_key: int = Field(
        default=100, ge=1, description="clients of one API key that may follow jobs at a time, over all API processes"
    )
    public_url: str = Field(
        default="",
        description="address under which users reach the API, for the links in webhooks: https://duet.example; where "
        "unset they begin with a slash",
    )
    root_path: str = Field(
        default="",
        description="path prefix under which a reverse proxy publishes the API: /duet for https://example.com/duet/. "
        "The proxy may strip it or keep it",
    )
    trusted_proxies: str = Field(
        default="",
        description="addresses and networks of reverse proxies, separated by commas or spaces: 127.0.0.1 10.0.0.0/8. "
        "Their X-Forwarded-For, -Proto, -Host and -Prefix are honoured, and their connections are not limited; those "
        "headers are ignored from all other clients",
    )
    cors_origins: str = Field(
        default="",
        description="origins whose web pages may use the API (CORS), separated by commas or spaces: "
        "https://app.example; * for every origin; where unset only the API's own pages may",
    )
    webhook_secret: SecretStr = Field(
        default=SecretStr(""),
        description="what webhooks are signed with: whsec_ and the base64 of 24 to 64 bytes; several, separated by "
        "commas or spaces, while one is exchanged; where unset one is made and kept in Redis, and `duet webhooks "
        "--secret` shows it",
    )
    webhook_allow_private: bool = Field(
        default=False,
        description="let webhooks go to this machine and to private networks, too: only where all users are trusted",
    )
    webhook_timeout: float = Field(
        default=15, gt=0, le=60, description="seconds that a webhook's receiver has for its answer"
    )
    webhook_retries: str = Field(
        default="5s 5m 30m 2h 5h 10h 14h 20h 24h",
        description="pauses after which a webhook that was not received is sent again, separated by spaces",
    )
    max_upload_mib: int = Field(default=200, ge=1, le=5 * 1024, description="largest upload, in MiB")
    max_uploads_per_key: int = Field(
        default=32, ge=1, description="uploads of one API key at a time, over all API processes"
    )
    min_upload_rate: int = Field(
        default=1024,
        ge=0,
        description="bytes a second that a request body must bring, measured over 30 seconds; slower ones end with "
        "408; 0: no limit",
    )
    disk_reserve_mib: int = Field(
        default=256,
        ge=0,
        description="space in MiB that uploads leave free on the disk of `data`, so that Redis can write and jobs can "
        "be deleted; uploads that would use it are refused with 507",
    )
    keep_alive_s: int = Field(
        default=65,
        ge=1,
        le=3600,
        description="seconds that the API keeps an idle connection open; longer than the proxy before it does, so that "
        "the proxy never reuses a closed one",
    )
    header_timeout_s: int = Field(
        default=20, ge=1, le=600, description="seconds that a client has to send the headers of a request"
    )
    max_connections_per_address: int = Field(
        default=512,
        ge=0,
        description="connections of one client address to one API process; 0: no limit, for an API behind a proxy",
    )
    max_duration_s: float = Field(default=600, gt=0, le=86_400, description="longest upload, in seconds")
    max_width: int = Field(default=8192, ge=16, description="widest video accepted, in pixels")
    max_height: int = Field(default=4320, ge=16, description="highest video accepted, in pixels")
    retention: Annotated[timedelta, BeforeValidator(_duration)] = Field(
        default=timedelta(days=7), description="how long jobs and their files are kept: 7d, 12h, 30m or seconds"
    )
    remember_erased: Annotated[timedelta, BeforeValidator(_duration)] = Field(
        default=timedelta(days=1), description="how long an erased job is still told from one that never was"
    )
    lease: float = Field(
        default=20,
        ge=1,
        le=3600,
        description="seconds for which a worker holds a job without a sign of life; the same in all processes",
    )
    slots: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="jobs that a worker has in hand at a time; 0: as many as its largest batch, and some to decode and "
        "encode meanwhile",
    )
    api_processes: int = Field(default=2, ge=1, le=64, description="API processes of `duet serve`, on one socket")
    workers: int = Field(default=1, ge=1, le=64, description="worker processes of `duet serve`")
    gpu_locks: Annotated[Path | None, BeforeValidator(_unset)] = Field(
        default=None,
        description="folder that the workers of this host share, so that each takes a GPU of its own and waits while "
        "all are taken; where unset each takes the one that `device` says",
    )
    workers_per_gpu: int = Field(
        default=1, ge=1, le=16, description="workers that may have the same GPU, where `gpu_locks` is set"
    )
    ageing: Annotated[timedelta, BeforeValidator(_duration)] = Field(
        default=timedelta(minutes=5),
        description="a job that has waited so long counts as one of the next higher priority, so that none starves",
    )
    step_deadline: Annotated[timedelta, BeforeValidator(_duration)] = Field(
        default=timedelta(minutes=10),
        description="a job that finishes no step for so long hangs: its worker ends and is to be started again",
    )
    job_deadline: Annotated[timedelta, BeforeValidator(_duration)] = Field(
        default=timedelta(hours=6), description="the same for an attempt that takes so long in all"
    )
    grace: Annotated[timedelta, BeforeValidator(_duration)] = Field(
        default=timedelta(seconds=10),
        description="how long a worker that is asked to stop waits for the current step before it hands its jobs back",
    )
    model_patience: Annotated[timedelta, BeforeValidator(_duration)] = Field(
        default=timedelta(days=1),
        description="how long a job waits for a worker that has its model before it fails with `model_unavailable`",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="lines for people, or one JSON object a line"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level that is logged"
    )
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="port on which each process serves its metrics without asking for a key, for Prometheus and nobody "
        "else; 0: none. `duet serve` takes this one for the API and those that follow for webhooks and workers",
    )
    metrics_host: str = Field(default="127.0.0.1", description="address that goes with `metrics_port`")
    otlp_endpoint: str = Field(
        default="",
        description="where traces are sent, OpenTelemetry by HTTP: http://collector:4318; needs the extra `otel`; "
        "where unset there are none",
    )

    @field_validator("redis_url")
    @classmethod
    def _known_redis_scheme(cls, url: str) -> str:
        parts = _parts(url)
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("must begin with redis://, rediss:// or unix://")
        if parts.scheme == "unix" and not parts.path.startswith("/"):
            raise ValueError("names no socket: unix:///run/redis.sock")
        if parts.scheme != "unix" and not parts.hostname:
            raise ValueError("names no host: redis://127.0.0.1:6379/0")
        if parts.scheme != "unix" and not re.fullmatch(r"(/\d*)?", parts.path):
            raise ValueError("names no database after the host: a number, as in redis://127.0.0.1:6379/0")
        return url

    @field_validator("broker_url")
    @classmethod
    def _known_broker(cls, url: SecretStr) -> SecretStr:
        parts = _parts(url.get_secret_value())
        if url.get_secret_value() and (parts.scheme not in ("amqp", "amqps") or not parts.hostname):
            raise ValueError("must be of the form amqp://user:password@host:5672/vhost, or amqps://…")
        return url

    @field_validator("storage")
    @classmethod
    def _bucket_named(cls, storage: str) -> str:
        scheme = urlsplit(storage).scheme
        if scheme and scheme != "s3":
            raise ValueError("must be a folder or s3://bucket/prefix")
        if scheme == "s3" and not urlsplit(storage).netloc:
            raise ValueError("names no bucket: s3://bucket/prefix")
        return storage

    @field_validator("s3_endpoint")
    @classmethod
    def _endpoint_is_url(cls, endpoint: str | None) -> str | None:
        if endpoint is not None:
            parts = _parts(endpoint)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError("must begin with http:// or https://, and name a host")
        return endpoint

    @field_validator("host", "published_on", "metrics_host")
    @classmethod
    def _is_an_address(cls, host: str, info: ValidationInfo) -> str:
        if not _HOST.fullmatch(host) and (host or info.field_name != "published_on"):
            raise ValueError("must be an address or a host's name, without http:// and without a port")
        return host

    @field_validator("otlp_endpoint")
    @classmethod
    def _collector_is_url(cls, endpoint: str) -> str:
        if endpoint and (urlsplit(endpoint).scheme not in ("http", "https") or not urlsplit(endpoint).netloc):
            raise ValueError("must be of the form http://collector:4318")
        return endpoint.rstrip("/")

    @field_validator("public_url")
    @classmethod
    def _public_url_is_one(cls, url: str) -> str:
        parts = _parts(url)
        if url and (parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment):
            raise ValueError("must be of the form https://duet.example")
        return url.rstrip("/")

    @field_validator("root_path")
    @classmethod
    def _root_path_is_a_prefix(cls, path: str) -> str:
        prefix = path_prefix(path)
        if prefix is None:
            raise ValueError(
                "must be a path such as /duet: letters, digits, - . _ ~ between slashes, not beginning with one of "
                f"Duet's own paths ({_OWN_PATHS})"
            )
        return prefix

    @field_validator("trusted_proxies")
    @classmethod
    def _proxies_are_networks(cls, proxies: str) -> str:
        for entry in _words(proxies):
            try:
                ipaddress.ip_network(entry)
            except ValueError as error:
                raise ValueError(f"{entry!r} is not an address or a network such as 10.0.0.0/8: {error}") from error
        return proxies

    @field_validator("cors_origins")
    @classmethod
    def _origins_are_origins(cls, origins: str) -> str:
        words = _words(origins)
        for entry in words:
            if entry != "*" and _origin(entry) is None:
                raise ValueError(f"{entry!r} is not an origin such as https://app.example, without a path")
        if "*" in words and len(words) > 1:
            raise ValueError("* allows every origin: name no others beside it")
        return origins

    @field_validator("webhook_secret")
    @classmethod
    def _secrets_are_standard(cls, secrets: SecretStr) -> SecretStr:
        for number, secret in enumerate(_words(secrets), 1):
            try:
                length = len(base64.b64decode(secret.removeprefix(WEBHOOK_SECRET_PREFIX), validate=True))
            except ValueError:
                length = 0
            if not secret.startswith(WEBHOOK_SECRET_PREFIX) or not 24 <= length <= 64:
                raise ValueError(f"entry {number} is not {WEBHOOK_SECRET_PREFIX} and the base64 of 24 to 64 bytes")
        return secrets

    @field_validator("webhook_retries")
    @classmethod
    def _pauses_are_durations(cls, pauses: str) -> str:
        for pause in pauses.split():
            duration = _duration(pause)
            if not isinstance(duration, timedelta) or duration > LONGEST:
                raise ValueError("must be durations such as 5s 5m 2h, separated by spaces")
        return pauses

    @field_validator("retention", "remember_erased", "ageing", "step_deadline", "job_deadline", "model_patience")
    @classmethod
    def _longer_than_nothing(cls, duration: timedelta) -> timedelta:
        if duration <= timedelta():
            raise ValueError("must be greater than 0")
        return duration

    @field_validator(
        "retention", "remember_erased", "ageing", "step_deadline", "job_deadline", "grace", "model_patience"
    )
    @classmethod
    def _a_date_can_be_told(cls, duration: timedelta) -> timedelta:
        if not timedelta() <= duration <= LONGEST:
            raise ValueError(f"must be 0 s … {LONGEST.days} d")
        return duration

    @field_validator("api_keys")
    @classmethod
    def _keys_are_hashes(cls, keys: SecretStr) -> SecretStr:
        for number, pair in enumerate(_words(keys), 1):
            if not _KEY.fullmatch(pair):
                raise ValueError(f"entry {number} is not of the form name:sha256 that `duet key NAME` prints")
        return keys

    @model_validator(mode="after")
    def _settings_fit_together(self) -> Settings:
        if (self.s3_access_key is None) != (self.s3_secret_key is None):
            given, missing = ("ACCESS", "SECRET") if self.s3_secret_key is None else ("SECRET", "ACCESS")
            raise ValueError(f"{PREFIX}S3_{given}_KEY is set and {PREFIX}S3_{missing}_KEY is not: set both, or none")
        if self.step_deadline > self.job_deadline:
            raise ValueError(
                f"{PREFIX}STEP_DEADLINE is longer than {PREFIX}JOB_DEADLINE: a step takes no longer than its job"
            )
        if self.gpu_locks is not None and self.device.startswith("cuda:"):
            raise ValueError(
                f"{PREFIX}DEVICE is {self.device!r} and {PREFIX}GPU_LOCKS is set, by which the worker takes whichever "
                f"GPU is free: set one of them, or {PREFIX}DEVICE=cuda"
            )
        if self.max_queued_per_key > self.max_queued and "max_queued_per_key" in self.model_fields_set:
            raise ValueError(
                f"{PREFIX}MAX_QUEUED_PER_KEY is more than {PREFIX}MAX_QUEUED: one key may not have more than all"
            )
        return self

    @property
    def broker_address(self) -> str:
        """URL of the RabbitMQ; empty where the queue is in Redis."""
        return self.broker_url.get_secret_value()

    @property
    def batch_sizes(self) -> tuple[int, ...] | None:
        """The sizes of `buckets`; None where the device decides."""
        return None if self.buckets == "auto" else tuple(int(size) for size in self.buckets.split(","))

    @property
    def key_hashes(self) -> tuple[tuple[str, bytes], ...]:
        """Whose keys are accepted: name and SHA-256 of each. A name may have several, as while a key is exchanged."""
        pairs = (pair.split(":") for pair in _words(self.api_keys))
        return tuple((name, bytes.fromhex(digest)) for name, digest in pairs)

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """What webhooks are signed with; none where it is left to Redis."""
        return tuple(_words(self.webhook_secret))

    @property
    def webhook_pauses(self) -> tuple[float, ...]:
        """Seconds before each further try to send a webhook."""
        return tuple(_duration(pause).total_seconds() for pause in self.webhook_retries.split())

    @property
    def link_prefix(self) -> str:
        """Prefix of the paths in webhooks: `public_url`, with `root_path` unless the URL has a path of its own."""
        return self.public_url if urlsplit(self.public_url).path else self.public_url + self.root_path

    @property
    def proxy_networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The networks of `trusted_proxies`."""
        return tuple(ipaddress.ip_network(entry) for entry in _words(self.trusted_proxies))

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of `cors_origins` as browsers send them, or `*`."""
        return tuple(_origin(entry) or entry for entry in _words(self.cors_origins))

    def check_published(self) -> None:
        """Raise ValueError if anybody else's machine could reach an API that asks for no key."""
        if self.key_hashes:
            return
        name = "published_on" if self.published_on else "host"
        address = self.published_on or self.host
        if not is_loopback(address):
            raise ValueError(
                f"{PREFIX}{name.upper()} is {address!r}, which other machines may reach, and {PREFIX}API_KEYS is not "
                "set, so that nobody is asked for a key. Set keys (`duet key NAME` makes one), or serve this machine "
                f"only: {PREFIX}HOST=127.0.0.1, or in a container {PREFIX}PUBLISHED_ON=127.0.0.1 if its port is "
                "published there and nowhere else."
            )

    @property
    def storage_url(self) -> str:
        """`storage`, or where that is not set a folder in `data`."""
        return self.storage or str(self.data / "storage")

    @property
    def temporary(self) -> Path:
        """Uploads on their way in: on the disk of `data`, not in the system's often small temporary folder."""
        return self.data / "duet-tmp" / "files"

    @property
    def spool(self) -> Path:
        """Results that wait for storage, on the same disk as `temporary`."""
        return self.data / "spool"

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mib * 2**20


def is_loopback(address: str) -> bool:
    """Whether `address` is reached from this machine only."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:  # another host name
        return False


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; `overrides` go before the environment.

    A bad value ends the process (SystemExit) with one sentence a setting that names it, what came and what is allowed;
    so does a variable whose name is a setting's but for a slip of the pen.
    """
    sentences = [
        f"{name} is not a setting; {PREFIX}{meant[0]} is" for name in sorted(os.environ) if (meant := _misspelt(name))
    ]
    try:
        folder = os.environ.get(f"{PREFIX}SECRETS", "")
        secrets: dict[str, Any] = {"_secrets_dir": folder} if os.path.isdir(folder) else {}
        settings = Settings(**secrets, **overrides)
    except ValidationError as error:
        raise SystemExit(
            "Duet cannot start.\n" + "\n".join(sentences + [_sentence(each) for each in error.errors()])
        ) from error
    if sentences:
        raise SystemExit("Duet cannot start.\n" + "\n".join(sentences))
    return settings


def _misspelt(name: str) -> list[str]:
    """The setting that was meant by a variable that is none, if one looks much like it."""
    short = name.removeprefix(PREFIX)
    known = [field.upper() for field in Settings.model_fields]
    if short == name or short in known or _NO_SETTINGS.fullmatch(name):
        return []
    return difflib.get_close_matches(short.upper(), known, 1, 0.85)


def _sentence(problem: Any) -> str:
    says = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:  # about several, which it names
        return says
    return f"{PREFIX}{'.'.join(map(str, problem['loc'])).upper()} is {_shown(problem)}: {says}"


def _shown(problem: Any) -> str:
    if problem["loc"][0] in _SECRET:
        return "not valid"
    return re.sub(r"//[^/@]*@", "//…@", repr(problem["input"]))  # a password in an address


def _words(value: str | SecretStr) -> list[str]:
    """The entries of a setting that has several, separated by commas or white space."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    return [word for word in re.split(r"[,\s]+", text) if word]


def path_prefix(path: str) -> str | None:
    """`path` as a prefix of other paths, without a slash at its end: `/duet/` is `/duet`, `/` is empty.

    None if it cannot be one: another character than the unreserved ones of RFC 3986, an empty or a dot segment, or a
    first segment that is one of OWN_PATHS, because it could not be told whether a proxy has stripped such a prefix.
    """
    path = path.removesuffix("/")
    segments = path.split("/")[1:]
    if not _PATH_PREFIX.fullmatch(path) or {".", ".."} & set(segments) or (segments and segments[0] in OWN_PATHS):
        return None
    return path


def _origin(text: str) -> str | None:
    """The origin as browsers serialise it: lower case, without the scheme's own port. None if it is not an origin."""
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        return None
    scheme, host, port = match.groups()
    own = {"http": "80", "https": "443"}[scheme]
    return f"{scheme}://{host}" + (f":{port}" if port and port != own else "")
