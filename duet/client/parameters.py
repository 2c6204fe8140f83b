"""Arguments of `generate`, `v2a`, `a2v` and `edit`, for type checkers and editors. The server checks the
parameters; its page `/docs` lists their limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypedDict

from duet.client.requests import OnUpload

Kind = Literal["generate", "v2a", "a2v", "edit"]


class Webhook(TypedDict, total=False):
    """A URL to notify when the job ends. `events` is any of completed, failed and canceled; by default all."""

    url: str
    events: Sequence[str]


class _Parameters(TypedDict, total=False):
    model: str
    seed: int
    num_outputs: int
    quality: str
    sampler: str
    steps: int
    spacing: str
    order: int
    eta: float
    guidance: str
    guidance_scale: float
    prompt: str
    negative_prompt: str
    prompt_scale: float
    priority: str
    metadata: Mapping[str, str]
    webhook: Webhook
    idempotency_key: str | None


class _Lasting(TypedDict, total=False):
    duration: float


class _NewFrames(TypedDict, total=False):
    super_resolution: bool
    sr_sampler: str
    sr_steps: int
    sr_start: int


class _Window(_Lasting, total=False):
    start: float


class _Upload(TypedDict, total=False):
    on_upload: OnUpload | None


class Gains(TypedDict):
    """Gains in dB of the upload's own sound and of the new one."""

    own: float
    new: float


class _Mix(TypedDict, total=False):
    mix: Literal["replace", "under", "over"] | Gains
    loudness: float
    true_peak: float


class _BestOf(TypedDict, total=False):
    keep: int
    rank_by: Literal["sync", "av_align", "lag"]


class GenerateParameters(_BestOf, _NewFrames, _Lasting, _Parameters, total=False):
    """Arguments of `generate`."""


class V2AParameters(_BestOf, _Upload, _Window, _Mix, _Parameters, total=False):
    """Arguments of `v2a`."""


class A2VParameters(_BestOf, _Upload, _Window, _NewFrames, _Parameters, total=False):
    """Arguments of `a2v`."""


class Retake(TypedDict, total=False):
    """Spans in seconds to make anew."""

    audio: Sequence[tuple[float, float]]
    video: Sequence[tuple[float, float]]


class Extend(TypedDict, total=False):
    """Seconds to add."""

    before: float
    after: float


class Region(TypedDict, total=False):
    """A part of the picture to make anew, in shares of it; without the rectangle where a mask is given."""

    x: float
    y: float
    width: float
    height: float
    start: float
    end: float
    audio: Literal["keep", "new"]


class EditParameters(_BestOf, _Upload, _Mix, _NewFrames, _Parameters, total=False):
    """Arguments of `edit`."""

    retake: Retake
    extend: Extend
    region: Region
    mask: str | Path | None
