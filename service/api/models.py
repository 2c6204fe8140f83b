"""`GET /models`: what is served here, as the manifests say it."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from pydantic import BaseModel, Field

from model.checkpoint.manifest import Manifest
from model.networks.config import KINDS
from model.request import SAMPLERS, allowed_guidance
from service.api.auth import CallerHere
from service.api.services import ServicesHere

router = APIRouter(tags=["models"])


class ClipView(BaseModel):
    """The clip a model makes."""

    frames: int = Field(description="how many")
    fps: int = Field(description="frames a second")
    height: int = Field(description="pixels, before super-resolution")
    width: int = Field(description="pixels, before super-resolution")
    sample_rate: int = Field(description="samples of sound a second")
    duration: float = Field(description="seconds")


class Resolution(BaseModel):
    """A size of frames that a model can make."""

    width: int = Field(description="pixels")
    height: int = Field(description="pixels")
    super_resolution: bool = Field(description="whether it is the size with super-resolution, or without")


class ModelView(BaseModel):
    """One model."""

    name: str = Field(description="what the parameter `model` takes")
    default: bool = Field(description="whether it is the model of a request that names none")
    trained: bool = Field(description="false: the networks are random, the clips noise")
    description: str = Field(description="what it is, in words")
    licence: str = Field(description="the licence of its weights")
    clip: ClipView = Field(description="the clip that it makes")
    resolutions: list[Resolution] = Field(description="the sizes of frames that it can make")
    samplers: list[str] = Field(description="what the parameter `sampler` takes")
    guidance: dict[str, list[str]] = Field(description="the methods allowed, by kind of job")
    independent_timesteps: bool = Field(
        description="whether it was trained with a time for each side, which the guidance `clean` needs"
    )
    weights_hash: str = Field(description="SHA-256 that identifies the weights")


class ModelList(BaseModel):
    """All that is served here."""

    data: list[ModelView] = Field(description="the models")


def view(manifest: Manifest, default: str, weights_hash: str) -> ModelView:
    """What `/models` says of one model."""
    clip = manifest.config.clip
    sizes = [Resolution(width=clip.width, height=clip.height, super_resolution=False)]
    if manifest.config.sr is not None:
        height, width = manifest.config.output_size
        sizes.append(Resolution(width=width, height=height, super_resolution=True))
    return ModelView(
        name=manifest.name,
        default=manifest.name == default,
        trained=manifest.trained,
        description=manifest.description,
        licence=manifest.licence,
        clip=ClipView(**asdict(clip), duration=clip.duration),
        resolutions=sizes,
        samplers=list(SAMPLERS),
        guidance={kind: list(allowed_guidance(kind, manifest)) for kind in KINDS},
        independent_timesteps=manifest.independent_timesteps,
        weights_hash=weights_hash,
    )


@router.get("/models")
@router.head("/models", include_in_schema=False)
def models(services: ServicesHere, caller: CallerHere) -> ModelList:
    """Every model that a job can name, and what it can do."""
    catalogue = services.catalogue
    listed = catalogue.manifests.values()
    return ModelList(data=[view(each, catalogue.default, catalogue.weights_hash(each.name)) for each in listed])
