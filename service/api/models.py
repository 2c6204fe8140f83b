"""`GET /models`: the models of this service, from their manifests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict

from fastapi import APIRouter
from pydantic import BaseModel, Field

from model.checkpoint.manifest import Manifest
from model.checkpoint.model_folders import BrokenModel
from model.checkpoint.text_encoding import TextEncoding
from model.networks.config import KINDS
from model.request import QUALITIES, SAMPLERS, TUNED, allowed_guidance, is_divisible
from model.sampling.tuned_solver import TunedSolver
from service.api.auth import AdminHere, CallerHere
from service.api.problems import Problem, responses
from service.api.services import ServicesHere
from service.jobs.connection import StoreUnavailable
from service.jobs.speeds import Speed
from service.log import log

router = APIRouter(tags=["models"])


class FrameSize(BaseModel):
    """The size of a clip's frames."""

    width: int = Field(ge=1, description="pixels")
    height: int = Field(ge=1, description="pixels")


class ClipView(FrameSize):
    """The clips of a model, before super-resolution."""

    frames: int = Field(ge=1, description="number of frames")
    fps: int = Field(ge=1, description="frames per second")
    sample_rate: int = Field(ge=1, description="audio samples per second")
    duration: float = Field(gt=0, description="seconds")


class Resolution(FrameSize):
    """A frame size of a model."""

    super_resolution: bool = Field(description="whether it needs super-resolution")


class SpeedView(BaseModel):
    """Average seconds that recent jobs of one kind took on this service's workers. A job takes about
    `num_outputs · (steps · windows · step + sr_steps · groups · sr_step + files)`; a clip of no more `frames` than the
    model's has one window, another one 2 + ⌈(clip frames − frames − 1) / (frames − 1)⌉; `groups` is ⌈clip frames /
    frames⌉."""

    step: float = Field(
        ge=0,
        description="one step of the base network for one window of an output; with a `prompt` of a scale above 1 "
        "it takes 1 + `text.guided_share` times as long on average, below 1 twice as long",
    )
    sr_step: float | None = Field(
        description="one step of super-resolution for a window's frames; null if no job used it"
    )
    files: float = Field(ge=0, description="writing and storing the files of an output")


class QualityView(BaseModel):
    """Steps of a quality, where none are given."""

    steps: int = Field(ge=1, description="evaluations of the base network")
    sr_steps: int = Field(ge=1, description="evaluations of the super-resolution network")


class TextView(BaseModel):
    """The words that a model knows."""

    encoder: str = Field(description="the text encoder that reads prompts")
    languages: list[str] = Field(description="languages of the prompts that it was trained with (BCP 47)")
    examples: list[str] = Field(description="prompts that it knows well")
    prompt_scale: float = Field(ge=0, description="default of the parameter `prompt_scale`")
    guided_share: float = Field(
        gt=0, le=1, description="share of the noise in which the scale guides; each step there takes two evaluations"
    )


class ModelView(BaseModel):
    """One model."""

    name: str = Field(description="value of the parameter `model`")
    weights_hash: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 that identifies the weights")
    default: bool = Field(description="whether it is used for requests that name no model")
    trained: bool = Field(description="false if the weights are random, so that clips are noise")
    description: str = Field(description="short description")
    licence: str = Field(description="licence of the weights")
    clip: ClipView = Field(description="its clips, if no other duration is asked for")
    max_duration: float = Field(gt=0, description="longest clip of this service, in seconds")
    resolutions: list[Resolution] = Field(description="its frame sizes")
    samplers: list[str] = Field(description="values of the parameter `sampler`")
    qualities: dict[str, QualityView] = Field(description="by value of the parameter `quality`")
    tuned: dict[str, list[int]] = Field(
        description="numbers of steps of the sampler `tuned`, by kind of job and guidance, such as `v2a clean`; `sr`: "
        "those of super-resolution. Where a quality has none, it uses dpmpp_2m"
    )
    distances: dict[str, dict[str, dict[str, float]]] = Field(
        description="where the model is tuned, by kind of job and guidance as in `tuned`, and by sampler and steps, "
        "such as `tuned 6`: the mean distance of a clip from that of the same seed in many steps, as a share of the "
        "deviation of its values, of `video` and `audio`. 0 is the same clip; unrelated ones differ by about 1.4"
    )
    guidance: dict[str, list[str]] = Field(description="allowed guidance methods, by kind of job")
    independent_timesteps: bool = Field(
        description="whether it was trained with a timestep per modality, as the guidance `clean` requires"
    )
    text: TextView | None = Field(
        description="what the parameter `prompt` can say; null if the model knows no words, and takes no prompt"
    )
    speed: dict[str, SpeedView] = Field(
        description="by kind of job; without the kinds of which this service has made none lately"
    )


