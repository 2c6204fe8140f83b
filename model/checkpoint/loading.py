"""Weights on disk: published checkpoints and our own files, both read strictly.

Published files name tensors after the modules of the original code. Our modules have the same order, so a name differs
only after its numbers. Maps of single tokens, matrices here, are stored there as convolutions of one tap.
PUBLISHED_NAMES and `published_layout` define the mapping; every conversion in either direction uses them.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.checkpoint import random_weights
from model.checkpoint.manifest import FILE_NAME, Manifest
from model.checkpoint.safetensors_header import tensor_shapes
from model.networks.config import SRConfig, UNetConfig
from model.networks.coupled_unet import CoupledUNet
from model.networks.super_resolution import SRUNet

PUBLISHED_NAMES = {
    "": "",
    # the coupled network: stem, residual blocks, RS-MMA, heads
    "video.spatial": "video_conv.video_conv_spatial",
    "video.temporal": "video_conv.video_conv_temporal",
    "audio.conv": "audio_conv.audio_conv",
    "emb": "emb_layers.1",
    "video.norm_in": "video_in_layers.0.GroupNorm",
    "video.conv_in.spatial": "video_in_layers.2.video_conv_spatial",
    "video.conv_in.temporal": "video_in_layers.2.video_conv_temporal",
    "video.norm_out": "video_out_layers.0.GroupNorm",
    "video.conv_out": "video_out_layers.3.video_conv",
    "video.skip": "video_skip_connection.video_conv",
    "video.spatial_attention.norm": "spatial_attention_block.norm.GroupNorm",
    "video.spatial_attention.qkv": "spatial_attention_block.qkv",
    "video.spatial_attention.proj": "spatial_attention_block.proj_out",
    "video.temporal_attention.norm": "temporal_attention_block.norm.GroupNorm",
    "video.temporal_attention.qkv": "temporal_attention_block.qkv",
    "video.temporal_attention.proj": "temporal_attention_block.proj_out",
    "audio.norm_in": "audio_in_layers.0.GroupNorm",
    "audio.conv_in.conv": "audio_in_layers.2.audio_conv",
    "audio.norm_out": "audio_out_layers.0.GroupNorm",
    "audio.conv_out": "audio_out_layers.3.audio_conv",
    "audio.skip": "audio_skip_connection.audio_conv",
    "audio.attention.norm": "audio_attention_block.norm.GroupNorm",
    "audio.attention.qkv": "audio_attention_block.qkv",
    "audio.attention.proj": "audio_attention_block.proj_out",
    "video.norm": "v_norm.GroupNorm",
    "video.qkv": "v_qkv",
    "video.proj": "video_proj_out.video_conv",
    "audio.norm": "a_norm.GroupNorm",
    "audio.qkv": "a_qkv",
    "audio.proj": "audio_proj_out.audio_conv",
    "video_out.norm": "video_out.0.GroupNorm",
    "video_out.conv": "video_out.2.video_conv",
    "audio_out.norm": "audio_out.0.GroupNorm",
    "audio_out.conv": "audio_out.2.audio_conv",
    # the super-resolution network: residual blocks, self-attention, head
    "norm_in": "in_layers.0",
    "conv_in": "in_layers.2",
    "norm_out": "out_layers.0",
    "conv_out": "out_layers.3",
    "skip": "skip_connection",
    "norm": "norm",
    "qkv": "qkv",
    "proj": "proj_out",
    "out.norm": "out.0",
    "out.conv": "out.2",
}
"""Our name of a layer → the published one. Both have the same prefix, such as `input_blocks.4.0.`"""

CONV_DIMS = {
    "video_conv": 5,
    "video_conv_temporal": 3,
    "audio_conv": 3,
    "qkv": 3,
    "v_qkv": 3,
    "a_qkv": 3,
    "proj_out": 3,
    "skip_connection": 4,
}
"""Dimensions of a published weight by the last part of its name, where they differ from ours."""

Network = TypeVar("Network", CoupledUNet, SRUNet)


class CheckpointError(ValueError):
    """Weights that cannot be read or do not fit the network; the message lists every wrong tensor."""


def published_layout(network: nn.Module) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Published name of each tensor of `network` → our name and the published shape, in our order."""
    layout = {}
    for name, tensor in network.state_dict().items():
        place, layer, kind = re.fullmatch(r"(?:(\w+(?:\.\d+)+)\.)?(?:(.+)\.)?(weight|bias)", name).groups(default="")  # type: ignore[union-attr]
        published = layer if is_text(name) else PUBLISHED_NAMES[layer]  # published networks have no text
        shape = tuple(tensor.shape)
        dims = CONV_DIMS.get(published.rpartition(".")[2])
        if kind == "weight" and dims:
            kernel = [size for size in shape[2:] if size > 1]
            shape = (*shape[:2], *kernel, *(1,) * (dims - 2 - len(kernel)))
        layout[".".join(filter(None, (place, published, kind)))] = (name, shape)
    return layout


