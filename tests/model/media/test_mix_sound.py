"""Mixing the new sound with the upload's own: loudness and true peak as pyloudnorm and oversampling measure them."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from pyloudnorm import Meter
from scipy.signal import resample_poly

from model.media import spooled
from model.media.loudness import LoudnessMeter, channel_weights
from model.media.mix_levels import Mix
from model.media.mix_sound import middle, mix_sounds, put_resampled, to_format
from model.media.mux_mix import mux_mixed
from model.media.resampling import resample
from model.media.source import Sound, read_sound
from tests.clips import Film, Track, make

RATE = 48_000


def noise(seconds: float, channels: int = 1, level: float = 0.05, seed: int = 1, rate: int = RATE) -> np.ndarray:
    """(channels, samples) float32."""
    drawn = np.random.default_rng(seed).normal(size=(channels, round(seconds * rate)))
    return (level * drawn).astype(np.float32)


def sound(samples: np.ndarray, layout: str, format: str = "s16") -> Sound:
    return Sound(to_format(samples, format), RATE, layout, format)


def loudness(samples: np.ndarray, rate: int = RATE) -> float:
    """(channels, samples) → LUFS by pyloudnorm."""
    return float(Meter(rate).integrated_loudness(samples.T.astype(np.float64)))


def true_peak(samples: np.ndarray) -> float:
    """dBTP, at eight times the rate."""
    return float(20 * np.log10(np.abs(resample_poly(samples, 8, 1, axis=1)).max()))


@pytest.mark.parametrize(("layout", "channels"), [("mono", 1), ("stereo", 2), ("5.0", 5)])
@pytest.mark.parametrize("seconds", [0.7, 12.03])
def test_the_meter_measures_as_pyloudnorm(layout: str, channels: int, seconds: float) -> None:
    """In pieces of any size, of a sound with a loud and a quiet half that the relative gate leaves out."""
    given = noise(seconds, channels)
    given[:, given.shape[1] // 2 :] *= 0.05
    meter = LoudnessMeter(RATE, channel_weights(layout))
    for first in range(0, given.shape[1], 7919):
        meter.add(given[:, first : first + 7919])
    assert meter.integrated() == pytest.approx(loudness(given), abs=0.01)


def test_the_true_peak_lies_between_the_samples_and_ignores_how_the_sound_is_cut() -> None:
    """A tone of a quarter of the rate whose samples are all at 45°: its peak is 3 dB above them."""
    tone = np.sin(np.pi / 2 * np.arange(4000) + np.pi / 4)[None].astype(np.float32) * 0.5
    tone *= np.hanning(4000)
    for size in (4000, 777, 20, 5):
        meter = LoudnessMeter(RATE, np.ones(1))
        for first in range(0, 4000, size):
            meter.add(tone[:, first : first + size])
        assert meter.true_peak() == pytest.approx(-6.02, abs=0.1), size


def test_low_frequency_effects_do_not_count_and_surround_counts_more() -> None:
    weights = dict(zip(("FL", "FR", "FC", "LFE", "BL", "BR"), channel_weights("5.1"), strict=True))
    assert weights == {"FL": 1, "FR": 1, "FC": 1, "LFE": 0, "BL": 1.41, "BR": 1.41}
    assert channel_weights("7.1").tolist() == [1, 1, 1, 0, 1, 1, 1.41, 1.41]


@pytest.mark.parametrize("mode", ["under", "over"])
def test_one_sound_is_twelve_units_below_the_other_at_the_loudness_of_the_own(mode: str) -> None:
    own, new = noise(4, 2), noise(4, level=0.2, seed=2)
    made, alone, report = mix_sounds(sound(own, "stereo"), new, Mix(mode))  # type: ignore[arg-type]

    mixed = made.to_float()
    assert (made.layout, made.format, made.samples.dtype) == ("stereo", "s16", np.int16)
    assert loudness(mixed) == pytest.approx(loudness(own), abs=0.1)
    own_part = mixed - alone * 2**-0.5
    apart = loudness(own_part) - loudness(alone)
    assert apart == pytest.approx(12.0 if mode == "under" else -12.0, abs=0.1)
    # The own sound is scaled by one number throughout, and lies as it was.
    scale = 10 ** (report.own_gain / 20) if report.own_gain is not None else 0
    assert np.abs(own_part - scale * own).max() < 1.1 / 2**15


def test_gains_are_between_the_sounds_and_the_loudness_is_what_is_asked_for() -> None:
    own, new = noise(3, 2), noise(3, seed=2)
    made, _, report = mix_sounds(sound(own, "stereo"), new, Mix("gains", own=-6, new=-1.5, loudness=-27))
    assert loudness(made.to_float()) == pytest.approx(-27, abs=0.1)
    assert report.own_gain is not None
    assert report.new_gain - report.own_gain == pytest.approx(4.5)
    assert report.loudness == pytest.approx(-27, abs=0.1)
    assert report.lowered == 0


def test_the_true_peak_outranks_the_loudness() -> None:
    own, new = noise(3, 2), noise(3, seed=2)
    made, _, report = mix_sounds(sound(own, "stereo"), new, Mix("under", loudness=-8, true_peak=-3))
    assert true_peak(made.to_float()) == pytest.approx(-3, abs=0.2)
    assert true_peak(made.to_float()) < -2.9
    assert loudness(made.to_float()) == pytest.approx(-8 - report.lowered, abs=0.1)
    assert report.lowered > 1


@pytest.mark.parametrize(
    ("layout", "seats"),
    [
        ("mono", [1]),
        ("stereo", [0.7071, 0.7071]),
        ("5.1", [0, 0, 1, 0, 0, 0]),
        ("quad", [0.7071, 0.7071, 0, 0]),
        ("2.1", [0.7071, 0.7071, 0]),
        ("6 channels", [0, 0, 1, 0, 0, 0]),
        ("ambisonic 1", [1, 0, 0, 0]),
    ],
)
def test_the_new_sound_comes_from_the_middle(layout: str, seats: list[float]) -> None:
    assert middle(layout) == pytest.approx(seats, abs=1e-4)


def test_a_long_mix_is_kept_in_files_and_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a piece of the meter; the new sound comes at another rate, from a file, as a worker hands it over."""
    monkeypatch.setattr(spooled, "LARGE", 0)
    own, new = sound(noise(6.5, 2), "stereo"), noise(6.5, seed=2, rate=16_000)
    kept: list[tuple[Sound, np.ndarray]] = []
    for folder in (None, tmp_path):
        there = spooled.filled((1, len(own.samples)), "f4", 0, folder)
        put_resampled(there, 0, new, 16_000, RATE)
        made, alone, report = mix_sounds(own, there, Mix("under"), folder)
        kept.append((made, alone))
        assert report.loudness == pytest.approx(loudness(made.to_float()), abs=0.1)
    (first, alone), (second, also_alone) = kept
    assert np.array_equal(first.samples, second.samples)
    assert np.array_equal(alone, also_alone)
    assert isinstance(second.samples, np.memmap)
    assert isinstance(also_alone, np.memmap)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("at", [-3000, 0, 5000])
