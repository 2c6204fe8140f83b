"""Whether the best of several sounds by `sync` has a higher onset F1 against the true impacts than a random one: v2a on
held-out clips of `bounce`.

python -m benchmarks.best_of MODEL [--clips 16] [--outputs 8] [--json best-of.json]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from model.checkpoint.manifest import find_models
from model.evaluation.alignment import paired_events
from model.evaluation.audio_features import detect_onsets
from model.evaluation.bootstrap import interval, resample_weights
from model.evaluation.generation import REAL_SEED, ClipGenerator
from model.request import SamplingParams
from model.runtime.pipeline import Pipeline
from model.training.bounce import Bounce
from workers.ranking import ranked
from workers.scores import score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--models", type=Path)
    parser.add_argument("--clips", type=int, default=16)
    parser.add_argument("--outputs", type=int, default=8)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    manifest = find_models(arguments.models)[arguments.model]
    spec, count, tries = manifest.config.clip, arguments.clips, arguments.outputs
    data, index = Bounce(spec, REAL_SEED, "held_out"), torch.arange(arguments.clips)
    video, impacts = data.batch(index)["video"], data.scene(index).flash.any(1)
    params = SamplingParams(seed=1, quality="fast")
    given = video.repeat_interleave(tries, 0)
    generator = ClipGenerator(Pipeline.load(manifest))
    sounds = [
        clip.audio for clip in generator.generate("v2a", params, range(count * tries), given) if clip.audio is not None
    ]
    heard = detect_onsets(torch.stack(sounds), spec.sample_rate, spec.fps).in_frames(spec.fps, spec.frames)
    truth = impacts.repeat_interleave(tries, 0)
    pairs = paired_events(heard, truth)[0].sum(1)
    terms = torch.stack([2 * pairs, heard.sum(1) + truth.sum(1)], 1).double().view(count, tries, 2)
    frames = ((given + 1) * 127.5).round().to(torch.uint8)
    found = [score(*each, spec) for each in zip(frames, sounds, strict=True)]
    best = [ranked(enumerate(found[clip * tries : (clip + 1) * tries]), "sync")[0] for clip in range(count)]
    chosen, random = terms[torch.arange(count), torch.tensor(best)], terms.mean(1)
    weights = resample_weights(count, torch.Generator().manual_seed(0))

    def f1(each: Tensor) -> Tensor:
        sums = weights @ each
        return sums[:, 0] / sums[:, 1].clamp(min=1e-9)

    values = {"best": f1(chosen), "random": f1(random), "gain": f1(chosen) - f1(random)}
    result = {"model": manifest.name, "clips": count, "outputs": tries, "steps": "fast"}
    result |= {name: asdict(interval(value)) for name, value in values.items()}
    print(json.dumps(result, indent=2))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
