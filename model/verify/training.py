"""The training loss, its gradients, and three steps of AdamW with the average of the weights.

A set may hold the weights after its last step (they equal `adamw3/`) instead of the initial ones. The initial weights
are then taken from another set of the folder with the same flags that reproduces the first recorded loss.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from model.checkpoint.loading import to_published
from model.networks.coupled_unet import CoupledUNet
from model.sampling.latents import Latents
from model.sampling.schedule import NoiseSchedule, linear_betas
from model.training.denoising_loss import LossTerms, denoising_loss, diffuse
from model.training.ema import update_ema
from model.verify.folder import GoldenSet, read_folder
from model.verify.forward import base_network
from model.verify.report import Case, Check, compare, provides

SCHEDULE = NoiseSchedule(linear_betas(1000))
_FIRM = 0.1
"""Share of the root mean square of a tensor's gradient, below which rounding affects Adam's steps."""
_STEPS_RTOL = 1e-2
"""Relative L2 of a tensor's total change over the recorded steps; float32 rounding causes about 3e-3."""


@provides("training")
def training_cases(golden: GoldenSet, device: torch.device) -> Iterator[Case]:
    def named(prefix: str) -> tuple[str, ...]:
        return tuple(name for name in golden.expectations if name.startswith(prefix))

    yield Case(f"{golden.name}/diffusion", named("mid/"), partial(_check_diffusion, golden, device))
    for run in golden.value("runs"):
        yield Case(f"{golden.name}/{run}", named(f"grad/{run}/"), partial(_check_gradients, golden, device, run))
    yield Case(f"{golden.name}/adamw", (*named("adamw3/"), *named("ema3/")), partial(_check_steps, golden, device))


def _check_diffusion(golden: GoldenSet, device: torch.device) -> Iterator[Check]:
    x0, t, noise = _inputs(golden, device)
    x = diffuse(SCHEDULE, x0, t, t, noise)
    for modality in ("video", "audio"):
        yield compare(f"{golden.name}/x_t/{modality}", x[modality], golden[f"mid/x_t/{modality}"], 1e-5, 1e-5)


def _check_gradients(golden: GoldenSet, device: torch.device, run: str) -> Iterator[Check]:
    case, recorded = f"{golden.name}/{run}", golden.value("runs", run)
    network = _start(golden, device)
    terms = _loss(golden, device, network, recorded["shift_per_block"])
    rtol = golden.value("recommended_tolerance", "loss", "rtol")
    for name, actual in (("mse_video", terms.video), ("mse_audio", terms.audio)):
        yield compare(f"{case}/{name}", actual, torch.tensor(recorded["terms"][name]), 1e-6, rtol)
    yield compare(f"{case}/loss", terms.total, torch.tensor(recorded["scalar"]), 1e-6, rtol)

    terms.total.backward()
    gradients = _published_gradients(network)
    rtol = golden.value("recommended_tolerance", "grad", "rtol_l2")
    # Some gradients vanish by construction (a bias before a norm) and consist of rounding errors.
    floor = 1e-6 * recorded["grad_total_l2"]
    worst, at = 0.0, ""
    for name, norm in recorded["grad_l2"].items():
        error = abs(float(gradients[name].norm()) - norm) / max(norm, floor / rtol)
        if error > worst:
            worst, at = error, name
    note = f"relative, {len(recorded['grad_l2'])} norms, worst {at}"
    yield Check(f"{case}/gradient_norms", worst, rtol, worst <= rtol, note=note)
    total = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients.values()))
    yield compare(f"{case}/gradient_total", torch.tensor(total), torch.tensor(recorded["grad_total_l2"]), 0.0, rtol)
    for tensor in golden.tensors:
        if tensor.startswith(f"grad/{run}/"):
            expected = golden[tensor]
            error = float((gradients[tensor.removeprefix(f"grad/{run}/")].cpu() - expected).norm() / expected.norm())
            yield Check(f"{golden.name}/{tensor}", error, rtol, error <= rtol, note="relative L2")