def test_a_resampled_sound_is_put_where_it_belongs(at: int) -> None:
    new, target = noise(0.5, rate=16_000), np.full((1, 20_000), 9.0, np.float32)
    put_resampled(target, at, new, 16_000, RATE)
    whole = resample(torch.from_numpy(new), 16_000, RATE).numpy()
    expected = np.full((1, 20_000), 9.0, np.float32)
    expected[:, max(0, at) : at + 24_000] = whole[:, max(0, -at) :][:, : 20_000 - max(0, at)]
    assert np.array_equal(target, expected)


def test_silence_on_either_side_stays_silence() -> None:
    own, new = noise(1, 2), noise(1, seed=2)
    made, _, report = mix_sounds(sound(own, "stereo"), 0 * new, Mix("over"))
    assert np.abs(made.to_float() - own).max() < 2 / 2**15
    made, _, report = mix_sounds(sound(0 * own, "stereo"), new, Mix("under"))
    assert loudness(made.to_float()) == pytest.approx(loudness(new), abs=0.1)
    made, _, report = mix_sounds(sound(0 * own, "stereo"), 0 * new, Mix("under", loudness=-20))
    assert not made.samples.any()
    assert (report.loudness, report.true_peak) == (None, None)


@pytest.mark.parametrize("format", ["u8", "s16", "s32", "flt", "dbl"])
def test_samples_survive_the_way_to_float_and_back(format: str) -> None:
    given = to_format(noise(0.1, 2, level=0.3), format)
    assert np.array_equal(to_format(Sound(given, RATE, "stereo", format).to_float(), format), given)


def test_the_clip_has_the_mix_in_the_own_layout_and_rate(tmp_path: Path) -> None:
    """The upload's sound is 5.1 at 44 100 Hz and ends before its pictures; the new one is 8000 Hz."""
    film = make(tmp_path / "a.mkv", Film(frames=60), Track(codec="flac", format="s16", layout="5.1", seconds=1.2))
    files = (tmp_path / "video.mp4", tmp_path / "audio.wav", tmp_path / "audio-new.wav")
    new = noise(1.5, rate=8000)

    said = json.loads(mux_mixed(film, 0.25, 1.5, new, 8000, Mix("under"), files, "a comment"))

    assert said["video"] == "re-encoded"
    assert said["mix"]["loudness"] is not None
    mixed = read_sound(files[1], Fraction(0), Fraction(3))
    alone = read_sound(files[2], Fraction(0), Fraction(3))
    assert (mixed.sample_rate, mixed.layout, mixed.format, len(mixed.samples)) == (44_100, "5.1", "s16", 66_150)
    assert (alone.sample_rate, alone.samples.shape) == (44_100, (66_150, 1))
    own = read_sound(film, Fraction(1, 4), Fraction(3, 2)).to_float()
    scaled = mixed.to_float() - middle("5.1")[:, None] * alone.to_float()
    gain = 10 ** (said["mix"]["own_gain"] / 20)
    assert np.abs(scaled[:, : own.shape[1]] - gain * own).max() < 1e-3  # the report has two decimals
    assert np.abs(scaled[:, own.shape[1] :]).max() < 2 / 2**15
    shown = read_sound(files[0], Fraction(0), Fraction(3, 2))
    assert (shown.sample_rate, shown.layout) == (44_100, "5.1")
    assert np.corrcoef(shown.to_float()[2, :60_000], mixed.to_float()[2, :60_000])[0, 1] > 0.99
