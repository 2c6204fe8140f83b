"""Clips that are written, and sounds that are read, in parts come out as if they were handled as a whole."""

from __future__ import annotations

import gc
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from model.media import spooled
from model.media.aac import mixed_peak
from model.media.decode import decode_audio, decode_frames, network_frames, write_frames
from model.media.encode import SoundFormat, clip_writer, write_clip, write_samples
from model.media.mux import cut_wav, mux_a2v, mux_v2a
from model.media.poster import MOST_HELD, PosterFrames, write_poster
from model.media.resampling import Resampler, resample
from model.media.source import media_end, read_sound
from model.networks.config import ClipSpec
from tests.clips import Film, Track, make, numbered, read_number, silent, tone

RATE = 16_000
LONG = 12.0
"""Seconds: the muxer holds packets of one track back for at most 10 s of the other's."""


def numbers(count: int, side: int = 32) -> np.ndarray:
    return np.stack([numbered(number % 256, side, side) for number in range(count)])


def sweep(seconds: float) -> np.ndarray:
    return tone(np.arange(round(seconds * RATE)) / RATE)[None].astype(np.float32)


def lead(path: Path) -> float:
    """The most seconds by which one track is ahead of the other in the order of the file."""
    with av.open(str(path)) as container:
        found = [
            (packet.pos or 0, float(packet.pts * packet.time_base), packet.stream.type)
            for packet in container.demux()
            if packet.pts is not None and packet.time_base is not None
        ]
    reached, most = {"video": 0.0, "audio": 0.0}, 0.0
    for _, time, kind in sorted(found):
        reached[kind] = time
        most = max(most, abs(reached["video"] - reached["audio"]))
    return most


