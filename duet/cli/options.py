"""Options that several commands share, with the names and limits of the API. Each dataclass is one parameter of a
command; its fields are the options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter, Token
from cyclopts.validators import Number

from duet.cli.exit_status import usage_error
from model import request as limits
from model.media import mix_levels as levels

if TYPE_CHECKING:
    from duet.client import Duet

DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("float32", "bfloat16", "float16")
PRIORITIES = ("low", "normal", "high")

CLIP = "The clip"
SERVER = "The server"
RESULT = "The result"


def option(help: str, *names: str, **rest: Any) -> Parameter:
    """An option with this help text, to which the limits of a Number are added. `names` replace the field's name."""
    return Parameter(name=names or None, help=help + _limits(rest.get("validator")), **({"negative": ()} | rest))


def _limits(validator: object) -> str:
    if not isinstance(validator, Number):
        return ""
    bounds = {"above": validator.gt, "at least": validator.gte, "at most": validator.lte}
    return f" [{', '.join(f'{word} {bound}' for word, bound in bounds.items() if bound is not None)}]"


def within(least: float, most: float | None = None) -> Number:
    """Accepts `least` … `most`."""
    return Number(gte=least, lte=most)


@Parameter(name="*")
@dataclass(frozen=True)
class ServerAddress:
    """The server to use."""

    url: Annotated[str, option("URL of the server.", group=SERVER, env_var="DUET_URL", metavar="URL")] = (
        "http://127.0.0.1:8000"
    )
    key: Annotated[str | None, option("API key, if the server requires one.", group=SERVER, env_var="DUET_KEY")] = None


@Parameter(name="*")
@dataclass(frozen=True)
class ServerOptions(ServerAddress):
    """The server to use, and the format of the output."""

    json: Annotated[bool, option("Print JSON on standard output, and nothing else.", group=RESULT)] = False

    def connect(self) -> Duet:
        """A client of the server. Ends the command (exit status 2) if the URL or the key is malformed."""
        from duet.client import Duet, RetryPolicy

        try:
            return Duet(self.url, self.key, RetryPolicy((0.2, 0.5, 1.0)))
        except ValueError as error:
            raise usage_error("--url or --key", str(error)) from error


def _words(kind: Any, value: Any) -> None:
    """Raises ValueError for words that no model takes."""
    limits.clean_prompt(value)


@Parameter(name="*", group=CLIP)
@dataclass(frozen=True)
class SamplingOptions:
    """Parameters of every kind of job. None selects the model's default."""

    model: Annotated[str | None, option("A model of the server, see `duet models`; default: the server's choice.")] = (
        None
    )
    seed: Annotated[
        int | None,
        option("The same seed gives the same clip; default: random.", validator=within(0, limits.MAX_SEED)),
    ] = None
    num_outputs: Annotated[
        int | None,
        option("Number of clips; default 1.", "--num-outputs", "-n", validator=within(1, limits.MAX_OUTPUTS)),
    ] = None
    quality: Annotated[
        str | None,
        option("Sets samplers and steps that are not given; default best.", choices=tuple(limits.QUALITIES)),
    ] = None
    sampler: Annotated[str | None, option("Sampler; default dpmpp_2m.", choices=(*limits.SAMPLERS, limits.TUNED))] = (
        None
    )
    steps: Annotated[
        int | None,
        option("Sampling steps; default 20, balanced 10, fast 6.", validator=within(1, limits.MAX_STEPS)),
    ] = None
    spacing: Annotated[str | None, option("Spacing of the steps; default log_snr.", choices=limits.SPACINGS)] = None
    order: Annotated[int | None, option("Order of dpm_solver; default 3.", validator=within(1, limits.MAX_ORDER))] = (
        None
    )
    eta: Annotated[
        float | None,
        option("Noise of ddim: 0 is deterministic, 1 equals ddpm; default 0.", validator=within(0, 1)),
    ] = None
    guidance: Annotated[
        str | None,
        option("How the upload guides the result; default: the model's best method.", choices=limits.GUIDANCE),
    ] = None
    guidance_scale: Annotated[
        float | None,
        option(
            "Strength of the guidance; default: depends on the method.", validator=within(0, limits.MAX_GUIDANCE_SCALE)
        ),
    ] = None
    prompt: Annotated[
        str | None,
        option("What the clip shows and sounds like, if the model knows words (`duet models`).", validator=_words),
    ] = None
    negative_prompt: Annotated[
        str | None, option("With --prompt, what the clip moves away from.", validator=_words)
    ] = None
    prompt_scale: Annotated[
        float | None,
        option(
            "With --prompt, how strongly it guides; default: the model's.", validator=within(0, limits.MAX_PROMPT_SCALE)
        ),
    ] = None


@Parameter(name="*", group=CLIP)
@dataclass(frozen=True)
class LengthOptions:
    """Length of the clip."""

    duration: Annotated[
        float | None,
        option(
            "Seconds of the clip; default: the file from --start on, or the model's own duration.",
            validator=within(limits.MIN_DURATION, limits.MAX_DURATION),
        ),
    ] = None


@Parameter(name="*", group=CLIP)
@dataclass(frozen=True)
class BestOptions:
    """Which of several clips to keep."""

    keep: Annotated[
        int | None,
        option("Number of clips to keep, the best first; default: all.", validator=within(1, limits.MAX_OUTPUTS)),
    ] = None
    rank_by: Annotated[
        str | None,
        option(
            "With --keep, the score that decides; default sync. sync: share of onsets heard and changes of motion seen "
            "within a frame of each other; av_align: the same for any motion; lag: seconds by which the sound is late.",
            choices=limits.RANKINGS,
        ),
    ] = None


