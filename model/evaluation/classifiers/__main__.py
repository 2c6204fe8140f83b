"""Trains the classifiers and writes their weights.

python -m model.evaluation.classifiers [--steps 700] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from safetensors.torch import save

from model.evaluation.classifiers.networks import WEIGHTS, save_tensors
from model.evaluation.classifiers.training import accuracy, train
from model.training.checkpoints import write_atomically


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    began = time.monotonic()

    def report(step: int, sound: float, pictures: float) -> None:
        seconds = time.monotonic() - began
        sys.stderr.write(f"step {step}: loss of sound {sound:.4f}, of pictures {pictures:.4f}, {seconds:.0f} s\n")

    networks = train(options.steps, report)
    data = save(save_tensors(*networks))
    write_atomically(options.out, lambda file: file.write(data))
    found = accuracy(*networks)
    sys.stdout.write(f"F1 on new clips: sound {found.sound:.3f}, pictures {found.pictures:.3f}\n")


if __name__ == "__main__":
    main()
