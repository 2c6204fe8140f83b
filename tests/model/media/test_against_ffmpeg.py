"""v2a results frame by frame against the ffmpeg program: the times that it reports, and the pixels that it decodes."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from model.media.mux import mux_v2a
from tests.measure import psnr

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the ffmpeg program is not installed")

WINDOW = 1.6
SOUND = np.zeros((1, 25_600), np.float32)


@dataclass(frozen=True)
class Upload:
    """A file, where the window begins, how it goes over, and what ffmpeg must be told to see it as players do.

    `rate`: of frames whose container has no presentation times.
    """

    name: str
    start: float = 0.0
    how: str = "copied"
    filters: str = "null"
    rate: float | None = None


FROM_RGB = "format=rgb24,scale=out_color_matrix=bt709:out_range=tv"

UPLOADS = [
    Upload("rabbit320.mp4"),
    Upload("rabbit320.mp4", 3.3, how="re-encoded"),
    Upload("avi_h264_bframes.avi", 1.0, how="re-encoded", rate=30),
    Upload("crop_in_mkv_default_display.mkv", how="re-encoded", filters="crop=720:360:0:60"),
    Upload("film_shorter_than_sound.mp4"),
    Upload("hdr10_pq.mkv", 0.7, how="re-encoded"),
    Upload("interlaced_avchd_mts.MTS", how="re-encoded"),
    Upload("mediarecorder_webm.webm", 0.5, how="re-encoded"),
    Upload("mkv_default_audio_is_second.mkv", 0.25, how="re-encoded"),
    Upload("palette_png_mov.mov", 0.4, how="re-encoded", filters=FROM_RGB),
    Upload("sar_in_mp4_container_only.mp4"),
    Upload("start_inside_frame_1fps.mp4", 0.9),
    Upload("start_inside_frame_gif.gif", 0.45, how="re-encoded", filters=FROM_RGB),
    Upload("ts_ac3_stereo_to_51.ts", 3.0, how="re-encoded"),
    Upload("ts_cut_mid_packet.ts", 0.5, how="re-encoded"),
    Upload("video_delayed_with_start.mp4", 1.0, how="re-encoded"),
]


def located(name: str) -> Path:
    for variable in ("DUET_CASES_DIR", "DUET_CLIPS_DIR"):
        path = Path(os.environ.get(variable, "/nowhere")) / name
        if path.exists():
            return path
    pytest.skip(f"{name} is not here: set DUET_CASES_DIR and DUET_CLIPS_DIR")


def run(*command: str | Path) -> bytes:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True).stdout


def reported(path: Path, entries: str, stream: str = "v:0") -> list[list[str]]:
    output = run("ffprobe", "-v", "error", "-select_streams", stream, "-show_entries", entries, "-of", "csv=p=0", path)
    return [line.strip(",").split(",") for line in output.decode().splitlines() if line.strip(",")]


def shown_times(path: Path, rate: float | None) -> list[float]:
    """Seconds at which frames appear, from the first beginning of a track. Before 0 lies what Opus skips."""
    starts = [row[0] for kind in ("v", "a") for row in reported(path, "stream=start_time", kind)]
    origin = max(0.0, min(float(start) for start in starts if start != "N/A"))
    times = [row[0] for row in reported(path, "frame=best_effort_timestamp_time")]
    return [index / rate if rate else float(time) - origin for index, time in enumerate(times)]


def decoded(path: Path, count: int, filters: str = "null") -> np.ndarray:
    """(count, bytes): the first frames as yuv420p, not turned upright."""
    command = ["ffmpeg", "-v", "error", "-noautorotate", "-i", path, "-map", "0:v:0", "-vf", filters, "-vsync", "0"]
    raw = run(*command, "-frames:v", str(count), "-pix_fmt", "yuv420p", "-f", "rawvideo", "-")
    return np.frombuffer(raw, np.uint8).reshape(count, -1)


@pytest.mark.parametrize("upload", UPLOADS, ids=lambda upload: f"{upload.name}@{upload.start}")
def test_the_result_has_the_frames_of_the_upload_at_their_times(tmp_path: Path, upload: Upload) -> None:
    source, result = located(upload.name), tmp_path / "result.mp4"

    how = mux_v2a(source, upload.start, WINDOW, SOUND, 16_000, result, "")

    assert how == upload.how
    times = shown_times(source, upload.rate)
    first = max([index for index, time in enumerate(times) if time <= upload.start + 0.0005], default=0)
    aligned = abs(times[first] - upload.start) <= 0.001
    zero = times[first] if aligned else upload.start
    expected = [max(0.0, time - zero) for time in times[first:] if time - zero < WINDOW - (0.0005 if aligned else 0.02)]
    assert shown_times(result, None) == pytest.approx(expected, abs=0.0011)
    theirs = decoded(source, first + len(expected), upload.filters)[first:]
    ours = decoded(result, len(expected))
    if how == "copied":
        assert np.array_equal(ours, theirs)
    else:
        assert min(psnr(one, other) for one, other in zip(ours, theirs, strict=True)) >= 40
