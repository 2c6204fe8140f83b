"""A server's models, jobs and outputs: its JSON with names and types."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from duet.client.errors import JobCanceled, JobFailed

T = TypeVar("T")

ENDED = ("completed", "failed", "canceled")


@dataclass(frozen=True)
class Model:
    """A model of a server. If `trained` is false, its clips are noise. `guidance` lists the methods by kind of job.
    `text` has the `languages` and some `examples` of prompts; it is None if the model knows no words. `data` is all of
    the server's JSON."""

    name: str
    default: bool
    trained: bool
    description: str
    licence: str
    weights_hash: str
    guidance: dict[str, list[str]]
    data: dict[str, Any] = field(repr=False)
    text: dict[str, Any] | None = None

    @classmethod
    def read(cls, data: dict[str, Any]) -> Model:
        """Models of older servers have no text."""
        names = ("name", "default", "trained", "description", "licence", "weights_hash", "guidance")
        return cls(**{name: data[name] for name in names}, data=data, text=data.get("text"))


@dataclass(frozen=True)
class JobOutput:
    """A clip of a job. `files` maps each name, such as `video.mp4`, to its URL at the server. `scores`: how well sound
    and picture agree, by name; None for what cannot be said, for the `scores_reason`."""

    index: int
    seed: int
    files: dict[str, str]
    scores: dict[str, float | None] = field(default_factory=dict)
    scores_reason: str | None = None


class _Field(Generic[T]):
    """A member of the job's JSON as an attribute of the same name."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, job: JobData | None, owner: type) -> T:
        if job is None:  # of the class, as `help` asks
            return cast("T", self)
        value: T = job.data[self._name]
        return value


class JobData:
    """A job as last received from the server. `data` is all of its JSON, as in `GET /jobs/{id}`."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.kind} {self.status}>"

    id = _Field[str]()
    kind = _Field[str]()
    """`generate`, `v2a`, `a2v` or `edit`."""
    status = _Field[str]()
    """`queued`, `in_progress`, `completed`, `failed` or `canceled`."""
    model = _Field[str]()
    params = _Field[dict[str, Any]]()
    """Every parameter as used."""
    metadata = _Field[dict[str, str]]()
    stage = _Field[str | None]()
    """`base` or `sr` while the job runs."""
    step = _Field[int | None]()
    total_steps = _Field[int | None]()
    """Steps of the stage."""
    progress = _Field[float]()
    """From 0 to 1, over all stages."""
    eta_seconds = _Field[float | None]()
    queue_position = _Field[int | None]()
    """Number of jobs that run before this one."""
    waiting_for = _Field[dict[str, Any] | None]()
    """What a queued job waits for besides its turn, as `code`, `message` and `since`."""
    attempt = _Field[int]()

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def seed(self) -> int:
        return int(self.params["seed"])

    @property
    def outputs(self) -> list[JobOutput]:
        """The clips of a completed job; with `keep` the best first."""
        return [_output(each) for each in self.data["outputs"]]

    @property
    def dropped(self) -> list[JobOutput]:
        """The clips that `keep` left out. They have no files."""
        return [_output(each) for each in self.data.get("dropped", ())]

    def check(self) -> None:
        """Raise JobFailed or JobCanceled if the job ended without a result."""
        if self.status == "canceled":
            raise JobCanceled(self.id)
        if self.status == "failed":
            error = self.data["error"]
            raise JobFailed(self.id, error["code"], error["message"], error["retryable"])

    def file_url(self, file: str, output: int | None) -> str:
        """URL of a file of `output`, None for the first: a path relative to the server's URL, or an absolute URL of a
        store.

        Raises ValueError for an output or a file that the job does not have.
        """
        found = next((each for each in self.outputs if output is None or each.index == output), None)
        if found is None:
            output = output or 0
            raise ValueError(f"{self.id} has no output {output}: it is {self.status} with {len(self.outputs)} outputs")
        if file not in found.files:
            raise ValueError(f"{self.id} has no file {file!r}; its files are {', '.join(found.files)}")
        url = found.files[file]
        if not url.startswith("/"):
            return url
        # The path in the job may begin with a proxy's prefix, as the server's URL does.
        return f"/jobs/{self.id}/files/{_name(url)}"

    def target(self, path: str | Path, file: str, output: int | None) -> Path:
        """Where a file is saved: `path`, or under the server's name for the file if `path` is a folder."""
        path = Path(path)
        return path / _name(self.file_url(file, output)) if path.is_dir() else path


def _output(data: dict[str, Any]) -> JobOutput:
    """Older servers have no scores."""
    scores = dict(data.get("scores", {}))
    return JobOutput(data["index"], data["seed"], dict(data.get("files", {})), scores, data.get("scores_reason"))


def _name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]
