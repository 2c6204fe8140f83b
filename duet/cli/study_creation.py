"""Makes the files of a study: equally loud clips and attention checks under random names, in the service's storage."""

from __future__ import annotations

import random
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from model.evaluation.study_clips import Loudness, common_target, measure, write_check, write_study_clip
from model.media.opening import MediaError
from service.storage import Storage
from service.study.record import (
    HIGHEST,
    LOWEST,
    MAX_CLIPS,
    Answers,
    Study,
    StudyClip,
    clip_key,
    new_clip_id,
    new_raters,
)

VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".ogv")


class CannotCreate(Exception):
    """The clips do not make a study. The message says which and why."""


@dataclass(frozen=True)
class StudyPlan:
    """`folders` of clips by label, `real` labels, and the numbers of raters, of ratings of each clip, and of attention
    checks."""

    name: str
    folders: Mapping[str, Path]
    real: tuple[str, ...]
    raters: int
    repeats: int
    checks: int


@dataclass(frozen=True)
class _Source:
    label: str
    path: Path
    loudness: Loudness


def create(plan: StudyPlan, storage: Storage, done: Callable[[], None] = lambda: None) -> tuple[Study, float]:
    """Measure, convert and store all files; return the study, which is not in Redis yet, and the clips' loudness in
    LUFS. `done` is called after each file. If anything fails, nothing stays in storage.

    Raises CannotCreate, StorageUnavailable.
    """
    sources = _measured(plan)
    target = common_target(each.loudness for each in sources)
    folder = f"studies/{plan.name}-{secrets.token_hex(8)}"
    random.shuffle(sources)  # so that not even the times of the files tell the labels
    clips = []
    try:
        with tempfile.TemporaryDirectory() as name:
            for source in sources:
                clip = StudyClip(new_clip_id(), source.label, source.path.name)
                path = Path(name) / "clip.mp4"
                _write(source, target, path)
                storage.put_file(clip_key(folder, clip.id), path, "video/mp4")
                clips.append(clip)
                done()
            for number in range(plan.checks):
                clip = StudyClip(new_clip_id(), "", f"check {number + 1}", _expected())
                path = Path(name) / "check.mp4"
                assert clip.expected is not None
                write_check(
                    clip.expected.video, clip.expected.match, clip.expected.real, clip.expected.sound, target, path
                )
                storage.put_file(clip_key(folder, clip.id), path, "video/mp4")
                clips.append(clip)
    except BaseException:
        storage.delete_prefix(f"{folder}/")
        raise
    order = list(plan.folders)
    clips.sort(key=lambda clip: (order.index(clip.label) if clip.label else len(order), clip.source))
    raters = new_raters(plan.raters, clips, plan.repeats)
    return Study(plan.name, time.time(), folder, plan.repeats, plan.real, tuple(clips), raters), target


def find_clips(plan: StudyPlan) -> list[tuple[str, Path]]:
    """Label and path of every video in the folders. Raises CannotCreate for an empty folder or too many videos."""
    found = []
    for label, folder in plan.folders.items():
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEOS and path.is_file())
        if not paths:
            raise CannotCreate(f"{folder} has no videos ({', '.join(VIDEOS)})")
        found += [(label, path) for path in paths]
    if len(found) + plan.checks > MAX_CLIPS:
        raise CannotCreate(f"the folders have {len(found)} clips; a study has at most {MAX_CLIPS}")
    return found


def _measured(plan: StudyPlan) -> list[_Source]:
    sources, problems = [], []
    for label, path in find_clips(plan):
        try:
            sources.append(_Source(label, path, measure(path)))
        except MediaError as error:
            problems.append(f"{path}: {error}")
    if problems:
        raise CannotCreate("\n".join(problems))
    return sources


def _write(source: _Source, target: float, path: Path) -> None:
    try:
        write_study_clip(source.path, source.loudness, target, path)
    except MediaError as error:
        raise CannotCreate(f"{source.path}: {error}") from error


def _expected() -> Answers:
    """Random answers that an attention check asks for; not all alike, so that a row of equal answers fails."""
    while True:
        video, sound, match = (random.randint(LOWEST, HIGHEST) for _ in range(3))
        if len({video, sound, match}) > 1:
            return Answers(video, sound, match, random.random() < 0.5)
