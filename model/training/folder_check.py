"""Checks which videos of a folder can be used for training, and why others cannot. Decodes every file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from model.media.frames import video_frames
from model.media.lengths import seconds
from model.media.opening import MediaError
from model.media.source import open_media, read_sound
from model.media.tracks import video_track
from model.networks.config import MODALITIES, ClipSpec
from model.runtime.threads import available_cores

SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".webm")
SILENCE = 1e-3
"""RMS below which a sound counts as silent: -60 dB of full scale."""
LONGEST = Fraction(3600)
"""Longest sound read from one file, in seconds."""


@dataclass(frozen=True)
class FileCheck:
    """One file. `frames` are at its own rate `fps`; `windows` counts clips at the model's rate. `loudness` is the RMS
    of its sound, None without sound. `problem` is the reason why training leaves it out, else None."""

    path: Path
    bytes: int
    seconds: float = 0.0
    frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    sound_seconds: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    loudness: float | None = None
    windows: int = 0
    problem: str | None = None


def find_videos(folder: Path) -> list[Path]:
    """All files under `folder` that are videos by their names, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def check_folder(
    folder: Path,
    clip: ClipSpec | None = None,
    modalities: Sequence[str] = MODALITIES,
    stride: int = 1,
    report: Callable[[FileCheck], None] = lambda _: None,
) -> list[FileCheck]:
    """Check every video under `folder` for training with `clip` and `modalities`; calls `report` for each."""
    spec = clip or ClipSpec()

    def look(path: Path) -> FileCheck:
        found = check_file(path, spec, modalities, stride)
        report(found)
        return found

    with ThreadPoolExecutor(available_cores()) as pool:
        return list(pool.map(look, find_videos(folder)))


def check_file(path: Path, clip: ClipSpec, modalities: Sequence[str], stride: int = 1) -> FileCheck:
    """Decode one file from beginning to end. A fault is returned in `problem`, never raised."""
    facts: dict[str, float | int | None] = {}
    size = path.stat().st_size
    try:
        _look_at_frames(path, facts)
        if "audio" in modalities:
            _listen(path, facts)
        problem = _problem(facts, clip, modalities)
    except MediaError as error:
        problem = str(error)
    except OSError as error:
        problem = f"the file cannot be read: {error.strerror or error}"
    windows = 0 if problem else count_windows(_frames_at(clip.fps, facts), clip, stride)
    return FileCheck(path, size, **facts, windows=windows, problem=problem)  # type: ignore[arg-type]


def count_windows(frames: int, clip: ClipSpec, stride: int) -> int:
    """Number of clips, one starting every `stride` frames, in `frames` frames at the model's rate."""
    return 0 if frames < clip.frames else (frames - clip.frames) // stride + 1


def check_table(found: Sequence[FileCheck]) -> str:
    """The result as text: totals, then every file left out with its reason."""
    used = [file for file in found if file.problem is None]
    left_out = [file for file in found if file.problem is not None]
    lines = [f"{len(found)} videos, {len(used)} of them can be trained on, {sum(f.windows for f in used)} clips"]
    if used:
        lines += [
            f"  length  {_range([f.seconds for f in used], 's')}, {sum(f.seconds for f in used):.1f} s in all",
            f"  size    {', '.join(sorted({f'{f.width}×{f.height}' for f in used}))}",
            f"  rate    {_range([f.fps for f in used], 'frames a second')}",
        ]
        heard = [f for f in used if f.loudness is not None]
        if heard:
            rates = ", ".join(f"{rate} Hz" for rate in sorted({f.sample_rate for f in heard}))
            lines.append(f"  sound   {rates}, loudness {_range([f.loudness or 0.0 for f in heard], 'RMS', '.3f')}")
    if left_out:
        lines.append(f"left out, {len(left_out)}:")
        lines += [f"  {file.path}: {file.problem}" for file in left_out]
    return "\n".join(lines)


def _look_at_frames(path: Path, facts: dict[str, float | int | None]) -> None:
    with open_media(path) as container:
        context = video_track(container).codec_context
        facts |= {"width": context.width, "height": context.height}
    frames, end = 0, Fraction(0)
    for shown in video_frames(path, 0.0):
        frames, end = frames + 1, shown.time + shown.duration
    facts |= {"frames": frames, "seconds": float(end), "fps": round(float(frames / end), 3) if end else 0.0}


def _listen(path: Path, facts: dict[str, float | int | None]) -> None:
    with open_media(path) as container:
        if not container.streams.audio:
            return
        stream = container.streams.audio[0]
        length = seconds(stream.duration, stream.time_base)
    # Read sound only as long as the picture lasts; clips never contain later sound.
    span = min(LONGEST, Fraction(facts["seconds"] or 0), length or LONGEST) if facts["seconds"] else LONGEST
    sound = read_sound(path, Fraction(0), max(span, Fraction(1, 10)))
    samples = sound.to_float()
    facts |= {
        "sound_seconds": samples.shape[1] / sound.sample_rate,
        "sample_rate": sound.sample_rate,
        "channels": samples.shape[0],
        "loudness": float(np.sqrt(np.mean(np.square(samples.mean(axis=0, dtype=np.float64))))),
    }


def _problem(facts: dict[str, float | int | None], clip: ClipSpec, modalities: Sequence[str]) -> str | None:
    if _frames_at(clip.fps, facts) < clip.frames:
        return f"too short: {facts['seconds']:.2f} s, and a clip is {clip.duration:g} s"
    if "audio" not in modalities:
        return None
    loudness = facts.get("loudness")
    if loudness is None:
        return "no sound: the file has no audio track"
    if loudness < SILENCE:
        return f"silent: its loudness is {loudness:.1g} RMS, below {SILENCE:g}"
    heard = float(facts["sound_seconds"] or 0)
    if heard < clip.duration:
        return f"too short: the sound ends after {heard:.2f} s, and a clip is {clip.duration:g} s"
    return None


def _frames_at(fps: int, facts: dict[str, float | int | None]) -> int:
    """Frames at the model's rate; only those that have sound, if sound was read."""
    length = facts.get("seconds") or 0.0
    if facts.get("loudness") is not None:
        length = min(length, facts.get("sound_seconds") or 0.0)
    return int(length * fps + 1e-6)


def _range(values: Sequence[float], unit: str, form: str = ".4g") -> str:
    low, high = min(values), max(values)
    return f"{low:{form}} {unit}" if low == high else f"{low:{form}} … {high:{form}} {unit}"
