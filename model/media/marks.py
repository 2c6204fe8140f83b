"""Looks for the mark in the signal in a file of any origin. Decodes the file, so runs confined."""

from __future__ import annotations

import json
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

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

NOTHING = "the file has no picture and no sound in its first ten minutes"


def find_marks(path: str | Path, key: str) -> str:
    """JSON: `false_positive_rate`; `picture` and `sound`, each a Finding, or null where there is no such track or it
    cannot be read; and `unreadable`, by side, why it cannot be read.

    Raises MediaError if nothing in the file can be decoded.
    """
    sides: dict[str, dict[str, Any] | None] = {}
    unreadable: dict[str, str] = {}
    for name, side in (("picture", _picture), ("sound", _sound)):
        sides[name] = None
        try:
            finding = side(path, key)
        except NoTrackError:
            continue
        except MediaError as error:
            unreadable[name] = str(error)
            continue
        sides[name] = None if finding is None else asdict(finding)
    if not any(sides.values()):
        raise MediaError("; ".join(dict.fromkeys(unreadable.values())) or NOTHING)
    return json.dumps({"false_positive_rate": FALSE_POSITIVE_RATE, **sides, "unreadable": unreadable})


def _picture(path: str | Path, key: str) -> Finding | None:
    """None if no frame is shown before LONGEST. Raises MediaError."""
    detector, seen = PictureDetector(key), False
    for shown in window_frames(path, 0, LONGEST):
        if shown.time >= LONGEST:
            break
        detector.add(upright_rgb(shown, MOST_PIXELS), float(shown.time), float(shown.time + shown.duration))
        seen = True
    return detector.finish() if seen else None


def _sound(path: str | Path, key: str) -> Finding | None:
    """None if there is no sample before LONGEST. Raises MediaError."""
    sound = read_sound(path, Fraction(0), min(media_end(path, "audio"), Fraction(LONGEST)))
    if not len(sound.samples):
        return None
    resampler, detector = Resampler(sound.sample_rate, RATE, BLOCK), SoundDetector(key)
    for first in range(0, len(sound.samples), BLOCK):
        mono = torch.from_numpy(sound.to_float(first, first + BLOCK)).mean(0, keepdim=True)
        detector.add(resampler.add(mono.numpy())[0])
    detector.add(np.asarray(resampler.finish())[0])
    return detector.finish()
