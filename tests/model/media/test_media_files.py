"""The files that users get back: frames counted and compared, sound compared sample by sample."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from model.media.decode import decode_video
from model.media.encode import write_clip, write_wav
from model.media.frames import video_frames, window_frames, window_limits
from model.media.mux import cut_wav, mux_a2v, mux_v2a
from model.media.source import MediaError, media_end, read_sound
from model.networks.config import ClipSpec
from tests.clips import CORNERS, Film, Track, black, cornered, make, numbered, read_number, silent, tone
from tests.measure import (
    assert_plays_in_browsers,
    lag_and_correlation,
    lasts,
    numbers,
    pictures,
    planes,
    psnr,
    shown_at,
)

CLIP = ClipSpec(height=32, width=32)
SECONDS = CLIP.duration
VP9 = (("deadline", "realtime"), ("cpu-used", "8"), ("crf", "10"), ("b", "0"))


# A generated clip


def test_a_written_clip_has_its_frames_its_sound_and_its_label(tmp_path: Path) -> None:
    frames = np.stack([numbered(k, 64, 64) for k in range(16)])
    wave = tone(np.arange(CLIP.samples) / CLIP.sample_rate)[None].astype(np.float32)
    path = tmp_path / "clip.mp4"

    write_clip(path, torch.from_numpy(frames), 10, torch.from_numpy(wave), 16_000, "made by a test, seed 7")

    assert_plays_in_browsers(path, "made by a test, seed 7")
    assert numbers(decode_video(path, replace(CLIP, height=64, width=64))) == list(range(16))
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.frames, video.average_rate) == (16, 10)
        assert (video.width, video.height) == (64, 64)
        assert lasts(video) == Fraction(16, 10)
        assert lasts(audio) == Fraction(16, 10)
        assert (audio.rate, audio.channels) == (16_000, 1)
        assert container.duration == 1_600_000
    lag, correlation = lag_and_correlation(wave[0], read_sound(path, Fraction(0), Fraction(8, 5)).to_float()[0])
    assert lag == 0
    assert correlation > 0.999


def test_colours_survive(tmp_path: Path) -> None:
    path = tmp_path / "colours.mp4"

    write_clip(path, cornered(64, 64)[None].repeat(16, 0), 10, np.zeros((1, 25_600)), 16_000, "")

    quadrants = pictures(decode_video(path, replace(CLIP, height=64, width=64)))[8][16::32, 16::32].astype(int)
    assert np.abs(quadrants - CORNERS.astype(int)).max() <= 4
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)  # BT.709 (H.273)


def test_odd_sides_are_filled_up_with_their_last_row_and_column(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (1, 17, 21, 1)).repeat(16, 0).repeat(3, 3).astype(np.uint8)
    path = tmp_path / "odd.mp4"

    write_clip(path, frames, 10, np.zeros((1, 25_600)), 16_000, "")

    with av.open(str(path)) as container:
        shown = [frame.to_ndarray(format="rgb24").astype(np.uint8) for frame in container.decode(video=0)][-1]
    assert shown.shape == (18, 22, 3)
    assert psnr(shown[:17, :21], frames[0]) > 38
    assert np.abs(shown[17].astype(int) - shown[16]).mean() < 6
    assert np.abs(shown[:, 21].astype(int) - shown[:, 20]).mean() < 6


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"what was there")

    with pytest.raises(ValueError, match="dtype"):
        write_clip(path, np.zeros((2, 16, 16, 3), np.complex64), 10, np.zeros((1, 1600)), 16_000, "")

    assert [entry.name for entry in tmp_path.iterdir()] == ["clip.mp4"]
    assert path.read_bytes() == b"what was there"


def test_a_wav_is_16_bit_pcm_clipped_at_full_scale(tmp_path: Path) -> None:
    wave = np.array([[0.0, 0.5, -0.5, 1.0, -1.0, 3.0, -3.0]])

    write_wav(tmp_path / "sound.wav", torch.from_numpy(wave), 16_000)

    sound = read_sound(tmp_path / "sound.wav", Fraction(0), Fraction(1))
    assert sound.format == "s16"
    assert sound.samples[:, 0].tolist() == [0, 16384, -16384, 32767, -32767, 32767, -32767]


# v2a: the user's own frames


SOUND = tone(np.arange(CLIP.samples) / CLIP.sample_rate)[None].astype(np.float32)


def v2a(source: Path, start: float = 0.0) -> tuple[str, Path]:
    path = source.with_name("result.mp4")
    return mux_v2a(source, start, SECONDS, SOUND, CLIP.sample_rate, path, "v2a by a test"), path


@pytest.mark.parametrize(
    ("name", "film", "start", "first", "count"),
    [
        ("start.mp4", Film(), 0.0, 0, 48),
        ("keyframe.mp4", Film(), 0.5, 15, 48),
        ("ntsc.mov", Film(fps=Fraction(30000, 1001)), 0.0, 0, 48),
        ("cinema.mkv", Film(fps=Fraction(25)), 0.6, 15, 40),
        ("full-range.mp4", Film(color_range=2), 0.0, 0, 48),
        ("short.mp4", Film(frames=20), 0.0, 0, 20),
    ],
)
def test_v2a_copies_the_stream_where_the_cut_is_exact(
    tmp_path: Path, name: str, film: Film, start: float, first: int, count: int
) -> None:
    source = make(tmp_path / name, film, Track())

    how, path = v2a(source, start)

    assert how == "copied"
    assert_plays_in_browsers(path, "v2a by a test")
    own, result = planes(source)[first : first + count], planes(path)
    assert len(result) == count
    assert all(np.array_equal(mine, theirs) for mine, theirs in zip(own, result, strict=True))


@pytest.mark.parametrize(
    ("name", "film", "start", "first", "count"),
    [
        ("b-frames.mp4", Film(b_frames=3), 0.0, 0, 48),
        ("b-frames-late.mp4", Film(b_frames=3), 0.8, 24, 48),
        ("between-keyframes.mp4", Film(), 0.2, 6, 48),
        ("between-frames.mp4", Film(), 0.51, 15 + 0, 48),
        ("open-gop.mp4", Film(options=(("x264-params", "open-gop=1:bframes=2"),)), 0.5, 15, 48),
        ("ten-bit.mp4", Film(pix_fmt="yuv420p10le"), 0.0, 0, 48),
        ("full-chroma.mov", Film(pix_fmt="yuv444p"), 0.0, 0, 48),
        ("web.webm", Film(codec="libvpx-vp9", width=66, options=VP9), 0.0, 0, 48),
        ("transport.ts", Film(b_frames=2), 0.0, 0, 48),
        ("old.avi", Film(codec="mpeg4", options=(("qscale", "2"),)), 0.0, 0, 48),
    ],
)
def test_v2a_encodes_anew_without_visible_loss_where_it_is_not(
    tmp_path: Path, name: str, film: Film, start: float, first: int, count: int
) -> None:
    source = make(tmp_path / name, film, Track(codec="libopus", sample_rate=48_000) if "webm" in name else None)

    how, path = v2a(source, start)

    if name == "between-frames.mp4":
        assert how == "copied"  # the frame shown at 0.51 s is a keyframe, and the first of the result
    else:
        assert how == "re-encoded"
    assert_plays_in_browsers(path, "v2a by a test")
    own, result = planes(source)[first : first + count], planes(path)
    assert len(result) == count
    assert min(psnr(mine, theirs) for mine, theirs in zip(own, result, strict=True)) >= 40


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("rate", [Fraction(25), Fraction(60), Fraction(30000, 1001), Fraction(24000, 1001)])
def test_v2a_keeps_the_frame_rate_exactly(tmp_path: Path, rate: Fraction, b_frames: int) -> None:
    source = make(tmp_path / "clip.mp4", Film(fps=rate, frames=120, b_frames=b_frames))

    _, path = v2a(source)

    count = -int(-rate * Fraction(8, 5) // 1)  # frames that begin within 1.6 s
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert video.frames == count
        assert video.average_rate == rate
        assert lasts(video) == count / rate
        # It ends with the last frame; the movie counts milliseconds.
        assert 0 <= lasts(audio) - count / rate <= Fraction(1, 1000)


@pytest.mark.parametrize("b_frames", [0, 2])
def test_v2a_keeps_varying_intervals(tmp_path: Path, b_frames: int) -> None:
    times = [0, 40, 50, 300, 310, 320, 900, 1_000, 1_500, 9_000]
    film = Film(frames=10, times=times, grid=Fraction(1, 1000), b_frames=b_frames)

    how, path = v2a(make(tmp_path / "varying.mp4", film))

    assert how == ("re-encoded" if b_frames else "copied")
    assert shown_at(path) == [Fraction(time, 1000) for time in times[:9]]
    with av.open(str(path)) as container:
        # The source shows its last frame for 7.5 s: it ends with the window.
        assert lasts(container.streams.video[0]) == Fraction(8, 5)


@pytest.mark.parametrize("rate", [1500, 3000, 5000])
def test_v2a_keeps_frames_that_share_a_time_stamp(tmp_path: Path, rate: int) -> None:
    """Matroska counts milliseconds: the first frame shown is the last of those within half of one."""
    source = make(tmp_path / "fast.mkv", Film(frames=300, fps=Fraction(rate), b_frames=2))

    how, path = v2a(source)

    assert how == "re-encoded"
    times = [shown.time for shown in video_frames(path, 0)]
    assert len(times) == 300 - rate // 2000
    assert times == sorted(set(times))
    assert abs(times[-1] - Fraction(299, rate)) < Fraction(1, 500)


@pytest.mark.parametrize(("fps", "seconds"), [(240, 60), (60, 600)])
def test_the_limits_of_a_window_grow_with_it(fps: int, seconds: int) -> None:
    frames, pixels = window_limits(seconds)

    assert frames >= fps * seconds
    assert pixels >= fps * seconds * (3840 * 2160 if fps == 60 else 1920 * 1080)


def test_a_window_of_forty_seconds_at_240_hertz_is_read(tmp_path: Path) -> None:
    film = Film(frames=9600, fps=Fraction(240), width=16, height=16, codec="mpeg4")
    source = make(tmp_path / "slow-motion.mp4", film)

    assert sum(1 for _ in window_frames(source, 0, 40)) == film.frames


def test_a_window_with_far_too_many_frames_is_refused(tmp_path: Path) -> None:
    film = Film(frames=6000, fps=Fraction(60_000), width=16, height=16, codec="mpeg4")
    source = make(tmp_path / "hostile.mp4", film)

    with pytest.raises(MediaError, match="too many frames: 5500 are allowed"):
        list(window_frames(source, 0, 0.1))


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_v2a_keeps_a_phone_video_upright(tmp_path: Path, rotation: int, b_frames: int) -> None:
    film = Film(frames=60, corners=True, rotation=rotation, b_frames=b_frames, aspect=Fraction(4, 3))
    source = make(tmp_path / "phone.mov", film)

    how, path = v2a(source)

    assert how == ("re-encoded" if b_frames else "copied")
    assert torch.equal(
        decode_video(path, CLIP).sub(decode_video(source, CLIP)).abs().gt(0.1), torch.zeros(CLIP.video_shape).bool()
    )
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation % 360 == rotation % 360
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


@pytest.mark.parametrize("b_frames", [0, 2])
def test_v2a_keeps_full_range(tmp_path: Path, b_frames: int) -> None:
    source = make(tmp_path / "full.mp4", Film(color_range=2, b_frames=b_frames))

    _, path = v2a(source)

    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    assert {frame.color_range for frame in frames} == {2}
    assert frames[7].to_ndarray().max() > 250


def test_v2a_fills_up_odd_sides(tmp_path: Path) -> None:
    source = make(tmp_path / "odd.webm", Film(codec="libvpx-vp9", width=65, height=49, options=VP9))

    _, path = v2a(source)

    with av.open(str(source)) as theirs, av.open(str(path)) as ours:
        for before, after in zip(theirs.decode(video=0), ours.decode(video=0), strict=False):
            assert (after.width, after.height) == (66, 50)
            own, result = (np.frombuffer(bytes(f.planes[0]), np.uint8).reshape(f.height, -1) for f in (before, after))
            assert psnr(own[:, :65], result[:49, :65]) >= 40


def test_v2a_of_the_smallest_picture(tmp_path: Path) -> None:
    source = make(
        tmp_path / "dot.gif", Film(codec="gif", pix_fmt="rgb8", fps=Fraction(10), width=1, height=1, frames=20)
    )

    _, path = v2a(source)

    assert_plays_in_browsers(path, "v2a by a test")
    assert len(planes(path)) == 16


def test_v2a_of_an_animated_gif(tmp_path: Path) -> None:
    source = make(tmp_path / "cat.gif", Film(codec="gif", pix_fmt="rgb8", fps=Fraction(20), frames=40, height=50))

    how, path = v2a(source)

    assert how == "re-encoded"
    assert_plays_in_browsers(path, "v2a by a test")
    assert [read_number(picture) for picture in pictures(decode_video(path, CLIP))] == list(range(0, 32, 2))


def test_v2a_sound_starts_with_the_picture_and_ends_with_a_short_one(tmp_path: Path) -> None:
    source = make(tmp_path / "short.mp4", Film(frames=24))

    _, path = v2a(source)

    sound = read_sound(path, Fraction(0), Fraction(2))
    assert abs(len(sound.samples) - 0.8 * 16_000) <= 1024  # a whole AAC frame at the end
    lag, correlation = lag_and_correlation(SOUND[0, :12_800], sound.to_float()[0, :12_800])
    assert lag == 0
    assert correlation > 0.999


def test_v2a_after_the_end_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    source = make(tmp_path / "clip.mp4", Film(frames=30))

    with pytest.raises(MediaError, match="the video ends at"):
        v2a(source, 2.0)

    assert list(tmp_path.iterdir()) == [source]


# a2v: the user's own sound


@pytest.mark.parametrize(
    ("name", "track", "rate", "channels"),
    [
        ("stereo.wav", Track(codec="pcm_s16le", format="s16"), 44_100, 2),
        ("mono.mp3", Track(codec="libmp3lame", layout="mono", sample_rate=48_000), 48_000, 1),
        ("song.m4a", Track(), 44_100, 2),
        ("voice.webm", Track(codec="libopus", sample_rate=48_000, layout="mono"), 48_000, 1),
        ("cinema.flac", Track(codec="flac", format="s16", sample_rate=48_000, layout="5.1"), 48_000, 6),
        ("side.wav", Track(codec="pcm_s16le", format="s16", layout="5.1(side)"), 44_100, 6),
        ("big.wav", Track(codec="pcm_s16le", format="s16", layout="7.1"), 44_100, 8),
        ("studio.flac", Track(codec="flac", format="s32", sample_rate=96_000), 96_000, 2),
        ("phone.wav", Track(codec="pcm_s16le", format="s16", sample_rate=8_000, layout="mono"), 8_000, 1),
    ],
)
def test_a2v_carries_the_sound_at_its_own_rate_and_channels(
    tmp_path: Path, name: str, track: Track, rate: int, channels: int
) -> None:
    source, path = make(tmp_path / name, sound=track), tmp_path / "result.mp4"
    frames = np.stack([numbered(k, 64, 64) for k in range(16)])

    mux_a2v(silent(tmp_path, frames), source, 0.7, SECONDS, path, "a2v by a test")

    assert_plays_in_browsers(path, "a2v by a test")
    assert numbers(decode_video(path, CLIP)) == list(range(16))
    with av.open(str(path)) as container:
        audio = container.streams.audio[0]
        assert audio.rate == rate
        assert lasts(audio) == Fraction(8, 5)
        assert container.duration == 1_600_000
    own = read_sound(source, Fraction(7, 10), Fraction(8, 5)).to_float()
    result = read_sound(path, Fraction(0), Fraction(8, 5)).to_float()
    assert len(result) == channels
    for channel, (before, after) in enumerate(zip(own, result, strict=True)):
        lag, correlation = lag_and_correlation(before, after)
        if channels < 6 or channel != 3:  # the fourth is the subwoofer's: AAC gives it low frequencies only
            assert abs(lag) <= 1
            assert correlation >= 0.99


@pytest.mark.parametrize(
    ("track", "rate", "layout"),
    [
        (Track(codec="pcm_s32le", format="s32", sample_rate=192_000), 96_000, "stereo"),
        (Track(codec="pcm_s16le", format="s16", sample_rate=37_800), 44_100, "stereo"),
        (Track(codec="pcm_s16le", format="s16", layout="9 channels"), 44_100, "mono"),
    ],
)
def test_a2v_fits_what_aac_cannot_carry(tmp_path: Path, track: Track, rate: int, layout: str) -> None:
    source, path = make(tmp_path / "rare.wav", sound=track), tmp_path / "result.mp4"

    mux_a2v(black(tmp_path), source, 0.5, SECONDS, path, "")

    with av.open(str(path)) as container:
        audio = container.streams.audio[0]
        assert (audio.rate, audio.layout.name) == (rate, layout)
        assert lasts(audio) == Fraction(8, 5)
    time = 0.5 + np.arange(round(SECONDS * rate)) / rate
    first = np.mean([tone(time, channel) for channel in range(9)], 0) if layout == "mono" else tone(time)
    lag, correlation = lag_and_correlation(first, read_sound(path, Fraction(0), Fraction(8, 5)).to_float()[0])
    assert abs(lag) <= 1
    assert correlation > 0.99


def test_a2v_of_a_short_sound_ends_in_silence(tmp_path: Path) -> None:
    source = make(tmp_path / "short.wav", sound=Track(codec="pcm_s16le", format="s16", seconds=1.0))
    path = tmp_path / "result.mp4"

    mux_a2v(black(tmp_path), source, 0.4, SECONDS, path, "")

    result = read_sound(path, Fraction(0), Fraction(8, 5)).to_float()
    assert np.abs(result[:, : 44_100 // 2]).max() > 0.4
    assert np.abs(result[:, 44_100 * 7 // 10 :]).max() < 1e-3


@pytest.mark.parametrize(("seconds", "count"), [(0.8, 16), (2.95, 30)])
def test_a2v_sound_is_padded_to_the_end_of_the_last_frame(tmp_path: Path, seconds: float, count: int) -> None:
    source = make(tmp_path / "short.wav", sound=Track(codec="pcm_s16le", format="s16", seconds=seconds))
    path = tmp_path / "result.mp4"

    mux_a2v(black(tmp_path, count), source, 0, seconds, path, "")

    assert media_end(path, "video") == Fraction(count, 10)
    assert abs(media_end(path, "audio") - Fraction(count, 10)) <= Fraction(1, 44_100)
    cut_wav(source, 0, seconds, tmp_path / "cut.wav")
    assert media_end(tmp_path / "cut.wav", "audio") == Fraction(round(seconds * 44_100), 44_100)


@pytest.mark.parametrize(
    ("name", "track"),
    [
        ("a.wav", Track(codec="pcm_u8", format="u8")),
        ("a.wav", Track(codec="pcm_s16le", format="s16", layout="5.1")),
        ("a.aiff", Track(codec="pcm_s16be", format="s16")),
        ("a.flac", Track(codec="flac", format="s16", layout="7.1", sample_rate=96_000)),
        ("a.wav", Track(codec="pcm_f32le", format="flt", layout="mono", sample_rate=11_025)),
    ],
)
def test_the_wav_is_the_users_sound_bit_by_bit(tmp_path: Path, name: str, track: Track) -> None:
    source = make(tmp_path / name, sound=track)

    cut_wav(source, 0.7, SECONDS, tmp_path / "cut.wav")

    first = round(0.7 * track.sample_rate)
    expected = track.samples()[first : first + round(SECONDS * track.sample_rate)]
    with av.open(str(tmp_path / "cut.wav")) as container:
        assert container.streams.audio[0].rate == track.sample_rate
        cut = np.concatenate([frame.to_ndarray().reshape(-1, track.channels) for frame in container.decode(audio=0)])
    assert cut.dtype == expected.dtype
    assert np.array_equal(cut, expected)


# The real clips


def test_the_rabbit_keeps_its_first_48_frames(clips: Path, tmp_path: Path) -> None:
    path = tmp_path / "result.mp4"

    how = mux_v2a(clips / "rabbit320.mp4", 0, SECONDS, SOUND, 16_000, path, "v2a of the rabbit")

    assert how == "copied"
    assert_plays_in_browsers(path, "v2a of the rabbit")
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.frames, video.average_rate) == (320, 240, 48, 30)
        assert container.duration == 1_600_000
    assert all(
        np.array_equal(own, result)
        for own, result in zip(planes(clips / "rabbit320.mp4")[:48], planes(path), strict=True)
    )


@pytest.mark.parametrize(("name", "start"), [("viper.mp3", 0.0), ("viper.mp3", 12.34), ("rabbit320.mp4", 3.0)])
def test_real_sound_comes_through(clips: Path, tmp_path: Path, name: str, start: float) -> None:
    path = tmp_path / "result.mp4"

    mux_a2v(black(tmp_path, 16, 64), clips / name, start, SECONDS, path, "a2v")
    cut_wav(clips / name, start, SECONDS, tmp_path / "audio.wav")

    with av.open(str(clips / name)) as container:
        whole = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], 1)
    own = whole[:, round(start * 44_100) :][:, : round(SECONDS * 44_100)]
    result = read_sound(path, Fraction(0), Fraction(8, 5))
    exact = read_sound(tmp_path / "audio.wav", Fraction(0), Fraction(8, 5))
    assert result.sample_rate == exact.sample_rate == 44_100
    assert np.array_equal(exact.to_float(), own)
    for before, after in zip(own, result.to_float(), strict=True):
        lag, correlation = lag_and_correlation(before, after)
        assert abs(lag) <= 1
        assert correlation >= 0.99
