"""The error of x̂_0 at each time: r_t² = E‖x_0 − x̂_0‖² per element, measured on validation clips; ΠGDM divides by it.

No textbook prior predicts a network's error: on the toy problem of docs/guidance.md the r² of unit-variance data loses
a quarter of the coupling, the measured one restores it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from model.checkpoint.loading import load_model
from model.checkpoint.manifest import FILE_NAME, Manifest, read_manifest
from model.media.decode import decode_audio, decode_video
from model.media.source import MediaError
from model.networks.config import MODALITIES
from model.runtime.evaluator import Evaluator
from model.sampling.latents import Latents, clip
from model.sampling.randomness import RandomStream
from model.sampling.samplers import Evaluate
from model.sampling.schedule import NoiseSchedule

VIDEO_SUFFIXES = (".avi", ".gif", ".mkv", ".mov", ".mp4", ".webm")

Report = Callable[[int, Path, str | None], None]
"""Called for each file with the number of clips used so far, its path, and why it was skipped (None if used)."""


def calibrate(
    evaluator: Evaluator, clips: Iterable[Latents], max_shifts: Sequence[int], points: int = 33, seed: int = 0
) -> dict[str, list[float]]:
    """Measure r_t² of both modalities at `points` times, evenly spaced in log-SNR, on clean `clips`.

    Both modalities are noised to the same time; x̂_0 is clipped to [-1, 1] as in sampling. Returns the `calibration` of
    a manifest: `times` ascending, and r_t² for `video` and `audio`. Raises ValueError if there is no clip.
    """
    schedule = evaluator.schedule
    times = sorted(schedule.grid(points - 1, "log_snr"))
    squares = {name: np.zeros(points) for name in MODALITIES}
    count = 0
    for count, x0 in enumerate(clips, start=1):
        stream = RandomStream(seed, count)
        for k, t in enumerate(times):
            x = schedule.add_noise(x0, t, stream.normal_like(x0))
            shifts = stream.shifts(max_shifts, x0.batch)
            (prediction,) = evaluator([Evaluate(x, t, t, shifts=shifts)])
            predicted = clip(schedule.to_x0(x, prediction.eps, t))
            for name in MODALITIES:
                squares[name][k] += float((x0[name] - predicted[name]).square().mean())
    if count == 0:
        raise ValueError("calibration needs at least one clip")
    # Below the precision of 16-bit audio an error is rounding; dividing by it would amplify the rounding.
    floor = torch.finfo(torch.float16).eps ** 2
    return {"times": times} | {name: list(np.maximum(squares[name] / count, floor)) for name in MODALITIES}


def calibrate_model(
    folder: Path, clips: Path, count: int, points: int, device: str, report: Report = lambda *_: None
) -> int:
    """Calibrate the model in `folder` on the first `count` videos under `clips` that decode, and write its manifest.

    Returns how many clips were used. Raises ManifestError, CheckpointError, and ValueError if there is no usable clip
    or the model has one modality only.
    """
    manifest = read_manifest(folder / FILE_NAME)
    if not manifest.config.base.coupled:
        raise ValueError(f"the model {manifest.name} has one modality only: there is nothing to calibrate")
    place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    base, _ = load_model(replace(manifest, config=replace(manifest.config, sr=None), sr_weights=None), place)
    evaluator = Evaluator(base, None, NoiseSchedule.from_config(manifest.config.schedule))
    used = 0

    def counted() -> Iterator[Latents]:
        nonlocal used
        for latents in itertools.islice(_clips(clips, manifest, place, report), count):
            used += 1
            yield latents

    curve = calibrate(evaluator, counted(), manifest.config.base.max_shifts(manifest.config.clip.frames), points)
    manifest.with_calibration(curve).write(folder)
    return used


def _clips(folder: Path, manifest: Manifest, device: torch.device, report: Report) -> Iterator[Latents]:
    """The start of each video under `folder`, as network input."""
    spec = manifest.config.clip
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES)
    for done, path in enumerate(paths, start=1):
        try:
            video, audio = decode_video(path, spec), decode_audio(path, spec)
        except MediaError as error:
            report(done, path, str(error))
            continue
        report(done, path, None)
        video = video.flip(-1) if manifest.mirrored else video
        yield Latents(video[None].to(device), audio[None].to(device))
