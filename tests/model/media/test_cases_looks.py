"""How a picture looks and where a sound is heard stays, copied and re-encoded alike."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from model.media.decode import decode_video
from model.media.mux import mux_a2v, mux_v2a
from model.media.poster import Poster, draw_poster
from model.media.source import read_sound
from model.networks.config import ClipSpec
from tests.clips import Film, Track, black, make
from tests.measure import lag_and_correlation, pictures
from tests.model.media.fitting import fit_layout
from tests.model.media.sample_entry import clap, dolby_vision, extend_sample_entry

SOUND = np.zeros((1, 25_600), np.float32)


def v2a(source: Path) -> tuple[str, Path]:
    path = source.with_name("result.mp4")
    return mux_v2a(source, 0.0, 1.6, SOUND, 16_000, path, ""), path


def test_a_pixel_shape_that_only_the_container_has_is_kept(tmp_path: Path) -> None:
    plain, source = make(tmp_path / "plain.mp4", Film()), tmp_path / "wide.mp4"
    with av.open(str(plain)) as theirs, av.open(str(source), "w") as container:
        stream = container.add_stream_from_template(theirs.streams.video[0])
        stream.codec_context.sample_aspect_ratio = Fraction(32, 27)
        for packet in theirs.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)

    how, path = v2a(source)

    assert how == "copied"
    with av.open(str(path)) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(32, 27)


def test_palette_pictures_are_tagged_with_the_matrix_used(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "palette.mov"), "w") as container:
        stream = container.add_stream("png", rate=15)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
        for _ in range(30):
            frame = av.VideoFrame(64, 48, "pal8")
            for plane in frame.planes:
                plane.update(b"\x40" * plane.buffer_size)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    _, path = v2a(tmp_path / "palette.mov")

    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert (frame.colorspace, frame.color_range) == (1, 1)


def test_the_field_order_stays(tmp_path: Path) -> None:
    for codec, name in (("mpeg2video", "a.ts"), ("libx264", "b.ts")):
        options = (("flags", "+ilme+ildct"), ("bf", "2"), ("top", "1"), ("x264-params", "tff=1"))
        source = make(tmp_path / name, Film(codec=codec, options=options[:2] + options[3:] * (codec == "libx264")))

        how, path = v2a(source)

        assert how == "re-encoded"
        with av.open(str(source)) as theirs, av.open(str(path)) as ours:
            before, after = next(theirs.decode(video=0)), next(ours.decode(video=0))
            assert before.interlaced_frame
            assert after.interlaced_frame
            assert theirs.streams.video[0].codec_context.field_order == ours.streams.video[0].codec_context.field_order


def test_mastering_display_and_light_level_stay(tmp_path: Path) -> None:
    light = "mastering-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):cll=1000,400"
    film = Film(pix_fmt="yuv420p10le", b_frames=2, options=(("x264-params", light),))
    source = make(tmp_path / "hdr.mkv", film)

    _, path = v2a(source)

    with av.open(str(source)) as theirs, av.open(str(path)) as ours:
        before, after = (
            {one.type.name: bytes(one) for one in next(container.decode(video=0)).side_data}
            for container in (theirs, ours)
        )
    for name in ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL"):
        assert before[name] == after[name]


@pytest.mark.parametrize(
    ("layout", "carried", "seats"),
    [
        ("2.1", "5.1", [0, 1, 3]),
        ("3.0(back)", "4.0", [0, 1, 3]),
        ("quad", "5.0", [0, 1, 3, 4]),
        ("quad(side)", "5.0", [0, 1, 3, 4]),
        ("4.0", "4.0", [0, 1, 2, 3]),
        ("5.1(side)", "5.1", [0, 1, 2, 3, 4, 5]),
        ("3.1", "5.1", [0, 1, 2, 3]),
        ("7.0", "7.1", [0, 1, 2, 4, 5, 6, 7]),
    ],
)
def test_the_nearest_aac_layout_keeps_all_channels(tmp_path: Path, layout: str, carried: str, seats: list[int]) -> None:
    source = make(tmp_path / "a.wav", sound=Track(codec="pcm_s16le", format="s16", layout=layout))

    changes = mux_a2v(black(tmp_path), source, 0.5, 1.6, tmp_path / "a.mp4", "")

    assert changes == ""
    own = read_sound(source, Fraction(1, 2), Fraction(8, 5)).to_float()
    result = read_sound(tmp_path / "a.mp4", Fraction(0), Fraction(8, 5))
    assert result.layout == carried
    for before, seat in zip(own, seats, strict=True):
        if seat != 3 or carried not in ("5.1", "7.1"):  # AAC gives the subwoofer low frequencies only
            lag, correlation = lag_and_correlation(before, result.to_float()[seat])
            assert abs(lag) <= 1
            assert correlation >= 0.99


@pytest.mark.parametrize(
    ("layout", "carried"), [("6.1", "7.1"), ("ambisonic 1", "stereo"), ("9 channels", "mono"), ("hexagonal", "5.0")]
)
def test_other_layouts_are_mixed_down_and_the_job_says_so(tmp_path: Path, layout: str, carried: str) -> None:
    channels = 9 if layout == "9 channels" else len(av.AudioLayout(layout).channels)
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, (channels, 4800)).astype(np.float32)

    mixed, configured, is_mix = fit_layout(wave, layout)

    assert (configured, is_mix) == (carried, True)
    assert mixed.shape[1] == 4800
    assert np.abs(mixed).max() > 0.1


def test_a_crop_by_the_container_is_applied(tmp_path: Path) -> None:
    """Matroska's PixelCropLeft of 16, in place of the unit of the display size, of which there is none."""
    source = make(tmp_path / "cropped.mkv", Film(frames=60))
    data = source.read_bytes()
    assert data.count(b"\x54\xb2\x81\x04") == 1
    source.write_bytes(data.replace(b"\x54\xb2\x81\x04", b"\x54\xcc\x81\x10"))

    how, path = v2a(source)

    assert how == "re-encoded"
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.sample_aspect_ratio or 1) == (48, 48, 1)


