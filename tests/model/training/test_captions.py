"""Training with captions: a run, what it publishes, and which samples go without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from model.checkpoint.loading import build, is_text, seeded_weights
from model.checkpoint.manifest import FILE_NAME, read_manifest
from model.networks.config import ClipSpec
from model.networks.coupled_unet import CoupledUNet
from model.request import SamplingParams
from model.runtime.pipeline import ClipRequest, Pipeline
from model.text.encoder import load_encoder
from model.training import publish as publishing
from model.training.bounce import Bounce
from model.training.captions import CaptionTokens
from model.training.configuration import (
    ConfigurationError,
    TextConfig,
    build_configuration,
    configuration_from_json,
)
from model.training.dataset import evaluation_indexes
from model.training.loop import Start
from model.training.publish import calibrate_published, publish
from model.training.sampling import sample_clips
from model.training.sources import ReadAhead
from model.training.training_log import LOSSES, read_rows
from tests.command_line import invoke
from tests.model.training.runs import run, small

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
TEXT = {"encoder": "wordllama", "drop": 0.25}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("plain")
    run(small(steps=1), out)
    return out


@pytest.fixture(scope="module")
def trained(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with text, from weights without."""
    out = tmp_path_factory.mktemp("words")
    run(small(steps=2, text=TEXT), out, Start(init=plain / "checkpoints" / "step-00000001.pt"))
    return out


def test_text_is_added_to_weights_without_and_learns(trained: Path, tmp_path: Path) -> None:
    publish(small(steps=2, text=TEXT), trained, tmp_path, torch.float32)
    weights = {name: value for name, value in load_file(tmp_path / "base.safetensors").items() if is_text(name)}
    for name, value in weights.items():
        if "pooled" in name or name.endswith("proj.weight"):
            assert value.any(), f"{name} began at zero and has not moved"
    assert all(row["loss"] > 0 for row in read_rows(trained / LOSSES))


