"""Cost of previews for a job: `python -m benchmarks.previews [--model demo]`. Prints JSON.

Runs one job as `duet serve` would run it alone. After every step a preview is computed, encoded and written to a real
Redis, and its CPU time is measured. A job sends one preview per second, so the share counts one per second of run time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import redis

from benchmarks.report import at_most, show, surroundings
from model.checkpoint.manifest import find_models
from model.request import SamplingParams
from model.runtime.pipeline import ClipRequest, Pipeline, StepProgress
from service.jobs.events import Previews
from service.jobs.record import new_job
from service.jobs.store import JobStore
from tests.conftest import RedisServer
from workers.model_maker import OUTPUT_PREVIEW_INTERVAL
from workers.previews import preview


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="a built-in model (default demo)")
    pipeline = Pipeline.load(find_models(None)[parser.parse_args().model])
    params = SamplingParams(seed=1)
    pipeline.run(ClipRequest("generate", SamplingParams(seed=1, steps=1, super_resolution=False)))
    with tempfile.TemporaryDirectory(prefix="duet-benchmark-") as folder:
        server = RedisServer(Path(folder))
        server.start()
        try:
            costs, sizes, seconds, whole = _job(pipeline, params, redis.Redis.from_url(server.url))
        finally:
            server.stop()
    each = statistics.mean(costs)
    share = each * seconds / OUTPUT_PREVIEW_INTERVAL / (whole - sum(costs))
    report = {
        **surroundings(),
        "previews": len(costs),
        "each_ms": round(1000 * each, 2),
        "worst_ms": round(1000 * max(costs), 2),
        "sprite_kib": round(statistics.mean(sizes) / 1024, 1),
        "job_cpu_s": round(whole - sum(costs), 2),
        "figures": {"share": at_most(0.02, share, 4)},
    }
    show(report)


def _job(
    pipeline: Pipeline, params: SamplingParams, client: redis.Redis
) -> tuple[list[float], list[int], float, float]:
    """CPU seconds and bytes of each preview; wall-clock and CPU seconds of the whole job."""
    store, previews = JobStore(client), Previews(client)
    job = new_job("generate", "demo", params, priority="normal", metadata={}, retention=timedelta(hours=1))
    store.create(job)
    store.claim(job.id, "benchmark")
    costs, sizes = [], []

    def show(step: StepProgress) -> None:
        began = time.process_time()
        seen = step.preview()
        shown = preview(
            seen.frames.numpy() if seen.frames is not None else None,
            seen.audio.numpy() if seen.audio is not None else None,
            index=0,
            stage=step.stage,
            step=step.step,
            total_steps=step.total_steps,
        )
        previews.publish(job.id, 1, shown)
        costs.append(time.process_time() - began)
        sizes.append(len(shown.sprite.webp) if shown.sprite else 0)

    began, cpu = time.perf_counter(), time.process_time()
    pipeline.run(ClipRequest("generate", params), show)
    return costs, sizes, time.perf_counter() - began, time.process_time() - cpu


if __name__ == "__main__":
    main()
