"""Of several tracks the one that players choose is used: by flags, by what can be decoded, then by number."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from model.media.source import open_media, read_sound
from model.media.tracks import audio_tracks, video_track
from tests.clips import Film

RATE = 48_000


def with_sounds(path: Path, sounds: Sequence[tuple[str, Disposition]], pictures: int = 1) -> Path:
    """A file with `pictures` video tracks, and for each layout and flags a PCM track: the n-th holds 1000·n."""
    with av.open(path, "w") as container:
        films = [container.add_stream("mpeg4", rate=25) for _ in range(pictures)]
        for number, film in enumerate(films):
            film.width, film.height, film.pix_fmt = 64 * (number + 1), 48, "yuv420p"
        tracks = [container.add_stream("pcm_s16le", rate=RATE, layout=layout) for layout, _ in sounds]
        for track, (_, flags) in zip(tracks, sounds, strict=True):
            track.disposition = flags
        for index in range(25):
            for film in films:
                picture = Film(width=film.width).picture(index)
                container.mux(film.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for film in films:
            container.mux(film.encode(None))
        for number, (track, (layout, _)) in enumerate(zip(tracks, sounds, strict=True)):
            count = len(av.AudioLayout(layout).channels)
            frame = av.AudioFrame.from_ndarray(np.full((1, RATE * count), 1000 * (number + 1), np.int16), "s16", layout)
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(track.encode(frame))
    return path


def heard(path: Path) -> list[int]:
    """The constants in the channels of the sound used."""
    return [int(value) for value in read_sound(path, Fraction(0), Fraction(1, 2)).samples[1000]]


def chosen(path: Path) -> list[int]:
    with open_media(path) as container:
        return [track.index for track in audio_tracks(container)]


def pair_of_codecs(path: Path, codecs: Sequence[tuple[str, str, int]]) -> Path:
    """A file with a left and a right track of half and a quarter of full scale: (codec, sample format, full scale)."""
    with av.open(path, "w") as container:
        tracks = [
            container.add_stream(codec, rate=RATE, layout=layout)
            for (codec, _, _), layout in zip(codecs, ("FL", "FR"), strict=True)
        ]
        for number, (track, (_, format, full)) in enumerate(zip(tracks, codecs, strict=True)):
            dtype = {"s16": np.int16, "s32": np.int32}[format]
            samples = np.full((1, RATE), full >> number + 1, dtype)
            frame = av.AudioFrame.from_ndarray(samples, format, track.layout.name)
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


DEFAULT, NONE = Disposition.default, Disposition(0)
MONO = "mono"


@pytest.mark.parametrize("ending", ["mov", "mkv"])
@pytest.mark.parametrize(
    ("flags", "index"),
    [
        ((DEFAULT, DEFAULT), 1),
        ((NONE, DEFAULT), 2),
        ((DEFAULT, NONE), 1),
        ((NONE, NONE), 1),
    ],
)
def test_the_enabled_track_is_used(tmp_path: Path, ending: str, flags: tuple[Disposition, ...], index: int) -> None:
    path = with_sounds(tmp_path / f"a.{ending}", [(MONO, each) for each in flags])

    assert chosen(path) == [index]
    assert heard(path) == [1000 * index]


def test_a_description_for_the_blind_comes_after_the_film_s_own_sound(tmp_path: Path) -> None:
    path = with_sounds(tmp_path / "a.mkv", [(MONO, DEFAULT | Disposition.visual_impaired), (MONO, DEFAULT)])

    assert chosen(path) == [2]


@pytest.mark.parametrize(
    ("layouts", "values"),
    [
        (("FL", "FR"), [1000, 2000]),
        (("FR", "FL"), [2000, 1000]),
        (("FL", "FC", "FR"), [1000, 3000]),
        (("FL", "FL"), [1000]),
        (("FC", "FC"), [1000]),
        (("mono", "mono"), [1000]),
        (("stereo", "stereo"), [1000, 1000]),
    ],
)
def test_two_mono_tracks_are_a_pair_where_flagged_left_and_right(
    tmp_path: Path, layouts: tuple[str, ...], values: list[int]
) -> None:
    path = with_sounds(tmp_path / "a.mov", [(layout, DEFAULT) for layout in layouts])

    assert heard(path) == values


S16, S24 = ("pcm_s16le", "s16", 2**15), ("pcm_s24le", "s32", 2**31)


@pytest.mark.parametrize("codecs", [(S16, S24), (S24, S16)])
def test_a_pair_of_tracks_may_differ_in_its_sample_format(
    tmp_path: Path, codecs: tuple[tuple[str, str, int], tuple[str, str, int]]
) -> None:
    sound = read_sound(pair_of_codecs(tmp_path / "a.mov", codecs), Fraction(0), Fraction(1, 2))

    assert (sound.format, sound.layout) == ("flt", "stereo")
    assert np.unique(sound.to_float(), axis=1).tolist() == [[0.5], [0.25]]


def test_the_first_video_track_is_used(tmp_path: Path) -> None:
    with open_media(with_sounds(tmp_path / "a.mkv", [(MONO, DEFAULT)], pictures=2)) as container:
        assert video_track(container).index == 0
