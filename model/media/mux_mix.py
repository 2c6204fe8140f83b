"""Writes a v2a clip whose new sound is mixed with the upload's own, or set to a loudness."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
from torch import Tensor

from model.media import encode
from model.media.aac import as_float
from model.media.mix_levels import Mix
from model.media.mix_sound import mix_sounds, put_resampled
from model.media.mux import mux_v2a
from model.media.source import Sound, media_end, read_sound
from model.media.spooled import filled, release


def mux_mixed(
    source: str | Path,
    start: float,
    duration: float,
    audio: np.ndarray | Tensor | Path,
    sample_rate: int,
    mix: Mix,
    files: tuple[Path, Path, Path | None],
    comment: str,
) -> str:
    """Write the frames of `source` in [start, start + duration) seconds with its sound and `audio` (1, samples), or a
    file of it, float32, mixed.

    `files`: the clip (mp4), the mix (WAV, in the own sound's format), and the new sound alone as it is in the mix
    (WAV, mono; None without the own sound). Returns JSON: `video`, the words of `mux_v2a`, and `mix`, a MixReport.
    Raises MediaError as `mux_v2a`.
    """
    video, mixed, alone = files
    folder = video.parent
    own = own_sound(source, start, duration, sample_rate, folder) if mix.keeps_own else silence(duration, sample_rate)
    heard = np.memmap(audio, np.float32, "c")[None] if isinstance(audio, Path) else as_float(audio)
    there = filled((1, len(own.samples)), "f4", 0, folder)
    put_resampled(there, 0, heard, sample_rate, own.sample_rate)
    del heard
    sound, new, report = mix_sounds(own, there, mix, folder)
    del own, there
    encode.write_pcm(mixed, sound.pieces(), sound.sample_rate, sound.format, sound.layout)
    if alone is not None:
        encode.write_wav(alone, new, sound.sample_rate)
    del new
    words = mux_v2a(source, start, duration, sound, sound.sample_rate, video, comment)
    return json.dumps({"video": words, "mix": report.to_dict()})


def own_sound(source: str | Path, start: float, duration: float, sample_rate: int, folder: Path | None = None) -> Sound:
    """The sound of `source` in [start, start + duration) seconds, with silence where it has ended; at `sample_rate` if
    it ends before `start`. `folder`: see `read_sound`. Raises MediaError."""
    if media_end(source, "audio") <= Fraction(start):
        return silence(duration, sample_rate)
    sound = read_sound(source, Fraction(start), Fraction(duration), folder)
    count = round(Fraction(duration) * sound.sample_rate)
    if count <= len(sound.samples):
        return sound
    shape, zero = (count, sound.samples.shape[1]), 128 if sound.format == "u8" else 0
    samples = filled(shape, sound.samples.dtype.str, zero, folder)
    samples[: len(sound.samples)] = sound.samples
    release(samples)
    release(sound.samples)
    return replace(sound, samples=samples)


def silence(duration: float, sample_rate: int) -> Sound:
    """Mono, 16 bits."""
    return Sound(np.zeros((round(duration * sample_rate), 1), np.int16), sample_rate, "mono", "s16")
