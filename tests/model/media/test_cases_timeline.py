"""Times are those that a player shows, in what the network sees and hears and in the result alike."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from model.media.decode import decode_video
from model.media.frames import video_frames
from model.media.mux import cut_wav, mux_v2a
from model.media.source import read_sound
from model.networks.config import ClipSpec
from tests.clips import Film, Track, make, read_number, tone
from tests.measure import lasts, numbers, shown_at

CLIP = ClipSpec(height=32, width=32)
SOUND = np.zeros((1, CLIP.samples), np.float32)


def v2a(source: Path, start: float) -> tuple[str, Path]:
    path = source.with_name("result.mp4")
    return mux_v2a(source, start, CLIP.duration, SOUND, CLIP.sample_rate, path, ""), path


def read_numbers(path: Path) -> list[int]:
    with av.open(str(path)) as container:
        return [read_number(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]


@pytest.mark.parametrize(
    ("name", "film", "start", "how"),
    [
        ("slow.mp4", Film(fps=Fraction(1), frames=6, gop=1), 0.9, "copied"),
        ("slow.mp4", Film(fps=Fraction(1), frames=6, gop=1), 3.25, "copied"),
        ("slow-b.mp4", Film(fps=Fraction(1), frames=6, b_frames=2), 0.9, "re-encoded"),
        ("animated.gif", Film(codec="gif", pix_fmt="rgb8", fps=Fraction(2), frames=12), 0.45, "re-encoded"),
        ("still.avi", Film(codec="mpeg4", fps=Fraction(3), frames=12), 0.5, "re-encoded"),
        ("varying.mkv", Film(frames=6, times=[0, 700, 750, 1900, 2000, 5000], grid=Fraction(1, 1000)), 0.4, "copied"),
    ],
)
def test_a_long_first_frame_lasts_until_its_own_end(
    tmp_path: Path, name: str, film: Film, start: float, how: str
) -> None:
    source = make(tmp_path / name, film)
    times = [Fraction(time) * (film.grid or 1 / film.fps) for time in film.times or range(film.frames)]
    first = max(index for index, time in enumerate(times) if time <= start)
    expected = [0.0] + [float(time) - start for time in times[first + 1 :] if time < start + CLIP.duration]

    done, path = v2a(source, start)

    assert done == how
    assert [float(time) for time in shown_at(path)] == pytest.approx(expected, abs=0.001)
    assert read_numbers(path) == list(range(first, first + len(expected)))
    assert numbers(decode_video(path, CLIP)) == numbers(decode_video(source, CLIP, start))
    with av.open(str(path)) as container:
        assert float(lasts(container.streams.video[0])) == pytest.approx(CLIP.duration, abs=0.001)


@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize(("start", "first"), [(1.0, 15), (0.5, 0), (0.0, 0)])
def test_a_video_that_begins_after_the_sound_is_late(tmp_path: Path, b_frames: int, start: float, first: int) -> None:
    film = Film(b_frames=b_frames, times=[index + 15 for index in range(90)])
    source = make(tmp_path / "late.mp4", film, Track())

    _, path = v2a(source, start)

    assert read_numbers(path)[0] == first
    assert float(shown_at(path)[1]) == pytest.approx((first + 16) / 30 - start, abs=0.001)
    assert numbers(decode_video(source, CLIP, start)) == [max(0, round(30 * start) + 3 * k - 15) for k in range(16)]


def test_sound_that_begins_after_the_video_is_late(tmp_path: Path) -> None:
    source = tmp_path / "late.mov"
    late = make(tmp_path / "sound.wav", sound=Track(codec="pcm_s16le", format="s16", layout="mono"))
    with av.open(str(source), "w") as container, av.open(str(late)) as sound:
        video = container.add_stream("libx264", rate=30)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=44_100, layout="mono")
        for index in range(60):
            frame = av.VideoFrame.from_ndarray(Film().picture(index), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        for frame in sound.decode(audio=0):
            frame.pts = (frame.pts or 0) + 22_050
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))

    heard = read_sound(source, Fraction(0), Fraction(1)).to_float()[0]

    assert not heard[:22_050].any()
    assert np.abs(heard[22_050:] - tone(np.arange(22_050) / 44_100)).max() < 1e-3


@pytest.mark.parametrize("start", [0.0, 0.4, 1.0, 1.3])
@pytest.mark.parametrize(
    "film", [Film(b_frames=2), Film(b_frames=3, gop=40), Film(codec="mpeg4", options=(("bf", "2"), ("qscale", "2")))]
)
def test_an_avi_counts_frames_in_the_order_shown(tmp_path: Path, film: Film, start: float) -> None:
    source = make(tmp_path / "b-frames.avi", film)
    first = int(start * 30 + 0.01)

    assert [round(30 * shown.time) for shown in video_frames(source, 0)] == list(range(90))
    assert numbers(decode_video(source, CLIP, start)) == [first + 3 * k for k in range(16)]
    _, path = v2a(source, start)
    assert read_numbers(path) == list(range(first, first + 48))


def changing(path: Path) -> Path:
    """Transport stream of AC-3: 1 s of stereo, then 2 s of 5.1, one stream written behind the other."""
    parts = b""
    for layout, seconds in (("stereo", 1.024), ("5.1(side)", 2.048)):
        part = path.with_suffix(f".{len(parts)}.ts")
        track = Track(codec="ac3", format="flt", layout=layout, sample_rate=48_000, seconds=seconds)
        parts += make(part, sound=track).read_bytes()
    path.write_bytes(parts)
    return path


@pytest.mark.parametrize(
    ("start", "layout", "converted"), [(0.2, "stereo", True), (0.5, "stereo", True), (1.2, "5.1(side)", False)]
)
def test_a_window_has_the_format_that_it_begins_with(
    tmp_path: Path, start: float, layout: str, converted: bool
) -> None:
    source = changing(tmp_path / "changing.ts")

    sound = read_sound(source, Fraction(start), Fraction(8, 5))

    assert sound.layout == layout
    assert bool(sound.converted) == converted
    assert len(sound.samples) == 76_800
    assert np.abs(sound.to_float()[:, -48_000 // 4 :]).max() > 0.1
    cut_wav(source, start, 1.6, tmp_path / "cut.wav")
