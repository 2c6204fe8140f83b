"""The mark in the signal in the files of an output: in what is generated, and in nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import SecretStr

from model.checkpoint.manifest import find_models
from model.marking.keys import PUBLISHED_KEY
from model.marking.mark import SignalMark
from model.media import marks
from model.media.decode import upright_rgb
from model.media.edits import Edit, Retake
from model.media.encode import write_clip
from model.media.frames import window_frames
from model.media.marks import find_marks
from model.media.opening import MediaError
from model.media.source import read_sound
from model.media.streams import AudioStream, VideoStream
from model.networks.config import ClipSpec
from model.request import SamplingParams
from model.runtime.pipeline import Clip, ClipPart, Pipeline
from model.training.bounce import Bounce
from service.jobs.edit_plan import plan_edit
from service.jobs.record import Window, claim, new_job
from service.settings import Settings
from tests.demo_model import CLIP
from tests.service.new_jobs import upload_of
from workers.outputs import OutputWriter, mark_key, signal_mark

RATE = CLIP.sample_rate
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load(find_models(None)["demo"], "cpu", "float32")


@pytest.fixture(scope="module")
def clip() -> Clip:
    """A clip as the demo model could make it: 16 frames of 128×128, and 1.6 s of sound."""
    made = Bounce(ClipSpec(16, 10, 128, 128, RATE), 3, "train").batch(torch.tensor([5]))
    frames = ((made["video"][0] + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous()
    return Clip(frames, 10, made["audio"][0], RATE)


def written(kind: str, pipeline: Pipeline, clip: Clip, folder: Path, mark: SignalMark | None) -> Any:
    """The findings in the files of an output of a job of this `kind`, and its manifest."""
    assert clip.frames is not None
    assert clip.audio is not None
    folder.mkdir()
    source, upload = None, None
    if kind != "generate":
        source = folder / "upload.mp4"
        write_clip(source, clip.frames, 10, clip.audio, RATE, "not marked")
        upload = upload_of(source, duration=1.6, video=VideoStream(128, 128, 10.0), used=Window(0.0, 1.6))
    guidance = None if kind == "generate" else "replacement"
    params = SamplingParams(5, steps=2, guidance=guidance).resolve(kind, pipeline.manifest)
    given = {"priority": "normal", "metadata": {}, "retention": timedelta(hours=1), "input": upload}
    job = claim(new_job(kind, "demo", params, **given), "a worker")
    frames = None if kind == "v2a" else clip.frames
    audio = None if kind == "a2v" else clip.audio
    with OutputWriter(job, pipeline, 0, source, folder, mark=mark) as writer:
        for first, last in ((0, 9), (9, 16)):
            part = None if frames is None else frames[first:last]
            sound = None if audio is None else audio[:, first * RATE // 10 : last * RATE // 10]
            writer.add(ClipPart(first, part, sound))
        files = writer.finish(Clip(None, 10, audio, RATE))
    found = [json.loads(find_marks(files[name], PUBLISHED_KEY)) for name in ("video.mp4", "audio.wav")]
    return *found, json.loads(files["manifest.json"].read_text())


@pytest.mark.parametrize(
    ("kind", "marked"), [("generate", ["picture", "sound"]), ("v2a", ["sound"]), ("a2v", ["picture"])]
)
def test_what_is_generated_has_the_mark_and_what_is_the_users_has_not(
    kind: str, marked: list[str], pipeline: Pipeline, clip: Clip, tmp_path: Path
) -> None:
    video, audio, manifest = written(kind, pipeline, clip, tmp_path / "on", SignalMark())
    assert [side for side in ("picture", "sound") if video[side]["found"]] == marked
    assert audio["sound"]["found"] == ("sound" in marked)
    assert audio["picture"] is None
    assert manifest["signal_mark"] == marked


SPAN = (1.0, 3.0)


def edited(edit: Edit, pipeline: Pipeline, folder: Path, mark: SignalMark | None) -> tuple[Path, dict[str, Path]]:
    """The upload of an edit of four seconds, and the files of its output."""
    folder.mkdir()
    bounce = Bounce(ClipSpec(40, 10, 128, 128, RATE), 3, "train")
    own, new = (bounce.batch(torch.tensor([number])) for number in (5, 6))
    frames, new_frames = (((made["video"][0] + 1) * 127.5).byte().permute(0, 2, 3, 1) for made in (own, new))
    source = folder / "upload.mp4"
    write_clip(source, frames.contiguous(), 10, own["audio"][0], RATE, "not marked")
    planned, seconds = plan_edit(edit, 4.0, pipeline.manifest.config.clip, 60.0)
    assert (planned.start, seconds) == (0, 4.0)
    upload = upload_of(
        source, duration=4.0, video=VideoStream(128, 128, 10.0), audio=AudioStream(RATE, 1), used=Window(0.0, 4.0)
    )
    params = SamplingParams(5, steps=2, guidance="replacement", duration=4.0).resolve("edit", pipeline.manifest)
    given = {"priority": "normal", "metadata": {}, "retention": timedelta(hours=1), "input": upload, "edit": planned}
    job = claim(new_job("edit", "demo", params, **given), "a worker")
    with OutputWriter(job, pipeline, 0, source, folder, mark=mark) as writer:
        writer.add(ClipPart(0, new_frames.contiguous(), new["audio"][0]))
        return source, writer.finish(Clip(None, 10, new["audio"][0], RATE))


def pictures(path: Path) -> np.ndarray:
    """All frames (frames, height, width, 3)."""
    return np.stack([upright_rgb(frame) for frame in window_frames(path, 0, 60)])


def sound(path: Path) -> np.ndarray:
    """All samples (samples, channels)."""
    return read_sound(path, Fraction(0), Fraction(60)).samples


@pytest.mark.parametrize("sides", [("picture", "sound"), ("picture",), ("sound",)])
def test_an_edit_has_the_mark_in_what_is_made_anew_only(
    sides: tuple[str, ...], pipeline: Pipeline, tmp_path: Path
) -> None:
    edit = Edit(retake=Retake(*((SPAN,) if side in sides else () for side in ("sound", "picture"))))
    source, files = edited(edit, pipeline, tmp_path / "on", SignalMark())
    _, unmarked = edited(edit, pipeline, tmp_path / "off", None)

    found = json.loads(find_marks(files["video.mp4"], PUBLISHED_KEY))
    exact = json.loads(find_marks(files["audio.wav"], PUBLISHED_KEY))
    for finding, side in ((found["picture"], "picture"), (found["sound"], "sound"), (exact["sound"], "sound")):
        assert finding["found"] == (side in sides)
    assert json.loads(files["manifest.json"].read_text())["signal_mark"] == list(sides)

    new = np.zeros(4 * RATE, bool)
    new[round(SPAN[0] * RATE) : round(SPAN[1] * RATE)] = "sound" in sides
    own, marked, plain = (sound(path)[: 4 * RATE] for path in (source, files["audio.wav"], unmarked["audio.wav"]))
    assert np.array_equal(marked[~new], own[~new])
    assert np.array_equal(plain[~new], own[~new])
    new = np.zeros(40, bool)
    new[round(SPAN[0] * 10) : round(SPAN[1] * 10)] = "picture" in sides
    seen, bare = (pictures(path).astype(float) for path in (files["video.mp4"], unmarked["video.mp4"]))
    changes = np.abs(seen - bare).mean((1, 2, 3))
    assert changes[~new].max() < 0.1, "only the encoder may tell them apart"
    assert changes[new].min(initial=255) > 1


def test_without_the_setting_nothing_is_marked(pipeline: Pipeline, clip: Clip, tmp_path: Path) -> None:
    video, audio, manifest = written("generate", pipeline, clip, tmp_path / "off", None)
    assert not video["picture"]["found"]
    assert not audio["sound"]["found"]
    assert "signal_mark" not in manifest


def test_the_settings_choose_the_mark_and_its_key(tmp_path: Path) -> None:
    assert signal_mark(Settings()) is None
    assert signal_mark(Settings(signal_mark="on")) == SignalMark(PUBLISHED_KEY)
    own = Settings(signal_mark="on", signal_mark_key=SecretStr("a key"))
    assert signal_mark(own) == SignalMark("a key")
    assert mark_key(own) == "a key"
    assert "a key" not in repr(own)


@pytest.mark.parametrize(
    ("codec", "other", "why", "lost", "kept"),
    [
        (b"avc1", b"zzzz", "is not supported", "picture", "sound"),
        (b"mp4a", b"enca", "encrypted", "sound", "picture"),
    ],
)
def test_a_side_that_cannot_be_read_leaves_the_finding_of_the_other(
    codec: bytes, other: bytes, why: str, lost: str, kept: str, clip: Clip, tmp_path: Path
) -> None:
    assert clip.frames is not None
    assert clip.audio is not None
    path, mark = tmp_path / "a.mp4", SignalMark()
    marked = torch.from_numpy(mark.pictures().applied(clip.frames.numpy()))
    write_clip(path, marked, 10, mark.whole_sound(clip.audio, RATE), RATE, "")
    path.write_bytes(path.read_bytes().replace(codec, other))
    found = json.loads(find_marks(path, PUBLISHED_KEY))
    assert found[kept]["found"]
    assert found[lost] is None
    assert list(found["unreadable"]) == [lost]
    assert why in found["unreadable"][lost]


def test_pictures_that_begin_after_what_is_searched_leave_the_finding_of_the_sound(
    clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert clip.frames is not None
    assert clip.audio is not None
    path = tmp_path / "a.mp4"
    write_clip(path, clip.frames, 10, SignalMark().whole_sound(clip.audio, RATE), RATE, "")
    frames = marks.window_frames(path, 0, 600)
    late = (replace(shown, time=shown.time + 600) for shown in frames)
    monkeypatch.setattr(marks, "window_frames", lambda *_: late)
    found = json.loads(find_marks(path, PUBLISHED_KEY))
    assert found["picture"] is None
    assert found["sound"]["found"]
    assert found["unreadable"] == {}


def test_a_file_without_pictures_and_sound_is_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "a.mp4"
    damaged.write_bytes(b"\0\0\0\x18ftypmp42" + bytes(100))
    with pytest.raises(MediaError):
        find_marks(damaged, PUBLISHED_KEY)
