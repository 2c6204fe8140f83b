"""The paper's protocol on small clips: real films, real networks with random weights, and features kept on disk."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.checkpoint.manifest import Manifest
from model.evaluation import paper
from model.evaluation.distances import frechet_distance
from model.evaluation.generation import EvaluationError
from model.evaluation.paper import (
    AUDIO,
    VIDEO,
    FeatureFolder,
    PaperPlan,
    Statistic,
    evaluate,
    not_as_published,
    not_known,
)
from model.evaluation.published.audioclip import AudioClipHead
from model.evaluation.published.i3d import I3D
from model.evaluation.published.weights import AUDIOCLIP_FILE, I3D_FILE, WeightsMissing
from model.evaluation.reference_clips import FilmWindow, NoReference, ReferenceClips
from model.networks.config import PRESETS, ClipSpec
from model.request import SamplingParams
from tests.clips import Film, Track, make, read_number, tone
from tests.model.evaluation.test_published import fill

CLIP = ClipSpec(frames=9, fps=10, height=48, width=64, sample_rate=44_100)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two films of 30 frames a second: 3 s, and 0.4 s, which is too short for a window."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "below").mkdir()
    make(folder / "a.mp4", Film(), Track())
    make(folder / "below" / "short.mp4", Film(frames=12), Track(seconds=0.5))
    (folder / ".hidden").write_text("not a film")
    return folder


def test_windows_begin_at_every_frame_of_the_clips_rate(films: Path) -> None:
    clips = ReferenceClips(films, CLIP)
    assert [path.name for path in clips.films] == ["a.mp4", "short.mp4"]
    assert clips.windows == tuple(FilmWindow(films / "a.mp4", first) for first in range(22))  # 2.1 s are spare

    frames, sound = clips.load(FilmWindow(films / "a.mp4", 10))
    assert (frames.dtype, frames.shape, sound.shape) == (torch.uint8, (9, 3, 48, 64), (39_690,))
    assert read_number(frames[0].permute(1, 2, 0).numpy()) == 30  # what is shown at 1.0 s


def test_the_first_channel_of_a_film_is_heard_as_published(films: Path) -> None:
    """The channels of the film are sweeps of different pitch."""
    window = FilmWindow(films / "a.mp4", 5)
    _, sound = ReferenceClips(films, CLIP, first_channel=True).load(window)
    expected = tone(0.5 + np.arange(len(sound)) / CLIP.sample_rate)
    assert np.abs(sound.numpy() - expected).mean() < 0.02
    _, mean = ReferenceClips(films, CLIP).load(window)
    assert np.abs(mean.numpy() - expected).mean() > 0.1


def test_windows_are_drawn_without_repeats_while_there_are_new_ones(films: Path) -> None:
    clips = ReferenceClips(films, CLIP)
    first = clips.drawn(22, seed=1)
    assert sorted(window.first for window in first) == list(range(22))
    assert first == clips.drawn(22, seed=1)
    assert first != clips.drawn(22, seed=2)
    twice = clips.drawn(44, seed=1)
    assert sorted(window.first for window in twice) == sorted(list(range(22)) * 2)


def test_folders_without_clips_are_refused(tmp_path: Path, films: Path) -> None:
    with pytest.raises(NoReference, match="is not a folder"):
        _ = ReferenceClips(tmp_path / "none", CLIP).windows
    with pytest.raises(NoReference, match=r"no film of at least 12\.8 s"):
        _ = ReferenceClips(films, replace(CLIP, frames=128)).windows
    make(tmp_path / "a.mp4", Film(frames=26), Track(seconds=0.87))
    with pytest.raises(NoReference, match=r"no film of at least 0\.9 s"):
        _ = ReferenceClips(tmp_path, CLIP).windows
    (tmp_path / "notes.txt").write_text("not a film")
    with pytest.raises(NoReference, match=r"notes\.txt cannot be used as a reference"):
        _ = ReferenceClips(tmp_path, CLIP).windows


def test_the_mean_and_deviation_are_of_the_runs() -> None:
    assert Statistic((1.0, 2.0, 6.0)).mean == 3
    assert Statistic((1.0, 2.0, 6.0)).deviation == pytest.approx(7**0.5)
    assert Statistic((1.0,)).deviation is None


def test_the_interval_of_the_mean_is_narrower_than_those_of_the_runs() -> None:
    assert Statistic((1.0, 3.0), (0.3, 0.4)).interval == pytest.approx((1.75, 2.25))
    assert Statistic((5.0,), (0.5,)).interval == pytest.approx((4.5, 5.5))
    assert Statistic((1.0, 3.0)).interval is None


@pytest.mark.parametrize(
    ("clips", "runs", "message"), [(12, 1, "multiple of 8"), (0, 1, "multiple of 8"), (8, 0, "runs")]
)
def test_plans_that_make_no_batches_are_refused(clips: int, runs: int, message: str) -> None:
    with pytest.raises(EvaluationError, match=message):
        PaperPlan(SamplingParams(0), clips, runs)


def test_models_that_have_no_such_clips_are_refused(tmp_path: Path) -> None:
    short = PRESETS["tiny"]
    manifest = Manifest("tiny", replace(short, clip=replace(short.clip, frames=8)), False, "untrained", "MIT")
    with pytest.raises(EvaluationError, match="I3D takes 9 frames or more"):
        evaluate(manifest, PaperPlan(SamplingParams(0), 8), tmp_path, tmp_path, tmp_path / "work", lambda count: None)


def test_a_protocol_says_why_its_measures_do_not_compare_with_the_papers() -> None:
    clip = replace(PRESETS["tiny"].clip, frames=16, fps=10, height=64, width=64)
    known = {I3D_FILE: True, AUDIOCLIP_FILE: True}
    assert not_as_published(clip, 2048, known) == []
    assert [
        reason
        for frames, clips, loaded in (
            (8, 2048, known),
            (16, 64, known),
            (16, 2048, {**known, I3D_FILE: False}),
            (16, 2048, {**known, AUDIOCLIP_FILE: False}),
        )
        for reason in not_as_published(replace(clip, frames=frames), clips, loaded)
    ] == [
        "the paper's clips are 16 frames of 64x64 at 10 Hz",
        "the paper's runs have 2,048 clips, and the bias of FVD and FAD depends on their number",
        "AudioCLIP-Full-Training.pt is not the file that its authors released",
    ]


def test_another_file_of_i3d_is_not_known_to_be_as_published() -> None:
    assert not_known({I3D_FILE: True, AUDIOCLIP_FILE: False}) == []
    assert not_known({I3D_FILE: False, AUDIOCLIP_FILE: True}) == [
        "i3d_pretrained_400.pt is not the copy in Open-Sora-Plan v1.0.0, "
        "and the hash of the paper's file is not recorded"
    ]


def test_features_of_another_evaluation_are_not_mixed_in(tmp_path: Path) -> None:
    FeatureFolder(tmp_path, {"clips": 8})
    FeatureFolder(tmp_path, {"clips": 8})
    with pytest.raises(EvaluationError, match="features of another evaluation"):
        FeatureFolder(tmp_path, {"clips": 16})


@pytest.mark.slow
def test_an_evaluation_that_was_interrupted_goes_on(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = PRESETS["tiny"]
    manifest = Manifest(
        "tiny", replace(tiny, clip=replace(tiny.clip, frames=9, height=16, width=16)), False, "x", "MIT"
    )
    plan = PaperPlan(SamplingParams(3, steps=2), clips=16, runs=1)
    monkeypatch.setattr(paper, "CHUNK", 8)
    weights, work = tmp_path / "weights", tmp_path / "work"
    with pytest.raises(WeightsMissing, match=I3D_FILE.name):
        evaluate(manifest, plan, films, weights, work, lambda count: None)
    weights.mkdir()
    for file, network, prefix in ((I3D_FILE, I3D(), ""), (AUDIOCLIP_FILE, AudioClipHead(), "audio.")):
        fill(network)
        torch.save({prefix + name: value for name, value in network.state_dict().items()}, weights / file.name)

    class Interrupted(Exception):
        pass

    done = []

    def interrupt(count: int) -> None:
        done.append(count)
        if sum(done) == 24:
            raise Interrupted

    with pytest.raises(Interrupted):
        evaluate(manifest, plan, films, weights, work, interrupt)
    kept = {path.name: path.stat().st_mtime_ns for path in work.glob("*.safetensors")}
    assert len(kept) == 3
    renamed = shutil.copytree(films, tmp_path / "renamed")
    found = evaluate(manifest, plan, renamed, weights, work, lambda count: None)
    assert found.protocol["reference"]["folder"] == "renamed"
    assert found.protocol["reference"]["audio_channel"] == "first"
    assert {name: (work / name).stat().st_mtime_ns for name in kept} == kept

    assert set(found.measures) == {"FVD", "KVD", "FAD", "FAD, each clip alone"}
    assert all(len(measure.runs) == 1 for measure in found.measures.values())
    extractors = found.protocol["extractors"]
    assert {name: each["known_hash"] for name, each in extractors.items()} == {
        I3D_FILE.name: False,
        AUDIOCLIP_FILE.name: False,
    }
    assert len(found.protocol["not_as_published"]) == 3
    assert len(found.protocol["not_known_to_be_as_published"]) == 1
    made, real = (
        [paper.load_file(work / f"run-0-{what}-{n:05d}.safetensors") for n in (0, 8)] for what in ("made", "real")
    )
    assert found.measures["FAD"].mean > 0
    low, high = found.measures["FAD"].interval or (0.0, 0.0)
    assert low < found.measures["FAD"].mean < high
    for name, feature, scale in (("FVD", VIDEO, 1), ("FAD", AUDIO, 10_000)):
        distance = frechet_distance(*(torch.cat([part[feature] for part in side]) for side in (made, real)))
        assert found.measures[name].runs[0] == pytest.approx(scale * distance, rel=1e-9)
