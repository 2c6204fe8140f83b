"""Tunes a model: finds its solvers one after the other, and keeps each in the manifest as soon as it is found."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from model.checkpoint.manifest import FILE_NAME, Manifest, read_manifest
from model.request import allowed_guidance
from model.runtime.condition import GIVEN
from model.runtime.pipeline import Pipeline
from model.sampling.latents import Latents, State
from model.sampling.tuned import multistep_weights
from model.sampling.tuned_solver import TunedSolver, TunedSolvers, solver_name
from model.tuning.features import parts
from model.tuning.problems import Halves, Material
from model.tuning.search import Problem, Search, follow

GUIDANCE = ("clean", "pigdm")
"""Methods that solvers are tuned for; the others use general solvers."""


class TuningError(ValueError):
    """The tuning cannot be done; the message says why."""


@dataclass(frozen=True)
class Tuning:
    """What to tune: `evaluations` of the base network and of super-resolution. `clips` for the search, and as many to
    stop on; `teacher_steps` of the teacher; at most `rounds` rounds of the search. `only`: names of solvers, or `sr`.
    `compared`: steps of `dpmpp_2m` whose distance from the teacher is recorded too."""

    evaluations: tuple[int, ...] = (4, 6, 8, 10)
    sr_evaluations: tuple[int, ...] = (2, 3, 4)
    clips: int = 16
    teacher_steps: int = 64
    rounds: int = 12
    seed: int = 0
    compared: int = 20
    only: tuple[str, ...] = ()


def tune(
    folder: Path, tuning: Tuning, device: str = "auto", again: bool = False, say: Callable[[str], None] = print
) -> Manifest:
    """Find the solvers that the manifest in `folder` lacks, or with `again` all of them, and write them into it.

    Solvers for other weights are dropped, and with `again` also those of another number of teacher steps. Raises
    TuningError, also for solvers of other teacher steps without `again`, CheckpointError or ManifestError.
    """
    manifest = read_manifest(folder / FILE_NAME)
    _check(manifest, tuning)
    earlier = _kept(manifest, tuning, again)
    manifest = replace(manifest, tuned=earlier)
    pipeline = Pipeline.load(manifest, device, "float32" if device == "cpu" else "auto")
    sources = _Sources(Material(pipeline, tuning.clips, tuning.teacher_steps, tuning.seed))
    for name, evaluations in _missing(manifest, tuning, again):
        say(f"{name}: the clips to match")
        halves = sources.halves(name)
        for count in evaluations:
            say(f"{name}, {count} evaluations")
            held = earlier.sr if name == "sr" else earlier.base.get(name, {})
            solver = find(halves, count, tuning, say, held.get(count))
            manifest = _with(manifest, name, count, solver)
            manifest.write(folder)
            say(f"{name}, {count} evaluations: {describe(solver)}")
    return manifest


def find(
    halves: Halves,
    count: int,
    tuning: Tuning,
    say: Callable[[str], None] = lambda line: None,
    earlier: TunedSolver | None = None,
) -> TunedSolver:
    """The solver of `count` evaluations, with its distances and those of `dpmpp_2m` on the held-out noise. `earlier`:
    one to start from, if that is nearer than general ones. Says how many evaluations the search took."""
    begin, counts = time.monotonic(), [Counted(half.predict) for half in halves]
    first, second = (replace(half, predict=own) for half, own in zip(halves, counts, strict=True))
    solver = Search(first, second, count, earlier).run(tuning.rounds, say)
    taken = sum(own.evaluations for own in counts)
    say(f"{taken} evaluations of one clip or frame in {time.monotonic() - begin:.0f} s")
    held_out = halves[1]
    compared = {f"dpmpp_2m {steps}": plain(held_out, steps) for steps in (count, tuning.compared)}
    distances = {name: distance(held_out, each) for name, each in {"tuned": solver, **compared}.items()}
    return replace(solver, distance=distances)


@dataclass
class Counted:
    """Predicts, and counts the evaluations: a batch counts as many as it has clips or, in super-resolution, frames."""

    predict: Callable[[State, float, float, int], State]
    evaluations: int = 0

    def __call__(self, x: State, t: float, s: float, k: int) -> State:
        self.evaluations += x.batch if isinstance(x, Latents) else len(x)
        return self.predict(x, t, s, k)


def plain(problem: Problem, count: int) -> TunedSolver:
    """`dpmpp_2m` with even steps in log-SNR, as a solver."""
    times = problem.schedule.times(count, "log_snr")[:-1]
    rows = multistep_weights(problem.schedule, times)
    return TunedSolver(tuple(times), dict.fromkeys(parts(problem.teacher), rows), {})


def distance(problem: Problem, solver: TunedSolver) -> dict[str, float]:
    """Mean relative distance from the teacher by feature."""
    means = problem.distances(follow(problem, solver).made).mean(0)
    return dict(zip(problem.wanted, means.tolist(), strict=True))


def describe(solver: TunedSolver) -> str:
    """The distances in one line."""

    def one(found: dict[str, float]) -> str:
        return ", ".join(f"{name} {value:.3f}" for name, value in found.items())

    return "; ".join(f"{name}: {one(found)}" for name, found in solver.distance.items())


def solver_names(manifest: Manifest) -> dict[str, tuple[str, str | None]]:
    """Kind of job and guidance of the solvers that the base network can have, by name."""
    kinds: list[tuple[str, str | None]] = [("generate", None)]
    for kind in GIVEN:
        kinds += [(kind, method) for method in GUIDANCE if method in allowed_guidance(kind, manifest)]
    return {solver_name(*each): each for each in kinds}


@dataclass(frozen=True)
class _Sources:
    """The problems of one model; the clips of `generate` are made once."""

    material: Material

    @cached_property
    def joint(self) -> Halves:
        return self.material.halves("generate", None)

    def halves(self, name: str) -> Halves:
        if name == "generate":
            return self.joint
        clips: list[Latents] = [half.teacher for half in self.joint]
        if name == "sr":
            return self.material.super_resolution(clips)
        return self.material.halves(*solver_names(self.material.pipeline.manifest)[name], clips)


def _check(manifest: Manifest, tuning: Tuning) -> None:
    possible = [*solver_names(manifest), *(["sr"] if manifest.config.sr is not None else [])]
    unknown = [name for name in tuning.only if name not in possible]
    if unknown:
        raise TuningError(f"{manifest.name} can be tuned for {', '.join(possible)}; got {', '.join(unknown)}")
    if manifest.config.sr is not None and "video" not in manifest.config.base.modalities:
        raise TuningError(f"{manifest.name} makes no frames to enlarge")


def _kept(manifest: Manifest, tuning: Tuning, again: bool) -> TunedSolvers:
    """The solvers in the manifest that belong to its weights and the teacher. Raises TuningError if only the teacher
    differs and they are not to be replaced."""
    base = manifest.network_hash("base")
    sr = manifest.network_hash("sr") if manifest.config.sr is not None else None
    held = manifest.tuned
    if held is None:
        return TunedSolvers(tuning.teacher_steps, base, sr)
    kept = TunedSolvers(
        tuning.teacher_steps,
        base,
        sr,
        held.base if held.base_hash == base else {},
        held.sr if held.sr_hash == sr else {},
    )
    if held.teacher_steps == tuning.teacher_steps:
        return kept
    if not again and (kept.base or kept.sr):
        raise TuningError(
            f"the solvers of {manifest.name} were found with {held.teacher_steps} teacher steps, not "
            f"{tuning.teacher_steps}; again (--again) drops all of them and finds new ones"
        )
    return TunedSolvers(tuning.teacher_steps, base, sr)


def _missing(manifest: Manifest, tuning: Tuning, again: bool) -> Iterator[tuple[str, Sequence[int]]]:
    """Names of solvers, each with the numbers of evaluations that are to be tuned."""
    tuned = manifest.tuned
    assert tuned is not None
    wanted = {name: (tuning.evaluations, tuned.base.get(name, {})) for name in solver_names(manifest)}
    if manifest.config.sr is not None:
        wanted["sr"] = (tuning.sr_evaluations, tuned.sr)
    for name, (evaluations, found) in wanted.items():
        left = [count for count in evaluations if again or count not in found]
        if left and (not tuning.only or name in tuning.only):
            yield name, left


def _with(manifest: Manifest, name: str, count: int, solver: TunedSolver) -> Manifest:
    tuned = manifest.tuned
    assert tuned is not None
    if name == "sr":
        return replace(manifest, tuned=replace(tuned, sr=_sorted({**tuned.sr, count: solver})))
    found = _sorted({**tuned.base.get(name, {}), count: solver})
    return replace(manifest, tuned=replace(tuned, base={**tuned.base, name: found}))


def _sorted(solvers: dict[int, TunedSolver]) -> dict[int, TunedSolver]:
    return dict(sorted(solvers.items()))
