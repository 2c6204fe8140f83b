from __future__ import annotations

import json
from pathlib import Path

import pytest

from duet.cli.exit_status import USAGE
from tests.command_line import Ended, invoke


def planned(*arguments: str) -> Ended:
    return invoke(["plan", *arguments], {"COLUMNS": "120"})


def test_the_table_names_its_figures_and_their_source() -> None:
    shown = planned("--jobs-per-hour", "500", "--sr", "--gpu-hour-price", "3")
    assert shown.exit_code == 0
    for words in ("500 jobs per hour", "workers (GPUs)", "cost per clip", "GB", "Speed: estimated, assuming"):
        assert words in shown.output


def test_the_json_has_the_same_figures() -> None:
    """188 TFLOP at 316 TFLOP/s are 0.595 s: 20 000 an hour are 3.3 at a time, and 5 GPUs are busy for 66 %."""
    shown = planned("--jobs-per-hour", "20000", "--gpu-hour-price", "3", "--json")
    report = json.loads(shown.output)
    assert report["plan"]["workers"] == 5
    assert report["plan"]["waits"]["utilisation"] == pytest.approx(0.661, abs=2e-3)
    assert report["plan"]["cost_per_clip"] == pytest.approx(5 * 3 / 20000)
    assert report["load"]["mix"] == {"generate": 1.0}
    assert report["speed"]["batch"] == 16


def test_measured_figures_replace_built_in_ones(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    rows = [{"batch": 4, "clips_per_s": 2.0}]
    path.write_text(json.dumps({"device": "a card", "preset": "paper", "steps": 20, "sr_steps": 0, "rows": rows}))
    report = json.loads(planned("--jobs-per-hour", "3600", "--no-sr", "--measured", str(path), "--json").output)
    assert report["plan"]["workers"] == 1
    assert report["plan"]["waits"]["utilisation"] == pytest.approx(0.5)
    assert report["speed"]["source"] == "measured on a card, paper networks"


def test_shares_of_the_kinds_need_not_sum_to_one() -> None:
    report = json.loads(planned("--jobs-per-hour", "10", "--kind", "generate=2, v2a=1,a2v=1", "--json").output)
    assert report["load"]["mix"] == {"generate": 0.5, "v2a": 0.25, "a2v": 0.25}


def test_longer_clips_take_more_workers() -> None:
    short, long = (
        json.loads(planned("--jobs-per-hour", "20000", *duration, "--json").output)
        for duration in ((), ("--duration", "6.4"))
    )
    assert (short["load"]["frames"], long["load"]["frames"]) == (16, 64)
    assert long["plan"]["workers"] > 4 * short["plan"]["workers"] - 4
    assert "64 frames" in planned("--jobs-per-hour", "10", "--duration", "6.4").output


def test_the_demo_model_has_figures_of_its_own() -> None:
    report = json.loads(planned("--jobs-per-hour", "100", "--model", "demo", "--json").output)
    assert "EPYC" in report["speed"]["source"]
    assert report["plan"]["workers"] == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--jobs-per-hour", "0"], '"0.0" for --jobs-per-hour. Must be > 0'),
        (["--jobs-per-hour", "1", "--efficiency", "1.5"], '"1.5" for --efficiency. Must be <= 1'),
        (["--jobs-per-hour", "1", "--utilisation", "1"], '"1.0" for --utilisation. Must be <= 0.99'),
        (["--jobs-per-hour", "1", "--peak-factor", "0.5"], '"0.5" for --peak-factor. Must be >= 1'),
        (["--jobs-per-hour", "1", "--wait-p95", "-1"], '"-1.0" for --wait-p95. Must be > 0'),
        (["--jobs-per-hour", "1", "--duration", "0"], '"0.0" for --duration. Must be >= 0.1'),
        (["--jobs-per-hour", "1", "--kind", "dance"], "'dance' is not one of generate, v2a, a2v"),
        (["--jobs-per-hour", "1", "--kind", "v2a=lots"], "'v2a=lots' is not one of"),
        (["--jobs-per-hour", "1", "--kind", "v2a,v2a"], "'v2a' is not one of"),
        (["--jobs-per-hour", "1", "--measured", "/nowhere.json"], "--measured /nowhere.json: No such file"),
        (["--jobs-per-hour", "10000000", "--model", "demo"], "needs more than 4096 workers"),
    ],
)
def test_an_invalid_argument_is_named(arguments: list[str], says: str) -> None:
    ended = planned(*arguments)
    assert ended.exit_code == USAGE
    assert says in ended.output
