"""Ceilings and floors of the measures of `scenes`, the rate of rendering, and the pictures of docs/scenes.md.

python -m benchmarks.scenes [--clips 256] [--figures docs/figures] [--rate cuda]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from model.evaluation.bootstrap import scores
from model.evaluation.contact_sheets import contact_sheet, spectrogram_sheet
from model.evaluation.generation import SPLITS
from model.evaluation.intervals import Interval
from model.evaluation.scene_measures import SCENE_MEASURES, detect_scenes
from model.evaluation.scene_report import real_scenes
from model.networks.config import ClipSpec
from model.runtime.pipeline import to_uint8
from model.training.scenes import Scenes
from model.training.scenes.kinds import KINDS
from model.training.sources import ReadAhead

CLIP = ClipSpec(height=32, width=32, sample_rate=16_000)
BATCH, BATCHES = 128, 30
SEED = 5
LARGE = 160
"""Pixels of the large frames in the picture; they are rendered at 256."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--rate", help="only measure the rate of rendering on this device, such as cuda")
    arguments = parser.parse_args()
    if arguments.rate:
        rate(torch.device(arguments.rate))
        return
    if arguments.figures is not None:
        figures(arguments.figures)
        return
    labels = {measure.name: measure.label for measure in SCENE_MEASURES}
    for split in SPLITS:
        scenes = real_scenes(CLIP, split, arguments.clips)
        found = detect_scenes(scenes.clips, scenes.truth, CLIP)
        rms = scenes.clips["audio"].square().mean((1, 2)).sqrt()
        print(f"\n{split}: {arguments.clips} clips, RMS {rms.mean():.3f} ({rms.min():.2f} … {rms.max():.2f})")
        for score in scores(found, found, measures=SCENE_MEASURES):
            print(f"| {labels[score.measure]} | {_shown(score.ceiling)} | {_shown(score.floor)} |")


def rate(device: torch.device) -> None:
    """Print the samples per second that training gets, and the seconds of their captions."""
    order = list(torch.arange(BATCH * BATCHES * 2).split(BATCH))
    data = Scenes(CLIP, 0, "train")
    with ReadAhead(data, iter(order), device) as source:
        for number, part in enumerate(order):
            if number == BATCHES:
                if device.type == "cuda":
                    torch.cuda.synchronize()
                began = time.perf_counter()
            source.batch(part, device)
        if device.type == "cuda":
            torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    began = time.perf_counter()
    for part in order[:BATCHES]:
        data.captions(part)
    words = (time.perf_counter() - began) / BATCHES
    print(f"{BATCH * BATCHES / seconds:.0f} samples a second on {device}; captions of a batch {1000 * words:.1f} ms")


def figures(folder: Path) -> None:
    """Draw two clips of each kind, a large frame of each, and the sounds of the first."""
    rows = _chosen(Scenes(CLIP, SEED, "train"))
    clips = Scenes(CLIP, SEED, "train").batch(rows)
    contact_sheet(clips).save(folder / "scenes-frames.webp", quality=75, method=6)
    spectrogram_sheet(clips.map(lambda value: value[::2]), CLIP).resize((1000, 800)).save(
        folder / "scenes-sounds.webp", quality=75, method=6
    )
    large = Scenes(replace(CLIP, height=256, width=256), SEED, "train")
    first = large.truth(rows).seen.min(1).values
    frames = torch.where(first.isfinite(), first * CLIP.fps, 5.0).long()
    video = torch.cat([large.batch(some)["video"] for some in rows.split(4)])
    page = Image.new("RGB", (len(KINDS) * LARGE, 2 * LARGE))
    for number, frame in enumerate(to_uint8(video[torch.arange(len(rows)), frames]).numpy()):
        picture = Image.fromarray(frame).resize((LARGE, LARGE))
        page.paste(picture, (number // 2 * LARGE, number % 2 * LARGE))
    page.save(folder / "scenes-large.webp", quality=80, method=6)


def _chosen(data: Scenes) -> torch.Tensor:
    """Two samples of each kind: the first with value 0, and the first with value 1, of the kind's last attribute."""
    index = torch.arange(128)
    values = data.truth(index).attributes
    last = torch.tensor([len(kind.attributes) - 1 for kind in KINDS])[index % len(KINDS)]
    own = values[index, last]
    pairs = [(index % len(KINDS) == kind) & (own == value) for kind in range(len(KINDS)) for value in (0, 1)]
    return torch.stack([pair.nonzero()[0, 0] for pair in pairs])


def _shown(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} … {interval.high:.3f})"


if __name__ == "__main__":
    main()
