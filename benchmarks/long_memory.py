"""Measures the memory that a long job takes above one of one window, from the upload to the files. Prints JSON.

    python -m benchmarks.long_memory [--kinds generate a2v v2a mix edit] [--durations 1.6 60 600]

Runs the worker's own code (`ModelMaker`): decoder and encoder with their child processes, engine, pictures, previews.
The networks do next to nothing, at the sizes of the published model: 64×64 frames, enlarged to 256×256 for generate and
a2v. v2a gets a film of 1080p, a2v sound of 48 kHz in stereo, both as long as the result. `mix` is v2a of a film that
has such sound, with the new sound under it; `edit` makes half a second of the sound of that film anew, in the middle.

Each job has a process of its own. Its memory is read every 50 ms: what it and its children hold, pages that several of
them share counted once (`Pss`). `anonymous` leaves out pages of files, as of a decoded film, which the kernel can drop.
Growth is the largest peak of several runs less the smallest of one window.
"""

from __future__ import annotations

import argparse
import heapq
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import torch
from av.packet import Packet
from torch import Tensor, nn

from benchmarks.report import show, surroundings
from model.checkpoint.manifest import Manifest
from model.media.edits import Edit, Retake
from model.media.encode import clip_writer, write_pcm
from model.media.mix_levels import REPLACE, Mix
from model.media.streams import AudioStream, VideoStream
from model.networks.config import PRESETS, ModelConfig, SRConfig, UNetConfig
from model.networks.pair import Pair
from model.networks.super_resolution import SRUNet
from model.request import SamplingParams
from model.runtime.allocator import keep_freed_memory
from model.runtime.evaluator import Evaluator
from model.runtime.pipeline import Pipeline
from model.runtime.warmup import warm_up
from model.sampling.schedule import NoiseSchedule
from service.jobs.edit_plan import plan_edit
from service.jobs.record import Input, Window, claim, new_job
from workers.model_maker import ModelMaker
from workers.runner import Attempt, StageClock

LIMIT = 300
"""MiB."""
REPEATS = 2
INTERVAL = 0.05
CONFIG: ModelConfig = PRESETS["paper"]
WIDTH, HEIGHT, FPS, SHOT = 1920, 1080, 25, 2
"""Of the film: the same shot of so many seconds over and over."""
RATE = 48_000


class Base(nn.Module):
    config = UNetConfig()
    dtype = torch.float32

    def forward(self, x: Pair, t: Pair, *_: object) -> Pair:
        return x.map(lambda value: 0.1 * value)


class Enlarging(nn.Module):
    config = SRConfig()
    dtype = torch.float32
    upsample = SRUNet.upsample

    def forward(self, x: Tensor, low_res: Tensor, t: Tensor) -> tuple[Tensor, None]:
        return 0.1 * x, None


@dataclass(frozen=True)
class Peak:
    """MiB of a process and its children."""

    total: float
    anonymous: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--durations", type=float, nargs="+", default=[CONFIG.clip.duration, 60.0, 600.0])
    parser.add_argument("--kinds", choices=UPLOADS, nargs="+", default=list(UPLOADS))
    parser.add_argument("--sampler", default="dpmpp_2m")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--job", nargs=3, metavar=("KIND", "SECONDS", "UPLOAD"), help="make the clip in this process")
    arguments = parser.parse_args()
    if arguments.job:
        kind, duration, upload = arguments.job
        _make(kind, float(duration), Path(upload) if upload else None, arguments.sampler)
        return
    rows = {}
    for kind in arguments.kinds:
        peaks = {}
        for duration in arguments.durations:
            command = [sys.executable, "-m", "benchmarks.long_memory", f"--sampler={arguments.sampler}"]
            with tempfile.TemporaryDirectory() as folder:
                upload = UPLOADS[kind](Path(folder), duration)
                job = ["--job", kind, str(duration), str(upload or "")]
                peaks[duration] = [_measured([*command, *job]) for _ in range(arguments.repeats)]
            print(kind, duration, peaks[duration], file=sys.stderr)
        rows[kind] = peaks
    show(
        {
            "surroundings": surroundings(),
            "sampler": arguments.sampler,
            "peak_mib": _plain(rows),
            "figures": _figures(rows),
        }
    )


