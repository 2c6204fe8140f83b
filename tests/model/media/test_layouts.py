"""Of every layout all channels are heard, in a layout that AAC has, and not beyond full scale."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from model.media.mux import mux_a2v
from model.media.source import read_sound
from tests.clips import Track, black, make
from tests.model.media.fitting import fit_layout

KEPT = {
    "mono": "mono",
    "stereo": "stereo",
    "3.0": "3.0",
    "3.0(back)": "4.0",
    "2.1": "5.1",
    "4.0": "4.0",
    "quad": "5.0",
    "quad(side)": "5.0",
    "3.1": "5.1",
    "5.0": "5.0",
    "5.0(side)": "5.0",
    "5.1": "5.1",
    "5.1(side)": "5.1",
    "7.0": "7.1",
    "7.1": "7.1",
    "downmix": "stereo",
    "binaural": "stereo",
    "6 channels": "5.1",
}
MIXED = {
    "4.1": "5.1",
    "6.0": "7.1",
    "6.0(front)": "5.0",
    "hexagonal": "5.0",
    "6.1": "7.1",
    "6.1(back)": "5.1",
    "7.1(wide)": "5.1",
    "octagonal": "7.1",
    "cube": "5.0",
    "5.1.4": "7.1",
    "7.1.2": "7.1",
    "7.1.4": "7.1",
    "7.2.3": "7.1",
    "9.1.6": "7.1",
    "hexadecagonal": "7.1",
    "22.2": "7.1",
}


def channels(layout: str) -> int:
    return len(av.AudioLayout(layout).channels)


def power(layout: str, channel: int) -> float:
    """Of a channel alone, what is heard of it, as a share of its amplitude."""
    sound = np.zeros((channels(layout), 480), np.float32)
    sound[channel] = 0.5
    fitted, _, _ = fit_layout(sound, layout)
    return float(np.linalg.norm(fitted[:, 0])) / 0.5


@pytest.mark.parametrize("layout", KEPT)
def test_layouts_that_aac_has_are_kept(layout: str) -> None:
    sound = np.random.default_rng(1).uniform(-1, 1, (channels(layout), 480)).astype(np.float32)

    fitted, carried, mixed = fit_layout(sound, layout)

    assert (carried, mixed) == (KEPT[layout], False)
    assert all(any(np.array_equal(mine, theirs) for theirs in fitted) for mine in sound)


@pytest.mark.parametrize("layout", MIXED)
def test_of_other_layouts_no_channel_is_lost(layout: str) -> None:
    _, carried, mixed = fit_layout(np.zeros((channels(layout), 480), np.float32), layout)

    assert (carried, mixed) == (MIXED[layout], True)
    assert [power(layout, channel) for channel in range(channels(layout))] == pytest.approx([1.0] * channels(layout))


@pytest.mark.parametrize("layout", [*MIXED, "16 channels", "ambisonic 1"])
def test_a_mix_stays_within_full_scale(layout: str) -> None:
    fitted, _, _ = fit_layout(np.ones((channels(layout), 480), np.float32), layout)

    assert np.abs(fitted).max() == pytest.approx(1.0, abs=0.001)


@pytest.mark.parametrize("count", [9, 12, 16])
def test_tracks_of_a_recorder_are_mixed_to_mono(count: int) -> None:
    layout = f"{count} channels"

    assert fit_layout(np.zeros((count, 480), np.float32), layout)[1:] == ("mono", True)
    assert [power(layout, channel) for channel in range(count)] == pytest.approx([count**-0.5] * count)


@pytest.mark.parametrize("layout", ["ambisonic 1", "ambisonic 2", "ambisonic 3", "ambisonic 1+stereo"])
def test_ambisonics_are_heard_from_where_they_come(layout: str) -> None:
    """A source at the left is heard at the left, in ACN order and SN3D: W = Y = 1."""
    sound = np.zeros((channels(layout), 480), np.float32)
    sound[:2] = 0.5

    (left, right), carried, mixed = fit_layout(sound, layout)

    assert (carried, mixed) == ("stereo", True)
    assert left == pytest.approx(0.5)
    assert right == pytest.approx(0.0)


def test_a_stereo_track_beside_ambisonics_is_heard() -> None:
    sound = np.zeros((6, 480), np.float32)
    sound[4] = 0.5

    (left, right), _, _ = fit_layout(sound, "ambisonic 1+stereo")

    assert left == pytest.approx(0.5)
    assert right == pytest.approx(0.0)


@pytest.mark.parametrize("layout", ["7.1.4", "octagonal", "6.1(back)"])
def test_a_film_carries_the_mix_and_says_so(tmp_path: Path, layout: str) -> None:
    source = make(tmp_path / "a.wav", None, Track(48_000, layout, "pcm_s16le", 2.0, "s16"))

    words = mux_a2v(black(tmp_path), source, 0, 1.6, tmp_path / "a.mp4", "")

    assert words == f"{layout} mixed down to {MIXED[layout]}"
    heard = read_sound(tmp_path / "a.mp4", Fraction(0), Fraction(8, 5))
    assert heard.layout == MIXED[layout]
    assert 0.3 < np.abs(heard.to_float()).max() < 1.1
