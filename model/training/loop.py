"""The training loop: one step, and the work between steps.

Only writing losses waits for the device, and the CPU computes nothing that the device can. A step depends only on the
previous state and the step number, so a killed run resumes as if it had never stopped.
"""

from __future__ import annotations

import copy
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.networks.coupled_unet import CoupledUNet
from model.runtime.cuda_graphs import CudaRecorder
from model.sampling.latents import Latents
from model.sampling.schedule import NoiseSchedule
from model.training.checkpoints import State, checkpoints, import_state, load_checkpoint, save_checkpoint
from model.training.configuration import OptimizerConfig, TrainingConfig
from model.training.coupling import coupling_gap
from model.training.dataset import Source, evaluation_indexes
from model.training.distillation import student_solvers
from model.training.distribution import Processes
from model.training.ema import ema_rate, update_ema
from model.training.gradients import Gradients
from model.training.initial_weights import load_initial
from model.training.loss_terms import Objective, parts
from model.training.objectives import make_objective
from model.training.precision import ComputeIn
from model.training.random_draws import step_generator
from model.training.sampling import sample_clips, sample_frames, write_picture, write_samples
from model.training.sources import ReadAhead, open_sources
from model.training.training_log import TrainingLog

SYNC_STEPS = 10
"""Steps between checks whether one of several processes must stop; the check waits for the device."""


class TrainingError(RuntimeError):
    """A run that cannot continue; the message says why, and which checkpoints remain."""


class Observer(Protocol):
    """Receives the progress of a run."""

    def say(self, text: str) -> None: ...

    def step(self, step: int, steps: int, per_second: float, loss: float) -> None:
        """After `step` of `steps`, with the rate in samples per second; `loss` is the last known value."""
        ...


@dataclass
class Limits:
    """When to stop before the last step: at `deadline` of `clock`, or once `stop` is set, from a signal."""

    deadline: float = math.inf
    stop: bool = False
    clock: Callable[[], float] = time.monotonic

    @property
    def reached(self) -> bool:
        return self.stop or self.clock() >= self.deadline


@contextmanager
def stop_signals(limits: Limits) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C end the run after this step, with a checkpoint; a second Ctrl-C ends it at once."""

    def stop(number: int, frame: FrameType | None) -> None:
        limits.stop = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Start:
    """Initial weights or exported state, used where `out` has no checkpoint. A distillation without either starts from
    its teacher's weights."""

    init: Path | None = None
    state: Path | None = None


@dataclass
class TrainingRun:
    """A run that is ready to train: its parts, on their device."""

    config: TrainingConfig
    out: Path
    processes: Processes
    dtype: torch.dtype
    state: State
    gradients: Gradients
    objective: Objective
    source: Source
    held_out: Source
    evaluated: Latents | None = None
    losses: list[tuple[int, Tensor]] = field(default_factory=list)


def learning_rate(config: OptimizerConfig, step: int, since: int, steps: int) -> float:
    """Rate of `step` (from 0) of `steps`, where the optimiser began at step `since`."""
    rate = config.lr
    if config.warmup:
        rate *= min(1.0, (step - since + 1) / config.warmup)
    if config.decay:
        rate *= min(1.0, (steps - step) / config.decay)
    return rate


def prepare(
    config: TrainingConfig, out: Path, processes: Processes, start: Start, say: Callable[[str], None]
) -> TrainingRun:
    """Networks, data and state: from the newest checkpoint in `out`, else from `start`, else initialised.

    Raises ConfigurationError, StateError, CheckpointError, DataError.
    """
    processes.rows(config)
    device = processes.device
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    dtype = compute_dtype(config, device)
    objective = make_objective(config, device, dtype)
    torch.manual_seed(config.seed)
    network = objective.build()
    average = copy.deepcopy(network).requires_grad_(False)
    network, average = network.to(device), average.to(device)
    settings = config.optimizer
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=settings.lr,
        betas=(settings.betas[0], settings.betas[1]),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    state = State(network, average, optimizer)
    teacher = config.distillation.teacher
    init = start.init or (Path(teacher) if teacher else None)
    found = checkpoints(out / "checkpoints")
    if found:
        load_checkpoint(found[-1], state, config)
        say(f"resuming from {found[-1]}, after step {state.step}")
    elif start.state is not None:
        import_state(start.state, state, config)
        say(f"resuming from {start.state}, after step {state.step}; the optimiser warms up again")
    elif init is not None:
        load_initial(init, network, config)
        average.load_state_dict(network.state_dict())
        say(f"starting from the weights of {init}")
    # The first process prepares the cache on disk; the others then find it.
    if processes.first:
        source, held_out = open_sources(config, out, say)
    processes.wait()
    if not processes.first:
        source, held_out = open_sources(config, out, say)
    predict: nn.Module = ComputeIn(network, dtype)
    if processes.count > 1:
        ids = [device.index] if device.type == "cuda" else None
        predict = DistributedDataParallel(predict, device_ids=ids, gradient_as_bucket_view=True)
    graphs = device.type == "cuda" and processes.count == 1
    gradients = Gradients(predict, network, processes.count, CudaRecorder(device) if graphs else None)
    return TrainingRun(config, out, processes, dtype, state, gradients, objective, source, held_out)


def compute_dtype(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """Data type of the forward pass; "auto" is bfloat16 on a GPU, else float32."""
    if config.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, config.precision)


