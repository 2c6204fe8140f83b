"""An edit's files: new sound and pictures where they are asked for, and everything else as it was."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from model.evaluation.audio_features import HOP, flux
from model.media import loudness, spooled
from model.media.decode import upright_rgb
from model.media.edits import Edit, Extend, Made, Region, Retake
from model.media.frames import TimedFrame, video_frames
from model.media.mix_levels import REPLACE, Mix
from model.media.mix_sound import to_format
from model.media.source import Sound, read_sound
from model.media.splice import section_frames, section_sound, write_edit
from model.media.splice_sound import FADE, RINGING, extend_sound, ringing, splice_sound
from model.media.splice_video import FrameSplice
from model.networks.config import PRESETS, ClipSpec
from tests.clips import Film, Track, make, read_number
from tests.measure import lasts

FPS, RATE, SIZE = 10, 8000, 32
SOUND = Track(codec="pcm_s16le", format="s16", sample_rate=44_100, seconds=3.0)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., tuple[dict[str, Any], Path, Path, Path]]:
    """Writes the files of an edit whose new pictures are magenta and whose new sound is a quiet tone."""

    def write(source: Path, edit: Edit, seconds: float = 3.0, mix: Mix = REPLACE, **more: Any) -> Any:
        count = round(seconds * FPS)
        frames = torch.tensor([255, 0, 255], dtype=torch.uint8).expand(count, SIZE, SIZE, 3)
        tone = 0.2 * torch.sin(2 * torch.pi * 500 * torch.arange(count * RATE // FPS) / RATE)[None]
        raw = tmp_path / "frames.rgb"
        raw.write_bytes(frames.contiguous().numpy().tobytes())
        made = Made(edit.start, FPS, RATE, (SIZE, SIZE))
        files = (tmp_path / "video.mp4", tmp_path / "audio.wav", tmp_path / "audio-new.wav")
        given = {"has_sound": True, "mask": None} | more
        said = json.loads(
            write_edit(
                source, edit, made, (raw, (count, SIZE, SIZE, 3)), tone, mix, files=files, comment="a comment", **given
            )
        )
        return said, *files

    return write


def shown(path: Path) -> list[tuple[float, np.ndarray]]:
    """Time and picture, upright, of every frame."""
    return [(round(float(each.time), 4), upright_rgb(each)) for each in video_frames(path, 0)]


def is_magenta(picture: np.ndarray) -> bool:
    middle = picture[picture.shape[0] // 2, picture.shape[1] // 2].astype(int)
    return bool(middle[0] > 230 and middle[1] < 30 and middle[2] > 230)


def samples(path: Path) -> np.ndarray:
    return read_sound(path, Fraction(0), Fraction(60)).samples


def test_sound_stays_sample_by_sample_outside_the_spans(tmp_path: Path, written: Callable[..., Any]) -> None:
    film = make(tmp_path / "a.mov", Film(frames=90, b_frames=2), SOUND)
    edit = Edit(retake=Retake(audio=((0.5, 1.0), (2.0, 2.25))), length=3.0)
    said, _, audio, alone = written(film, edit)

    own, got, new = samples(film), samples(audio), samples(alone)
    spans = [slice(22_050, 44_100), slice(88_200, 99_225)]
    outside = np.ones(len(own), bool)
    for span in spans:
        outside[span] = False
    assert np.array_equal(got[outside], own[outside])
    assert not new[outside].any()
    for span in spans:  # one fade away from its ends it is the new sound alone, from both loudspeakers
        inner = slice(span.start + 500, span.stop - 500)
        assert np.abs(got[inner, 0] - new[inner, 0] * 2**-0.5).max() <= 1.5
        assert np.array_equal(got[inner, 0], got[inner, 1])
    # At the borders the waveform steps no further than it does elsewhere.
    steps = np.abs(np.diff(got[:, 0].astype(int)))
    for span in spans:
        for border in (span.start, span.stop):
            assert steps[border - 500 : border + 500].max() <= np.abs(np.diff(own[:, 0].astype(int))).max() * 1.1
    assert (said["video"], said["mix"]) == ("copied", None)


def test_the_video_is_copied_bit_by_bit_where_no_frame_changes(tmp_path: Path, written: Callable[..., Any]) -> None:
    """With B-frames, of which the packets' order is another than the frames'."""
    film = make(tmp_path / "a.mp4", Film(frames=90, b_frames=2), Track())
    said, video, _, _ = written(film, Edit(retake=Retake(audio=((0.5, 1.0),)), length=3.0))

    assert said["video"] == "copied"
    with av.open(str(film)) as source, av.open(str(video)) as result:
        packets = [[bytes(p) for p in each.demux(video=0) if p.size] for each in (source, result)]
    assert packets[0] == packets[1]
    before, after = shown(film), shown(video)
    assert [time for time, _ in before] == pytest.approx([time for time, _ in after], abs=1e-3)
    assert all(np.array_equal(one, other) for (_, one), (_, other) in zip(before, after, strict=True))


@pytest.mark.parametrize("what", ["audio", "video"])
def test_sound_that_is_longer_than_the_pictures_stays_whole(
    tmp_path: Path, written: Callable[..., Any], what: str
) -> None:
    film = make(tmp_path / "a.mp4", Film(frames=90), replace(SOUND, codec="aac", format="flt", seconds=3.7))
    _, video, _, _ = written(film, Edit(retake=Retake(**{what: ((1.0, 1.5),)}), length=3.0))
    with av.open(str(video)) as container:
        ends = [float(lasts(each)) for each in (container.streams.video[0], container.streams.audio[0])]
    assert ends == pytest.approx([3.0, 3.7], abs=0.001)


def splice_of(edit: Edit, first_new: int) -> FrameSplice:
    """A section of the network whose frames from `first_new` on are magenta, and grey before, as if kept."""
    pictures = np.full((120, SIZE, SIZE, 3), 128, np.uint8)
    pictures[first_new:] = (255, 0, 255)
    return FrameSplice(edit, Made(edit.start, FPS, RATE, (SIZE, SIZE)), pictures)


def test_a_frame_that_begins_just_before_a_span_is_new(tmp_path: Path) -> None:
    """At 30 Hz the span of 0.067 s begins with the frame of 0.0667 s; the network's frame there is the span's first."""
    film = make(tmp_path / "a.mp4", Film(frames=9), None)
    edit = Edit(retake=Retake(video=((0.067, 0.2),)), length=0.3, start=0.067 - 10 / FPS)
    result = list(splice_of(edit, 10).apply(timed(film), Fraction(30)))
    assert [is_magenta(upright_rgb(shown)) for shown, _, _ in result] == [2 <= k < 6 for k in range(9)]


def test_no_kept_frame_is_held_after_an_end_between_frames(tmp_path: Path) -> None:
    """The upload ends half a frame of the network after the last that is kept."""
    film = make(tmp_path / "a.mp4", Film(frames=31, fps=Fraction(20)), None)
    edit = Edit(extend=Extend(before=0.3, after=0.5), length=1.55, start=-0.3)
    splice = splice_of(edit, 19)
    splice.pictures[:3] = (255, 0, 255)
    result = list(splice.apply(timed(film), Fraction(20)))
    assert [is_magenta(upright_rgb(shown)) for shown, _, _ in result] == [k < 6 or k >= 37 for k in range(47)]


def test_a_region_follows_a_change_of_the_pictures_size() -> None:
    sizes = [(64, 48), (48, 64), (64, 48), (32, 32)]
    frames = [
        (
            TimedFrame(av.VideoFrame(*size, "yuv420p"), Fraction(k, 10), Fraction(1, 10)),
            Fraction(k, 10),
            Fraction(1, 10),
        )
        for k, size in enumerate(sizes)
    ]
    edit = Edit(region=Region(x=0.0, y=0.0, width=1.0, height=0.5), length=0.4)
    result = list(splice_of(edit, 0).apply(iter(frames), Fraction(10)))
    assert [(shown.frame.width, shown.frame.height) for shown, _, _ in result] == sizes


def timed(film: Path) -> Iterator[tuple[TimedFrame, Fraction, Fraction]]:
    return ((each, each.time, each.duration) for each in video_frames(film, 0))


@pytest.mark.parametrize("rotation", [None, 90])
def test_frames_keep_their_times_and_only_those_in_the_span_are_new(
    tmp_path: Path, written: Callable[..., Any], rotation: int | None
) -> None:
    """Of a varying rate: the times are those of the upload."""
    times = [int(t) for t in np.cumsum([1, 2, 1, 3, 1, 1, 4, 1] * 8)]
    film = make(
        tmp_path / "a.mp4",
        Film(frames=len(times), times=[t - 1 for t in times], grid=Fraction(1, 30), rotation=rotation),
        Track(),
    )
    said, video, audio, _ = written(film, Edit(retake=Retake(video=((0.5, 1.2),)), length=3.0), seconds=4)

    before, after = shown(film), shown(video)
    assert [time for time, _ in after] == pytest.approx([time for time, _ in before], abs=1e-3)
    assert [is_magenta(picture) for _, picture in after] == [0.499 < time < 1.199 for time, _ in before]
    assert all(one.shape == other.shape for (_, one), (_, other) in zip(before, after, strict=True))
    kept = [np.abs(a.astype(int) - b).mean() for (t, a), (_, b) in zip(before, after, strict=True) if not 0.4 < t < 1.3]
    assert max(kept) < 3
    assert said["video"].startswith("re-encoded")
    assert np.array_equal(samples(audio), samples(film)[: len(samples(audio))])


def test_a_region_is_new_inside_and_stays_outside(tmp_path: Path, written: Callable[..., Any]) -> None:
    film = make(tmp_path / "a.mp4", Film(frames=30, width=200, height=100), Track(seconds=1.0))
    region = Region(x=0.5, y=0.2, width=0.4, height=0.6, start=0.3, end=0.7)
    _, video, audio, alone = written(film, Edit(region=region, length=1.0), seconds=1)

    for (time, own), (_, got) in zip(shown(film), shown(video), strict=True):
        off = np.abs(got.astype(int) - own).max(axis=2)
        outside = np.ones((100, 200), bool)
        outside[18:82, 98:182] = False
        assert off[outside].mean() < 3
        inside = got[25:75, 105:175].reshape(-1, 3).mean(axis=0)
        assert (abs(inside - [255, 0, 255]).max() < 12) == (0.299 < time < 0.699), time
    assert np.array_equal(samples(audio), samples(film)[: len(samples(audio))])
    assert not samples(alone).any()


def test_a_mask_of_another_size_is_scaled(tmp_path: Path, written: Callable[..., Any]) -> None:
    film = make(tmp_path / "a.mp4", Film(frames=10, width=200, height=100), Track(seconds=1.0))
    white = np.zeros((20, 20), np.uint8)
    white[:, 10:] = 255
    with av.open(str(tmp_path / "mask.png"), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 20, 20, "gray"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(white, format="gray")))
        container.mux(stream.encode(None))
    edit = Edit(region=Region(), length=1 / 3)
    _, video, _, _ = written(film, edit, seconds=0.4, mask=tmp_path / "mask.png")

    for (_, own), (_, got) in zip(shown(film), shown(video), strict=True):
        assert np.abs(got[:, :98].astype(int) - own[:, :98]).mean() < 3
        assert abs(got[:, 108:].reshape(-1, 3).mean(axis=0) - [255, 0, 255]).max() < 12


def test_a_clip_is_extended_on_both_sides(tmp_path: Path, written: Callable[..., Any]) -> None:
    film = make(tmp_path / "a.mov", Film(frames=30), replace_seconds(1.0))
    edit = Edit(extend=Extend(before=0.5, after=1.0), length=1.0, start=-0.5)
    _, video, audio, alone = written(film, edit, seconds=2.5)

    result = shown(video)
    assert len(result) == 15 + 30 + 30
    assert [time for time, _ in result] == pytest.approx([k / 30 for k in range(75)], abs=1e-3)
    assert [is_magenta(picture) for _, picture in result] == [k < 15 or k >= 45 for k in range(75)]
    assert [read_number(picture) for _, picture in result[15:45]] == list(range(30))
    own, got, new = samples(film), samples(audio), samples(alone)
    assert len(got) == len(new) == 22_050 + 44_100 + 44_100
    assert np.array_equal(got[22_050:66_150], own)
    assert not new[22_050:66_150].any()
    steps = np.abs(np.diff(got[:, 0].astype(int)))
    assert max(steps[22_049], steps[66_149]) <= np.abs(np.diff(own[:, 0].astype(int))).max()
    assert np.abs(got[30_000:31_000]).max() > 0


def replace_seconds(seconds: float) -> Track:
    return Track(codec="pcm_s16le", format="s16", sample_rate=44_100, seconds=seconds)


def test_a_file_without_sound_is_edited_with_silence(tmp_path: Path, written: Callable[..., Any]) -> None:
    film = make(tmp_path / "a.mp4", Film(frames=30))
    _, _, audio, _ = written(film, Edit(retake=Retake(audio=((0.2, 0.5),)), length=1.0), has_sound=False)
    got = samples(audio)
    assert not got[: RATE // 5].any()
    assert not got[RATE // 2 :].any()
    assert got[RATE // 4 : RATE // 2].any()


def test_a_long_edit_keeps_its_sounds_in_files_and_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooled, "LARGE", 0)
    own = _ringing()
    new = np.random.default_rng(1).uniform(-0.5, 0.5, (1, 26_000)).astype(np.float32)
    spans = [(0.5, 0.75), (1.5, 2.0)]
    plain, filed = (splice_sound(own, new[:, :16_000], spans, REPLACE, folder)[:2] for folder in (None, tmp_path))
    longer, also = (extend_sound(own, new, 4000, 6000, folder) for folder in (None, tmp_path))
    for (sound, alone), (same, same_alone) in ((plain, filed), (longer, also)):
        assert np.array_equal(sound.samples, same.samples)
        assert np.array_equal(alone, same_alone)
        assert isinstance(same.samples, np.memmap)
        assert isinstance(same_alone, np.memmap)
    assert not list(tmp_path.iterdir())


def test_a_mix_is_made_in_the_span_alone() -> None:
    drawn = np.random.default_rng(1).normal(size=(2, 96_000)) * 0.1
    own = Sound(to_format(drawn.astype(np.float32), "s16"), 48_000, "stereo", "s16")
    new = (0.1 * np.random.default_rng(2).normal(size=(1, 96_000))).astype(np.float32)
    got, alone, report = splice_sound(own, new, [(0.5, 1.5)], Mix("under"))
    assert report is not None
    assert np.array_equal(got.samples[:24_000], own.samples[:24_000])
    assert np.array_equal(got.samples[72_000:], own.samples[72_000:])
    inner = slice(30_000, 66_000)
    correlation = np.corrcoef(got.samples[inner, 0], own.samples[inner, 0])[0, 1]
    assert correlation > 0.95, "the own sound is still heard"
    assert alone[:, :24_000].any() == alone[:, 72_000:].any() == False  # noqa: E712


@pytest.mark.parametrize("mix", [REPLACE, Mix("under")])
def test_long_spans_are_spliced_piece_by_piece(mix: Mix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(4)
    own = Sound(draws.integers(-9000, 9000, (80_000, 2), dtype=np.int16), 8000, "stereo", "s16")
    new = draws.uniform(-0.3, 0.3, (1, 100_000)).astype(np.float32)
    spans = [(0.5, 4.0), (5.0, 9.5)]
    whole, alone, _ = splice_sound(own, new[:, :80_000], spans, mix)
    longer = extend_sound(own, new, 9000, 11_000)
    monkeypatch.setattr(loudness, "PIECE", 999)
    monkeypatch.setattr(spooled, "LARGE", 0)
    tracemalloc.start()
    try:
        parts, of_parts, _ = splice_sound(own, new[:, :80_000], spans, mix, tmp_path)
        also = extend_sound(own, new, 9000, 11_000, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    rounding = 0 if mix is REPLACE else 1  # loudness is summed in another order
    assert np.abs(parts.samples.astype(int) - whole.samples).max() <= rounding
    np.testing.assert_allclose(of_parts, alone, rtol=0, atol=1e-6 * rounding)
    assert np.array_equal(also[0].samples, longer[0].samples)
    assert np.array_equal(also[1], longer[1])
    assert peak < own.to_float().nbytes


def test_a_sound_becomes_float_in_twice_its_memory() -> None:
    samples = np.random.default_rng(3).integers(-(2**31), 2**31, (200_000, 2), dtype=np.int32)
    tracemalloc.start()
    try:
        got = Sound(samples, 192_000, "stereo", "s32").to_float()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(got, (samples / 2.0**31).astype(np.float32).T)
    assert peak < 2.2 * samples.nbytes


@pytest.mark.parametrize("length", [3, 20_000])
def test_a_short_sound_can_be_extended(length: int) -> None:
    own = Sound(np.full((length, 1), 1000, np.int16), 8000, "mono", "s16")
    got, _ = extend_sound(own, np.zeros((1, length + 900), np.float32), 400, 500)
    assert np.array_equal(got.samples[400 : 400 + length], own.samples)
    assert np.abs(np.diff(got.samples[:, 0].astype(int))).max() <= 1000 * 0.7


def _ringing(seconds: float = 2.0, decay: float = 2.0) -> Sound:
    time = np.arange(round(8000 * seconds)) / 8000
    tone = 0.4 * np.sin(2 * np.pi * 440 * time + 0.3) + 0.2 * np.sin(2 * np.pi * 880 * time)
    return Sound((np.exp(-decay * time) * tone).astype(np.float32)[:, None], 8000, "mono", "flt")


def _flux_at(sound: np.ndarray, second: float) -> float:
    strength = flux(torch.from_numpy(np.ascontiguousarray(sound[None], np.float32)), 8000)[0]
    return float(strength[round((second - 0.05) / HOP) : round((second + 0.2) / HOP)].max())


def test_a_tone_rings_into_a_retaken_span_without_an_attack() -> None:
    """New sound of another pitch comes in slowly; what is kept does not change, and after RINGING the new is alone."""
    own = _ringing()
    other = 0.4 * np.sin(2 * np.pi * 600 * np.arange(16_000) / 8000)[None].astype(np.float32)
    got, _, _ = splice_sound(own, other, [(0.5, 1.5)], REPLACE)
    heard = got.samples[:, 0]
    abrupt = np.concatenate([own.samples[:4000, 0], other[0, 4000:12_000], own.samples[12_000:, 0]])

    assert np.array_equal(heard[:4000], own.samples[:4000, 0])
    assert np.array_equal(heard[12_000:], own.samples[12_000:, 0])
    assert np.allclose(heard[4000 + round(RINGING * 8000) : 11_900], other[0, 4000 + round(RINGING * 8000) : 11_900])
    assert _flux_at(heard, 0.5) < 0.6 * _flux_at(abrupt, 0.5)
    mixed, _, _ = splice_sound(own, other, [(0.5, 1.5)], Mix("under"))
    assert np.abs(mixed.samples[4100:4800, 0]).max() > 0.1, "a mix has the own sound itself"


def test_only_tones_that_decay_ring_into_a_span() -> None:
    """After a noise no gap is heard, and a tone that would go on ends where it was asked to."""
    noise = np.random.default_rng(3).normal(0, 0.1, (16_000, 2)).astype(np.float32)
    assert ringing(Sound(noise, 8000, "stereo", "flt"), 4000, 4000).shape[1] <= round(FADE * 8000)
    assert ringing(_ringing(), 4000, 300).shape[1] == 300, "no longer than half of a span"
    assert ringing(_ringing(decay=0.0), 4000, 4000).shape[1] == 0
    assert ringing(replace(_ringing(), samples=np.zeros((8000, 1), np.float32)), 4000, 4000).shape[1] == 0


def test_a_tone_rings_into_an_extension_without_an_attack() -> None:
    own = _ringing(1.0)
    other = 0.4 * np.sin(2 * np.pi * 600 * np.arange(16_000) / 8000)[None].astype(np.float32)
    extended, _ = extend_sound(own, other, 0, 8000)
    assert np.array_equal(extended.samples[:8000], own.samples)
    abrupt = np.concatenate([own.samples[:, 0], other[0, 8000:]])
    assert _flux_at(extended.samples[:, 0], 1.0) < 0.6 * _flux_at(abrupt, 1.0)


@pytest.mark.parametrize("kind", ["peak", "noise", "loud noise"])
def test_an_extension_has_no_thump(kind: str) -> None:
    """Beside silence: what goes on is no louder than the own sound, and has no offset."""
    chance = np.random.default_rng(4)
    time = np.arange(24_000) / 48_000
    sounds = {
        "peak": 0.9 * np.cos(2 * np.pi * 1000 * (time - time[-1])),
        "noise": 0.1 * chance.normal(size=24_000),
        "loud noise": np.clip(0.3 * chance.normal(size=24_000), -0.95, 0.95),
    }
    own = Sound(to_format(sounds[kind][None].astype(np.float32), "s16"), 48_000, "mono", "s16")
    extended, _ = extend_sound(own, np.zeros((1, 34_000), np.float32), 5000, 5000)
    for added in (extended.samples[:5000][::-1], extended.samples[-5000:]):
        near = added[:480, 0] / 32768
        assert np.abs(near).max() <= np.abs(own.samples / 32768).max() + 1e-3
        assert abs(near.mean()) < 0.05


def test_an_extension_goes_on_with_level_and_slope() -> None:
    """The border lies on the steep slope of a tone; new is silence."""
    time = np.arange(8000) / 8000
    tone = 0.5 * np.sin(2 * np.pi * 200 * time + 0.3)
    own = Sound(np.round(tone * 32767).astype(np.int16)[:, None], 8000, "mono", "s16")
    extended, _ = extend_sound(own, np.zeros((1, 24_000), np.float32), 8000, 8000)
    bends = np.abs(np.diff(extended.samples[:, 0].astype(float), 2))
    elsewhere = bends[9000:15_000].max()
    for border in (8000, 16_000):
        assert bends[border - 5 : border + 5].max() <= 1.2 * elsewhere


def test_the_section_may_begin_before_the_upload_and_end_after_it(tmp_path: Path) -> None:
    clip = ClipSpec(**{**vars(PRESETS["tiny"].clip), "frames": 20})
    film = make(tmp_path / "a.mp4", Film(frames=30, corners=True), Track(seconds=1.0))
    frames = section_frames(film, clip, -0.5)
    sound = section_sound(film, clip, -0.5)
    assert (len(frames), sound.shape) == (20, (1, clip.samples))
    assert torch.equal(frames[0], frames[5])
    half = clip.sample_rate // 2
    assert not sound[:, : half - 1].any()
    assert sound[:, half : 2 * half].any()
    assert not sound[:, 3 * half + 200 :].any()
