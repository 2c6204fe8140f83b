"""Writes files that every browser plays: MP4 with H.264 (yuv420p, no B-frames, index at the front) and AAC.

Every function writes beside its target and renames at the end, so that a file under its final name is always whole.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import torch
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from av.video.stream import VideoStream
from torch import Tensor

from model.media.decode import resample
from model.media.display import BT709
from model.media.layouts import fit_layout, layout_of

CRF = "12"
"""x264's constant quality: visually the same as what went in."""

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
"""How pictures are converted to 4:2:0."""

AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
AAC_BITS_PER_CHANNEL = 192_000
"""Bits a second for each channel. A clip is short: what this costs in bytes is nothing beside the video."""

AAC_FRAME_BITS, AAC_FRAME = 6144, 1024
"""ISO/IEC 14496-3: at most so many bits a channel for a frame of so many samples."""

AAC_OPTIONS = {"aac_coder": "fast", "aac_pns": "0", "aac_is": "0"}
"""Code the wave as it is. Noise substitution and intensity stereo sound alike but are other waves."""


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

    An odd side gets its last row or column once more: 4:2:0 has no half chroma pixels. Sound at a rate or in a layout
    (`layout`: the loudspeakers, by default mono, stereo …) that AAC does not know is fitted as `add_aac` says; returns
    its words for that.
    """
    pictures = frames.numpy(force=True) if isinstance(frames, Tensor) else frames
    rate = Fraction(fps).limit_denominator(1001)
    with new_mp4(path, comment) as container:
        height, width = pictures.shape[1:3]
        video = add_h264(container, width, height, rate, 1 / rate)
        tag_bt709(video)
        sound, fitted, changes = add_aac(container, as_float(audio), sample_rate, layout)
        shown = (av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24") for picture in pictures)
        timed = ((rgb_to_yuv(frame, width, height), index, 1) for index, frame in enumerate(shown))
        for packet in encode_frames(video, timed):
            container.mux(packet)
        container.mux(encode_sound(sound, fitted))
    return changes


def write_wav(path: str | Path, audio: np.ndarray | Tensor, sample_rate: int) -> None:
    """Write `audio` (channels, samples) in [-1, 1] as 16-bit PCM; what lies beyond is clipped."""
    pcm = np.round(as_float(audio) * 32767).astype(np.int16).T
    write_pcm(path, pcm, sample_rate, "s16", layout_of(pcm.shape[1]))


def write_pcm(path: str | Path, samples: np.ndarray, sample_rate: int, format: str, layout: str) -> None:
    """Write `samples` (samples, channels), of the sample format's own type, to a WAV file, bit by bit as they are."""
    codec = {"u8": "pcm_u8", "s16": "pcm_s16le", "s32": "pcm_s32le", "flt": "pcm_f32le", "dbl": "pcm_f64le"}[format]
    with replacing(path) as part, av.open(part, "w", format="wav") as container:
        stream = cast(AudioStream, container.add_stream(codec, rate=sample_rate, layout=layout))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples).reshape(1, -1), format=format, layout=layout)
        frame.sample_rate, frame.pts = sample_rate, 0
        container.mux(stream.encode(frame))
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


def add_h264(
    container: OutputContainer, width: int, height: int, rate: Fraction, time_base: Fraction, parameters: str = ""
) -> VideoStream:
    """A video track of `width`×`height` pixels, made even, with times in units of `time_base`; about `rate` hertz.

    `parameters` are further ones of x264, as `name=value:name=value`.
    """
    options = {"crf": CRF, "preset": "veryfast", "bf": "0"} | ({"x264-params": parameters} if parameters else {})
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
    stream.codec_context.time_base = time_base
    return stream


def encode_frames(stream: VideoStream, frames: Iterable[tuple[VideoFrame, int, int]]) -> Iterator[Packet]:
    """Packets of all of `frames`: yuv420p pictures with the time at which each appears and for how long it stays.

    Both in units of the codec's time base. The encoder drops the durations, and no next frame tells the last one.
    """
    stays: dict[int, int] = {}
    for picture, pts, duration in frames:
        frame = to_even(picture)
        frame.pts, frame.time_base = pts, stream.codec_context.time_base
        frame.pict_type = PictureType.NONE  # otherwise the encoder repeats the source's keyframes
        stays[pts] = duration
        yield from _with_duration(stream.encode(frame), stays)
    yield from _with_duration(stream.encode(None), stays)


def _with_duration(packets: list[Packet], stays: dict[int, int]) -> Iterator[Packet]:
    for packet in packets:
        assert packet.pts is not None
        packet.duration = stays.pop(packet.pts)
        yield packet


def tag_bt709(stream: VideoStream) -> None:
    """Say which of the YUV colours it is, or players guess by the size of the picture."""
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = ColorRange.MPEG


def rgb_to_yuv(frame: VideoFrame, width: int, height: int) -> VideoFrame:
    """RGB of any kind → yuv420p, BT.709, limited range."""
    if frame.format.components[0].bits < 8 and not frame.format.has_palette:  # the library takes 31 of 31 for 248
        frame = frame.reformat(format="rgb24")
    colours = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
    return frame.reformat(width, height, "yuv420p", interpolation=EXACT, **colours)


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


def add_aac(
    container: OutputContainer, audio: np.ndarray, sample_rate: int, layout: str | None = None
) -> tuple[AudioStream, np.ndarray, str]:
    """A sound track for `audio` (channels, samples), the audio as that track can carry it, and in words what changed.

    AAC has 13 sample rates: any other is resampled to the next higher one (above 96 kHz: to 96 kHz). Layouts are fitted
    as `fit_layout` says. The words are empty where nothing was resampled or mixed.
    """
    audio, configured, mixed = fit_layout(audio, layout or layout_of(len(audio)))
    changes = [f"{layout} mixed down to {configured}"] if mixed else []
    rate = next((known for known in AAC_RATES if known >= sample_rate), AAC_RATES[-1])
    if rate != sample_rate:
        audio = resample(torch.from_numpy(audio), sample_rate, rate).numpy()
        changes.append(f"resampled from {sample_rate} to {rate} Hz")
    stream = container.add_stream("aac", rate=rate, layout=configured, options=AAC_OPTIONS)
    stream.bit_rate = len(audio) * min(AAC_BITS_PER_CHANNEL, AAC_FRAME_BITS * rate // AAC_FRAME)
    return stream, audio, ", ".join(changes)


def encode_sound(stream: AudioStream, audio: np.ndarray) -> list[Packet]:
    """Packets of all of `audio` (channels, samples). The encoder's delay is cut off again by the file's edit list."""
    packets: list[Packet] = []
    for first in range(0, audio.shape[1], AAC_FRAME):
        chunk = np.ascontiguousarray(audio[:, first : first + AAC_FRAME].T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(chunk, format="flt", layout=stream.layout.name)
        frame.sample_rate, frame.pts, frame.time_base = stream.rate, first, Fraction(1, stream.rate)
        packets += stream.encode(frame)
    return packets + stream.encode(None)


def as_float(audio: np.ndarray | Tensor) -> np.ndarray:
    """(channels, samples) float32, clipped to [-1, 1]."""
    samples = audio.numpy(force=True) if isinstance(audio, Tensor) else audio
    return np.clip(samples, -1, 1).astype(np.float32)
