"""The coupling gap of coupled networks and of an uncoupled one."""

from __future__ import annotations

import torch
from torch import Tensor

from model.networks.config import ScheduleConfig
from model.networks.pair import Pair
from model.sampling.latents import Latents
from model.sampling.schedule import NoiseSchedule
from model.training.coupling import coupling_gap

SCHEDULE = NoiseSchedule.from_config(ScheduleConfig())


def clips(count: int = 32) -> Latents:
    """Video and audio are constant with the same value."""
    value = torch.randn(count, generator=torch.Generator().manual_seed(0))
    return Latents(value.view(-1, 1, 1, 1, 1).expand(-1, 2, 3, 2, 2), value.view(-1, 1, 1).expand(-1, 1, 8))


def alpha_sigma(t: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    alpha_bar = torch.as_tensor(SCHEDULE.alpha_bar)[t].float().view(-1, *[1] * (dims - 1))
    return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()


def listens(x: Pair, t: Pair, shifts: Tensor) -> Pair:
    """Predicts the clip's value from the other modality."""
    (video, audio), (t_video, t_audio) = x, t
    heard, seen = audio.mean((1, 2)) / alpha_sigma(t_audio, 1)[0], video.mean((1, 2, 3, 4)) / alpha_sigma(t_video, 1)[0]
    (a_v, s_v), (a_a, s_a) = alpha_sigma(t_video, 5), alpha_sigma(t_audio, 3)
    return Pair((video - a_v * heard.view(-1, 1, 1, 1, 1)) / s_v, (audio - a_a * seen.view(-1, 1, 1)) / s_a)


def deaf(x: Pair, t: Pair, shifts: Tensor) -> Pair:
    return x.map(lambda value: 0.5 * value)


def test_a_coupled_network_has_a_positive_gap() -> None:
    gaps = coupling_gap(listens, SCHEDULE, clips(), (1, 2), independent=True)
    for name in ("video", "audio", "clean_video", "clean_audio"):
        assert gaps[name] > 0.1, name


def test_an_uncoupled_network_has_no_gap() -> None:
    gaps = coupling_gap(deaf, SCHEDULE, clips(), (1, 2), independent=True)
    assert {name: value for name, value in gaps.items() if not name.startswith("loss") and value != 0} == {}
    assert gaps["loss_video"] > 0
