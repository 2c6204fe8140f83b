"""benchmarks.training_work counts what a training step computes and moves."""

from __future__ import annotations

import torch

from benchmarks.gpu_service import CONFIGURATION, operations
from benchmarks.training_work import Traffic, report, work
from model.training.configuration import read_configuration


def test_bytes_are_those_of_distinct_values_and_views_move_none() -> None:
    with torch.device("meta"), Traffic() as traffic:
        x, row = torch.empty(4, 6), torch.empty(6)
        x.view(24).unflatten(0, (6, 4)).t()
        x + row.expand(4, 6)
        x.add_(x)
    assert traffic.calls == {"aten::add": 1, "aten::add_": 1}
    assert traffic.bytes == {"aten::add": 4 * (24 + 6 + 24), "aten::add_": 4 * 24}


def test_a_step_is_counted_on_the_meta_device() -> None:
    config = read_configuration(CONFIGURATION, ["preset=tiny"])
    traffic, flop = work(config, 2)
    assert traffic.calls["duet::group_norm_backward"] == traffic.calls["duet::group_norm"] > 0
    assert traffic.calls["duet_benchmarks::attention_backward"] == traffic.calls["duet_benchmarks::attention"] > 0
    forward = 2 * operations(config.model)  # attention's are among these, and not counted in a step
    assert 2 * forward < flop < 3 * forward
    found = report(config, 2, {"name": "a GPU", "copy_gb_per_s": 1000.0, "matrix_product_tflop_per_s": 100.0})
    assert found["bound_ms"]["memory"] > found["bound_ms"]["arithmetic"]
