"""End-to-end latency of the embedded stack with the demo model or another one. Prints JSON.

    python -m benchmarks.end_to_end --repeats 5 [--video clip.mp4]
    python -m benchmarks.end_to_end --model examples/models/scenes --prompt "a campfire at night"

Starts `duet serve` on a free port with an empty data folder, measures, and stops it. Without --video it uploads a
generated video. --model takes a folder; --prompt prompts `generate` alone. "accepted" is the time to the 202 while
another job keeps the worker busy: for generate from the first byte of the request, for v2a from the upload's last byte.
The other times end with the `completed_at` of the job.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.embedded_stack import embedded_stack
from benchmarks.report import show, surroundings
from model.checkpoint.manifest import FILE_NAME, read_manifest

TARGETS = {
    "ready_s": 10.0,
    "generate_s": 20.0,
    "v2a_s": 10.0,
    "a2v_s": 20.0,
    "generate_accepted_ms": 50.0,
    "v2a_accepted_ms": 300.0,
}

POLL_SECONDS = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each figure (default 3)")
    parser.add_argument("--video", type=Path, help="the film to upload")
    parser.add_argument("--model", type=Path, help="a model's folder; default: the demo model")
    parser.add_argument("--prompt", help="what generate makes, by a model that takes prompts")
    arguments = parser.parse_args()
    setting = Setting(arguments.model, arguments.prompt)
    with tempfile.TemporaryDirectory(prefix="duet-benchmark-") as folder:
        upload = arguments.video or film(Path(folder) / "film.mp4")
        figures = measure(Path(folder), upload, arguments.repeats, setting)
    show(
        {
            **surroundings(),
            "model": setting.name,
            "prompt": setting.prompt,
            "repeats": arguments.repeats,
            "figures": figures,
        }
    )


@dataclass(frozen=True)
class Setting:
    """The folder of the model that is measured, None for the demo model, and the prompt of `generate`."""

    model: Path | None = None
    prompt: str | None = None

    @property
    def name(self) -> str:
        return "demo" if self.model is None else read_manifest(self.model / FILE_NAME).name

    @property
    def environment(self) -> dict[str, str]:
        """Of the server."""
        return {} if self.model is None else {"DUET_MODELS": str(self.model.resolve().parent)}


def measure(folder: Path, upload: Path, repeats: int, setting: Setting) -> dict[str, Any]:
    """Every figure of TARGETS: its target, median, worst and all values."""
    values: dict[str, list[float]] = {name: [] for name in TARGETS}
    for index in range(repeats):
        with embedded_stack(folder / f"start-{index}", "duet", "serve", **setting.environment) as (_, ready):
            values["ready_s"].append(ready)
    with embedded_stack(folder / "measured", "duet", "serve", **setting.environment) as (url, _):
        api = Api(url, upload, model=setting.name)
        prompted = {"prompt": setting.prompt} if setting.prompt is not None else {}
        for _ in range(repeats):
            values["generate_s"].append(_seconds(lambda: api.finish(api.generate(**prompted)[0])))
            values["v2a_s"].append(_seconds(lambda: api.finish(api.v2a()[0])))
            values["a2v_s"].append(_seconds(lambda: api.finish(api.a2v()[0])))
        for _ in range(repeats):
            busy = api.generate(**prompted)[0]
            api.started(busy)
            other, milliseconds = api.generate()
            values["generate_accepted_ms"].append(milliseconds)
            third, milliseconds = api.v2a()
            values["v2a_accepted_ms"].append(milliseconds)
            if api.job(busy)["status"] != "in_progress":
                raise SystemExit("the job that keeps the worker busy ended too early: nothing was measured")
            for job in (busy, other, third):
                api.finish(job)
    return {name: _summary(measured, TARGETS[name]) for name, measured in values.items()}


class Api:
    """A plain HTTP client that knows when the last byte of a request went out."""

    def __init__(self, url: str, upload: Path, **parameters: Any) -> None:
        """`upload`: a video with sound. `parameters` of all jobs."""
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        boundary = uuid.uuid4().hex
        self.parameters = parameters
        part = f"--{boundary}\r\nContent-Disposition: form-data; name="
        fields = [f'{part}"{name}"\r\n\r\n{value}\r\n' for name, value in {"duration": 1.6, **parameters}.items()]
        head = "".join([*fields, f'{part}"file"; filename="{upload.name}"\r\n\r\n'])
        self._form = head.encode() + upload.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        self._form_type = f"multipart/form-data; boundary={boundary}"

    def generate(self, **parameters: Any) -> tuple[str, float]:
        """Submit, with further `parameters`. Returns the job's path and the milliseconds to the 202."""
        began = time.perf_counter()
        job, _ = self._post("/generate", json.dumps(self.parameters | parameters).encode(), "application/json")
        return job, 1000 * (time.perf_counter() - began)

    def v2a(self) -> tuple[str, float]:
        """Upload the film. Returns the job's path and the milliseconds from last byte to 202."""
        return self._upload("/v2a")

    def a2v(self) -> tuple[str, float]:
        """Likewise, for the film's sound."""
        return self._upload("/a2v")

    def _upload(self, path: str) -> tuple[str, float]:
        job, sent = self._post(path, self._form, self._form_type)
        return job, 1000 * (time.perf_counter() - sent)

    def job(self, path: str) -> dict[str, Any]:
        self._connection.request("GET", path)
        return json.loads(self._connection.getresponse().read())

    def started(self, path: str) -> None:
        """Wait until the first step of the job is done."""
        while not self.job(path)["step"]:
            time.sleep(POLL_SECONDS)

    def finish(self, path: str, deadline: float = math.inf) -> dict[str, Any]:
        """Wait until the job has completed, and return it. Raises TimeoutError at `deadline` (time.monotonic)."""
        while (job := self.job(path))["status"] in ("queued", "in_progress"):
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{path} is {job['status']} at the time limit")
            time.sleep(POLL_SECONDS)
        if job["status"] != "completed":
            raise SystemExit(f"{path} {job['status']}: {job['error']}")
        return job

    def _post(self, path: str, body: bytes, content_type: str) -> tuple[str, float]:
        self._connection.request("POST", path, body, {"Content-Type": content_type})
        sent = time.perf_counter()
        answer = self._connection.getresponse()
        text = answer.read().decode()
        if answer.status != 202:
            raise SystemExit(f"POST {path}: {answer.status} {text}")
        return str(answer.headers["Location"]), sent


def film(path: Path, seconds: int = 8) -> Path:
    """Some seconds of 320×240 noise bars at 30 fps with a tone."""
    from model.media.encode import write_clip

    rng = np.random.default_rng(0)
    bars = rng.integers(0, 256, (30 * seconds, 1, 320, 3), dtype=np.uint8)
    sound = 0.3 * np.sin(np.arange(seconds * 44_100) * 0.05)[None]
    write_clip(path, np.broadcast_to(bars, (30 * seconds, 240, 320, 3)), 30, sound, 44_100, "made by a benchmark")
    return path


def _seconds(finished: Callable[[], dict[str, Any]]) -> float:
    """From the request's first byte to the `completed_at` of the job that `finished` submits, awaits and returns. Both
    are of this machine's clock; a poll would see the end up to POLL_SECONDS late."""
    began = time.time()
    return datetime.fromisoformat(finished()["completed_at"]).timestamp() - began


def _summary(values: list[float], target: float) -> dict[str, Any]:
    median, worst = statistics.median(values), max(values)
    rounded = [round(value, 3) for value in values]
    return {
        "target": target,
        "met": worst <= target,
        "median": round(median, 3),
        "worst": round(worst, 3),
        "values": rounded,
    }


if __name__ == "__main__":
    main()
