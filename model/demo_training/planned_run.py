"""Trains a model, base and super-resolution, within a given number of seconds.

The rate is measured first; the number of steps and the decay of the learning rate follow from it and from the time that
is left, and are corrected after each piece of the run. After every piece the model is published and packed into the
result folder, from which a later run continues.
"""

from __future__ import annotations

import importlib.util
import json
import math
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save

from model.checkpoint.manifest import FILE_NAME, Manifest, read_manifest
from model.evaluation.contact_sheets import contact_sheet, spectrogram_sheet
from model.evaluation.generation import KINDS, EvaluationRun, plan, possible_methods
from model.evaluation.report import Result, Watcher, evaluate, plot
from model.evaluation.scene_report import data_of, evaluate_scenes
from model.request import QUALITIES, SamplingParams
from model.sampling.latents import Latents
from model.training.checkpoints import read_checkpoint, write_atomically
from model.training.configuration import TrainingConfig, configuration_from_json
from model.training.distribution import Processes
from model.training.initial_weights import load_fitting
from model.training.loop import Limits, Start, TrainingError, TrainingRun, prepare, train
from model.training.objectives import make_objective
from model.training.packing import pack, unpack
from model.training.publish import calibrate_published, newest_checkpoint, publish
from model.training.sources import open_sources
from model.training.training_log import COUPLING, LOSSES

MEASURE_SECONDS = 20.0
"""Length of the first piece of a network's training, in which the rate is measured; at most a tenth of its time."""

PIECE_SECONDS = 60.0
"""Length of the other pieces. The plan is corrected and the result packed after each."""

FIRST_STEPS = 3
"""Steps before the rate is measured; kernels are loaded and compiled in them."""

BATCH_DOUBLINGS = 2
"""How often the batch may be doubled on a GPU, where launching kernels may take longer than computing them."""

DOUBLING_PAYS = 0.75
"""A batch of twice the size is used if the steps per second do not fall below this share."""

ENDLESS = 10**9
"""Steps of the first piece, which ends by the clock."""

EVALUATION_CLIPS = (64, 256)
"""Clips of each run of the first evaluation, and of the one after it if there is time; multiples of the 8 kinds of
scenes."""

REPORTS = {"scenes": "evaluation-scenes.json", "bounce": "evaluation.json"}
"""Evaluations beside the weights, by data set, in the order in which they are made."""

EVALUATION_STEPS = QUALITIES["best"].steps
"""Evaluations of the network for each clip."""

EVALUATION_SECONDS = 15.0
"""Time below which no evaluation is begun."""

SHOWN = 8
"""Clips on a contact sheet."""

NETWORK, STATE = "network.safetensors", "state.json"
"""The weights that training continues from, in float16, and the step they belong to."""


class OutOfTime(Exception):
    """The time of the run is over."""


@dataclass(frozen=True)
class Shares:
    """Fractions of the time for the two networks; the rest is for calibration and evaluation."""

    base: float = 0.7
    sr: float = 0.2

    def __post_init__(self) -> None:
        if self.base < 0 or self.sr < 0 or self.base + self.sr > 1:
            raise ValueError(f"shares must be at least 0 and add up to at most 1; got {self.base:g} and {self.sr:g}")


