"""A client of Duet for Python, without torch.

    from duet.client import Duet

    Duet("http://127.0.0.1:8000").v2a("beach.mov", seed=7).wait().save("beach-with-sound.mp4")

`AsyncDuet` is the same for asyncio. docs/client.md tells the rest.
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
from duet.client.facts import Model, Output
from duet.client.flows import Patience

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
    "Model",
    "Output",
    "Patience",
    "Refused",
    "ServerUnreachable",
    "StillRunning",
]
