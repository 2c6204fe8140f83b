"""Whole sampling chains, unconditional, conditional and of super-resolution, with recorded noise and window shifts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from model.networks.config import MODALITIES
from model.networks.coupled_unet import CoupledUNet
from model.runtime.evaluator import Evaluator
from model.sampling import guidance, samplers
from model.sampling.latents import Latents, State, clip, dynamic_threshold, unchanged
from model.sampling.samplers import Evaluate, Prediction, Sampler
from model.sampling.schedule import CLEAN, NoiseSchedule, linear_betas, respaced_times
from model.sampling.upsampling import super_resolve
from model.verify.folder import GoldenSet
from model.verify.forward import base_network, sr_network
from model.verify.report import Case, Check, compare, provides

RTOL = 1e-3
GRADIENT_RTOL = 2e-2
"""Relative L2: a single element of x̂_0 that rounding moves across its bound changes a gradient by half a percent."""

SPACINGS = {"logSNR": "log_snr", "time_uniform": "uniform", "time_quadratic": "quadratic"}
SCHEDULE = NoiseSchedule(linear_betas(1000))


@dataclass
class Driver:
    """Answers a chain's requests and records the model times, the last request and answer, and all gradients."""

    evaluator: Evaluator
    times: list[int] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)
    last: tuple[Any, Prediction] | None = None

    def run(self, chain: Any) -> Any:
        try:
            request = next(chain)
            while True:
                (prediction,) = self.evaluator([request])
                self.times.append(SCHEDULE.model_time(request.t))
                if prediction.gradient is not None:
                    self.gradients += prediction.gradient.present
                self.last = request, prediction
                request = chain.send(prediction)
        except StopIteration as stop:
            return stop.value


@provides("unconditional_samplers")
def sampler_cases(golden: GoldenSet, device: torch.device) -> Iterator[Case]:
    for name, chain in golden.value("chains").items():
        if "upstream_error" in chain or _sampler_of(chain) is not None:
            yield Case(f"{golden.name}/{name}", (f"out/{name}",), partial(_check_sampler, golden, device, name))


def _check_sampler(golden: GoldenSet, device: torch.device, name: str) -> Iterator[Check]:
    chain, chains = golden.value("chains", name), golden.value("chains")
    case = f"{golden.name}/{name}"
    if "upstream_error" in chain:
        yield _nothing_recorded(case, "the published code raises here")
        return
    method = _sampler_of(chain)
    assert method is not None
    start = "noise/x_T" if chain["sampler"] in ("ddpm", "ddim") else "in/x_T"
    limit: Callable[[State], State] = unchanged
    if chain.get("thresholding"):
        limit = dynamic_threshold
    elif chain.get("clip_denoised"):
        limit = clip
    sampler = method(_latents(golden, start, device), _recorded_noise(golden, device))
    if chain.get("denoise"):
        sampler = _denoised(sampler)
    network = base_network(golden, device)
    driver = Driver(Evaluator(network, None, SCHEDULE))
    result = driver.run(_shifted(guidance.limited(sampler, SCHEDULE, limit), network, chain.get("shifts")))

    # The published chain is right, and must be met, unless a corrected one with other numbers stands beside it.
    corrected = chains.get(name.replace("__upstream", "__fixed"), chain)
    wrong = name.endswith("__upstream") and "tensors_same_as" not in corrected
    note = "the published audio update is wrong here" if wrong else ""
    expected = _latents(golden, f"out/{chain.get('tensors_same_as', name)}", torch.device("cpu"))
    for modality in MODALITIES:
        yield compare(f"{case}/{modality}", result[modality], expected[modality], chain["atol"], RTOL, wrong, note)
    yield _same_times(case, driver.times, chain)