class ModelList(BaseModel):
    """The models of this service."""

    data: list[ModelView] = Field(description="the models")


class ReloadView(BaseModel):
    """What a reload of the models has changed."""

    added: list[str] = Field(description="names of the models that are new")
    changed: list[str] = Field(description="names of the models whose weights or manifest are others")
    removed: list[str] = Field(
        description="names of the models that are gone: jobs that run are finished, those that wait stay queued for "
        "a worker that has the model"
    )
    generation: int = Field(ge=1, description="number of this reload; all processes follow it")
    workers: int = Field(
        ge=0,
        description="workers that are here now. Each reads the folders of its own machine within seconds, and before "
        "its next job",
    )


def view(
    manifest: Manifest, default: str, weights_hash: str, max_output_s: float, speed: Mapping[str, Speed]
) -> ModelView:
    """The model as `/models` shows it; `max_output_s`: the service's limit, `speed` by kind of job."""
    clip = manifest.config.clip
    solvers = manifest.tuned
    found = {**solvers.base, "sr": solvers.sr} if solvers is not None else {}
    tuned = {name: sorted(each) for name, each in found.items() if each}
    return ModelView(
        name=manifest.name,
        weights_hash=weights_hash,
        default=manifest.name == default,
        trained=manifest.trained,
        description=manifest.description,
        licence=manifest.licence,
        clip=ClipView(**asdict(clip), duration=clip.duration),
        max_duration=max_output_s if is_divisible(clip) else clip.duration,
        resolutions=resolutions(manifest),
        samplers=[*SAMPLERS, TUNED] if tuned else list(SAMPLERS),
        qualities={name: QualityView(steps=each.steps, sr_steps=each.sr_steps) for name, each in QUALITIES.items()},
        tuned=tuned,
        distances={name: _distances(each.values()) for name, each in found.items() if each},
        guidance={kind: list(allowed_guidance(kind, manifest)) for kind in KINDS},
        independent_timesteps=manifest.independent_timesteps,
        text=_text(manifest.text),
        speed={kind: SpeedView(**asdict(each)) for kind, each in speed.items()},
    )


def _distances(solvers: Iterable[TunedSolver]) -> dict[str, dict[str, float]]:
    return {sampler: found for solver in solvers for sampler, found in solver.distances().items()}


def resolutions(manifest: Manifest) -> list[Resolution]:
    """The frame sizes that the model makes."""
    clip = manifest.config.clip
    sizes = [Resolution(width=clip.width, height=clip.height, super_resolution=False)]
    if manifest.config.sr is not None:
        height, width = manifest.config.output_size
        sizes.append(Resolution(width=width, height=height, super_resolution=True))
    return sizes


def _text(text: TextEncoding | None) -> TextView | None:
    if text is None:
        return None
    return TextView(
        encoder=text.encoder,
        languages=list(text.languages),
        examples=list(text.examples),
        prompt_scale=text.scale,
        guided_share=text.guided_share,
    )


@router.get("/models")
@router.head("/models", include_in_schema=False)
def models(services: ServicesHere, caller: CallerHere) -> ModelList:
    """The models that jobs can use, with their capabilities. One whose weights cannot be read is left out."""
    services.follow_models()
    catalogue, longest = services.catalogue, services.settings.max_output_s
    readable = catalogue.readable()
    try:
        speeds = services.store.speeds.of([manifest.name for manifest, _ in readable])
    except StoreUnavailable:
        speeds = {}  # the models are known without Redis
    return ModelList(
        data=[
            view(manifest, catalogue.default, weights_hash, longest, speeds.get(manifest.name, {}))
            for manifest, weights_hash in readable
        ]
    )


@router.post("/models/reload", responses=responses(403, 409, 503))
def reload(services: ServicesHere, caller: AdminHere) -> ReloadView:
    """Read the folders of models again, without a restart. With API keys only for those that `DUET_ADMIN_KEYS` names.

    Everything is checked first. If a folder cannot be taken, the answer is 409 with its name and the reason, and all
    models stay as they are.
    """
    try:
        with services.catalogue.reloading():
            reading = services.catalogue.read()
            # Redis is asked before anything is taken: if it is away, no process changes anything.
            workers = len(services.store.workers())
            generation = services.generation.advance()
            changes = services.catalogue.take(reading, generation)
    except BrokenModel as error:
        log.warning("models not reloaded: they stay as they are", folder=error.folder, reason=error.reason)
        detail = f"Nothing has changed: {error}."
        raise Problem(409, "models_refused", detail, folder=error.folder, reason=error.reason) from error
    return ReloadView(
        added=list(changes.added),
        changed=list(changes.changed),
        removed=list(changes.removed),
        generation=generation,
        workers=workers,
    )
