"""`python -m tests.record_golden [DIR]`: record our own golden set, in the format that `model.verify` reads.

For a build that has passed verification against the published numbers: what it computes then is kept here, so that
anyone can check later builds and other machines without those numbers. Weights and inputs come from
`model.checkpoint.random_weights`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint.loading import build, published_layout, seeded_weights
from model.checkpoint.random_weights import uniform
from model.networks.config import UNetConfig
from model.networks.coupled_unet import CoupledUNet
from model.networks.layers import timestep_embedding
from model.networks.pair import Pair
from model.networks.super_resolution import SRUNet
from model.verify.folder import GoldenSet
from model.verify.forward import base_config, shifts_of, sr_config

FOLDER = Path(__file__).parent / "data" / "own_golden"
SEED = 2023
TOLERANCE = {"atol": 2e-4, "rtol": 1e-4}

BASE_FLAGS = {
    "video_size": [9, 3, 8, 16],
    "audio_size": [1, 640],
    "num_channels": 32,
    "num_res_blocks": 1,
    "num_heads": 4,
    "num_head_channels": 16,
    "cross_attention_resolutions": "2,4,8",
    "cross_attention_windows": "1,4,8",
    "cross_attention_shift": True,
    "video_attention_resolutions": "2,4,8",
    "audio_attention_resolutions": "4",
    "channel_mult": "1,1,2,2",
    "dropout": 0.0,
    "use_scale_shift_norm": True,
}
"""Odd on purpose: no square frames, samples that do not divide by frames, audio attention at one scale."""

SR_FLAGS = {
    "image_size": 16,
    "small_size": 4,
    "model_channels": 32,
    "out_channels": 6,
    "num_res_blocks": 1,
    "attention_resolutions": [2],
    "channel_mult": [1, 2, 2],
    "num_heads": 4,
    "use_scale_shift_norm": True,
}

Recording = tuple[dict[str, Tensor], dict[str, Any]]


def drawn(name: str, *shape: int) -> Tensor:
    return torch.from_numpy(uniform(name, shape, SEED)) * 1.7


@torch.no_grad()
def record_coupled() -> Recording:
    meta: dict[str, Any] = {
        "kind": "coupled_unet_forward",
        "config": BASE_FLAGS,
        "weights_seed": SEED,
        "recommended_tolerance": TOLERANCE,
    }
    config: UNetConfig = base_config(GoldenSet("", Path(), meta))
    network = build(CoupledUNet, config)
    seeded_weights(network, SEED)
    batch, frames = 2, BASE_FLAGS["video_size"][0]
    limits = config.max_shifts(frames)
    meta["runs"] = {
        "shift0": {"shifts": [0] * len(limits)},
        "one_a_sample": {"shifts": [list(limits), [limit // 2 for limit in limits]]},
    }
    meta["state_dict"] = [[name, list(shape)] for name, (_, shape) in published_layout(network).items()]
    t = torch.tensor([37, 912])
    tensors = {
        "in/video": drawn("in/video", batch, *BASE_FLAGS["video_size"]),
        "in/audio": drawn("in/audio", batch, *BASE_FLAGS["audio_size"]),
        "in/t": t,
        "mid/timestep_embedding": timestep_embedding(t, config.channels),
        "mid/time_embed_out": network.time_embed(t),
    }
    for name, run in meta["runs"].items():
        shifts = shifts_of(run["shifts"], batch)
        video, audio = network(Pair(tensors["in/video"], tensors["in/audio"]), Pair(t, t), shifts)
        tensors |= {f"out/{name}/video": video, f"out/{name}/audio": audio}
    return tensors, meta


@torch.no_grad()
def record_sr() -> Recording:
    side, small = SR_FLAGS["image_size"], SR_FLAGS["small_size"]
    tensors = {
        "in/forward/x": drawn("in/forward/x", 2, 3, side, side),
        "in/low_res": drawn("in/low_res", 2, 3, small, small),
        "in/forward/t": torch.tensor([3, 640]),
    }
    meta = {
        "kind": "sr",
        "config": SR_FLAGS,
        "weights_seed": SEED,
        "recommended_tolerance": {"forward": TOLERANCE},
        "chains": {},
    }
    network = build(SRUNet, sr_config(GoldenSet("", Path(), meta)))
    seeded_weights(network, SEED)
    eps, logits = network(tensors["in/forward/x"], tensors["in/low_res"], tensors["in/forward/t"])
    return {**tensors, "out/forward": torch.cat([eps, logits], dim=1)}, meta


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (tensors, meta) in {"coupled": record_coupled(), "sr": record_sr()}.items():
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(json.dumps(meta) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
