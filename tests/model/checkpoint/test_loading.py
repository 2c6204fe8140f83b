"""Published checkpoints and our own files: every tensor is used, none is missing, and mismatches are named."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model.checkpoint.loading import (
    CheckpointError,
    build,
    infer_base_config,
    infer_sr_config,
    load_base,
    load_model,
    load_network,
    load_published,
    load_sr,
    published_layout,
    read_published,
    save_model,
    save_network,
    seeded_weights,
    to_published,
)
from model.checkpoint.manifest import Manifest, read_manifest
from model.networks.config import PRESETS, SRConfig, UNetConfig
from model.networks.coupled_unet import CoupledUNet
from model.networks.super_resolution import SRUNet

TINY = PRESETS["tiny"]


@pytest.fixture
def base() -> CoupledUNet:
    network = build(CoupledUNet, TINY.base)
    seeded_weights(network, 1)
    return network


@pytest.fixture
def published(base: CoupledUNet) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in to_published(base).items()}


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize(("file", "kind"), [("statedict_base", CoupledUNet), ("statedict_sr", SRUNet)])
def test_published_names_and_shapes_map_one_to_one(file: str, kind: type[nn.Module]) -> None:
    if "DUET_GOLDEN_DIR" not in os.environ:
        pytest.skip("DUET_GOLDEN_DIR is not set: no list of the published tensors")
    listed = json.loads((Path(os.environ["DUET_GOLDEN_DIR"]) / f"{file}.json").read_text())
    config = PRESETS["paper"].base if kind is CoupledUNet else PRESETS["paper"].sr
    with torch.device("meta"):
        network = kind(config)
    layout = published_layout(network)
    assert {name: shape for name, (_, shape) in layout.items()} == {name: tuple(shape) for name, shape, _ in listed}
    assert {ours for ours, _ in layout.values()} == set(network.state_dict())


@pytest.mark.parametrize(
    ("ours", "theirs", "shape"),
    [
        (
            "input_blocks.3.0.video.conv_in.temporal.weight",
            "input_blocks.3.0.video_in_layers.2.video_conv_temporal.weight",
            (32, 32, 3),
        ),
        (
            "input_blocks.3.0.audio.conv_out.weight",
            "input_blocks.3.0.audio_out_layers.3.audio_conv.weight",
            (32, 32, 1),
        ),
        ("input_blocks.3.1.video.proj.weight", "input_blocks.3.1.video_proj_out.video_conv.weight", (32, 32, 1, 1, 1)),
        ("middle_blocks.0.audio.attention.qkv.weight", "middle_blocks.0.audio_attention_block.qkv.weight", (96, 32, 1)),
        ("time_embed.2.bias", "time_embed.2.bias", (32,)),
    ],
)
def test_some_names_of_published_files(base: CoupledUNet, ours: str, theirs: str, shape: tuple[int, ...]) -> None:
    assert published_layout(base)[theirs] == (ours, shape)


def test_published_weights_survive_a_round_trip(base: CoupledUNet, published: dict[str, Tensor]) -> None:
    again = load_base(published, TINY.base)
    assert same(base, again)
    assert all(torch.equal(tensor, published[name]) for name, tensor in to_published(again).items())


def test_missing_unexpected_and_misshapen_tensors_are_all_listed(published: dict[str, Tensor]) -> None:
    removed = published.pop("middle_blocks.1.v_qkv.weight")
    published["label_emb.weight"] = torch.zeros(4, 7)
    published["audio_out.2.audio_conv.weight"] = torch.zeros(2, 32, 3)
    with pytest.raises(CheckpointError) as refusal:
        load_base(published, TINY.base)
    message = str(refusal.value)
    assert message.startswith("3 tensors")
    assert f"missing middle_blocks.1.v_qkv.weight {tuple(removed.shape)}" in message
    assert "unexpected label_emb.weight (4, 7)" in message
    assert "audio_out.2.audio_conv.weight is (2, 32, 3), must be (1, 32, 3)" in message


def test_a_refused_checkpoint_leaves_the_network_as_it_was(base: CoupledUNet, published: dict[str, Tensor]) -> None:
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    incomplete = {name: tensor + 1 for name, tensor in list(published.items())[:-1]}
    with pytest.raises(CheckpointError):
        load_published(base, incomplete)
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())


def test_a_torch_file_is_read_with_views_gradients_and_half_precision(
    tmp_path: Path, published: dict[str, Tensor]
) -> None:
    flat = torch.cat([tensor.flatten() for tensor in published.values()]).requires_grad_(True)
    sizes = [tensor.numel() for tensor in published.values()]
    views = {name: part.view(published[name].shape) for name, part in zip(published, flat.split(sizes), strict=True)}
    torch.save({name: view.detach() for name, view in views.items()}, tmp_path / "views.pt")
    torch.save({name: nn.Parameter(tensor) for name, tensor in published.items()}, tmp_path / "parameters.pt")
    for file in ("views.pt", "parameters.pt"):
        network = load_base(read_published(tmp_path / file), TINY.base)
        assert all(torch.equal(tensor, published[name]) for name, tensor in to_published(network).items())
    torch.save({name: tensor.half() for name, tensor in published.items()}, tmp_path / "half.pt")
    half = load_base(read_published(tmp_path / "half.pt"), TINY.base)
    assert all(tensor.dtype == torch.float32 for tensor in half.state_dict().values())
    assert all(torch.equal(tensor, published[name].half().float()) for name, tensor in to_published(half).items())


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch executed",)


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Malicious()}, tmp_path / "evil.pt")
    with pytest.raises(CheckpointError, match=r"evil\.pt"):
        read_published(tmp_path / "evil.pt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps([1, 2])])
def test_other_files_are_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"some\.pt"):
        read_published(tmp_path / "some.pt")
    with pytest.raises(CheckpointError, match=r"absent\.pt"):
        read_published(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match=r"some\.pt"):
        load_network(nn.Linear(1, 1), tmp_path / "some.pt")


def test_a_dict_of_more_than_tensors_is_not_a_state_dict(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.zeros(1)}}, tmp_path / "nested.pt")
    with pytest.raises(CheckpointError, match="not a state dict"):
        read_published(tmp_path / "nested.pt")


def test_seeded_weights_are_a_function_of_name_and_seed(base: CoupledUNet) -> None:
    again, other = build(CoupledUNet, TINY.base), build(CoupledUNet, TINY.base)
    seeded_weights(again, 1)
    seeded_weights(other, 2)
    assert same(base, again)
    assert not same(base, other)
    # numbers of the documented scheme, computed by hand from SplitMix64, for the network's first bias and gain
    assert base.time_embed[0].bias[0].item() == pytest.approx(0.1 * splitmix("time_embed.0.bias", 1), rel=1e-6)
    name = "input_blocks.1.0.video_in_layers.0.GroupNorm.weight"
    assert base.input_blocks[1][0].video.norm_in.weight[0].item() == pytest.approx(
        1 + 0.2 * splitmix(name, 1), rel=1e-6
    )


def splitmix(name: str, seed: int) -> float:
    """The first number of a tensor's stream, in Python integers."""
    import zlib

    z = ((seed << 32) + zlib.crc32(name.encode()) + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    z ^= z >> 31
    return 2 * (z >> 40) / 2**24 - 1


@pytest.mark.parametrize(
    "config",
    [
        TINY.base,
        UNetConfig(channels=32, head_channels=32),
        replace(
            TINY.base,
            channel_mult=(1, 2),
            res_blocks=2,
            cross_attention_scales=(2,),
            windows=(3,),
            video_attention_scales=(),
        ),
        replace(TINY.base, video_attention_scales=(4,), audio_attention_scales=(2, 8), scale_shift_norm=False),
    ],
)
def test_a_base_configuration_is_inferred_from_its_weights(config: UNetConfig) -> None:
    with torch.device("meta"):
        state = to_published(CoupledUNet(config))
    found = infer_base_config(state, heads=config.heads, head_channels=config.head_channels, windows=config.windows)
    assert found == config


@pytest.mark.parametrize(
    "config",
    [
        PRESETS["paper"].sr,
        SRConfig(channels=16, channel_mult=(1, 2, 3, 4, 8), res_blocks=1, attention_scales=(16,)),
        PRESETS["tiny"].sr,
    ],
)
def test_an_sr_configuration_is_inferred_from_its_weights(config: SRConfig) -> None:
    with torch.device("meta"):
        state = to_published(SRUNet(config))
    assert infer_sr_config(state, heads=config.heads, factor=config.factor) == config


def test_weights_of_another_network_have_no_base_configuration(published: dict[str, Tensor]) -> None:
    with torch.device("meta"):
        sr = to_published(SRUNet(TINY.sr))
    with pytest.raises(CheckpointError, match="video_out_layers"):
        infer_base_config(sr)
    with pytest.raises(CheckpointError, match=r"out_layers"):
        infer_sr_config(published)
    with pytest.raises(CheckpointError, match="missing"):
        load_sr(published, TINY.sr)


def test_a_saved_model_loads_unchanged(tmp_path: Path, base: CoupledUNet) -> None:
    sr = build(SRUNet, TINY.sr)
    seeded_weights(sr, 4)
    manifest = Manifest(
        "saved",
        TINY,
        trained=True,
        description="",
        licence="",
        base_weights="base.safetensors",
        sr_weights="sr.safetensors",
        folder=tmp_path / "saved",
    )
    save_model(manifest, base, sr)
    read = read_manifest(tmp_path / "saved" / "model.json")
    loaded_base, loaded_sr = load_model(read)
    assert read.config == TINY
    assert same(loaded_base, base)
    assert same(loaded_sr, sr)
    assert load_model(read, dtype=torch.bfloat16)[0].dtype == torch.bfloat16


def test_a_model_without_weight_files_is_initialised_from_its_seed(base: CoupledUNet) -> None:
    manifest = Manifest("drawn", replace(TINY, sr=None), trained=False, description="", licence="", init_seed=1)
    drawn, sr = load_model(manifest)
    assert same(drawn, base)
    assert sr is None
    assert not any(parameter.requires_grad for parameter in drawn.parameters())


def test_our_own_files_are_read_strictly_too(tmp_path: Path, base: CoupledUNet) -> None:
    save_network(base, tmp_path / "base.safetensors")
    other = build(CoupledUNet, replace(TINY.base, audio_attention_scales=(2,)))
    with pytest.raises(CheckpointError, match=r"missing input_blocks\.3\.0\.audio\.attention\.norm\.weight"):
        load_network(other, tmp_path / "base.safetensors")
