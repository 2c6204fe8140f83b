"""Options that several commands share, named and limited as in the API. Each dataclass is one parameter of a command,
and its fields are the options."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from duet.cli.exit_status import usage_error
from model import request as limits

if TYPE_CHECKING:
    from duet.client import Duet

PRIORITIES = ("low", "normal", "high")

CLIP = "The clip"
SERVER = "The server"
RESULT = "The result"


def option(help: str, *names: str, **rest: Any) -> Parameter:
    """An option of this help text; `names` in place of the one made from the field's name."""
    return Parameter(name=names or None, help=help, **({"negative": ()} | rest))


def within(least: float, most: float | None = None) -> Number:
    """Accepts `least` … `most`."""
    return Number(gte=least, lte=most)


@Parameter(name="*")
@dataclass(frozen=True)
class Connection:
    """Which server, with which key, and how the answer is printed."""

    url: Annotated[str, option("URL of the server.", group=SERVER, env_var="DUET_URL", metavar="URL")] = (
        "http://127.0.0.1:8000"
    )
    key: Annotated[str | None, option("API key, if the server requires one.", group=SERVER, env_var="DUET_KEY")] = None
    json: Annotated[bool, option("Print the answer as JSON on standard output, and nothing else.", group=RESULT)] = (
        False
    )

    def connect(self) -> Duet:
        """A client of the server. Ends the command (exit status 2) if the URL or the key is malformed."""
        from duet.client import Duet, RetryPolicy

        try:
            return Duet(self.url, self.key, RetryPolicy((0.2, 0.5, 1.0)))
        except ValueError as error:
            raise usage_error("--url or --key", str(error)) from error


@Parameter(name="*", group=CLIP)
@dataclass(frozen=True)
class Sampling:
    """Parameters of every kind of job; None leaves the choice to the model."""

    model: Annotated[str | None, option("A name from `duet models`.")] = None
    seed: Annotated[
        int | None, option("Same seed, same clip; random by default.", validator=within(0, limits.MAX_SEED))
    ] = None
    num_outputs: Annotated[
        int | None,
        option("Clips to make; default 1.", "--num-outputs", "-n", validator=within(1, limits.MAX_OUTPUTS)),
    ] = None
    sampler: Annotated[str | None, option("Default dpmpp_2m.", choices=limits.SAMPLERS)] = None
    steps: Annotated[
        int | None, option("Steps of the base network; default 20.", validator=within(1, limits.MAX_STEPS))
    ] = None
    spacing: Annotated[str | None, option("How the steps are spaced; default log_snr.", choices=limits.SPACINGS)] = None
    order: Annotated[int | None, option("Order of dpm_solver; default 3.", validator=within(1, limits.MAX_ORDER))] = (
        None
    )
    eta: Annotated[
        float | None, option("Noise of ddim: 0 is deterministic, 1 equals ddpm; default 0.", validator=within(0, 1))
    ] = None
    guidance: Annotated[
        str | None,
        option(
            "How the uploaded side conditions the new one; default the best that the model allows.",
            choices=limits.GUIDANCE,
        ),
    ] = None
    guidance_scale: Annotated[
        float | None,
        option("Strength of the guidance; default that of the method.", validator=within(0, limits.MAX_GUIDANCE_SCALE)),
    ] = None


@Parameter(name="*", group=CLIP)
@dataclass(frozen=True)
class NewFrames:
    """Parameters of jobs that make frames."""

    super_resolution: Annotated[
        bool | None,
        option("Enlarge the frames; default yes if the model can.", negative="--no-super-resolution"),
    ] = None
    sr_sampler: Annotated[
        str | None, option("Sampler of the super-resolution; default dpmpp_2m.", choices=limits.SR_SAMPLERS)
    ] = None
    sr_steps: Annotated[
        int | None,
        option("Steps of the super-resolution; default 8, 25 with ddim.", validator=within(1, limits.MAX_SR_STEPS)),
    ] = None


@Parameter(name="*", group=CLIP)
@dataclass(frozen=True)
class Upload:
    """Parameters of jobs that start from a file."""

    start: Annotated[
        float | None, option("Where to start in the file, in seconds; default 0.", validator=within(0))
    ] = None


@Parameter(name="*", group=SERVER)
@dataclass(frozen=True)
class Handling:
    """How a server treats the job; `local` makes the clip without a server."""

    priority: Annotated[
        str | None, option("Jobs of higher priority run first; default normal.", choices=PRIORITIES)
    ] = None
    metadata: Annotated[list[str] | None, option("Stored with the job; may be repeated.", metavar="KEY=VALUE")] = None
    webhook: Annotated[str | None, option("URL that the server notifies when the job ends.", metavar="URL")] = None
    local: Annotated[bool, option("Make the clip in this process, without a server.")] = False

    def params(self) -> dict[str, Any]:
        """The fields of the API. Ends the command (exit status 2) for metadata that is not KEY=VALUE."""
        params: dict[str, Any] = {"priority": self.priority}
        if self.metadata:
            pairs = [pair.partition("=") for pair in self.metadata]
            for name, equals, _ in pairs:
                if not (name and equals):
                    raise usage_error("--metadata", f"{name!r} is not of the form KEY=VALUE")
            params["metadata"] = {name: value for name, _, value in pairs}
        if self.webhook:
            params["webhook"] = {"url": self.webhook}
        return {name: value for name, value in params.items() if value is not None}


@Parameter(name="*", group=RESULT)
@dataclass(frozen=True)
class Result:
    """Where the clip is written."""

    output: Annotated[
        Path | None,
        option(
            "File to write: .mp4, or .wav for the sound alone; or a folder. Further outputs get -1, -2 … before the "
            "dot.",
            "--output",
            "-o",
        ),
    ] = None
    all_files: Annotated[
        bool, option("Also write the other files of each output: sound, pictures, manifest.", "--all")
    ] = False
    force: Annotated[bool, option("Replace existing files.", "--force", "-f")] = False


CONNECTION, SAMPLING, NEW_FRAMES, UPLOAD = Connection(), Sampling(), NewFrames(), Upload()
HANDLING, RESULTS = Handling(), Result()
"""Defaults of the commands' parameters."""


def chosen(*groups: Sampling | NewFrames | Upload) -> dict[str, Any]:
    """The options that were given, as fields of the API."""
    return {name: value for group in groups for name, value in asdict(group).items() if value is not None}
