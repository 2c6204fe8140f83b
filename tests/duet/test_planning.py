"""Capacity planning: queues with known answers, and measured files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.waiting import batch_times, simulate
from duet.planning import (
    Load,
    PlanError,
    ServiceTime,
    Speed,
    StoredFiles,
    erlang_c,
    estimated_gpu,
    frames_of,
    measured,
    plan,
    service_time,
    waits,
)
from model.request import FORWARDS, GUIDANCE, most_windows
from model.sampling.windows import Windows

ONE = {"generate": 1.0}
SPEED = Speed("a test", batch=4, base_step=0.1, sr_step=0.2)


@pytest.mark.parametrize(
    ("servers", "offered", "probability"),
    [
        (1, 0.5, 0.5),  # with one server it is its utilisation
        (2, 1.0, 1 / 3),
        (3, 2.0, 4 / 9),
        (10, 8.0, 0.4092),  # tables of Erlang's C
        (200, 180.0, 0.0951),
    ],
)
def test_the_probability_of_waiting_is_erlang_c(servers: int, offered: float, probability: float) -> None:
    assert erlang_c(servers, offered) == pytest.approx(probability, abs=1e-3)


def test_one_server_follows_pollaczek_and_khinchine() -> None:
    """M/G/1: ρ T (1 + c²) / (2 (1 − ρ)), which Allen and Cunneen's formula is for one server."""
    for variation in (0.0, 1.0, 3.0):
        seen = waits(1, 1, 0.8, ServiceTime(1.0, variation))
        assert seen.mean == pytest.approx(0.8 * (1 + variation) / (2 * 0.2))
    assert waits(1, 1, 0.8, ServiceTime(1.0, 1.0)).p95 == pytest.approx(math.log(0.8 / 0.05) / 0.2)


def test_overload_waits_for_ever_and_a_small_load_not_at_all() -> None:
    assert waits(1, 4, 1.0, ServiceTime(4.0, 0.0)).mean == math.inf
    assert waits(4, 4, 0.1, ServiceTime(1.0, 0.0)).p95 == 0


def test_the_simulation_agrees_where_the_formula_is_exact() -> None:
    """M/D/1 at 0.8: a mean wait of 2 service times. M/D/4 within what an approximation may be off."""
    one = simulate(1, [0.0, 1.0], 0.8, 60_000, seed=1)
    assert one.wait_mean == pytest.approx(2.0, rel=0.1)
    assert one.latency_p95 == pytest.approx(one.wait_p95 + 1)
    four = simulate(4, [0.0, 1.0], 0.9, 60_000, seed=1)
    assert four.wait_mean == pytest.approx(waits(4, 1, 3.6, ServiceTime(1.0, 0.0)).mean, rel=0.2)


def test_jobs_that_share_an_engine_slow_each_other_as_measured() -> None:
    times = batch_times({1: 1.0, 2: 1.5, 4: 2.5})
    assert times == [0.0, 1.0, 1.5, 2.0, 2.5]
    idle = simulate(1, times, 0.01, 2_000, seed=3)
    assert idle.latency_p95 == pytest.approx(1.0, abs=0.1)
    full = simulate(1, times, 0.95, 20_000, seed=3)
    assert full.jobs_per_s == pytest.approx(0.95 * 4 / 2.5)
    assert 3 < full.batch_mean <= 4


def test_the_cost_of_super_resolution_and_guidance() -> None:
    plain, upscaled = Load(1, ONE, 20, 0), Load(1, ONE, 20, 8)
    assert SPEED.seconds("generate", plain) == pytest.approx(4 * 2.0)
    assert SPEED.seconds("generate", upscaled) == pytest.approx(4 * (2.0 + 1.6))
    assert SPEED.seconds("v2a", upscaled) == pytest.approx(4 * 3 * 2.0), "no frames are made"
    assert SPEED.seconds("a2v", upscaled) == pytest.approx(4 * (3 * 2.0 + 1.6))
    assert SPEED.seconds("v2a", replace(upscaled, guidance="clean")) == pytest.approx(4 * 2.0)


