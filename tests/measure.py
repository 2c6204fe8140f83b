"""What tests measure of clips: frames and their times, how alike two are, whether a browser would play them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray

from tests.clips import read_number


def pictures(view: torch.Tensor) -> NDArray[np.uint8]:
    """(frames, height, width, 3) uint8 of what the network sees."""
    return ((view + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def numbers(view: torch.Tensor) -> list[int]:
    return [read_number(picture) for picture in pictures(view)]


def lasts(stream: av.VideoStream | av.AudioStream) -> Fraction:
    """Seconds that the container says the track lasts."""
    assert stream.duration is not None
    assert stream.time_base is not None
    return stream.duration * stream.time_base


def planes(path: Path) -> list[NDArray[np.uint8]]:
    """Every frame of the video track, as decoded, without conversion."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="yuv420p").astype(np.uint8) for frame in container.decode(video=0)]


def shown_at(path: Path) -> list[Fraction]:
    """Seconds at which each frame appears."""
    with av.open(str(path)) as container:
        return [Fraction(frame.pts or 0) * (frame.time_base or 0) for frame in container.decode(video=0)]


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    error = np.mean((one.astype(float) - other.astype(float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def lag_and_correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> tuple[int, float]:
    """Samples by which `other` (samples,) comes after `one`, within ±2000, and their correlation at no lag."""
    size = min(len(one), len(other))
    one, other = one[:size], other[:size]
    spectrum = np.fft.rfft(other, 2 * size) * np.conj(np.fft.rfft(one, 2 * size))
    across = np.fft.irfft(spectrum)
    near = np.concatenate([across[-2000:], across[:2001]])
    return int(np.argmax(near)) - 2000, float(np.corrcoef(one, other)[0, 1])


def assert_plays_in_browsers(path: Path, comment: str) -> None:
    """H.264 4:2:0 and AAC in an MP4 whose index comes first."""
    data = path.read_bytes()
    assert data[4:8] == b"ftyp"
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    with av.open(str(path)) as container:
        assert [stream.codec_context.codec.canonical_name for stream in container.streams] == ["h264", "aac"]
        assert container.streams.video[0].codec_context.pix_fmt in ("yuv420p", "yuvj420p")
        assert container.metadata["comment"] == comment
        assert [stream.start_time for stream in container.streams] == [0, 0]