def planned(config: TrainingConfig, since: int, done: int, rate: float, seconds: float) -> TrainingConfig:
    """`config` with the steps that fit into `seconds` at `rate` steps per second, after `done` steps, of which the run
    began at `since`. The decay keeps its share of the configured steps; warm-up is at most a tenth of the run."""
    steps = max(done + 1, done + int(rate * seconds))
    total = steps - since
    optimizer = replace(
        config.optimizer,
        warmup=min(config.optimizer.warmup, total // 10),
        decay=round(total * min(1.0, config.optimizer.decay / config.steps)),
    )
    return replace(config, steps=steps, optimizer=optimizer)


class Meter:
    """Observer of a piece: its rate, without the first steps. Calls `started` after these."""

    def __init__(
        self,
        name: str,
        first_steps: int,
        say: Callable[[str], None],
        clock: Callable[[], float],
        started: Callable[[], None] = lambda: None,
    ) -> None:
        self._name, self._skip, self._say, self._clock, self._started = name, first_steps, say, clock, started
        self._began = self._last = clock()
        self._steps = 0
        self._silent_until = self._began

    @property
    def rate(self) -> float:
        """Steps per second."""
        return max(1, self._steps) / max(1e-6, (self._last if self._steps else self._clock()) - self._began)

    def say(self, text: str) -> None:
        self._say(text)

    def step(self, step: int, steps: int, per_second: float, loss: float) -> None:
        now = self._last = self._clock()
        self._steps += 1
        if self._skip:
            self._skip -= 1
            self._began, self._steps = now, 0
            if not self._skip:
                self._started()
        if now >= self._silent_until:
            self._silent_until = now + 10
            of = f"/{steps}" if steps < ENDLESS else ""
            known = f", loss {loss:.4f}" if math.isfinite(loss) else ""
            self._say(f"{self._name}: step {step}{of}, {per_second:.1f} samples/s{known}")


class PlannedRun:
    """One run of `seconds` from the time `began` of `clock`. Its result is packed into `folder`; `work` holds the rest.
    The batch is doubled up to `doublings` times where that costs little; by default on a GPU only."""

    def __init__(
        self,
        began: float,
        seconds: float,
        shares: Shares,
        folder: Path,
        work: Path,
        device: torch.device,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        doublings: int | None = None,
    ) -> None:
        self.began, self.seconds, self.shares = began, seconds, shares
        self.folder, self.work, self.device, self.say = folder, work, device, say
        self.limits = Limits(clock=clock)
        self.doublings = (BATCH_DOUBLINGS if device.type == "cuda" else 0) if doublings is None else doublings
        self.result = work / "result"
        self.model = self.result / "model"
        self._keeping = 0.0  # seconds that publishing and packing took

    def resume(self, packed: Path) -> None:
        """Continue with the result of an earlier run. Raises StateError."""
        unpack(packed, self.result)
        self.say(f"continuing from {packed}")

    def run(self, base: TrainingConfig, sr: TrainingConfig | None, init: Path | None = None) -> Manifest:
        """Train, publish, calibrate and evaluate, each as far as the time allows.

        Raises StateError, CheckpointError, DataError, and OutOfTime if the time did not suffice for a model.
        """
        end = self.began + self.seconds
        base_end = self.began + self.seconds * self.shares.base
        sr_end = base_end + self.seconds * self.shares.sr
        if self.shares.base:
            self._train(base, init, base_end)
        if sr is not None and self.shares.sr and not self.limits.stop:
            self._train(sr, init, sr_end)
        if not (self.model / FILE_NAME).exists():
            raise OutOfTime(f"{self.seconds:g} seconds are too few for a model")
        if not self.limits.stop:
            self._calibrate(base)
        if not self.limits.stop:
            self._evaluate(end - self._reserve)
        return read_manifest(self.model / FILE_NAME)

    @property
    def _reserve(self) -> float:
        """Seconds kept free for publishing and packing."""
        return 1.5 * self._keeping + 0.01 * self.seconds

    def _train(self, config: TrainingConfig, init: Path | None, end: float) -> None:
        """Train one network until `end`."""
        limits, clock = self.limits, self.limits.clock
        before = clock()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        # Each piece ends with a checkpoint.
        output = replace(config.output, checkpoint=ENDLESS, keep=1, samples=0, tensorboard=False)
        config = replace(config, output=output)
        run = self._prepared(config, init)
        since = run.state.step
        measured = min(MEASURE_SECONDS, 0.1 * (end - before))
        latest = end - self._reserve
        run.config = replace(config, steps=since + ENDLESS, optimizer=replace(config.optimizer, decay=0))
        try:
            rate = self._measured(run, measured, latest)
            for _ in range(self.doublings):
                if limits.stop or clock() + measured > latest or not self._fits_twice():
                    break
                smaller = run.config
                self._set_batch(run, 2 * smaller.batch)
                try:
                    doubled = self._measured(run, measured / 4, latest)
                except torch.OutOfMemoryError:
                    doubled = 0.0
                    run.state.optimizer.zero_grad()
                self.say(f"{config.kind}: batch {run.config.batch}: {doubled:.2f} steps/s, after {rate:.2f}")
                if doubled < DOUBLING_PAYS * rate:
                    self._set_batch(run, smaller.batch)
                    if self.device.type == "cuda":
                        torch.cuda.empty_cache()
                    break
                rate = doubled
            config = replace(config, batch=run.config.batch)
            self._keep(run)
            while not limits.stop and (left := end - clock() - self._reserve) > 0:
                pieces = math.ceil(left / PIECE_SECONDS)
                run.config = planned(config, since, run.state.step, rate, left - (pieces - 1) * self._keeping)
                self.say(
                    f"{config.kind}: {rate * config.batch:.1f} samples/s, {left:.0f} s left: "
                    f"{run.config.steps} steps, the last {run.config.optimizer.decay} with a falling rate"
                )
                limits.deadline = clock() + min(left, PIECE_SECONDS)
                meter = Meter(config.kind, 0, self.say, clock)
                done = train(run, limits, meter)
                rate = meter.rate
                self._keep(run)
                if done:
                    break
        except TrainingError as error:  # the packed result is older than the failure
            self.say(f"{config.kind}: {error}")
        self.say(f"{config.kind}: {run.state.step - since} steps in {clock() - before:.0f} s")

    def _measured(self, run: TrainingRun, seconds: float, latest: float) -> float:
        """Train for `seconds` after the first steps, at most until `latest`. Returns the steps per second."""
        limits = self.limits
        limits.deadline = latest

        def started() -> None:
            limits.deadline = min(latest, limits.clock() + seconds)

        meter = Meter(run.config.kind, FIRST_STEPS, self.say, limits.clock, started)
        train(run, limits, meter)
        return meter.rate

    def _set_batch(self, run: TrainingRun, batch: int) -> None:
        run.gradients.release()
        run.config = replace(run.config, batch=batch)
        run.objective = make_objective(run.config, self.device)

    def _fits_twice(self) -> bool:
        """Whether a step of twice the batch fits into the device's memory."""
        if self.device.type != "cuda":
            return True
        free = torch.cuda.mem_get_info(self.device)[0] + torch.cuda.memory_reserved(self.device)
        return 2.2 * torch.cuda.max_memory_allocated(self.device) < free

    def _prepared(self, config: TrainingConfig, init: Path | None) -> TrainingRun:
        """The run, with the state of the earlier run or the weights of `init`."""
        out, held = self.work / config.kind, self.result / config.kind
        run = prepare(config, out, Processes(0, 1, self.device), Start(), self.say)
        networks = (run.state.network, run.state.average)
        if (held / STATE).exists():
            for network, path in zip(
                networks, (held / NETWORK, self.model / f"{config.kind}.safetensors"), strict=True
            ):
                load_fitting(path, network)
            known = json.loads((held / STATE).read_text(encoding="utf-8"))
            run.state.step = run.state.since = known["step"]
            run.state.seconds = known["seconds"]
            for log in (LOSSES, COUPLING):
                if (held / log).exists():
                    out.mkdir(parents=True, exist_ok=True)
                    shutil.copy(held / log, out / log)
            self.say(f"{config.kind}: continuing after step {run.state.step}")
        elif init is not None and (init / f"{config.kind}.safetensors").exists():
            for network in networks:
                taken, total = load_fitting(init / f"{config.kind}.safetensors", network)
            self.say(f"{config.kind}: {taken} of {total} tensors from {init}")
        return run

    def _keep(self, run: TrainingRun) -> None:
        """Publish the run's last checkpoint and pack the result, once there is a step."""
        if not run.state.step:
            return
        before = self.limits.clock()
        out, held = run.out, self.result / run.config.kind
        content = read_checkpoint(newest_checkpoint(out))
        # The plan may have changed since the checkpoint, if no step followed.
        publish(configuration_from_json(content["config"]), out, self.model, torch.float16)
        weights = save({name: value.half().contiguous() for name, value in content["network"].items()})
        state = json.dumps({"step": content["step"], "seconds": content["seconds"]})
        write_atomically(held / NETWORK, lambda file: file.write(weights))
        write_atomically(held / STATE, lambda file: file.write(state.encode()))
        for log in (LOSSES, COUPLING):
            if (out / log).exists():
                shutil.copy(out / log, held / log)
        for report in REPORTS.values():
            (self.model / report).unlink(missing_ok=True)  # it belongs to the previous weights
        self._pack()
        self._keeping = self.limits.clock() - before

    def _pack(self) -> None:
        files = pack(self.result, self.folder)
        size = sum(path.stat().st_size for path in files)
        self.say(f"{self.folder}: {len(files)} files, {size / 2**20:.1f} MiB")

    def _calibrate(self, config: TrainingConfig) -> None:
        if config.model.base.coupled and config.output.calibration_clips:
            _, source = open_sources(config, self.work / "base", self.say)
            manifest = read_manifest(self.model / FILE_NAME)
            calibrate_published(manifest, config, source, self.device, self.say)
            self._pack()

    def _evaluate(self, end: float) -> None:
        """Evaluate on the data sets of the training, the mixed one first, as far as that is done before `end`; then
        with more clips."""
        manifest, clock = read_manifest(self.model / FILE_NAME), self.limits.clock
        data_sets = list(REPORTS) if data_of(manifest) == "scenes" else ["bounce"]
        needed = dict.fromkeys(data_sets, EVALUATION_SECONDS)
        for clips in EVALUATION_CLIPS:
            for data in data_sets:
                began = clock()
                if began + needed[data] > end:
                    self.say(f"no time is left for an evaluation on {clips} clips of {data}")
                    return
                try:
                    self._evaluate_on(data, manifest, clips, end)
                except OutOfTime:
                    self.say(f"the time did not suffice for an evaluation on {clips} clips of {data}")
                    return
                needed[data] = 1.2 * (clock() - began) * EVALUATION_CLIPS[-1] / EVALUATION_CLIPS[0]

    def _evaluate_on(self, data: str, manifest: Manifest, clips: int, end: float) -> None:
        """Write the report, contact sheets and a plot of one evaluation. Raises OutOfTime at `end`."""
        methods = [name for name in possible_methods(manifest) if name in ("clean", "pigdm")]
        runs = plan(manifest, KINDS if methods else KINDS[:1], tuple(methods[:1]) or ("clean",), held_out=False)
        samples = self.result / "samples" / ("scenes" if data == "scenes" else "")
        samples.mkdir(parents=True, exist_ok=True)

        def check() -> None:
            if self.limits.stop or self.limits.clock() >= end:
                raise OutOfTime

        def shown(run: EvaluationRun, made: Latents, _: Result) -> None:
            name = run.name.replace(" ", "-")
            few = made.map(lambda value: value[:SHOWN])
            contact_sheet(few).save(samples / f"{name}-frames.png")
            spectrogram_sheet(few, manifest.config.clip).save(samples / f"{name}-sounds.png")

        watcher = Watcher(begins=lambda run: check(), clip=check, ends=shown)
        measure = evaluate_scenes if data == "scenes" else evaluate
        params = SamplingParams(0, sampler="dpmpp_2m", steps=EVALUATION_STEPS)
        found = measure(manifest, runs, clips, params, watcher, self.device.type)
        text = found.to_json()
        write_atomically(self.model / REPORTS[data], lambda file: file.write(text.encode()))
        if importlib.util.find_spec("matplotlib") is not None:
            plot(found, samples / "scores.png")
        self._pack()
        for result in found.results:
            scores = ", ".join(f"{score.measure} {score.normalised.value:.2f}" for score in result.scores)
            self.say(f"{data}, {result.run.name}, {clips} clips, normalised: {scores}")
