"""The search: Levenberg-Marquardt on the times and weights of one solver.

The residuals are the differences between the solver's clips and the teacher's. A solver has few parameters, and a
change of one leaves the steps before it as they are, so finite differences are cheap. No gradient through the network
is needed, and the search works with every guidance method, also with those that take a gradient themselves.

Clips are weighted by the inverse of their distance, which minimises the mean distance, not that of squares: few steps
turn some clips into other ones, and no solver would bring these back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

import numpy as np
import torch
from torch import Tensor

from model.sampling.latents import State
from model.sampling.schedule import NoiseSchedule
from model.sampling.tuned import constant, multistep_weights, steps, update
from model.sampling.tuned_solver import MAX_ORDER, TunedSolver
from model.tuning.features import parts

ENDS = (1.0, 0.85, 0.7, 0.55)
"""First grids: how far they reach from the noisiest time to index 0, as a share of the log-SNR between them …"""
BENDS = (0.8, 1.0, 1.25)
"""… and the exponent of their spacing, 1 for even."""

DAMPING = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Multiples of the diagonal that a move tries, while they bring it nearer …"""
FIRST_DAMPING = 0.1
"""… beginning with this one in the first move, and with that of the move before in the others."""
LEAST_GAIN = 0.005
"""The search ends when a round gains less than this share of the distance, and a round when a move does."""
PATIENCE = 2
"""It also ends when so many rounds in a row bring nothing on the held-out noise."""
CHEAP_MOVES = 2
"""Further moves that reuse the derivatives; each costs about a fifth of computing them."""
LONGEST = 1.5
"""No parameter changes more in a move. Weights are differences from those of DPM-Solver++(2M), gaps between times
logarithms."""
CONSTANT = 1e-5
"""Deviation of a feature that is the same everywhere, up to rounding."""
CHANGE = 0.05
"""For finite differences. The network knows whole times only, so less would measure rounding."""


@dataclass(frozen=True)
class Problem:
    """Clips to be matched. `predict(x, t, s, k)` is x̂_0 in step number k from t to s, with the guidance that the solver
    is for. `initial(t)`: the state at the first time. `free_start`: whether that time may be chosen. `start`: constants
    for the prediction there, if it is not to be evaluated. `features`: of clips, by name, what is compared."""

    schedule: NoiseSchedule
    predict: Callable[[State, float, float, int], State]
    initial: Callable[[float], State]
    teacher: State
    free_start: bool = False
    start: Mapping[str, float] = field(default_factory=dict)
    features: Callable[[State], dict[str, Tensor]] = parts

    def distances(self, made: State) -> Tensor:
        """(clips, features): root mean square difference from the teacher, over the deviation of its values."""
        columns, found = [], self.features(made)
        for name, teacher in self.wanted.items():
            difference = (found[name] - teacher).flatten(1).double()
            columns.append(difference.square().mean(1).sqrt() / teacher.double().std())
        return torch.stack(columns, 1)

    def distance(self, made: State) -> float:
        """Mean over clips and features; infinite where a value is not finite."""
        mean = float(self.distances(made).mean())
        return mean if math.isfinite(mean) else math.inf

    @cached_property
    def wanted(self) -> dict[str, Tensor]:
        """The teacher's features, without those that are the same everywhere: silence has no deviation."""
        return {name: value for name, value in self.features(self.teacher).items() if float(value.std()) > CONSTANT}


@dataclass
class Trace:
    """States before each step and predictions of a run; `made` is its result."""

    states: list[State]
    predictions: list[State]
    made: State


@dataclass(frozen=True)
class Found:
    """A solver's parameters, and its mean distance from the teacher on both halves of the noise."""

    parameters: np.ndarray
    distance: float
    held_out: float


@dataclass(frozen=True)
class Move:
    """Parameters that a move leads to, with their distance from the teacher and their clips, `made`."""

    distance: float
    parameters: np.ndarray
    made: State


