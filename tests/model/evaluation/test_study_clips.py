"""Clips of studies: equally loud as measured in the files that raters get, and without traces of their origin."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from model.evaluation.study_clips import (
    CHECK_RATE,
    LOWEST_TARGET,
    TARGET,
    Loudness,
    common_target,
    measure,
    write_check,
    write_study_clip,
)
from model.media.encode import write_clip
from model.media.opening import MediaError
from model.media.source import read_sound

SECONDS = 1.6


def a_clip(path: Path, level: float, channels: int = 1, rate: int = 16_000, clicks: bool = False) -> Path:
    """A clip with a tone of this amplitude, or with two clicks."""
    time = np.arange(round(SECONDS * rate)) / rate
    sound = level * np.sin(2 * np.pi * 500 * time)
    if clicks:
        sound = np.where(time % 0.8 < 0.002, sound, 0)
    frames = np.random.default_rng(0).integers(0, 255, (16, 32, 32, 3), np.uint8)
    write_clip(path, frames, 10, np.stack([sound] * channels), rate, "made by demo, seed 7")
    return path


def test_clips_are_equally_loud(tmp_path: Path) -> None:
    """A quiet mono one at 16 kHz, a loud stereo one at 44.1 kHz."""
    sources = [a_clip(tmp_path / "quiet.mp4", 0.01), a_clip(tmp_path / "loud.mp4", 0.5, 2, 44_100)]
    measured = [measure(path) for path in sources]
    assert measured[1].lufs - measured[0].lufs == pytest.approx(20 * math.log10(50), abs=1)
    target = common_target(measured)
    assert target == TARGET
    for number, (source, loudness) in enumerate(zip(sources, measured, strict=True)):
        path = tmp_path / f"{number}.mp4"
        write_study_clip(source, loudness, target, path)
        assert measure(path).lufs == pytest.approx(target, abs=0.2)


def test_a_clip_with_high_peaks_makes_all_quieter_instead_of_clipping(tmp_path: Path) -> None:
    measured = [measure(a_clip(tmp_path / "clicks.mp4", 0.9, clicks=True)), measure(a_clip(tmp_path / "tone.mp4", 0.5))]
    target = common_target(measured)
    assert LOWEST_TARGET < target < TARGET
    assert all(20 * math.log10(each.gain(target)) + each.peak <= -0.99 for each in measured)


def test_silence_stays_and_a_single_click_does_not_silence_the_others() -> None:
    silent = Loudness(-math.inf, -math.inf, Fraction(2))
    assert silent.gain(TARGET) == 1
    assert common_target([silent]) == TARGET
    click = Loudness(-60.0, 0.0, Fraction(2))
    assert common_target([silent, click]) == LOWEST_TARGET
    assert click.gain(LOWEST_TARGET) < 1


def test_a_clip_of_a_study_does_not_say_where_it_is_from(tmp_path: Path) -> None:
    source = a_clip(tmp_path / "ours-17.mp4", 0.3)
    path = tmp_path / "5f0c.mp4"
    write_study_clip(source, measure(source), TARGET, path)
    data = path.read_bytes()
    assert b"seed 7" in source.read_bytes()
    assert b"seed 7" not in data
    assert b"ours" not in data
    with av.open(path) as made, av.open(source) as own:
        assert made.streams.video[0].frames == own.streams.video[0].frames
        assert not made.metadata.get("comment")


@pytest.mark.parametrize("tones", [1, 5])
def test_a_check_has_the_tones_it_asks_for(tmp_path: Path, tones: int) -> None:
    path = tmp_path / "check.mp4"
    write_check(2, 5, True, tones, TARGET, path)
    sound = read_sound(path, Fraction(0), Fraction(6)).to_float()[0]
    loud = np.convolve(np.abs(sound), np.ones(441) / 441, "same") > 0.05 * np.abs(sound).max()
    assert int(np.diff(loud.astype(int), prepend=0).clip(0).sum()) == tones
    assert measure(path).lufs == pytest.approx(TARGET, abs=0.3)
    assert len(sound) == pytest.approx(6 * CHECK_RATE, abs=2000)


def test_what_cannot_be_judged_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path / "short.mp4", np.zeros((3, 16, 16, 3), np.uint8), 10, np.zeros((1, 4800)), 16_000, "")
    with pytest.raises(MediaError, match=r"lasts 0\.30 s"):
        measure(tmp_path / "short.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(MediaError):
        measure(tmp_path / "text.mp4")
