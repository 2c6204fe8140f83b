"""Seam measures on clips whose borders are known: steady scenes, with and without a click, a jump or another hue."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch

from model.evaluation.alignment import paired
from model.evaluation.report import measured
from model.evaluation.seams import Drift, Measured, SeamScore, drift, near_borders, seam_scores
from model.networks.config import ClipSpec
from model.sampling.latents import Latents

SPEC = ClipSpec(frames=64, height=16, width=16, sample_rate=8000)
WINDOW = 16
BORDERS = [16, 32, 48]
CLIPS = 4
PER_FRAME = SPEC.samples // SPEC.frames


def steady() -> Latents:
    """A red disc before grey, with noise in every frame, and a hum with noise: nothing happens."""
    draws = torch.Generator().manual_seed(0)
    video = torch.full((CLIPS, *SPEC.video_shape), -0.4)
    video[..., 4:10, 4:10] = torch.tensor([0.6, -0.7, -0.7])[:, None, None]
    video += 0.05 * torch.randn(video.shape, generator=draws)
    time = torch.arange(SPEC.samples) / SPEC.sample_rate
    audio = 0.1 * torch.sin(2 * torch.pi * 120 * time).expand(CLIPS, 1, -1)
    return Latents(video, audio + 0.005 * torch.randn(CLIPS, *SPEC.audio_shape, generator=draws))


def with_clicks(clips: Latents) -> Latents:
    clips["audio"][..., [border * PER_FRAME for border in BORDERS]] += 0.5
    return clips


def with_jumps(clips: Latents) -> Latents:
    """The background gets lighter at every border."""
    for border in BORDERS:
        clips["video"][:, border:] += 0.2
    return clips


def with_other_hues(clips: Latents) -> Latents:
    clips["video"][:, 16:32] = clips["video"][:, 16:32].roll(1, 2)
    clips["video"][:, 48:] = clips["video"][:, 48:].roll(1, 2)
    return clips


@cache
def real() -> Measured:
    return measured(steady(), SPEC)


def scored(change: Callable[[Latents], Latents], given: str | None = None) -> dict[str, SeamScore]:
    made = measured(change(steady()), SPEC)
    return {score.measure: score for score in seam_scores(made, real(), [BORDERS] * CLIPS, given)}


def test_steady_clips_are_the_same_near_borders_and_elsewhere() -> None:
    found = scored(lambda clips: clips)
    for name in ("flux", "change", "jump"):
        assert found[name].ratio.value == pytest.approx(1, abs=0.05), name
        assert found[name].ratio.low <= found[name].ratio.value <= found[name].ratio.high
        assert found[name].real == found[name].ratio
    assert found["hue"].near.value == found["hue"].elsewhere.value == 0
    assert found["hue"].ratio.value == 1


@pytest.mark.parametrize(
    ("change", "measure"),
    [(with_clicks, "flux"), (with_jumps, "change"), (with_jumps, "jump"), (with_other_hues, "hue")],
)
def test_what_happens_at_borders_only_is_found(change: Callable[[Latents], Latents], measure: str) -> None:
    found = scored(change)[measure]
    assert found.near.low > 1.5 * found.elsewhere.high
    assert found.real.value == pytest.approx(1, abs=0.05)


def test_the_given_side_is_not_measured() -> None:
    assert set(scored(with_jumps, given="video")) == {"onset_f1", "flux"}
    assert set(scored(with_clicks, given="audio")) == {"onset_f1", "change", "jump", "hue"}


def _with_events(heard: list[int], seen: list[int]) -> Measured:
    """Clips with onsets and flashes in these frames, whatever the detectors find."""
    each = real()
    onsets, discs = each.found.onsets, each.found.discs
    rows = torch.arange(CLIPS).repeat_interleave(len(heard))
    time = torch.tensor([(frame + 0.5) / SPEC.fps for frame in heard]).repeat(CLIPS)
    onsets = replace(onsets, clip=rows, time=time, pitch=torch.ones_like(time), timbre=torch.zeros_like(rows))
    flash = torch.zeros(CLIPS, SPEC.frames, dtype=torch.bool)
    flash[:, seen] = True
    discs = replace(discs, flash=flash, turns=torch.zeros_like(flash))
    return replace(each, found=replace(each.found, onsets=onsets, discs=discs))


def test_onset_f1_near_borders_counts_the_events_there() -> None:
    """Of the events near borders, the sound at 17 and the flash at 33 have no partner; of the others, all have."""
    made = _with_events(heard=[5, 15, 17, 25, 40, 48], seen=[5, 16, 25, 33, 41, 47])
    found = seam_scores(made, made, [BORDERS] * CLIPS, None)[0]
    assert found.measure == "onset_f1"
    assert found.near.value == pytest.approx(4 / 6)
    assert found.elsewhere.value == 1
    heard, seen = paired(made.found)
    assert heard[0].nonzero()[:, 0].tolist() == [5, 15, 25, 40, 48]
    assert seen[0].nonzero()[:, 0].tolist() == [5, 16, 25, 41, 47]


def test_flux_is_measured_away_from_events() -> None:
    """A click beside a flash is an event, whatever the border."""
    clicks = with_clicks(steady())
    seen = replace(_with_events([], BORDERS), clips=clicks)
    ratio = {score.measure: score for score in seam_scores(seen, seen, [BORDERS] * CLIPS, None)}["flux"].ratio
    assert ratio.value == pytest.approx(1, abs=0.05)


def test_near_a_border_are_the_two_frames_on_both_sides() -> None:
    assert near_borders(12, [4, 5, 12]).nonzero()[:, 0].tolist() == [2, 3, 4, 5, 6, 10, 11]


def test_drift_is_the_change_from_window_to_window() -> None:
    def found(change: Callable[[Latents], Latents], given: str | None = None) -> dict[str, Drift]:
        return {each.measure: each for each in drift(measured(change(steady()), SPEC), real(), WINDOW, given)}

    def twice_as_loud(clips: Latents) -> Latents:
        sound = clips["audio"].clone()
        sound[..., 32 * PER_FRAME :] *= 2
        return clips.replace("audio", sound)

    still = found(lambda clips: clips)
    assert still["hue_kept"].value.value == 1
    assert still["loudness_drift"].value.value < 0.1
    assert found(with_other_hues)["hue_kept"].value.value == 0
    assert found(twice_as_loud)["loudness_drift"].value.value == pytest.approx(6.02 / 3, abs=0.05)
    assert set(found(twice_as_loud, given="video")) == {"loudness_drift"}