class Search:
    """Finds a solver of `evaluations`, on the clips of `problem`.

    A round computes the derivatives once and makes up to 1 + CHEAP_MOVES moves with them. The noise that is held out
    is looked at once a round, and decides which round is the last.
    """

    def __init__(
        self, problem: Problem, held_out: Problem, evaluations: int, earlier: TunedSolver | None = None
    ) -> None:
        """`earlier`: a solver from an earlier search, from which this one may start."""
        self.problem = problem
        self.held_out = held_out
        self.count = evaluations + bool(problem.start)  # of times
        self.earlier = earlier
        schedule = problem.schedule
        self._noisiest, self._cleanest = schedule.log_snr(schedule.last), schedule.log_snr(0.0)

    def run(self, rounds: int, say: Callable[[str], None] = lambda line: None) -> TunedSolver:
        """The best solver of at most `rounds` rounds, by its distance on the held-out noise."""
        self._damping = DAMPING.index(FIRST_DAMPING)
        best = current = self._start()
        if not len(best.parameters):
            return self.solver(best.parameters)
        say(f"start: {best.distance:.4f}, held out {best.held_out:.4f}")
        worse = 0
        for number in range(1, rounds + 1):
            before, current = current, self._improve(current)
            say(f"round {number}: {current.distance:.4f}, held out {current.held_out:.4f}")
            worse = 0 if current.held_out < best.held_out else worse + 1
            best = current if worse == 0 else best
            if before.distance - current.distance <= LEAST_GAIN * before.distance or worse == PATIENCE:
                break
        return self.solver(best.parameters)

    def solver(self, parameters: np.ndarray) -> TunedSolver:
        """Parameters: log-SNR of the first time if it is free; logarithms of the gaps in log-SNR; then by modality
        and step, how much the weights of the older predictions differ from those of DPM-Solver++(2M)."""
        begin = np.clip(parameters[0], self._noisiest, self._cleanest - 1) if self._free else self._noisiest
        gaps = np.exp(parameters[self._free : self._free + self.count - 1])
        lambdas = np.minimum(begin + np.concatenate([[0.0], np.cumsum(gaps)]), self._cleanest)
        times = [self.problem.schedule.time_of_log_snr(float(value)) for value in lambdas]
        if not self._free:
            times[0] = self.problem.schedule.last
        times = _descending(times)
        base = multistep_weights(self.problem.schedule, times)
        rest = iter(parameters[self._free + self.count - 1 :])
        weights = {}
        for name in parts(self.problem.teacher):
            rows = []
            for k, row in enumerate(base):
                older = [float(value + next(rest)) for value in self._older_weights(k, row)]
                rows.append((1.0 - sum(older), *older))
            weights[name] = tuple(rows)
        return TunedSolver(tuple(times), weights, {}, dict(self.problem.start))

    def _parameters(self, solver: TunedSolver) -> np.ndarray:
        """The inverse of `solver`."""
        schedule = self.problem.schedule
        lambdas = [schedule.log_snr(t) for t in solver.times]
        base = multistep_weights(schedule, solver.times)
        changes = [
            own - general
            for name in parts(self.problem.teacher)
            for k, (row, plain) in enumerate(zip(solver.weights[name], base, strict=True))
            for own, general in zip(self._older_weights(k, row), self._older_weights(k, plain), strict=True)
        ]
        return np.array([*lambdas[: self._free], *np.log(np.diff(lambdas)), *changes])

    def _older_weights(self, k: int, row: Sequence[float]) -> list[float]:
        """Of step number `k`, those of its weights that are free: of the older predictions."""
        count = min(k, MAX_ORDER - 1)
        return [*row[1:], *[0.0] * MAX_ORDER][:count]

    def _weights(self) -> list[int]:
        """The step of each free weight."""
        each = [k for k in range(self.count) for _ in self._older_weights(k, ())]
        return each * len(parts(self.problem.teacher))

    @property
    def _free(self) -> int:
        return int(self.problem.free_start)

    def _restarts(self) -> list[int]:
        """By parameter: the step from which a change of it acts."""
        return [-1] * self._free + list(range(self.count - 1)) + self._weights()

    def _start(self) -> Found:
        """The best of the first grids, with the weights of DPM-Solver++(2M), and of what an earlier search found."""
        free = [self._noisiest, -3.0, -2.0, -1.0] if self._free else [self._noisiest]
        shares = np.linspace(0.0, 1.0, self.count)
        weights = len(self._weights())
        grids = {}
        for begin, end, bend in product(free, ENDS, BENDS):
            last = self._noisiest + end * (self._cleanest - self._noisiest)
            if last > begin:
                gaps = np.log(np.diff(begin + (last - begin) * shares**bend))
                grids[(begin, *gaps.round(6))] = np.concatenate([[begin] * self._free, gaps, np.zeros(weights)])
        earlier = self.earlier if self.earlier is not None and len(self.earlier.times) == self.count else None
        candidates = [*grids.values(), *([self._parameters(earlier)] if earlier is not None else [])]
        distances = [self._distance(each) for each in candidates]
        nearest = int(np.argmin(distances))
        return self._measured(candidates[nearest], distances[nearest])

    def _distance(self, parameters: np.ndarray) -> float:
        return mean_distance(self.problem, self.solver(parameters))

    def _measured(self, parameters: np.ndarray, distance: float) -> Found:
        return Found(parameters, distance, mean_distance(self.held_out, self.solver(parameters)))

    def _improve(self, found: Found) -> Found:
        """One round from `found`: a move, and CHEAP_MOVES more while each gains; itself if nothing does.

        The derivatives take most of the time. The cheap moves use those of the first, corrected by what the moves
        changed.
        """
        trace = follow(self.problem, self.solver(found.parameters))
        scale = self._scale(trace.made)
        residual = self._residual(trace.made, scale)
        jacobian = self._jacobian(found.parameters, trace, scale, residual)
        distance, parameters = found.distance, found.parameters
        for left in reversed(range(1 + CHEAP_MOVES)):
            before = distance
            move = self._move(parameters, jacobian, residual)
            if not move.distance < before:
                break
            change = torch.as_tensor(move.parameters - parameters, dtype=jacobian.dtype, device=jacobian.device)
            distance, parameters = move.distance, move.parameters
            if not left or before - distance <= LEAST_GAIN * before:
                break
            after = self._residual(move.made, scale)
            update_jacobian(jacobian, change, after - residual)
            residual = after
        return self._measured(parameters, distance) if distance < found.distance else found

    def _move(self, parameters: np.ndarray, jacobian: Tensor, residual: Tensor) -> Move:
        """The nearest of the moves with different damping, looked for from the damping of the move before."""
        matrix = (jacobian @ jacobian.T).double().cpu().numpy()
        slope = (jacobian @ residual).double().cpu().numpy()
        diagonal = np.diag(matrix)

        def tried(number: int) -> Move:
            change = -np.linalg.solve(matrix + np.diag(DAMPING[number] * diagonal + 1e-9 * diagonal.max()), slope)
            moved = parameters + np.clip(change, -LONGEST, LONGEST)
            made = follow(self.problem, self.solver(moved)).made
            return Move(self.problem.distance(made), moved, made)

        best, first = tried(self._damping), self._damping
        for direction in (-1, 1):
            while 0 <= self._damping + direction < len(DAMPING):
                move = tried(self._damping + direction)
                if not move.distance < best.distance:
                    break
                best, self._damping = move, self._damping + direction
            if self._damping != first:
                break
        return best

    def _jacobian(self, parameters: np.ndarray, trace: Trace, scale: dict[str, Tensor], residual: Tensor) -> Tensor:
        """(parameters, residuals): derivatives of the residuals of the run `trace`, which are `residual`; 0 where the
        changed solver diverges, so that a move leaves that parameter as it is."""
        rows = []
        for number, restart in enumerate(self._restarts()):
            changed = parameters.copy()
            changed[number] += CHANGE
            made = follow(self.problem, self.solver(changed), trace if restart >= 0 else None, max(restart, 0)).made
            row = (self._residual(made, scale) - residual) / CHANGE
            rows.append(row if row.isfinite().all() else torch.zeros_like(row))
        return torch.stack(rows)

    def _residual(self, made: State, scale: dict[str, Tensor]) -> Tensor:
        """All differences from the teacher, weighted by `scale`."""
        found = self.problem.features(made)
        weighted = (
            ((found[name] - teacher).flatten(1) * scale[name]).flatten()
            for name, teacher in self.problem.wanted.items()
        )
        return torch.cat(list(weighted))

    def _scale(self, made: State) -> dict[str, Tensor]:
        """By feature, the roots of the weights of each clip's differences, (clips, 1): the inverse of its distance."""
        distances = self.problem.distances(made)
        distances = distances.clamp(min=float(distances.median()) / 10 + 1e-9)
        scale = {}
        for column, (name, teacher) in zip(distances.unbind(1), self.problem.wanted.items(), strict=True):
            each = 1 / (column.sqrt() * teacher.double().std() * math.sqrt(teacher[0].numel()))
            scale[name] = each[:, None].to(teacher.dtype)
        return scale


