"""The measurements of the mark in the signal, with the smallest sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.signal_mark import (
    LEVELS,
    PICTURE_ATTACKS,
    SOUND_ATTACKS,
    _mixed,
    attacked,
    null_pictures,
    null_sounds,
    rendered,
)
from model.training.bounce import Bounce

pytestmark = pytest.mark.usefixtures("one_thread")


def test_clips_without_a_mark_are_scored() -> None:
    for measured in (null_pictures(2, None), null_sounds(4, None)):
        assert measured["found"] == 0
        assert measured["greatest_score"] < measured["threshold"]
        assert list(measured["measured_at_level"]) == [f"{level:g}" for level in LEVELS]
        assert measured["score_at_level"] == {}, "too few clips for any level"


def test_a_run_that_was_stopped_goes_on(tmp_path: Path) -> None:
    stopped = null_sounds(12, None, tmp_path, until=0.0)
    assert stopped["clips"] == 1
    assert stopped["note"] == "no real clips; stopped before 12 clips"
    (path,) = tmp_path.iterdir()
    first = path.read_text()
    path.write_text(first + '{"found": fal')
    whole = null_sounds(12, None, tmp_path)
    assert whole == null_sounds(12, None)
    assert list(whole["score_at_level"]) == ["0.1"]
    assert path.read_text().startswith(first)
    assert null_sounds(12, None, tmp_path, until=0.0) == whole


def test_windows_of_real_clips_are_spread_evenly() -> None:
    made = [np.zeros(1)] * 38
    clips = list(_mixed(iter(made), [np.ones(1)] * 2, 40))
    assert [number for number, clip in enumerate(clips) if clip.any()] == [19, 39]
    assert not any(clip.any() for clip in _mixed(iter([np.zeros(1)] * 40), [], 40))


def test_marked_clips_are_attacked_and_found() -> None:
    clip = next(rendered(Bounce, 64, 8000, 1))
    measured = attacked([clip])
    assert measured["clips"] == 1
    assert set(measured["detected"]) == {f"picture: {name}" for name in PICTURE_ATTACKS} | {
        f"sound: {name}" for name in SOUND_ATTACKS
    }
    assert measured["detected"]["picture: as written (CRF 12)"] == measured["detected"]["sound: AAC 64 kb/s"] == 1
    assert measured["detected"]["sound: 1 % faster"] == 0
    assert measured["psnr_least_db"] >= 42
    assert measured["noise_to_mask_median_db"] < 0