def test_accumulation_gives_the_same_losses(plain: Path, trained: Path, tmp_path: Path) -> None:
    config = small(steps=2, text=TEXT, accumulate=2)
    run(config, tmp_path, Start(init=plain / "checkpoints" / "step-00000001.pt"))
    losses = [[row["loss"] for row in read_rows(out / LOSSES)] for out in (trained, tmp_path)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_a_published_model_says_what_it_reads_and_follows_prompts(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "CALIBRATION_TIMES", 2)
    config = small(steps=2, text=TEXT)
    manifest = publish(config, trained, tmp_path, torch.float32)
    source = Bounce(config.model.clip, config.data.seed, "train")
    calibrate_published(manifest, config, source, CPU, lambda text: None)
    text = json.loads((tmp_path / "model.json").read_text())["text"]
    assert (text["encoder"], text["languages"]) == ("wordllama", ["en"])
    assert text["sha256"] == load_encoder().sha256
    assert text["examples"][0] == source.captions(evaluation_indexes(1))[0]
    pipeline = Pipeline.load(manifest, "cpu", "float32")
    params = SamplingParams(seed=1, steps=1, prompt=text["examples"][0])
    red, other = (
        pipeline.run(ClipRequest("generate", SamplingParams(seed=1, steps=1, prompt=prompt, prompt_scale=20.0)))
        for prompt in (params.prompt, "something else")
    )
    assert red.audio is not None
    assert other.audio is not None
    assert not torch.equal(red.audio, other.audio)


def test_examples_of_the_configuration_are_published(trained: Path, tmp_path: Path) -> None:
    config = small(steps=2, text={**TEXT, "examples": ["a red disc"]})
    manifest = publish(config, trained, tmp_path, torch.float32)
    assert manifest.text is not None
    assert manifest.text.examples == ("a red disc",)


def test_scale_and_share_are_published_and_kept_by_the_next_publish(trained: Path, tmp_path: Path) -> None:
    def published(**text: Any) -> tuple[float, float]:
        text = publish(small(steps=2, text=TEXT | text), trained, tmp_path, torch.float32).text
        assert text == read_manifest(tmp_path / FILE_NAME).text
        assert text is not None
        return text.scale, text.guided_share

    assert published() == (3.0, 1.0)
    assert published(scale=1.5) == (1.5, 1.0)
    assert published(guided_share=0.5) == (1.5, 0.5)
    assert published(examples=["a red disc"]) == (1.5, 0.5)
    assert published(scale=2, guided_share=0.25) == (2.0, 0.25)


def test_pictures_of_a_run_are_guided_as_the_configuration_says() -> None:
    def sound(**text: Any) -> torch.Tensor:
        config = small(text=TEXT | text, output={"sample_count": 1, "sample_steps": 4})
        network = build(CoupledUNet, config.model.base)
        seeded_weights(network, seed=1)
        (clip,) = sample_clips(config, network, CPU, torch.float32)
        assert clip.audio is not None
        return clip.audio

    asked = {"examples": ["a ball"]}
    one, eight = sound(scale=1.0, **asked), sound(scale=8.0, **asked)
    part = sound(scale=8.0, guided_share=0.5, **asked)
    assert not torch.allclose(one, eight, atol=1e-3)
    assert not torch.allclose(eight, part, atol=1e-3)
    assert torch.equal(part, sound(scale=8.0, guided_share=0.5, **asked))


def test_a_model_is_calibrated_again_on_the_data_of_its_training(trained: Path, tmp_path: Path) -> None:
    config = small(steps=2, text=TEXT)
    publish(config, trained, tmp_path, torch.float32)
    echoed = invoke(["calibrate", str(tmp_path), "--count", "2", "--points", "3"])
    assert echoed.exit_code == 0, echoed.stderr
    calibrated = read_manifest(tmp_path / FILE_NAME).calibration
    assert [len(calibrated[name]) for name in ("times", "video", "audio")] == [3, 3, 3]
    record = json.loads((tmp_path / "training-base.json").read_text())
    record["data"] |= {"source": "folder", "folder": "films"}
    record["text"]["encoder"], record["model"]["base"]["text"] = "none", None
    (tmp_path / "training-base.json").write_text(json.dumps(record))
    assert "name a folder of validation videos" in invoke(["calibrate", str(tmp_path)]).stderr
    (tmp_path / "training-base.json").unlink()
    refused = invoke(["calibrate", str(tmp_path)])
    assert (refused.exit_code, "training-base.json is missing" in refused.stderr) == (1, True)


@pytest.mark.parametrize("scale", [-1, 21, float("nan"), "much", True])
def test_an_impossible_scale_is_refused(scale: object) -> None:
    with pytest.raises(ConfigurationError, match=r"text\.scale must be a number, 0 … 20"):
        small(text=TEXT | {"scale": scale})


@pytest.mark.parametrize("share", [0, 1.01, float("nan"), "half", True])
def test_an_impossible_share_of_guidance_is_refused(share: object) -> None:
    with pytest.raises(ConfigurationError, match=r"text\.guided_share must be a number above 0, at most 1"):
        small(text=TEXT | {"guided_share": share})


def test_the_share_of_samples_without_caption_is_drop_and_depends_on_the_step_alone() -> None:
    captions = CaptionTokens(TextConfig("wordllama", drop=0.25), 7, CPU)
    kept = captions.draw_kept(3, 4096)
    assert 1 - kept.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(kept, captions.draw_kept(3, 4096))
    assert not torch.equal(kept, captions.draw_kept(4, 4096))


def test_captions_are_encoded_as_prompts_are() -> None:
    captions = CaptionTokens(TextConfig("wordllama"), 7, CPU)
    words = ["a red disc bounces", "a fire by night"]
    text = captions.encode(words, torch.tensor([True, False]))
    expected = load_encoder().encode([words[0], None])
    assert torch.equal(text.tokens[0], expected.tokens[0])
    assert torch.equal(text.mask, expected.mask)


def test_captions_read_ahead_belong_to_their_batches() -> None:
    source = Bounce(ClipSpec(frames=4, height=8, width=8, sample_rate=640), 1, "train")
    order = list(torch.arange(32).split(4))
    with ReadAhead(source, iter(order), CPU, render_ahead=50_000) as ahead:
        for indexes in order:
            ahead.batch(indexes, CPU)
            assert ahead.captions(indexes) == source.captions(indexes)


def test_the_encoder_sets_the_network_s_channels_and_other_settings_are_refused() -> None:
    assert small(text=TEXT).model.base.text == 256
    assert small().model.base.text is None
    assert configuration_from_json(small(text=TEXT).to_json()) == small(text=TEXT)
    for wrong in ({"base": {"text": 256}}, {"text": TEXT, "base": {"text": 12}}):
        with pytest.raises(ConfigurationError, match=r"base\.text must be"):
            small(**wrong)
    with pytest.raises(ConfigurationError, match="captions, which"):
        build_configuration({"preset": "tiny", "text": TEXT, "data": {"source": "folder", "folder": "x"}})


def test_a_configuration_from_before_there_was_text_is_still_read() -> None:
    data = json.loads(small().to_json())
    del data["text"], data["model"]["base"]["text"], data["model"]["base"]["text_attention_scales"]
    assert configuration_from_json(json.dumps(data)) == small()
