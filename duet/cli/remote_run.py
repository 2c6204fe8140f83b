"""Makes clips with a server: submits the job, follows it, saves its files. Ctrl-C cancels the job."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from duet.cli.exit_status import FAILED, INTERRUPTED, fail
from duet.cli.job_spec import JobSpec
from duet.cli.output_files import OutputFiles
from duet.cli.progress import ProgressDisplay
from duet.client import Duet, DuetError, Job, JobCanceled, JobFailed, Refused


class NoResult(Exception):
    """The job ended without a result. `job` is the server's JSON."""

    def __init__(self, job: dict[str, Any], message: str) -> None:
        super().__init__(message)
        self.job = job


def make(duet: Duet, spec: JobSpec, files: OutputFiles, progress: ProgressDisplay) -> tuple[dict[str, Any], list[Path]]:
    """The job as JSON, and the files written. Raises NoResult, DuetError, and OSError for a file."""
    _check_model(duet, spec)
    job: Job | None = None
    try:
        with _Submission(progress).deferring_ctrl_c() as submission:
            given = {"on_upload": submission.uploaded, "mask": spec.mask}
            job = duet.submit(spec.kind, spec.params | given, spec.source)
        progress.say(f"{job.id} accepted, seed {job.seed}")
        if notice := _notice(job):
            progress.say(notice)
        show(job, progress)
        job.wait(lambda news: show(news, progress))
        indices = spec.indices if spec.only is not None else tuple(output.index for output in job.outputs)
        return job.data, save(job, indices, files.for_seed(job.seed), progress)
    except (JobFailed, JobCanceled) as error:
        assert job is not None
        raise NoResult(job.data, str(error)) from error
    except KeyboardInterrupt as error:
        if job is None:
            raise fail(INTERRUPTED, "Interrupted before the job was submitted.") from error
        progress.say(f"Canceling {job.id} … (press Ctrl-C again to exit at once)")
        raise fail(INTERRUPTED, _cancel(job)) from error


def show(job: Job, progress: ProgressDisplay) -> None:
    """Show the state of the job."""
    if job.status == "queued":
        progress.waiting(job.queue_position, job.waiting_for["message"] if job.waiting_for else None)
    elif job.stage is not None and not job.ended:
        progress.step(job.stage, job.step or 0, job.total_steps or 0, job.progress, job.eta_seconds)


def save(job: Job, indices: tuple[int, ...], files: OutputFiles, progress: ProgressDisplay) -> list[Path]:
    """Save the files of these outputs. Ends the command if one exists and must not be replaced."""
    urls = {output.index: output.files for output in job.outputs}
    files.check(len(indices), urls[indices[0]])
    saved = []
    progress.phase("saving")
    for place, index in enumerate(indices):
        for name, path in files.paths(place, urls[index]).items():
            saved.append(job.save(path, index, name))
    return saved


def _notice(job: Job) -> str | None:
    """Why the rest of a longer upload is not used."""
    upload = job.data.get("input") or {}
    return upload.get("used", {}).get("notice")  # older servers have none


def _check_model(duet: Duet, spec: JobSpec) -> None:
    """End the command if the weights of the server's model are not those that made the clip."""
    if spec.weights is None:
        return
    name = spec.params["model"]
    found = next((model for model in duet.models() if model.name == name), None)
    if found is not None:  # otherwise the server refuses the job with an explanation
        try:
            spec.check_weights(name, found.weights_hash)
        except ValueError as error:
            raise fail(FAILED, f"The server cannot make this clip again: {error}.") from error


def _cancel(job: Job) -> str:
    """Cancel the job; return a message about the outcome."""
    try:
        job.cancel()
    except Refused as refused:
        if refused.code != "already_ended":
            return f"{job.id} may still be running: {refused}"
        return f"{job.id} has already ended; `duet save {job.id}` saves its clips."
    except DuetError as error:
        return f"{job.id} may still be running: {error}"
    except KeyboardInterrupt:
        return f"{job.id} may still be running. `duet cancel {job.id}` stops it."
    return f"{job.id} is canceled." if job.ended else f"{job.id} stops within a step."


class _Submission:
    """Handles Ctrl-C during submission. Before the request is complete there is no job, and the command ends. After
    that it waits for the response with the job's id. A second Ctrl-C always ends the command."""

    def __init__(self, progress: ProgressDisplay) -> None:
        self._progress = progress
        self._complete = True
        self._interrupted = False

    def uploaded(self, sent: int, total: int) -> None:
        """Report the bytes of the file sent so far."""
        self._complete = sent >= total
        self._progress.upload(sent, total)

    @contextmanager
    def deferring_ctrl_c(self) -> Iterator[_Submission]:
        """Raises KeyboardInterrupt on exit if Ctrl-C was pressed meanwhile."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            if self._interrupted or not self._complete:
                raise KeyboardInterrupt
            self._interrupted = True

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)
        if self._interrupted:
            raise KeyboardInterrupt
