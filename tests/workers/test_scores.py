"""Scores of outputs, and which outputs are kept by them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from model.media.edits import Edit, Extend, Retake
from model.networks.config import ClipSpec
from model.runtime.edit import EditCondition
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


def _edited(frames: torch.Tensor, sound: torch.Tensor, edit: Edit, makes_video: bool = False) -> Scores:
    """The scores of an edit whose section is the whole of a clip."""
    new_video = torch.full((SPEC.frames, SPEC.height, SPEC.width), makes_video)
    scorer = Scorer("edit", SPEC, EditCondition(frames, sound, new_video, torch.ones(SPEC.samples)), edit)
    if makes_video:
        scorer.add(ClipPart(0, frames.movedim(1, -1), None))
    return scorer.finish(Clip(None, SPEC.fps, None, SPEC.sample_rate), sound)


@pytest.mark.parametrize("makes_video", [False, True])
def test_an_edit_is_scored_where_it_is_new(makes_video: bool, clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, sound = clips
    spans = Edit(retake=Retake(audio=((0.8, 1.6),)), length=1.6)
    quiet = sound.clone()
    quiet[..., :4000] = 0  # the first 0.5 s: what is kept there does not count
    whole = [score(frames[k], quiet[k], SPEC).sync for k in range(8)]
    parts = [_edited(frames[k], quiet[k], spans, makes_video) for k in range(8)]

    assert sum(each.sync or 0 for each in parts) > sum(each or 0 for each in whole) + 0.5
    other = [_edited(frames[k], quiet[(k + 3) % 8], spans, makes_video) for k in range(8)]
    for name in ("sync", "av_align"):
        mine, theirs = (sum(getattr(each, name) or 0.0 for each in of) for of in (parts, other))
        assert mine > theirs, name


def test_all_of_an_edit_counts_where_all_is_new(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, sound = clips[0][1], clips[1][1]
    everywhere = Edit(retake=Retake(audio=((0.0, 1.6),)), length=1.6)

    assert _edited(frames, sound, everywhere) == score(frames, sound, SPEC)


def test_a_section_that_begins_before_the_upload_is_scored_in_what_was_added(
    clips: tuple[torch.Tensor, torch.Tensor],
) -> None:
    frames, sound = clips[0][1], clips[1][1]
    before = Edit(extend=Extend(before=0.8), length=5.0, start=-0.8)
    same = Edit(retake=Retake(audio=((0.0, 0.8),)), length=5.0)

    assert _edited(frames, sound, before) == _edited(frames, sound, same)


def test_the_reason_is_given_for_what_cannot_be_said(clips: tuple[torch.Tensor, torch.Tensor]) -> None:
    frames, sound = clips
    still = frames[0, :1].expand(16, -1, -1, -1)
    one_onset = Edit(retake=Retake(audio=((0.0, 0.1),)), length=1.6)
    late = sound[0].clone()
    late[:, :4000] = 0

    assert score(frames[0], sound[0] * 0, SPEC).reason == "the sound is silent"
    assert score(frames[0, :4], sound[0], SPEC).reason == "fewer than 5 frames"
    assert "no flash and no reversal of a motion is seen" in str(score(still, sound[0], SPEC).reason)
    assert _edited(frames[0], late, one_onset).reason == "no onset of a sound is heard in what is new"
    assert _edited(frames[0], late, one_onset) == Scores()
    assert score(frames[0], sound[0], SPEC).reason is None


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
