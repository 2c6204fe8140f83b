"""The options of the commands that make clips and of those that talk to a server, named and limited as in the API."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model import request as limits

if TYPE_CHECKING:
    from duet.client import Duet

PRIORITIES = ("low", "normal", "high")

_MODEL = "What is made"
_WHERE = "Where"
_RESULT = "The result"


def one_of(names: tuple[str, ...]) -> dict[str, Any]:
    """Further arguments of an option that takes these names and nothing else."""

    def parse(value: str) -> str:
        if value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}")
        return value

    return {"parser": parse, "metavar": "|".join(names) if len(names) < 4 else "NAME"}


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names)


def _option(help: str, heading: str = _MODEL, *names: str, **rest: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=heading, show_default=False, **rest)


@dataclass(frozen=True)
class At:
    """Which server, with which key, and how the answer is shown."""

    url: Annotated[str, _option("The server.", _WHERE, envvar="DUET_URL", metavar="URL")] = "http://127.0.0.1:8000"
    key: Annotated[str | None, _option("An API key, where the server has keys.", _WHERE, envvar="DUET_KEY")] = None
    json: Annotated[
        bool, _option("Print the answer as JSON on standard output, and nothing else there.", _RESULT, "--json")
    ] = False

    def connect(self) -> Duet:
        """A client of the server. Ends the command (exit status 2) if the address is none."""
        from duet.client import Duet, Patience

        try:
            return Duet(self.url, self.key, Patience((0.2, 0.5, 1.0)))
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--url / --key") from error


@dataclass(frozen=True)
class Sampling:
    """What every job takes; None leaves it to the model."""

    model: Annotated[str | None, _option("A name from `duet models`.")] = None
    seed: Annotated[int | None, _option("Same seed, same clip; drawn where absent.", min=0, max=limits.MAX_SEED)] = None
    num_outputs: Annotated[
        int | None, _option("Clips to make; default 1.", _MODEL, "--num-outputs", "-n", min=1, max=limits.MAX_OUTPUTS)
    ] = None
    sampler: Annotated[
        str | None, _option(f"Default dpmpp_2m; {_listed(limits.SAMPLERS)}.", **one_of(limits.SAMPLERS))
    ] = None
    steps: Annotated[int | None, _option("Of the base network; default 20.", min=1, max=limits.MAX_STEPS)] = None
    spacing: Annotated[str | None, _option("Where the steps lie; default log_snr.", **one_of(limits.SPACINGS))] = None
    order: Annotated[int | None, _option("Of dpm_solver; default 3.", min=1, max=limits.MAX_ORDER)] = None
    eta: Annotated[float | None, _option("Of ddim: 0 without noise, 1 as ddpm; default 0.", min=0, max=1)] = None
    guidance: Annotated[
        str | None,
        _option(
            f"How the given side leads; default the best that the model allows of {_listed(limits.GUIDANCE)}.",
            **one_of(limits.GUIDANCE),
        ),
    ] = None
    guidance_scale: Annotated[
        float | None, _option("How strongly; default that of the method.", min=0, max=limits.MAX_GUIDANCE_SCALE)
    ] = None


@dataclass(frozen=True)
class NewFrames:
    """What jobs take that make frames."""

    super_resolution: Annotated[
        bool | None, _option("Enlarge the frames, or not; default yes where the model can.")
    ] = None
    sr_sampler: Annotated[
        str | None, _option("Of the super-resolution; default dpmpp_2m.", **one_of(limits.SR_SAMPLERS))
    ] = None
    sr_steps: Annotated[
        int | None, _option("Of the super-resolution; default 8, 25 with ddim.", min=1, max=limits.MAX_SR_STEPS)
    ] = None


@dataclass(frozen=True)
class Given:
    """What jobs take that begin with a file."""

    start: Annotated[float | None, _option("Where in the file to begin, in seconds; default 0.", min=0)] = None


@dataclass(frozen=True)
class Handling:
    """What a server does with a job beside making it."""

    priority: Annotated[
        str | None, _option("Jobs of higher priority run first; default normal.", _WHERE, **one_of(PRIORITIES))
    ] = None
    metadata: Annotated[
        list[str] | None, _option("Kept with the job; may be repeated.", _WHERE, metavar="KEY=VALUE")
    ] = None
    webhook: Annotated[str | None, _option("The server reports the job's end there.", _WHERE, metavar="URL")] = None
    local: Annotated[bool, _option("Make it in this process, without any server.", _WHERE, "--local")] = False

    def params(self) -> dict[str, Any]:
        """As the API takes it. Ends the command (exit status 2) for metadata that is no pair."""
        params: dict[str, Any] = {"priority": self.priority}
        if self.metadata:
            pairs = [pair.partition("=") for pair in self.metadata]
            for name, equals, _ in pairs:
                if not (name and equals):
                    raise typer.BadParameter(f"{name!r} is not of the form KEY=VALUE", param_hint="--metadata")
            params["metadata"] = {name: value for name, _, value in pairs}
        if self.webhook:
            params["webhook"] = {"url": self.webhook}
        return {name: value for name, value in params.items() if value is not None}


@dataclass(frozen=True)
class Result:
    """Where the clip is written."""

    output: Annotated[
        Path | None,
        _option(
            "The file to write, .mp4, or .wav for the sound alone; or a folder. Further outputs get -1, -2 … before "
            "the dot.",
            _RESULT,
            "--output",
            "-o",
        ),
    ] = None
    all_files: Annotated[
        bool, _option("Write every file of an output beside it: sound, pictures, manifest.", _RESULT, "--all")
    ] = False
    force: Annotated[bool, _option("Replace files that are there.", _RESULT, "--force", "-f")] = False


def chosen(*groups: Sampling | NewFrames | Given) -> dict[str, Any]:
    """What was given, as the API takes it."""
    return {name: value for group in groups for name, value in asdict(group).items() if value is not None}
