"""The training loop: a step, and what is done between steps.

Nothing here waits for the device between two steps but where losses are written out, and nothing is computed on the CPU
that the device can do. A step depends on the state before it and on its number, so that a run that was killed goes on
as if it had not been.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from model.networks.coupled_unet import CoupledUNet
from model.sampling.latents import Latents
from model.sampling.schedule import NoiseSchedule
from model.training.checkpoints import State, checkpoints, import_state, load_checkpoint, save_checkpoint
from model.training.configuration import OptimizerConfig, TrainingConfig
from model.training.coupling import coupling_gap
from model.training.distribution import Processes
from model.training.ema import ema_rate, update_ema
from model.training.initial import load_initial
from model.training.journal import Journal
from model.training.objectives import Term, make_task, parts
from model.training.precision import ComputeIn
from model.training.sampling import sample_clips, sample_frames, write_picture, write_samples
from model.training.sources import ReadAhead, Source, evaluation_numbers, open_sources
from model.training.times import step_generator

SYNC_STEPS = 10
"""Several processes ask each other this often whether one of them is to stop: asking waits for the device."""


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says why and what is left of it."""


class Observer(Protocol):
    """Who follows a run."""

    def say(self, text: str) -> None: ...

    def step(self, step: int, steps: int, per_second: float, loss: float) -> None:
        """After `step` of `steps`, at so many samples a second; `loss` is the last that is known."""
        ...


@dataclass
class Limits:
    """When to stop before the last step: at `deadline` (time.monotonic), or once `stop` is set, from a signal."""

    deadline: float = math.inf
    stop: bool = False

    @property
    def reached(self) -> bool:
        return self.stop or time.monotonic() >= self.deadline


@dataclass(frozen=True)
class Start:
    """What to begin with where `out` has no checkpoint: an existing model's weights, or an exported state."""

    init: Path | None = None
    state: Path | None = None


@dataclass
class Run:
    """A run that is ready to go on: the parts of it, on their device."""

    config: TrainingConfig
    out: Path
    processes: Processes
    dtype: torch.dtype
    state: State
    predict: nn.Module
    task: Any
    source: Source
    looked_at: Source
    evaluated: Latents | None = None
    losses: list[tuple[int, Tensor]] = field(default_factory=list)


def learning_rate(config: OptimizerConfig, step: int, since: int, steps: int) -> float:
    """Of the step number `step` (from 0), of `steps`, where the optimiser began at `since`."""
    rate = config.lr
    if config.warmup:
        rate *= min(1.0, (step - since + 1) / config.warmup)
    if config.decay:
        rate *= min(1.0, (steps - step) / config.decay)
    return rate


def prepare(config: TrainingConfig, out: Path, processes: Processes, start: Start, say: Callable[[str], None]) -> Run:
    """Networks, data and the state to go on from: the newest checkpoint in `out`, else `start`, else nothing learned.

    Raises ConfigurationError, StateError, CheckpointError, DataError.
    """
    processes.rows(config)
    device = processes.device
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    dtype = compute_dtype(config, device)
    task = make_task(config, device)
    torch.manual_seed(config.seed)
    network = task.build()
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
    found = checkpoints(out / "checkpoints")
    if found:
        load_checkpoint(found[-1], state, config)
        say(f"going on from {found[-1]}, after step {state.step}")
    elif start.state is not None:
        import_state(start.state, state, config)
        say(f"going on from {start.state}, after step {state.step}; the optimiser warms up again")
    elif start.init is not None:
        load_initial(start.init, network, config)
        average.load_state_dict(network.state_dict())
        say(f"starting from the weights of {start.init}")
    # The first process prepares what is on disk, the others find it there.
    if processes.first:
        source, looked_at = open_sources(config, out, say)
    processes.wait()
    if not processes.first:
        source, looked_at = open_sources(config, out, say)
    predict: nn.Module = ComputeIn(network, dtype)
    if processes.count > 1:
        ids = [device.index] if device.type == "cuda" else None
        predict = DistributedDataParallel(predict, device_ids=ids, gradient_as_bucket_view=True)
    if config.compile:
        predict.compile(dynamic=False)
    return Run(config, out, processes, dtype, state, predict, task, source, looked_at)


def compute_dtype(config: TrainingConfig, device: torch.device) -> torch.dtype:
    """What "auto" is: bfloat16 on a GPU."""
    if config.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return getattr(torch, config.precision)


def train(run: Run, limits: Limits, observer: Observer) -> bool:
    """Train to the last step, or until `limits` are reached; a checkpoint is written either way. True at the end.

    Raises TrainingError if the loss is no number any more.
    """
    config, state, processes = run.config, run.state, run.processes
    journal = Journal(run.out, state.step, config.output.tensorboard) if processes.first else None
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
                    loss = flush_losses(run, journal)
                if processes.first:
                    rate = (state.step - before) * config.batch / (now - began)
                    observer.step(state.step, config.steps, rate, loss)
                if state.step % config.output.checkpoint == 0:
                    loss = flush_losses(run, journal, loss)
                    save(run)
                    saved = state.step
                if journal is not None:
                    evaluate(run, journal)
            flush_losses(run, journal)
            if saved != state.step:
                save(run)
        finally:
            if journal is not None:
                journal.close()
    return state.step >= config.steps


