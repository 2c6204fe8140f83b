"""The procedural data set: textbook physics, disjoint splits, and the pitches of docs/bounce.md."""

from __future__ import annotations

import pytest
import torch

from model.networks.config import PRESETS, ClipSpec
from model.training.bounce import Bounce, Split
from model.training.bounce.motion import GRAVITY
from model.training.bounce.scene import held_out
from model.training.bounce.sound import limited

SMALL = ClipSpec(height=16, width=16, sample_rate=8000)
LARGE = PRESETS["demo"].clip
MANY = torch.arange(512)


def test_a_sample_depends_only_on_its_index() -> None:
    data = Bounce(SMALL, seed=3, split="train")
    together = data.batch(torch.arange(40))
    apart = data.batch(torch.tensor([37, 5, 2**40, 5]))
    for mine, theirs in ((0, 37), (1, 5), (3, 5)):
        assert torch.equal(apart["video"][mine], together["video"][theirs])
        assert torch.allclose(apart["audio"][mine], together["audio"][theirs], atol=1e-6)
    assert not torch.equal(apart["video"][2], apart["video"][1])


def test_seeds_and_splits_give_different_clips() -> None:
    index = torch.arange(4)
    first = Bounce(SMALL, 0, "train").batch(index)
    for other in (Bounce(SMALL, 1, "train"), Bounce(SMALL, 0, "held_out")):
        assert (other.batch(index)["video"] - first["video"]).abs().flatten(1).amax(1).min() > 0.1


@pytest.mark.parametrize("clip", [SMALL, LARGE, PRESETS["tiny"].clip], ids=["16px", "32px", "tiny"])
def test_clips_have_the_format_of_the_networks(clip: ClipSpec) -> None:
    latents = Bounce(clip, 0, "train").batch(torch.arange(48))
    assert latents["video"].shape == (48, *clip.video_shape)
    assert latents["audio"].shape == (48, *clip.audio_shape)
    for value in (latents["video"], latents["audio"]):
        assert value.dtype == torch.float32
        assert value.abs().max() <= 1
    loudness = latents["audio"].square().mean((1, 2)).sqrt()
    assert loudness.min() > 0.05, "no clip is silent"
    if clip is not PRESETS["tiny"].clip:
        assert loudness.square().mean().sqrt() == pytest.approx(0.3, abs=0.02)


def test_impacts_match_a_numerical_simulation() -> None:
    scene = Bounce(SMALL, 7, "train").scene(torch.arange(64))
    motion, step = scene.motion, 1e-4
    position = torch.stack([motion.x(torch.zeros(1).double()), motion.y(torch.zeros(1).double())])[..., 0]
    rising = motion.floor_speed - GRAVITY * motion.fallen
    unfolded = motion.way < 1 - 2 * motion.radius
    velocity = torch.stack([torch.where(unfolded, motion.speed, -motion.speed), rising])
    met: list[list[float]] = [[] for _ in range(64)]
    for tick in range(round(SMALL.duration / step)):
        position = (
            position
            + velocity * step
            - torch.stack([torch.zeros_like(rising), torch.ones_like(rising)]) * (GRAVITY / 2 * step**2)
        )
        velocity[1] -= GRAVITY * step
        x, y = position
        wall = ((x < motion.radius) & (velocity[0] < 0)) | ((x > 1 - motion.radius) & (velocity[0] > 0))
        floor = (y < motion.radius) & (velocity[1] < 0)
        velocity[0] = torch.where(wall, -velocity[0], velocity[0])
        velocity[1] = torch.where(floor, -velocity[1], velocity[1])
        for sample, _ in ((wall | floor) & scene.present).nonzero().tolist():
            met[sample].append(tick * step)
    for sample in range(64):
        assert met[sample] == pytest.approx(scene.time[sample][scene.impact[sample]].tolist(), abs=0.01)


def test_clips_have_few_impacts_with_gaps_between_them() -> None:
    scene = Bounce(SMALL, 0, "train").scene(MANY)
    count = scene.impact.sum(1).double()
    assert 3 <= count.mean() <= 6
    assert count.min() >= 1
    gaps = scene.time.diff(dim=1)
    assert gaps[gaps.isfinite()].quantile(0.05) >= 0.09
    assert 0.2 < scene.present[:, 1].double().mean() < 0.4


