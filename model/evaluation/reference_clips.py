"""Real clips from a folder of films: windows of the model's length, which overlap, in a random order."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import floor
from pathlib import Path

import torch
from torch import Tensor

from model.media.decode import decode_audio, decode_frames
from model.media.source import MediaError, media_end
from model.networks.config import ClipSpec


class NoReference(ValueError):
    """A folder without clips that can be used; the message says why."""


@dataclass(frozen=True)
class FilmWindow:
    """A part of a film, which begins with frame `first` at the clip's frame rate."""

    path: Path
    first: int


@dataclass(frozen=True)
class ReferenceClips:
    """The films below `folder`, as clips of `clip`'s length, size and rates, with the mean of their channels as sound
    or with the first."""

    folder: Path
    clip: ClipSpec
    first_channel: bool = False

    @cached_property
    def windows(self) -> tuple[FilmWindow, ...]:
        """Every window of every film, one frame apart, as the published data loader takes them.

        Raises NoReference if a file cannot be read, lacks sound or pictures, or no film is long enough.
        """
        found = []
        for path in self.films:
            try:
                end = min(media_end(path, "video"), media_end(path, "audio"))
            except MediaError as error:
                raise NoReference(f"{path} cannot be used as a reference: {error}") from error
            spare = floor((end - Fraction(self.clip.frames, self.clip.fps)) * self.clip.fps)
            found += [FilmWindow(path, first) for first in range(spare + 1)] if spare >= 0 else []
        if not found:
            raise NoReference(f"{self.folder} holds no film of at least {self.clip.duration} s")
        return tuple(found)

    @property
    def films(self) -> list[Path]:
        """All files below the folder, by name, but for hidden ones."""
        if not self.folder.is_dir():
            raise NoReference(f"{self.folder} is not a folder")
        found = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path for path in found if not path.name.startswith("."))

    def drawn(self, count: int, seed: int) -> list[FilmWindow]:
        """`count` windows in the random order of `seed`; all different if there are as many, else all repeat."""
        windows = self.windows
        order: list[int] = []
        draws = torch.Generator().manual_seed(seed)
        while len(order) < count:
            order += torch.randperm(len(windows), generator=draws).tolist()
        return [windows[index] for index in order[:count]]

    def load(self, window: FilmWindow) -> tuple[Tensor, Tensor]:
        """Frames (frames, 3, height, width) as bytes, and sound (samples,) in [-1, 1]. Raises NoReference for a damaged
        file."""
        start = window.first / self.clip.fps
        try:
            sound = decode_audio(window.path, self.clip, start, first_channel=self.first_channel)
            return decode_frames(window.path, self.clip, start), sound[0]
        except MediaError as error:
            raise NoReference(f"{window.path} cannot be read at {start:g} s: {error}") from error
