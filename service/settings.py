"""All settings of Duet. They are read from environment variables (`DUET_…`) and nowhere else."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import DirectoryPath, Field, FilePath, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from model.request import MAX_DURATION, MIN_DURATION
from service.setting_types import (
    UNSET_IF_EMPTY,
    BrokerUrl,
    CollectorUrl,
    Duration,
    Durations,
    EndpointUrl,
    Host,
    HostOrEmpty,
    KeyHashes,
    KeyNames,
    MemorySize,
    Networks,
    Origins,
    PathPrefix,
    PositiveDuration,
    PublicUrl,
    RedisUrl,
    StorageUrl,
    WebhookSecrets,
    parse_duration,
    parse_origin,
    words,
)

PREFIX = "DUET_"

_SECRET = ("api_keys", "broker_url", "s3_secret_key", "signal_mark_key", "webhook_secret")
"""Settings whose value is never shown, not even an invalid one."""

_NOT_SETTINGS = re.compile(rf"{PREFIX}(URL|KEY|MCP_TOKEN|TEST_\w+)")
"""Variables of the command line and of the tests that look like misspelt settings."""


class Settings(BaseSettings):
    """The settings of every process: API, worker, webhook sender and command line."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    redis_url: RedisUrl = Field(
        default="redis://127.0.0.1:6379/0",
        description="Redis for job records and the queue: redis://, rediss:// or unix://",
    )
    broker_url: BrokerUrl = Field(
        default=SecretStr(""),
        description="RabbitMQ for the queue: amqp://user:password@host:5672/vhost, or amqps://; if unset the queue is "
        "in Redis, which has the records in either case",
    )
    data: Path = Field(default=Path("data"), description="folder for everything that Duet stores on this machine")
    storage: StorageUrl = Field(
        default="",
        description="storage for uploads and results: a folder or s3://bucket/prefix; if unset <data>/storage",
    )
    s3_endpoint: EndpointUrl = Field(default=None, description="URL of the S3 server; if unset Amazon's")
    s3_region: str = Field(default="us-east-1", pattern=r"^[A-Za-z0-9-]{1,64}$", description="S3 region")
    s3_access_key: Annotated[str | None, UNSET_IF_EMPTY] = Field(
        default=None, description="S3 access key; if unset boto3 searches its usual places"
    )
    secrets: Annotated[DirectoryPath | None, UNSET_IF_EMPTY] = Field(
        default=None,
        description="folder with secret settings, one file each, named like the setting in lower case "
        "(duet_s3_secret_key); environment variables take precedence",
    )
    s3_secret_key: Annotated[SecretStr | None, UNSET_IF_EMPTY] = Field(default=None, description="S3 secret key")
    s3_path_style: bool = Field(
        default=True, description="whether buckets are in the path (most servers) or in the host name (Amazon)"
    )
    models: Annotated[Path | None, UNSET_IF_EMPTY] = Field(
        default=None, description="folder of additional models, each in a folder of its own with a model.json"
    )
    model_memory: Annotated[MemorySize | None, UNSET_IF_EMPTY] = Field(
        default=None,
        description="memory of the device for the loaded models of a worker: 12GiB, 800MiB or bytes. The model used "
        "least recently is unloaded, and loaded again when a job needs it; if unset all stay loaded",
    )
    default_model: str = Field(default="demo", min_length=1, description="model for requests that name none")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$",
        description="device that the worker computes on: cpu, cuda, cuda:1 …; auto uses a GPU if there is one",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description="number format of the networks; auto is bfloat16 on devices that compute in it, otherwise float32",
    )
    threads: int = Field(default=0, ge=0, le=1024, description="CPU threads of a worker; 0: one for each core")
    buckets: str = Field(
        default="auto",
        pattern=r"^(auto|[1-9]\d{0,2}(,\s*[1-9]\d{0,2})*)$",
        description="batch sizes of the base network, such as `1,2,4,8`; auto chooses by device and memory. With a "
        "single size, batches are padded to it, and a clip is bit-identical whatever else is in its batch",
    )
    host: Host = Field(default="127.0.0.1", description="address that the API listens on")
    port: int = Field(default=8000, ge=0, le=65535, description="port that the API listens on; 0: any free port")
    published_on: HostOrEmpty = Field(
        default="", description="address at which users reach a container's API; loopback unless DUET_API_KEYS is set"
    )
    api_keys: KeyHashes = Field(
        default=SecretStr(""),
        description="API keys: name:sha256 entries as `duet key NAME` prints them, separated by commas or spaces; if "
        "unset no key is required, and the API serves this machine only",
    )
    admin_keys: KeyNames = Field(
        default="",
        description="names of the API keys that may reload the models, separated by commas or spaces; if unset none "
        "may, and without API keys everyone on this machine",
    )
    provenance: Literal["off", "on", "required"] = Field(
        default="on",
        description="sign every clip with Content Credentials (C2PA): on also stores a clip whose signing failed, and "
        "logs why; with required the job fails",
    )
    provenance_certificate: Annotated[FilePath | None, UNSET_IF_EMPTY] = Field(
        default=None,
        description="PEM file with the signer's certificate, then those that signed it; if unset Duet makes its own "
        "pair in <data>/provenance, which others do not trust",
    )
    provenance_key: Annotated[FilePath | None, UNSET_IF_EMPTY] = Field(
        default=None, description="PEM file with the signer's key; if unset it is in the certificate's file"
    )
    provenance_command: str = Field(
        default="",
        description="command that signs, for a key in an HSM: bytes to sign on standard input, the signature on "
        "standard output; in place of a key",
    )
    provenance_tsa: EndpointUrl = Field(
        default=None, description="URL of a time-stamping authority (RFC 3161); if unset signatures have no time stamp"
    )
    provenance_trust: Annotated[FilePath | None, UNSET_IF_EMPTY] = Field(
        default=None,
        description="PEM file with certificates that `POST /verify` trusts; if unset every valid signature is "
        "`untrusted`",
    )
    signal_mark: Literal["off", "on"] = Field(
        default="off",
        description="add a faint mark to the pictures and the sound that are generated, which "
        "`duet verify --mark` finds after a re-encode too",
    )
    signal_mark_key: SecretStr = Field(
        default=SecretStr(""),
        description="secret key of that mark, which is needed to find it; if unset a published one, by which any Duet "
        "finds it and anybody can make it",
    )
    max_requests_per_minute: int = Field(default=600, ge=1, description="most requests per minute of one API key")
    max_queued_per_key: int = Field(default=100, ge=1, description="most queued jobs of one API key")
    max_queued: int = Field(default=1000, ge=1, description="most queued jobs")
    max_wait_s: float = Field(default=60, ge=0, le=3600, description="longest wait by `Prefer: wait=…`, in seconds")
    max_sync_s: float = Field(
        default=600, ge=0, le=3600, description="longest wait of `POST /v1/videos/sync`, in seconds"
    )
    max_event_streams: int = Field(
        default=500, ge=1, description="most open event streams (/jobs/{id}/events) of one API process"
    )
    max_event_streams_per_key: int = Field(
        default=100,
        ge=1,
        description="most open event streams and requests waiting for a job (`Prefer: wait`, /v1/videos/sync) of one "
        "API key, over all API processes",
    )
    public_url: PublicUrl = Field(
        default="",
        description="URL at which users reach the API, for links in webhooks: https://duet.example; if unset the links "
        "are paths",
    )
    root_path: PathPrefix = Field(
        default="",
        description="path prefix under which a reverse proxy publishes the API: /duet for https://example.com/duet/. "
        "The proxy may strip it or keep it",
    )
    trusted_proxies: Networks = Field(
        default="",
        description="addresses and networks of reverse proxies, separated by commas or spaces: 127.0.0.1 10.0.0.0/8. "
        "Their X-Forwarded-For, -Proto, -Host and -Prefix are honoured, and their connections are not limited; those "
        "headers are ignored from all other clients",
    )
    cors_origins: Origins = Field(
        default="",
        description="origins whose web pages may use the API (CORS), separated by commas or spaces: "
        "https://app.example; * for every origin; if unset only the API's own pages may",
    )
    webhook_secret: WebhookSecrets = Field(
        default=SecretStr(""),
        description="secret that signs webhooks: whsec_ and the base64 of 24 to 64 bytes; for a rotation several, "
        "separated by commas or spaces; if unset one is created and stored in Redis, and `duet webhooks --secret` "
        "prints it",
    )
    webhook_allow_private: bool = Field(
        default=False,
        description="allow webhooks to this machine and to private networks; only if you trust all users",
    )
    webhook_timeout: float = Field(
        default=15, gt=0, le=60, description="seconds that a webhook's receiver has to respond"
    )
    webhook_retries: Durations = Field(
        default="5s 5m 30m 2h 5h 10h 14h 20h 24h",
        description="delays between the attempts to deliver a webhook, separated by spaces",
    )
    max_upload_mib: int = Field(default=200, ge=1, le=5 * 1024, description="largest upload, in MiB")
    max_uploads_per_key: int = Field(
        default=32,
        ge=1,
        description="most simultaneous uploads of one API key, or without keys of all clients together, over all API "
        "processes",
    )
    min_upload_rate: int = Field(
        default=1024,
        ge=0,
        description="lowest rate of a request body in bytes per second, measured over 30 seconds; slower requests end "
        "with 408; 0: no limit",
    )
    disk_reserve_mib: int = Field(
        default=256,
        ge=0,
        description="MiB that uploads leave free on the disk of `data`, so that Redis can write and jobs can be "
        "deleted; uploads that need this space are refused with 507",
    )
    keep_alive_s: int = Field(
        default=65,
        ge=1,
        le=3600,
        description="seconds for which the API keeps an idle connection open; longer than the proxy in front of it, so "
        "that the proxy never reuses a closed connection",
    )
    header_timeout_s: int = Field(
        default=20, ge=1, le=600, description="seconds that a client has to send the headers of a request"
    )
    max_connections_per_address: int = Field(
        default=512,
        ge=0,
        description="most connections of one address to one API process; trusted proxies are exempt; 0: no limit",
    )
    max_duration_s: float = Field(default=600, gt=0, le=86_400, description="longest upload, in seconds")
    max_output_s: float = Field(
        default=60,
        ge=MIN_DURATION,
        le=MAX_DURATION,
        description="longest clip that is made, in seconds; of a longer upload the first part is used",
    )
    max_width: int = Field(default=8192, ge=16, description="largest width of a video, in pixels")
    max_height: int = Field(default=4320, ge=16, description="largest height of a video, in pixels")
    retention: PositiveDuration = Field(
        default=timedelta(days=7), description="how long jobs and their files are kept: 7d, 12h, 30m or seconds"
    )
    remember_erased: PositiveDuration = Field(
        default=timedelta(days=1), description="how long an erased job answers 410 instead of 404"
    )
    lease: float = Field(
        default=20,
        ge=1,
        le=3600,
        description="seconds after which a silent worker loses its jobs; the same in all processes",
    )
    slots: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="most jobs that a worker holds at a time; 0: its largest batch and some more, which it decodes and "
        "encodes meanwhile",
    )
    api_processes: int = Field(default=2, ge=1, le=64, description="API processes of `duet serve`, on one socket")
    workers: int = Field(default=1, ge=1, le=64, description="worker processes of `duet serve`")
    gpu_locks: Annotated[Path | None, UNSET_IF_EMPTY] = Field(
        default=None,
        description="folder for locks by which the workers of this host share out the GPUs: each claims a free GPU and "
        "waits while none is free; if unset each uses `device`",
    )
    workers_per_gpu: int = Field(default=1, ge=1, le=16, description="most workers on one GPU, with `gpu_locks`")
    ageing: PositiveDuration = Field(
        default=timedelta(minutes=5), description="a job's priority rises one level for each such period in the queue"
    )
    step_deadline: PositiveDuration = Field(
        default=timedelta(minutes=10),
        description="longest time between two steps of a job; a worker that exceeds it hangs; it exits to be restarted",
    )
    job_deadline: PositiveDuration = Field(
        default=timedelta(hours=6), description="longest time of an attempt, with the same consequence"
    )
    grace: Duration = Field(
        default=timedelta(seconds=10),
        description="how long a stopping worker waits for the current step before it hands its jobs back",
    )
    model_patience: PositiveDuration = Field(
        default=timedelta(days=1),
        description="how long a job waits for a worker that has its model before it fails with `model_unavailable`",
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="lines for people, or one JSON object per line"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="lowest level that is logged"
    )
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="port for metrics (Prometheus), without a key; 0: none. `duet serve` uses it for the API and the "
        "following ports for webhooks and workers",
    )
    metrics_host: Host = Field(default="127.0.0.1", description="address for `metrics_port`")
    otlp_endpoint: CollectorUrl = Field(
        default="",
        description="OpenTelemetry collector for traces (OTLP over HTTP): http://collector:4318; needs the extra "
        "`otel`; if unset there are no traces",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if (self.s3_access_key is None) != (self.s3_secret_key is None):
            given, missing = ("ACCESS", "SECRET") if self.s3_secret_key is None else ("SECRET", "ACCESS")
            raise ValueError(f"{PREFIX}S3_{given}_KEY is set and {PREFIX}S3_{missing}_KEY is not: set both or neither")
        if unknown := set(self.admin_names) - {name for name, _ in self.key_hashes}:
            raise ValueError(f"{PREFIX}ADMIN_KEYS names {', '.join(sorted(unknown))}, not in {PREFIX}API_KEYS")
        if self.provenance_certificate is None and (self.provenance_key or self.provenance_command):
            raise ValueError(f"{PREFIX}PROVENANCE_CERTIFICATE must be set with the key or the command that signs")
        if self.provenance_key and self.provenance_command:
            raise ValueError(f"set only one of {PREFIX}PROVENANCE_KEY and {PREFIX}PROVENANCE_COMMAND")
        if self.step_deadline > self.job_deadline:
            raise ValueError(f"{PREFIX}STEP_DEADLINE must not be longer than {PREFIX}JOB_DEADLINE")
        if self.gpu_locks is not None and self.device.startswith("cuda:"):
            raise ValueError(
                f"{PREFIX}DEVICE is {self.device!r}, but with {PREFIX}GPU_LOCKS a worker claims any free GPU: set only "
                f"one of them, or {PREFIX}DEVICE=cuda"
            )
        if self.max_queued_per_key > self.max_queued and "max_queued_per_key" in self.model_fields_set:
            raise ValueError(f"{PREFIX}MAX_QUEUED_PER_KEY must not be greater than {PREFIX}MAX_QUEUED")
        return self

    @property
    def broker_address(self) -> str:
        """URL of the RabbitMQ; empty if the queue is in Redis."""
        return self.broker_url.get_secret_value()

    @property
    def batch_sizes(self) -> tuple[int, ...] | None:
        """The sizes of `buckets`; None for `auto`."""
        return None if self.buckets == "auto" else tuple(int(size) for size in self.buckets.split(","))

    @property
    def key_hashes(self) -> tuple[tuple[str, bytes], ...]:
        """Name and SHA-256 of each accepted key. A name may have several keys, for rotation."""
        pairs = (pair.split(":") for pair in words(self.api_keys))
        return tuple((name, bytes.fromhex(digest)) for name, digest in pairs)

    @property
    def admin_names(self) -> tuple[str, ...]:
        """The names of `admin_keys`."""
        return tuple(words(self.admin_keys))

    @property
    def webhook_secrets(self) -> tuple[str, ...]:
        """The secrets that sign webhooks; empty if the secret is in Redis."""
        return tuple(words(self.webhook_secret))

    @property
    def webhook_pauses(self) -> tuple[float, ...]:
        """Seconds before each further attempt to deliver a webhook."""
        return tuple(parse_duration(pause).total_seconds() for pause in self.webhook_retries.split())

    @property
    def link_prefix(self) -> str:
        """Prefix of the paths in webhooks: `public_url`, with `root_path` unless the URL has a path of its own."""
        return self.public_url if urlsplit(self.public_url).path else self.public_url + self.root_path

    @property
    def proxy_networks(self) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
        """The networks of `trusted_proxies`."""
        return tuple(ipaddress.ip_network(entry) for entry in words(self.trusted_proxies))

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of `cors_origins` as browsers send them, or `*`."""
        return tuple(parse_origin(entry) or entry for entry in words(self.cors_origins))

    def check_published(self) -> None:
        """Raise ValueError if other machines could reach an API that requires no key."""
        if self.key_hashes:
            return
        name = "published_on" if self.published_on else "host"
        address = self.published_on or self.host
        if not is_loopback(address):
            raise ValueError(
                f"{PREFIX}{name.upper()} is {address!r}, which other machines may reach, and {PREFIX}API_KEYS is not "
                "set, so no key would be required. Set keys (`duet key NAME` creates one), or serve this machine "
                f"only: {PREFIX}HOST=127.0.0.1, or in a container {PREFIX}PUBLISHED_ON=127.0.0.1 if its port is "
                "published there and nowhere else."
            )

    @property
    def storage_url(self) -> str:
        """`storage`, or its default within `data`."""
        return self.storage or str(self.data / "storage")

    @property
    def temporary(self) -> Path:
        """Folder for incoming uploads: on the disk of `data`, because the system's temporary folder is often small."""
        return self.data / "duet-tmp" / "files"

    @property
    def spool(self) -> Path:
        """Folder for results that wait for storage, on the same disk as `temporary`."""
        return self.data / "spool"

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mib * 2**20


def is_loopback(address: str) -> bool:
    """Whether `address` can be reached from this machine only."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:  # another host name
        return False


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; `overrides` take precedence over the environment.

    Ends the process (SystemExit) if a value is not valid, with one line for each setting: its name, its value and what
    is allowed. Variables that look like a misspelt setting are reported in the same way.
    """
    lines = [
        f"{name} is not a setting; {PREFIX}{meant[0]} is" for name in sorted(os.environ) if (meant := _misspelt(name))
    ]
    try:
        folder = os.environ.get(f"{PREFIX}SECRETS", "")
        secrets: dict[str, Any] = {"_secrets_dir": folder} if os.path.isdir(folder) else {}
        settings = Settings(**secrets, **overrides)
    except ValidationError as error:
        raise SystemExit(
            "Duet cannot start.\n" + "\n".join(lines + [_line(each) for each in error.errors()])
        ) from error
    if lines:
        raise SystemExit("Duet cannot start.\n" + "\n".join(lines))
    return settings


def _misspelt(name: str) -> list[str]:
    """The setting that an unknown variable resembles, if there is one."""
    short = name.removeprefix(PREFIX)
    known = [field.upper() for field in Settings.model_fields]
    if short == name or short in known or _NOT_SETTINGS.fullmatch(name):
        return []
    return difflib.get_close_matches(short.upper(), known, 1, 0.85)


def _line(problem: Any) -> str:
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:  # several settings, which the message names
        return message
    return f"{PREFIX}{'.'.join(map(str, problem['loc'])).upper()} is {_shown(problem)}: {message}"


def _shown(problem: Any) -> str:
    if problem["loc"][0] in _SECRET:
        return "not valid"
    return re.sub(r"//[^/@]*@", "//…@", repr(problem["input"]))  # hides the password in a URL
