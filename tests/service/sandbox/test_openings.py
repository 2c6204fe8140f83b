"""Files as people have them: cut, padded, tagged, chained, with several tracks. What players open is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest

from model.media.source import read_sound
from service.sandbox.probe import ProbeError, ProbeLimits, Prober
from tests.clips import Film, Track, make

LIMITS = ProbeLimits()
ENCODERS = {"mp3": "libmp3lame", "aac": "aac", "flac": "flac"}


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    with Prober() as one:
        yield one


def sound(folder: Path, kind: str) -> bytes:
    format = "s16" if kind == "flac" else "flt"
    track = Track(codec=ENCODERS[kind], format=format)
    return make(folder / f"whole.{kind}", sound=track, format="adts" if kind == "aac" else None).read_bytes()


def tag(size: int) -> bytes:
    return b"ID3\x04\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("before", [tag(20_000), tag(300_000), tag(100) + tag(50_000)], ids=["20k", "300k", "two"])
def test_sound_behind_tags_is_what_it_is(prober: Prober, tmp_path: Path, kind: str, before: bytes) -> None:
    path = tmp_path / "tagged"
    path.write_bytes(before + sound(tmp_path, kind))

    found = prober.probe(path, "audio", LIMITS, 1.0)

    assert found.audio_codec == kind
    assert found.duration == pytest.approx(3.0, abs=0.06)
    assert len(read_sound(path, Fraction(1), Fraction(1)).samples) == 44_100


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize(("zeros", "cut"), [(731, 0), (200_000, 0), (0, 1500)])
def test_padded_and_cut_sound_is_opened(prober: Prober, tmp_path: Path, kind: str, zeros: int, cut: int) -> None:
    path = tmp_path / "odd"
    path.write_bytes(bytes(zeros) + sound(tmp_path, kind)[cut:])

    assert prober.probe(path, "audio", LIMITS).duration == pytest.approx(3.0, abs=0.3)
    assert len(read_sound(path, Fraction(1), Fraction(1)).samples) == 44_100


def test_a_capture_may_begin_inside_a_packet(prober: Prober, tmp_path: Path) -> None:
    data = make(tmp_path / "whole.ts", Film()).read_bytes()
    (tmp_path / "cut.ts").write_bytes(data[100:])

    assert prober.probe(tmp_path / "cut.ts", "video", LIMITS).duration == pytest.approx(3.0, abs=0.1)


def test_bw64_is_a_wav(prober: Prober, tmp_path: Path) -> None:
    path = make(tmp_path / "a.wav", sound=Track(codec="pcm_s16le", format="s16"), options={"rf64": "always"})
    data = path.read_bytes()
    assert data[:4] == b"RF64"
    path.write_bytes(b"BW64" + data[4:])

    assert prober.probe(path, "audio", LIMITS).duration == pytest.approx(3.0, abs=0.01)


@pytest.mark.parametrize("rates", [(48_000, 48_000), (44_100, 22_050)])
def test_chained_ogg_is_whole(prober: Prober, tmp_path: Path, rates: tuple[int, int]) -> None:
    kind = ("libopus", "flt") if rates == (48_000, 48_000) else ("flac", "s16")
    links = [Track(rate, "stereo", kind[0], length, kind[1]) for rate, length in zip(rates, (1, 3), strict=True)]
    parts = [make(tmp_path / f"{number}.ogg", sound=each).read_bytes() for number, each in enumerate(links)]
    path = tmp_path / "chained.ogg"
    path.write_bytes(b"".join(parts))

    found = prober.probe(path, "audio", LIMITS, 2.0)

    assert found.duration == pytest.approx(4.0, abs=0.05)
    assert found.audio is not None
    assert found.audio.sample_rate == rates[1]
    heard = read_sound(path, Fraction(1, 2), Fraction(2))
    assert len(heard.samples) == pytest.approx(2 * rates[0], abs=100)
    assert np.abs(heard.to_float()[0, -rates[0] // 2 :]).max() > 0.3


def test_a_truncated_mp3_has_the_length_that_is_there(prober: Prober, tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp3", sound=Track(codec="libmp3lame", seconds=10))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    assert prober.probe(path, "audio", LIMITS).duration == pytest.approx(5.0, abs=0.2)
    with pytest.raises(ProbeError) as refused:
        prober.probe(path, "audio", LIMITS, 8.0)
    assert (refused.value.code, refused.value.field) == ("too_short", "start")
    assert refused.value.allowed.startswith("at most 4.")


@pytest.mark.parametrize(("want", "length"), [("video", 1.0), ("audio", 3.0)])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_the_length_is_that_of_the_track_used(
    prober: Prober, tmp_path: Path, ending: str, want: Literal["video", "audio"], length: float
) -> None:
    path = make(tmp_path / f"a.{ending}", Film(frames=30), Track(seconds=3.0))

    assert prober.probe(path, want, LIMITS).duration == pytest.approx(length, abs=0.1)


@pytest.mark.parametrize("default", [0, 1])
def test_the_default_track_is_used(prober: Prober, tmp_path: Path, default: int) -> None:
    path = tmp_path / "two.mkv"
    with av.open(path, "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=8_000, layout="mono") for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.disposition = av.stream.Disposition(1 if number == default else 0)
        for number, stream in enumerate(streams):
            frame = av.AudioFrame.from_ndarray(np.full((1, 8_000), 1000 * (number + 1), np.int16), "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 8_000, 0, Fraction(1, 8_000)
            container.mux(stream.encode(frame))

    assert prober.probe(path, "audio", LIMITS).tracks == (default,)
    assert read_sound(path, Fraction(0), Fraction(1, 2)).samples[0, 0] == 1000 * (default + 1)


def test_a_recording_without_index_and_an_unknown_codec_are_named(prober: Prober, tmp_path: Path) -> None:
    whole = make(tmp_path / "a.mp4", Film())
    data = whole.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: data.find(b"moov") - 4])
    (tmp_path / "odd.mp4").write_bytes(data.replace(b"avc1", b"zzz9"))

    for name, words in (("cut.mp4", "index"), ("odd.mp4", "zzz9")):
        with pytest.raises(ProbeError, match=words) as refused:
            prober.probe(tmp_path / name, "video", LIMITS)
        assert refused.value.allowed not in refused.value.message


def test_counting_packets_is_bounded(prober: Prober, tmp_path: Path) -> None:
    frame = make(tmp_path / "a.mp3", sound=Track(8_000, "mono", "libmp3lame", 1.0)).read_bytes()
    path = tmp_path / "many.mp3"
    path.write_bytes(frame * 4000)

    limits = ProbeLimits(max_seconds=1e6, cpu_seconds=0.2)
    with pytest.raises(ProbeError, match=r"too many packets|CPU time"):
        prober.probe(path, "audio", limits)


CASES = [
    ("adts_behind_large_id3.aac", "audio", 6.04, (0,)),
    ("mp3_leading_zeros.mp3", "audio", 6.03, (0,)),
    ("mp3_vbr_no_xing_loud_first.mp3", "audio", 61.05, (0,)),
    ("film_shorter_than_sound.mp4", "video", 1.0, (0,)),
    ("mkv_default_audio_is_second.mkv", "audio", 4.04, (2,)),
    ("ogg_opus_chained.opus", "audio", 4.0, (0,)),
    ("ogg_vorbis_chained_other_rate.ogg", "audio", 4.0, (0,)),
    ("ts_cut_mid_packet.ts", "video", 4.02, (0,)),
    ("truncated_mp3_late.mp3", "audio", 12.46, (0,)),
]


@pytest.mark.parametrize(("name", "want", "length", "tracks"), CASES)
def test_the_cases_are_measured(
    prober: Prober, name: str, want: Literal["video", "audio"], length: float, tracks: tuple[int, ...]
) -> None:
    folder = os.environ.get("DUET_CASES_DIR")
    if not folder:
        pytest.skip("DUET_CASES_DIR is not set")

    found = prober.probe(Path(folder) / name, want, LIMITS)

    assert found.duration == pytest.approx(length, abs=0.05)
    assert found.tracks == tracks


def test_encryption_is_named(prober: Prober) -> None:
    folder = os.environ.get("DUET_CASES_DIR")
    if not folder:
        pytest.skip("DUET_CASES_DIR is not set")

    with pytest.raises(ProbeError, match="encrypted"):
        prober.probe(Path(folder) / "encrypted_cenc.mp4", "video", LIMITS)
