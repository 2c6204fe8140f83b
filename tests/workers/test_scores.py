"""Scores of outputs, and which outputs are kept by them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from model.networks.config import ClipSpec
from model.runtime.pipeline import Clip, ClipPart
from model.training.bounce import Bounce
from service.jobs.record import Scores
from workers import scores
from workers.ranking import kept
from workers.scores import Scorer, score

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = ClipSpec(frames=16, fps=10, height=16, width=16, sample_rate=8000)


@pytest.fixture(scope="module")
def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Eight clips of `bounce`: frames uint8 (clips, frames, 3, height, width), and sound (clips, 1, samples)."""
    made = Bounce(SPEC, 5, "train").batch(torch.arange(8))
    assert made.video is not None
    assert made.audio is not None
    return ((made.video + 1) * 127.5).round().to(torch.uint8), made.audio


def test_the_own_sound_fits_a_picture_better_than_that_of_another(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, sound = clips
    own = [score(frames[k], sound[k], SPEC) for k in range(8)]
    others = [score(frames[k], sound[(k + 3) % 8], SPEC) for k in range(8)]

    for name in ("sync", "av_align"):
        mine, theirs = (sum(getattr(each, name) or 0.0 for each in of) / 8 for of in (own, others))
        assert mine > theirs + 0.1, name
    assert all(each.sync is not None and each.sync > 0.7 for each in own)
    assert sum(each.lag is not None and abs(each.lag) <= 0.1 for each in own) >= 7


def test_late_sound_has_its_lag(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, sound = clips
    late = [score(frames[k], torch.roll(sound[k], 1600, dims=1), SPEC).lag for k in range(8)]

    assert sorted(late)[4] == pytest.approx(0.2)


def test_silence_and_a_still_picture_have_no_scores(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, sound = clips

    assert score(frames[0], torch.zeros_like(sound[0]), SPEC) == Scores()
    assert score(frames[0], torch.full_like(sound[0], math.nan), SPEC) == Scores()
    assert score(frames[0, :1].expand(16, -1, -1, -1), sound[0], SPEC) == Scores()
    assert score(frames[0, :4], sound[0, :, :3200], SPEC) == Scores()


@pytest.mark.parametrize("kind", ["generate", "v2a", "a2v"])
def test_every_kind_scores_the_same_clip_alike(kind: str, clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, sound = clips[0][0], clips[1][0]
    parts, given = frames.movedim(1, -1), {"generate": None, "v2a": frames, "a2v": sound}[kind]
    scorer = Scorer(kind, SPEC, given)
    for start in (0, 10):
        scorer.add(ClipPart(start, None if kind == "v2a" else parts[start : start + 10], None))

    clip = Clip(None, SPEC.fps, None if kind == "a2v" else sound, SPEC.sample_rate)
    assert scorer.finish(clip) == score(frames, sound, SPEC)


def test_an_edit_has_no_scores(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    scorer = Scorer("edit", SPEC, None)
    scorer.add(ClipPart(0, clips[0][0].movedim(1, -1), None))

    assert scorer.finish(Clip(None, SPEC.fps, clips[1][0], SPEC.sample_rate)) == Scores()


def test_a_long_clip_is_scored_in_sections(
    clips: tuple[torch.Tensor, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, sound = clips
    monkeypatch.setattr(scores, "SECTION", 16)
    lengths: list[int] = []
    detect = scores._detect
    monkeypatch.setattr(scores, "_detect", lambda each, *rest: lengths.append(len(each)) or detect(each, *rest))
    long = score(frames.flatten(0, 1), sound.movedim(0, 1).flatten(1), replace(SPEC, frames=128))

    assert lengths == [16] * 8
    assert long.sync is not None
    assert long.sync > 0.7
    assert long.lag == pytest.approx(0.0, abs=0.1)


def test_the_best_come_first_and_what_cannot_be_said_last() -> None:
    found = {
        0: Scores(),
        1: Scores(sync=0.5, av_align=0.2, lag=-0.1),
        2: Scores(sync=0.9, av_align=0.1, lag=0.3),
        3: Scores(sync=0.5, av_align=0.4, lag=0.2),
    }

    assert kept(found, 4, None, None) == [0, 1, 2, 3]
    assert kept(found, 4, 4, "sync") == [2, 3, 1, 0]
    assert kept(found, 4, 2, "lag") == [1, 3]
    assert kept(found, 4, 1, "av_align") == [3]
