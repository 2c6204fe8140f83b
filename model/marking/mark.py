"""The mark of one key in the pictures and the sound of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.marking.keys import PUBLISHED_KEY
from model.marking.pictures import PictureMark
from model.marking.sound import SoundMark, marked_sound


@dataclass(frozen=True)
class SignalMark:
    """Marks what is generated. Plain data, so that it can be passed to a child process."""

    key: str = PUBLISHED_KEY

    def pictures(self) -> PictureMark:
        return PictureMark(self.key)

    def whole_sound(self, audio: Tensor, sample_rate: int) -> Tensor:
        """`audio` (1, samples) with the mark."""
        return torch.from_numpy(marked_sound(audio.numpy(force=True), sample_rate, self.key))


class ClipMark:
    """Adds the mark to the parts of one clip, in order."""

    def __init__(self, mark: SignalMark, sample_rate: int) -> None:
        self._pictures, self._sound = PictureMark(mark.key), SoundMark(mark.key, sample_rate)

    def frames(self, frames: Tensor) -> Tensor:
        """`frames` (frames, height, width, 3) uint8 with the mark."""
        return torch.from_numpy(self._pictures.applied(frames.numpy(force=True)))

    def audio(self, audio: Tensor) -> Tensor:
        """Append `audio` (1, samples); return the marked samples that are complete, (1, samples)."""
        return torch.from_numpy(self._sound.add(audio.numpy(force=True)))

    def finish(self) -> Tensor:
        """Return the rest of the marked sound, (1, samples)."""
        return torch.from_numpy(self._sound.finish())
