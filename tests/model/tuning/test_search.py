"""The search against a target whose exact solution is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.sampling.latents import Latents
from model.sampling.samplers import Sampler, dpmpp_2m, dpmpp_3m, unipc
from model.sampling.schedule import NoiseSchedule, linear_betas
from model.sampling.tuned import tuned
from model.sampling.tuned_solver import TunedSolver
from model.tuning.search import Problem, Search, follow, mean_distance
from tests.model.sampling.analytic import Mixture, run

SCHEDULE = NoiseSchedule(linear_betas(1000))
TARGET = Mixture(SCHEDULE, (-0.6, 0.6), 0.2)


def noise(seed: int) -> Tensor:
    return torch.randn(32, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(seed: int, target: Mixture = TARGET) -> Problem:
    """Draws of the mixture, by its exact flow."""

    def predict(x: Tensor, t: float, s: float, k: int) -> Tensor:
        return SCHEDULE.to_x0(x, target.eps(x, t), t)

    x = noise(seed)
    return Problem(SCHEDULE, predict, lambda t: x, target.flow(x, SCHEDULE.last, 0.0))


def found(evaluations: int, rounds: int = 8) -> TunedSolver:
    return Search(problem(0), problem(1), evaluations).run(rounds)


def error(sampler: Callable[..., Sampler], *arguments: object) -> float:
    """Mean distance on noise that the search has not seen."""
    fresh = problem(2)
    made, _ = run(sampler(noise(2), SCHEDULE, *arguments), TARGET.eps)
    return float(fresh.distances(made).mean())


@pytest.mark.parametrize(("evaluations", "share"), [(4, 0.7), (6, 0.1), (10, 0.05)])
def test_a_tuned_solver_is_nearer_than_general_ones_of_as_many_evaluations(evaluations: int, share: float) -> None:
    own = error(tuned, found(evaluations))
    times = SCHEDULE.times(evaluations, "log_snr")
    assert own < share * min(error(sampler, times) for sampler in (dpmpp_2m, dpmpp_3m, unipc))


def test_six_tuned_evaluations_are_nearer_than_twenty_of_dpmpp_2m() -> None:
    assert error(tuned, found(6)) < 0.5 * error(dpmpp_2m, SCHEDULE.times(20, "log_snr"))


def test_a_constant_in_pure_noise_saves_an_evaluation() -> None:
    """There the mean of this mixture, 0, is nearly the prediction for every x."""
    constant = {"video": 0.0}
    solver = Search(replace(problem(0), start=constant), replace(problem(1), start=constant), 4).run(8)
    assert solver.start == constant
    assert solver.evaluations == 4
    _, asked = run(tuned(noise(2), SCHEDULE, solver), TARGET.eps)
    assert asked == list(solver.times[1:])
    assert error(tuned, solver) < 0.7 * error(tuned, found(4))


def test_a_tuned_solver_is_stable() -> None:
    """A small change of the noise makes a change of the clip that is not much larger than the exact one's."""
    solver, x = found(6), noise(3)
    nearby = x + 1e-4 * noise(4)
    change = run(tuned(nearby, SCHEDULE, solver), TARGET.eps)[0] - run(tuned(x, SCHEDULE, solver), TARGET.eps)[0]
    exact = TARGET.flow(nearby, SCHEDULE.last, 0.0) - TARGET.flow(x, SCHEDULE.last, 0.0)
    assert float(change.norm()) < 3 * float(exact.norm())


def test_the_search_is_repeatable() -> None:
    assert found(4, 2) == found(4, 2)


def test_the_held_out_noise_decides_which_step_is_kept() -> None:
    """With another target held out, no step away from the start is one towards it."""
    far = problem(1, Mixture(SCHEDULE, (3.0,), 0.05))
    search = Search(problem(0), far, 6)
    start, last = search.run(0), search.run(8)
    assert mean_distance(far, last) <= mean_distance(far, start)


def test_a_search_starts_from_what_an_earlier_one_found() -> None:
    """With as many steps again it is no farther, and without any it is the same solver, up to rounding."""
    earlier = found(6)
    same = Search(problem(0), problem(1), 6, earlier).run(0)
    assert same.times == pytest.approx(earlier.times)
    for own, before in zip(same.weights["video"], earlier.weights["video"], strict=True):
        assert own == pytest.approx(before)
    further = Search(problem(0), problem(1), 6, earlier).run(8)
    assert mean_distance(problem(1), further) <= mean_distance(problem(1), earlier) * (1 + 1e-6)


def test_a_run_that_is_resumed_gives_the_same_clip() -> None:
    own = problem(0)
    solver = found(5, 1)
    trace = follow(own, solver)
    last = (*solver.weights["video"][:-1], (0.5, 0.5))
    changed = replace(solver, weights={"video": last})
    torch.testing.assert_close(follow(own, changed, trace, 4).made, follow(own, changed).made, rtol=0, atol=0)
    assert not torch.equal(follow(own, changed).made, trace.made)


def test_the_first_time_of_a_free_start_is_found() -> None:
    """Frames that start from the noised truth, or nearly: the best start is late."""
    x = noise(0)
    truth = TARGET.flow(x, SCHEDULE.last, 0.0)

    def half(seed: int) -> Problem:
        step = noise(seed)
        return replace(problem(0), initial=lambda t: SCHEDULE.add_noise(truth, t, step), teacher=truth, free_start=True)

    solver = Search(half(5), half(6), 2).run(4)
    assert solver.times[0] < 0.6 * SCHEDULE.last


def test_both_modalities_are_matched() -> None:
    both = Mixture(SCHEDULE, (-0.3, 0.3), 0.1)

    def pair(seed: int) -> Problem:
        x = Latents(noise(seed), noise(seed + 10))
        teacher = Latents(TARGET.flow(x["video"], 999.0, 0.0), both.flow(x["audio"], 999.0, 0.0))

        def predict(x: Latents, t: float, s: float, k: int) -> Latents:
            eps = Latents(TARGET.eps(x["video"], t), both.eps(x["audio"], t))
            return SCHEDULE.to_x0(x, eps, t)

        return Problem(SCHEDULE, predict, lambda t: x, teacher)

    solver = Search(pair(0), pair(1), 6).run(4)
    fresh = pair(2)
    distances = fresh.distances(follow(fresh, solver).made).mean(0)
    assert float(distances.max()) < 0.05
    assert solver.weights["video"] != solver.weights["audio"]
