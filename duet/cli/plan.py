"""`duet plan`: number of workers for a load, waiting times, cost of a clip."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from duet.cli.exit_status import USAGE, fail
from duet.cli.options import option, within
from duet.cli.output import echo_json
from model.networks.config import KINDS
from model.request import GUIDANCE, MAX_DURATION, MIN_DURATION

if TYPE_CHECKING:
    from duet.planning import Load, Plan, Speed


def _positive(help: str, most: float, **rest: Any) -> Parameter:
    return option(help, validator=Number(gt=0, lte=most), show_default="metavar" not in rest, **rest)


def plan(
    *,
    jobs_per_hour: Annotated[float, _positive("Jobs of one clip per hour, on average.", 10_000_000)],
    measured: Annotated[
        list[Path] | None,
        option(
            "Output of `python -m benchmarks.throughput` on one of your workers, ideally one file measured without "
            "--sr and a second one with it. Default: the built-in figures of --model.",
            metavar="FILE",
        ),
    ] = None,
    model: Annotated[
        Literal["published", "demo"],
        option(
            "Built-in figures: `published` is the published networks on an H200, estimated from their operations; "
            "`demo` is the demo model on two cores of an AMD EPYC, measured.",
            show_default=True,
        ),
    ] = "published",
    efficiency: Annotated[float, _positive("Assumed share of the peak performance, for `published`.", 1)] = 0.4,
    kind: Annotated[
        str,
        option(
            "Kinds of the jobs: `generate`, or shares as in `generate=0.5,v2a=0.3,a2v=0.1,edit=0.1`.", metavar="MIX"
        ),
    ] = "generate",
    duration: Annotated[
        float | None,
        option(
            "Seconds of each clip; default: one window of the model, 1.6 s. Jobs of v2a and a2v without a duration use "
            "the whole upload, so give the usual length of an upload for them; for edit, of what is made anew.",
            validator=within(MIN_DURATION, MAX_DURATION),
            metavar="SECONDS",
        ),
    ] = None,
    steps: Annotated[int, _positive("Steps of the base network.", 1000)] = 20,
    sr: Annotated[bool, option("With super-resolution; the default.", negative="--no-sr")] = True,
    sr_steps: Annotated[int, _positive("Steps of the super-resolution.", 1000)] = 8,
    guidance: Annotated[
        str | None,
        option(
            "Guidance of v2a, a2v and edit; methods with a gradient cost three times as much, and clean does so for "
            "edit. Default: pigdm; clean for the demo model.",
            choices=GUIDANCE,
        ),
    ] = None,
    prompted: Annotated[
        float,
        option(
            "Share of the jobs with a prompt, which costs up to twice the base network's work.",
            validator=within(0, 1),
            show_default=True,
        ),
    ] = 0.0,
    peak_factor: Annotated[
        float,
        option("Load of the busiest hour, relative to the average.", validator=within(1, 1000), show_default=True),
    ] = 1.0,
    utilisation: Annotated[float, _positive("Maximum utilisation of the workers in the busiest hour.", 0.99)] = 0.7,
    wait_p95: Annotated[
        float | None,
        _positive("95 % of the jobs start within this many seconds.", 86_400, metavar="SECONDS"),
    ] = None,
    gpu_hour_price: Annotated[
        float | None,
        _positive("Price of one worker's machine per hour, in any currency.", 1_000_000, metavar="PRICE"),
    ] = None,
    retention_days: Annotated[float, _positive("Days for which jobs are kept (DUET_RETENTION).", 36_500)] = 7.0,
    clip_mb: Annotated[float, _positive("Size of a clip's files in storage, in MB.", 1_000_000)] = 1.0,
    upload_mb: Annotated[float, _positive("Size of an upload, in MB, for v2a, a2v and edit.", 1_000_000)] = 5.0,
    json: Annotated[bool, option("Print the plan as JSON.")] = False,
) -> None:
    """Plan capacity: workers for a number of jobs per hour, waiting times, cost per clip, Redis memory, storage."""
    from duet import planning

    try:
        usual = "clean" if model == "demo" else "pigdm"
        load = planning.Load(
            jobs_per_hour,
            _mix(kind),
            steps,
            sr_steps if sr else 0,
            peak_factor,
            guidance or usual,
            planning.frames_of(duration),
            prompted,
        )
        if measured:
            speed = planning.measured(measured)
        else:
            speed = planning.estimated_gpu(efficiency) if model == "published" else planning.DEMO_ON_TWO_CORES
        storage = planning.StoredFiles(retention_days, clip_mb, upload_mb)
        found = planning.plan(speed, load, utilisation, wait_p95, gpu_hour_price, storage)
    except planning.PlanError as error:
        raise fail(USAGE, str(error)) from error
    if json:
        echo_json({"speed": asdict(speed), "load": asdict(load), "plan": asdict(found)})
    else:
        _show(speed, load, found)


def _mix(text: str) -> dict[str, float]:
    """Shares of the kinds, normalised to a sum of 1. Raises PlanError."""
    from duet.planning import PlanError

    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = (piece.strip() for piece in part.partition("="))
        try:
            value = float(share) if share else 1.0
        except ValueError:
            value = math.nan
        if name not in KINDS or name in shares or not 0 < value < math.inf:
            raise PlanError(
                f"--kind {text!r}: {part!r} is not one of {', '.join(KINDS)}, alone or with a share as in v2a=0.3"
            )
        shares[name] = value
    whole = sum(shares.values())
    return {name: value / whole for name, value in shares.items()}


def _show(speed: Speed, load: Load, found: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    mix = ", ".join(f"{share:.0%} {kind}" for kind, share in load.mix.items())
    upscaled = f"{load.sr_steps} super-resolution steps" if load.sr_steps else "no super-resolution"
    table = Table(
        title=f"{load.jobs_per_hour:g} jobs per hour: {mix}; {load.frames} frames, {load.steps} steps, {upscaled}",
        title_justify="left",
    )
    table.add_column("figure")
    table.add_column("value", justify="right")
    busiest = f", {load.peak:g} times the average" if load.peak != 1 else ""
    rows = [
        (f"workers (GPUs), each with batches of {speed.batch}", f"{found.workers}"),
        (f"utilisation in the busiest hour{busiest}", f"{found.waits.utilisation:.0%}"),
        ("utilisation on average", f"{found.utilisation_on_average:.0%}"),
        ("capacity, clips per hour", f"{found.capacity_per_hour:,.0f}"),
        ("wait for a worker, mean", _seconds(found.waits.mean)),
        ("wait for a worker, 95th percentile", _seconds(found.waits.p95)),
        ("time in a worker with a full batch, mean", _seconds(found.seconds_in_worker)),
        ("Redis: memory for stored jobs", f"{found.redis_mib:,.0f} MiB"),
        ("Redis: share of one core in the busiest hour", f"{found.redis_share:.1%}"),
        ("storage: new files per day", f"{found.storage_gb_per_day:,.1f} GB"),
        ("storage: total", f"{found.storage_gb_kept:,.1f} GB"),
    ]
    if found.cost_per_clip is not None:
        rows.append(("cost per clip", f"{found.cost_per_clip:.4g}"))
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(f"Speed: {speed.source}.", highlight=False, markup=False)


def _seconds(value: float) -> str:
    if value < 0.01:
        return "none"
    return f"{value:.2g} s" if value < 10 else f"{value:,.0f} s"
