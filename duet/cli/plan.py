"""`duet plan`: how many workers a load needs, how long its jobs wait, and what a clip costs."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from duet.cli.failures import USAGE, end

if TYPE_CHECKING:
    from duet.planning import Load, Plan, Speed


def plan(
    jobs_per_hour: Annotated[float, typer.Option(help="Jobs of one clip that come in an hour, on average.")],
    measured: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="What `python -m benchmarks.throughput` printed on one of your workers. Best is one file without --sr "
            "and, as a second --measured, one with it. Default: the built-in figures of --model.",
        ),
    ] = None,
    model: Annotated[
        Literal["published", "demo"],
        typer.Option(
            help="Built-in figures: `published` networks on an H200, estimated from their operations; `demo` model on "
            "two cores of an AMD EPYC, measured."
        ),
    ] = "published",
    efficiency: Annotated[
        float, typer.Option(help="Share of the device's speed that is reached, for `published`: an assumption.")
    ] = 0.4,
    kind: Annotated[
        str, typer.Option(metavar="MIX", help="Which jobs come, as `generate` or `generate=0.5,v2a=0.3,a2v=0.2`.")
    ] = "generate",
    steps: Annotated[int, typer.Option(help="Steps of the base network.")] = 20,
    sr: Annotated[bool, typer.Option("--sr/--no-sr", help="With super-resolution where there is any.")] = True,
    sr_steps: Annotated[int, typer.Option(help="Its steps.")] = 8,
    guidance: Annotated[
        Literal["clean", "replacement", "pigdm", "gradient", "gradient_code", "decoupling"] | None,
        typer.Option(
            help="Of v2a and a2v: those with a gradient cost three times as much. Default: pigdm; clean for the demo "
            "model.",
            show_default=False,
        ),
    ] = None,
    peak_factor: Annotated[float, typer.Option(help="Jobs of the busiest hour against the average.")] = 1.0,
    utilisation: Annotated[float, typer.Option(help="How busy the workers may be in the busiest hour, at most.")] = 0.7,
    wait_p95: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="Of 100 jobs 95 begin within so many seconds.")
    ] = None,
    gpu_hour_price: Annotated[
        float | None, typer.Option(metavar="PRICE", help="Of one worker's machine for an hour, in any currency.")
    ] = None,
    retention_days: Annotated[float, typer.Option(help="As DUET_RETENTION.")] = 7.0,
    clip_mb: Annotated[float, typer.Option(help="MB of a clip's files in storage.")] = 1.0,
    upload_mb: Annotated[float, typer.Option(help="MB of an upload, for v2a and a2v.")] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
) -> None:
    """Plan: workers for a number of jobs an hour, their waits, the cost of a clip, Redis' memory, storage."""
    from duet import planning

    try:
        _check(
            jobs_per_hour=jobs_per_hour,
            efficiency=efficiency,
            steps=steps,
            sr_steps=sr_steps,
            peak_factor=peak_factor,
            utilisation=utilisation,
            wait_p95=wait_p95,
            gpu_hour_price=gpu_hour_price,
            retention_days=retention_days,
            clip_mb=clip_mb,
            upload_mb=upload_mb,
        )
        usual = "clean" if model == "demo" else "pigdm"
        load = planning.Load(jobs_per_hour, _mix(kind), steps, sr_steps if sr else 0, peak_factor, guidance or usual)
        if measured:
            speed = planning.measured(measured)
        else:
            speed = planning.estimated_gpu(efficiency) if model == "published" else planning.DEMO_ON_TWO_CORES
        found = planning.plan(
            speed,
            load,
            utilisation=utilisation,
            wait_p95=wait_p95,
            gpu_hour_price=gpu_hour_price,
            retention_days=retention_days,
            clip_mb=clip_mb,
            upload_mb=upload_mb,
        )
    except planning.PlanError as error:
        raise end(USAGE, str(error)) from error
    if as_json:
        typer.echo(json.dumps({"speed": asdict(speed), "load": asdict(load), "plan": asdict(found)}, indent=2))
    else:
        _show(speed, load, found)


