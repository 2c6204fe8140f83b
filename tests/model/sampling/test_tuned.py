"""The multistep update of tuned solvers: what it is with known weights, and that any weights are consistent."""

from __future__ import annotations

import math

import pytest
import torch

from model.sampling.latents import Latents
from model.sampling.samplers import Evaluate, Prediction, dpmpp_2m, dpmpp_3m
from model.sampling.schedule import CLEAN, NoiseSchedule, linear_betas
from model.sampling.tuned import multistep_weights, tuned
from model.sampling.tuned_solver import TunedSolver, Weights
from tests.model.sampling.analytic import Mixture, run, solve

SCHEDULE = NoiseSchedule(linear_betas(1000))
TWO_MODES = Mixture(SCHEDULE, (-0.6, 0.6), 0.2)
X = torch.linspace(-2.5, 2.5, 41, dtype=torch.float64)


def solver(times: list[float], **weights: Weights) -> TunedSolver:
    return TunedSolver(tuple(times), weights, {})


@pytest.mark.parametrize(("order", "sampler"), [(2, dpmpp_2m), (3, dpmpp_3m)])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_with_its_weights_it_is_dpm_solver_pp(order: int, sampler: object, count: int) -> None:
    times = SCHEDULE.times(count, "quadratic")
    same = solver(times[:-1], video=multistep_weights(SCHEDULE, times[:-1], order))
    made, asked = run(tuned(X, SCHEDULE, same), TWO_MODES.eps)
    expected, _ = run(sampler(X, SCHEDULE, times), TWO_MODES.eps)  # type: ignore[operator]
    torch.testing.assert_close(made, expected, rtol=1e-12, atol=1e-12)
    assert asked == times[:-1]


@pytest.mark.parametrize("order", [2, 3])
def test_error_falls_with_the_order_of_the_weights(order: int) -> None:
    def error(steps: int) -> float:
        times = SCHEDULE.times(steps, "log_snr")[:-1]
        made, _ = run(tuned(X, SCHEDULE, solver(times, video=multistep_weights(SCHEDULE, times, order))), TWO_MODES.eps)
        exact = TWO_MODES.flow(X, times[0], 0.0)
        return float((made - SCHEDULE.to_x0(exact, TWO_MODES.eps(exact, 0.0), 0.0)).abs().max())

    assert math.log(error(24) / error(192), 8) > order - 0.25


def test_any_weights_solve_a_constant_prediction_exactly() -> None:
    """x̂_0 = c keeps (x − α c) / σ: weights that sum to 1 cannot drift, however large they are."""
    rows: Weights = ((1.0,), (3.0, -2.0), (-4.0, 7.0, -2.0), (0.5, 0.5), (2.0, -1.5, 0.5))
    times = [999.0, 700.0, 300.0, 90.0, 10.0]
    seen = []

    def eps(x: torch.Tensor, t: float) -> torch.Tensor:
        seen.append((x - SCHEDULE.alpha(t) * 0.3) / SCHEDULE.sigma(t))
        return SCHEDULE.to_eps(x, torch.full_like(x, 0.3), t)

    made, _ = run(tuned(X, SCHEDULE, solver(times, video=rows)), eps)
    torch.testing.assert_close(made, torch.full_like(X, 0.3))
    for noise in seen:
        torch.testing.assert_close(noise, seen[0])


def test_each_modality_has_its_own_weights() -> None:
    times = [999.0, 500.0, 50.0]
    rows: dict[str, Weights] = {
        "video": ((1.0,), (1.5, -0.5), (1.0,)),
        "audio": ((1.0,), (0.5, 0.5), (2.0, -1.0, 0.0)),
    }

    def eps(x: Latents, t: float) -> Latents:
        return x.map(lambda value: TWO_MODES.eps(value, t))

    made, _ = run(tuned(Latents(X, X), SCHEDULE, solver(times, **rows)), eps)  # type: ignore[arg-type, type-var]
    assert isinstance(made, Latents)
    for name, own in rows.items():
        alone, _ = run(tuned(X, SCHEDULE, solver(times, video=own)), TWO_MODES.eps)
        torch.testing.assert_close(made[name], alone)


@pytest.mark.parametrize(
    ("times", "rows", "message"),
    [
        ((), (), "descend"),
        ((500.0, 500.0), ((1.0,), (1.0,)), "descend"),
        ((500.0, CLEAN), ((1.0,), (1.0,)), "descend"),
        ((500.0, 1.0), ((1.0,),), "a row for each time"),
        ((500.0, 1.0), ((0.5, 0.5), (1.0,)), "no more predictions than there are"),
        ((500.0, 1.0), ((1.0,), (1.0, 0.1)), "sum to 1"),
        ((9.0, 8.0, 7.0, 6.0), ((1.0,), (1.0,), (1.0,), (0.25,) * 4), "at most 3"),
        ((500.0, 1.0), ((1.0,), (math.nan, 1.0)), "sum to 1"),
    ],
)
def test_a_solver_that_cannot_be_run_is_refused(times: tuple[float, ...], rows: Weights, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TunedSolver(times, {"video": rows}, {})


def test_a_constant_stands_for_the_first_prediction() -> None:
    """As if the network had predicted it; both modalities have their own, and the first time is not evaluated."""
    times = SCHEDULE.times(4, "log_snr")[:-1]
    rows = multistep_weights(SCHEDULE, times)
    both = TunedSolver(tuple(times), {"video": rows, "audio": rows}, {}, {"video": 0.3, "audio": -0.2})
    assert both.evaluations == 3

    def eps(x: torch.Tensor, t: float, first: float) -> torch.Tensor:
        return TWO_MODES.eps(x, t) if t < times[0] else SCHEDULE.to_eps(x, torch.full_like(x, first), t)

    def answer(request: Evaluate) -> Prediction:
        assert request.t < times[0]
        return Prediction(request.x.map(lambda x: TWO_MODES.eps(x, request.t)))

    made = solve(tuned(Latents(X, -X), SCHEDULE, both), answer)
    for name, first, x in (("video", 0.3, X), ("audio", -0.2, -X)):
        plain = solver(times, video=rows)
        expected, _ = run(tuned(x, SCHEDULE, plain), lambda x, t, first=first: eps(x, t, first))
        torch.testing.assert_close(made[name], expected)


@pytest.mark.parametrize("start", [{"audio": 0.0}, {"video": math.inf}])
def test_a_start_that_does_not_fit_is_refused(start: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be a number for each modality"):
        TunedSolver((999.0, 10.0), {"video": ((1.0,), (1.0,))}, {}, start)


def test_a_solver_from_before_there_was_a_start_is_read() -> None:
    data = {"times": [999.0], "weights": {"video": [[1.0]]}, "distance": {}}
    assert TunedSolver.from_json(data).start == {}
