"""The data set `scenes`: determinism, known events, captions, held-out combinations, and mixing with `bounce`."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch.nn.functional import avg_pool2d

from model.networks.config import ClipSpec
from model.sampling.latents import Latents
from model.training.bounce import Bounce
from model.training.configuration import ConfigurationError, build_configuration
from model.training.mixture import Mixture
from model.training.scenes import Scenes, Split
from model.training.scenes.kinds import KINDS, NAMES
from model.training.sources import ReadAhead, open_sources

CPU = torch.device("cpu")
SMALL = ClipSpec(height=16, width=16, sample_rate=8000)
INDEX = torch.arange(32)


@cache
def small() -> Latents:
    return Scenes(SMALL, 0, "train").batch(INDEX)


def test_clips_have_the_requested_format_and_fill_the_range() -> None:
    clips = small()
    assert clips["video"].shape == (32, 16, 3, 16, 16)
    assert clips["audio"].shape == (32, 1, 12_800)
    for value in clips.present:
        assert value.dtype == torch.float32
        assert value.isfinite().all()
        assert value.abs().max() <= 1


def test_a_sample_does_not_depend_on_its_batch() -> None:
    data, clips = Scenes(SMALL, 0, "train"), small()
    some = torch.tensor([13, 2, 30])
    again = data.batch(some)
    assert torch.allclose(again["video"], clips["video"][some], atol=1e-4)
    assert torch.allclose(again["audio"], clips["audio"][some], atol=1e-4)
    assert data.captions(some) == [data.captions(INDEX)[place] for place in some.tolist()]
    other = Scenes(SMALL, 1, "train").batch(some)
    assert (other["video"] - again["video"]).abs().mean() > 0.01


def test_every_frame_moves_and_every_kind_is_about_as_loud() -> None:
    clips = small()
    change = clips["video"].diff(dim=1).abs().mean((2, 3, 4))
    assert change.min() > 5e-4
    rms = clips["audio"].square().mean((1, 2)).sqrt().view(-1, len(KINDS))
    assert ((rms > 0.1) & (rms < 0.3)).all()


def test_the_kinds_have_different_spectra() -> None:
    power = torch.fft.rfft(small()["audio"][:, 0]).abs().square()
    hertz = torch.fft.rfftfreq(SMALL.samples, 1 / SMALL.sample_rate)
    centroid = ((power * hertz).sum(1) / power.sum(1)).view(-1, len(KINDS)).median(0).values
    by_name = dict(zip(NAMES, centroid.tolist(), strict=True))
    assert by_name["rain"] > 2 * by_name["thunder"]
    assert by_name["waterfall"] > 2 * by_name["explosion"]


def test_the_same_scene_looks_the_same_at_another_size() -> None:
    large = Scenes(ClipSpec(height=64, width=64, sample_rate=8000), 0, "train").batch(INDEX[:16])["video"]
    shrunk = avg_pool2d(large.flatten(0, 1), 4).view(16, 16, 3, 16, 16)
    distance = (shrunk - small()["video"][:16]).abs().mean((1, 2, 3, 4))
    assert distance.max() < 0.06


def test_super_resolution_frames_are_frames_of_the_clips() -> None:
    data = Scenes(SMALL, 0, "train", factor=2)
    frames = data.frames(INDEX[:16])
    assert frames.shape == (16, 3, 32, 32)
    same = (avg_pool2d(frames, 2)[:, None] - small()["video"][:16]).abs().mean((2, 3, 4)).amin(1)
    assert same.max() < 0.06


def test_flashes_are_seen_and_blasts_are_heard_when_the_truth_says() -> None:
    for kind in ("thunder", "explosion"):
        data = Scenes(SMALL, 3, "train", kind=kind)
        clips, truth = data.batch(INDEX[:12]), data.truth(INDEX[:12])
        brightest = clips["video"].diff(dim=1).clamp(min=0).square().mean((2, 3, 4)).argmax(1) + 1
        assert torch.equal(brightest, (truth.seen[:, 0] * SMALL.fps).long())
        level = clips["audio"][:, 0].unflatten(1, (-1, 400)).square().mean(-1)
        for row, heard in enumerate(truth.heard[:, 0].tolist()):
            if heard < SMALL.duration - 0.2:
                after = int(heard * SMALL.sample_rate / 400) + 1
                assert level[row, after : after + 3].mean() > 2 * level[row, after - 4 : after - 1].mean()


def test_far_thunder_is_late() -> None:
    truth = Scenes(SMALL, 0, "train", kind="thunder").truth(torch.arange(64))
    delay, far = (truth.heard - truth.seen)[:, 0], truth.attributes[:, 0] == 1
    assert delay[~far].max() < 0.1
    assert delay[far].min() >= 0.5


def test_held_out_combinations_are_drawn_by_one_split_only() -> None:
    index = torch.arange(800)
    train, held = (Scenes(SMALL, 0, split).truth(index) for split in ("train", "held_out"))
    for number, kind in enumerate(KINDS):
        values = {tuple(row[: len(kind.attributes)]) for row in train.attributes[number :: len(KINDS)].tolist()}
        assert values == set(kind.combinations("train"))
        assert kind.held_out not in values
        assert (held.attributes[number :: len(KINDS), : len(kind.held_out)] == torch.tensor(kind.held_out)).all()


def test_captions_describe_the_scene() -> None:
    data, index = Scenes(SMALL, 5, "train"), torch.arange(400)
    captions, truth = data.captions(index), data.truth(index)
    assert all(len(caption) <= 300 and "  " not in caption and "{" not in caption for caption in captions)
    assert len(set(captions)) > 150
    for caption, kind, values in zip(captions, truth.kind.tolist(), truth.attributes.tolist(), strict=True):
        for attribute, value in zip(KINDS[kind].attributes, values, strict=False):
            if attribute.name == "time" and any(word in caption for word in ("night", "dark")):
                assert value == 1
    complete = data.captions(index[:8], complete=True)
    assert "thunder" in complete[2]
    assert any(word in complete[2] for word in ("close by", "far away"))
    assert not any(caption.startswith("a explosion") for caption in captions)


@pytest.mark.parametrize(("split", "factor", "kind"), [("test", 4, None), ("train", 0, None), ("train", 4, "snow")])
def test_an_unknown_split_factor_or_kind_is_refused(split: Split, factor: int, kind: str | None) -> None:
    with pytest.raises(ValueError, match="must be"):
        Scenes(SMALL, 0, split, factor, kind)


def test_a_mixture_spreads_its_share_evenly() -> None:
    scenes, bounce = Scenes(SMALL, 0, "train"), Bounce(SMALL, 0, "train")
    mixture, index = Mixture(scenes, bounce, 0.3), torch.arange(20)
    captions = mixture.captions(index)
    discs = [number for number, caption in enumerate(captions) if "disc" in caption or "ball" in caption]
    assert len(discs) == 6
    assert max(b - a for a, b in pairwise(discs)) <= 4
    assert [captions[number] for number in discs] == bounce.captions(torch.arange(6))
    rest = [caption for number, caption in enumerate(captions) if number not in discs]
    assert rest == scenes.captions(torch.arange(14))
    some = torch.tensor([discs[1], 1, discs[0]])
    clips = mixture.batch(some, CPU)
    assert torch.allclose(clips["audio"][2], bounce.batch(torch.tensor([0]))["audio"][0], atol=1e-4)
    assert mixture.frames(some, CPU).shape == (3, 3, 64, 64)


def test_batches_rendered_together_are_those_rendered_alone() -> None:
    data = Scenes(SMALL, 0, "train")
    order = list(torch.arange(8).split(2))
    with ReadAhead(data, iter(order), CPU, render_ahead=150_000) as ahead:
        for part in order:
            clips = ahead.batch(part, CPU)
            assert torch.allclose(clips["video"], small()["video"][part], atol=1e-4)
            assert ahead.captions(part) == data.captions(part)


def test_a_configuration_opens_the_mixture(tmp_path) -> None:  # type: ignore[no-untyped-def]
    data = {"source": "scenes", "bounce_share": 0.25}
    source, _ = open_sources(build_configuration({"preset": "pocket", "data": data}), tmp_path, print)
    assert isinstance(source, Mixture)
    assert source.share == 0.25
    with pytest.raises(ConfigurationError, match="bounce_share"):
        build_configuration({"data": {"bounce_share": 0.5}})


@pytest.mark.gpu
def test_devices_agree() -> None:
    there = Scenes(SMALL, 0, "train").batch(INDEX, "cuda")
    assert (small()["video"] - there["video"].cpu()).abs().mean() < 1e-3
    assert (small()["audio"] - there["audio"].cpu()).abs().mean() < 1e-3