def _sampler_of(chain: dict[str, Any]) -> Callable[[State, Callable[[State], State]], Sampler] | None:
    """The sampler of a recorded chain, still to be given x_T and its noise; None if we have no such sampler."""
    if chain.get("sampler") == "ddpm":
        times = respaced_times(1000, chain["timestep_respacing"])
        return lambda x, noise: samplers.ddpm(x, SCHEDULE, times, noise)
    if chain.get("sampler") == "ddim":
        times = respaced_times(1000, chain["timestep_respacing"])
        return lambda x, noise: samplers.ddim(x, SCHEDULE, times, chain["eta"] or 0.0, noise)
    if chain.get("skip_type") not in SPACINGS or chain.get("solver_type", "dpm_solver") != "dpm_solver":
        return None
    grid, order = SCHEDULE.grid(chain["steps"], SPACINGS[chain["skip_type"]]), chain["order"]
    in_x0 = chain.get("predict_x0", chain["sampler"] == "dpm_solver++")
    if chain["method"] == "singlestep" and not in_x0:
        return lambda x, noise: samplers.dpm_solver(x, SCHEDULE, grid, order)
    if chain["method"] == "multistep" and not in_x0:
        return lambda x, noise: samplers.dpm_multistep(x, SCHEDULE, grid, order, published=True)
    if chain["method"] == "multistep" and order == 2:
        return lambda x, noise: samplers.dpmpp_2m(x, SCHEDULE, grid)
    if chain["method"] == "multistep" and order == 3:
        return lambda x, noise: samplers.dpmpp_3m(x, SCHEDULE, grid, published=True)
    return None


def _denoised(sampler: Sampler) -> Sampler:
    """One evaluation more: x̂_0 at index 0 instead of x."""
    x = yield from sampler
    prediction = yield Evaluate(x, 0.0, CLEAN)
    return SCHEDULE.to_x0(x, prediction.eps, 0.0)


@provides("conditional_samplers")
def conditional_cases(golden: GoldenSet, device: torch.device) -> Iterator[Case]:
    for name in golden.value("chains"):
        covers = (f"out/{name}", f"grad/{name}")
        yield Case(f"{golden.name}/{name}", covers, partial(_check_conditional, golden, device, name))


def _check_conditional(golden: GoldenSet, device: torch.device, name: str) -> Iterator[Check]:
    chain, case = golden.value("chains", name), f"{golden.name}/{name}"
    given, target = ("audio", "video") if chain["task"] == "a2v" else ("video", "audio")
    start = _latents(golden, "noise/init", device)
    condition = guidance.Condition(given, golden[f"in/cond/{given}"].to(device), start[given])
    times = respaced_times(1000, chain["timestep_respacing"])
    noise = _recorded_noise(golden, device)
    sampler = samplers.ddpm(start.replace(given, None), SCHEDULE, times, noise)
    gradient = chain["method"] == "gradient"
    if gradient:
        own_noise = _recorded_noise(golden, device)
        chain_run = guidance.gradient_code(
            sampler,
            SCHEDULE,
            condition,
            chain["classifier_scale"],
            lambda c: own_noise(Latents(None, None).replace(given, c))[given],
            chain["loss_scale"],
        )
    else:
        chain_run = guidance.replacement(sampler, SCHEDULE, condition, clip)
    network = base_network(golden, device)
    shifts = chain["shifts"]
    if chain["shift_per_block"]:
        shifts = list(chain["shift_per_block"].values()) * chain["nfe"]
    driver = Driver(Evaluator(network, None, SCHEDULE))
    result = driver.run(_shifted(chain_run, network, shifts))[target]

    yield compare(f"{case}/{target}", result, golden[f"out/{name}/{target}"], chain["atol"], RTOL)
    # For the condition the published code returns its last prediction, or with a gradient the last noisy condition.
    assert driver.last is not None
    request, prediction = driver.last
    side = request.x[given] if gradient else clip(SCHEDULE.to_x0(request.x, prediction.eps, request.t))[given]
    yield compare(f"{case}/{given}", side, golden[f"out/{name}/{given}"], chain["atol"], RTOL)
    yield from _check_gradients(golden, name, driver.gradients)
    yield _same_times(case, driver.times, chain)