def test_the_cost_of_a_long_clip() -> None:
    """6.4 s are 64 frames: 6 windows a step, and the super-resolution of 4."""
    long = Load(1, ONE, 20, 8, frames=frames_of(6.4))
    assert SPEED.seconds("generate", long) == pytest.approx(4 * (6 * 2.0 + 4 * 1.6))
    assert SPEED.seconds("v2a", long) == pytest.approx(4 * 6 * 3 * 2.0)
    half = replace(long, frames=frames_of(0.8))
    assert SPEED.seconds("generate", half) == pytest.approx(4 * (2.0 + 0.5 * 1.6)), "a whole window, half of its frames"


@pytest.mark.parametrize("frames", [16, 17, 18, 31, 32, 33, 47, 64, 600])
def test_windows_are_counted_as_the_sampler_cuts_them(frames: int) -> None:
    assert most_windows(frames, 16) == Windows(frames, 16, 1600).most


def test_every_guidance_method_has_a_cost() -> None:
    assert set(FORWARDS) == set(GUIDANCE)


def test_an_edit_is_planned_with_its_context() -> None:
    """1.6 s anew are 48 frames: 5 windows a step with ΠGDM, also beside a clean side, and the super-resolution of 3."""
    edits = Load(1, {"edit": 1.0}, 20, 8)
    for guidance, forwards in (("pigdm", 3), ("clean", 3), ("replacement", 1), ("decoupling", 2)):
        cost = SPEED.seconds("edit", replace(edits, guidance=guidance))
        assert cost == pytest.approx(4 * (5 * forwards * 2.0 + 3 * 1.6))
    with pytest.raises(PlanError, match="gradient is not for edit"):
        SPEED.seconds("edit", replace(edits, guidance="gradient"))


def test_a_prompt_costs_a_second_forward_of_the_base_network_only() -> None:
    plain = Load(100, {"generate": 1.0}, sr_steps=0)
    enlarged = replace(plain, sr_steps=8)
    assert SPEED.seconds("generate", replace(plain, prompted=1.0)) == pytest.approx(
        2 * SPEED.seconds("generate", plain)
    )
    half = SPEED.seconds("generate", replace(enlarged, prompted=0.5)) - SPEED.seconds("generate", enlarged)
    assert half == pytest.approx(0.5 * SPEED.seconds("generate", plain))


def test_the_variation_is_that_of_the_mix() -> None:
    assert service_time(SPEED, Load(1, ONE)).variation == 0
    mixed = service_time(SPEED, Load(1, {"generate": 0.5, "v2a": 0.5}, sr_steps=0))
    assert mixed.mean == pytest.approx((8 + 24) / 2)
    assert mixed.variation == pytest.approx((8 / 16) ** 2)


def test_workers_are_planned_for_the_busiest_hour() -> None:
    """4 clips in 14.4 s are 1000 an hour; 500 an hour, 3 times as many at the peak, at 70 %: 2.14 workers."""
    found = plan(SPEED, Load(500, ONE, peak=3.0), gpu_hour_price=2.0)
    assert found.workers == 3
    assert found.capacity_per_hour == pytest.approx(3000)
    assert found.waits.utilisation == pytest.approx(0.5)
    assert found.utilisation_on_average == pytest.approx(0.5 / 3)
    assert found.cost_per_clip == pytest.approx(3 * 2.0 / 500)


def test_a_shorter_wait_needs_more_workers() -> None:
    load = Load(3000, ONE)
    loose, tight = plan(SPEED, load, utilisation=0.95), plan(SPEED, load, utilisation=0.95, wait_p95=0.5)
    assert loose.workers < tight.workers
    assert loose.waits.p95 > 0.5 >= tight.waits.p95
    one_less = waits(tight.workers - 1, 4, load.peak_per_second, service_time(SPEED, load))
    assert one_less.p95 > 0.5, "and no more than needed"


