"""Looks for the mark in the signal in a file of any origin. Decodes the file, so runs confined."""

from __future__ import annotations

import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from model.marking.pictures import PictureDetector
from model.marking.significance import FALSE_POSITIVE_RATE, Finding
from model.marking.sound import RATE, SoundDetector
from model.media.decode import upright_rgb
from model.media.frames import window_frames
from model.media.opening import MediaError
from model.media.resampling import BLOCK, Resampler
from model.media.source import media_end, read_sound
from model.media.tracks import NoTrackError

LONGEST = 600
"""Seconds from the beginning of a file that are searched."""

MOST_PIXELS = 2**20
"""Of an HDR frame as it is converted: the detector's own grid is much smaller."""


def find_marks(path: str | Path, key: str) -> str:
    """JSON: `false_positive_rate`, and `picture` and `sound`, each a Finding, or null where the file has no such track.

    Raises MediaError if nothing in the file can be decoded.
    """
    found = {"picture": _picture(path, key), "sound": _sound(path, key)}
    if not any(found.values()):
        raise MediaError("the file has neither a picture nor a sound")
    sides = {name: None if finding is None else asdict(finding) for name, finding in found.items()}
    return json.dumps({"false_positive_rate": FALSE_POSITIVE_RATE, **sides})


def _picture(path: str | Path, key: str) -> Finding | None:
    detector = PictureDetector(key)
    try:
        for shown in window_frames(path, 0, LONGEST):
            if shown.time >= LONGEST:
                break
            detector.add(upright_rgb(shown, MOST_PIXELS), float(shown.time), float(shown.time + shown.duration))
    except NoTrackError:
        return None
    return detector.finish()


def _sound(path: str | Path, key: str) -> Finding | None:
    try:
        length = min(media_end(path, "audio"), Fraction(LONGEST))
        sound = read_sound(path, Fraction(0), length)
    except NoTrackError:
        return None
    resampler, detector = Resampler(sound.sample_rate, RATE, BLOCK), SoundDetector(key)
    for first in range(0, len(sound.samples), BLOCK):
        mono = torch.from_numpy(sound.to_float(first, first + BLOCK)).mean(0, keepdim=True)
        detector.add(resampler.add(mono.numpy())[0])
    detector.add(np.asarray(resampler.finish())[0])
    return detector.finish()
