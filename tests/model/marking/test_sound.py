"""The mark in sound: how quiet it is, what it survives, and that it is found nowhere else."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from scipy.signal import resample_poly

from model.marking.masking import MaskingModel
from model.marking.significance import Finding
from model.marking.sound import RATE, SoundDetector, SoundMark, marked_sound

KEY = "a key of the tests"


def noise(sample_rate: int, seconds: float = 1.6) -> np.ndarray:
    """Pink noise, (1, samples)."""
    count = round(seconds * sample_rate)
    spectrum = np.fft.rfft(np.random.default_rng(2).standard_normal(count))
    pink = np.fft.irfft(spectrum / np.sqrt(1 + np.arange(len(spectrum))), count)
    return (0.3 * pink / np.abs(pink).max()).astype(np.float32)[None]


def detected(audio: np.ndarray, sample_rate: int, key: str = KEY) -> Finding:
    detector = SoundDetector(key)
    mono = resample_poly(audio[0], RATE, sample_rate) if sample_rate != RATE else audio[0]
    for first in range(0, len(mono), 5000):
        detector.add(mono[first : first + 5000])
    return detector.finish()


@pytest.mark.parametrize("sample_rate", [8000, 11_025, 16_000, 44_100])
def test_the_mark_is_quiet_and_only_the_right_key_finds_it(sample_rate: int) -> None:
    sound = noise(sample_rate)
    marked = marked_sound(sound, sample_rate, KEY)
    assert marked.shape == sound.shape
    assert 10 * np.log10(np.square(sound).sum() / np.square(marked - sound).sum()) > 12
    assert detected(marked, sample_rate).chance < 1e-12
    assert not detected(marked, sample_rate, "another key").found
    assert not detected(sound, sample_rate).found


def test_pieces_of_any_length_give_the_same_sound() -> None:
    sound = noise(16_000)
    mark, whole = SoundMark(KEY, 16_000), marked_sound(sound, 16_000, KEY)
    borders = [0, 1, 300, 2000, 2001, 9000, sound.shape[1]]
    pieces = [mark.add(sound[:, a:b]) for a, b in pairwise(borders)]
    assert np.array_equal(np.concatenate([*pieces, mark.finish()], axis=1), whole)


def test_a_long_sound_is_marked_in_little_memory() -> None:
    """The mark of a whole sound is that of one piece, and made a second at a time."""
    sound = noise(8000, 20.0)
    mark = SoundMark(KEY, 8000)
    tracemalloc.start()
    whole = marked_sound(sound, 8000, KEY)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 12 * sound.nbytes
    assert np.array_equal(whole, np.concatenate([mark.add(sound), mark.finish()], axis=1))


def test_a_cut_in_time_noise_and_8_khz_leave_the_mark() -> None:
    marked = marked_sound(noise(16_000), 16_000, KEY)
    hiss = np.random.default_rng(3).standard_normal(marked.shape) * np.sqrt(np.square(marked).mean() / 1000)
    assert detected(marked[:, 4321:], 16_000).found
    assert detected(marked + hiss, 16_000).found
    assert detected(resample_poly(marked, 1, 2, axis=1), 8000).found


def test_silence_stays_silent_and_nothing_sounds_before_an_onset() -> None:
    sound = noise(16_000)
    sound[:, :8000] = 0
    marked = marked_sound(sound, 16_000, KEY)
    assert not marked[:, :7490].any()  # a frame before
    before = np.square(marked[:, 7490:8000]).mean()
    assert before < 1e-4 * np.square(sound[:, 8000:]).mean()
    assert not marked_sound(np.zeros((1, 8000), np.float32), 16_000, KEY).any()
    assert detected(np.zeros((1, 8000), np.float32), 8000).score == 0


def test_a_part_of_a_long_sound_is_found_at_its_time() -> None:
    sound = noise(8000, 20.0)
    sound[:, 40_000:56_000] = marked_sound(sound[:, 40_000:56_000], 8000, KEY)
    found = detected(sound, 8000)
    assert found.found
    assert (found.start, found.end) == (5.0, 7.0)


def test_a_tone_hides_less_than_noise() -> None:
    hertz = np.fft.rfftfreq(512, 1 / 16_000)
    model = MaskingModel(hertz)
    noisy = np.ones((1, len(hertz)))
    tone = np.full((1, len(hertz)), 1e-9)
    tone[0, 32] = 1.0
    assert 10 * np.log10(model.threshold(noisy)[0, 32]) == pytest.approx(-5.5, abs=0.1)
    assert 10 * np.log10(model.threshold(tone)[0, 32]) < -20
    assert model.threshold(tone)[0, 60] < model.threshold(tone)[0, 34]


def test_nothing_is_found_without_samples() -> None:
    with pytest.raises(ValueError, match="no sound"):
        SoundDetector(KEY).finish()