_LIMITS = {
    "jobs_per_hour": (0.0, 1e7),
    "efficiency": (0.0, 1.0),
    "steps": (0.0, 1000.0),
    "sr_steps": (0.0, 1000.0),
    "utilisation": (0.0, 0.99),
    "wait_p95": (0.0, 86_400.0),
    "gpu_hour_price": (0.0, 1e6),
    "retention_days": (0.0, 36_500.0),
    "clip_mb": (0.0, 1e6),
    "upload_mb": (0.0, 1e6),
}
"""Above the first, up to the second."""


def _check(**given: float | None) -> None:
    """Raise PlanError for a number that cannot be."""
    from duet.planning import PlanError

    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        if name == "peak_factor":
            if value is not None and not 1 <= value <= 1000:
                raise PlanError(f"{option} is {value:g}: must be 1 … 1000, for the busiest hour is above the average")
            continue
        least, most = _LIMITS[name]
        if value is not None and not least < value <= most:
            raise PlanError(f"{option} is {value:g}: must be more than {least:g}, and {most:g} at most")


def _mix(text: str) -> dict[str, float]:
    """The shares of the kinds, which sum to 1. Raises PlanError."""
    from duet.planning import KINDS, PlanError

    shares: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = (piece.strip() for piece in part.partition("="))
        try:
            value = float(share) if share else 1.0
        except ValueError:
            value = math.nan
        if name not in KINDS or name in shares or not 0 < value < math.inf:
            raise PlanError(f"--kind {text!r}: {part!r} is not one of {', '.join(KINDS)} and a share, as v2a=0.3")
        shares[name] = value
    whole = sum(shares.values())
    return {name: value / whole for name, value in shares.items()}


def _show(speed: Speed, load: Load, found: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    mix = ", ".join(f"{share:.0%} {kind}" for kind, share in load.mix.items())
    upscaled = f"{load.sr_steps} of super-resolution" if load.sr_steps else "no super-resolution"
    table = Table(
        title=f"{load.jobs_per_hour:g} jobs an hour: {mix}; {load.steps} steps, {upscaled}", title_justify="left"
    )
    table.add_column("what")
    table.add_column("how much", justify="right")
    busiest = f", {load.peak:g} times the average" if load.peak != 1 else ""
    rows = [
        (f"workers (GPUs), each with batches of {speed.batch}", f"{found.workers}"),
        (f"busy in the busiest hour{busiest}", f"{found.waits.utilisation:.0%}"),
        ("busy on average", f"{found.utilisation_on_average:.0%}"),
        ("clips an hour when all are busy", f"{found.capacity_per_hour:,.0f}"),
        ("wait for a worker, mean", _seconds(found.waits.mean)),
        ("wait for a worker, 95th percentile", _seconds(found.waits.p95)),
        ("then in a full worker, mean", _seconds(found.seconds_in_worker)),
        ("Redis: memory for the jobs that are kept", f"{found.redis_mib:,.0f} MiB"),
        ("Redis: share of its one core in the busiest hour", f"{found.redis_share:.1%}"),
        ("storage: new files a day", f"{found.storage_gb_per_day:,.1f} GB"),
        ("storage: kept at a time", f"{found.storage_gb_kept:,.1f} GB"),
    ]
    if found.cost_per_clip is not None:
        rows.append(("cost of a clip", f"{found.cost_per_clip:.4g}"))
    for row in rows:
        table.add_row(*row)
    console = Console()
    console.print(table)
    console.print(f"Speed: {speed.source}.", highlight=False, markup=False)


def _seconds(value: float) -> str:
    if value < 0.01:
        return "none"
    return f"{value:.2g} s" if value < 10 else f"{value:,.0f} s"