def is_text(name: str) -> bool:
    """Whether a tensor of a network belongs to its text conditioning."""
    return "text" in name.split(".")


def read_published(path: Path) -> dict[str, Tensor]:
    """The tensors of a published `.pt` file. Nothing in the file is executed. Raises CheckpointError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {error}") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} is not a state dict: it must map names to tensors and hold nothing else")
    return {name: value.detach() for name, value in state.items()}


def load_base(state: Mapping[str, Tensor], config: UNetConfig) -> CoupledUNet:
    """A coupled U-Net with published weights. Raises CheckpointError listing missing, extra and misshapen tensors."""
    network = build(CoupledUNet, config)
    load_published(network, state)
    return network


def load_sr(state: Mapping[str, Tensor], config: SRConfig) -> SRUNet:
    """A super-resolution U-Net with published weights. Raises CheckpointError like `load_base`."""
    network = build(SRUNet, config)
    load_published(network, state)
    return network


def build(kind: type[Network], config: UNetConfig | SRConfig) -> Network:
    """A network with uninitialised weights, to be loaded."""
    with torch.device("meta"):
        network = kind(config)  # type: ignore[arg-type]
    return network.to_empty(device="cpu").eval()


def load_published(network: nn.Module, state: Mapping[str, Tensor], without_text: bool = False) -> None:
    """Copy published weights into `network`; the tensors must match one to one, or `without_text` all but those of the
    text conditioning, which stay as they are. Raises CheckpointError."""
    layout = {
        published: own for published, own in published_layout(network).items() if not (without_text and is_text(own[0]))
    }
    require_layout(state, {name: shape for name, (_, shape) in layout.items()})
    own = network.state_dict()
    for published, (name, _) in layout.items():
        own[name].copy_(state[published].view(own[name].shape))


def to_published(network: nn.Module) -> dict[str, Tensor]:
    """The weights of `network` under published names and in published shapes."""
    own = network.state_dict()
    return {published: own[name].reshape(shape) for published, (name, shape) in published_layout(network).items()}


def seeded_weights(network: nn.Module, seed: int) -> None:
    """Set all weights to those that `random_weights` draws from `seed`: untrained, and the same on every machine."""
    layout = published_layout(network)
    load_published(network, random_weights.weights({name: shape for name, (_, shape) in layout.items()}, seed))


def save_network(network: nn.Module, path: Path) -> None:
    """Write the weights to a safetensors file under our names, float32."""
    save_file({name: tensor.float().contiguous() for name, tensor in network.state_dict().items()}, path)


def load_network(network: nn.Module, path: Path, without_text: bool = False) -> None:
    """Read what `save_network` wrote. `without_text`: as in `load_published`. Raises CheckpointError like
    `load_base`."""
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    own = {name: value for name, value in network.state_dict().items() if not (without_text and is_text(name))}
    require_layout(state, {name: tuple(tensor.shape) for name, tensor in own.items()})
    for name, tensor in state.items():
        own[name].copy_(tensor)


def save_model(manifest: Manifest, base: CoupledUNet, sr: SRUNet | None) -> None:
    """Write `model.json` and the weight files that it names into `manifest.folder`."""
    manifest.folder.mkdir(parents=True, exist_ok=True)
    for network, name in ((base, manifest.base_weights), (sr, manifest.sr_weights)):
        if (network is None) != (name is None):
            raise CheckpointError(
                f"the manifest of {manifest.name!r} and the networks given do not agree on which there are"
            )
        if network is not None and name is not None:
            save_network(network, manifest.folder / name)
    (manifest.folder / FILE_NAME).write_text(manifest.to_json(), encoding="utf-8")


def load_model(
    manifest: Manifest, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[CoupledUNet, SRUNet | None]:
    """The networks of a model, ready to compute in `dtype` on `device`: from its weight files, or where the manifest
    names none, untrained ones drawn from its seed. Raises CheckpointError."""

    def ready(network: Network, file: str | None) -> Network:
        if file is None:
            seeded_weights(network, manifest.init_seed)
        else:
            load_network(network, manifest.folder / file)
        return network.to_compute(dtype).to(device).requires_grad_(False)

    base = ready(build(CoupledUNet, manifest.config.base), manifest.base_weights)
    sr = ready(build(SRUNet, manifest.config.sr), manifest.sr_weights) if manifest.config.sr else None
    return base, sr


def check_layout(manifest: Manifest) -> None:
    """Raise CheckpointError unless the weight files have the tensors of the model's architecture; their values are not
    read. Raises OSError or ValueError if a file cannot be read."""
    kinds = (
        (CoupledUNet, manifest.config.base, manifest.base_weights),
        (SRUNet, manifest.config.sr, manifest.sr_weights),
    )
    for kind, config, file in kinds:
        if config is None or file is None:
            continue
        with torch.device("meta"):
            network = kind(config)  # type: ignore[arg-type]
            state = {name: torch.empty(shape) for name, shape in tensor_shapes(manifest.folder / file).items()}
        require_layout(state, {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()})


def infer_base_config(
    state: Mapping[str, Tensor], heads: int = 4, head_channels: int = 64, windows: tuple[int, ...] = (1, 4, 8)
) -> UNetConfig:
    """The configuration of a published base checkpoint. Heads and windows cannot be inferred from it.

    Raises CheckpointError if the names are not those of a coupled U-Net.
    """
    channels, blocks, widths = _levels(state, "video_out_layers.0.GroupNorm.bias")

    def scales_with(layer: str) -> tuple[int, ...]:
        coarse_to_fine = [f"output_blocks.{level * blocks}.{layer}.bias" in state for level in range(len(widths))]
        return tuple(2**level for level, present in enumerate(reversed(coarse_to_fine)) if present)

    return UNetConfig(
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        res_blocks=blocks - 1,
        heads=heads,
        head_channels=head_channels,
        cross_attention_scales=scales_with("1.v_qkv"),
        windows=windows,
        video_attention_scales=scales_with("0.spatial_attention_block.qkv"),
        audio_attention_scales=scales_with("0.audio_attention_block.qkv"),
        scale_shift_norm=state["middle_blocks.0.emb_layers.1.bias"].shape[0] == 2 * widths[-1],
    )


def infer_sr_config(state: Mapping[str, Tensor], heads: int = 4, factor: int = 4) -> SRConfig:
    """The configuration of a published super-resolution checkpoint; heads and factor cannot be inferred from it.

    Raises CheckpointError if the names are not those of a super-resolution U-Net.
    """
    channels, blocks, widths = _levels(state, "out_layers.0.bias")
    attends = [f"output_blocks.{level * blocks}.1.qkv.bias" in state for level in range(len(widths))]
    return SRConfig(
        factor=factor,
        channels=channels,
        channel_mult=tuple(width // channels for width in widths),
        res_blocks=blocks - 1,
        heads=heads,
        attention_scales=tuple(2**level for level, present in enumerate(reversed(attends)) if present),
        learn_sigma=state["out.2.bias"].shape[0] == 6,
        scale_shift_norm=state["middle_block.0.emb_layers.1.bias"].shape[0] == 2 * widths[-1],
    )


def _levels(state: Mapping[str, Tensor], norm: str) -> tuple[int, int, list[int]]:
    """Channels of the time embedding's input, output stages per scale, and the width at each scale from fine to coarse.

    `norm` is the layer that shows a residual block's width. A stage with a second residual block is the last of its
    scale, and that block upsamples.
    """
    widths: list[int] = []
    while (tensor := state.get(f"output_blocks.{len(widths)}.0.{norm}")) is not None:
        widths.append(tensor.shape[0])
    ups = sum(f"output_blocks.{k}.{j}.{norm}" in state for k in range(len(widths)) for j in (1, 2))
    if not widths or "time_embed.0.weight" not in state:
        raise CheckpointError(
            f"not the weights expected here: no tensor output_blocks.0.0.{norm} or time_embed.0.weight"
        )
    blocks = len(widths) // (ups + 1)
    return state["time_embed.0.weight"].shape[1], blocks, widths[::-1][::blocks]


def require_layout(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise CheckpointError, which lists missing, extra and misshapen tensors, unless `state` has exactly `shapes`."""
    wrong = [
        *(f"missing {name} {shape}" for name, shape in shapes.items() if name not in state),
        *(f"unexpected {name} {tuple(tensor.shape)}" for name, tensor in state.items() if name not in shapes),
        *(
            f"{name} is {tuple(state[name].shape)}, must be {shape}"
            for name, shape in shapes.items()
            if name in state and tuple(state[name].shape) != shape
        ),
    ]
    if wrong:
        raise CheckpointError(f"{len(wrong)} tensors do not fit the network:\n" + "\n".join(wrong))
