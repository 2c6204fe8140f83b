"""The condition of an edit: a section of a clip, and what of it is made anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from model.networks.config import MODALITIES, ClipSpec
from model.request import RequestError, is_divisible
from model.sampling.latents import Latents
from model.sampling.masked_guidance import Known
from model.sampling.randomness import RandomStream


@dataclass(frozen=True)
class EditCondition:
    """A section of a clip as the network sees it, and two masks of what is new in it: 1 is made, 0 is kept.

    `frames` uint8 (frames, 3, height, width), of the model's rate and at its size; `sound` float (1, samples) in
    [-1, 1] at the model's rate, as long as the frames; `new_video` (frames, height, width); `new_audio` (samples,).
    Masks may have any type, and are new where they are not 0. What lies under a mask is not used. A section that is
    shorter than one window of the model is made as a whole window and cut.
    """

    frames: Tensor
    sound: Tensor
    new_video: Tensor
    new_audio: Tensor

    def length(self, clip: ClipSpec) -> ClipSpec:
        """The section's length, for a model of `clip`."""
        return replace(clip, frames=len(self.frames))

    @property
    def makes(self) -> tuple[str, ...]:
        """The modalities of which something is new, video first."""
        masks = {"video": self.new_video, "audio": self.new_audio}
        return tuple(name for name in MODALITIES if bool((masks[name] != 0).any()))

    def check(self, clip: ClipSpec, duration: float | None) -> None:
        """Raise RequestError unless a model of `clip` can make this edit; `duration`, if it is given, must be the
        section's."""
        length = self.length(clip)
        if length.frames != clip.frames and not is_divisible(clip):
            raise RequestError(
                "condition",
                f"{clip.sample_rate} audio samples a second cannot be divided among {clip.fps} frames, so the section "
                f"must have {clip.frames} frames; it has {length.frames}",
            )
        expected = {
            "frames": length.video_shape,
            "sound": length.audio_shape,
            "new_video": (length.frames, length.height, length.width),
            "new_audio": (length.samples,),
        }
        for name, shape in expected.items():
            if (got := tuple(getattr(self, name).shape)) != shape:
                raise RequestError("condition", f"{name} of an edit must have the shape {shape}; it has {got}")
        if self.frames.dtype != torch.uint8:
            raise RequestError("condition", f"frames of an edit must be uint8; they are {self.frames.dtype}")
        if duration is not None and round(duration * clip.fps) != length.frames:
            raise RequestError(
                "condition", f"the section of an edit lasts {length.duration:g} s, and the request {duration:g} s"
            )
        if not self.makes:
            raise RequestError("condition", "an edit must make something new; both masks are 0 everywhere")


class Section:
    """An edit's condition, handed to the network window by window.

    `window`: the network's clip. `mirrored`: it sees mirrored frames.
    """

    def __init__(self, condition: EditCondition, window: ClipSpec, device: torch.device, mirrored: bool) -> None:
        self.makes = condition.makes
        self._window = window
        self._mirrored = mirrored
        self._frames = condition.frames.to(device)
        self._sound = condition.sound.float().to(device)
        self._new_video = (condition.new_video != 0).to(device)
        self._new_audio = (condition.new_audio != 0).to(device)
        self._of_frames = self._new_video.flatten(1).any(1).tolist()

    def known(self, start: int, frames: int, stream: RandomStream | None) -> dict[str, Known]:
        """What is known of `frames` frames from `start` on, by modality, with a batch axis, and with noise from
        `stream`, which a frame has whatever window it is in; without `stream` it is zeros.

        Beyond the section's end a modality of which all is known is padded: a video holds its last frame, and a sound
        is silent. Of any other nothing is known there.
        """
        return {"video": self._known_video(start, frames, stream), "audio": self._known_audio(start, frames, stream)}

    def merge(self, made: Latents) -> Latents:
        """`made`, which may be longer than the section, with what is kept exactly as it was given."""
        frames = made.video.shape[1] if made.video is not None else made["audio"].shape[-1] // self._samples
        known = self.known(0, frames, None)
        return Latents(
            known["video"].merged(made.video) if made.video is not None else None,
            known["audio"].merged(made.audio) if made.audio is not None else None,
        )

    def keep_sound(self, made: Tensor) -> Tensor:
        """`made` (1, samples), with the given samples where they are kept, even beyond [-1, 1]."""
        return torch.where(self._new_audio.to(made.device), made, self._sound.to(made.device))

    def keep_frames(self, made: Tensor, group: range) -> Tensor:
        """`made`, uint8 (frames, height, width, 3) of the frames of `group`, with the given pixels where they are
        kept."""
        own = slice(group.start, group.stop)
        new = self._new_video[own, ..., None].to(made.device)
        return torch.where(new, made, self._frames[own].movedim(1, -1).to(made.device))

    def new_frames(self, group: Sequence[int]) -> list[int]:
        """The numbers of `group` whose frames have something new."""
        return [number for number in group if self._of_frames[number]]

    @property
    def _samples(self) -> int:
        """Audio samples a frame."""
        return self._window.samples // self._window.frames

    def _known_video(self, start: int, frames: int, stream: RandomStream | None) -> Known:
        own = slice(start, start + frames)
        clean = self._frames[own].float() / 127.5 - 1
        new = self._new_video[own, None]
        missing = frames - len(clean)
        if missing:
            clean = torch.cat([clean, clean[-1:].expand(missing, -1, -1, -1)])
            new = functional.pad(new, (0, 0, 0, 0, 0, 0, 0, missing), value="video" in self.makes)
        if self._mirrored:
            clean, new = clean.flip(-1), new.flip(-1)
        noise = self._noise("video", start, frames, clean, stream)
        return Known(clean[None], new[None], noise[None])

    def _known_audio(self, start: int, frames: int, stream: RandomStream | None) -> Known:
        first, last = start * self._samples, (start + frames) * self._samples
        clean, new = self._sound[:, first:last], self._new_audio[None, first:last]
        missing = frames * self._samples - clean.shape[1]
        clean = functional.pad(clean, (0, missing))
        new = functional.pad(new, (0, missing), value="audio" in self.makes)
        noise = self._noise("audio", start, frames, clean, stream)
        return Known(clean[None], new[None], noise[None])

    def _noise(self, name: str, start: int, frames: int, like: Tensor, stream: RandomStream | None) -> Tensor:
        if stream is None:
            return like.new_zeros(()).expand_as(like)
        shape = like.shape[1:] if name == "video" else (self._samples,)
        return stream.frame_noise(start, start + frames, shape, like.device, name).reshape(like.shape)
