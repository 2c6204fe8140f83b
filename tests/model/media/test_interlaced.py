"""Interlaced videos: fields are kept in the result, and whole pictures are made of them for posters and the network."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from model.media.decode import decode_video, upright_rgb
from model.media.frames import video_frames
from model.media.mux import mux_v2a
from model.media.poster import draw_poster
from model.networks.config import ClipSpec
from tests.clips import Film, make
from tests.measure import shown_at

SOUND = np.zeros((1, 25_600), np.float32)
FIELDS = (("flags", "+ilme+ildct"), ("bf", "0"), ("qscale", "2"))
TOP, BOTTOM = 2, 3
"""Field orders as the library counts them: the top or the bottom field first."""

STEP = 4
"""Pixels by which the bar moves from field to field."""


class Moving(Film):
    """A white bar that moves to the right from field to field, the bottom field first."""

    def picture(self, index: int) -> np.ndarray:
        picture = np.zeros((self.height, self.width, 3), np.uint8)
        for parity, time in ((1, 2 * index), (0, 2 * index + 1)):
            left = STEP * time % (self.width - 16)
            picture[parity::2, left : left + 16] = 255
        return picture


def v2a(source: Path) -> tuple[str, Path]:
    path = source.with_name("result.mp4")
    return mux_v2a(source, 0.0, 1.6, SOUND, 16_000, path, ""), path


def flags(path: Path) -> Iterator[bool]:
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            yield frame.interlaced_frame


def combing(picture: np.ndarray) -> float:
    """Mean difference of a line from the one below, of a picture whose lines are all alike if it is whole."""
    return float(np.abs(np.diff(picture[4:-4].astype(float), axis=0)).mean())


def test_pictures_are_deinterlaced_for_the_network_and_the_poster(tmp_path: Path) -> None:
    """The reference is the first field of each frame, doubled in height: what was in motion is there once."""
    film = Moving(frames=60, width=128, height=96, codec="mpeg2video", options=FIELDS)
    source = make(tmp_path / "interlaced.avi", film)

    woven = list(video_frames(source, 0, keep_fields=True))
    whole = list(video_frames(source, 0))

    assert [(each.time, each.duration) for each in whole] == [(each.time, each.duration) for each in woven]
    assert all(each.frame.interlaced_frame for each in woven)
    assert not any(each.frame.interlaced_frame for each in whole)
    for before, after in list(zip(woven, whole, strict=True))[2:-2]:
        assert combing(upright_rgb(before)) > 10
        assert combing(upright_rgb(after)) < 3
        first_field = upright_rgb(before)[1::2].repeat(2, 0)
        assert np.abs(upright_rgb(after).astype(int) - first_field).mean() < 6
    draw_poster(source, tmp_path / "poster.webp")
    with Image.open(tmp_path / "poster.webp") as poster:
        assert combing(np.asarray(poster.convert("RGB"))) < 3
    view = decode_video(source, ClipSpec(height=96, width=128))
    assert max(combing((picture.permute(1, 2, 0).numpy() + 1) * 127.5) for picture in view[1:]) < 3


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_a_height_that_has_no_fields_in_h264_is_deinterlaced_and_the_job_says_so(tmp_path: Path, start: float) -> None:
    source = make(tmp_path / "486.avi", Moving(frames=90, height=54, width=128, codec="mpeg2video", options=FIELDS))

    path = tmp_path / "result.mp4"
    how = mux_v2a(source, start, 1.6, SOUND, 16_000, path, "")

    assert how == "re-encoded, deinterlaced"
    assert not any(flags(path))
    assert [float(time) for time in shown_at(path)] == pytest.approx([k / 30 for k in range(48)], abs=0.001)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert max(combing(frame) for frame in frames[1:-1]) < 4


def test_the_field_order_is_that_of_the_frames_where_the_container_has_none(tmp_path: Path) -> None:
    """DV from an NTSC camera has the bottom field first."""
    film = Film(frames=60, fps=Fraction(30000, 1001), width=720, height=480, codec="dvvideo", pix_fmt="yuv411p")
    source = make(tmp_path / "dv.avi", film)

    how, path = v2a(source)

    assert how == "re-encoded"
    assert all(flags(path))
    with av.open(str(source)) as theirs, av.open(str(path)) as ours:
        assert theirs.streams.video[0].codec_context.field_order not in (TOP, BOTTOM)
        assert ours.streams.video[0].codec_context.field_order == BOTTOM


def test_a_video_that_becomes_interlaced_keeps_its_fields(tmp_path: Path) -> None:
    """Two transport streams joined: 20 progressive frames, then interlaced ones."""
    whole = make(tmp_path / "a.ts", Film(frames=20, codec="mpeg2video", options=FIELDS[2:]))
    fields = make(tmp_path / "b.ts", Film(frames=60, codec="mpeg2video", options=FIELDS))
    source = tmp_path / "joined.ts"
    source.write_bytes(whole.read_bytes() + fields.read_bytes())
    assert [each.frame.interlaced_frame for each in video_frames(source, 0, keep_fields=True)][10:30:19] == [0, 1]

    how, path = v2a(source)

    assert how == "re-encoded"
    assert all(flags(path))
    assert len(shown_at(path)) == 48
