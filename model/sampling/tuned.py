"""The sampler of tuned solvers: a linear multistep update in x̂_0 whose times and weights were found for one model.

x_s = (σ_s / σ_t) x_t + (α_s − α_t σ_s / σ_t) Σ_j w_j x̂_0(t_{−j}), Σ_j w_j = 1

With the weights of `multistep_weights` this is DPM-Solver++(2M) or (3M). Any weights that sum to 1 solve a constant x̂_0
exactly, so the method is at least of first order where they stay bounded. In pure noise x̂_0 hardly depends on x: a
constant may stand for it, which saves the first evaluation. That such a solver can be found by matching
clips of a finer one, without data: Frankel et al., S4S, 2025.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from model.networks.config import MODALITIES
from model.sampling.latents import Latents, State
from model.sampling.samplers import Evaluate, Sampler, higher_order
from model.sampling.schedule import CLEAN, NoiseSchedule
from model.sampling.tuned_solver import MAX_ORDER, TunedSolver, Weights


def tuned(x: State, schedule: NoiseSchedule, solver: TunedSolver) -> Sampler:
    """One evaluation at each time of `solver`, but for the first if that has a constant; from x at the first time."""
    predictions: deque[State] = deque(maxlen=MAX_ORDER)
    for k, (t, s) in enumerate(steps(solver)):
        if k == 0 and solver.start:
            predictions.appendleft(constant(x, solver.start))
        else:
            predictions.appendleft(schedule.to_x0(x, (yield Evaluate(x, t, s)).eps, t))
        x = update(schedule, solver, k, x, predictions)
    return x


def constant(x: State, values: Mapping[str, float]) -> State:
    """A state of the shape of x with one value for each modality."""
    if not isinstance(x, Latents):
        return torch.full_like(x, values["video"])
    parts = ((getattr(x, name), name) for name in MODALITIES)
    return Latents(*(None if own is None else torch.full_like(own, values[name]) for own, name in parts))


def steps(solver: TunedSolver) -> list[tuple[float, float]]:
    """Begin and end of each step."""
    return list(pairwise((*solver.times, CLEAN)))


def update(schedule: NoiseSchedule, solver: TunedSolver, k: int, x: State, predictions: Sequence[State]) -> State:
    """Step number `k` from x; `predictions` of x̂_0, the newest first."""
    t, s = steps(solver)[k]
    mean = _mean(predictions, {name: rows[k] for name, rows in solver.weights.items()})
    if s == CLEAN:
        return mean
    of_x = schedule.sigma(s) / schedule.sigma(t)
    return of_x * x + (schedule.alpha(s) - of_x * schedule.alpha(t)) * mean


def multistep_weights(schedule: NoiseSchedule, times: Sequence[float], order: int = 2) -> Weights:
    """The weights of DPM-Solver++(2M) or (3M) at `times`, the last step to CLEAN aside, which returns x̂_0 itself."""
    lambdas = [schedule.log_snr(t) for t in times]
    rows = []
    for k, (t, s) in enumerate(pairwise(times)):
        used = range(k, max(-1, k - order), -1)
        h = lambdas[k + 1] - lambdas[k]
        total = schedule.alpha(s) - schedule.alpha(t) * schedule.sigma(s) / schedule.sigma(t)
        row = []
        for of in used:
            history = deque(((lambdas[j], float(j == of)) for j in used), maxlen=order)
            first = total if of == k else 0.0
            row.append(higher_order(first, schedule.alpha(s), -h, history) / total)
        rows.append(tuple(row))
    return (*rows, (1.0,))


def _mean(predictions: Sequence[State], weights: Mapping[str, Sequence[float]]) -> State:
    if not isinstance(predictions[0], Latents):
        return _sum(predictions, weights["video"])
    parts = {name: [getattr(each, name) for each in predictions] for name in MODALITIES}
    return Latents(*(None if own[0] is None else _sum(own, weights[name]) for name, own in parts.items()))


def _sum(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    first, *rest = zip(weights, values, strict=False)  # the newest predictions; weights may leave out older ones
    total = first[0] * first[1]
    for weight, value in rest:
        total = total + weight * value
    return total
