"""Clips of a model to be measured, made as the service makes them: many at once, through its pipeline and engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from model.checkpoint.manifest import Manifest
from model.networks.config import ModelConfig
from model.request import SamplingParams, allowed_guidance
from model.runtime.engine import Engine
from model.runtime.pipeline import Clip, ClipRequest, Pipeline
from model.runtime.warmup import warm_up
from model.sampling.latents import Latents
from model.training.bounce import Bounce, Split

METHODS = ("clean", "pigdm", "replacement", "gradient")
"""Ways to condition that are compared where nothing else is said."""

KINDS = ("joint", "v2a", "a2v")
"""Sound and picture from nothing, a sound for a picture, a picture for a sound."""

SPLITS: tuple[Split, ...] = ("train", "held_out")

REAL_SEED = 20_260_000
"""Of the clips that give the conditions and the ceiling: not one that anything was trained on."""

CAPACITY = 64
"""Clips in the engine at a time."""


class EvaluationError(ValueError):
    """What was asked cannot be measured on this model; the message says why."""


@dataclass(frozen=True)
class Run:
    """Some clips that are measured together: `kind` of KINDS, made by `method` (None for joint) with real clips of
    `split` as conditions."""

    kind: str
    method: str | None
    split: Split

    @property
    def request(self) -> str:
        """What requests call this kind."""
        return "generate" if self.kind == "joint" else self.kind

    @property
    def name(self) -> str:
        held = " held out" if self.split == "held_out" else ""
        return f"{self.kind} {self.method}{held}" if self.method else self.kind


def plan(manifest: Manifest, kinds: tuple[str, ...], methods: tuple[str, ...], held_out: bool) -> list[Run]:
    """The runs for these kinds and methods. Raises EvaluationError for what the model, or nobody, has."""
    if not manifest.config.base.coupled:
        raise EvaluationError(f"the model {manifest.name} has one modality only: nothing of it can be aligned")
    for field, given, known in (("kinds", kinds, KINDS), ("methods", methods, METHODS)):
        unknown = [name for name in given if name not in known]
        if unknown or not given:
            raise EvaluationError(f"{field} must be some of {', '.join(known)}; got {', '.join(unknown) or 'none'}")
    runs = [Run("joint", None, "train")] if "joint" in kinds else []
    for kind in (kind for kind in kinds if kind != "joint"):
        for method in methods:
            if method not in allowed_guidance(kind, manifest):
                raise EvaluationError(f"the model {manifest.name} does not allow {method}; {_why(method)}")
            runs += [Run(kind, method, split) for split in SPLITS if held_out or split == "train"]
    return runs


def _why(method: str) -> str:
    if method == "clean":
        return "it was not trained with independent timesteps"
    return "its manifest has no calibration (duet calibrate measures it)"


def possible_methods(manifest: Manifest) -> tuple[str, ...]:
    """Of METHODS those that the model allows."""
    return tuple(name for name in METHODS if name in allowed_guidance("v2a", manifest))


def sampling(run: Run, params: SamplingParams) -> SamplingParams:
    """`params` as every clip of the run has them."""
    return replace(params, guidance=run.method, super_resolution=False)


def real_clips(config: ModelConfig, split: Split, count: int, device: torch.device | str = "cpu") -> Latents:
    """Clips of `bounce` of the model's size, on the CPU."""
    made = Bounce(config.clip, REAL_SEED, split).batch(torch.arange(count), device)
    return made.map(torch.Tensor.cpu)


class Maker:
    """Makes clips with one model."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        warm_up(pipeline)

    def make(self, run: Run, params: SamplingParams, real: Latents, on_done: Callable[[], None]) -> Latents:
        """As many clips as there are `real` ones, their other side that of `real` unless the run is joint. Clip i is
        output i of a request with the seed of `params`. `on_done` is called after each. Raises RequestError, and
        MemoryError where a clip does not fit the device."""
        clips = list(self._run(run.request, sampling(run, params), real, on_done))
        video, audio = real["video"], real["audio"]
        if run.kind != "v2a":
            video = torch.stack([_video(clip) for clip in clips])
        if run.kind != "a2v":
            audio = torch.stack([clip.audio for clip in clips if clip.audio is not None])
        return Latents(video, audio)

    def _run(self, kind: str, params: SamplingParams, real: Latents, on_done: Callable[[], None]) -> Iterator[Clip]:
        engine = Engine(CAPACITY, device=self.pipeline.device)
        engine.start()
        given = {"v2a": "video", "a2v": "audio"}.get(kind)
        try:
            futures = [
                engine.submit(
                    self.pipeline.evaluator,
                    self.pipeline.program(ClipRequest(kind, params, index, real[given][index] if given else None)),
                )
                for index in range(real.batch)
            ]
            for future in futures:
                yield future.result()
                on_done()
        finally:
            engine.close(EvaluationError("the evaluation has ended"))
            engine.join()


def _video(clip: Clip) -> torch.Tensor:
    assert clip.frames is not None
    return clip.frames.movedim(-1, 1).float() / 127.5 - 1
