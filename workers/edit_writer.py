"""Writes what an edit made into the upload: the section's frames are kept in a file until they are all there."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from model.marking.mark import SignalMark
from model.media.edits import MASK_NAME, Made
from model.media.splice import section_sound, write_edit
from model.request import clip_of
from model.runtime.pipeline import Clip, Pipeline
from service.jobs.record import Job
from service.jobs.view import NEW_SOUND
from workers.decoder import Bounds, confined_within
from workers.provenance import Origin
from workers.spool import Files

OWN = "the upload's own sound, exact in audio.wav, AAC in video.mp4"


class EditWriter:
    """Writes the clip and the sound of output `index` of an edit. Its frames are kept in `folder`.
    `mark` is added to new pictures; new sound has it already."""

    def __init__(self, job: Job, index: int, pipeline: Pipeline, folder: Path, mark: SignalMark | None = None) -> None:
        assert job.edit is not None
        self._job, self._edit, self._clip = job, job.edit, pipeline.manifest.config.clip
        self._mark = mark
        self._path = folder / f"{index}-frames.rgb"
        self._shape: tuple[int, int, int, int] | None = None

    def add(self, frames: Tensor) -> None:
        """Keep the next frames (frames, height, width, 3), uint8."""
        before = 0 if self._shape is None else self._shape[0]
        count, height, width, channels = frames.shape
        with self._path.open("ab") as file:
            file.write(frames.contiguous().numpy().tobytes())
        self._shape = before + count, height, width, channels

    def write(self, clip: Clip, source: Path, files: Files, comment: str, bounds: Bounds) -> Origin:
        """Write the clip, its sound, and the new sound alone if there is any. Raises MediaError and as
        `confined_within`."""
        job, edit, config = self._job, self._edit, self._clip
        assert job.input is not None
        made = Made(edit.start, config.fps, config.sample_rate, (config.height, config.width))
        has_sound, audio = job.input.audio is not None, clip.audio if edit.audio else None
        frames = None if self._shape is None or not edit.video else (self._path, self._shape)
        mask = source.with_name(MASK_NAME) if edit.mask is not None else None
        paths = files["video.mp4"], files["audio.wav"], files.get(NEW_SOUND)
        said = json.loads(
            confined_within(
                bounds,
                write_edit,
                source,
                edit,
                made,
                frames,
                audio,
                job.mix,
                has_sound,
                mask,
                paths,
                comment,
                self._mark,
            )
        )
        parts = " with generated ones" if edit.region is None else ", partly generated"
        own = OWN if has_sound else "silence"
        sound = f"{own}, with generated sound" if edit.audio and (has_sound or edit.mixes) else own
        return Origin(f"the upload's own frames{parts if edit.video else ''}, {said['video']}", sound, said["mix"])

    def heard(self, files: Files, bounds: Bounds) -> Tensor:
        """The sound of the section in the written `files`, (1, samples) at the model's rate. Raises as `write`."""
        length = clip_of(self._job.params.duration, self._clip)
        start = self._edit.start + self._edit.before
        return confined_within(bounds, section_sound, files["audio.wav"], length, start)

    def close(self) -> None:
        """Remove the frames."""
        self._path.unlink(missing_ok=True)
