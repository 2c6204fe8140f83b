"""The measurements of the mark in the signal, with the smallest sizes."""

from __future__ import annotations

import pytest

from benchmarks.signal_mark import (
    LEVELS,
    PICTURE_ATTACKS,
    SOUND_ATTACKS,
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
