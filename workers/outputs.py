"""The files of one output: the clip as mp4 and wav, and the manifest that says how it was made."""

from __future__ import annotations

import json
from pathlib import Path

from model.media import cut_wav, mux_a2v, mux_v2a, write_clip, write_wav
from model.pipeline import Clip, Pipeline
from service.jobs.record import Job
from workers import provenance
from workers.decoding import confined
from workers.spool import Files


def write_files(job: Job, pipeline: Pipeline, index: int, clip: Clip, source: Path | None, folder: Path) -> Files:
    """Write one output's files to `folder`; return them by name."""
    files = {name: folder / f"{index}-{name}" for name in ("video.mp4", "audio.wav", "manifest.json")}
    video, audio = files["video.mp4"], files["audio.wav"]
    comment = provenance.comment(pipeline.manifest, job, index)
    video_origin = audio_origin = "generated"
    if job.input is None or source is None:
        assert clip.frames is not None
        assert clip.audio is not None
        write_clip(video, clip.frames, clip.fps, clip.audio, clip.sample_rate, comment)
        write_wav(audio, clip.audio, clip.sample_rate)
    elif job.kind == "v2a":
        assert clip.audio is not None
        used = job.input.used
        how = confined(mux_v2a, source, used.start, used.duration, clip.audio, clip.sample_rate, video, comment)
        write_wav(audio, clip.audio, clip.sample_rate)
        video_origin = f"the upload's own frames, {how}"
    else:
        assert clip.frames is not None
        used = job.input.used
        confined(mux_a2v, clip.frames, clip.fps, source, used.start, used.duration, video, comment)
        confined(cut_wav, source, used.start, used.duration, audio)
        audio_origin = "the upload's own sound, exact in audio.wav, AAC in video.mp4"
    manifest = provenance.describe(pipeline, job, index, video_origin, audio_origin)
    files["manifest.json"].write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return files
