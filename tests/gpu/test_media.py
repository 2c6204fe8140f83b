"""Files are decoded and written while the engine keeps the device busy, as in a worker."""

from __future__ import annotations

from pathlib import Path

import av
import torch

from model.media.decode import decode_audio, decode_video
from model.media.encode import write_clip
from model.runtime.engine import Engine
from model.runtime.pipeline import ClipRequest
from model.runtime.warmup import warm_up
from tests.gpu.conftest import DEVICE, clips_of, pipeline_on_gpu
from workers.decoder import confined


def test_uploads_are_decoded_and_clips_written_beside_the_device(tmp_path: Path) -> None:
    pipeline = pipeline_on_gpu("bfloat16")
    warm_up(pipeline, (1, 2, 4))
    clip = pipeline.manifest.config.clip
    engine = Engine(capacity=4, frame_budget=16, device=DEVICE)
    engine.start()
    try:
        background = [
            engine.submit(pipeline.evaluator, pipeline.program(request))
            for request in clips_of([("generate", None)] * 8, steps=40)
        ]
        source = tmp_path / "upload.mp4"
        frames = torch.randint(0, 256, (clip.frames, 32, 32, 3), dtype=torch.uint8)
        sound = torch.rand(1, clip.sample_rate * clip.frames // clip.fps) - 0.5
        write_clip(source, frames, clip.fps, sound, clip.sample_rate, "")
        given = {"v2a": confined(decode_video, source, clip, 0.0), "a2v": confined(decode_audio, source, clip, 0.0)}
        requests = [
            ClipRequest(kind, clips_of([(kind, "replacement")])[0].params, condition=value)
            for kind, value in given.items()
        ]
        runs = [engine.submit(pipeline.evaluator, pipeline.program(request)) for request in requests]
        v2a, a2v = (run.result(60) for run in runs)
        assert v2a.audio is not None
        assert a2v.frames is not None
        write_clip(tmp_path / "made.mp4", a2v.frames, a2v.fps, v2a.audio, v2a.sample_rate, "")
        with av.open(str(tmp_path / "made.mp4")) as made:
            assert sum(1 for _ in made.decode(video=0)) == clip.frames
        assert all(run.result(60).frames is not None for run in background)
    finally:
        engine.close(KeyError("done"))
        engine.join()
