"""Throughput by batch size, in clips and operations per second. Prints JSON.

    python -m benchmarks.throughput [--device cuda] [--sr] [--batches 1,2,4,8,16,32] [--table FILE]

At each size the engine runs `batch` concurrent jobs, 20 base steps and, with --sr, 8 of super-resolution, on random
weights. Operations are counted by PyTorch on one forward of each network.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import surroundings
from model.checkpoint.manifest import Manifest
from model.networks.config import PRESETS
from model.request import SamplingParams
from model.runtime.engine import Engine
from model.runtime.evaluator import is_out_of_memory
from model.runtime.pipeline import ClipRequest, Pipeline
from model.runtime.warmup import typical_clips, typical_frames, warm_up

DEVICE_FLOPS = {"NVIDIA H200": 790e12}
"""Achievable bfloat16 operations per second."""


def main() -> None:
    options = _options()
    manifest = Manifest("benchmark", PRESETS[options.preset], trained=False, description="", licence="", init_seed=1)
    pipeline = Pipeline.load(manifest, options.device, options.dtype)
    per_clip = _operations(pipeline, options)
    rows = []
    for batch in options.batches:
        try:
            pipeline.evaluator.use_batch_sizes(None)
            warm_up(pipeline, (batch,))
            measured = _measured(pipeline, batch, options, per_clip)
            assert pipeline.evaluator.batch_sizes is not None
            # Smaller than `batch` if that size did not fit into memory.
            rows.append({"batch": batch, "largest_forward": pipeline.evaluator.batch_sizes.largest, **measured})
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            rows.append({"batch": batch, "out_of_memory": True})
            break
    device = torch.cuda.get_device_name() if pipeline.device.type == "cuda" else "cpu"
    report = {
        **surroundings(),
        "device": device,
        "dtype": str(pipeline.evaluator.dtype),
        "preset": options.preset,
        "steps": options.steps,
        "sr_steps": options.sr_steps if options.sr else 0,
        "tflop_per_clip": round(per_clip / 1e12, 3),
        "rows": rows,
    }
    print(json.dumps(report, indent=2))
    if options.table:
        options.table.write_text(_table(rows, device))


def _measured(pipeline: Pipeline, batch: int, options: argparse.Namespace, per_clip: float) -> dict[str, Any]:
    """Mean over `rounds` batches of jobs, after one to warm up."""
    _round(pipeline, batch, options, 0)
    began = time.perf_counter()
    for number in range(options.rounds):
        _round(pipeline, batch, options, number + 1)
    seconds = (time.perf_counter() - began) / options.rounds
    rate = batch / seconds
    known = DEVICE_FLOPS.get(torch.cuda.get_device_name()) if pipeline.device.type == "cuda" else None
    return {
        "seconds": round(seconds, 3),
        "clips_per_s": round(rate, 4),
        "tflop_per_s": round(rate * per_clip / 1e12, 3),
        **({"share": round(rate * per_clip / known, 3)} if known else {}),
    }


def _round(pipeline: Pipeline, batch: int, options: argparse.Namespace, number: int) -> None:
    clip = pipeline.manifest.config.clip.frames
    engine = Engine(batch, max(clip, pipeline.evaluator.frames_per_forward))
    sr = {"sr_steps": options.sr_steps} if options.sr else {}
    params = SamplingParams(seed=number, steps=options.steps, super_resolution=options.sr, **sr)
    runs = [
        engine.submit(pipeline.evaluator, pipeline.program(ClipRequest("generate", params, index)))
        for index in range(batch)
    ]
    engine.start()
    for run in runs:
        run.result()
    engine.close(RuntimeError("all done"))
    engine.join()


def _operations(pipeline: Pipeline, options: argparse.Namespace) -> float:
    """Floating point operations of one clip, all steps."""
    evaluator = pipeline.evaluator
    with FlopCounterMode(display=False) as base:
        evaluator(typical_clips(pipeline, 1))
    total = options.steps * base.get_total_flops()
    if options.sr:
        with FlopCounterMode(display=False) as sr:
            evaluator([typical_frames(pipeline, pipeline.manifest.config.clip.frames)])
        total += options.sr_steps * sr.get_total_flops()
    return float(total)


def _table(rows: list[dict[str, Any]], device: str) -> str:
    lines = [f"| batch on {device} | clips per second | TFLOP/s |", "|---|---|---|"]
    lines += [
        f"| {row['batch']} | {row['clips_per_s']} | {row['tflop_per_s']} |" for row in rows if "clips_per_s" in row
    ]
    return "\n".join(lines) + "\n"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="cpu or cuda (default: a GPU if available)")
    parser.add_argument("--dtype", default="auto", help="float32 or bfloat16 (default: that of the device)")
    parser.add_argument("--preset", default="paper", choices=sorted(PRESETS), help="size of the networks")
    parser.add_argument(
        "--batches", default="1,2,4,8,16,32", type=lambda text: [int(part) for part in text.split(",")], help="sizes"
    )
    parser.add_argument("--rounds", type=int, default=2, help="batches measured at each size (default 2)")
    parser.add_argument("--steps", type=int, default=20, help="base steps (default 20)")
    parser.add_argument("--sr", action="store_true", help="include super-resolution")
    parser.add_argument("--sr-steps", type=int, default=8, help="its steps (default 8)")
    parser.add_argument("--table", type=Path, help="write a Markdown table to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
