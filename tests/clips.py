"""Clips for tests, made on the spot: every frame carries its number, every sound is a known function of time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from model.media.encode import clip_writer

STRIPES = 8
"""A frame's number stands in it as black and white stripes, the lowest bit on the left: readable after any codec."""

CHUNK = 1024
"""Samples that an encoder is given at once."""

CORNERS = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]], np.uint8)
"""Colours of the quadrants of `cornered`: red, green over blue, white."""


def numbered(number: int, height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: the number in stripes."""
    bits = np.arange(width) * STRIPES // width
    return np.repeat(((number >> bits & 1) * 255).astype(np.uint8)[None, :, None], height, 0).repeat(3, 2)


def read_number(picture: np.ndarray) -> int:
    """The number of a frame (height, width, 3) uint8, which may be letter-boxed above and below."""
    row = picture[picture.shape[0] // 2, :, 1].astype(int)
    centres = (np.arange(STRIPES) * 2 + 1) * len(row) // (2 * STRIPES)
    return int(sum(1 << bit for bit, at in enumerate(centres) if row[at] > 127))


def cornered(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8: a picture that shows which way up it is."""
    return CORNERS.repeat(-(-height // 2), 0)[:height].repeat(-(-width // 2), 1)[:, :width]


def tone(time: np.ndarray, channel: int = 0) -> np.ndarray:
    """A known sound at `time` seconds, another for each channel: a sweep from 200 Hz up, 400 Hz a second, in ±0.5."""
    return 0.5 * np.sin(2 * np.pi * ((200 + 150 * channel) * time + 200 * time**2))


def silent(folder: Path, frames: np.ndarray) -> Path:
    """A file of `frames` (frames, height, width, 3) uint8 at 10 Hz without sound, as workers write it for a2v."""
    with clip_writer(folder / "silent.mp4", 10, "") as writer:
        writer.add(frames)
    return folder / "silent.mp4"


def black(folder: Path, count: int = 16, side: int = 32) -> Path:
    """As `silent`, of black frames."""
    return silent(folder, np.zeros((count, side, side, 3), np.uint8))


@dataclass(frozen=True)
class Track:
    """Sound of a clip."""

    sample_rate: int = 44_100
    layout: str = "stereo"
    codec: str = "aac"
    seconds: float = 3.0
    format: str = "flt"

    @property
    def channels(self) -> int:
        return len(av.AudioLayout(self.layout).channels)

    def samples(self) -> np.ndarray:
        """(samples, channels) in the sample format's own type."""
        time = np.arange(round(self.seconds * self.sample_rate)) / self.sample_rate
        wave = np.stack([tone(time, channel) for channel in range(self.channels)], 1)
        if self.format == "flt":
            return wave.astype(np.float32)
        if self.format == "u8":
            return np.round(wave * 127 + 128).astype(np.uint8)
        bits = {"s16": 16, "s32": 32}[self.format]
        return np.round(wave * (2 ** (bits - 1) - 1)).astype(f"i{bits // 8}")


@dataclass(frozen=True)
class Film:
    """Pictures of a clip. `times`: of each frame in units of `grid` seconds, where they are not 0, 1, 2 …"""

    frames: int = 90
    fps: Fraction = Fraction(30)
    width: int = 64
    height: int = 48
    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    b_frames: int = 0
    gop: int = 15
    rotation: int | None = None
    aspect: Fraction | None = None
    color_range: int | None = None
    corners: bool = False
    times: Sequence[int] | None = None
    grid: Fraction | None = None
    options: tuple[tuple[str, str], ...] = ()

    def picture(self, index: int) -> np.ndarray:
        return cornered(self.height, self.width) if self.corners else numbered(index, self.height, self.width)


def make(
    path: Path,
    film: Film | None = None,
    sound: Track | None = None,
    format: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a clip of pictures, sound or both to `path`; the container is told by its name or by `format`."""
    with av.open(path, "w", format=format, options=options or {}) as container:
        # All tracks have to be there before the first packet.
        video = _video_stream(container, film) if film else None
        audio = _audio_stream(container, sound) if sound else None
        if film and video:
            reformatter = VideoReformatter()
            for index in range(film.frames):
                picture = av.VideoFrame.from_ndarray(film.picture(index), format="rgb24")
                # More threads would be started anew for every frame.
                frame = reformatter.reformat(picture, format=film.pix_fmt, dst_color_range=film.color_range, threads=1)
                frame.pts = film.times[index] if film.times else index
                frame.time_base = film.grid or 1 / film.fps
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if sound and audio:
            samples = sound.samples()
            for first in range(0, len(samples), CHUNK):
                chunk = np.ascontiguousarray(samples[first : first + CHUNK]).reshape(1, -1)
                piece = av.AudioFrame.from_ndarray(chunk, format=sound.format, layout=sound.layout)
                piece.sample_rate, piece.pts, piece.time_base = sound.sample_rate, first, Fraction(1, sound.sample_rate)
                container.mux(audio.encode(piece))
            container.mux(audio.encode(None))
    return path


def _audio_stream(container: OutputContainer, sound: Track) -> AudioStream:
    options = {"strict": "experimental"} if sound.codec == "vorbis" else {}
    stream = cast(
        AudioStream, container.add_stream(sound.codec, rate=sound.sample_rate, layout=sound.layout, options=options)
    )
    if sound.codec == "aac":
        stream.bit_rate = 160_000 * sound.channels
    return stream


def _video_stream(container: OutputContainer, film: Film) -> VideoStream:
    options = {}
    if film.codec == "libx264":
        options = {"crf": "4", "bf": str(film.b_frames), "g": str(film.gop), "sc_threshold": "0"}
    options.update(film.options)
    stream = cast(VideoStream, container.add_stream(film.codec, rate=film.fps, options=options))
    stream.width, stream.height, stream.pix_fmt = film.width, film.height, film.pix_fmt
    stream.codec_context.time_base = film.grid or 1 / film.fps
    if film.rotation is not None:
        stream.set_display_rotation(film.rotation)
    if film.aspect is not None:
        stream.codec_context.sample_aspect_ratio = film.aspect
    if film.color_range is not None:
        stream.codec_context.color_range = film.color_range
    return stream


def a_video(folder: Path) -> Path:
    """A real video with sound from DUET_CLIPS_DIR; if that is not set, one made in `folder`."""
    if clips := os.environ.get("DUET_CLIPS_DIR"):
        return Path(clips) / "rabbit320.mp4"
    return make(folder / "stripes.mp4", Film(width=320, height=240), Track())


def a_sound(folder: Path) -> Path:
    """A real sound from DUET_CLIPS_DIR; if that is not set, one made in `folder`."""
    if clips := os.environ.get("DUET_CLIPS_DIR"):
        return Path(clips) / "viper.mp3"
    return make(folder / "sweep.mp3", sound=Track(codec="libmp3lame", format="flt"))
