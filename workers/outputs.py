"""The files of one output: the clip as mp4 and wav, its pictures, and the manifest that says how it was made."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from model.marking.keys import PUBLISHED_KEY
from model.marking.mark import ClipMark, SignalMark
from model.marking.pictures import can_hold
from model.media.encode import ClipWriter, SoundFormat, clip_writer, write_samples, write_wav
from model.media.mux import cut_wav, mux_a2v, mux_v2a
from model.media.mux_mix import mux_mixed
from model.media.poster import Poster, PosterFrames, draw_poster
from model.media.spectrogram import Plot, draw_sound, write_spectrogram
from model.runtime.edit import EditCondition
from model.runtime.pipeline import Clip, ClipPart, Pipeline
from service.jobs.record import Job, Scores
from service.jobs.view import NEW_SOUND, new_sound, output_files
from service.settings import Settings
from workers import provenance
from workers.credentials import UNSIGNED, Credentials
from workers.decoder import clip_bounds, confined_within, no_check
from workers.edit_writer import EditWriter
from workers.provenance import Origin, Pictures
from workers.scores import Scorer
from workers.spool import Files


def signal_mark(settings: Settings) -> SignalMark | None:
    """The mark that `settings` ask for."""
    return SignalMark(mark_key(settings)) if settings.signal_mark == "on" else None


def mark_key(settings: Settings) -> str:
    return settings.signal_mark_key.get_secret_value() or PUBLISHED_KEY


def write_files(
    job: Job,
    pipeline: Pipeline,
    index: int,
    clip: Clip,
    source: Path | None,
    folder: Path,
    given: Tensor | EditCondition | None = None,
) -> Files:
    """Write the files of an output that is whole to `folder`; return them by name."""
    with OutputWriter(job, pipeline, index, source, folder, given=given) as writer:
        writer.add(ClipPart(0, clip.frames, clip.audio))
        return writer.finish(clip)


class OutputWriter(AbstractContextManager["OutputWriter"]):
    """Writes the files of output `index` of a job to `folder` while its clip is made: frames are encoded as they come.

    A context, at the end of which nothing is left of an output that was not finished. `check` is called every half
    second of work in child processes, and what it raises ends them. `credentials` sign the files.

    `given`: the frames of v2a, the sound of a2v or the section of an edit that the network was given, for the `scores`,
    which are known at the end of `finish`. `mark` is added to what is generated, and to nothing else.
    """

    def __init__(
        self,
        job: Job,
        pipeline: Pipeline,
        index: int,
        source: Path | None,
        folder: Path,
        check: Callable[[], None] = no_check,
        credentials: Credentials = UNSIGNED,
        given: Tensor | EditCondition | None = None,
        mark: SignalMark | None = None,
    ) -> None:
        self._check, self._credentials = check, credentials
        self._job, self._pipeline, self._index, self._source = job, pipeline, index, source
        self._files = {name: folder / f"{index}-{name}" for name in output_files(job)}
        self._frames = folder / f"{index}-frames.mp4"
        self._sound = folder / f"{index}-sound.f32"
        self._comment = provenance.comment(pipeline.manifest, job, index)
        self._bounds = clip_bounds(self._seconds, check)
        self._edit = EditWriter(job, index, pipeline, folder, mark) if job.edit is not None else None
        self._mark = mark
        self._clip_mark = None if mark is None else ClipMark(mark, pipeline.manifest.config.clip.sample_rate)
        self._size = (0, 0)
        self._stack = ExitStack()
        self._writer: ClipWriter | None = None
        self._poster = PosterFrames()
        self._scorer = Scorer(job.kind, pipeline.manifest.config.clip, given, job.edit)
        self.scores = Scores()

    def __exit__(self, *exception: Any) -> bool | None:
        for left in (self._frames, self._sound):
            left.unlink(missing_ok=True)
        if self._edit is not None:
            self._edit.close()
        return self._stack.__exit__(*exception)

    def add(self, part: ClipPart) -> None:
        """Encode the frames of the next part, and the sound where both are generated."""
        self._scorer.add(part)
        if part.frames is None:
            return
        if self._edit is not None:
            self._edit.add(part.frames)
            return
        frames, audio = part.frames, part.audio
        if self._clip_mark is not None:
            frames, self._size = self._clip_mark.frames(frames), (frames.shape[1], frames.shape[2])
            audio = None if audio is None else self._clip_mark.audio(audio)
        writer = self._writer = self._writer or self._begin()
        writer.add(frames, audio)
        self._poster.add(frames)

    def finish(self, clip: Clip) -> Files:
        """Write what is left to be written once all parts were added. Returns the files by name.

        Raises NotSigned.
        """
        if self._clip_mark is not None and self._writer is not None and clip.audio is not None:
            self._writer.add_sound(self._clip_mark.finish())
        self._stack.close()
        made_clip, clip = clip, self._with_mark(clip)
        origin = self._write_clip(clip)
        heard = None if self._edit is None else self._edit.heard(self._files, self._bounds)
        self.scores = self._scorer.finish(made_clip, heard)
        pictures = self._write_pictures(clip)
        files = self._files
        made = {name: path for name, path in files.items() if name != "manifest.json"}
        signed = self._credentials.sign(
            self._job, self._pipeline.manifest, made, self._source, self._check, self._marked
        )
        manifest = provenance.describe(
            self._pipeline, self._job, self._index, origin, pictures, made, signed, self.scores, self._marked
        )
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        files["manifest.json"].write_text(text, encoding="utf-8")
        return files

    def _with_mark(self, clip: Clip) -> Clip:
        """The clip with the mark in its sound."""
        if self._mark is None or clip.audio is None:
            return clip
        return replace(clip, audio=self._mark.whole_sound(clip.audio, clip.sample_rate))

    @property
    def _marked(self) -> tuple[str, ...]:
        """The sides of the output whose generated parts have the mark in the signal."""
        if self._mark is None:
            return ()
        job, edit, size = self._job, self._job.edit, self._size
        if edit is not None and edit.video and job.input is not None and job.input.video is not None:
            size = job.input.video.height, job.input.video.width
        has_sound = job.kind != "a2v" if edit is None else bool(new_sound(job))
        return (*(("picture",) if can_hold(*size) else ()), *(("sound",) if has_sound else ()))

    @property
    def _seconds(self) -> float:
        """Seconds of the clip that is written, with an upload."""
        if self._job.input is None:
            return 0.0
        edit = self._job.edit
        return self._job.input.used.duration if edit is None else edit.before + edit.length + edit.after

    def _begin(self) -> ClipWriter:
        clip = self._pipeline.manifest.config.clip
        if self._source is None:
            writing = clip_writer(self._files["video.mp4"], clip.fps, self._comment, SoundFormat(clip.sample_rate))
        else:
            writing = clip_writer(self._frames, clip.fps, self._comment)
        return self._stack.enter_context(writing)

    def _write_clip(self, clip: Clip) -> Origin:
        """Write video and sound."""
        video, audio, source = self._files["video.mp4"], self._files["audio.wav"], self._source
        if self._job.input is None or source is None:
            assert clip.audio is not None
            write_wav(audio, clip.audio, clip.sample_rate)
            return Origin("generated", "generated")
        if self._edit is not None:
            return self._edit.write(clip, source, self._files, self._comment, self._bounds)
        used = self._job.input.used
        if self._job.kind == "v2a":
            assert clip.audio is not None
            if not self._job.mix.changes_nothing:
                return self._write_mixed(clip)
            write_samples(self._sound, clip.audio)
            how = confined_within(
                self._bounds,
                mux_v2a,
                source,
                used.start,
                used.duration,
                self._sound,
                clip.sample_rate,
                video,
                self._comment,
            )
            write_wav(audio, clip.audio, clip.sample_rate)
            return Origin(f"the upload's own frames, {how}", "generated")
        changes = confined_within(
            self._bounds, mux_a2v, self._frames, source, used.start, used.duration, video, self._comment
        )
        confined_within(self._bounds, cut_wav, source, used.start, used.duration, audio)
        own = "the upload's own sound, exact in audio.wav, AAC in video.mp4"
        return Origin("generated", f"{own}: {changes}" if changes else own)

    def _write_mixed(self, clip: Clip) -> Origin:
        """Write a v2a clip whose sound is mixed with the upload's own, or set to a loudness."""
        job, files = self._job, self._files
        assert job.input is not None
        assert self._source is not None
        assert clip.audio is not None
        used = job.input.used
        paths = files["video.mp4"], files["audio.wav"], files.get(NEW_SOUND)
        write_samples(self._sound, clip.audio)
        arguments = self._source, used.start, used.duration, self._sound, clip.sample_rate, job.mix, paths
        said = json.loads(confined_within(self._bounds, mux_mixed, *arguments, self._comment))
        words = "generated, mixed with the upload's own" if job.mix.keeps_own else "generated"
        return Origin(f"the upload's own frames, {said['video']}", words, said["mix"])

    def _write_pictures(self, clip: Clip) -> Pictures:
        """Draw the generated modality from memory, and the uploaded one from the files just written, in a child
        process."""
        files, bounds = self._files, self._bounds
        if self._writer is not None:
            poster = self._poster.write(files["poster.webp"], clip.fps)
        else:
            poster = Poster.from_json(confined_within(bounds, draw_poster, files["video.mp4"], files["poster.webp"]))
        if clip.audio is not None and self._job.mix.changes_nothing and self._edit is None:
            plot = write_spectrogram(files["spectrogram.png"], clip.audio, clip.sample_rate)
        else:
            assert self._job.input is not None
            audio, picture, seconds = files["audio.wav"], files["spectrogram.png"], self._seconds
            plot = Plot.from_json(confined_within(bounds, draw_sound, audio, picture, seconds))
        return Pictures(poster, plot)