def _figures(rows: dict[str, dict[float, list[Peak]]]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    for kind, peaks in rows.items():
        shortest = min(peaks)
        for duration in sorted(peaks)[1:]:
            for name in ("total", "anonymous"):
                growth = max(getattr(run, name) for run in peaks[duration]) - min(
                    getattr(run, name) for run in peaks[shortest]
                )
                figures[f"{kind}, {duration:g} s, {name}"] = {
                    "value": round(growth, 1),
                    "target": f"at most {LIMIT}",
                    "met": growth <= LIMIT,
                }
    return figures


def _plain(rows: dict[str, dict[float, list[Peak]]]) -> dict[str, Any]:
    return {
        kind: {f"{duration:g}": [vars(run) for run in runs] for duration, runs in peaks.items()}
        for kind, peaks in rows.items()
    }


def _measured(command: Sequence[str]) -> Peak:
    """The peak of a process and its children."""
    process = subprocess.Popen(command)
    total = anonymous = 0
    while process.poll() is None:
        found = [_memory(pid) for pid in _tree(process.pid)]
        total = max(total, sum(each for each, _ in found))
        anonymous = max(anonymous, sum(each for _, each in found))
        time.sleep(INTERVAL)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return Peak(round(total / 1024, 1), round(anonymous / 1024, 1))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    try:
        tasks = [int(each) for each in Path(f"/proc/{pid}/task").iterdir() for each in [each.name]]
        children = {int(each) for task in tasks for each in _text(f"/proc/{pid}/task/{task}/children").split()}
    except OSError:
        return
    for child in children:
        yield from _tree(child)


def _memory(pid: int) -> tuple[int, int]:
    """KiB: all of the process, and what is no file's."""
    values = {}
    for line in _text(f"/proc/{pid}/smaps_rollup").splitlines():
        name, _, rest = line.partition(":")
        if name in ("Pss", "Pss_Anon"):
            values[name] = int(rest.split()[0])
    return values.get("Pss", 0), values.get("Pss_Anon", 0)


def _text(path: str) -> str:
    """Empty if the process has ended."""
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _make(kind: str, duration: float, source: Path | None, sampler: str) -> None:
    """Make a job's files as a worker does."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipeline = _pipeline()
        maker = ModelMaker({"memory": pipeline})
        edit, seconds = None, duration
        if kind == "edit":
            span = (duration / 2, duration / 2 + 0.5)
            edit, seconds = plan_edit(Edit(retake=Retake(audio=(span,))), duration, CONFIG.clip, duration)
        job_kind = "v2a" if kind == "mix" else kind
        params = SamplingParams(0, steps=4, sampler=sampler, duration=seconds).resolve(job_kind, pipeline.manifest)
        job = new_job(
            job_kind,
            "memory",
            params,
            priority="normal",
            metadata={},
            retention=timedelta(days=1),
            input=None if source is None else _upload(source, duration, kind != "v2a"),
            mix=Mix("under") if kind == "mix" else REPLACE,
            edit=edit,
        )
        try:
            maker.make(_attempt(claim(job, "a benchmark"), source, folder))  # type: ignore[arg-type]
        finally:
            maker.stop()
            maker.close()


def _attempt(job: Any, source: Path | None, folder: Path) -> SimpleNamespace:
    """One attempt without a queue."""

    @contextmanager
    def waiting() -> Iterator[None]:
        yield

    reports = {name: lambda *_: None for name in vars(Attempt) if not name.startswith("_")}
    own = {"job": job, "source": source, "folder": folder, "clock": StageClock(), "afterwards": 0.0, "scores": {}}
    return SimpleNamespace(**reports | own | {"waiting": waiting})


def _pipeline() -> Pipeline:
    keep_freed_memory()
    curve = [0.01, 0.1, 0.3]
    calibration = {"times": [0.0, 500.0, 999.0], "video": curve, "audio": curve}
    manifest = Manifest("memory", CONFIG, False, "", "MIT", init_seed=0, calibration=calibration)
    manifest = replace(manifest, independent_timesteps=True)
    schedule = NoiseSchedule.from_config(CONFIG.schedule)
    pipeline = Pipeline(manifest, Evaluator(Base(), Enlarging(), schedule), torch.device("cpu"))  # type: ignore[arg-type]
    warm_up(pipeline, (1, 2, 4))
    return pipeline


def _upload(path: Path, duration: float, has_sound: bool) -> Input:
    video, audio = VideoStream(WIDTH, HEIGHT, float(FPS)), AudioStream(RATE, 2) if has_sound else None
    used = Window(0.0, duration, tracks=(1,))
    return Input(path.name, path.stat().st_size, "0" * 64, duration, video, audio, used, f"input{path.suffix}", "")


def _nothing(folder: Path, duration: float) -> None:
    return None


def _film(folder: Path, duration: float) -> Path:
    """A film whose H.264 can be copied, so that its packets are what is written."""
    shot, path = folder / "shot.mp4", folder / "film.mp4"
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    with clip_writer(shot, FPS, "") as writer:
        for number in range(min(SHOT, int(duration) + 1) * FPS):
            picture = np.stack([x + 4 * number, y + 2 * number, (x ^ y) + number], axis=-1)
            writer.add(picture.astype(np.uint8)[None])
    with av.open(path, "w") as container, av.open(shot) as source:
        track = container.add_stream_from_template(source.streams.video[0])
        count = 0
        while count < duration * FPS:
            source.seek(0)
            for packet in source.demux(source.streams.video[0]):
                if packet.pts is not None and count < duration * FPS:
                    packet.stream, packet.time_base = track, Fraction(1, FPS)
                    packet.pts = packet.dts = count
                    packet.duration = 1
                    container.mux(packet)
                    count += 1
    shot.unlink()
    return path


def _film_with_sound(folder: Path, duration: float) -> Path:
    """The same with sound: packets of both, in the order of their times."""
    film, sound, path = _film(folder, duration), _sound(folder, duration), folder / "film.mov"
    with av.open(path, "w") as container, av.open(film) as pictures, av.open(sound) as wave:
        sources = [pictures.demux(pictures.streams.video[0]), wave.demux(wave.streams.audio[0])]
        tracks = [
            container.add_stream_from_template(stream) for stream in (pictures.streams.video[0], wave.streams.audio[0])
        ]
        placed = (_placed(source, track) for source, track in zip(sources, tracks, strict=True))
        for packet in heapq.merge(*placed, key=lambda packet: float(packet.dts * packet.time_base)):
            container.mux(packet)
    film.unlink()
    sound.unlink()
    return path


def _placed(packets: Iterator[Packet], track: Any) -> Iterator[Packet]:
    for packet in packets:
        if packet.pts is not None:
            packet.stream = track
            yield packet


def _sound(folder: Path, duration: float) -> Path:
    rng = np.random.default_rng(0)
    seconds = [min(1.0, duration - first) for first in range(int(np.ceil(duration)))]
    pieces = (rng.integers(-9000, 9000, (round(each * RATE), 2), dtype=np.int16) for each in seconds)
    write_pcm(folder / "sound.wav", pieces, RATE, "s16", "stereo")
    return folder / "sound.wav"


UPLOADS: dict[str, Callable[[Path, float], Path | None]] = {
    "generate": _nothing,
    "a2v": _sound,
    "v2a": _film,
    "mix": _film_with_sound,
    "edit": _film_with_sound,
}
"""What each kind of job gets."""


if __name__ == "__main__":
    main()
