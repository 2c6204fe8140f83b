"""Writes the files of an edit: the upload with made pictures and sound in it. Reads the upload, so runs confined."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from model.marking.mark import SignalMark
from model.media import encode
from model.media.aac import as_float
from model.media.copy_video import copy_video
from model.media.decode import decode_audio, decode_frames, upright_aspect
from model.media.edits import Edit, Made
from model.media.frames import window_frames
from model.media.mix_levels import Mix, MixReport
from model.media.mix_sound import put_resampled
from model.media.mux import Change, mux_v2a
from model.media.mux_mix import own_sound, silence
from model.media.orientation import displayed_size
from model.media.region_mask import read_mask
from model.media.source import Sound, media_end
from model.media.splice_sound import extend_sound, splice_sound
from model.media.splice_video import FrameSplice
from model.media.spooled import filled
from model.networks.config import ClipSpec

SPARE = 1.0
"""Seconds after the end of the pictures in which a rounded length may say that one ends."""


def displayed_shape(source: str | Path) -> str:
    """JSON: rows and columns of the upload's first picture as it is displayed, and the width of a pixel by its height
    as numerator and denominator. Raises MediaError."""
    shown = next(window_frames(source, 0, 0))
    aspect = upright_aspect(shown)
    return json.dumps([*displayed_size(shown), aspect.numerator, aspect.denominator])


def section_frames(source: str | Path, clip: ClipSpec, start: float) -> Tensor:
    """As `decode_frames`, of a section that may begin before the upload, where its first frame is held."""
    missing = min(max(0, round(-start * clip.fps)), clip.frames - 1)
    frames = decode_frames(source, replace(clip, frames=clip.frames - missing), max(0.0, start))
    return torch.cat([frames[:1].expand(missing, -1, -1, -1), frames])


def section_sound(source: str | Path, clip: ClipSpec, start: float) -> Tensor:
    """As `decode_audio`, of a section that may begin before the upload and end after it, where it is silent."""
    missing = min(max(0, round(-start * clip.sample_rate)), clip.samples)
    if media_end(source, "audio") <= Fraction(max(0.0, start)) or missing == clip.samples:
        return torch.zeros(1, clip.samples)
    sound = decode_audio(source, clip, max(0.0, start))
    return torch.cat([torch.zeros(1, missing), sound[:, : clip.samples - missing]], dim=1)


def write_edit(
    source: str | Path,
    edit: Edit,
    made: Made,
    frames: tuple[Path, tuple[int, int, int, int]] | None,
    audio: Tensor | None,
    mix: Mix,
    has_sound: bool,
    mask: Path | None,
    files: tuple[Path, Path, Path | None],
    comment: str,
    mark: SignalMark | None = None,
) -> str:
    """Write the clip (mp4), its sound (WAV) and the new sound alone (WAV, mono; None where none is made).

    `frames`, a file of uint8 and its shape (frames, h, w, 3), and `audio` (1, samples) are the section as the network
    `made` it; None where nothing of a side is new. Returns JSON: `video`, how the frames were written in words, and
    `mix`, a MixReport or null. `mark` is added to the new pictures; `audio` has it already. Raises MediaError.
    """
    video_path, audio_path, alone_path = files
    sound, alone, report = _spliced(
        _own_sound(source, edit, has_sound, made.sample_rate, video_path.parent),
        edit,
        made,
        audio if has_sound or edit.mixes else None,
        mix,
        video_path.parent,
    )
    encode.write_pcm(audio_path, sound.pieces(), sound.sample_rate, sound.format, sound.layout)
    if alone_path is not None:
        encode.write_wav(alone_path, alone, sound.sample_rate)
    del alone  # ten minutes of sound are large
    if edit.video:
        assert frames is not None
        path, shape = frames
        pattern = None if mark is None else mark.pictures()
        pictures = np.memmap(path, np.uint8, "r", shape=shape)
        splice = FrameSplice(edit, made, pictures, None if mask is None else read_mask(mask), pattern)
        words = _mux(source, edit, sound, video_path, comment, splice.apply)
    else:
        copied = copy_video(source, sound, video_path, comment)
        words = "copied" if copied else _mux(source, edit, sound, video_path, comment)
    return json.dumps({"video": words, "mix": None if report is None else report.to_dict()})


def _mux(source: str | Path, edit: Edit, sound: Sound, path: Path, comment: str, change: Change | None = None) -> str:
    end = edit.length + (SPARE if change is not None else 0.0)
    least = len(sound.samples) / sound.sample_rate
    return mux_v2a(source, 0.0, end, sound, sound.sample_rate, path, comment, change, least)


def _own_sound(source: str | Path, edit: Edit, has_sound: bool, sample_rate: int, folder: Path) -> Sound:
    """All of the upload's sound, at least as long as its pictures; without one, silence at `sample_rate`."""
    if not has_sound:
        return silence(edit.length, sample_rate)
    end = edit.length if edit.extend is not None else max(edit.length, float(media_end(source, "audio")))
    return own_sound(source, 0.0, end, sample_rate, folder)


def _spliced(
    own: Sound, edit: Edit, made: Made, audio: Tensor | None, mix: Mix, folder: Path
) -> tuple[Sound, np.ndarray, MixReport | None]:
    rate = own.sample_rate
    before, after = round(edit.before * rate), round(edit.after * rate)
    total = before + len(own.samples) + after
    new = filled((1, total), "f4", 0, folder)
    if audio is not None:
        put_resampled(new, round(made.start * rate) + before, as_float(audio), made.sample_rate, rate)
    if edit.extend is not None:
        return (*extend_sound(own, new, before, after, folder), None)
    return splice_sound(own, new, edit.audio if audio is not None else (), mix, folder)
