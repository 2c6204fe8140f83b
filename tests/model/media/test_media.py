"""What the network sees and hears of a file: frames by their numbers, sound against what it was made from."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from model.media.decode import decode_audio, decode_video, letterbox
from model.media.encode import write_wav
from model.media.source import MediaError
from model.networks.config import ClipSpec
from tests.clips import CORNERS, Film, Track, make, tone
from tests.measure import lag_and_correlation, numbers, pictures

CLIP = ClipSpec(height=32, width=32)
SECONDS = CLIP.duration
VP9 = (("deadline", "realtime"), ("cpu-used", "8"), ("crf", "10"), ("b", "0"))


# What the network sees


@pytest.mark.parametrize(
    ("name", "film"),
    [
        ("10fps.mp4", Film(fps=Fraction(10), frames=30)),
        ("24fps.mov", Film(fps=Fraction(24))),
        ("ntsc.mp4", Film(fps=Fraction(30000, 1001))),
        ("b-frames.mp4", Film(b_frames=3)),
        ("50fps.mkv", Film(fps=Fraction(50), frames=100)),
        ("vp9.webm", Film(codec="libvpx-vp9", width=66, options=VP9)),
        ("transport.ts", Film()),
        ("mpeg4.avi", Film(codec="mpeg4", options=(("qscale", "2"),))),
        ("animated.gif", Film(codec="gif", pix_fmt="rgb8", fps=Fraction(20), frames=40)),
    ],
)
def test_frame_k_is_what_a_player_shows_at_k_over_fps(tmp_path: Path, name: str, film: Film) -> None:
    path = make(tmp_path / name, film)

    expected = [int(Fraction(k, CLIP.fps) * film.fps) for k in range(CLIP.frames)]

    view = decode_video(path, CLIP)
    assert view.shape == CLIP.video_shape
    assert view.dtype == torch.float32
    assert numbers(view) == expected


def test_frames_are_chosen_by_time_where_the_rate_varies(tmp_path: Path) -> None:
    still_then_fast = [0, 500, *range(1000, 1600, 20)]  # milliseconds: half-seconds, then 50 hertz
    film = Film(frames=len(still_then_fast), times=still_then_fast, grid=Fraction(1, 1000))

    expected = [sum(t <= 100 * k for t in still_then_fast) - 1 for k in range(CLIP.frames)]

    assert numbers(decode_video(make(tmp_path / "varying.mp4", film), CLIP)) == expected


@pytest.mark.parametrize("start", [0.4, 0.517, 1.0])
def test_the_window_begins_with_the_frame_shown_at_its_start(tmp_path: Path, start: float) -> None:
    path = make(tmp_path / "clip.mp4", Film(b_frames=2))

    expected = [int(Fraction(start) * 30 + 3 * k + Fraction(1, 100)) for k in range(CLIP.frames)]

    assert numbers(decode_video(path, CLIP, start)) == expected


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.ts", "long.avi"])
def test_a_late_window_is_found_by_seeking_and_is_the_same(tmp_path: Path, name: str) -> None:
    film = Film(frames=200, fps=Fraction(10), b_frames=0 if name.endswith("avi") else 2, gop=40)
    path = make(tmp_path / name, film)

    assert numbers(decode_video(path, CLIP, 15.3)) == list(range(153, 169))


def test_a_short_video_is_held_on_its_last_frame(tmp_path: Path) -> None:
    path = make(tmp_path / "short.mp4", Film(frames=5, fps=Fraction(10)))

    assert numbers(decode_video(path, CLIP)) == [0, 1, 2, 3, *[4] * 12]


@pytest.mark.parametrize(("rotation", "quarter_turns"), [(0, 0), (90, 1), (180, 2), (-90, 3)])
def test_a_rotated_video_is_seen_upright(tmp_path: Path, rotation: int, quarter_turns: int) -> None:
    path = make(tmp_path / "phone.mov", Film(width=64, height=64, frames=3, corners=True, rotation=rotation))

    seen = pictures(decode_video(path, CLIP))[0]
    quadrants = seen[8::16, 8::16][:2, :2].astype(int)

    assert np.abs(quadrants - np.rot90(CORNERS.astype(int), quarter_turns)).max() < 12


@pytest.mark.parametrize(
    ("rows", "columns", "inside"),
    [
        (48, 64, (slice(4, 28), slice(0, 32))),  # 24 × 32: 4 rows of border above and below
        (64, 30, (slice(0, 32), slice(8, 23))),  # 32 × 15: 8 columns left, 9 right
        (27, 64, (slice(9, 22), slice(0, 32))),  # 13.5 rows are 13: 9 above, 10 below
    ],
)
def test_letterbox_centres_and_puts_the_odd_pixel_right_and_below(
    rows: int, columns: int, inside: tuple[slice, slice]
) -> None:
    boxed = letterbox(np.full((rows, columns, 3), 200, np.uint8), 32, 32)

    expected = torch.zeros(3, 32, 32, dtype=torch.uint8)
    expected[:, inside[0], inside[1]] = 200
    assert torch.equal(boxed, expected)


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), 64)[None, :, None].repeat(128, 0).repeat(3, 2)

    shrunk = letterbox(stripes, 32, 32)[:, 4:-4, 4:-4].float()

    assert (shrunk - 127.5).abs().max() < 6


# What the network hears


@pytest.mark.parametrize("start", [0.0, 0.36, 1.1])
@pytest.mark.parametrize(
    ("name", "track", "closeness"),
    [
        ("44k.wav", Track(codec="pcm_s16le", format="s16"), 1e-3),
        ("48k.flac", Track(codec="flac", format="s32", sample_rate=48_000), 1e-3),
        ("22k.wav", Track(codec="pcm_s16le", format="s16", sample_rate=22_050), 1e-3),
        ("8k.wav", Track(codec="pcm_s16le", format="s16", sample_rate=8_000), 1e-3),
        ("sound.m4a", Track(), 0.03),
        ("sound.mp3", Track(codec="libmp3lame"), 0.03),
        ("sound.webm", Track(codec="libopus", sample_rate=48_000), 0.1),
        ("7.1.flac", Track(codec="flac", format="s16", layout="7.1"), 1e-3),
    ],
)
def test_sound_is_the_mean_of_the_channels_at_the_right_time(
    tmp_path: Path, name: str, track: Track, closeness: float, start: float
) -> None:
    path = make(tmp_path / name, sound=track)
    time = start + np.arange(CLIP.samples) / CLIP.sample_rate
    expected = np.mean([tone(time, channel) for channel in range(track.channels)], axis=0)

    heard = decode_audio(path, CLIP, start)

    assert heard.shape == CLIP.audio_shape
    assert heard.dtype == torch.float32
    lag, correlation = lag_and_correlation(expected, heard[0].numpy())
    assert abs(lag) <= 1
    assert correlation > 0.99
    inner = slice(400, -400)  # the filter meets the file's own edges where the window touches them
    assert np.abs(heard[0].numpy() - expected)[inner].max() < closeness


def test_sound_that_is_in_the_second_channel_only_is_heard(tmp_path: Path) -> None:
    wave = np.zeros((2, 16_000), np.float32)
    wave[1] = tone(np.arange(16_000) / 16_000)
    write_wav(tmp_path / "right.wav", wave, 16_000)

    assert np.allclose(decode_audio(tmp_path / "right.wav", CLIP)[0, :16_000], wave[1] / 2, atol=1e-4)


def test_a_short_sound_is_followed_by_silence(tmp_path: Path) -> None:
    path = make(tmp_path / "short.wav", sound=Track(codec="pcm_s16le", format="s16", seconds=0.5))

    heard = decode_audio(path, CLIP)

    assert heard[0, 100:7900].abs().max() > 0.4
    assert heard[0, 8100:].abs().max() == 0


def test_an_odd_sample_rate_does_not_cost_memory(tmp_path: Path) -> None:
    track = Track(codec="pcm_s16le", format="s16", sample_rate=44_099, layout="mono")
    path = make(tmp_path / "odd.wav", sound=track)

    heard = decode_audio(path, CLIP)[0].numpy()

    assert np.abs(heard - tone(np.arange(CLIP.samples) / CLIP.sample_rate))[400:-400].max() < 5e-3


@pytest.mark.parametrize(
    ("film", "sound", "start", "read", "message"),
    [
        (None, Track(seconds=0.5), 0.0, decode_video, "no video track"),
        (Film(frames=10), None, 0.0, decode_audio, "no audio track"),
        (Film(frames=30), None, 1.5, decode_video, r"begins at 1\.500 s, but the video ends at 1\.000 s"),
        (None, Track(seconds=0.5), 2.0, decode_audio, "the sound ends at 0.5"),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, film, sound, start, read, message) -> None:  # type: ignore[no-untyped-def]
    path = make(tmp_path / "clip.mp4", film, sound)

    with pytest.raises(MediaError, match=message):
        read(path, CLIP, start)


def test_a_title_in_an_old_encoding_does_not_matter(tmp_path: Path) -> None:
    path = make(tmp_path / "song.mp3", sound=Track(codec="libmp3lame"))
    path.write_bytes(path.read_bytes() + b"TAG" + "Café".encode("latin-1").ljust(125, b"\0"))  # ID3v1

    assert decode_audio(path, CLIP).abs().max() > 0.4


def test_a_playlist_is_not_followed(tmp_path: Path) -> None:
    make(tmp_path / "secret.ts", Film(frames=10))
    playlist = tmp_path / "list.mp4"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n")

    with pytest.raises(MediaError):
        decode_video(playlist, CLIP)


def test_the_network_sees_and_hears_the_rabbit(clips: Path) -> None:
    view, sound = decode_video(clips / "rabbit320.mp4", CLIP), decode_audio(clips / "rabbit320.mp4", CLIP)

    assert view.shape == CLIP.video_shape
    assert (view[:, :, :4] == -1).all()  # 4:3 in a square: four black rows above and below
    assert (view[:, :, -4:] == -1).all()
    assert view[:, :, 4:-4].std() > 0.1
    assert sound.shape == CLIP.audio_shape
    assert 1e-3 < sound.std() < 1
