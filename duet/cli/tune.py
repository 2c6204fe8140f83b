"""`duet tune`: finds solvers of few steps for a model."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from cyclopts.types import ExistingDirectory

from duet.cli.exit_status import FAILED, USAGE, fail, usage_error
from duet.cli.options import DEVICES, option, within
from duet.cli.output import echo

MOST = 50
"""Evaluations of a tuned solver. With more, a general solver is as good."""


def tune(
    model: Annotated[ExistingDirectory, Parameter(help="The model's folder.")],
    /,
    *,
    evaluations: Annotated[str, option("Steps of the solvers, separated by commas.", show_default=True)] = "4,6,8,10",
    sr_evaluations: Annotated[str, option("Steps of those of super-resolution.", show_default=True)] = "2,3,4",
    only: Annotated[
        str, option("Only these: generate, v2a clean, a2v pigdm, sr and so on, separated by commas; default: all.")
    ] = "",
    clips: Annotated[
        int, option("Clips to search on, and as many to stop on.", validator=within(2, 1024), show_default=True)
    ] = 16,
    teacher_steps: Annotated[
        int, option("Steps of the clips that are matched.", validator=within(20, 1000), show_default=True)
    ] = 64,
    rounds: Annotated[
        int, option("Maximum number of rounds of the search.", validator=within(0, 100), show_default=True)
    ] = 12,
    seed: Annotated[int, option("Seed of the noise.", validator=within(0), show_default=True)] = 0,
    again: Annotated[bool, option("Replace solvers that the manifest has.", "--again")] = False,
    device: Annotated[str, option("Device.", choices=DEVICES, show_default=True)] = "auto",
) -> None:
    """Find solvers for few steps, by the model's own clips of many steps, and store them in the manifest.

    The sampler tuned and the qualities fast and balanced use them. Each solver is stored as soon as it is found: a
    command that was stopped goes on from there.
    """
    from model.checkpoint.loading import CheckpointError
    from model.checkpoint.manifest import ManifestError
    from model.tuning.tune import Tuning, TuningError
    from model.tuning.tune import tune as run

    tuning = Tuning(
        evaluations=_counts("--evaluations", evaluations),
        sr_evaluations=_counts("--sr-evaluations", sr_evaluations),
        clips=clips,
        teacher_steps=teacher_steps,
        rounds=rounds,
        seed=seed,
        only=tuple(name.strip() for name in only.split(",") if name.strip()),
    )
    try:
        run(model, tuning, device, again, echo)
    except TuningError as error:
        raise fail(USAGE, str(error)) from error
    except (CheckpointError, ManifestError, MemoryError) as error:
        raise fail(FAILED, str(error)) from error
    except OSError as error:
        raise fail(FAILED, f"{error.filename or model}: {error.strerror or error}") from error
    echo(f"tuned {model}; jobs of this model with quality fast or balanced use it from now on")


def _counts(name: str, given: str) -> tuple[int, ...]:
    parts = [part.strip() for part in given.split(",") if part.strip()]
    if not all(part.isdecimal() and 1 <= int(part) <= MOST for part in parts):
        raise usage_error(name, f"numbers from 1 to {MOST} are expected, separated by commas; got {given!r}")
    return tuple(sorted({int(part) for part in parts}))
