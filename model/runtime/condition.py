"""The given side of a v2a or a2v clip, handed to the network window by window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from model.networks.config import ClipSpec
from model.request import RequestError
from model.sampling.guidance import Condition
from model.sampling.randomness import RandomStream

GIVEN = {"v2a": "video", "a2v": "audio"}
"""The modality that the user gives, by kind of job."""


@dataclass(frozen=True)
class Given:
    """Video (frames, 3, height, width), float in [-1, 1] or uint8, or audio (1, samples), float in [-1, 1], for a
    network that sees windows of `window`. `mirrored`: it sees mirrored frames."""

    modality: str
    value: Tensor
    window: ClipSpec
    mirrored: bool = False

    def clean(self, start: int) -> Tensor:
        """The window that starts at frame `start`, with a batch axis, float32. Beyond its end a video holds its last
        frame, and a sound is silent."""
        if self.modality == "audio":
            first = start * self._samples
            part = self.value[:, first : first + self.window.samples].float()
            return functional.pad(part, (0, self.window.samples - part.shape[1]))[None]
        part = self.value[start : start + self.window.frames]
        part = part.float() / 127.5 - 1 if part.dtype == torch.uint8 else part.float()
        missing = self.window.frames - len(part)
        part = torch.cat([part, part[-1:].expand(missing, -1, -1, -1)]) if missing else part
        return (part.flip(-1) if self.mirrored else part)[None]

    def condition(self, start: int, stream: RandomStream, noisy: bool) -> Condition:
        """The window that starts at frame `start`, with the noise of its frames if it is `noisy`, zeros otherwise."""
        clean = self.clean(start)
        if not noisy:
            return Condition(self.modality, clean, clean.new_zeros(()).expand_as(clean))
        shape = (3, *clean.shape[-2:]) if self.modality == "video" else (self._samples,)
        noise = stream.frame_noise(start, start + self.window.frames, shape, clean.device)
        return Condition(self.modality, clean, noise.reshape(clean.shape))

    @property
    def _samples(self) -> int:
        """Audio samples a frame."""
        return self.window.samples // self.window.frames


def check(value: Tensor | None, kind: str, clip: ClipSpec) -> Tensor:
    """`value` if it can condition a job of `kind` for all of `clip`. Sound may end within the last frame.

    Raises RequestError.
    """
    modality = GIVEN[kind]
    shape: tuple[int, ...] = clip.video_shape if modality == "video" else clip.audio_shape
    if value is not None:
        got = tuple(value.shape)
        missing = shape[-1] - got[-1] if modality == "audio" and got[:-1] == shape[:-1] else 0
        if got == shape or 0 < missing < clip.samples // clip.frames:
            return value
    raise RequestError(
        "condition", f"{kind} needs {modality} of shape {shape}; got {None if value is None else tuple(value.shape)}"
    )
