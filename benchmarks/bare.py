"""The bare pipeline with networks of known timing.

    python -m benchmarks.bare BATCH REPEATS STEPS

Generates BATCH clips in lockstep, then writes their files. Prints JSON: for each pass the seconds of all clips, and of
one clip's files.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from benchmarks.timed import timed_pipeline
from model.request import SamplingParams
from model.runtime.pipeline import Clip, ClipRequest
from service.jobs.record import new_job
from workers.outputs import write_files


def main(batch: int, repeats: int, steps: int) -> None:
    torch.set_num_threads(1)
    pipeline = timed_pipeline()
    values = []
    for number in range(repeats + 1):
        requests = [
            ClipRequest("generate", SamplingParams(seed=number, steps=steps, super_resolution=False), index)
            for index in range(batch)
        ]
        began = time.perf_counter()
        clips = _lockstep(pipeline, requests)
        made = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            for request, clip in zip(requests, clips, strict=True):
                job = new_job(
                    "generate", "demo", request.params, priority="normal", metadata={}, retention=timedelta(hours=1)
                )
                write_files(job, pipeline, request.index, clip, None, Path(folder))
        values.append((made - began, (time.perf_counter() - made) / batch))
    print(json.dumps(values[1:]))  # the first pass opens codecs and allocates memory


def _lockstep(pipeline: Any, requests: list[ClipRequest]) -> list[Clip]:
    programs = [pipeline.program(request) for request in requests]
    asked = [next(program) for program in programs]
    while True:
        answers = pipeline.evaluator(asked)
        clips: list[Clip] = []
        asked = []
        for program, answer in zip(programs, answers, strict=True):
            try:
                asked.append(program.send(answer))
            except StopIteration as stop:
                clips.append(stop.value)
        if clips:
            assert not asked, "all clips take the same number of steps"
            return clips


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
