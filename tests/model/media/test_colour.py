"""Colours: the right matrix for every source, and HDR shown as SDR in posters and to the network."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from PIL import Image

from model.media.colour import (
    TO_BT709,
    hlg_to_light,
    light_to_hlg,
    light_to_pq,
    pq_to_light,
    to_rgb,
    tone_map,
    tone_unmap,
)
from model.media.decode import decode_video
from model.media.frames import TimedFrame
from model.media.mux import mux_v2a
from model.media.poster import Poster, draw_poster
from model.media.yuv_blend import replaced
from model.networks.config import ClipSpec
from tests.measure import pictures

SOUND = np.zeros((1, 25_600), np.float32)
H264_LAST = 14
"""The last matrix that the H.264 encoder knows."""
PQ, HLG, BT2020 = 16, 18, 9
"""ITU-T H.273."""

TO_BT2020 = np.linalg.inv(TO_BT709)

PATCHES = np.array(
    [(230, 30, 30), (30, 200, 40), (40, 50, 220), (235, 235, 235), (128, 128, 128), (210, 190, 30)], "u1"
)


def patches(colours: np.ndarray = PATCHES, side: int = 48) -> np.ndarray:
    """(side, side·n, 3): squares of the colours (n, 3) side by side."""
    return np.repeat(np.repeat(colours[None], side, 0), side, 1)


def measured(picture: np.ndarray, count: int) -> np.ndarray:
    """(count, 3): the colours in the middle of the squares."""
    height, width = picture.shape[:2]
    centres = [(2 * k + 1) * width // (2 * count) for k in range(count)]
    return np.stack([picture[height // 4 : -height // 4, at - 10 : at + 10].mean((0, 1)) for at in centres])


def write(
    path: Path,
    frame: av.VideoFrame,
    codec: str,
    tags: dict[str, int] | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Two seconds of `frame`, at 10 Hz, with the colour tags of `tags`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options or {})
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, frame.format.name
        for name, value in (tags or {}).items():
            setattr(stream.codec_context, name, value)
        for index in range(20):
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def ten_bit(codes: np.ndarray) -> av.VideoFrame:
    """4:2:0, BT.2020, limited range, of R'G'B' (n, 3) in [0, 1] as patches."""
    red, green, blue = np.moveaxis(patches(codes), 2, 0)
    luma = 0.2627 * red + 0.6780 * green + 0.0593 * blue
    planes = 64 + 876 * luma, 512 + 896 * (blue - luma) / 1.8814, 512 + 896 * (red - luma) / 1.4746
    frame = av.VideoFrame(red.shape[1], red.shape[0], "yuv420p10le")
    for plane, values, step in zip(frame.planes, planes, (1, 2, 2), strict=True):
        padded = np.zeros((plane.height, plane.line_size // 2), "<u2")
        padded[:, : plane.width] = np.round(values[::step, ::step])
        plane.update(padded.tobytes())
    frame.colorspace = frame.color_primaries = BT2020
    frame.color_range = 1
    return frame


@pytest.mark.parametrize(
    ("light", "expected"),
    [
        ((0.1, 0.1, 0.1), (11, 11, 11)),
        ((1, 1, 1), (28, 28, 28)),
        ((10, 10, 10), (73, 73, 73)),
        ((50, 50, 50), (142, 142, 142)),
        ((80, 80, 80), (173, 173, 173)),
        ((50, 10, 10), (170, 55, 70)),
        ((10, 50, 10), (0, 148, 59)),
        ((10, 10, 50), (63, 72, 148)),
        ((30, 40, 10), (107, 132, 62)),
    ],
)
def test_pq_below_the_knee_is_only_converted(light: tuple[float, ...], expected: tuple[int, ...]) -> None:
    """Values of zimg: `zscale` of FFmpeg 5.1, PQ and BT.2020 → linear (npl=203) → BT.709, clipped."""
    frame = ten_bit(light_to_pq(np.array([light])))
    frame.color_trc = PQ

    assert np.abs(measured(to_rgb(frame), 1)[0] - expected).max() <= 1.5


def test_the_knee_of_bt2390() -> None:
    """EETF for 1000 → 203 cd/m²: identity below, peak to white, smooth and rising, hues kept."""
    light = np.geomspace(1, 4000, 400)[:, None] * np.array([[1.0, 0.5, 0.25]])

    mapped = tone_map(light, 1000.0)

    knee = pq_to_light(1.5 * light_to_pq(203.0) - 0.5 * light_to_pq(1000.0))
    assert mapped[light[:, 0] < knee] == pytest.approx(light[light[:, 0] < knee])
    assert mapped[light[:, 0] >= 1000][:, 0] == pytest.approx(203, rel=0.002)
    assert np.diff(mapped[:, 0]).min() > -0.3
    assert np.abs(np.diff(np.log(mapped[:, 0]))).max() <= np.log(4000) / 399 + 1e-3
    assert mapped / mapped[:, :1] == pytest.approx(light / light[:, :1])
    assert tone_map(light, 203.0) is light


def test_the_transfer_functions_of_bt2100() -> None:
    assert pq_to_light(light_to_pq(np.array([0.005, 1, 100, 203, 1000, 10_000]))) == pytest.approx(
        [0.005, 1, 100, 203, 1000, 10_000], rel=1e-6
    )
    assert light_to_pq(np.array([100.0, 203, 1000])) == pytest.approx([0.508, 0.581, 0.752], abs=0.001)
    assert hlg_to_light(np.array([[1.0] * 3, [0.75] * 3, [0.5] * 3])).mean(axis=1) == pytest.approx(
        [1000, 203, 50.7], rel=0.01
    )


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize(("name", "codec"), [("hdr.mkv", "libx264"), ("hdr.mp4", "libx265")])
def test_posters_and_the_network_see_hdr_as_a_player_on_an_sdr_screen(
    tmp_path: Path, transfer: int, name: str, codec: str
) -> None:
    """HDR white of 203 cd/m², shown as bright as white is below highlights, then grey, red, green and black."""
    light = np.array([(203, 203, 203), (40, 40, 40), (60, 10, 8), (8, 60, 10), (0, 0, 0)], np.float64)
    if transfer == PQ:
        codes = light_to_pq(light)
    else:  # inverse of the OOTF, then the OETF
        shown = light / 1000
        luma = (shown @ (0.2627, 0.6780, 0.0593)).clip(1e-9)[:, None]
        scene = shown * luma ** (1 / 1.2 - 1)
        root, high = np.sqrt(3 * scene), 0.17883277 * np.log((12 * scene - 0.28466892).clip(1e-9)) + 0.55991073
        codes = np.where(scene <= 1 / 12, root, high)
    tags = {"colorspace": BT2020, "color_primaries": BT2020, "color_trc": transfer, "color_range": 1}
    options = {"crf": "4", "x265-params": "log-level=none"} if codec == "libx265" else {"crf": "4"}
    source = write(tmp_path / name, ten_bit(codes), codec, tags, options)
    to_bt709 = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
    expected = 255 * (light @ np.transpose(to_bt709) / 203).clip(0, 1) ** (1 / 2.4)
    expected[0] = 230  # by the curve for a peak of 1000 cd/m²

    draw_poster(source, tmp_path / "poster.webp")
    view = pictures(decode_video(source, ClipSpec(height=64, width=320)))[3]

    with Image.open(tmp_path / "poster.webp") as poster:
        assert np.abs(measured(np.asarray(poster.convert("RGB")), 5) - expected).max() <= 6
    assert np.abs(measured(view, 5) - expected).max() <= 4


@pytest.mark.parametrize(("size", "shown"), [((1080, 1920), (640, 1138)), ((1920, 1080), (640, 360))])
def test_the_poster_of_hdr_has_the_size_of_any_other(
    tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    frame = av.VideoFrame(*size, "yuv420p10le")
    for plane, level in zip(frame.planes, (400, 512, 512), strict=True):
        plane.update(np.full(plane.buffer_size // 2, level, "<u2").tobytes())
    tags = {"colorspace": BT2020, "color_primaries": BT2020, "color_trc": PQ, "color_range": 1}
    source = write(tmp_path / "hdr.mkv", frame, "libx264", tags, {"preset": "ultrafast"})

    poster = Poster.from_json(draw_poster(source, tmp_path / "poster.webp"))

    assert (poster.width, poster.height) == shown


def flat(format: str, matrix: Colorspace | None = None, color_range: int | None = None) -> av.VideoFrame:
    frame = av.VideoFrame.from_ndarray(patches(), format="rgb24")
    return frame.reformat(format=format, dst_colorspace=matrix, dst_color_range=color_range)


@pytest.mark.parametrize(
    ("name", "codec", "format", "matrix", "color_range"),
    [
        ("a.gif", "gif", "rgb24", None, None),
        ("a.mov", "png", "rgb24", None, None),
        ("a.mov", "png", "rgba", None, None),
        ("a.avi", "rawvideo", "bgr24", None, None),
        ("a.avi", "rawvideo", "rgb555le", None, None),
        ("a.mov", "tiff", "rgb24", None, None),
        ("a.webm", "libvpx-vp9", "gbrp", None, None),
        ("a.mkv", "libx264rgb", "rgb24", None, None),
        ("a.mkv", "ffv1", "bgr0", None, None),
        ("a.mp4", "libx264", "yuv420p", Colorspace.ITU601, None),
        ("a.mp4", "libx264", "yuv420p", Colorspace.ITU709, 1),
        ("a.mp4", "libx264", "yuv420p", Colorspace.ITU709, 2),
        ("a.mp4", "libx265", "yuv420p", Colorspace.ITU709, 1),
        ("a.mp4", "libx265", "yuv420p", Colorspace.ITU709, 2),
        ("a.mkv", "libx265", "yuv420p", Colorspace.ITU709, 2),
        ("a.avi", "mjpeg", "yuvj420p", Colorspace.ITU601, 2),
        ("a.avi", "mjpeg", "yuvj444p", Colorspace.ITU601, 2),
        ("a.mkv", "ffv1", "yuv444p10le", Colorspace.ITU709, 2),
        ("a.mkv", "ffv1", "yuv422p", Colorspace.ITU601, None),
    ],
)
def test_flat_colours_stay(
    tmp_path: Path, name: str, codec: str, format: str, matrix: Colorspace | None, color_range: int | None
) -> None:
    """In the result, the poster and what the network sees."""
    source_frame = flat(format, matrix, color_range)
    tags = {"color_range": color_range} if color_range else {}
    if matrix == Colorspace.ITU709:
        tags |= {"colorspace": 1, "color_primaries": 1, "color_trc": 1}
    options = {
        "libx264": {"crf": "4", "bf": "2"},
        "libx265": {"crf": "4", "x265-params": "log-level=none"},
        "libvpx-vp9": {"lossless": "1"},
    }
    if codec == "gif":
        source_frame = av.VideoFrame.from_ndarray(patches(), format="rgb24").reformat(format="bgr8")
    source = write(tmp_path / name, source_frame, codec, tags, options.get(codec))
    true = (
        measured(source_frame.to_ndarray(format="rgb24"), len(PATCHES))
        if codec == "gif" or format == "rgb555le"
        else PATCHES
    )

    how = mux_v2a(source, 0.0, 1.6, SOUND, 16_000, tmp_path / "result.mp4", "")

    assert how == "re-encoded"
    for path in (source, tmp_path / "result.mp4"):
        view = pictures(decode_video(path, ClipSpec(height=48, width=288)))
        assert np.abs(measured(view[5], len(PATCHES)) - true).max() <= 2.5
        draw_poster(path, tmp_path / "poster.webp")
        with Image.open(tmp_path / "poster.webp") as poster:
            assert np.abs(measured(np.asarray(poster.convert("RGB")), len(PATCHES)) - true).max() <= 7


@pytest.mark.parametrize(
    ("size", "matrix"),
    [((720, 480), 601), ((720, 576), 601), ((1024, 578), 709), ((1280, 544), 709), ((1920, 1080), 709)],
)
def test_untagged_pictures_have_the_matrix_of_their_size(size: tuple[int, int], matrix: int) -> None:
    colour = np.full((size[1], size[0], 3), (200, 40, 60), np.uint8)
    frame = av.VideoFrame.from_ndarray(colour, format="rgb24").reformat(
        format="yuv420p", dst_colorspace=Colorspace.ITU709 if matrix == 709 else Colorspace.ITU601
    )
    frame.colorspace = 2

    assert np.abs(to_rgb(frame)[100, 100].astype(int) - (200, 40, 60)).max() <= 2


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize(("codec", "b_frames"), [("libx264", 0), ("libx264", 2), ("libx265", 2)])
def test_colours_that_only_the_container_states_are_kept(
    tmp_path: Path, ending: str, codec: str, b_frames: int
) -> None:
    options = {"crf": "4", "bf": str(b_frames), "x265-params": "log-level=none"}
    plain = write(tmp_path / "plain.mp4", flat("yuv420p", Colorspace.ITU709), codec, None, options)
    source, states = tmp_path / f"tagged.{ending}", {"colorspace": 1, "color_primaries": 1, "color_trc": 1}
    with av.open(str(plain)) as theirs, av.open(str(source), "w") as container:
        stream = container.add_stream_from_template(theirs.streams.video[0])
        for name, value in (states | {"color_range": 1}).items():
            setattr(stream.codec_context, name, value)
        for packet in theirs.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)

    how = mux_v2a(source, 0.0, 1.6, SOUND, 16_000, tmp_path / "result.mp4", "")

    assert how == ("copied" if not b_frames else "re-encoded")
    with av.open(str(tmp_path / "result.mp4")) as container:
        frame = next(container.decode(video=0))
        assert {name: getattr(frame, name) for name in states} == states
    view = pictures(decode_video(source, ClipSpec(height=48, width=288)))
    assert np.abs(measured(view[5], len(PATCHES)) - PATCHES).max() <= 2.5


@pytest.mark.parametrize("matrix", [3, *range(8, 18)])
@pytest.mark.parametrize("format", ["yuv420p", "yuv420p10le"])
def test_a_matrix_that_cannot_be_converted_is_kept(tmp_path: Path, matrix: int, format: str) -> None:
    frame = flat(format, Colorspace.ITU601)
    source = write(tmp_path / "a.mkv", frame, "ffv1", {"colorspace": matrix})

    mux_v2a(source, 0.0, 1.6, SOUND, 16_000, tmp_path / "result.mp4", "")

    with av.open(str(tmp_path / "result.mp4")) as container:
        assert next(container.decode(video=0)).colorspace == (matrix if 8 <= matrix <= H264_LAST else 2)
    draw_poster(source, tmp_path / "poster.webp")
    decode_video(source, ClipSpec())


def test_transfer_functions_and_tone_map_are_undone() -> None:
    light = np.geomspace(0.1, 900, 60)[:, None] * np.array([[1.0, 0.5, 0.25]])
    assert hlg_to_light(light_to_hlg(light)) == pytest.approx(light, rel=1e-3)
    assert tone_unmap(tone_map(light, 1000.0), 1000.0) == pytest.approx(light, rel=2e-3)
    assert tone_unmap(light, 203.0) is light


@pytest.mark.parametrize("transfer", [PQ, HLG, 14], ids=["PQ", "HLG", "BT.2020"])
def test_new_pictures_in_hdr_look_as_the_own_ones(transfer: int) -> None:
    """A frame whose own SDR view is put in its place stays as it is, in whole and in part."""
    light = np.array([(120, 20, 30), (60, 90, 20), (30, 40, 80), (400, 400, 400), (203, 203, 203)]) @ TO_BT2020.T
    codes = {PQ: light_to_pq(light), HLG: light_to_hlg(light), 14: (0.4 * light / 203) ** (1 / 2.4)}
    own = ten_bit(codes[transfer])
    own.color_trc = transfer
    view = to_rgb(own)
    half = np.zeros(view.shape[:2], np.float32)
    half[:, ::2] = 1
    kept = own.reformat(format="yuv420p")
    kept.color_trc, kept.color_primaries = transfer, BT2020
    luma = measured(kept.to_ndarray()[: view.shape[0], :, None].repeat(3, 2), 5)
    for share in (None, half):
        new = replaced(TimedFrame(own, Fraction(0), Fraction(1)), view, view.shape[:2], share)
        assert (new.color_trc, new.color_primaries, new.colorspace) == (transfer, BT2020, BT2020)
        assert np.abs(measured(to_rgb(new), 5) - measured(to_rgb(kept), 5)).max() <= 5
        assert np.abs(measured(new.to_ndarray()[: view.shape[0], :, None].repeat(3, 2), 5) - luma).max() <= 1
