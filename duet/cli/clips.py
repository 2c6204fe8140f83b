"""`duet generate`, `duet v2a`, `duet a2v`: make clips, with a server or in this process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.types import ExistingFile

from duet.cli.exit_status import FAILED, INTERRUPTED, USAGE, fail, server_errors, usage_error
from duet.cli.job_spec import JobSpec, spec_from_manifest
from duet.cli.options import (
    BEST,
    CLIP,
    CLIP_OPTIONS,
    FRAMES,
    LENGTH,
    MIX,
    UPLOAD,
    BestOptions,
    ClipOptions,
    FrameOptions,
    LengthOptions,
    MixOptions,
    ServerOptions,
    UploadOptions,
)
from duet.cli.output import echo, echo_json
from duet.cli.output_files import OutputFiles
from duet.cli.progress import ProgressDisplay


def generate(
    file: Annotated[ExistingFile | None, Parameter(help="With --from: the file that the clip was made from.")] = None,
    /,
    *,
    manifest: Annotated[
        ExistingFile | None,
        Parameter(name="--from", group=CLIP, help="Make the clip of this manifest.json again, whatever its kind."),
    ] = None,
    mask: Annotated[
        ExistingFile | None, Parameter(group=CLIP, help="With --from: the mask that the clip was made with.")
    ] = None,
    options: ClipOptions = CLIP_OPTIONS,
    frames: FrameOptions = FRAMES,
    length: LengthOptions = LENGTH,
    best: BestOptions = BEST,
) -> None:
    """Generate a video with sound; prints its path."""
    params = options.params(frames, length, best)
    if manifest is None:
        if file is not None:
            raise usage_error("FILE", "only v2a, a2v, edit and --from take a file")
        make(JobSpec("generate", params), "generate-{seed}.mp4", options)
        return
    if params:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in params)
        raise usage_error("--from", f"the manifest holds all parameters: leave out {names}")
    spec = spec_from_manifest(manifest, file, mask)
    stem = file.stem if file else "generate"
    make(spec, f"{stem}-{spec.kind}-{spec.params['seed']}.mp4", options)


def v2a(
    file: Annotated[ExistingFile, Parameter(help="A video.")],
    /,
    *,
    options: ClipOptions = CLIP_OPTIONS,
    upload: UploadOptions = UPLOAD,
    mix: MixOptions = MIX,
    length: LengthOptions = LENGTH,
    best: BestOptions = BEST,
) -> None:
    """Generate a soundtrack for a video, and keep its frames; prints the path of the new video."""
    make(JobSpec("v2a", options.params(upload, mix, length, best), file), f"{file.stem}-v2a.mp4", options)


def a2v(
    file: Annotated[ExistingFile, Parameter(help="A sound, or a video with sound.")],
    /,
    *,
    options: ClipOptions = CLIP_OPTIONS,
    frames: FrameOptions = FRAMES,
    upload: UploadOptions = UPLOAD,
    length: LengthOptions = LENGTH,
    best: BestOptions = BEST,
) -> None:
    """Generate a video for a sound, or for the sound of a video; prints its path."""
    make(JobSpec("a2v", options.params(frames, upload, length, best), file), f"{file.stem}-a2v.mp4", options)


def make(spec: JobSpec, default: str, options: ClipOptions) -> None:
    """Make and write the clips; print their paths, or the job as JSON. `default` is the file name without -o."""
    params = options.job.params()
    if options.job.local and params:
        raise usage_error("--local", f"{', '.join(params)} can only be used with a server")
    files = OutputFiles.choose(options.output, default)
    if "seed" in spec.params:
        files = files.for_seed(spec.params["seed"])
    files.check(spec.saved)
    with ProgressDisplay() as progress, server_errors():
        if options.job.local:
            job, saved = _make_locally(spec, files, progress)
        else:
            job, saved = _make_remotely(replace(spec, params=spec.params | params), files, options.server, progress)
        for line in score_lines(job):
            progress.say(line)
    echo_saved(job, saved, options.server.json)


def score_lines(job: dict[str, Any]) -> list[str]:
    """How well sound and picture of each output agree, a line each; with `keep` also which were kept, and the others.
    No line for an output without any score or a reason why it has none."""
    dropped = job.get("dropped", [])
    lines = []
    if dropped:
        kept, others = (", ".join(str(each["index"]) for each in outputs) for outputs in (job["outputs"], dropped))
        lines.append(f"By {job['params']['rank_by']}, best first: kept outputs {kept}; not kept {others}.")
    for each in (*job["outputs"], *dropped):
        scores, reason = each.get("scores", {}), each.get("scores_reason")  # older servers have none
        if reason is not None or any(value is not None for value in scores.values()):
            lines.append(f"output {each['index']}: {_in_words(scores)}{f' ({reason})' if reason else ''}")
    return lines


def _in_words(scores: dict[str, float | None]) -> str:
    """`sync 0.80, av_align 0.50, lag -0.10 s`; `none` for what cannot be said."""
    if all(value is None for value in scores.values()):
        return "no scores"
    said = {name: "none" if value is None else f"{value:.2f}" for name, value in scores.items()}
    said |= {"lag": f"{said['lag']} s"} if scores.get("lag") is not None else {}
    return ", ".join(f"{name} {value}" for name, value in said.items())


def echo_saved(job: dict[str, Any], saved: list[Path], as_json: bool) -> None:
    """Print the paths of the files written, one per line, or the job as JSON with these paths."""
    if as_json:
        echo_json(job | {"saved": [str(path) for path in saved]})
    else:
        for path in saved:
            echo(path)


def _make_remotely(
    spec: JobSpec, files: OutputFiles, server: ServerOptions, progress: ProgressDisplay
) -> tuple[dict[str, Any], list[Path]]:
    from duet.cli import remote_run

    try:
        with server.connect() as duet:
            return remote_run.make(duet, spec, files, progress)
    except remote_run.NoResult as error:
        if server.json:
            echo_saved(error.job, [], as_json=True)
        raise fail(FAILED, str(error)) from error


def _make_locally(spec: JobSpec, files: OutputFiles, progress: ProgressDisplay) -> tuple[dict[str, Any], list[Path]]:
    from duet.cli.local_job import CannotMake, InvalidJob, local_job
    from service.settings import load_settings

    settings = load_settings()
    saved: list[Path] = []
    try:
        job, manifest = local_job(spec, settings)
        files = files.for_seed(job.params.seed)
        if not manifest.trained:
            progress.say(f"The model {manifest.name} is untrained: the clip will be noise.")
        progress.phase("loading")
        from duet.cli import local_run  # torch

        return local_run.make(spec, job, manifest, settings, files, progress, saved), saved
    except InvalidJob as error:
        raise fail(USAGE, str(error)) from error
    except CannotMake as error:
        raise fail(FAILED, str(error)) from error
    except KeyboardInterrupt as error:
        written = f"saved {', '.join(map(str, saved))}" if saved else "no file was written"
        raise fail(INTERRUPTED, f"Interrupted: {written}.") from error
