"""An edit as a worker makes it: section, masks, files and manifest."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from PIL import Image

from model.checkpoint.manifest import Manifest
from model.media.content_box import ContentBox
from model.media.edits import Edit, Extend, Made, Region, Retake
from model.media.region_mask import read_scaled_mask
from model.media.streams import AudioStream, VideoStream
from model.networks.config import PRESETS
from model.request import SamplingParams
from model.runtime.edit import EditCondition
from model.runtime.pipeline import ClipRequest, Pipeline
from service.jobs.edit_plan import plan_edit
from service.jobs.intake import repeat_job
from service.jobs.record import Window, claim, new_job
from service.jobs.view import NEW_SOUND
from service.settings import Settings
from tests.clips import Film, Track, make
from tests.service.new_jobs import upload_of
from workers.condition import decode_condition
from workers.decoder import Bounds, confined_within
from workers.edit_condition import audio_mask, video_mask
from workers.outputs import write_files

pytestmark = pytest.mark.usefixtures("one_thread")

CLIP = PRESETS["tiny"].clip
BOX = ContentBox(2, 0, CLIP.height - 4, CLIP.width)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    manifest = Manifest("tiny", PRESETS["tiny"], trained=False, description="for tests", licence="MIT", init_seed=7)
    return Pipeline.load(manifest, "cpu", "float32")


def planned(edit: Edit, length: float = 3.0) -> tuple[Edit, int]:
    """The edit with its section, and the frames of that."""
    edit, seconds = plan_edit(edit, length, CLIP, 60.0)
    return edit, round(seconds * CLIP.fps)


def test_the_masks_of_a_retake_are_new_in_the_spans_only() -> None:
    edit, frames = planned(Edit(retake=Retake(audio=((1.25, 1.5),), video=((1.0, 1.25),))))
    clip = replace(CLIP, frames=frames)
    video, audio = video_mask(edit, clip, BOX, None), audio_mask(edit, clip)
    times = edit.start + torch.arange(frames) / CLIP.fps
    assert video.shape == (frames, CLIP.height, CLIP.width)
    new = [round(float(t), 3) for t, frame in zip(times, video, strict=True) if frame.any()]
    assert new == [round(float(t), 3) for t in times if 1.0 - 1 / CLIP.fps + 1e-3 < t < 1.25 - 1e-3]
    assert not video[:, :2].any(), "the black above a letter-boxed picture is known"
    heard = edit.start + torch.nonzero(audio)[:, 0] / CLIP.sample_rate
    assert float(heard.min()) == pytest.approx(1.25, abs=1e-3)
    assert float(heard.max()) == pytest.approx(1.5, abs=1e-3)


def test_what_an_extension_adds_is_new_to_the_end_of_the_section() -> None:
    edit, frames = planned(Edit(extend=Extend(before=0.33, after=0.5)), length=1.0)
    clip = replace(CLIP, frames=frames)
    times = edit.start + torch.arange(frames) / CLIP.fps
    new = video_mask(edit, clip, BOX, None).flatten(1).any(1)
    assert edit.start <= -0.33
    assert frames / CLIP.fps + edit.start >= 1.5 - 1e-6
    assert torch.equal(new, (times < -1e-6) | (times >= 1.0 - 1e-6))
    assert audio_mask(edit, clip)[0] == audio_mask(edit, clip)[-1] == 1


def test_a_mask_picture_is_scaled_where_it_is_read(tmp_path: Path) -> None:
    picture = Image.new("L", (300, 200), 0)
    picture.paste(255, (150, 0, 300, 200))
    picture.save(tmp_path / "mask.png")
    edit, frames = planned(Edit(region=Region(start=0.5, end=1.0)))
    scaled = confined_within(Bounds(), read_scaled_mask, tmp_path / "mask.png", BOX.rows, BOX.columns)
    mask = video_mask(edit, replace(CLIP, frames=frames), BOX, scaled)
    frame = mask[mask.flatten(1).any(1)][0]
    assert frame[2 : CLIP.height - 2, CLIP.width // 2 :].all()
    assert frame.sum() == (CLIP.height - 4) * CLIP.width // 2


def test_an_edit_is_repeated_under_a_lower_limit() -> None:
    edit, frames = planned(Edit(retake=Retake(audio=((1.0, 1.5),))))
    job = new_job(
        "edit",
        "tiny",
        SamplingParams(5, duration=frames / CLIP.fps),
        priority="normal",
        metadata={},
        retention=timedelta(hours=1),
        edit=edit,
    )
    assert repeat_job(job, Settings(max_output_s=2.0)).edit == edit


@pytest.mark.parametrize("after", [0.02, 0.5])
def test_a_section_has_a_new_frame_after_an_end_off_its_grid(after: float) -> None:
    edit, frames = planned(Edit(extend=Extend(before=0.3, after=after)), length=3.05)
    new = video_mask(edit, replace(CLIP, frames=frames), BOX, None).flatten(1).any(1)
    first = Made(edit.start, CLIP.fps, CLIP.sample_rate, (CLIP.height, CLIP.width)).first_from(edit.length)
    assert new[first]
    assert not new[first - 1]


def test_a_region_is_new_in_its_pixels() -> None:
    edit, frames = planned(Edit(region=Region(x=0.5, y=0.0, width=0.5, height=0.5, start=0.5, end=1.0)))
    mask = video_mask(edit, replace(CLIP, frames=frames), BOX, None)
    frame = mask[mask.flatten(1).any(1)][0]
    assert frame[2 : CLIP.height // 2, CLIP.width // 2 :].all()
    assert frame.sum() == (CLIP.height // 2 - 2) * CLIP.width // 2


@pytest.mark.parametrize(
    ("edit", "sound", "files"),
    [
        (Edit(retake=Retake(audio=((0.5, 0.8),))), True, {NEW_SOUND}),
        (Edit(retake=Retake(video=((0.5, 0.8),))), True, set()),
        (Edit(retake=Retake(video=((0.5, 0.8),))), False, set()),
        (Edit(extend=Extend(after=0.4)), True, {NEW_SOUND}),
        (Edit(region=Region(x=0.2, y=0.2, width=0.5, height=0.5)), True, set()),
    ],
)
def test_an_edit_is_made_and_described(
    pipeline: Pipeline, tmp_path: Path, edit: Edit, sound: bool, files: set[str]
) -> None:
    film = make(tmp_path / "a.mp4", Film(frames=30), Track(seconds=1.0) if sound else None)
    planned_edit, frames = planned(edit, 1.0)
    params = SamplingParams(5, steps=1, super_resolution=False, guidance="replacement").resolve(
        "edit", pipeline.manifest
    )
    audio = AudioStream(44_100, 2) if sound else None
    upload = upload_of(
        film, duration=1.0, video=VideoStream(64, 48, 30.0), audio=audio, used=Window(max(0, planned_edit.start), 1.0)
    )
    job = claim(
        new_job(
            "edit",
            "tiny",
            replace(params, duration=frames / CLIP.fps),
            priority="normal",
            metadata={},
            retention=timedelta(hours=1),
            input=upload,
            edit=planned_edit,
        ),
        "a worker",
    )
    condition = decode_condition(job, pipeline, film, tmp_path)
    assert isinstance(condition, EditCondition)
    clip = pipeline.run(ClipRequest("edit", job.params, 0, condition))
    made = write_files(job, pipeline, 0, clip, film, tmp_path, condition)

    manifest = json.loads(made["manifest.json"].read_text())
    assert set(made) >= files
    assert (NEW_SOUND in made) == bool(files)
    assert manifest["kind"] == "edit"
    assert Edit.from_params(manifest["params"]).params() == planned_edit.params()
    assert manifest["output"]["video"].startswith("the upload's own frames")
    assert ("copied" in manifest["output"]["video"]) == (not planned_edit.video)
    output = manifest["output"]
    assert set(output["scores"]) == {"sync", "av_align", "lag"}
    if not sound:
        assert (set(output["scores"].values()), output["scores_reason"]) == ({None}, "the sound is silent")
    elif None in output["scores"].values():
        assert "in what is new" in output["scores_reason"], "there is a sound, which is not what lacks"
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", *(path.name for path in made.values())}
