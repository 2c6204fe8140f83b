"""Poster of a clip: the sharpest frame that is not an outlier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image
from torch import Tensor

from model.media.decode import upright_aspect, upright_rgb
from model.media.frames import TimedFrame, key_frames, video_frames
from model.media.json_numbers import JsonNumbers
from model.media.opening import read_packets
from model.media.source import open_video

Item = TypeVar("Item")

MAX_WIDTH = 640
"""Pixels. Wider frames are scaled down; none is scaled up."""

MAX_HEIGHT = 1280
"""Pixels: portrait frames may be twice as high as landscape frames are wide."""

QUALITY = 80
EFFORT = 1
"""WebP's quality, 0 … 100, and compression effort, 0 … 6: a higher effort takes twice the time and saves a tenth."""

MOST_HELD, PIXELS_HELD = 24, 50_000_000
"""Limits of the frames that are compared, and of the pixels held for it: 24 frames of 1080p, two of 8K."""

VIEW, COARSE = 64, 8
"""Sides in pixels of the grey thumbnails that measure sharpness and similarity."""

DECODED, SOUGHT = 300, 64
"""Frames compared: all of a clip of at most DECODED; of a longer one at most SOUGHT, those that decode alone."""

OUTLYING = 3.0


@dataclass(frozen=True)
class Poster(JsonNumbers):
    """Size in pixels of the poster, and the time in seconds of its frame in the clip."""

    width: int
    height: int
    time: float


def write_poster(path: str | Path, frames: np.ndarray | Tensor, fps: float) -> Poster:
    """Write the best of `frames` (frames, height, width, 3) uint8 as WebP."""
    chosen = PosterFrames()
    chosen.add(frames)
    return chosen.write(path, fps)


class PosterFrames:
    """The frames of a clip that comes in parts, from which its poster is chosen: all of a short one, otherwise those at
    equal distances."""

    def __init__(self) -> None:
        self._spread: Spread[tuple[int, np.ndarray]] = Spread()
        self._count = 0

    @property
    def candidates(self) -> Sequence[tuple[int, np.ndarray]]:
        """The frames to choose from: number in the clip, and (height, width, 3) uint8."""
        return self._spread.held

    def add(self, frames: np.ndarray | Tensor) -> None:
        """Append `frames` (frames, height, width, 3) uint8."""
        pictures = frames.numpy(force=True) if isinstance(frames, Tensor) else frames
        for picture in pictures:
            self._spread.add((self._count, picture.copy()), picture.shape[0] * picture.shape[1])
            self._count += 1

    def write(self, path: str | Path, fps: float) -> Poster:
        """Write the best frame as WebP."""
        pictures = [Image.fromarray(picture) for _, picture in self.candidates]
        index = choose(np.stack([_view(picture) for picture in pictures]))
        return _save(pictures[index], path, self.candidates[index][0] / fps)


def draw_poster(video: str | Path, path: str | Path) -> str:
    """Write the best frame of a file as a player shows it, upright and with square pixels. Returns a Poster as JSON.

    Of a long clip only some frames are compared. Raises MediaError if the file has no frames.
    """
    shown = _spread(_compared(video))
    reformatter = VideoReformatter()
    best = shown[choose(np.stack([_small_view(each.frame, reformatter) for each in shown]))]
    return _save(displayed(best, MAX_WIDTH, MAX_HEIGHT), path, float(best.time)).to_json()


def choose(views: np.ndarray) -> int:
    """Index of the frame with the sharpest edges among `views` (frames, VIEW, VIEW), grey in 0 … 255.

    Outliers are left out: a flash, a black frame, the first frame after a cut. An outlier is more than `OUTLYING` times
    the median distance away from the mean picture, measured on few enough pixels that blur makes no difference.
    """
    grey = views.astype(np.float32)
    edges = np.abs(np.diff(grey, axis=1)).mean(axis=(1, 2)) + np.abs(np.diff(grey, axis=2)).mean(axis=(1, 2))
    blocks = grey.reshape(len(grey), COARSE, VIEW // COARSE, COARSE, VIEW // COARSE).mean(axis=(2, 4))
    distance = np.abs(blocks - blocks.mean(axis=0)).mean(axis=(1, 2))
    outlying = distance > OUTLYING * np.median(distance) + 1  # tolerates one grey level in a still clip
    return int(np.argmax(np.where(outlying, -1, edges)))


def displayed(shown: TimedFrame, max_width: int, max_height: int) -> Image.Image:
    """The frame as a player shows it, scaled down to fit."""
    rgb, aspect = upright_rgb(shown, MAX_WIDTH * MAX_HEIGHT), upright_aspect(shown)
    picture = Image.fromarray(np.ascontiguousarray(rgb))
    width, height = picture.width * max(aspect, Fraction(1)), picture.height / min(aspect, Fraction(1))
    scale = min(Fraction(1), max_width / width, max_height / height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0)


def _compared(video: str | Path) -> Iterator[TimedFrame]:
    """The frames of a short clip; those of a long one that decode alone, or its first ones if that is only one."""
    with open_video(video) as (container, stream, _):
        is_short = sum(1 for _ in islice(read_packets(container, stream), DECODED + 1)) <= DECODED
    alone = [] if is_short else _spread(key_frames(video, SOUGHT))
    return iter(alone) if len(alone) > 1 else islice(video_frames(video, 0), DECODED)


class Spread(Generic[Item]):
    """Items at equal distances of a series of unknown length: neighbours look alike, and a large video does not fit in
    memory."""

    def __init__(self) -> None:
        self.held: list[Item] = []
        self._number, self._stride = 0, 1

    def add(self, item: Item, pixels: int) -> None:
        """Hold the next one, a picture of so many `pixels`, if it is its turn."""
        if self._number % self._stride == 0:
            self.held.append(item)
        if len(self.held) > max(2, min(MOST_HELD, PIXELS_HELD // pixels)):
            self.held, self._stride = self.held[::2], 2 * self._stride
        self._number += 1


def _spread(frames: Iterator[TimedFrame]) -> list[TimedFrame]:
    chosen: Spread[TimedFrame] = Spread()
    for shown in frames:
        chosen.add(shown, shown.frame.width * shown.frame.height)
    return chosen.held


def _small_view(frame: VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    return reformatter.reformat(frame, VIEW, VIEW, "gray", interpolation=Interpolation.AREA, threads=1).to_ndarray()


def _view(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("L").resize((VIEW, VIEW), Image.Resampling.BOX))


def _save(picture: Image.Image, path: str | Path, time: float) -> Poster:
    picture.thumbnail((MAX_WIDTH, MAX_HEIGHT))
    picture.save(path, "WEBP", quality=QUALITY, method=EFFORT)
    return Poster(picture.width, picture.height, round(time, 6))
