"""Pictures of docs/jobs.md: a synthetic clip (ball.webp) and the demo model's results for it (generate.webp, v2a.webp,
a2v.webp, and spectrogram.png of the last). Prints JSON of the jobs.

    python -m benchmarks.figures [--out docs/figures]

Uses the code path of a worker (decode, pipeline, files) without the queue.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoint.manifest import find_models
from model.media.decode import decode_audio, decode_video
from model.media.encode import write_clip
from model.media.pictures import contact_sheet
from model.media.streams import AudioStream, VideoStream
from model.request import SamplingParams
from model.runtime.pipeline import ClipRequest, Pipeline
from service.jobs.record import Input, Job, Window, claim, new_job
from tests.service.new_jobs import upload_of
from workers.outputs import write_files
from workers.spool import Files

SEED = 7
FPS, SECONDS, WIDTH, HEIGHT, RATE = 25, 2.0, 320, 240, 44_100
BOUNCES = (0.3, 0.9, 1.5)
"""Seconds at which the ball touches the ground."""

SHEET = 1200
"""Width of a contact sheet in pixels."""


def ball(path: Path) -> None:
    """Write a clip of a ball that bounces and sounds at each bounce."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    ground = y > 200
    frames = []
    for time_s in np.arange(round(SECONDS * FPS)) / FPS:
        phase = (time_s - BOUNCES[0]) % 0.6 / 0.6
        height = 130 * 4 * phase * (1 - phase)
        centre_x, centre_y = 40 + 120 * time_s, 180 - height
        picture = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        picture[:] = (150, 190, 214)
        picture[ground] = (86, 120, 78)
        inside = (x - centre_x) ** 2 + (y - centre_y) ** 2 < 22**2
        light = 1 - np.hypot(x - centre_x + 8, y - centre_y + 8) / 70
        picture[inside] = (np.array((236, 110, 52)) * light[inside, None]).clip(0, 255)
        frames.append(picture)
    seconds = np.arange(round(SECONDS * RATE)) / RATE
    sound = sum(
        np.where(seconds >= at, np.exp(-9 * (seconds - at)) * np.sin(2 * np.pi * (440 + 60 * k) * (seconds - at)), 0)
        for k, at in enumerate(BOUNCES)
    )
    write_clip(path, np.stack(frames), FPS, 0.6 * np.asarray(sound, np.float32)[None], RATE, "a benchmark")


def upload(path: Path, seconds: float) -> Input:
    video, audio = VideoStream(WIDTH, HEIGHT, FPS), AudioStream(RATE, 1)
    return upload_of(path, duration=SECONDS, video=video, audio=audio, used=Window(0.0, seconds))


def make(pipeline: Pipeline, kind: str, source: Path | None, folder: Path) -> tuple[Job, Files]:
    """Generate one output with default parameters, as a worker does."""
    clip = pipeline.manifest.config.clip
    params = SamplingParams(SEED).resolve(kind, pipeline.manifest)
    given, model = upload(source, clip.duration) if source else None, pipeline.manifest.name
    job = claim(
        new_job(kind, model, params, priority="normal", metadata={}, retention=timedelta(days=1), input=given),
        "a worker",
    )
    condition = None if source is None else (decode_video if kind == "v2a" else decode_audio)(source, clip)
    made = pipeline.run(ClipRequest(kind, params, 0, condition))
    return job, write_files(job, pipeline, 0, made, source, folder)


def pictures(pipeline: Pipeline, out: Path) -> dict[str, Any]:
    """Write the pictures of each job of the pipeline's model. Returns a description of the jobs."""
    ran: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "ball.mp4"
        ball(source)
        contact_sheet(source, SHEET).save(out / "ball.webp", quality=80)
        for kind in ("generate", "v2a", "a2v"):
            began = time.perf_counter()
            folder = Path(name) / kind
            folder.mkdir()
            job, files = make(pipeline, kind, None if kind == "generate" else source, folder)
            contact_sheet(files["video.mp4"], SHEET).save(out / f"{kind}.webp", quality=75)
            ran[kind] = {"seconds": round(time.perf_counter() - began, 1), "guidance": job.params.guidance}
            if kind == "a2v":
                shutil.copy(files["spectrogram.png"], out / "spectrogram.png")
    return ran


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    options = parser.parse_args()
    pipeline = Pipeline.load(find_models()["demo"])
    made = pictures(pipeline, options.out)
    print(json.dumps({"model": "demo", "seed": SEED, "device": str(pipeline.device), "made": made}, indent=1))


if __name__ == "__main__":
    main()
