"""Published files are converted to a servable model; files that do not fit are refused with the reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model.checkpoint.convert import Conversion, convert
from model.checkpoint.loading import CheckpointError, build, load_model, seeded_weights, to_published
from model.checkpoint.manifest import Manifest, ManifestError, find_models, read_manifest
from model.networks.config import PRESETS, ClipSpec, ConfigError
from model.networks.coupled_unet import CoupledUNet
from model.networks.super_resolution import SRUNet
from model.request import SamplingParams
from model.runtime.pipeline import ClipRequest, Pipeline

TINY = PRESETS["tiny"]
TINY_OPTIONS = Conversion(clip=TINY.clip, infer=True, head_channels=TINY.base.head_channels, licence="CC0-1.0")


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Path]:
    """Files as the published trainer writes them: views of one flat storage, with requires_grad."""
    files = []
    for network, name in ((build(CoupledUNet, TINY.base), "Tiny.pt"), (build(SRUNet, TINY.sr), "Tiny_SR.pt")):
        seeded_weights(network, 5)
        state = to_published(network)
        flat = torch.cat([value.flatten() for value in state.values()]).requires_grad_(True)
        parts = flat.split([value.numel() for value in state.values()])
        views = {key: part.view(value.shape) for (key, value), part in zip(state.items(), parts, strict=True)}
        files.append(tmp_path / name)
        torch.save(views, files[-1])
    return files[0], files[1]


def test_a_converted_model_is_found_and_makes_clips(published: tuple[Path, Path], tmp_path: Path) -> None:
    convert(*published, "tiny", tmp_path / "models" / "tiny", TINY_OPTIONS)
    manifest = find_models(tmp_path / "models")["tiny"]
    assert manifest.config == TINY
    assert manifest.trained
    assert manifest.mirrored
    assert manifest.licence == "CC0-1.0"
    assert set(manifest.sources) == {"Tiny.pt", "Tiny_SR.pt"}
    clip = Pipeline.load(manifest, "cpu", "float32").run(
        ClipRequest("generate", SamplingParams(1, steps=2, sr_steps=1))
    )
    assert clip.frames is not None


def test_every_tensor_arrives_unchanged(published: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = convert(*published, "tiny", tmp_path / "out", TINY_OPTIONS)
    for network, file in zip(load_model(manifest), published, strict=True):
        assert network is not None
        ours, theirs = to_published(network), torch.load(file, weights_only=True)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_missing_extra_and_misshapen_tensors_are_all_listed(published: tuple[Path, Path], tmp_path: Path) -> None:
    state = torch.load(published[0], weights_only=True)
    del state["time_embed.2.bias"]
    state["surplus.weight"] = torch.zeros(3)
    state["audio_out.2.audio_conv.bias"] = torch.zeros(2)
    torch.save(state, published[0])
    with pytest.raises(CheckpointError) as refusal:
        convert(*published, "tiny", tmp_path / "out", TINY_OPTIONS)
    message = str(refusal.value)
    assert "Tiny.pt" in message
    for finding in ("missing time_embed.2.bias", "unexpected surplus.weight", "audio_out.2.audio_conv.bias is (2,)"):
        assert finding in message
    assert not (tmp_path / "out").exists()


def test_another_architecture_is_not_mistaken_for_the_published_one(
    published: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="do not fit"):
        convert(*published, "tiny", tmp_path / "out", replace(TINY_OPTIONS, infer=False))


def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        convert(tmp_path / "a.pt", None, "a", tmp_path / "out")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"time_embed.0.weight": Payload()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        convert(tmp_path / "a.pt", None, "a", tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_a_clip_that_does_not_fit_the_network_is_refused(published: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="20×16"):
        convert(*published, "tiny", tmp_path / "out", replace(TINY_OPTIONS, clip=ClipSpec(8, 10, 20, 16, 1280)))


def test_a_model_is_not_overwritten(published: tuple[Path, Path], tmp_path: Path) -> None:
    convert(*published, "tiny", tmp_path / "out", TINY_OPTIONS)
    with pytest.raises(CheckpointError, match="exists already"):
        convert(*published, "tiny", tmp_path / "out", TINY_OPTIONS)


def test_mirrored_models_take_and_generate_mirrored_frames(published: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = convert(*published, "tiny", tmp_path / "out", TINY_OPTIONS)
    straight = Pipeline.load(replace(manifest, mirrored=False), "cpu", "float32")
    mirrored = Pipeline.load(manifest, "cpu", "float32")
    params = SamplingParams(seed=4, steps=2, super_resolution=False)
    plain, flipped = (pipeline.run(ClipRequest("generate", params)).frames for pipeline in (straight, mirrored))
    assert plain is not None
    assert flipped is not None
    assert torch.equal(plain.flip(2), flipped)
    frames = torch.rand(TINY.clip.video_shape) * 2 - 1
    sound, same = (
        pipeline.run(ClipRequest("v2a", params, condition=condition)).audio
        for pipeline, condition in ((straight, frames.flip(-1)), (mirrored, frames))
    )
    assert sound is not None
    assert same is not None
    assert torch.equal(sound, same)


def test_a_broken_manifest_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "broken"
    folder.mkdir(parents=True)
    for text, complaint in (("{", "model.json"), ('{"name": "x"}', "'config' is missing"), ('{"config": {}}', "clip")):
        (folder / "model.json").write_text(text)
        with pytest.raises(ManifestError, match=complaint):
            find_models(tmp_path / "models")


@pytest.mark.parametrize(
    ("part", "values", "complaint"),
    [
        ("schedule", {"steps": 0}, "steps must be a whole number"),
        ("schedule", {"steps": 10}, "steps of a linear schedule must be at least 21"),
        ("clip", {"fps": 0}, "fps must be a whole number, at least 1; got 0"),
        ("clip", {"frames": "16"}, "frames must be a whole number"),
        ("base", {"heads": 0}, "heads must be"),
        ("clip", 5, "ClipSpec must be an object"),
    ],
)
def test_a_manifest_with_a_value_outside_its_limits_is_named(
    tmp_path: Path, part: str, values: object, complaint: str
) -> None:
    data = json.loads(Manifest("x", PRESETS["tiny"], trained=False, description="", licence="").to_json())
    data["config"][part] = data["config"][part] | values if isinstance(values, dict) else values
    (tmp_path / "model.json").write_text(json.dumps(data))
    with pytest.raises(ManifestError, match=rf"model\.json: .*{complaint}"):
        read_manifest(tmp_path / "model.json")


@pytest.mark.parametrize("text", ["[]", "5", '{"config": []}', '{"config": "tiny"}'])
def test_a_manifest_of_another_shape_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ManifestError, match=r"model\.json: .*object"):
        read_manifest(tmp_path / "model.json")


def test_two_models_cannot_have_one_name(published: tuple[Path, Path], tmp_path: Path) -> None:
    for folder in ("a", "b"):
        convert(*published, "same", tmp_path / folder, TINY_OPTIONS)
    with pytest.raises(ManifestError, match="is taken by"):
        find_models(tmp_path)


def test_a_manifest_survives_its_file(published: tuple[Path, Path], tmp_path: Path) -> None:
    manifest = convert(*published, "tiny", tmp_path / "out", TINY_OPTIONS)
    assert read_manifest(tmp_path / "out" / "model.json") == manifest
    json.loads(manifest.to_json())
    assert manifest.weights_hash != replace(manifest, sr_weights=None).weights_hash