def train(run: TrainingRun, limits: Limits, observer: Observer) -> bool:
    """Train to the last step or until `limits` are reached, and write a checkpoint. True if the last step was done.

    Raises TrainingError if the loss is not finite.
    """
    config, state, processes = run.config, run.state, run.processes
    log = TrainingLog(run.out, state.step, config.output.tensorboard) if processes.first else None
    rows = processes.rows(config)
    saved = state.step if checkpoints(run.out / "checkpoints") else -1
    loss, began, before = math.nan, time.monotonic(), state.step
    clock = time.monotonic()
    order = (
        step * config.batch + torch.arange(part.start, part.stop)
        for step in range(state.step, config.steps)
        for part in parts(rows, config.accumulate)
    )
    with ReadAhead(run.source, order, processes.device) as source:
        try:
            while state.step < config.steps:
                asked = processes.count == 1 or state.step % SYNC_STEPS == 0
                if asked and processes.any(limits.reached):
                    break
                one_step(run, source, rows)
                now = time.monotonic()
                state.seconds, clock = state.seconds + now - clock, now
                if state.step % config.output.losses == 0:
                    loss = flush_losses(run, log)
                if processes.first:
                    rate = (state.step - before) * config.batch / (now - began)
                    observer.step(state.step, config.steps, rate, loss)
                if state.step % config.output.checkpoint == 0:
                    loss = flush_losses(run, log, loss)
                    save(run)
                    saved = state.step
                if log is not None:
                    evaluate(run, log)
            flush_losses(run, log)
            if saved != state.step:
                save(run)
        finally:
            if log is not None:
                log.close()
    return state.step >= config.steps


def one_step(run: TrainingRun, source: Source, rows: range) -> None:
    """Gradients of all parts of this process' rows, one update of the weights and of their average."""
    config, state = run.config, run.state
    network, optimizer = state.network, state.optimizer
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config.optimizer, state.step, state.since, config.steps)
    network.train()
    inputs = run.objective.inputs(source, state.step, rows)
    values = run.gradients(run.objective, config, inputs, _dropout_seed(config, state.step, run.processes.rank))
    optimizer.step()
    optimizer.zero_grad()
    rate = ema_rate(config.optimizer.ema, state.step, config.optimizer.ema_warmup)
    update_ema(state.average, network, rate)
    state.step += 1
    run.losses.append((state.step, values))


def flush_losses(run: TrainingRun, log: TrainingLog | None, known: float = math.nan) -> float:
    """Write the losses collected since the last call; return the newest. Raises TrainingError if one is not finite."""
    if not run.losses:
        return known
    steps = [step for step, _ in run.losses]
    table = run.processes.sum(torch.stack([values for _, values in run.losses])).tolist()
    run.losses.clear()
    names, lines = run.objective.terms, []
    for step, (norm, *values) in zip(steps, table, strict=True):
        totals, counts = values[::2], values[1::2]
        loss = sum(totals) / run.config.batch
        lr = learning_rate(run.config.optimizer, step - 1, run.state.since, run.config.steps)
        line = {"step": step, "loss": loss}
        line |= {name: total / max(1.0, count) for name, total, count in zip(names, totals, counts, strict=True)}
        lines.append(line | {"gradient_norm": norm, "lr": lr})
    good = [line for line in lines if math.isfinite(line["loss"]) and math.isfinite(line["gradient_norm"])]
    if log is not None:
        log.losses(good)
    if len(good) < len(lines):
        bad = next(line["step"] for line in lines if line not in good)
        raise TrainingError(
            f"the loss or its gradient is not finite at step {bad}: the checkpoints in "
            f'{run.out / "checkpoints"} are older than that. A lower optimizer.lr, or precision = "float32", may help'
        )
    return lines[-1]["loss"]


def save(run: TrainingRun) -> None:
    """Write a checkpoint; every process waits for it."""
    if run.processes.first:
        save_checkpoint(run.out / "checkpoints", run.state, run.config, run.config.output.keep)
    run.processes.wait()


def evaluate(run: TrainingRun, log: TrainingLog) -> None:
    """Compute whatever is due after this step: coupling gap, samples."""
    config, state, device = run.config, run.state, run.processes.device
    output = config.output
    if output.coupling and state.step % output.coupling == 0 and config.kind == "base" and config.model.base.coupled:
        if run.evaluated is None:
            run.evaluated = run.held_out.batch(evaluation_indexes(output.coupling_clips), device)
        assert isinstance(state.average, CoupledUNet)
        network = ComputeIn(state.average.eval(), run.dtype)
        limits = config.model.base.max_shifts(config.model.clip.frames)
        schedule = NoiseSchedule.from_config(config.model.schedule)
        independent = config.times.independent_timesteps
        prediction = config.model.base.prediction
        gap = coupling_gap(network, schedule, run.evaluated, limits, independent, prediction, config.seed)
        log.coupling(state.step, gap)
    if output.samples and state.step % output.samples == 0:
        folder = run.out / "samples" / f"step-{state.step:08d}"
        if config.kind == "sr":
            picture = sample_frames(config, state.average, run.held_out, device, run.dtype)
            write_picture(folder, picture)
            log.picture(state.step, "samples", picture)
        else:
            solvers = student_solvers(config, run.held_out, device) if config.distillation.teacher else None
            clips = sample_clips(config, state.average, device, run.dtype, solvers)
            write_samples(folder, clips, config)
            for index, clip in enumerate(clips):
                log.clip(state.step, f"sample {index}", clip)
        log.flush()


def _dropout_seed(config: TrainingConfig, step: int, rank: int) -> int:
    return step_generator(config.seed, step, torch.device("cpu"), f"dropout/{rank}").initial_seed()
