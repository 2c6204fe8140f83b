"""Decoded pictures as 8-bit RGB and back: the right matrix, and high dynamic range and wide gamut brought to BT.709.

HDR is tone-mapped as ITU-R BT.2390-8 describes (5.4.1, EETF, on the largest of the three components, so that hues stay)
with the transfer functions of ITU-R BT.2100, for a display whose white is BT.2408's reference white of 203 cd/m².
"""

from __future__ import annotations

from functools import cache
from math import ceil, sqrt

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc, Interpolation

from model.media.display import BT2020, UNSPECIFIED
from model.media.side_data import side_data

HD_WIDTH, HD_HEIGHT = 1280, 576
"""Untagged YUV is BT.709 from this width on or above this height, else BT.601, as players take it."""

WHITE = 203.0
"""cd/m² of SDR's white (ITU-R BT.2408)."""

PEAK = 1000.0
"""cd/m² of the brightest pixel of PQ that does not say, and of the display that HLG is shown on."""

EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""The library's conversions to 8 bits are up to 3 levels off without these. To 16 bits they are wrong with them."""

MOST_PIXELS = 2**19
"""HDR pictures with more pixels are made smaller first: the network's view needs no more."""

GAMMA = 2.4
"""Of an SDR display (ITU-R BT.1886)."""

TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
"""Linear BT.2020 → linear BT.709 (ITU-R BT.2087)."""

LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
"""Of BT.2020's red, green and blue."""

M1, M2, C1, C2, C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
"""Constants of PQ (ITU-R BT.2100, table 4)."""

A, B, C = 0.17883277, 0.28466892, 0.55991073
"""Constants of HLG (ITU-R BT.2100, table 5)."""

STEPS = 2048


def to_rgb(frame: VideoFrame, most_pixels: int = MOST_PIXELS) -> np.ndarray:
    """`frame` as (height, width, 3) uint8 RGB for an SDR display; HDR of more than `most_pixels` is made smaller."""
    if not _is_wide(frame):
        return frame.reformat(
            format="rgb24", src_colorspace=untagged_matrix(frame), interpolation=EXACT, threads=1
        ).to_ndarray()
    scale = min(1.0, sqrt(most_pixels / (frame.width * frame.height)))
    size = ceil(frame.width * scale), ceil(frame.height * scale)
    how = Interpolation.AREA if scale < 1 else Interpolation.BILINEAR
    code = frame.reformat(
        *size, "rgb48le", src_colorspace=untagged_matrix(frame), interpolation=how, threads=1
    ).to_ndarray()
    light = _light(frame, code)
    if frame.color_primaries in (BT2020, UNSPECIFIED):
        light = light @ TO_BT709.T
    return np.round(255 * (light / WHITE).clip(0, 1) ** (1 / GAMMA)).astype(np.uint8)


def from_rgb(rgb: np.ndarray, like: VideoFrame) -> VideoFrame:
    """`rgb` (height, width, 3) uint8 for an SDR display → RGB in the transfer function and primaries of `like`.

    Undoes `to_rgb`, the tone map included: a colour of `rgb` gets the light of what is seen as that colour in `like`.
    """
    if not _is_wide(like):
        return VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    light = WHITE * (rgb.astype(np.float32) / 255) ** GAMMA
    if like.color_primaries in (BT2020, UNSPECIFIED):
        light = (light @ np.linalg.inv(TO_BT709).T).clip(0)
    return VideoFrame.from_ndarray(np.round(65535 * _code(like, light)).astype(np.uint16), format="rgb48le")


def _is_wide(frame: VideoFrame) -> bool:
    """High dynamic range or wide gamut."""
    return frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67) or frame.color_primaries == BT2020


def brightest(frame: VideoFrame) -> float | None:
    """cd/m² of the content's brightest pixel, else of the display that it was graded on, if the frame tells."""
    held = side_data(frame)
    if (level := held.get("CONTENT_LIGHT_LEVEL")) is not None and (most := int(np.frombuffer(level, np.uint32)[0])):
        return float(most)
    if (mastering := held.get("MASTERING_DISPLAY_METADATA")) is not None:
        *_, numerator, denominator, _, has_luminance = np.frombuffer(mastering, np.int32)[:22].tolist()
        return numerator / denominator if has_luminance and numerator and denominator else None
    return None


def pq_to_light(code: np.ndarray) -> np.ndarray:
    """PQ code values in [0, 1] → cd/m²."""
    power = code.clip(0, 1) ** (1 / M2)
    return 10_000 * ((power - C1).clip(0) / (C2 - C3 * power)) ** (1 / M1)


