"""Good files to start from: the real clips where the environment names their folder, else clips made on the spot."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

from tests.clips import Film, Track, make
from tests.hostile.boxes import Samples, box, video_entry

VP8 = (("deadline", "realtime"), ("cpu-used", "8"))
SECONDS = 2.5
"""Of the real clips: enough for any window, little enough to be sent hundreds of times."""

SMALL = Film(frames=24, fps=Fraction(10))
TONE = Track(sample_rate=16_000, layout="mono", seconds=2.4)


@dataclass(frozen=True)
class Sources:
    """Whole files by their ending, and coded tracks taken apart."""

    files: dict[str, bytes]
    h264: Samples
    real: bool


def load_sources(folder: Path) -> Sources:
    """Make all sources in `folder`."""
    clips = os.environ.get("DUET_CLIPS_DIR")
    video, music = _real(Path(clips), folder) if clips else _made(folder)
    files = {
        "mp4": _copy(video, folder / "a.mp4", movflags="+faststart"),
        "end.mp4": _copy(video, folder / "end.mp4"),
        "frag.mp4": _copy(video, folder / "frag.mp4", movflags="frag_keyframe+empty_moov+default_base_moof"),
        "mov": _copy(video, folder / "a.mov"),
        "mkv": _copy(video, folder / "a.mkv"),
        "ts": _copy(video, folder / "a.ts"),
        "mp3": music.read_bytes(),
        "webm": make(folder / "a.webm", Film(frames=24, fps=Fraction(10), codec="libvpx", options=VP8)).read_bytes(),
        "avi": make(folder / "a.avi", Film(frames=24, fps=Fraction(10), codec="mpeg4")).read_bytes(),
        "gif": make(folder / "a.gif", Film(frames=24, fps=Fraction(10), codec="gif", pix_fmt="rgb8")).read_bytes(),
        "aac": make(folder / "a.aac", sound=TONE, format="adts").read_bytes(),
        "m4a": make(folder / "a.m4a", sound=TONE).read_bytes(),
        "flac": make(folder / "a.flac", sound=_tone("flac")).read_bytes(),
        "ogg": make(folder / "a.ogg", sound=Track(codec="libopus", sample_rate=48_000, seconds=2.4)).read_bytes(),
        "wav": make(folder / "a.wav", sound=_tone("pcm_s16le")).read_bytes(),
        "aiff": make(folder / "a.aiff", sound=_tone("pcm_s16be")).read_bytes(),
    }
    return Sources(files, coded(make(folder / "coded.mp4", SMALL)), bool(clips))


def _tone(codec: str) -> Track:
    return Track(codec=codec, format="s16", sample_rate=16_000, layout="mono", seconds=2.4)


def _real(clips: Path, folder: Path) -> tuple[Path, Path]:
    music = folder / "real.mp3"
    music.write_bytes((clips / "viper.mp3").read_bytes()[:100_000])
    return clips / "rabbit320.mp4", music


def _made(folder: Path) -> tuple[Path, Path]:
    video = make(folder / "made.mp4", Film(b_frames=2), Track())
    return video, make(folder / "made.mp3", sound=Track(codec="libmp3lame"))


def _copy(source: Path, target: Path, **options: str) -> bytes:
    """The beginning of `source`, its tracks as they are, in the container of `target`."""
    with av.open(source) as read, av.open(target, "w", options=options) as write:
        tracks = {stream.index: write.add_stream_from_template(stream) for stream in read.streams}
        for packet in read.demux():
            if packet.dts is not None and packet.dts * packet.time_base < SECONDS:
                packet.stream = tracks[packet.stream.index]
                write.mux(packet)
    return target.read_bytes()


def coded(path: Path) -> Samples:
    with av.open(path) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        entry = video_entry(b"avc1", context.width, context.height, box(b"avcC", context.extradata or b""))
        samples = [bytes(packet) for packet in container.demux(stream) if packet.size]
        return Samples(b"vide", entry, samples, 10, 1, context.width, context.height)
