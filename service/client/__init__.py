"""A client of Duet for Python, without torch.

    from service.client import Duet

    Duet("http://127.0.0.1:8000").v2a("beach.mov", seed=7).wait().save("beach-with-sound.mp4")

`AsyncDuet` is the same for asyncio. docs/client.md tells the rest.
"""

from service.client.asynchronous import AsyncDuet, AsyncJob
from service.client.blocking import Duet, Job
from service.client.errors import (
    DuetError,
    FieldProblem,
    JobCanceled,
    JobFailed,
    JobGone,
    Refused,
    ServerUnreachable,
    StillRunning,
)
from service.client.facts import Model, Output
from service.client.flows import Patience
from service.client.sse import Event

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
