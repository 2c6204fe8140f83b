"""The coupling gap: how much the loss rises when each modality is paired with the other one of another clip.

The gap of video is its loss with the sounds of the batch rotated by one clip, minus the loss with its own; the gap of
audio likewise. Noise, times and shifts are the same in both. A network that ignores the other modality has a gap of 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.networks.config import PredictionType
from model.sampling.latents import Latents
from model.sampling.schedule import NoiseSchedule
from model.training.denoising_loss import Predict, denoising_loss
from model.training.random_draws import draw_noise, draw_shifts, step_generator

BINS = 5
"""Number of time bins, which show at which noise levels the coupling acts."""


@torch.no_grad()
def coupling_gap(
    network: Predict,
    schedule: NoiseSchedule,
    clips: Latents,
    max_shifts: Sequence[int],
    independent: bool,
    prediction: PredictionType = "eps",
    seed: int = 0,
    chunk: int = 16,
) -> dict[str, float]:
    """`video` and `audio`, the gaps averaged over all times, and `video_0` … `audio_4` for times in fifths of the
    schedule, cleanest first; `loss_video` and `loss_audio`, the losses with the true pairs.

    Times are shared by both and evenly spread over `clips`. With `independent` there are also `clean_video` and
    `clean_audio`: the gap of a modality whose partner has no noise, as in conditioning.
    """
    count = clips.batch
    device = clips["video"].device
    draw = step_generator(seed, 0, device, "coupling")
    noise = draw_noise(clips, count, slice(0, count), draw)
    shifts = draw_shifts(max_shifts, count, draw)
    steps = len(schedule.betas)
    # Evenly spread, in an order independent of the order of the clips.
    order = torch.randperm(count, generator=draw, device=device)
    t = ((order.float() + 0.5) * steps / count).long()
    none, zero = torch.zeros(count, dtype=torch.bool, device=device), torch.zeros_like(t)

    def losses(x0: Latents, t_video: Tensor, t_audio: Tensor, clean: tuple[Tensor, Tensor]) -> Latents:
        video, audio = [], []
        for start in range(0, count, chunk):
            own = slice(start, start + chunk)
            terms = denoising_loss(
                network,
                schedule,
                x0.map(lambda value, own=own: value[own]),
                t_video[own],
                t_audio[own],
                noise.map(lambda value, own=own: value[own]),
                shifts[own],
                (clean[0][own], clean[1][own]),
                prediction,
            )
            video.append(terms.video)
            audio.append(terms.audio)
        return Latents(torch.cat(video), torch.cat(audio))

    def rotated(x: Latents, modality: str) -> Latents:
        return x.replace(modality, x[modality].roll(1, 0))

    result: dict[str, float] = {}
    true = losses(clips, t, t, (none, none))
    for name, other in (("video", "audio"), ("audio", "video")):
        wrong = losses(rotated(clips, other), t, t, (none, none))
        gaps = wrong[name] - true[name]
        result[name] = float(gaps.mean())
        result[f"loss_{name}"] = float(true[name].mean())
        bins = (t * BINS // steps).clamp(max=BINS - 1)
        result |= {f"{name}_{k}": float(gaps[bins == k].mean()) for k in range(BINS) if bool((bins == k).any())}
        if independent:
            times = (t, zero) if name == "video" else (zero, t)
            clean = (none, ~none) if name == "video" else (~none, none)
            own = losses(clips, *times, clean)
            wrong = losses(rotated(clips, other), *times, clean)
            result[f"clean_{other}"] = float((wrong[name] - own[name]).mean())
    return result
