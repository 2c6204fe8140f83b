"""Contact sheets: the frames of several clips on one page, and the spectrograms of their sounds."""

from __future__ import annotations

import numpy as np
from PIL import Image

from model.media.spectrogram import PAGE, spectrogram
from model.networks.config import ClipSpec
from model.runtime.pipeline import to_uint8
from model.sampling.latents import Latents

FRAME = 64
"""Pixels: height to which smaller frames are enlarged, by a whole factor without interpolation."""

GAP = 4
COLUMNS = 2
SOUND = (800, 320, 16)
"""Pixels of a spectrogram: width, height, text height."""


def contact_sheet(clips: Latents) -> Image.Image:
    """One row for each clip, its frames from left to right."""
    video = clips["video"]
    count, frames, _, height, width = video.shape
    scale = max(1, FRAME // height)
    page = Image.new("RGB", (GAP + frames * (width * scale + GAP), GAP + count * (height * scale + GAP)), PAGE)
    for row in range(count):
        for column, frame in enumerate(to_uint8(video[row]).numpy(force=True)):
            picture = Image.fromarray(frame).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            page.paste(picture, (GAP + column * (width * scale + GAP), GAP + row * (height * scale + GAP)))
    return page


def spectrogram_sheet(clips: Latents, spec: ClipSpec) -> Image.Image:
    """Spectrograms of the clips in two columns, row by row."""
    audio = clips["audio"].cpu()
    width, height, em = SOUND
    page = Image.new("RGB", (COLUMNS * width, -(-len(audio) // COLUMNS) * height), PAGE)
    for number, sound in enumerate(audio):
        picture = spectrogram(sound, spec.sample_rate, width, height, em)[0].convert("RGB")
        page.paste(picture, (number % COLUMNS * width, number // COLUMNS * height))
    return page


def concatenated(clips: Latents) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated clips: frames (frames, height, width, 3) uint8, enlarged as on a sheet, and sound (1, samples)."""
    video, audio = clips["video"], clips["audio"]
    scale = max(1, 4 * FRAME // video.shape[-2])
    frames = to_uint8(video.flatten(0, 1)).numpy(force=True)
    return frames.repeat(scale, axis=1).repeat(scale, axis=2), audio[:, 0].reshape(1, -1).numpy(force=True)
