"""`duet evaluate` and `duet data preview` as processes, with a model that generates a clip in milliseconds."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from model.checkpoint.manifest import FILE_NAME, Manifest
from model.evaluation.generation import EvaluationError, EvaluationRun, plan, possible_methods
from model.evaluation.report import LABELS, Watcher, evaluate
from model.media.decode import decode_audio, decode_video
from model.networks.config import PRESETS
from model.request import SamplingParams
from model.runtime.pipeline import ClipRequest, Pipeline
from model.sampling.latents import Latents
from model.sampling.randomness import RandomStream
from tests.command_line import invoke
from tests.duet.cli.conftest import Cli
from tests.tiny_model import TEXT


def manifest(**further: Any) -> Manifest:
    config = further.pop("config", PRESETS["tiny"])
    return Manifest("tiny", config, False, "untrained", "MIT", **further)


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / FILE_NAME).write_text(manifest(independent_timesteps=True).to_json())
    return Cli(tmp_path)


@pytest.mark.slow
def test_every_run_is_generated_measured_written_and_plotted(cli: Cli, tmp_path: Path) -> None:
    wanted = ["--clips", 4, "--steps", 2, "--methods", "clean", "--kinds", "joint,v2a,a2v"]
    done = cli("evaluate", "tiny", *wanted, "--json", "found/scores.json", "--out", "drawn")
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "found/scores.json").read_text())
    names = [run["name"] for run in data["runs"]]
    assert names == ["joint", "v2a clean", "v2a clean held out", "a2v clean", "a2v clean held out"]
    assert data["clips"] == 4
    for run in data["runs"]:
        assert set(run["scores"]) == set(LABELS)
        for score in run["scores"].values():
            assert score["value"]["low"] <= score["value"]["high"]
        sound, pictures = {"log_mel", "sound_events"}, {"gradients", "picture_events"}
        generated = {"joint": sound | pictures, "v2a": sound, "a2v": pictures}[run["kind"]]
        assert set(run["distances"]) == generated
        for distance in run["distances"].values():
            assert distance["value"]["value"] > distance["floor"]["value"] > 0
    assert all(name in done.stdout for name in ("onset F1", "AV-Align", "v2a clean held out", "log-mel"))
    drawn = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert {"scores.png", "joint-frames.png", "joint-sounds.png", "a2v-clean-held-out-frames.png"} <= drawn
    Image.open(tmp_path / "drawn/scores.png").verify()


def test_long_clips_are_measured_at_the_borders_of_their_windows() -> None:
    """The measures are of the whole clip, which begins as real clips of that length."""
    able = manifest(independent_timesteps=True)
    runs = plan(able, ("joint", "v2a", "a2v"), ("clean",), held_out=False)
    made: dict[str, Latents] = {}
    watcher = Watcher(lambda run: None, lambda: None, lambda run, clips, _: made.update({run.kind: clips}))
    window = able.config.clip
    found = evaluate(able, runs, 2, SamplingParams(0, steps=1, duration=2 * window.duration), watcher, "cpu")
    data = json.loads(found.to_json())
    assert data["seconds"] == 2 * window.duration
    assert {clips["video"].shape[1] for clips in made.values()} == {2 * window.frames}
    assert {clips["audio"].shape[-1] for clips in made.values()} == {2 * window.samples}
    sides = {"joint": {"flux", "change", "jump", "hue"}, "v2a": {"flux"}, "a2v": {"change", "jump", "hue"}}
    for run in data["runs"]:
        assert set(run["scores"]) == set(LABELS)
        for borders in ("whole_windows", "last_windows"):
            assert set(run["seams"][borders]) == {"onset_f1"} | sides[run["kind"]]
            for score in run["seams"][borders].values():
                assert score["ratio"]["low"] <= score["ratio"]["high"]
        assert (
            set(run["seams"]["drift"])
            == {"joint": {"hue_kept", "loudness_drift"}, "v2a": {"loudness_drift"}, "a2v": {"hue_kept"}}[run["kind"]]
        )
    with pytest.raises(EvaluationError, match=f"at least {window.duration:g}"):
        evaluate(able, runs, 2, SamplingParams(0, duration=window.duration / 2), watcher, "cpu")


def test_a_clip_names_the_borders_of_its_last_evaluation() -> None:
    pipeline = Pipeline.load(manifest(), "cpu", "float32")
    window = pipeline.manifest.config.clip

    def borders(duration: float, steps: int) -> tuple[int, ...]:
        return pipeline.run(
            ClipRequest("generate", SamplingParams(3, steps=steps, super_resolution=False, duration=duration))
        ).borders

    assert borders(window.duration, 1) == ()
    first, second = (borders(2 * window.duration, steps) for steps in (1, 2))
    stream = RandomStream(3)
    stream.normal((1, 2 * window.frames, *window.video_shape[1:]))
    stream.normal((1, *replace(window, frames=2 * window.frames).audio_shape))
    cut = stream.integer(1, window.frames - 1)
    assert set(first) == {cut, cut + window.frames, window.frames} - {2 * window.frames}
    assert second != first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nobody"], "nobody is neither a folder nor a model that ships with Duet"),
        (["tiny", "--methods", "pigdm"], "does not allow pigdm; its manifest has no calibration"),
        (["tiny", "--methods", "magic"], "methods must be some of clean, pigdm, replacement, gradient; got magic"),
        (["tiny", "--kinds", "sound"], "kinds must be some of joint, v2a, a2v; got sound"),
        (["tiny", "--sampler", "euler"], "sampler must be one of"),
        (["tiny", "--duration", "0"], "duration must be"),
        (["tiny", "--duration", "0.4"], "duration must be at least 0.8, a window of tiny"),
        (["tiny", "--prompt-scale", "2"], "the model tiny knows no words, so the prompt scale does not apply"),
        (["tiny", "--prompt-scale", "21"], "--prompt-scale"),
        (["tiny", "--prompt-scale", "2", "--edit"], "--prompt-scale does not apply with --edit"),
        (["tiny", "--protocol", "paper", "--prompt-scale", "2"], "--prompt-scale cannot be combined with"),
        (["tiny", "--protocol", "paper", "--duration", "3"], "--duration cannot be combined with --protocol paper"),
        (["tiny", "--protocol", "paper", "--edit", "--out", "o"], "--edit, --out cannot be combined with"),
        (["tiny", "--protocol", "paper", "--weights", "w"], "--protocol paper needs --reference FOLDER"),
        (["tiny", "--protocol", "paper", "--reference", "r"], "i3d_pretrained_400.pt and AudioCLIP-Full-Training.pt"),
        (["tiny", "--protocol", "paper", "--reference", "r", "--weights", "w"], "clips must be a multiple of 8"),
    ],
)
def test_unsupported_evaluations_are_refused_with_a_message(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(cli.folder)
    done = invoke(["evaluate", *arguments, "--clips", "2"])
    assert done.exit_code == 2
    assert said in done.stderr


@pytest.mark.parametrize(("given", "used"), [(0.0, 0.0), (None, TEXT.scale)])
def test_joint_clips_are_made_at_the_prompt_scale_and_the_figures_name_it(
    monkeypatch: pytest.MonkeyPatch, given: float | None, used: float
) -> None:
    base = replace(PRESETS["tiny"].base, text=256)
    words = manifest(config=replace(PRESETS["tiny"], base=base), text=TEXT, independent_timesteps=True)
    made: list[tuple[str, float | None]] = []
    program = Pipeline.program

    def noted(pipeline: Pipeline, request: ClipRequest, *rest: Any) -> Any:
        made.append((request.kind, request.params.prompt_scale))
        return program(pipeline, request, *rest)

    runs = plan(words, ("joint", "v2a"), ("clean",), held_out=False)
    watcher = Watcher(lambda run: made.clear() if run.kind == "joint" else None, lambda: None, lambda *ended: None)
    monkeypatch.setattr(Pipeline, "program", noted)
    found = evaluate(words, runs, 2, SamplingParams(0, steps=1, prompt_scale=given), watcher, "cpu")
    assert made == 2 * [("generate", used)] + 2 * [("v2a", None)]
    assert json.loads(found.to_json())["params"]["prompt_scale"] == used
    with pytest.raises(EvaluationError, match="only to the kind joint"):
        evaluate(words, runs[1:], 2, SamplingParams(0, prompt_scale=2.0), watcher, "cpu")


def test_methods_are_those_that_the_model_allows() -> None:
    plain, able = manifest(), manifest(independent_timesteps=True, calibration={"times": [1.0]})
    assert possible_methods(plain) == ("replacement", "gradient")
    assert possible_methods(able) == ("clean", "pigdm", "replacement", "gradient")
    assert plan(able, ("v2a",), ("clean",), held_out=False) == [EvaluationRun("v2a", "clean", "train")]
    with pytest.raises(EvaluationError, match="not trained with independent timesteps"):
        plan(plain, ("a2v",), ("clean",), held_out=True)


@pytest.mark.slow
def test_a_preview_is_a_contact_sheet_spectrograms_and_a_film(cli: Cli, tmp_path: Path) -> None:
    done = cli("data", "preview", "--out", "seen", "--count", 2, "--preset", "demo")
    assert done.returncode == 0, done.stderr
    spec = PRESETS["demo"].clip
    assert {path.name for path in (tmp_path / "seen").iterdir()} == {
        "contact-sheet.png",
        "spectrograms.png",
        "captions.txt",
        "clips.mp4",
    }
    film = tmp_path / "seen/clips.mp4"
    assert decode_video(film, spec).shape == spec.video_shape
    assert 0.1 < decode_audio(film, spec).square().mean().sqrt() < 0.5
    done = cli("data", "preview", "scenes", "--out", "fires", "--count", 2, "--preset", "pocket", "--kind", "fire")
    assert done.returncode == 0, done.stderr
    captions = (tmp_path / "fires/captions.txt").read_text(encoding="utf-8").splitlines()
    assert len(captions) == 2
    assert all("fire" in line or "flames" in line for line in captions)
    unknown = cli("data", "preview", "scenes", "--kind", "snow")
    assert unknown.returncode == 2
    assert "kind must be one of fire, rain" in unknown.stderr
    refused = cli("data", "preview", "--preset", "large")
    assert refused.returncode == 2
    assert '"large" for --preset. Choose from: "paper", "demo", "pocket", "tiny"' in refused.stderr