def light_to_pq(light: np.ndarray | float) -> np.ndarray:
    """cd/m² → PQ code values in [0, 1]."""
    power = (np.asarray(light) / 10_000) ** M1
    return ((C1 + C2 * power) / (1 + C3 * power)) ** M2


def hlg_to_light(code: np.ndarray) -> np.ndarray:
    """HLG code values (…, 3) in [0, 1] → cd/m² on a display of `PEAK`, whose system gamma is 1.2."""
    scene = np.where(code <= 0.5, code**2 / 3, (np.exp((code - C) / A) + B) / 12).astype(np.float32)
    luma = (scene @ LUMA).clip(1e-6)
    return PEAK * scene * luma[..., None] ** 0.2


def light_to_hlg(light: np.ndarray) -> np.ndarray:
    """Undoes `hlg_to_light`."""
    luma = ((light @ LUMA) / PEAK).clip(1e-9) ** (1 / 1.2)
    scene = light / PEAK / luma[..., None] ** 0.2
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), A * np.log((12 * scene - B).clip(1e-6)) + C).clip(0, 1)


def tone_map(light: np.ndarray, peak: float) -> np.ndarray:
    """cd/m² (…, 3) of content up to `peak` → up to `WHITE`, unchanged below the knee."""
    if peak <= WHITE:
        return light
    most = light.max(axis=-1, keepdims=True)
    inputs, ratios = _curve(peak)
    return light * np.interp(most, inputs, ratios).astype(np.float32)


def tone_unmap(light: np.ndarray, peak: float) -> np.ndarray:
    """Undoes `tone_map` for light up to `WHITE`."""
    if peak <= WHITE:
        return light
    inputs, ratios = (values[:STEPS] for values in _curve(peak))
    most = light.max(axis=-1, keepdims=True)
    return light / np.interp(most, inputs * ratios, ratios).astype(np.float32)


@cache
def _curve(peak: float) -> tuple[np.ndarray, np.ndarray]:
    """Largest components in cd/m², and the factors that bring pixels with them below `WHITE`."""
    top = float(light_to_pq(peak))
    most = float(light_to_pq(WHITE)) / top
    knee = 1.5 * most - 0.5
    code = np.linspace(0, 1, STEPS + 1)[1:]
    t = (code - knee) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    light = pq_to_light(code * top)
    ratios = np.where(code < knee, 1, pq_to_light(spline * top) / light)
    beyond = light[-1] * np.geomspace(1.01, 100, 64)
    return np.append(light, beyond), np.append(ratios, WHITE / beyond)


def _light(frame: VideoFrame, code: np.ndarray) -> np.ndarray:
    """16-bit RGB codes → cd/m² up to `WHITE`, in the frame's primaries."""
    if frame.color_trc == ColorTrc.SMPTE2084:
        return tone_map(_PQ_TABLE()[code], _peak(frame))
    signal = code.astype(np.float32) / 65535
    if frame.color_trc == ColorTrc.ARIB_STD_B67:
        return tone_map(hlg_to_light(signal), PEAK)
    return WHITE * signal**GAMMA


def _code(like: VideoFrame, light: np.ndarray) -> np.ndarray:
    """Undoes `_light`: cd/m² up to `WHITE` → codes in [0, 1]."""
    if like.color_trc == ColorTrc.SMPTE2084:
        return light_to_pq(tone_unmap(light, _peak(like)))
    if like.color_trc == ColorTrc.ARIB_STD_B67:
        return light_to_hlg(tone_unmap(light, PEAK))
    return (light / WHITE).clip(0, 1) ** (1 / GAMMA)


def _peak(frame: VideoFrame) -> float:
    return min(brightest(frame) or PEAK, 10_000.0)


@cache
def _PQ_TABLE() -> np.ndarray:
    return pq_to_light(np.arange(65536) / 65535).astype(np.float32)


def untagged_matrix(frame: VideoFrame) -> int | None:
    """The matrix by which an untagged `frame` was made from RGB; None where it is tagged or RGB itself."""
    if frame.colorspace != UNSPECIFIED or frame.format.is_rgb or frame.format.has_palette:
        return None
    if frame.color_primaries == ColorPrimaries.BT2020:
        return Colorspace.BT2020
    is_hd = frame.width >= HD_WIDTH or frame.height > HD_HEIGHT
    return Colorspace.ITU709 if is_hd else Colorspace.ITU601
