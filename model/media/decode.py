"""Decodes an upload to the network's input.

Preparation follows the published data loader (letter-boxed bicubic frames, 16 kHz mono) with three differences: clips
are not mirrored; frames have square pixels, are deinterlaced and tone-mapped, as a player shows them; and sound is the
mean of all channels, unless `first_channel`. The loader takes the first channel only, so the network would miss what is
panned away from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.media.colour import MOST_PIXELS, to_rgb
from model.media.content_box import content_box
from model.media.frames import TimedFrame, window_frames
from model.media.resampling import BLOCK, Resampler
from model.media.source import MediaError, Sound, read_sound, slack
from model.networks.config import ClipSpec

LEAD = Fraction(1, 5)
LEAD_STEP = Fraction(1, 25)
"""Seconds read on both sides of a window as context for the filter, in steps that are whole numbers of
samples at every usual rate (11 025 Hz is the awkward one)."""


def decode_video(path: str | Path, clip: ClipSpec, start: float = 0.0) -> Tensor:
    """As `decode_frames`, float32 in [-1, 1]."""
    return decode_frames(path, clip, start).float() / 127.5 - 1


def decode_frames(path: str | Path, clip: ClipSpec, start: float = 0.0) -> Tensor:
    """Frames (frames, 3, height, width), uint8, from `start` seconds on.

    Frame k is what a player shows at start + k/fps, whatever the source's own rate, which may vary. It stands upright,
    letter-boxed with black. A source that ends early is held on its last frame.
    Raises MediaError if there is no video track or it ends before `start`.
    """
    return torch.stack(list(network_frames(path, clip, start)))


def write_frames(path: str | Path, clip: ClipSpec, start: float, target: str | Path) -> None:
    """As `decode_frames`, to a file of nothing but their bytes. Raises OSError if it cannot be written."""
    with open(target, "wb") as file:
        for frame in network_frames(path, clip, start):
            file.write(frame.numpy().tobytes())


def network_frames(path: str | Path, clip: ClipSpec, start: float = 0.0) -> Iterator[Tensor]:
    """The frames of `decode_frames`, each (3, height, width) uint8, one after another."""
    given, view = 0, None
    for shown in window_frames(path, start, Fraction(clip.frames, clip.fps)):
        end = shown.time + shown.duration - slack(shown.frame.time_base)
        due = 0
        while given + due < clip.frames and Fraction(start) + Fraction(given + due, clip.fps) < end:
            due += 1
        if due:
            view = letterbox(upright_rgb(shown), clip.height, clip.width, upright_aspect(shown))
            yield from repeat(view, due)
            given += due
        if given == clip.frames:
            return
    if view is None:
        raise MediaError("the file has no frames")
    yield from repeat(view, clip.frames - given)


def decode_audio(
    path: str | Path, clip: ClipSpec, start: float = 0.0, folder: Path | None = None, first_channel: bool = False
) -> Tensor:
    """Sound (1, samples) float32 from `start` seconds on, at `clip.sample_rate`; silence after the source's end.

    The mean of the channels, or only the first. `folder`: see `read_sound`. Raises MediaError if there is no audio
    track or it ends before `start`.
    """
    first = Fraction(start)
    lead = min(LEAD, first // LEAD_STEP * LEAD_STEP)
    sound = read_sound(path, first - lead, lead + Fraction(clip.samples, clip.sample_rate) + LEAD, folder)
    resampler = Resampler(sound.sample_rate, clip.sample_rate, BLOCK)
    parts = [resampler.add(_mono(sound, begin, first_channel)) for begin in range(0, len(sound.samples), BLOCK)]
    resampled = np.concatenate([*parts, resampler.finish()], axis=1)[:, round(lead * clip.sample_rate) :]
    if not resampled.shape[1]:
        raise MediaError(f"the window begins at {start:.3f} s, where the sound has ended")
    missing = max(0, clip.samples - resampled.shape[1])
    return torch.from_numpy(np.pad(resampled, ((0, 0), (0, missing)))[:, : clip.samples].copy())


def _mono(sound: Sound, begin: int, first_channel: bool) -> np.ndarray:
    """(1, samples): the first channel or the mean of all, in the block that begins at sample `begin`."""
    block = torch.from_numpy(sound.to_float(begin, begin + BLOCK))
    return (block[:1] if first_channel else block.mean(dim=0, keepdim=True)).numpy()


def letterbox(rgb: np.ndarray, height: int, width: int, aspect: Fraction = Fraction(1)) -> Tensor:
    """`rgb` (h, w, 3) uint8 → (3, height, width) uint8: bicubic, antialiased, centred on black.

    `aspect`: width of a pixel of `rgb` by its height. `content_box` says where it lies.
    """
    rows, columns = rgb.shape[:2]
    box = content_box(rows, columns, aspect, height, width)
    picture = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1)[None]
    scaled = F.interpolate(picture, (box.rows, box.columns), mode="bicubic", antialias=True)[0]
    right, bottom = width - box.columns - box.left, height - box.rows - box.top
    return F.pad(scaled, (box.left, right, box.top, bottom))


def upright_aspect(shown: TimedFrame) -> Fraction:
    """Width of a pixel of `upright_rgb` by its height."""
    matrix = shown.display_matrix
    quarter_turn = matrix is not None and not matrix[0] and not matrix[4]
    return 1 / shown.aspect if quarter_turn else shown.aspect


def upright_rgb(shown: TimedFrame, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """(h, w, 3) uint8, turned and mirrored by the file's display matrix; only quarter turns are supported.

    The colours are those of an SDR display; HDR of more than `most_pixels` is made smaller (`model.media.colour`).
    """
    rgb = to_rgb(shown.frame, most_pixels)
    matrix = shown.display_matrix
    if matrix is None:
        return rgb
    a, b, _, c, d = matrix[:5]
    if a and d and not b and not c:
        return rgb[:: 1 if d > 0 else -1, :: 1 if a > 0 else -1]
    if b and c and not a and not d:
        return rgb.swapaxes(0, 1)[:: 1 if b > 0 else -1, :: 1 if c > 0 else -1]
    return rgb