def _check_gradients(golden: GoldenSet, name: str, gradients: list[Tensor]) -> Iterator[Check]:
    """Relative L2 error of each step's gradient: where x̂_0 meets its bound, rounding decides single elements of it.

    The last step is left out: its gradient is not used, and the published code takes it from another time by mistake.
    """
    if f"grad/{name}/step000" not in golden:
        return
    for step, gradient in enumerate(gradients[:-1]):
        expected = golden[f"grad/{name}/step{step:03d}"]
        error = float((gradient.cpu() - expected).norm() / expected.norm())
        yield Check(
            f"{golden.name}/{name}/gradient/step{step:03d}",
            error,
            GRADIENT_RTOL,
            error <= GRADIENT_RTOL,
            note="relative L2",
        )


@provides("sr")
def super_resolution_cases(golden: GoldenSet, device: torch.device) -> Iterator[Case]:
    for name in golden.value("chains"):
        yield Case(f"{golden.name}/{name}", (f"out/{name}",), partial(_check_super_resolution, golden, device, name))


def _check_super_resolution(golden: GoldenSet, device: torch.device, name: str) -> Iterator[Check]:
    chain, case = golden.value("chains", name), f"{golden.name}/{name}"
    if not chain["finite"]:
        yield _nothing_recorded(case, "the published code yields no finite numbers here")
        return
    network = sr_network(golden, device)
    start = golden["in/shared_noise"].repeat_interleave(golden.value("frames"), dim=0).to(device)
    recorded = iter([golden[t].to(device) for t in golden.tensors if t.startswith(f"noise/{name}/")])
    repeats_noise = "repeats_noise" in name
    noise: Callable[[State], State] = lambda _: start if repeats_noise else next(recorded)  # noqa: E731
    limit: Callable[[State], State] = clip if chain.get("clip_denoised") else unchanged
    if chain["sampler"] == "ddpm":
        times = respaced_times(1000, chain["timestep_respacing"])
        sampler = samplers.ddpm(start, SCHEDULE, times, noise, learned_variance=True)
    else:
        method = _sampler_of(chain)
        assert method is not None
        sampler = method(start, noise)
    upsampled = network.upsample(golden["in/low_res"].to(device))
    driver = Driver(Evaluator(None, network, SCHEDULE))
    result = driver.run(super_resolve(sampler, SCHEDULE, upsampled, limit))
    yield compare(case, result, golden[f"out/{name}"], chain["atol"], RTOL)
    yield _same_times(case, driver.times, chain)


def _latents(golden: GoldenSet, prefix: str, device: torch.device) -> Latents:
    return Latents(golden[f"{prefix}/video"].to(device), golden[f"{prefix}/audio"].to(device))


def _recorded_noise(golden: GoldenSet, device: torch.device) -> Callable[[Latents], Latents]:
    """noise/step000, step001, … one a call, whichever modalities are asked for."""
    step = -1

    def noise(x: Latents) -> Latents:
        nonlocal step
        step += 1
        recorded = _latents(golden, f"noise/step{step:03d}", device)
        return x.map(lambda _, value: value, recorded)

    return noise


def _shifted(chain: Sampler, network: CoupledUNet, shifts: list[int] | None) -> Sampler:
    """Recorded window shifts, in order of execution over all evaluations; none recorded means zero."""
    if not shifts:
        return chain
    blocks = len(network.config.block_windows)
    rows = iter(torch.tensor(shifts, dtype=torch.long).view(-1, blocks))
    return guidance.with_shifts(chain, lambda batch: next(rows).expand(batch, -1))


def _same_times(case: str, asked: list[int], chain: dict[str, Any]) -> Check:
    expected = chain["t_inputs"]
    if len(asked) != len(expected):
        return Check(
            f"{case}/times", float("inf"), 0.0, False, note=f"{len(asked)} evaluations, expected {len(expected)}"
        )
    error = float(max(abs(a - b) for a, b in zip(asked, expected, strict=True)))
    return Check(f"{case}/times", error, 0.0, error == 0.0, note=f"{len(asked)} evaluations")


def _nothing_recorded(case: str, note: str) -> Check:
    return Check(case, float("nan"), 0.0, False, informative=True, note=note)
