"""Capacity planning: number of workers for a load, waiting times, cost of a clip.

A worker with batches of B clips is modelled as B servers with service time T(B), the time of a full batch. c workers
are thus an M/G/n queue with n = c·B. Waiting times follow Erlang's C formula with the correction of Allen and Cunneen
for service times that are not exponential (A. O. Allen, Probability, Statistics and Queueing Theory, 2nd ed., 1990,
section 5.3):

    W ≈ C(n, λT) / (n/T − λ) · (1 + c²) / 2        P(wait > t) ≈ C(n, λT) · exp(−t · (n/T − λ) · 2 / (1 + c²))

c² is the squared coefficient of variation of the service time over the mix of jobs. A worker whose batch is not full is
faster than T(B), so the model errs on the safe side. `python -m benchmarks.simulation` compares both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.networks.config import ClipSpec
from model.request import DEFAULT_SCALES, EDIT_GUIDANCE, clip_of, forwards, most_windows

PERCENTILE = 0.95

CLIP = ClipSpec()
WINDOW = CLIP.frames
"""Frames of a window. The published models and the demo model have this window, at the rate of `CLIP`."""

BASE_TFLOP = 1.33
"""One evaluation of the published base network for one window."""

SR_TFLOP = WINDOW * 1.26
"""One evaluation of the published super-resolution network for the frames of one window."""

PEAK_TFLOPS = 790.0
"""Peak of an H200 for bf16 matrix products, in 10¹² operations per second."""

REDIS_BYTES_PER_JOB = 1_900
"""Memory of a job that is kept. `python -m benchmarks.simulation` measures this and the next two."""

REDIS_BYTES_OF_EVENTS = 8_500
"""Additional memory for the events of a job of 20 steps, until an hour after its end."""

REDIS_MICROSECONDS_PER_JOB = 2_600
"""Time of the one core that Redis uses, with 8 concurrent clients on an AMD EPYC."""

MAX_WORKERS = 4096


def frames_of(duration: float | None) -> int:
    """Frames of a clip of `duration` seconds. None: one window."""
    return clip_of(duration, CLIP).frames


class PlanError(ValueError):
    """An argument cannot be used; the message names the option."""


@dataclass(frozen=True)
class Speed:
    """Speed of a worker: seconds per step and clip of one window, in batches of `batch` clips, for the base and the SR
    network."""

    source: str
    batch: int
    base_step: float
    sr_step: float | None

    def seconds(self, kind: str, load: Load) -> float:
        """Time in seconds from the start to the end of a full batch of this kind. Raises PlanError."""
        if kind == "edit" and load.guidance not in EDIT_GUIDANCE:
            raise PlanError(f"--guidance {load.guidance} is not for edit, which takes {', '.join(EDIT_GUIDANCE)}")
        guidance = load.guidance if kind != "generate" else None
        cost = forwards(kind, guidance, DEFAULT_SCALES.get((load.guidance, kind)))
        base = load.steps * most_windows(load.seen(kind), WINDOW) * self.base_step * cost * (1 + load.prompted)
        if kind == "v2a" or not load.sr_steps:
            return self.batch * base
        if self.sr_step is None:
            raise PlanError("--measured: no file was measured with --sr; add one, or plan with --no-sr")
        return self.batch * (base + load.sr_steps * self.sr_step * load.seen(kind) / WINDOW)


@dataclass(frozen=True)
class Load:
    """The jobs to plan for. `mix` holds the share of each kind; `peak` is the load of the busiest hour relative to the
    average; `frames` is the length of each clip, of an edit the length of what is made anew; `prompted` is the share of
    jobs with a guided prompt, counted as two forwards an evaluation: the most that a model takes."""

    jobs_per_hour: float
    mix: Mapping[str, float]
    steps: int = 20
    sr_steps: int = 8
    peak: float = 1.0
    guidance: str = "pigdm"
    frames: int = WINDOW
    prompted: float = 0.0

    def seen(self, kind: str) -> int:
        """Frames that the network sees of a job of this kind: an edit has a window of context on either side."""
        return self.frames + 2 * WINDOW if kind == "edit" else self.frames

    @property
    def peak_per_second(self) -> float:
        return self.jobs_per_hour * self.peak / 3600


@dataclass(frozen=True)
class StoredFiles:
    """What is stored, and for how long.

    `clip_mb` and `upload_mb` are the sizes of a clip's files and of an upload.
    """

    retention_days: float = 7.0
    clip_mb: float = 1.0
    upload_mb: float = 5.0


DEFAULT_FILES = StoredFiles()


@dataclass(frozen=True)
class ServiceTime:
    """Service time of a mix of jobs.

    `mean` is in seconds, `variation` is the squared coefficient of variation.
    """

    mean: float
    variation: float


@dataclass(frozen=True)
class Waits:
    """Waiting times in the busiest hour, from the acceptance of a job until an engine takes it.

    `mean` and `p95`, the 95th percentile, are in seconds; `utilisation` is that of all workers.
    """

    utilisation: float
    mean: float
    p95: float


@dataclass(frozen=True)
class Plan:
    """The result. Redis and storage in the units of the names; `redis_share` is the share of one core."""

    workers: int
    waits: Waits
    seconds_in_worker: float
    capacity_per_hour: float
    utilisation_on_average: float
    cost_per_clip: float | None
    redis_mib: float
    redis_share: float
    storage_gb_per_day: float
    storage_gb_kept: float


def service_time(speed: Speed, load: Load) -> ServiceTime:
    """Service time over the kinds of the mix. Raises PlanError."""
    times = [(share, speed.seconds(kind, load)) for kind, share in load.mix.items() if share]
    mean = sum(share * seconds for share, seconds in times)
    variance = sum(share * (seconds - mean) ** 2 for share, seconds in times)
    return ServiceTime(mean, variance / mean**2)


def waits(workers: int, batch: int, per_second: float, served: ServiceTime) -> Waits:
    """Waiting times of the M/G/n queue above; infinite if more jobs arrive than can be served."""
    servers = workers * batch
    offered = per_second * served.mean
    utilisation = offered / servers
    if utilisation >= 1:
        return Waits(utilisation, math.inf, math.inf)
    late = erlang_c(servers, offered)
    scale = (1 + served.variation) / 2 / (servers / served.mean - per_second)
    return Waits(utilisation, late * scale, max(0.0, math.log(late / (1 - PERCENTILE)) * scale) if late else 0.0)


def erlang_c(servers: int, offered: float) -> float:
    """Probability that a job has to wait. `offered` is the load in erlang, less than `servers`."""
    blocked = 1.0  # Erlang B by recursion, which neither overflows nor loses precision
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    share = offered / servers
    return blocked / (1 - share + share * blocked)


def plan(
    speed: Speed,
    load: Load,
    utilisation: float = 0.7,
    wait_p95: float | None = None,
    gpu_hour_price: float | None = None,
    storage: StoredFiles = DEFAULT_FILES,
) -> Plan:
    """The smallest number of workers with at most this utilisation in the busiest hour, and with which 95 % of the jobs
    wait at most `wait_p95` seconds. Raises PlanError."""
    served = service_time(speed, load)
    per_second = load.peak_per_second
    count = max(1, math.ceil(per_second * served.mean / speed.batch / utilisation - 1e-9))
    while True:
        if count > MAX_WORKERS:
            raise PlanError(f"--jobs-per-hour: this load needs more than {MAX_WORKERS} workers")
        found = waits(count, speed.batch, per_second, served)
        if found.utilisation < 1 and (wait_p95 is None or found.p95 <= wait_p95):
            break
        count += 1
    kept = load.jobs_per_hour * 24 * storage.retention_days
    uploads = sum(share for kind, share in load.mix.items() if kind != "generate")
    day = load.jobs_per_hour * 24 * (storage.clip_mb + uploads * storage.upload_mb) / 1000
    return Plan(
        workers=count,
        waits=found,
        seconds_in_worker=served.mean,
        capacity_per_hour=3600 * count * speed.batch / served.mean,
        utilisation_on_average=found.utilisation / load.peak,
        cost_per_clip=None if gpu_hour_price is None else count * gpu_hour_price / load.jobs_per_hour,
        redis_mib=(kept * REDIS_BYTES_PER_JOB + 3600 * per_second * REDIS_BYTES_OF_EVENTS) / 2**20,
        redis_share=per_second * REDIS_MICROSECONDS_PER_JOB / 1e6,
        storage_gb_per_day=day,
        storage_gb_kept=day * storage.retention_days,
    )


DEMO_ON_TWO_CORES = Speed(
    "jobs of the demo model, one at a time, on two cores of an AMD EPYC, 2026-11-28 (docs/performance.md)",
    batch=1,
    base_step=1.6 / 20,
    sr_step=(2.1 - 1.6) / 8,
)
"""v2a without super-resolution took 1.6 s, generate with it 2.1 s."""


def estimated_gpu(efficiency: float, batch: int = 16) -> Speed:
    """Estimate for the published networks on an H200, from their operations alone. Nothing was measured."""
    reached = PEAK_TFLOPS * efficiency
    source = f"estimated, assuming {efficiency:.0%} of the {PEAK_TFLOPS:g} TFLOP/s of an H200"
    return Speed(source, batch, BASE_TFLOP / reached, SR_TFLOP / reached)


def measured(paths: Iterable[Path]) -> Speed:
    """Speed from the output of `python -m benchmarks.throughput`, at the batch size with the highest throughput.

    Two files of the same device, one of them measured with --sr, give the time of each network. One file with --sr is
    enough for the published networks, because the ratio of their operations is known. Raises PlanError.
    """
    runs = [_read(path) for path in paths]
    if len({(run.device, run.preset) for run in runs}) > 1:
        raise PlanError("--measured: the files are from different devices or networks")
    plain = [run for run in runs if not run.sr_steps]
    upscaled = [run for run in runs if run.sr_steps]
    if len(plain) > 1 or len(upscaled) > 1:
        raise PlanError("--measured: give one file measured with --sr and one without, not two of the same kind")
    main = (upscaled or plain)[0]
    speed = Speed(f"measured on {main.device}, {main.preset} networks", main.batch, main.seconds / main.steps, None)
    if not upscaled:
        return speed
    if plain:
        base = plain[0].at(main.batch) / plain[0].steps
    elif main.preset == "paper":
        whole = main.steps * BASE_TFLOP + main.sr_steps * SR_TFLOP
        base = main.seconds * BASE_TFLOP / whole
    else:
        raise PlanError(f"--measured: networks of size {main.preset!r} need a second file, measured without --sr")
    upscaling = (main.seconds - main.steps * base) / main.sr_steps
    if upscaling <= 0:
        raise PlanError(
            "--measured: the file with --sr is not slower than the one without; are both from the same machine?"
        )
    return replace(speed, base_step=base, sr_step=upscaling)


@dataclass(frozen=True)
class _Measurement:
    device: str
    preset: str
    steps: int
    sr_steps: int
    rates: Mapping[int, float]
    """Clips per second by batch size."""

    @property
    def batch(self) -> int:
        return max(self.rates, key=lambda size: self.rates[size])

    @property
    def seconds(self) -> float:
        """Seconds per clip at the best batch size."""
        return 1 / self.rates[self.batch]

    def at(self, batch: int) -> float:
        """Seconds per clip at the measured batch size that is nearest to `batch`."""
        return 1 / self.rates[min(self.rates, key=lambda size: abs(size - batch))]


def _read(path: Path) -> _Measurement:
    try:
        report: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"--measured {path}: {error.strerror}") from error
    except ValueError as error:
        raise PlanError(f"--measured {path}: not JSON: {error}") from error
    try:
        rates = {int(row["batch"]): float(row["clips_per_s"]) for row in report["rows"] if "clips_per_s" in row}
        run = _Measurement(str(report["device"]), str(report["preset"]), report["steps"], report["sr_steps"], rates)
    except (TypeError, KeyError, ValueError) as error:
        raise PlanError(f"--measured {path}: not the output of `python -m benchmarks.throughput`") from error
    if not rates or min(rates.values()) <= 0 or run.steps < 1:
        raise PlanError(f"--measured {path}: no row has a throughput in clips per second")
    return run