@pytest.mark.parametrize(
    ("rotation", "aspect", "shown"),
    [(None, None, (64, 48)), (90, None, (48, 64)), (None, Fraction(2), (128, 48)), (90, Fraction(2), (48, 128))],
)
def test_a_clean_aperture_crops_everywhere(
    tmp_path: Path, rotation: int | None, aspect: Fraction | None, shown: tuple[int, int]
) -> None:
    """Of 128×96 pixels the upper left quadrant, which is all red: crop first, then stretch and turn."""
    film = Film(frames=60, width=128, height=96, corners=True, rotation=rotation, aspect=aspect)
    source = extend_sample_entry(make(tmp_path / "clap.mp4", film), clap(64, 48, across=-32, down=-24))

    how, path = v2a(source)

    assert how == "re-encoded"
    with av.open(str(path)) as container:
        video, frame = container.streams.video[0], next(container.decode(video=0))
        assert (video.width, video.height, video.sample_aspect_ratio or 1) == (64, 48, aspect or 1)
        assert abs(frame.rotation) == (rotation or 0)
    for file in (source, path):
        poster = Poster.from_json(draw_poster(file, tmp_path / "poster.webp"))
        assert (poster.width, poster.height) == shown
        view = pictures(decode_video(file, ClipSpec(height=64, width=64)))
        inside = view[:, 30:34, 30:34].reshape(-1, 3).astype(int)
        assert np.abs(inside - (255, 0, 0)).max() < 16


def test_the_pixels_of_a_clean_aperture_are_square_unless_said(tmp_path: Path) -> None:
    """The display size of the track header is that of the clean aperture: 64×48 of 64×64 pixels."""
    film = Film(frames=60, height=64)
    source = extend_sample_entry(make(tmp_path / "clap.mp4", film), clap(64, 48))
    data = bytearray(source.read_bytes())
    header = data.index(b"tkhd") + 80
    data[header : header + 8] = (64 << 16).to_bytes(4, "big") + (48 << 16).to_bytes(4, "big")
    source.write_bytes(data)

    _, path = v2a(source)

    with av.open(str(path)) as container:
        video = container.streams.video[0]
        assert (video.width, video.height, video.sample_aspect_ratio or 1) == (64, 48, 1)


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2)])
def test_the_network_sees_pixels_as_wide_as_a_player_shows_them(tmp_path: Path, aspect: Fraction) -> None:
    source = make(tmp_path / "wide.mp4", Film(frames=60, width=64, height=64, corners=True, aspect=aspect))

    view = pictures(decode_video(source, ClipSpec(height=64, width=64)))

    lit = view.max(axis=(0, 3)) > 60
    assert (lit.any(axis=0).sum(), lit.any(axis=1).sum()) == ((64, 32) if aspect > 1 else (32, 64))


@pytest.mark.parametrize(("profile", "wrong"), [(5, True), (8, False)])
def test_dolby_vision_whose_colours_cannot_be_shown_is_said(tmp_path: Path, profile: int, wrong: bool) -> None:
    """Profile 5 has no base layer in BT.2020: its colours are right only with the metadata. That of 8 is HDR10."""
    film = Film(frames=60, codec="libx265", pix_fmt="yuv420p10le", options=(("x265-params", "log-level=none"),))
    source = extend_sample_entry(make(tmp_path / "dv.mp4", film), dolby_vision(profile))

    how, _ = v2a(source)

    said = ", colours wrong (Dolby Vision profile 5 is not supported)"
    assert how == ("re-encoded" + said * wrong)
