"""ComfyUI's IMAGE, AUDIO, VIDEO and MASK as files for Duet, and Duet's files as ComfyUI's types.

IMAGE is a float tensor (frames, height, width, 3) in [0, 1]; MASK (masks, height, width) in [0, 1]. AUDIO is a dict of
`waveform`, a float tensor (batch, channels, samples) in [-1, 1], and `sample_rate` in hertz. VIDEO is a `VideoInput` of
comfy_api.
"""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from comfy_api.input_impl import VideoFromComponents, VideoFromFile
from comfy_api.util import VideoComponents
from PIL import Image

LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}
"""Layouts of sound by number of channels."""


def video_file(video: Any, folder: Path) -> Path:
    """The file of a VIDEO. A file that is not trimmed or edited is sent as it is; otherwise ComfyUI encodes it into
    `folder`."""
    if not _is_changed(video):
        source = video.get_stream_source() if hasattr(video, "get_stream_source") else None
        if isinstance(source, str):
            return Path(source)
        if isinstance(source, io.BytesIO):
            path = folder / "video"
            path.write_bytes(source.getvalue())
            return path
    path = folder / "video.mp4"
    video.save_to(str(path))
    return path


def _is_changed(video: Any) -> bool:
    """Whether the stream source differs from the video. Older versions of ComfyUI could not trim or edit."""
    trimmed = hasattr(video, "get_active_trim_window") and video.get_active_trim_window() != (0, 0)
    return trimmed or (hasattr(video, "has_pending_frame_edits") and video.has_pending_frame_edits())


def frames_file(images: torch.Tensor, frame_rate: float, audio: dict[str, Any] | None, folder: Path) -> Path:
    """A video of IMAGE frames, encoded by ComfyUI."""
    rate = Fraction(frame_rate).limit_denominator(1001)
    components = VideoComponents(images=images, audio=audio, frame_rate=rate)
    return video_file(VideoFromComponents(components), folder)


def sound_file(audio: dict[str, Any], folder: Path) -> Path:
    """A WAV of an AUDIO, as 32-bit floats without rounding or clipping. Raises ValueError for several sounds."""
    waveform: torch.Tensor = audio["waveform"]
    if waveform.ndim != 3 or waveform.shape[0] != 1:
        raise ValueError(f"audio: got a batch of {waveform.shape[0]} sounds, allowed: one")
    samples = waveform[0].detach().cpu().float().numpy()
    layout = LAYOUTS.get(samples.shape[0])
    if layout is None:
        raise ValueError(f"audio: got {samples.shape[0]} channels, allowed: {', '.join(map(str, LAYOUTS))}")
    path = folder / "sound.wav"
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_f32le", rate=int(audio["sample_rate"]), layout=layout)
        packed = np.ascontiguousarray(samples.T).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
        frame.sample_rate = int(audio["sample_rate"])
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def mask_file(mask: torch.Tensor, folder: Path) -> Path:
    """A PNG of the first MASK, white where it is 1."""
    first = mask if mask.ndim == 2 else mask[0]
    path = folder / "mask.png"
    Image.fromarray((first.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(path)
    return path


def read_video(path: Path) -> Any:
    """The file as VIDEO."""
    return VideoFromFile(str(path))


def read_frames(path: Path) -> torch.Tensor:
    """All frames of the file as IMAGE, decoded by ComfyUI."""
    images: torch.Tensor = read_video(path).get_components().images
    return images


def read_sound(path: Path) -> dict[str, Any]:
    """The sound of the file as AUDIO."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        planar = av.AudioResampler(format="fltp")
        parts = [part.to_ndarray() for frame in container.decode(stream) for part in planar.resample(frame)]
        rate = stream.rate
    return {"waveform": torch.from_numpy(np.concatenate(parts, axis=1))[None], "sample_rate": rate}