def test_storage_holds_clips_and_uploads_for_the_retention() -> None:
    found = plan(SPEED, Load(100, {"v2a": 0.5, "generate": 0.5}), storage=StoredFiles(2, clip_mb=1.0, upload_mb=4.0))
    assert found.storage_gb_per_day == pytest.approx(100 * 24 * 3 / 1000)
    assert found.storage_gb_kept == pytest.approx(2 * found.storage_gb_per_day)


def test_the_gpu_estimate_follows_from_operations() -> None:
    """20 base and 8 super-resolution evaluations are 188 TFLOP: 0.24 s at 790 TFLOP/s, 0.6 s at two fifths of it."""
    for efficiency, seconds in ((1.0, 0.238), (0.4, 0.594)):
        speed = estimated_gpu(efficiency)
        assert speed.seconds("generate", Load(1, ONE, 20, 8)) / speed.batch == pytest.approx(seconds, abs=2e-3)
        assert "estimate" in speed.source


def report(path: Path, rates: dict[int, float], **changes: Any) -> Path:
    rows = [{"batch": size, "clips_per_s": rate, "seconds": size / rate} for size, rate in rates.items()]
    given = {"device": "NVIDIA H200", "preset": "paper", "steps": 20, "sr_steps": 0, "rows": rows, **changes}
    path.write_text(json.dumps(given))
    return path


def test_measured_speed_is_that_of_the_best_batch(tmp_path: Path) -> None:
    plain = report(tmp_path / "plain.json", {1: 1.0, 8: 5.0, 16: 4.0})
    speed = measured([plain])
    assert (speed.batch, speed.base_step, speed.sr_step) == (8, pytest.approx(0.01), None)
    with pytest.raises(PlanError, match="--no-sr"):
        speed.seconds("generate", Load(1, ONE, 20, 8))
    upscaled = report(tmp_path / "sr.json", {1: 0.5, 8: 2.0}, sr_steps=8)
    both = measured([plain, upscaled])
    assert both.seconds("generate", Load(1, ONE, 20, 8)) == pytest.approx(8 / 2.0)
    assert both.seconds("generate", Load(1, ONE, 20, 0)) == pytest.approx(8 / 5.0)


def test_one_file_is_enough_for_the_published_networks(tmp_path: Path) -> None:
    upscaled = report(tmp_path / "sr.json", {8: 2.0}, sr_steps=8)
    speed = measured([upscaled])
    assert speed.seconds("generate", Load(1, ONE, 20, 8)) == pytest.approx(4.0)
    assert speed.base_step / speed.sr_step == pytest.approx(1.33 / 20.16)  # type: ignore[operator]
    with pytest.raises(PlanError, match="second file"):
        measured([report(tmp_path / "demo.json", {8: 2.0}, sr_steps=8, preset="demo")])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("not json", "not JSON"),
        ("[]", "not the output of"),
        ('{"rows": [{"batch": 1, "clips_per_s": "fast"}]}', "not the output of"),
        ('{"device": "d", "preset": "paper", "steps": 20, "sr_steps": 0, "rows": [{"out_of_memory": true}]}', "no row"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "figures.json"
    path.write_text(text)
    with pytest.raises(PlanError, match=says) as error:
        measured([path])
    assert str(path) in str(error.value)


def test_mismatched_files_are_refused(tmp_path: Path) -> None:
    here = report(tmp_path / "a.json", {1: 1.0})
    with pytest.raises(PlanError, match="different devices"):
        measured([here, report(tmp_path / "b.json", {1: 0.5}, sr_steps=8, device="cpu")])
    with pytest.raises(PlanError, match="not two of the same kind"):
        measured([here, here])
    with pytest.raises(PlanError, match="not slower"):
        measured([here, report(tmp_path / "c.json", {1: 2.0}, sr_steps=8)])