@pytest.mark.parametrize("sample_rate", [RATE, 12_345])
def test_a_clip_is_the_same_in_one_part_and_in_many(tmp_path: Path, sample_rate: int) -> None:
    frames, audio = numbers(37), sweep(3.7)[:, : round(3.7 * sample_rate)]
    write_clip(tmp_path / "whole.mp4", frames, 10, audio, sample_rate, "c")
    with clip_writer(tmp_path / "parts.mp4", 10, "c", SoundFormat(sample_rate)) as writer:
        for first in range(0, 37, 5):
            samples = slice(first * sample_rate // 10, (first + 5) * sample_rate // 10)
            writer.add(torch.from_numpy(frames[first : first + 5]), torch.from_numpy(audio[:, samples]))

    assert (tmp_path / "parts.mp4").read_bytes() == (tmp_path / "whole.mp4").read_bytes()


def test_nothing_is_left_of_a_clip_that_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with clip_writer(tmp_path / "a.mp4", 10, "", SoundFormat(RATE)) as writer:
            writer.add(numbers(16), sweep(1.6))
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_sound_and_picture_of_a_long_clip_stand_side_by_side_in_the_file(tmp_path: Path) -> None:
    frames, audio = numbers(round(10 * LONG), 16), sweep(LONG)
    with clip_writer(tmp_path / "generated.mp4", 10, "", SoundFormat(RATE)) as writer:
        for first in range(0, len(frames), 16):
            writer.add(frames[first : first + 16], audio[:, first * RATE // 10 : (first + 16) * RATE // 10])
    pictures = Film(frames=round(10 * LONG), fps=Fraction(10), width=32, height=24)
    film = make(tmp_path / "film.mp4", pictures, Track(seconds=LONG))
    reordered = make(tmp_path / "reordered.mp4", replace(pictures, b_frames=2), Track(seconds=LONG))
    mux_a2v(silent(tmp_path, frames), film, 0, LONG, tmp_path / "a2v.mp4", "")
    assert mux_v2a(film, 0.0, LONG, audio, RATE, tmp_path / "copied.mp4", "") == "copied"
    assert mux_v2a(reordered, 0.0, LONG, audio, RATE, tmp_path / "encoded.mp4", "") == "re-encoded"

    for name in ("generated", "a2v", "copied", "encoded"):
        assert lead(tmp_path / f"{name}.mp4") < 2.0
        assert float(media_end(tmp_path / f"{name}.mp4", "audio")) == pytest.approx(LONG, abs=0.01)
        assert float(media_end(tmp_path / f"{name}.mp4", "video")) == pytest.approx(LONG, abs=0.11)


def test_v2a_takes_its_sound_from_a_file(tmp_path: Path) -> None:
    film, audio = make(tmp_path / "film.mp4", Film(frames=50), Track(seconds=2.0)), sweep(1.6)
    write_samples(tmp_path / "sound.f32", torch.from_numpy(audio))
    mux_v2a(film, 0.0, 1.6, audio, RATE, tmp_path / "memory.mp4", "c")
    mux_v2a(film, 0.0, 1.6, tmp_path / "sound.f32", RATE, tmp_path / "file.mp4", "c")

    assert (tmp_path / "file.mp4").read_bytes() == (tmp_path / "memory.mp4").read_bytes()


@pytest.mark.parametrize("b_frames", [0, 2], ids=["copied", "re-encoded"])
def test_a_new_sound_ends_with_a_last_frame_that_outlasts_it(tmp_path: Path, b_frames: int) -> None:
    """2.1 s at 24 frames a second: the last frame stays for its whole time."""
    film = make(tmp_path / "film.mp4", Film(frames=120, fps=Fraction(24), b_frames=b_frames))
    mux_v2a(film, 0.0, 2.1, sweep(2.1), RATE, tmp_path / "a.mp4", "")

    assert float(media_end(tmp_path / "a.mp4", "video")) == pytest.approx(2.125, abs=1e-3)
    assert float(media_end(tmp_path / "a.mp4", "audio")) == pytest.approx(2.125, abs=1e-3)


def test_only_pictures_that_others_do_not_reach_across_are_keyframes_of_a2v(tmp_path: Path) -> None:
    """The encoder also makes pictures of a scene's beginning that decode alone, but are referred past."""
    scenes = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    sound = make(tmp_path / "a.wav", sound=Track(codec="pcm_s16le", format="s16"))
    mux_a2v(silent(tmp_path, scenes), sound, 0, 1.6, tmp_path / "a.mp4", "")

    with av.open(str(tmp_path / "a.mp4")) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        entries = container.streams.video[0].index_entries
        assert len(packets) == 16
        assert [entry.is_keyframe for entry in entries] == [True] + [False] * 15


@pytest.mark.parametrize(("rate", "new_rate"), [(44_100, 16_000), (16_000, 44_100), (96_000, 88_200)])
def test_resampling_in_blocks_is_that_of_the_whole(rate: int, new_rate: int) -> None:
    rng = np.random.default_rng(1)
    audio = rng.normal(size=(2, 50_017)).astype(np.float32)
    whole = resample(torch.from_numpy(audio), rate, new_rate).numpy()

    resampler, parts, first = Resampler(rate, new_rate, 8000), [], 0
    while first < audio.shape[1]:
        count = int(rng.integers(1, 5000))
        parts.append(resampler.add(audio[:, first : first + count]))
        first += count
    assert sum(part.shape[1] for part in parts) > 0.5 * whole.shape[1]
    assert np.allclose(np.concatenate([*parts, resampler.finish()], axis=1), whole, atol=1e-5)


@pytest.mark.parametrize("format", ["u8", "s16", "flt"])
def test_a_long_sound_in_a_file_is_the_same_as_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    codec = {"u8": "pcm_u8", "s16": "pcm_s16le", "flt": "pcm_f32le"}[format]
    source = make(tmp_path / "a.wav", sound=Track(codec=codec, format=format, seconds=8.0))
    clip = ClipSpec(frames=70, fps=10, height=16, width=16, sample_rate=RATE)
    memory, heard = read_sound(source, Fraction(1, 2), Fraction(7)), decode_audio(source, clip, 0.5)
    cut_wav(source, 0.5, 7.0, tmp_path / "memory.wav")
    monkeypatch.setattr(spooled, "LARGE", 1000)
    file = read_sound(source, Fraction(1, 2), Fraction(7), tmp_path)
    cut_wav(source, 0.5, 7.0, tmp_path / "file.wav")

    assert isinstance(file.samples, np.memmap)
    assert np.array_equal(file.samples, memory.samples)
    assert np.array_equal(file.to_float(1000, 2000), memory.to_float()[:, 1000:2000])
    assert torch.equal(decode_audio(source, clip, 0.5, tmp_path), heard)
    assert (tmp_path / "file.wav").read_bytes() == (tmp_path / "memory.wav").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "file.wav", "memory.wav"]


def test_the_peak_of_a_mix_is_that_of_all_its_pieces() -> None:
    audio = np.full((9, 300), 0.2, np.float32)
    audio[:, 250] = 0.9

    whole = mixed_peak([audio], 9, "9 channels")
    assert whole > 1
    assert mixed_peak(np.split(audio, 3, axis=1), 9, "9 channels") == whole
    assert mixed_peak([audio[:2]], 2, "stereo") == 1


def test_frames_for_the_network_are_the_same_in_a_file(tmp_path: Path) -> None:
    film = make(tmp_path / "film.mp4", Film(frames=50), Track(seconds=2.0))
    clip = ClipSpec(frames=25, fps=10, height=16, width=24, sample_rate=RATE)  # the film ends before
    write_frames(film, clip, 0.3, tmp_path / "frames.rgb")

    assert (tmp_path / "frames.rgb").read_bytes() == decode_frames(film, clip, 0.3).numpy().tobytes()


def test_the_poster_of_a_clip_in_parts(tmp_path: Path) -> None:
    """All frames of a short clip are compared; of a long one some, from its beginning to its end."""
    few, many = numbers(16), numbers(150)
    chosen = PosterFrames()
    for first in range(0, 16, 5):
        chosen.add(few[first : first + 5])
    assert chosen.write(tmp_path / "parts.webp", 10) == write_poster(tmp_path / "whole.webp", few, 10)
    assert (tmp_path / "parts.webp").read_bytes() == (tmp_path / "whole.webp").read_bytes()

    chosen = PosterFrames()
    chosen.add(many)
    held = [number for number, _ in chosen.candidates]
    assert MOST_HELD / 2 < len(held) <= MOST_HELD
    assert (held[0], len({after - before for before, after in pairwise(held)})) == (0, 1)
    assert held[-1] > 130
    poster = chosen.write(tmp_path / "long.webp", 10)
    assert round(10 * poster.time) in held


def test_frames_of_a_long_copy_are_those_of_the_window(tmp_path: Path) -> None:
    """The packets are read twice, and cut the same."""
    film = make(tmp_path / "film.mp4", Film(frames=100, fps=Fraction(25)), Track(seconds=4.0))
    assert mux_v2a(film, 0.6, 2.0, sweep(2.0), RATE, tmp_path / "a.mp4", "") == "copied"
    with av.open(str(tmp_path / "a.mp4")) as container:
        seen = [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert seen == list(range(15, 65))


def test_neither_frames_nor_threads_are_left_of_what_was_decoded(tmp_path: Path) -> None:
    """In a cycle they live until a garbage collection. A scaler with threads of its own for each frame exhausts the
    address space of a decoder of long films."""
    film = make(tmp_path / "film.mp4", Film(frames=60, fps=Fraction(10)), Track(seconds=6.0))
    clip = ClipSpec(frames=60, fps=10, height=16, width=24, sample_rate=RATE)

    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    gc.collect()
    before = sum(type(each) is av.VideoFrame for each in gc.get_objects())
    gc.disable()
    try:
        seen = [threads() for _ in network_frames(film, clip, 0.0)]
        left = sum(type(each) is av.VideoFrame for each in gc.get_objects())
    finally:
        gc.enable()
    assert left <= before + 4
    assert seen[-1] <= seen[5] + 4
