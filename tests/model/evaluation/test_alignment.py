"""Measures with known answers: matching clips, shuffled clips, and hand-counted events."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from model.evaluation.alignment import MAX_LAG, MEASURES, Detections, detect, lags
from model.evaluation.audio_features import Onsets
from model.evaluation.bootstrap import Score, scores
from model.networks.config import ClipSpec
from model.sampling.latents import Latents
from model.training.bounce import Bounce

SPEC = ClipSpec(height=16, width=16, sample_rate=8000)
BY_NAME = {measure.name: measure for measure in MEASURES}


@cache
def real() -> Detections:
    return detect(Bounce(SPEC, 21, "train").batch(torch.arange(96)), SPEC)


def value(name: str, found: Detections) -> float:
    measure = BY_NAME[name]
    return float(measure.value(measure.statistics(found).sum(0)))


def of(found: list[Score]) -> dict[str, Score]:
    return {score.measure: score for score in found}


def test_real_clips_score_one_and_shuffled_ones_zero() -> None:
    mine = of(scores(real(), real()))
    wrong = of(scores(real().shuffled(40), real()))
    for name, score in mine.items():
        assert score.normalised.value == pytest.approx(1), name
        assert score.floor.value < score.ceiling.value - 0.3, name
        assert wrong[name].normalised.value < 0.35, name
        assert score.value.low <= score.value.value <= score.value.high
    assert mine["onset_f1"].ceiling.value >= 0.97
    assert mine["pitch_x"].ceiling.value >= 0.95
    assert mine["hue_timbre"].ceiling.value >= 0.95
    assert abs(mine["pitch_x"].floor.value) < 0.15
    assert mine["hue_timbre"].floor.value == pytest.approx(0.25, abs=0.1)
    assert mine["hue_kept"].ceiling.value >= 0.97
    assert mine["hue_kept"].floor.value < 0.4


def test_intervals_have_the_theoretical_width_of_a_proportion() -> None:
    found = of(scores(real(), real()))["lag"].floor
    share, clips = found.value, 96
    # Eight shuffles of the same clips have the precision of between one and eight times as many clips.
    widest = 2 * 1.96 * (share * (1 - share) / clips) ** 0.5
    assert widest / 8**0.5 * 0.8 < found.high - found.low < widest * 1.1


def _detected(*times: float, frames: int = 16) -> Onsets:
    count = len(times)
    return Onsets(
        clips=1,
        clip=torch.zeros(count, dtype=torch.long),
        time=torch.tensor(times),
        pitch=torch.full((count,), 400.0),
        timbre=torch.zeros(count, dtype=torch.long),
        envelope=torch.zeros(1, frames),
    )


def _seen(*frames: int) -> Detections:
    found = real()
    flash = torch.zeros(1, SPEC.frames, dtype=torch.bool)
    flash[0, list(frames)] = True
    discs = type(found.discs)(
        **{name: getattr(found.discs, name)[:1] for name in ("place", "hue", "area", "motion")},
        flash=flash,
        turns=torch.zeros_like(flash),
    )
    return Detections(SPEC, _detected(), discs, torch.zeros(1, SPEC.frames))


@pytest.mark.parametrize(
    ("times", "frames", "expected"),
    [
        ((0.35,), (3,), 1.0),
        ((0.35,), (4,), 1.0),
        ((0.35,), (5,), 0.0),
        ((0.35, 0.45), (4,), 2 / 3),  # one flash matches one sound
        ((0.35, 0.45), (3, 5), 1.0),
        ((0.15, 0.25, 0.35), (2, 3, 4), 1.0),
        ((), (2,), 0.0),
    ],
)
def test_onset_f1_pairs_events_at_most_a_frame_apart(
    times: tuple[float, ...], frames: tuple[int, ...], expected: float
) -> None:
    found = replace(_seen(*frames), onsets=_detected(*times))
    assert value("onset_f1", found) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ((1, 0, 0, 0), (1, 0, 0, 0), 1.0),
        ((1, 0, 0, 0), (0, 1, 0, 0), 0.0),
        ((1, 1, 0, 0), (1, 0.3, 0, 0), 1.0),  # partly hidden by the other one
        ((1, 1, 0, 0), (1, 0, 1, 0), 0.0),
        ((1, 0, 0, 0), (1, 0.2, 0, 0), 1.0),  # an edge of mixed colour
        ((1, 0, 0, 0), (0, 0, 0, 0), 1.0),  # behind a flash
        ((0, 0, 0, 0), (0, 0, 0, 0), 0.0),
    ],
)
@pytest.mark.parametrize("change", [3, 8, 13])
def test_a_clip_keeps_its_hues_unless_most_of_the_colour_changes(
    first: tuple[float, ...], second: tuple[float, ...], kept: float, change: int
) -> None:
    found = _seen()
    area = torch.tensor([first] * change + [second] * (SPEC.frames - change)) * 0.1
    assert value("hue_kept", replace(found, discs=replace(found.discs, area=area[None]))) == kept


def test_a_new_hue_in_a_single_frame_is_not_a_change() -> None:
    found = _seen()
    area = torch.tensor([[0.1, 0, 0, 0]] * SPEC.frames)
    for frames, kept in ((1, 1.0), (2, 0.0)):
        area[:frames] = torch.tensor([0, 0.1, 0, 0])
        assert value("hue_kept", replace(found, discs=replace(found.discs, area=area[None]))) == kept


@pytest.mark.parametrize(
    ("times", "peaks", "expected"),
    [
        ((0.45, 0.65), (5,), 1.0),  # at most 1, not 2
        ((0.55,), (5,), 1.0),
        ((0.55,), (6,), 1.0),
        ((0.55,), (7,), 0.0),
        ((0.55, 1.25), (5, 9), 1 / 3),
        ((), (5,), 0.0),
    ],
)
def test_av_align_is_pairs_over_union(times: tuple[float, ...], peaks: tuple[int, ...], expected: float) -> None:
    flow = torch.zeros(1, SPEC.frames)
    flow[0, list(peaks)] = 1.0
    found = replace(_seen(), onsets=_detected(*times), flow=flow)
    assert value("av_align", found) == pytest.approx(expected)


@pytest.mark.parametrize("late", [-2, 3])
def test_the_best_lag_is_the_delay_of_the_sound(late: int) -> None:
    onsets = real().onsets
    moved = replace(real(), onsets=replace(onsets, envelope=onsets.envelope.roll(late, 1)))
    own, other = (lags(each).mean(0).argmax() - MAX_LAG for each in (real(), moved))
    assert int(other - own) == late
    assert int(own) in (0, 1)


def test_silent_dark_clips_score_zero() -> None:
    nothing = Latents(torch.full((4, *SPEC.video_shape), -1.0), torch.zeros(4, *SPEC.audio_shape))
    for score in scores(detect(nothing, SPEC), real()):
        assert score.value.value == score.value.value, "not NaN"
        if score.measure != "lag":  # without events every lag is equally good
            assert score.value.value == 0


def test_one_clip_is_too_few() -> None:
    one = detect(Bounce(SPEC, 0, "train").batch(torch.arange(1)), SPEC)
    with pytest.raises(ValueError, match="at least 2"):
        scores(one, real())