def update_jacobian(jacobian: Tensor, change: Tensor, difference: Tensor) -> None:
    """Broyden's update (1965) of `jacobian` (parameters, residuals), in place: the smallest one after which it predicts
    the `difference` (residuals,) that the `change` (parameters,) made."""
    jacobian.addr_(change / change.square().sum(), difference - change @ jacobian)


def follow(problem: Problem, solver: TunedSolver, trace: Trace | None = None, restart: int = 0) -> Trace:
    """Run `solver`; with the `trace` of a run that is the same before the end of step `restart`, from there on."""
    states, predictions = ([], []) if trace is None else (trace.states[: restart + 1], trace.predictions[: restart + 1])
    x = states[-1] if states else problem.initial(solver.times[0])
    for k, (t, s) in list(enumerate(steps(solver)))[restart:]:
        if k == len(predictions):
            states = [*states[:k], x]
            known = k == 0 and solver.start
            predictions = [*predictions, constant(x, solver.start) if known else problem.predict(x, t, s, k)]
        x = update(problem.schedule, solver, k, x, predictions[: -MAX_ORDER - 1 : -1])
    return Trace(states, predictions, x)


def mean_distance(problem: Problem, solver: TunedSolver) -> float:
    """`Problem.distance` of the clips that `solver` makes."""
    return problem.distance(follow(problem, solver).made)


def _descending(times: Sequence[float]) -> list[float]:
    """The times, each at least a thousandth below the one before, and none below 0."""
    least = 1e-3

    def limited() -> Iterator[float]:
        previous = math.inf
        for number, t in enumerate(times):
            previous = max(min(t, previous - least), least * (len(times) - 1 - number))
            yield previous

    return list(limited())
