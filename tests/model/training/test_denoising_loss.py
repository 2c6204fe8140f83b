"""Times, noise and clean modalities of the denoising loss."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from model.networks.config import PRESETS, ScheduleConfig, UNetConfig
from model.networks.coupled_unet import CoupledUNet
from model.networks.pair import Pair
from model.sampling.latents import Latents
from model.sampling.schedule import NoiseSchedule
from model.training.configuration import TimesConfig
from model.training.denoising_loss import denoising_loss
from model.training.random_draws import draw_noise, draw_shifts, draw_times

CPU = torch.device("cpu")
SCHEDULE = NoiseSchedule.from_config(ScheduleConfig())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_time_mix_has_the_configured_fractions() -> None:
    count = 40_000
    mix = TimesConfig(independent_timesteps=True, shared_t=0.5, clean_video=0.2, clean_audio=0.1)
    times = draw_times(mix, SCHEDULE, count, generator())
    assert times.clean_video.float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert times.clean_audio.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert (times.video == times.audio).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert not (times.clean_video & times.clean_audio).any()
    assert (times.video[times.clean_video] == 0).all()
    assert (times.audio[times.clean_audio] == 0).all()
    # The partner of a clean modality may have any time.
    assert times.audio[times.clean_video].float().mean().item() == pytest.approx(499.5, abs=15)


def test_by_default_both_modalities_share_one_time() -> None:
    times = draw_times(TimesConfig(), SCHEDULE, 1000, generator())
    assert torch.equal(times.video, times.audio)
    assert not times.clean_video.any()
    assert (times.video.min().item(), times.video.max().item()) == (
        pytest.approx(0, abs=15),
        pytest.approx(999, abs=15),
    )


def test_log_snr_times_have_the_configured_mean_and_spread() -> None:
    mix = TimesConfig(density="log_snr", log_snr_mean=-1.0, log_snr_std=1.2)
    times = draw_times(mix, SCHEDULE, 20_000, generator())
    log_snr = torch.tensor([SCHEDULE.log_snr(t) for t in range(1000)])[times.video]
    assert log_snr.mean().item() == pytest.approx(-1.0, abs=0.05)
    assert log_snr.std().item() == pytest.approx(1.2, abs=0.05)
    # Draws beyond the schedule are clamped to its ends.
    wide = draw_times(TimesConfig(density="log_snr", log_snr_std=50.0), SCHEDULE, 1000, generator())
    assert (wide.video.min().item(), wide.video.max().item()) == (0, 999)


def test_shifts_cover_their_range_and_no_more() -> None:
    shifts = draw_shifts((0, 3, 15), 4000, generator())
    assert shifts.amin(0).tolist() == [0, 0, 0]
    assert shifts.amax(0).tolist() == [0, 3, 15]
    counts = shifts[:, 1].bincount().float() / 4000
    assert counts.tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_noise_of_some_rows_equals_those_of_the_whole_batch() -> None:
    blank = Latents(torch.empty(0, 2, 3, 4, 4), torch.empty(0, 1, 8))
    whole = draw_noise(blank, 6, slice(0, 6), generator())
    part = draw_noise(blank, 6, slice(2, 4), generator())
    assert torch.equal(part["video"], whole["video"][2:4])
    assert torch.equal(part["audio"], whole["audio"][2:4])


class Recorder:
    """A network that predicts zero and records its inputs."""

    def __call__(self, x: Pair, t: Pair, shifts: Tensor | None) -> Pair:
        (self.video, self.audio), self.t_video = x, t.video
        return x.map(torch.zeros_like)


def test_a_clean_modality_has_no_noise_and_no_loss() -> None:
    draw = generator(1)
    x0 = Latents(torch.rand(3, 2, 3, 4, 4, generator=draw), torch.rand(3, 1, 8, generator=draw))
    noise = x0.map(lambda value: torch.randn(value.shape, generator=draw))
    network = Recorder()
    t = torch.tensor([0, 0, 500])
    clean = (torch.tensor([True, False, False]), torch.tensor([False, False, True]))
    terms = denoising_loss(network, SCHEDULE, x0, t, t, noise, None, clean)
    assert torch.equal(network.video[0], x0["video"][0])  # exactly clean, without the small noise of t = 0
    assert not torch.equal(network.video[1], x0["video"][1])
    assert torch.equal(network.audio[2], x0["audio"][2])
    assert terms.video[0] == 0
    assert terms.audio[2] == 0
    assert terms.video[1].item() == pytest.approx(noise["video"][1].square().mean().item(), rel=1e-6)


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_single_modality_baselines_have_only_their_own_loss(modality: str) -> None:
    clip = PRESETS["tiny"].clip
    config = UNetConfig(channels=32, channel_mult=(1, 1), res_blocks=1, modalities=(modality,))
    network = CoupledUNet(config)
    blank = Latents(None, None).replace(
        modality, torch.zeros(2, *(clip.video_shape if modality == "video" else clip.audio_shape))
    )
    noise = draw_noise(blank, 2, slice(0, 2), generator())
    t = torch.tensor([3, 700])
    terms = denoising_loss(network, SCHEDULE, blank, t, t, noise)
    # A new network predicts zero, so the loss is the power of the noise.
    assert getattr(terms, modality).tolist() == pytest.approx(noise[modality].square().flatten(1).mean(1).tolist())
    assert getattr(terms, "audio" if modality == "video" else "video").tolist() == [0, 0]
