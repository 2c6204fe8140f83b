"""The search against a target whose exact solution is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from model.sampling.latents import Latents
from model.sampling.samplers import Sampler, dpmpp_2m, dpmpp_3m, unipc
from model.sampling.schedule import NoiseSchedule, linear_betas
from model.sampling.tuned import tuned
from model.sampling.tuned_solver import TunedSolver
from model.tuning.features import Features
from model.tuning.search import Found, Move, Problem, Search, Trace, follow, mean_distance, update_jacobian
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


def test_a_corrected_jacobian_satisfies_the_secant_equation() -> None:
    """Of a linear function, from a wrong Jacobian: right in the direction of the move, unchanged across it."""
    draw = torch.Generator().manual_seed(0)
    exact, wrong = (torch.randn(3, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    change, other = torch.randn(2, 3, generator=draw, dtype=torch.float64)
    corrected = wrong.clone()
    update_jacobian(corrected, change, change @ exact)
    torch.testing.assert_close(change @ corrected, change @ exact)
    across = other - (other @ change) / change.square().sum() * change
    torch.testing.assert_close(across @ corrected, across @ wrong)


class Counting(Search):
    """Counts the moves; from number `blocked` on they lead nowhere."""

    blocked = 99

    def run(self, rounds: int, say: Callable[[str], None] = lambda line: None) -> TunedSolver:
        self.moves: list[Move] = []
        return super().run(rounds, say)

    def _move(self, parameters: np.ndarray, jacobian: Tensor, residual: Tensor) -> Move:
        move = super()._move(parameters, jacobian, residual)
        if len(self.moves) >= self.blocked:
            move = replace(move, distance=self.moves[-1].distance if self.moves else math.inf)
        self.moves.append(move)
        return move


def test_a_round_makes_three_moves_while_each_gains() -> None:
    search = Counting(problem(0), problem(1), 6)
    search.run(1)
    distances = [move.distance for move in search.moves]
    assert len(distances) == 3
    assert distances == sorted(distances, reverse=True)


@pytest.mark.parametrize("blocked", [0, 1])
def test_a_move_without_gain_ends_the_round_and_is_not_kept(blocked: int) -> None:
    search = Counting(problem(0), problem(1), 6)
    search.blocked = blocked
    start, solver = search.run(0), search.run(1)
    assert len(search.moves) == blocked + 1
    assert solver == (search.solver(search.moves[0].parameters) if blocked else start)


def test_a_grid_whose_clips_are_not_finite_is_no_start() -> None:
    """Those that reach the cleanest time overflow."""
    own = problem(0)
    overflowing = replace(own, predict=lambda x, t, s, k: own.predict(x, t, s, k) * (math.nan if t < 1 else 1.0))
    start = Search(overflowing, problem(1), 4).run(0)
    assert start.times[-1] >= 1
    assert math.isfinite(mean_distance(overflowing, start))
    assert Search(own, problem(1), 4).run(0).times[-1] < 1


def started(own: Problem) -> tuple[Search, Found, Trace, dict[str, Tensor]]:
    """A search before its first move, with the run of its start and the scale of the residuals."""
    search = Search(own, problem(1), 4)
    search.run(0)
    start = search._start()
    trace = follow(own, search.solver(start.parameters))
    return search, start, trace, search._scale(trace.made)


def test_a_move_whose_clips_are_not_finite_is_tried_with_another_damping() -> None:
    own = problem(0)
    search, start, trace, scale = started(own)
    residual = search._residual(trace.made, scale)
    jacobian = search._jacobian(start.parameters, trace, scale, residual)
    tried = 0

    def predict(x: Tensor, t: float, s: float, k: int) -> Tensor:
        """NaN for the first solver that is tried."""
        nonlocal tried
        tried += k == 0
        return own.predict(x, t, s, k) * (math.nan if tried == 1 else 1.0)

    search.problem = replace(own, predict=predict)
    move = search._move(start.parameters, jacobian, residual)
    assert tried > 1
    assert move.distance < start.distance


def test_a_parameter_whose_change_diverges_is_left_as_it_is() -> None:
    own = problem(0)
    search, start, trace, scale = started(own)
    predicted = 0

    def predict(x: Tensor, t: float, s: float, k: int) -> Tensor:
        """NaN once, in the run of the first parameter: the gap after the first time."""
        nonlocal predicted
        predicted += 1
        return own.predict(x, t, s, k) * (math.nan if predicted == 1 else 1.0)

    search.problem = replace(own, predict=predict)
    residual = search._residual(trace.made, scale)
    jacobian = search._jacobian(start.parameters, trace, scale, residual)
    assert jacobian.isfinite().all()
    assert jacobian[:2].any(1).tolist() == [False, True]
    move = search._move(start.parameters, jacobian, residual)
    assert move.parameters[0] == start.parameters[0]
    assert move.distance < start.distance


def test_the_held_out_noise_decides_which_round_is_kept() -> None:
    """With another target held out, no move away from the start is one towards it."""
    far = problem(1, Mixture(SCHEDULE, (3.0,), 0.05))
    search = Search(problem(0), far, 6)
    start, last = search.run(0), search.run(8)
    assert mean_distance(far, last) <= mean_distance(far, start)


def test_silence_is_not_compared() -> None:
    """Its values do not deviate, so a distance relative to that would be infinite."""
    own = problem(0)
    teacher = Latents(own.teacher[:, None, None, None], torch.zeros(32, 1, 64, dtype=torch.float64))
    silent = replace(own, teacher=teacher, features=Features(2000))
    assert set(silent.wanted) == {"video"}
    assert silent.distance(teacher.map(lambda value: value + 0.1)) > 0


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
