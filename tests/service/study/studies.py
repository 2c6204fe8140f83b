"""Studies for tests, whose clips are a few bytes."""

from __future__ import annotations

from service.settings import Settings
from service.storage import open_storage
from service.study.record import Answers, Study, StudyClip, clip_key, new_clip_id, new_raters
from service.study.store import StudyStore

EXPECTED = Answers(2, 3, 5, True)
CLIP = b"a video of a study"


def a_study(name: str = "first", clips: int = 3, raters: int = 2, repeats: int | None = None, checks: int = 1) -> Study:
    """A study of `clips` clips of each of the labels `real` and `ours`."""
    made = [
        StudyClip(new_clip_id(), label, f"{label}-{number}.mp4")
        for label in ("real", "ours")
        for number in range(clips)
    ]
    made += [StudyClip(new_clip_id(), "", f"check {number}", EXPECTED) for number in range(checks)]
    repeats = raters if repeats is None else repeats
    return Study(name, 1e9, f"studies/{name}", repeats, ("real",), tuple(made), new_raters(raters, made, repeats))


def stored(settings: Settings, store: StudyStore, study: Study) -> Study:
    """The study, in Redis and in storage."""
    storage = open_storage(settings)
    for clip in study.clips:
        storage.put_bytes(clip_key(study.folder, clip.id), CLIP + clip.id.encode(), "video/mp4")
    store.create(study)
    return study
