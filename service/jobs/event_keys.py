"""The stream of a job's events: its keys in Redis and the kinds of its entries.

    duet:events:{id}            each change of status with the record, each step, a marker for each preview
    duet:events:{id}:previews   the last preview of each output, with the id of its marker
    duet:events                 a channel: the id of a job whose stream has grown, followed by ` gone` if it was erased

The scripts that change a record or its progress append to the stream in the same transaction, so the two always agree.
The channel only wakes readers, which also read the stream from time to time without being woken. `events` reads it.
"""

from __future__ import annotations

from enum import StrEnum

CHANNEL = "duet:events"

MOST_ENTRIES = 256
"""Approximate length of a stream: the first steps of a long job are dropped."""

KEPT_MS = 60 * 60 * 1000
"""Milliseconds for which a stream is kept after the job's end, unless the job is erased earlier."""

PREVIEWS_KEPT_MS = 5 * 60 * 1000
"""The same for previews, which the result replaces."""

GONE = " gone"
"""Suffix of the id in the channel for an erased job."""


class EventKind(StrEnum):
    """The kind of an entry; the three that end a job are named as its status. GONE is in no stream: clients receive it
    for an erased job, whose stream is erased too."""

    STATUS = "status"
    PROGRESS = "progress"
    PREVIEW = "preview"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    GONE = "gone"

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return self in (EventKind.COMPLETED, EventKind.FAILED, EventKind.CANCELED, EventKind.GONE)


def events_key(job_id: str) -> str:
    """The stream of events."""
    return f"duet:events:{job_id}"


def previews_key(job_id: str) -> str:
    """The last previews."""
    return f"duet:events:{job_id}:previews"
