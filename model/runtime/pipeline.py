"""From a request to a clip: base stage and super-resolution stage."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.checkpoint.loading import load_model
from model.checkpoint.manifest import Manifest
from model.networks.config import ClipSpec
from model.request import RequestError, SamplingParams, clip_of
from model.runtime.allocator import release_freed_memory
from model.runtime.base_stage import BaseStage
from model.runtime.condition import GIVEN, Given, check
from model.runtime.edit import EditCondition, Section
from model.runtime.evaluator import Evaluator, Program, drive, evaluate
from model.runtime.guided_steps import step_forwards
from model.runtime.prompt import check_encoder, encode_prompt
from model.runtime.step_progress import ClipPreview, Reporter, Stage, StepProgress, preview_frames, to_uint8
from model.runtime.super_resolution import SuperResolution, groups
from model.sampling.randomness import RandomStream
from model.sampling.schedule import NoiseSchedule

__all__ = ["Clip", "ClipPart", "ClipPreview", "ClipRequest", "Pipeline", "StepProgress", "to_uint8"]


@dataclass(frozen=True)
class ClipRequest:
    """One output of a job. `condition` is the network's input for the given modality, in [-1, 1]: video (frames, 3,
    height, width) for v2a, which may also be uint8, audio (1, samples) for a2v, None for generate. It lasts as long as
    the clip (see `request.clip_of`); sound may end within the last frame. For edit it is an EditCondition, whose
    section is the clip."""

    kind: str
    params: SamplingParams
    index: int = 0
    condition: Tensor | EditCondition | None = None


@dataclass(frozen=True)
class ClipPart:
    """A piece of a clip, as it comes: `frames` from number `start` on, uint8 (frames, height, width, 3), and the
    `audio` (1, samples) of the same time; as in Clip."""

    start: int
    frames: Tensor | None
    audio: Tensor | None


@dataclass(frozen=True)
class Clip:
    """A generated clip: `frames` uint8 (frames, height, width, 3), None for v2a and where they were passed on in parts;
    `audio` (1, samples) in [-1, 1], None for a2v. An edit has those of its section of which something is new, both with
    what is kept; super-resolution interpolates frames without anything new. `timings`: seconds by stage. `borders`:
    frames at which a window of the last evaluation begins or has ended."""

    frames: Tensor | None
    fps: int
    audio: Tensor | None
    sample_rate: int
    timings: dict[str, float] = field(default_factory=dict)
    borders: tuple[int, ...] = ()


class Pipeline:
    """A loaded model. `run` makes one clip in the caller's thread; an engine runs many `program`s together. Do not use
    both at once: one thread owns the device."""

    def __init__(self, manifest: Manifest, evaluator: Evaluator, device: torch.device) -> None:
        self.manifest = manifest
        self.evaluator = evaluator
        self.device = device
        self.schedule = NoiseSchedule.from_config(manifest.config.schedule)
        self._window_seconds: dict[str, float] = {}

    @classmethod
    def load(cls, manifest: Manifest, device: str = "auto", dtype: str = "auto") -> Pipeline:
        """Load weights to `device` ("auto": a GPU if there is one) to compute in `dtype` ("auto", "float32",
        "bfloat16", "float16"); auto is bfloat16 where the device has it. Raises CheckpointError if the weights do not
        fit the manifest, ManifestError if its tuned solvers belong to other weights, or if the text encoder is not the
        one that it was trained with."""
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        if place.type == "cuda" and place.index is None:  # torch.cuda.set_device, for one, needs the number
            place = torch.device("cuda", torch.cuda.current_device())
        if dtype == "auto":
            dtype = "bfloat16" if computes_in_bfloat16(place) else "float32"
        base, sr = load_model(manifest, place, getattr(torch, dtype))
        manifest.check_tuned()
        check_encoder(manifest)
        evaluator = Evaluator(base, sr, NoiseSchedule.from_config(manifest.config.schedule))
        return cls(manifest, evaluator, place)

    def release(self) -> None:
        """Free the memory of the weights and of the CUDA graphs, while no program runs. The pipeline cannot be used any
        more."""
        self.evaluator.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        release_freed_memory()

    def run(
        self,
        request: ClipRequest,
        on_progress: Callable[[StepProgress], None] = lambda _: None,
        on_part: Callable[[ClipPart], None] | None = None,
    ) -> Clip:
        """Make one clip; the same request gives the same clip. `on_progress` is called after every step, and what it
        raises ends the run. `on_part`: see `program`. Raises RequestError for what this model cannot do."""
        made = drive(self.program(request, on_progress, on_part), self.evaluator)
        assert isinstance(made, Clip)
        return made

    def stream(
        self, request: ClipRequest, on_progress: Callable[[StepProgress], None] = lambda _: None
    ) -> Generator[ClipPart, None, Clip]:
        """Like `run`, but yields the clip in parts, as they are ready; returns it without its frames."""
        parts: deque[ClipPart] = deque()
        program = self.program(request, on_progress, parts.append)
        try:
            asked = next(program)
            while True:
                asked = program.send(evaluate(asked, self.evaluator))
                while parts:
                    yield parts.popleft()
        except StopIteration as stop:
            yield from parts
            made = stop.value
        assert isinstance(made, Clip)
        return made

    def program(
        self,
        request: ClipRequest,
        on_progress: Callable[[StepProgress], None] = lambda _: None,
        on_part: Callable[[ClipPart], None] | None = None,
    ) -> Program:
        """Like `run`, as a generator that yields every evaluation and returns the clip.

        With `on_part` the parts of the clip are passed to it as they are ready, and the clip is returned without its
        frames.
        """
        config = self.manifest.config
        params = request.params.resolve(request.kind, self.manifest)
        section = self._section(request)
        length = clip_of(params.duration, config.clip)
        if isinstance(request.condition, EditCondition):
            length = request.condition.length(config.clip)
        assert params.steps is not None
        given = self._given(request, length)
        prompt = encode_prompt(params, self.device)
        base = BaseStage(
            self.manifest, self.schedule, self.device, request.kind, params, length, given, section, prompt
        )
        parts = groups(length.frames, config.clip.frames)
        forwards = step_forwards(self.schedule, self.manifest.text, params)
        stages = {"base": Stage(params.steps, base.windows.most, base.rounds, forwards)}
        if params.super_resolution and (section is None or "video" in section.makes):
            enlarges = [group for group in parts if section is None or section.new_frames(group)]
            stages["sr"] = Stage(len(enlarges) * (params.sr_steps or 0))
        stream = RandomStream(params.seed, request.index)
        report = Reporter(stages, self._window_seconds, on_progress)

        latents = yield from base.program(stream, report)
        audio = latents.audio[0, :, : length.samples].float().clamp(-1, 1).cpu() if latents.audio is not None else None
        if audio is not None and section is not None:
            audio = section.keep_sound(audio)
        video = latents.video[0, : length.frames] if latents.video is not None else None
        del latents
        if length.frames > config.clip.frames:
            release_freed_memory()  # what the solver needed of a long state would lie unused beside super-resolution
        enlarged = None
        if params.super_resolution and video is not None:
            assert self.evaluator.sr is not None
            seen = to_uint8(base.upright(video[preview_frames(length.frames)])).cpu()
            solvers = self.manifest.tuned.sr if self.manifest.tuned is not None else {}
            enlarged = SuperResolution(
                self.evaluator.sr, self.schedule, solvers, params, stream, report, seen, length.frames
            )
        made: list[Tensor] = []
        for group in parts:
            frames = None
            if video is not None:
                frames = base.upright(video[group.start : group.stop])
                if enlarged is not None:
                    wanted = section.new_frames(group) if section is not None else None
                    frames = yield from enlarged.enlarge(frames, group, wanted)
                frames = to_uint8(frames).cpu()
                if section is not None and enlarged is None:
                    frames = section.keep_frames(frames, group)
            if on_part is not None:
                on_part(ClipPart(group.start, frames, _sound_of(group, audio, length)))
            elif frames is not None:
                made.append(frames)
        return Clip(
            frames=torch.cat(made) if made else None,
            fps=length.fps,
            audio=audio,
            sample_rate=length.sample_rate,
            timings=report.timings,
            borders=tuple(base.windows.borders(report.starts)),
        )

    def _section(self, request: ClipRequest) -> Section | None:
        if request.kind != "edit":
            return None
        if not isinstance(request.condition, EditCondition):
            raise RequestError("condition", "an edit needs an EditCondition")
        request.condition.check(self.manifest.config.clip, request.params.duration)
        return Section(request.condition, self.manifest.config.clip, self.device, self.manifest.mirrored)

    def _given(self, request: ClipRequest, length: ClipSpec) -> Given | None:
        if request.kind not in GIVEN:
            return None
        assert not isinstance(request.condition, EditCondition)
        value = check(request.condition, request.kind, length).to(self.device)
        return Given(GIVEN[request.kind], value, self.manifest.config.clip, self.manifest.mirrored)


def _sound_of(group: range, audio: Tensor | None, clip: ClipSpec) -> Tensor | None:
    if audio is None:
        return None
    return audio[:, group.start * clip.sample_rate // clip.fps : group.stop * clip.sample_rate // clip.fps]


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32: on GPUs, and on CPUs with instructions for it."""
    if device.type != "cpu":
        return device.type == "cuda"
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
