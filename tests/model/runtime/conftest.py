"""Pipelines that several tests of the runtime share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from model.runtime.batch_sizes import BatchSizes
from model.runtime.pipeline import Pipeline
from tests.model.runtime.test_neighbours import MANIFEST


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """At a fixed batch size, so that clips are comparable to the bit."""
    pipeline = Pipeline.load(replace(MANIFEST, independent_timesteps=True), "cpu", "float32")
    pipeline.evaluator.use_batch_sizes(BatchSizes((4,)))
    pipeline.evaluator.frames_per_forward = 4
    return pipeline
