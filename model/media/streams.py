"""The streams of a media file, as the probe and job records describe them. Imports neither torch nor the decoder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoStream:
    """Size in pixels as displayed: cropped, with square pixels, and turned upright. Mean frame rate in hertz."""

    width: int
    height: int
    fps: float


@dataclass(frozen=True)
class AudioStream:
    """Sample rate in hertz."""

    sample_rate: int
    channels: int
