"""Small generated media files."""

from __future__ import annotations

import io
import wave
from fractions import Fraction

import av
import numpy as np


def video(seconds: float = 2.0, width: int = 64, height: int = 48, fps: int = 10, sound: bool = False) -> bytes:
    """An MP4 with a moving ramp, and with `sound` a tone."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        pictures = container.add_stream("libx264", rate=fps)
        pictures.width, pictures.height, pictures.pix_fmt = width, height, "yuv420p"
        tones = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
        ramp = np.linspace(0, 255, width, dtype=np.uint8)
        for number in range(round(seconds * fps)):
            rows = np.broadcast_to(np.roll(ramp, number)[None, :, None], (height, width, 3))
            container.mux(pictures.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(rows), format="rgb24")))
        container.mux(pictures.encode(None))
        if tones is not None:
            for first in range(0, round(seconds * 16_000), 1024):
                phase = 2 * np.pi * 440 * np.arange(first, first + 1024) / 16_000
                frame = av.AudioFrame.from_ndarray(np.sin(phase).astype(np.float32)[None], "fltp", "mono")
                frame.sample_rate, frame.pts, frame.time_base = 16_000, first, Fraction(1, 16_000)
                container.mux(tones.encode(frame))
            container.mux(tones.encode(None))
    return file.getvalue()


def sound(seconds: float = 2.0, sample_rate: int = 8000) -> bytes:
    """A WAV with a tone, 16 bits, one channel."""
    samples = np.sin(2 * np.pi * 440 * np.arange(round(seconds * sample_rate)) / sample_rate) * 20_000
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(sample_rate)
        out.writeframes(samples.astype("<i2").tobytes())
    return file.getvalue()


def png() -> bytes:
    """A picture."""
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, "png")
    return file.getvalue()