@Parameter(name="*", group=CLIP)
@dataclass(frozen=True)
class FrameOptions:
    """Parameters of jobs that generate frames."""

    super_resolution: Annotated[
        bool | None,
        option("Enlarge the frames; default: if the model can.", negative="--no-super-resolution"),
    ] = None
    sr_sampler: Annotated[
        str | None,
        option("Sampler of the super-resolution; default dpmpp_2m.", choices=(*limits.SR_SAMPLERS, limits.TUNED)),
    ] = None
    sr_steps: Annotated[
        int | None,
        option(
            "Steps of the super-resolution; default 8, balanced 4, fast 3; 25 with ddim.",
            validator=within(1, limits.MAX_SR_STEPS),
        ),
    ] = None
    sr_start: Annotated[
        int | None,
        option(
            "With dpmpp_2m, the diffusion time at which super-resolution starts from the noised frame; default the "
            "noisiest, 999 in most models.",
            validator=within(1, limits.MAX_SR_START),
        ),
    ] = None


@Parameter(name="*", group=CLIP)
@dataclass(frozen=True)
class UploadOptions:
    """Parameters of jobs with an upload."""

    start: Annotated[
        float | None, option("Start of the used part of the file, in seconds; default 0.", validator=within(0))
    ] = None


def _mix(kind: Any, tokens: Sequence[Token]) -> str | dict[str, float]:
    """`under`, or `own=-6,new=0`. Raises ValueError."""
    text = tokens[0].value
    if "=" not in text:
        if text not in levels.MODES:
            raise ValueError(f"must be one of {', '.join(levels.MODES)}, or own=DB,new=DB; got {text!r}")
        return text
    gains = {name.strip(): float(value) for name, _, value in (each.partition("=") for each in text.split(","))}
    within_limits = all(levels.MIN_GAIN <= gain <= levels.MAX_GAIN for gain in gains.values())
    if set(gains) != {"own", "new"} or not within_limits:
        raise ValueError(
            f"needs both gains, {levels.MIN_GAIN:g} … {levels.MAX_GAIN:g} dB, as own=-6,new=0; got {text!r}"
        )
    return gains


@Parameter(name="*", group=CLIP)
@dataclass(frozen=True)
class MixOptions:
    """What becomes of the upload's own sound."""

    mix: Annotated[
        Any,
        option(
            "The upload's own sound: replace (it is left out, the default), under (the new sound lies 12 LU below it), "
            "over (above it), or gains in dB.",
            converter=_mix,
            metavar="replace|under|over|own=DB,new=DB",
        ),
    ] = None
    loudness: Annotated[
        float | None,
        option(
            "Loudness of the result in LUFS; default: that of the upload's own sound.",
            validator=within(levels.MIN_LOUDNESS, levels.MAX_LOUDNESS),
        ),
    ] = None
    true_peak: Annotated[
        float | None,
        option(
            "Limit of the true peak in dBTP; default -1 for a mix.",
            validator=within(levels.MIN_TRUE_PEAK, levels.MAX_TRUE_PEAK),
        ),
    ] = None


@Parameter(name="*", group=SERVER)
@dataclass(frozen=True)
class JobOptions:
    """How a server handles the job. With `local` the clip is made without a server."""

    priority: Annotated[
        str | None, option("Jobs of higher priority run first; default normal.", choices=PRIORITIES)
    ] = None
    metadata: Annotated[list[str] | None, option("Stored with the job; may be repeated.", metavar="KEY=VALUE")] = None
    webhook: Annotated[str | None, option("URL that the server notifies when the job ends.", metavar="URL")] = None
    local: Annotated[bool, option("Make the clip in this process, without a server.")] = False

    def params(self) -> dict[str, Any]:
        """Parameters of the API. Ends the command (exit status 2) for metadata that is not KEY=VALUE."""
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
class OutputOptions:
    """Where the clips are written."""

    output: Annotated[
        Path | None,
        option(
            "An .mp4 file, a .wav file for the sound alone, or a folder. Further clips get -1, -2 … before the dot.",
            "--output",
            "-o",
        ),
    ] = None
    all_files: Annotated[bool, option("Also write the sound, pictures and manifest of each clip.", "--all")] = False
    force: Annotated[bool, option("Replace existing files.", "--force", "-f")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class ClipOptions:
    """Options of every command that makes clips."""

    sampling: SamplingOptions = SamplingOptions()
    output: OutputOptions = OutputOptions()
    server: ServerOptions = ServerOptions()
    job: JobOptions = JobOptions()

    def params(
        self, *further: BestOptions | FrameOptions | LengthOptions | UploadOptions | MixOptions
    ) -> dict[str, Any]:
        """The sampling parameters that were given, and those in `further`."""
        return {
            name: value
            for group in (self.sampling, *further)
            for name, value in asdict(group).items()
            if value is not None
        }


CLIP_OPTIONS, BEST, FRAMES, LENGTH, UPLOAD, MIX, OUTPUT, CONNECTION, ADDRESS = (
    ClipOptions(),
    BestOptions(),
    FrameOptions(),
    LengthOptions(),
    UploadOptions(),
    MixOptions(),
    OutputOptions(),
    ServerOptions(),
    ServerAddress(),
)
"""Defaults of the commands' parameters."""