def one_step(run: Run, source: Source, rows: range) -> None:
    """Gradients of all parts of this process' rows, one update of the weights and of their average."""
    config, state = run.config, run.state
    network, optimizer = state.network, state.optimizer
    torch.manual_seed(_dropout_seed(config, state.step, run.processes.rank))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(config.optimizer, state.step, state.since, config.steps)
    sums: dict[str, Term] = {}
    # Gradients are averaged over processes, and the loss is a mean over the samples of all of them.
    share = run.processes.count / config.batch
    network.train()
    losses = run.task.losses(run.predict, source, state.step, rows)
    for part in range(config.accumulate):
        last = part == config.accumulate - 1
        wait = isinstance(run.predict, DistributedDataParallel) and not last
        with run.predict.no_sync() if wait else nullcontext():  # type: ignore[operator]
            terms = next(losses)
            (sum(term.sum for term in terms.values()) * share).backward()
        for name, term in terms.items():
            known = sums.get(name)
            total, count = term.sum.detach(), term.count
            sums[name] = Term(total, count) if known is None else Term(known.sum + total, known.count + count)
    limit = config.optimizer.clip_gradient or math.inf
    norm = nn.utils.clip_grad_norm_(network.parameters(), limit)
    optimizer.step()
    optimizer.zero_grad()
    rate = ema_rate(config.optimizer.ema, state.step, config.optimizer.ema_warmup)
    update_ema(state.average, network, rate)
    state.step += 1
    device = norm.device
    counted = [torch.as_tensor(value, device=device).float() for t in sums.values() for value in (t.sum, t.count)]
    run.losses.append((state.step, torch.stack([norm / run.processes.count, *counted])))


def flush_losses(run: Run, journal: Journal | None, known: float = math.nan) -> float:
    """Write out the losses since the last time; returns the newest. Raises TrainingError if one is no number."""
    if not run.losses:
        return known
    steps = [step for step, _ in run.losses]
    table = run.processes.sum(torch.stack([values for _, values in run.losses])).tolist()
    run.losses.clear()
    names, lines = run.task.terms, []
    for step, (norm, *values) in zip(steps, table, strict=True):
        totals, counts = values[::2], values[1::2]
        loss = sum(totals) / run.config.batch
        lr = learning_rate(run.config.optimizer, step - 1, run.state.since, run.config.steps)
        line = {"step": step, "loss": loss}
        line |= {name: total / max(1.0, count) for name, total, count in zip(names, totals, counts, strict=True)}
        lines.append(line | {"gradient_norm": norm, "lr": lr})
    good = [line for line in lines if math.isfinite(line["loss"]) and math.isfinite(line["gradient_norm"])]
    if journal is not None:
        journal.losses(good)
    if len(good) < len(lines):
        bad = next(line["step"] for line in lines if line not in good)
        raise TrainingError(
            f"the loss or its gradient is no number any more at step {bad}: the checkpoints in "
            f'{run.out / "checkpoints"} are from before. A lower optimizer.lr, or precision = "float32", may help'
        )
    return lines[-1]["loss"]


def save(run: Run) -> None:
    """Write a checkpoint, and wait for it in every process."""
    if run.processes.first:
        save_checkpoint(run.out / "checkpoints", run.state, run.config, run.config.output.keep)
    run.processes.wait()


def evaluate(run: Run, journal: Journal) -> None:
    """What is due after this step: the coupling gap, samples."""
    config, state, device = run.config, run.state, run.processes.device
    output = config.output
    if output.coupling and state.step % output.coupling == 0 and config.kind == "base" and config.model.base.coupled:
        if run.evaluated is None:
            run.evaluated = run.looked_at.batch(evaluation_numbers(output.coupling_clips), device)
        assert isinstance(state.average, CoupledUNet)
        network = ComputeIn(state.average.eval(), run.dtype)
        limits = config.model.base.max_shifts(config.model.clip.frames)
        schedule = NoiseSchedule.from_config(config.model.schedule)
        independent = config.times.independent_timesteps
        prediction = config.model.base.prediction
        gap = coupling_gap(network, schedule, run.evaluated, limits, independent, prediction, config.seed)
        journal.coupling(state.step, gap)
    if output.samples and state.step % output.samples == 0:
        folder = run.out / "samples" / f"step-{state.step:08d}"
        if config.kind == "sr":
            picture = sample_frames(config, state.average, run.looked_at, device, run.dtype)
            write_picture(folder, picture)
            journal.picture(state.step, "samples", picture)
        else:
            clips = sample_clips(config, state.average, device, run.dtype)
            write_samples(folder, clips, config)
            for index, clip in enumerate(clips):
                journal.clip(state.step, f"sample {index}", clip)
        journal.flush()


def _dropout_seed(config: TrainingConfig, step: int, rank: int) -> int:
    return step_generator(config.seed, step, torch.device("cpu"), f"dropout/{rank}").initial_seed()