def _check_steps(golden: GoldenSet, device: torch.device) -> Iterator[Check]:
    settings = golden.value("adamw")
    network, average = _start(golden, device), _start(golden, device)
    start = {name: value.detach().cpu().clone() for name, value in to_published(network).items()}
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=settings["lr"],
        betas=tuple(settings["betas"]),
        eps=settings["eps"],
        weight_decay=settings["weight_decay"],
    )
    losses = []
    firm: dict[str, Tensor] = {}
    for _ in range(settings["steps"]):
        loss = _loss(golden, device, network, None).total
        losses.append(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        firm = {name: firm.get(name, True) & mask for name, mask in _firm(network).items()}
        optimizer.step()
        update_ema(average, network, settings["ema_rate"])
    case = f"{golden.name}/adamw"
    yield compare(f"{case}/losses", torch.stack(losses), torch.tensor(settings["losses_before_each_step"]), 0.0, 1e-3)
    # Adam divides each gradient by its magnitude, so near zero the step depends on rounding, which differs between
    # processors. Weights with larger gradients must agree one by one, and the total change of a tensor as a whole.
    atol = 2 * settings["lr"] * 1e-2
    for prefix, weights in (("adamw3/", to_published(network)), ("ema3/", to_published(average))):
        for tensor in golden.tensors:
            if tensor.startswith(prefix):
                name, expected = tensor.removeprefix(prefix), golden[tensor]
                mask = firm[name].cpu()
                yield compare(f"{golden.name}/{tensor}", weights[name].cpu()[mask], expected[mask], atol, 1e-3)
                error = float((weights[name].cpu() - expected).norm() / (expected - start[name]).norm())
                yield Check(
                    f"{golden.name}/{tensor}/way",
                    error,
                    _STEPS_RTOL,
                    error <= _STEPS_RTOL,
                    note="relative L2 of the way",
                )


def _firm(network: CoupledUNet) -> dict[str, Tensor]:
    """Masks of the weights whose gradient is large enough to compare, by published name."""
    gradients = copy.deepcopy(network)
    with torch.no_grad():
        for holder, weight in zip(gradients.parameters(), network.parameters(), strict=True):
            holder.copy_(torch.zeros_like(weight) if weight.grad is None else weight.grad)
    return {
        name: value.abs() >= _FIRM * value.square().mean().sqrt() for name, value in to_published(gradients).items()
    }


def _start(golden: GoldenSet, device: torch.device) -> CoupledUNet:
    network = base_network(golden, device)
    stored = golden.weights
    kept_after_training = all(
        torch.equal(stored[name.removeprefix("adamw3/")], golden[name])
        for name in golden.tensors
        if name.startswith("adamw3/")
    )
    if not kept_after_training:
        return network
    first = golden.value("adamw", "losses_before_each_step")[0]
    for other in read_folder(golden.path.parent):
        if other is not golden and other.meta.get("config") == golden.value("config") and other.weights:
            candidate = base_network(other, device)
            with torch.no_grad():
                loss = float(_loss(golden, device, candidate, None).total)
            if abs(loss - first) <= 1e-3 * abs(first):
                return candidate
    return network


def _inputs(golden: GoldenSet, device: torch.device) -> tuple[Latents, Tensor, Latents]:
    def pair(prefix: str) -> Latents:
        return Latents(golden[f"{prefix}/video"].to(device), golden[f"{prefix}/audio"].to(device))

    return pair("in/x0"), golden["in/t"].to(device), pair("in/noise")


def _loss(
    golden: GoldenSet, device: torch.device, network: CoupledUNet, shift_per_block: dict[str, int] | None
) -> LossTerms:
    x0, t, noise = _inputs(golden, device)
    shifts = None
    if shift_per_block:
        shifts = torch.tensor(list(shift_per_block.values()), dtype=torch.long).expand(x0.batch, -1)
    return denoising_loss(network, SCHEDULE, x0, t, t, noise, shifts)


def _published_gradients(network: CoupledUNet) -> dict[str, Tensor]:
    """Gradients by the published names of their weights, converted as the weights are."""
    with torch.no_grad():
        for parameter in network.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    return to_published(network)
