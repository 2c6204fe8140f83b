"""Contact sheets of generated clips, for docs/editing.md and docs/scenes-model.md.

    python -m benchmarks.sheets [--out docs/figures] [--only edit-extend.png scenes-model-frames.webp …]

`edit-extend.png`: clips of `bounce`, each above itself with the second half made by `pigdm`, by the demo model.
`scenes-model-frames.webp`: a clip of each kind for the caption of a real one, by examples/models/scenes, before
super-resolution. `scenes-model-enlarged.webp`: the prompts PROMPTS after super-resolution, every second frame.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from model.checkpoint.manifest import FILE_NAME, Manifest, find_models, read_manifest
from model.evaluation.contact_sheets import contact_sheet
from model.evaluation.editing import Method, edit_tasks, make_edits, real_clips
from model.evaluation.generation import ClipGenerator, video_of
from model.evaluation.scene_report import real_scenes
from model.request import SamplingParams
from model.runtime.pipeline import Pipeline
from model.sampling.latents import Latents
from model.training.scenes.kinds import KINDS

SCENES = Path("examples/models/scenes")
PROMPTS = (
    "a campfire with flying sparks at night",
    "thunder and lightning in the rain",
    "rough waves breaking on a shore in daylight",
    "a huge explosion in the distance in daylight",
)
PROMPT_SCALE = 2.0
SIDE = 128
"""Pixels to which enlarged frames are shrunk."""

EDITED = 4
"""Clips that are extended."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.add_argument("--only", nargs="+", choices=list(SHEETS), default=list(SHEETS), metavar="SHEET")
    options = parser.parse_args()
    for sheet in options.only:
        SHEETS[sheet](options.out / sheet)


def extended(path: Path, manifest: Manifest | None = None) -> None:
    """Clips of `bounce`, each above itself with a new second half, by the demo model or another one."""
    manifest = manifest or find_models()["demo"]
    base_only = replace(manifest, config=replace(manifest.config, sr=None), sr_weights=None)
    generator = ClipGenerator(Pipeline.load(base_only))
    task = next(task for task in edit_tasks(manifest.config.clip) if task.name == "extend")
    real = real_clips(task, EDITED)
    made = make_edits(generator, task, Method("pigdm", 1.0), SamplingParams(0, steps=20), real)
    contact_sheet(real.map(lambda before, after: torch.stack([before, after], 1).flatten(0, 1), made)).save(path)


def scenes(path: Path) -> None:
    """A clip of each kind, as the base network makes it."""
    manifest = read_manifest(SCENES / FILE_NAME)
    base_only = replace(manifest, config=replace(manifest.config, sr=None), sr_weights=None)
    captions = real_scenes(manifest.config.clip, "train", len(KINDS)).captions
    params = SamplingParams(0, steps=20, super_resolution=False)
    made = ClipGenerator(Pipeline.load(base_only)).generate("generate", params, range(len(captions)), prompts=captions)
    contact_sheet(Latents(torch.stack([video_of(clip) for clip in made]), None)).save(path, quality=80)


def scenes_enlarged(path: Path) -> None:
    """Every second frame of prompted clips after super-resolution, a row for each prompt."""
    generator = ClipGenerator(Pipeline.load(read_manifest(SCENES / FILE_NAME)))
    params = SamplingParams(0, steps=20, prompt_scale=PROMPT_SCALE)
    made = generator.generate("generate", params, range(len(PROMPTS)), prompts=PROMPTS)
    rows = [clip.frames.numpy()[::2] for clip in made if clip.frames is not None]
    sheet = Image.new("RGB", (len(rows[0]) * SIDE, len(rows) * SIDE))
    for row, frames in enumerate(rows):
        for column, frame in enumerate(frames):
            shrunk = Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            sheet.paste(shrunk, (column * SIDE, row * SIDE))
    sheet.save(path, quality=80)


SHEETS: dict[str, Callable[[Path], None]] = {
    "edit-extend.png": extended,
    "scenes-model-frames.webp": scenes,
    "scenes-model-enlarged.webp": scenes_enlarged,
}

if __name__ == "__main__":
    main()
