"""Every setting of Duet, read from the environment (`DUET_…`) and nowhere else."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "DUET_"
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _duration(value: Any) -> Any:
    """`90s`, `30m`, `12h`, `7d`, or a plain number of seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", value.strip()) if isinstance(value, str) else None
    if match is None:
        return value
    return timedelta(**{_UNITS[match[2] or "s"]: float(match[1])})


class Settings(BaseSettings):
    """One object for all processes: API, worker and command line read the same settings."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="Redis that keeps job records and the queue: redis://, rediss:// or unix://",
    )
    data: Path = Field(default=Path("data"), description="folder of everything Duet keeps on this machine")
    storage: str = Field(
        default="",
        description="where uploads and results are kept: a folder or s3://bucket/prefix; where unset <data>/storage",
    )
    s3_endpoint: str | None = Field(default=None, description="URL of the S3 server; Amazon's own where unset")
    s3_region: str = Field(default="us-east-1", description="S3 region")
    s3_access_key: str | None = Field(default=None, description="S3 access key; boto3's own search where unset")
    s3_secret_key: SecretStr | None = Field(default=None, description="S3 secret key")
    s3_path_style: bool = Field(
        default=True, description="buckets in the path (most servers) or in the host name (Amazon)"
    )
    models: Path | None = Field(default=None, description="folder of further models, one folder each with a model.json")
    default_model: str = Field(default="demo", description="the model of a request that names none")
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$",
        description="where the worker computes: cpu, cuda, cuda:1 …; auto takes a GPU if there is one",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="what the networks compute in; auto is bfloat16 on a GPU, float32 elsewhere"
    )
    host: str = Field(default="127.0.0.1", description="address the API listens on")
    port: int = Field(default=8000, ge=0, le=65535, description="port the API listens on; 0 takes a free one")
    max_upload_mib: int = Field(default=200, ge=1, le=5 * 1024, description="largest upload, in MiB")
    max_duration_s: float = Field(default=600, gt=0, description="longest upload, in seconds")
    max_width: int = Field(default=8192, ge=16, description="widest video accepted, in pixels")
    max_height: int = Field(default=4320, ge=16, description="highest video accepted, in pixels")
    retention: Annotated[timedelta, BeforeValidator(_duration)] = Field(
        default=timedelta(days=7), description="how long jobs and their files are kept: 7d, 12h, 30m or seconds"
    )
    log_format: Literal["console", "json"] = Field(
        default="console", description="lines for people, or one JSON object a line"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="least level that is logged"
    )

    @field_validator("redis_url")
    @classmethod
    def _known_redis_scheme(cls, url: str) -> str:
        if urlsplit(url).scheme not in ("redis", "rediss", "unix"):
            raise ValueError("must begin with redis://, rediss:// or unix://")
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
        if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
            raise ValueError("must begin with http:// or https://")
        return endpoint

    @field_validator("retention")
    @classmethod
    def _retention_positive(cls, retention: timedelta) -> timedelta:
        if retention <= timedelta():
            raise ValueError("must be longer than nothing")
        return retention

    @property
    def storage_url(self) -> str:
        """`storage`, or where that is not set a folder in `data`."""
        return self.storage or str(self.data / "storage")

    @property
    def temporary(self) -> Path:
        """Uploads on their way in: on the disk of `data`, not in the system's often small temporary folder."""
        return self.data / "tmp"

    @property
    def max_upload_bytes(self) -> int:
        return self.max_upload_mib * 2**20


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; `overrides` go before the environment.

    A bad value ends the process (SystemExit) with one sentence a setting that names it, what came and what is allowed.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        sentences = [
            f"{PREFIX}{'.'.join(map(str, problem['loc'])).upper()} is {problem['input']!r}: "
            + problem["msg"].removeprefix("Value error, ")
            for problem in error.errors()
        ]
        raise SystemExit("Duet cannot start.\n" + "\n".join(sentences)) from error
