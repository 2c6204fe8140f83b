"""Writes files that every browser plays: MP4 with H.264 (yuv420p, no B-frames, index at the front) and AAC.

Every function writes beside its target and renames at the end, so that a file under its final name is always whole.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from torch import Tensor

from model.media.aac import AacTrack, blocks, mixed_peak
from model.media.display import BT709
from model.media.layouts import layout_of

CRF = "12"
"""x264's constant quality: visually the same as what went in."""

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
"""How pictures are converted to 4:2:0."""


def write_clip(
    path: str | Path,
    frames: np.ndarray | Tensor,
    fps: Fraction | float,
    audio: np.ndarray | Tensor,
    sample_rate: int,
    comment: str,
    layout: str | None = None,
) -> str:
    """Write an MP4 of `frames` (frames, height, width, 3) uint8 RGB at `fps` hertz and `audio` (channels, samples) ±1.

    `layout`: the loudspeakers, by default mono, stereo … Returns in words how `AacTrack` changed the sound.
    """
    peak = mixed_peak(blocks(audio), len(audio), layout)
    sound = SoundFormat(sample_rate, len(audio), layout, peak)
    with clip_writer(path, fps, comment, sound) as writer:
        writer.add(frames, audio)
    return writer.changes


@dataclass(frozen=True)
class SoundFormat:
    """Of the sound that a file is to get: `layout` and `peak` as for `AacTrack`."""

    sample_rate: int
    channels: int = 1
    layout: str | None = None
    peak: float = 1.0


@contextmanager
def clip_writer(
    path: str | Path, fps: Fraction | float, comment: str, sound: SoundFormat | None = None
) -> Iterator[ClipWriter]:
    """Write an MP4 at `fps` hertz in parts. It is complete when the block ends; after an error there is none. Without
    `sound` it has no sound track."""
    with ExitStack() as stack:
        writer = ClipWriter(path, fps, comment, sound, stack)
        yield writer
        writer.finish()


class ClipWriter:
    """See `clip_writer`.

    An odd side gets its last row or column once more: 4:2:0 has no half chroma pixels.
    """

    def __init__(
        self, path: str | Path, fps: Fraction | float, comment: str, sound: SoundFormat | None, stack: ExitStack
    ) -> None:
        self._path, self._comment, self._sound, self._stack = path, comment, sound, stack
        self._rate = Fraction(fps).limit_denominator(1001)
        self._container: OutputContainer | None = None
        self._frames: H264Track | None = None
        self._track: AacTrack | None = None
        self._count = 0

    @property
    def changes(self) -> str:
        """How `AacTrack` changed the sound, in words."""
        return self._track.changes if self._track is not None else ""

    def add(self, frames: np.ndarray | Tensor, audio: np.ndarray | Tensor | None = None) -> None:
        """Encode `frames` (frames, height, width, 3) uint8 RGB and `audio` (channels, samples) in [-1, 1]; they follow
        those that were added before."""
        pictures = frames.numpy(force=True) if isinstance(frames, Tensor) else frames
        height, width = pictures.shape[1:3]
        if self._container is None:
            self._begin(width, height)
        assert self._container is not None
        assert self._frames is not None
        for picture in pictures:
            shown = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            self._container.mux(self._frames.add(rgb_to_yuv(shown, width, height), self._count, 1))
            self._count += 1
        if audio is not None:
            self.add_sound(audio)

    def add_sound(self, audio: np.ndarray | Tensor) -> None:
        """Encode `audio` as `add` does. Frames come first."""
        assert self._container is not None
        assert self._track is not None
        self._container.mux(self._track.add(audio))

    def finish(self) -> None:
        """Write what the encoders still hold."""
        if self._container is not None and self._frames is not None:
            self._container.mux(self._frames.finish())
            if self._track is not None:
                self._container.mux(self._track.finish())

    def _begin(self, width: int, height: int) -> None:
        self._container = self._stack.enter_context(new_mp4(self._path, self._comment))
        self._frames = H264Track(self._container, width, height, self._rate, 1 / self._rate)
        self._frames.tag_bt709()
        if self._sound is not None:
            sound = self._sound
            self._track = AacTrack(self._container, sound.sample_rate, sound.channels, sound.layout, sound.peak)


def write_wav(path: str | Path, audio: np.ndarray | Tensor, sample_rate: int) -> None:
    """Write `audio` (channels, samples) in [-1, 1] as 16-bit PCM; what lies beyond is clipped."""
    pcm = (np.round(block * 32767).astype(np.int16).T for block in blocks(audio))
    write_pcm(path, pcm, sample_rate, "s16", layout_of(len(audio)))


