"""Results of tools: a job as text, as structured content, as links to its files and as embedded media."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from mcp_types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
)

from duet.client import AsyncDuet, AsyncJob

MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".wav": "audio/wav",
    ".webp": "image/webp",
    ".png": "image/png",
    ".json": "application/json",
}
EMBEDDED = ("poster.webp", "video.mp4", "audio.wav")
"""Files that are embedded, in this order, as long as they fit; the sound only of jobs that made nothing else."""

SAVED = ("video.mp4", "audio.wav")


def text(value: str) -> TextContent:
    return TextContent(type="text", text=value)


def failure(message: str) -> CallToolResult:
    """The result of a call that failed, for the model to read."""
    return CallToolResult(content=[text(message)], is_error=True)


def document(value: dict[str, Any]) -> CallToolResult:
    """A JSON object, as text too for clients that read only that."""
    return CallToolResult(content=[text(json.dumps(value, ensure_ascii=False, indent=1))], structured_content=value)


async def job_result(duet: AsyncDuet, job: AsyncJob, embed_bytes: int, folder: Path | None) -> CallToolResult:
    """The job, with links to its files, those saved to `folder`, and media of up to `embed_bytes` bytes together.

    Raises DuetError, and OSError for the folder.
    """
    saved = await _save(job, folder) if folder is not None else {}
    data = _summary(duet, job, saved)
    content: list[ContentBlock] = [text(_words(job, saved))]
    for output in job.outputs:
        content += [
            ResourceLink(
                type="resource_link",
                uri=_url(duet, url),
                name=f"{output.index}-{name}",
                mime_type=MEDIA_TYPES.get(Path(name).suffix),
            )
            for name, url in output.files.items()
        ]
    content += await _embedded(duet, job, embed_bytes)
    return CallToolResult(content=content, structured_content=data)


async def _save(job: AsyncJob, folder: Path) -> dict[int, dict[str, str]]:
    """Save the media of every output under names that no other job has; their paths by output and name."""
    saved: dict[int, dict[str, str]] = {}
    for output in job.outputs:
        for name in SAVED:
            if name in output.files:
                path = await job.save(folder / f"{job.id}-{output.index}-{name}", output.index, name)
                saved.setdefault(output.index, {})[name] = str(path)
    return saved


async def _embedded(duet: AsyncDuet, job: AsyncJob, left: int) -> list[ContentBlock]:
    blocks: list[ContentBlock] = []
    names = EMBEDDED if job.kind == "v2a" else EMBEDDED[:2]
    for output in job.outputs:
        for name in names:
            if name not in output.files or left <= 0:
                continue
            content = await job.read(output.index, name, left)
            if content is None:
                continue
            left -= len(content)
            blocks.append(_block(_url(duet, output.files[name]), name, base64.b64encode(content).decode()))
    return blocks


def _block(url: str, name: str, encoded: str) -> ContentBlock:
    media_type = MEDIA_TYPES[Path(name).suffix]
    if media_type.startswith("image/"):
        return ImageContent(type="image", data=encoded, mime_type=media_type)
    if media_type.startswith("audio/"):
        return AudioContent(type="audio", data=encoded, mime_type=media_type)
    resource = BlobResourceContents(uri=url, mime_type=media_type, blob=encoded)
    return EmbeddedResource(type="resource", resource=resource)


def _url(duet: AsyncDuet, url: str) -> str:
    """The absolute URL of a file. A path in a job already begins with a proxy's prefix."""
    return urljoin(duet.endpoint.url, url)


def _summary(duet: AsyncDuet, job: AsyncJob, saved: dict[int, dict[str, str]]) -> dict[str, Any]:
    outputs = [
        asdict(output)
        | {"files": {name: _url(duet, url) for name, url in output.files.items()}}
        | ({"saved": saved[output.index]} if output.index in saved else {})
        for output in job.outputs
    ]
    found: dict[str, Any] = {"id": job.id, "kind": job.kind, "status": job.status, "model": job.model, "seed": job.seed}
    further = ("progress", "stage", "eta_seconds", "queue_position", "waiting_for", "error")
    found |= {name: job.data[name] for name in further if job.data.get(name) is not None}
    return found | {"outputs": outputs}


def _words(job: AsyncJob, saved: dict[int, dict[str, str]]) -> str:
    lines = [f"{job.id} ({job.kind}) is {job.status}. Model {job.model}, seed {job.seed}."]
    if not job.ended:
        lines.append(f"{progress_words(job)}. It goes on: call job with its id for the result, or cancel.")
    if error := job.data.get("error"):
        lines.append(f"{error['message']} ({error['code']})")
    if notice := ((job.data.get("input") or {}).get("used") or {}).get("notice"):
        lines.append(notice)
    for output in job.outputs:
        scores = ", ".join(f"{name} {value:.2f}" for name, value in output.scores.items() if value is not None)
        lines.append(f"Output {output.index}: seed {output.seed}" + (f", scores: {scores}" if scores else ""))
        lines += [f"  saved: {path}" for path in saved.get(output.index, {}).values()]
    return "\n".join(lines)


def progress_words(job: AsyncJob) -> str:
    """The state of a job that has not ended, in one line."""
    if job.status == "queued":
        if job.waiting_for:
            return f"queued: {job.waiting_for['message']}"
        before = job.queue_position
        return "queued" if before is None else f"queued, jobs before it: {before}"
    if job.stage is None:
        return job.status.replace("_", " ")
    stage = "super-resolution" if job.stage == "sr" else job.stage
    left = "" if job.eta_seconds is None else f", {job.eta_seconds:.0f} s left"
    return f"{stage}, step {job.step or 0} of {job.total_steps or 0}{left}"
