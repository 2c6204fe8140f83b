"""The files of one output: the clip as mp4 and wav, its pictures, and the manifest that says how it was made."""

from __future__ import annotations

import json
from pathlib import Path

from model.media.encode import write_clip, write_wav
from model.media.mux import cut_wav, mux_a2v, mux_v2a
from model.media.mux_mix import mux_mixed
from model.media.poster import Poster, draw_poster, write_poster
from model.media.spectrogram import Plot, draw_sound, write_spectrogram
from model.runtime.pipeline import Clip, Pipeline
from service.jobs.record import Job
from service.jobs.view import NEW_SOUND, output_files
from workers import provenance
from workers.decoder import LIMITS, clip_limits, confined_within
from workers.provenance import Origin, Pictures
from workers.spool import Files


def write_files(job: Job, pipeline: Pipeline, index: int, clip: Clip, source: Path | None, folder: Path) -> Files:
    """Write one output's files to `folder`; return them by name."""
    files = {name: folder / f"{index}-{name}" for name in output_files(job)}
    origin = _write_clip(files, job, pipeline, index, clip, source)
    pictures = _write_pictures(files, job, clip)
    made = {name: path for name, path in files.items() if name != "manifest.json"}
    manifest = provenance.describe(pipeline, job, index, origin, pictures, made)
    files["manifest.json"].write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return files


def _write_clip(files: Files, job: Job, pipeline: Pipeline, index: int, clip: Clip, source: Path | None) -> Origin:
    """Write video and sound."""
    video, audio = files["video.mp4"], files["audio.wav"]
    comment = provenance.comment(pipeline.manifest, job, index)
    if job.input is None or source is None:
        assert clip.frames is not None
        assert clip.audio is not None
        write_clip(video, clip.frames, clip.fps, clip.audio, clip.sample_rate, comment)
        write_wav(audio, clip.audio, clip.sample_rate)
        return Origin("generated", "generated")
    used = job.input.used
    limits = clip_limits(used.duration)
    if job.kind == "v2a":
        assert clip.audio is not None
        if not job.mix.changes_nothing:
            return _write_mixed(files, job, clip, source, comment)
        how = confined_within(
            limits, mux_v2a, source, used.start, used.duration, clip.audio, clip.sample_rate, video, comment
        )
        write_wav(audio, clip.audio, clip.sample_rate)
        return Origin(f"the upload's own frames, {how}", "generated")
    assert clip.frames is not None
    changes = confined_within(limits, mux_a2v, clip.frames, clip.fps, source, used.start, used.duration, video, comment)
    confined_within(limits, cut_wav, source, used.start, used.duration, audio)
    own = "the upload's own sound, exact in audio.wav, AAC in video.mp4"
    return Origin("generated", f"{own}: {changes}" if changes else own)


def _write_mixed(files: Files, job: Job, clip: Clip, source: Path, comment: str) -> Origin:
    """Write a v2a clip whose sound is mixed with the upload's own, or set to a loudness."""
    assert job.input is not None
    assert clip.audio is not None
    used = job.input.used
    paths = files["video.mp4"], files["audio.wav"], files.get(NEW_SOUND)
    arguments = source, used.start, used.duration, clip.audio, clip.sample_rate, job.mix, paths, comment
    said = json.loads(confined_within(clip_limits(used.duration), mux_mixed, *arguments))
    words = "generated, mixed with the upload's own" if job.mix.keeps_own else "generated"
    return Origin(f"the upload's own frames, {said['video']}", words, said["mix"])


def _write_pictures(files: Files, job: Job, clip: Clip) -> Pictures:
    """Draw the generated modality from memory, and the uploaded one from the files just written, in a child process."""
    limits = clip_limits(job.input.used.duration) if job.input is not None else LIMITS
    if clip.frames is not None:
        poster = write_poster(files["poster.webp"], clip.frames, clip.fps)
    else:
        poster = Poster.from_json(confined_within(limits, draw_poster, files["video.mp4"], files["poster.webp"]))
    if clip.audio is not None and job.mix.changes_nothing:
        plot = write_spectrogram(files["spectrogram.png"], clip.audio, clip.sample_rate)
    else:
        assert job.input is not None
        audio, picture, seconds = files["audio.wav"], files["spectrogram.png"], job.input.used.duration
        plot = Plot.from_json(confined_within(limits, draw_sound, audio, picture, seconds))
    return Pictures(poster, plot)