def write_samples(path: str | Path, audio: np.ndarray | Tensor) -> None:
    """Write `audio` (1, samples) to a file of nothing but float32."""
    with open(path, "wb") as file:
        for block in blocks(audio):
            file.write(block.tobytes())


def write_pcm(path: str | Path, pieces: Iterable[np.ndarray], sample_rate: int, format: str, layout: str) -> None:
    """Write `pieces` of samples (samples, channels), of the sample format's own type, to a WAV file, bit by bit as they
    are."""
    codec = {"u8": "pcm_u8", "s16": "pcm_s16le", "s32": "pcm_s32le", "flt": "pcm_f32le", "dbl": "pcm_f64le"}[format]
    with replacing(path) as part, av.open(part, "w", format="wav") as container:
        stream = cast(AudioStream, container.add_stream(codec, rate=sample_rate, layout=layout))
        written = 0
        for samples in pieces:
            interleaved = np.ascontiguousarray(samples).reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(interleaved, format=format, layout=layout)
            frame.sample_rate, frame.pts = sample_rate, written
            container.mux(stream.encode(frame))
            written += len(samples)
        container.mux(stream.encode(None))


@contextmanager
def replacing(path: str | Path) -> Iterator[str]:
    """Yield the name of a file beside `path` that takes its place if all goes well, and goes away if not."""
    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield str(part)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def new_mp4(path: str | Path, comment: str) -> Iterator[OutputContainer]:
    """An MP4 with its index at the front and `comment` as metadata. Add all streams before the first packet."""
    with (
        replacing(path) as part,
        av.open(part, "w", format="mp4", options={"movflags": "+faststart", "strict": "unofficial"}) as container,
    ):
        container.metadata["comment"] = comment
        yield container


class H264Track:
    """The video track of a file that is being written: `width`×`height` pixels, made even, with times in units of
    `time_base`; about `rate` hertz.

    `parameters` are further ones of x264, as `name=value:name=value`.
    """

    def __init__(
        self,
        container: OutputContainer,
        width: int,
        height: int,
        rate: Fraction,
        time_base: Fraction,
        parameters: str = "",
    ) -> None:
        options = {"crf": CRF, "preset": "veryfast", "bf": "0"} | ({"x264-params": parameters} if parameters else {})
        self.stream = container.add_stream("libx264", rate=rate, options=options)
        self.stream.width, self.stream.height = width + width % 2, height + height % 2
        self.stream.pix_fmt = "yuv420p"
        self.stream.codec_context.time_base = time_base
        self._time_base = time_base
        self._stays: dict[int, int] = {}

    def tag_bt709(self) -> None:
        """Say which of the YUV colours it is, or players guess by the size of the picture."""
        context = self.stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = ColorRange.MPEG

    def add(self, picture: VideoFrame, pts: int, duration: int) -> list[Packet]:
        """Packets that are complete once `picture`, yuv420p, follows. It appears at `pts` and stays for `duration`,
        both in units of the time base. The encoder drops the durations, and no next frame tells the last one."""
        frame = to_even(picture)
        frame.pts, frame.time_base = pts, self._time_base
        frame.pict_type = PictureType.NONE  # otherwise the encoder repeats the source's keyframes
        self._stays[pts] = duration
        return self._with_durations(self.stream.encode(frame))

    def finish(self) -> list[Packet]:
        """The remaining packets."""
        return self._with_durations(self.stream.encode(None))

    def _with_durations(self, packets: list[Packet]) -> list[Packet]:
        for packet in packets:
            assert packet.pts is not None
            packet.duration = self._stays.pop(packet.pts)
        return packets


def rgb_to_yuv(frame: VideoFrame, width: int, height: int) -> VideoFrame:
    """RGB of any kind → yuv420p, BT.709, limited range."""
    if frame.format.components[0].bits < 8 and not frame.format.has_palette:  # the library takes 31 of 31 for 248
        frame = frame.reformat(format="rgb24", threads=1)
    colours = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
    return frame.reformat(width, height, "yuv420p", interpolation=EXACT, threads=1, **colours)


def to_even(frame: VideoFrame) -> VideoFrame:
    """A yuv420p frame of odd sides with its last column or row once more. The chroma planes have that size already."""
    width, height = frame.width + frame.width % 2, frame.height + frame.height % 2
    if (width, height) == (frame.width, frame.height):
        return frame
    even = av.VideoFrame(width, height, frame.format.name)
    for source, target in zip(frame.planes, even.planes, strict=True):
        pixels = np.frombuffer(bytes(source), np.uint8).reshape(source.height, source.line_size)[:, : source.width]
        margin = ((0, target.height - source.height), (0, target.line_size - source.width))
        target.update(np.pad(pixels, margin, mode="edge").tobytes())
    return even
