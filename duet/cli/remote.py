"""A clip made by a server: submit, follow, save. Ctrl-C cancels the job there."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from duet.cli.destination import Destination
from duet.cli.failures import FAILED, INTERRUPTED, end
from duet.cli.progress import Shown
from duet.cli.replay import Order
from duet.client import Duet, DuetError, Job, JobCanceled, JobFailed, Refused


class NotMade(Exception):
    """The job ended without a result; `job` is all that the server says of it."""

    def __init__(self, job: dict[str, Any], message: str) -> None:
        super().__init__(message)
        self.job = job


def make(duet: Duet, order: Order, destination: Destination, shown: Shown) -> tuple[dict[str, Any], list[Path]]:
    """The job as the server gives it, and the files written. Raises NotMade; DuetError; OSError for a file."""
    _check_model(duet, order)
    job: Job | None = None
    try:
        with _Submission(shown).patient() as submission:
            job = duet.submit(order.kind, order.params, order.source, on_upload=submission.uploaded)
        shown.say(f"{job.id} is accepted, seed {job.seed}")
        show(job, shown)
        job.wait(lambda news: show(news, shown))
        return job.data, save(job, order.indices, destination.for_seed(job.seed), shown)
    except (JobFailed, JobCanceled) as error:
        assert job is not None
        raise NotMade(job.data, str(error)) from error
    except KeyboardInterrupt as error:
        if job is None:
            raise end(INTERRUPTED, "Interrupted before the server had it: there is no job.") from error
        shown.say(f"Canceling {job.id} … (Ctrl-C again leaves at once)")
        raise end(INTERRUPTED, _cancel(job)) from error


def show(job: Job, shown: Shown) -> None:
    """Where the job is."""
    if job.status == "queued":
        shown.waiting(job.queue_position)
    elif job.stage is not None and not job.ended:
        shown.step(job.stage, job.step or 0, job.total_steps or 0, job.progress, job.eta_seconds)


def save(job: Job, indices: tuple[int, ...], destination: Destination, shown: Shown) -> list[Path]:
    """Write the files of these outputs. Ends the command if one is there and must not be replaced."""
    files = {output.index: output.files for output in job.outputs}
    destination.check(len(indices), files[indices[0]])
    saved = []
    shown.phase("saving")
    for place, index in enumerate(indices):
        for name, path in destination.files(place, files[index]).items():
            saved.append(job.save(path, index, name))
    return saved


def _check_model(duet: Duet, order: Order) -> None:
    """End the command if the server has another model than the clip was made with."""
    if order.weights is None:
        return
    name = order.params["model"]
    found = next((model for model in duet.models() if model.name == name), None)
    if found is not None:  # the server itself says what is wrong with a model that it does not have
        try:
            order.check_weights(name, found.weights_hash)
        except ValueError as error:
            raise end(FAILED, f"The server cannot make this clip again: {error}.") from error


def _cancel(job: Job) -> str:
    """Cancel the job; return what became of it."""
    try:
        job.cancel()
    except Refused as refused:
        if refused.code != "already_ended":
            return f"{job.id} may go on: {refused}"
        return f"{job.id} has ended already; `duet save {job.id}` fetches what it made."
    except DuetError as error:
        return f"{job.id} may go on: {error}"
    except KeyboardInterrupt:
        return f"Left at once: {job.id} may go on. `duet cancel {job.id}` stops it."
    return f"{job.id} is canceled." if job.ended else f"{job.id} stops within a step."


class _Submission:
    """Ctrl-C while a job is submitted: before the request is sent whole it ends the command, for then there is no job;
    afterwards it waits for the answer, which tells the job's id. A second one ends the command in any case."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._whole = True
        self._interrupted = False

    def uploaded(self, sent: int, total: int) -> None:
        """So much of the file is sent."""
        self._whole = sent >= total
        self._shown.upload(sent, total)

    @contextmanager
    def patient(self) -> Iterator[_Submission]:
        """Raises KeyboardInterrupt at its end if that was wanted meanwhile."""

        def interrupt(number: int, frame: FrameType | None) -> None:
            if self._interrupted or not self._whole:
                raise KeyboardInterrupt
            self._interrupted = True

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)
        if self._interrupted:
            raise KeyboardInterrupt
