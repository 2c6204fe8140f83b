"""What a job can be asked for, for type checkers and editors. The server judges; docs/client.md and `/docs` have the
limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

Kind = Literal["generate", "v2a", "a2v"]


class Webhook(TypedDict, total=False):
    """Where to report the job's end: `events` of completed, failed, canceled; all where absent."""

    url: str
    events: Sequence[str]


class _Parameters(TypedDict, total=False):
    model: str
    seed: int
    num_outputs: int
    sampler: str
    steps: int
    spacing: str
    order: int
    eta: float
    guidance: str
    guidance_scale: float
    priority: str
    metadata: Mapping[str, str]
    webhook: Webhook


class _NewFrames(TypedDict, total=False):
    super_resolution: bool
    sr_sampler: str
    sr_steps: int


class _Upload(TypedDict, total=False):
    start: float


class GenerateParameters(_NewFrames, _Parameters, total=False):
    """Of `generate`."""


class V2AParameters(_Upload, _Parameters, total=False):
    """Of `v2a`."""


class A2VParameters(_Upload, _NewFrames, _Parameters, total=False):
    """Of `a2v`."""
