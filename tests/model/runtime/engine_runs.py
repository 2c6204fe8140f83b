"""Clips that an engine makes together."""

from __future__ import annotations

from collections.abc import Sequence

from model.runtime.engine import Engine
from model.runtime.pipeline import Clip, ClipRequest, Pipeline


def made_together(engine: Engine, pipeline: Pipeline, requests: Sequence[ClipRequest]) -> list[Clip]:
    """The clips of an engine that has not started, which runs all of `requests` at once and ends."""
    runs = [engine.submit(pipeline.evaluator, pipeline.program(request)) for request in requests]
    engine.start()
    try:
        return [run.result(60) for run in runs]
    finally:
        engine.close(KeyError("done"))
        engine.join()
