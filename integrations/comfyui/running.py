"""Runs a job of Duet inside a node: progress and previews in the node, and cancellation with the queue."""

from __future__ import annotations

import base64
import io
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import comfy.model_management
import comfy.utils
from PIL import Image, ImageDraw

from duet import Duet
from duet.client import DuetError
from duet.client.blocking import Job
from duet.client.events import Event

URL = "http://127.0.0.1:8000"
"""The server unless DUET_URL names another."""

PROGRESS = 1000
"""Full length of the progress bar."""

PREVIEW_SIZE = 512
"""Longest side of a preview in pixels."""

POLL_SECONDS = 0.1
"""How often a waiting node checks whether the user has interrupted the queue."""


def connect() -> Duet:
    """A client of the server of DUET_URL, with the key of DUET_KEY.

    Both come from the environment only: people share workflows, so these must neither contain a key nor choose the
    server that receives it.
    """
    return Duet(os.environ.get("DUET_URL") or URL, os.environ.get("DUET_KEY") or None)


def run(submit: Callable[[Callable[[int, int], None]], Job]) -> Job:
    """Submit a job and wait for its end; return it completed.

    `submit` gets the callback `on_upload`. Raises what ComfyUI raises if the user interrupts the queue, after the job
    has been canceled, and DuetError if the job fails or is refused.
    """
    check_interrupted()
    job = submit(_on_upload)
    events: queue.SimpleQueue[Event | Exception | None] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(job, events), name=f"events of {job.id}", daemon=True)
    reader.start()
    try:
        _follow(events)
    except BaseException:
        with suppress(DuetError):  # it has ended, or the server is gone
            job.cancel()
        raise
    finally:
        reader.join(10)
    job.refresh().check()
    return job


def check_interrupted() -> None:
    """Raise ComfyUI's InterruptProcessingException if the user has interrupted the queue."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def _on_upload(sent: int, total: int) -> None:
    # Once all is sent there may be a job, which only its id can cancel.
    if sent < total:
        check_interrupted()


def _read(job: Job, events: queue.SimpleQueue[Event | Exception | None]) -> None:
    try:
        for event in job.events():
            events.put(event)
        events.put(None)
    except Exception as error:
        events.put(error)


def _follow(events: queue.SimpleQueue[Event | Exception | None]) -> None:
    bar = comfy.utils.ProgressBar(PROGRESS)
    progress = 0
    while True:
        check_interrupted()
        try:
            event = events.get(timeout=POLL_SECONDS)
        except queue.Empty:
            continue
        if event is None:
            return
        if isinstance(event, Exception):
            raise event
        progress = round(PROGRESS * event.data.get("progress", progress / PROGRESS))
        picture = preview(event.data) if event.name == "preview" else None
        bar.update_absolute(progress, PROGRESS, None if picture is None else ("JPEG", picture, PREVIEW_SIZE))


def preview(data: dict[str, Any]) -> Image.Image | None:
    """Picture of a `preview` event: the frames side by side, or the waveform where only sound is made."""
    if sprite := data.get("sprite"):
        return Image.open(io.BytesIO(base64.b64decode(sprite["url"].partition(",")[2]))).convert("RGB")
    if waveform := data.get("waveform"):
        picture = Image.new("RGB", (2 * len(waveform), 128), "black")
        draw = ImageDraw.Draw(picture)
        for place, (low, high) in enumerate(waveform):
            draw.line((2 * place, 64 - 63 * high, 2 * place, 64 - 63 * low), "white")
        return picture
    return None
