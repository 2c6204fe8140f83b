"""The names and the scripts' share of what happens to a job: one stream a job, beside its record.

    duet:events:{id}            what happened: each change of status with the record, each step, a mark for each preview
    duet:events:{id}:previews   the last preview of each output, with the id of its mark
    duet:events                 a channel: the id of the job whose stream has grown; with ` gone` where it was erased

The scripts that change a record or its progress append to the stream in the same breath, so that it misses nothing and
tells of nothing that did not happen. The channel only wakes: who hears nothing for a while reads the stream all the
same. `events` is who reads.
"""

from __future__ import annotations

from enum import StrEnum

CHANNEL = "duet:events"

MOST_ENTRIES = 256
"""Entries of a stream, about: a long job forgets its first steps."""

KEPT_MS = 60 * 60 * 1000
"""Milliseconds for which a stream can be read after the job's end; erased jobs take theirs along."""

PREVIEWS_KEPT_MS = 5 * 60 * 1000
"""The same for previews, which nobody wants once the result is there."""

GONE = " gone"
"""What follows the id of an erased job."""

ANNOUNCE = f"""
local function announce(stream, job, kind, data)
  local entry = redis.call('XADD', stream, 'MAXLEN', '~', {MOST_ENTRIES}, '*', 'kind', kind, 'data', data)
  redis.call('PUBLISH', '{CHANNEL}', job)
  return entry
end
"""
"""Lua: append to a stream and wake its readers."""


class Kind(StrEnum):
    """What an entry tells; the three that end a job are named as its status. GONE is in no stream: it is what clients
    are told of an erased job, which has none any more."""

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
        return self in (Kind.COMPLETED, Kind.FAILED, Kind.CANCELED, Kind.GONE)


def events_key(job_id: str) -> str:
    """The stream."""
    return f"duet:events:{job_id}"


def previews_key(job_id: str) -> str:
    """The last previews."""
    return f"duet:events:{job_id}:previews"
