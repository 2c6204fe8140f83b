"""A client of Duet for Python, without torch.

    from duet.client import Duet

    Duet("http://127.0.0.1:8000").v2a("beach.mov", seed=7).wait().save("beach-with-sound.mp4")

`AsyncDuet` is the same for asyncio. See docs/client.md.
"""

from duet.client.asynchronous import AsyncDuet, AsyncJob
from duet.client.blocking import Duet, Job
from duet.client.errors import (
    DuetError,
    FieldProblem,
    JobCanceled,
    JobFailed,
    JobGone,
    Refused,
    ServerUnreachable,
    StillRunning,
)
from duet.client.events import Event
from duet.client.operations import RetryPolicy
from duet.client.resources import JobOutput, Model

__all__ = [
    "AsyncDuet",
    "AsyncJob",
    "Duet",
    "DuetError",
    "Event",
    "FieldProblem",
    "Job",
    "JobCanceled",
    "JobFailed",
    "JobGone",
    "JobOutput",
    "Model",
    "Refused",
    "RetryPolicy",
    "ServerUnreachable",
    "StillRunning",
]
