"""Trains the classifiers and writes their weights.

python -m model.evaluation.classifiers [bounce|scenes] [--steps STEPS] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from safetensors.torch import save
from torch import nn

from model.evaluation.classifiers.networks import WEIGHTS, save_tensors
from model.evaluation.classifiers.scene_networks import SCENE_WEIGHTS
from model.evaluation.classifiers.scene_training import scene_accuracy, train_scenes
from model.evaluation.classifiers.training import accuracy, train
from model.training.checkpoints import write_atomically

STEPS = {"bounce": 700, "scenes": 600}
FILES = {"bounce": WEIGHTS, "scenes": SCENE_WEIGHTS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="?", choices=STEPS, default="bounce")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.monotonic()

    def report(step: int, sound: float, pictures: float) -> None:
        seconds = time.monotonic() - began
        sys.stderr.write(f"step {step}: loss of sound {sound:.4f}, of pictures {pictures:.4f}, {seconds:.0f} s\n")

    def write(sound: nn.Module, pictures: nn.Module) -> None:
        data = save(save_tensors(sound, pictures))
        write_atomically(options.out or FILES[options.data], lambda file: file.write(data))

    steps = options.steps or STEPS[options.data]
    if options.data == "bounce":
        networks = train(steps, report)
        write(*networks)
        found = accuracy(*networks)
        sys.stdout.write(f"F1 on new clips: sound {found.sound:.3f}, pictures {found.pictures:.3f}\n")
    else:
        scenes = train_scenes(steps, report)
        write(*scenes)
        for name, each in zip(("sound", "pictures"), scene_accuracy(scenes), strict=True):
            sys.stdout.write(
                f"{name}: kinds {each.kind:.3f}, attributes {each.attributes:.3f}, F1 of events {each.events:.3f}\n"
            )


if __name__ == "__main__":
    main()