def test_discs_stay_in_the_frame_and_flash_when_they_meet_a_wall() -> None:
    scene = Bounce(SMALL, 0, "train").scene(MANY)
    radius = scene.motion.radius[:, :, None, None]
    assert ((scene.position >= radius - 1e-9) & (scene.position <= 1 - radius + 1e-9)).all()
    sample, event = scene.impact.nonzero(as_tuple=True)
    assert scene.flash[sample, scene.disc[sample, event], scene.frame[sample, event]].all()
    assert scene.flash.sum() <= len(sample)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_held_out_combinations_are_held_out(split: Split) -> None:
    scene = Bounce(SMALL, 1, split).scene(torch.arange(4096))
    sample, event = scene.impact.nonzero(as_tuple=True)
    disc, x = scene.disc[sample, event], scene.x[sample, event]
    combination = held_out(scene.hue[sample, disc], x)
    at_floor = (x - scene.motion.radius[sample, disc]).abs().minimum(
        (1 - x - scene.motion.radius[sample, disc]).abs()
    ) > 1e-9
    if split == "train":
        assert not combination[at_floor].any()
    else:
        has = torch.zeros_like(scene.present).index_put_((sample[combination], disc[combination]), torch.tensor(True))
        assert has[scene.present].all()
    share = scene.hue[scene.present].bincount(minlength=4).double() / scene.present.sum()
    assert share.min() > 0.2
    both = scene.present[:, 1]
    assert (scene.hue[both, 0] != scene.hue[both, 1]).all()


def test_pitch_follows_x_from_200_to_1600_hertz() -> None:
    scene = Bounce(SMALL, 0, "train").scene(MANY)
    sample, event = scene.impact.nonzero(as_tuple=True)
    octaves = torch.log2(scene.pitch[sample, event] / 200)
    assert torch.allclose(octaves, 3 * scene.x[sample, event])


def test_the_sound_is_the_same_at_every_sample_rate() -> None:
    low, high = (Bounce(ClipSpec(height=16, width=16, sample_rate=rate), 0, "train") for rate in (8000, 16_000))
    index = torch.arange(32)
    assert torch.allclose(high.batch(index)["audio"][..., ::2], low.batch(index)["audio"], atol=1e-4)


def test_there_is_almost_no_energy_above_four_kilohertz() -> None:
    """Little aliases at 8 kHz: tones are lower, and the limiter adds little."""
    fine = Bounce(ClipSpec(height=16, width=16, sample_rate=32_000), 0, "train").batch(torch.arange(32))["audio"]
    power = torch.fft.rfft(fine * torch.hann_window(fine.shape[-1])).abs().square().sum((0, 1))
    share = power[power.shape[0] // 4 :].sum() / power.sum()
    print(f"share of the power above 4 kHz: {share:.2e}")
    assert share < 1e-3


def test_the_limiter_keeps_quiet_sound_and_stays_below_one() -> None:
    sound = torch.linspace(-5, 5, 10_001)
    bent = limited(sound)
    assert bent.abs().max() <= 1
    assert (bent.diff() >= 0).all()
    quiet = sound.abs() <= 0.7
    assert torch.equal(bent[quiet], sound[quiet])


def test_super_resolution_frames_show_the_same_scenes() -> None:
    data = Bounce(SMALL, 2, "train", factor=4)
    index = torch.arange(12)
    frames, video = data.frames(index), data.batch(index)["video"]
    assert frames.shape == (12, 3, 64, 64)
    small = torch.nn.functional.avg_pool2d(frames, 4)
    distance = (small[:, None] - video).abs().mean((2, 3, 4)).amin(1)
    assert distance.max() < 0.02


@pytest.mark.parametrize(("split", "factor"), [("test", 4), ("train", 0)])
def test_an_unknown_split_or_factor_is_refused(split: Split, factor: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        Bounce(SMALL, 0, split, factor)


@pytest.mark.gpu
def test_devices_agree() -> None:
    data, index = Bounce(SMALL, 0, "train"), torch.arange(64)
    here, there = data.batch(index, "cpu"), data.batch(index, "cuda")
    assert (here["video"] - there["video"].cpu()).abs().max() < 1e-3
    assert (here["audio"] - there["audio"].cpu()).abs().max() < 1e-2


def test_captions_name_the_discs_and_do_not_depend_on_the_batch() -> None:
    data, index = Bounce(SMALL, 3, "train"), torch.arange(40)
    captions, scene = data.captions(index), data.scene(index)
    for caption, two in zip(captions, scene.present[:, 1].tolist(), strict=True):
        assert (" and a " in caption) == two
        assert len(caption) <= 300
    assert data.captions(index[7:9]) == captions[7:9]
