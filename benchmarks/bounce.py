"""Statistics of the data set `bounce` and the ceilings of the alignment measures on it: tables and pictures of
docs/bounce.md.

python -m benchmarks.bounce [--clips 256] [--figures docs/figures]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from model.evaluation.alignment import MEASURES, detect
from model.evaluation.bootstrap import scores
from model.evaluation.contact_sheets import contact_sheet, spectrogram_sheet
from model.evaluation.generation import REAL_SEED, SPLITS
from model.evaluation.intervals import Interval
from model.networks.config import PRESETS, ClipSpec
from model.training.bounce import Bounce

SPECS = {"16 × 16, 8 kHz": ClipSpec(height=16, width=16, sample_rate=8000), "32 × 32, 16 kHz": PRESETS["demo"].clip}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--figures", type=Path)
    arguments = parser.parse_args()
    index = torch.arange(arguments.clips)
    labels = {measure.name: measure.label for measure in MEASURES}
    for name, spec in SPECS.items():
        for split in SPLITS:
            data = Bounce(spec, REAL_SEED, split)
            data.batch(index[:32])
            started = time.perf_counter()
            clips = data.batch(index)
            rendered = time.perf_counter()
            found = detect(clips, spec)
            perceived = time.perf_counter()
            measured = scores(found, found)
            ended = time.perf_counter()
            scene = data.scene(index)
            count = scene.impact.sum(1)
            loudness = clips["audio"].square().mean((1, 2)).sqrt()
            print(f"\n{name}, {split}: {arguments.clips} clips")
            print(
                f"impacts per clip {count.double().mean():.2f} ({count.min()} … {count.max()}), "
                f"two discs {scene.present[:, 1].double().mean():.0%}, "
                f"RMS {clips['audio'].square().mean().sqrt():.3f} ({loudness.min():.2f} … {loudness.max():.2f}), "
                f"peak {clips['audio'].abs().max():.3f}, limited {(clips['audio'].abs() > 0.7).double().mean():.1%}"
            )
            print(
                f"rendered in {rendered - started:.2f} s, detectors {perceived - rendered:.2f} s, "
                f"bootstrap {ended - perceived:.2f} s, {torch.get_num_threads()} threads"
            )
            for score in measured:
                print(f"| {labels[score.measure]} | {_shown(score.ceiling)} | {_shown(score.floor)} |")
    if arguments.figures is not None:
        shown = Bounce(PRESETS["demo"].clip, 0, "train").batch(torch.tensor([0, 1, 2, 3, 4, 7]))
        contact_sheet(shown).save(arguments.figures / "bounce-frames.png", optimize=True)
        heard = shown.map(lambda value: value[:4])
        picture = spectrogram_sheet(heard, PRESETS["demo"].clip)
        picture.save(arguments.figures / "bounce-sounds.webp", quality=80, method=6)


def _shown(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} … {interval.high:.3f})"


if __name__ == "__main__":
    main()
