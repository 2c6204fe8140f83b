"""A recorded clip of the demo model, for comparison.

`python -m tests.model.checkpoint.demo_clip` records it anew; only new weights or a changed sampler are a reason to.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.checkpoint.manifest import Manifest, find_models
from model.request import SamplingParams
from model.runtime.pipeline import ClipRequest, Pipeline

RECORDED = Path(__file__).parents[2] / "data" / "demo_clip.safetensors"
SEED, STEPS, SR_STEPS = 7, 20, 2


def pipeline(manifest: Manifest | None = None) -> Pipeline:
    """The demo model, or another one, in float32."""
    return Pipeline.load(manifest or find_models()["demo"], "cpu", "float32")


def made(model: Pipeline) -> dict[str, Tensor]:
    """`small` (frames, height, width, 3) uint8 before super-resolution, `large`, its first and last frame after it, and
    `audio` (1, samples)."""
    params = SamplingParams(SEED, steps=STEPS, super_resolution=False)
    plain = model.run(ClipRequest("generate", params))
    params = SamplingParams(SEED, steps=STEPS, super_resolution=True, sr_steps=SR_STEPS)
    enlarged = model.run(ClipRequest("generate", params))
    assert plain.frames is not None
    assert plain.audio is not None
    assert enlarged.frames is not None
    return {"small": plain.frames, "large": enlarged.frames[[0, -1]].contiguous(), "audio": plain.audio}


def recorded() -> dict[str, Tensor]:
    return load_file(RECORDED)


@torch.no_grad()
def record(model: Pipeline, path: Path) -> None:
    save_file({name: value.cpu().contiguous() for name, value in made(model).items()}, path)


if __name__ == "__main__":
    record(pipeline(), RECORDED)
