"""What is known of a job, a model, an output: the server's JSON with names and types."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from duet.client.errors import JobCanceled, JobFailed

ENDED = ("completed", "failed", "canceled")


@dataclass(frozen=True)
class Output:
    """One clip made: `files` maps each name (`video.mp4`) to where the server gives it."""

    index: int
    seed: int
    files: dict[str, str]


@dataclass(frozen=True)
class Model:
    """One model that a server has. `trained` false: its clips are noise. `guidance`: the methods by kind of job;
    `data` is all that the server says of it."""

    name: str
    default: bool
    trained: bool
    description: str
    licence: str
    weights_hash: str
    guidance: dict[str, list[str]]
    data: dict[str, Any] = field(repr=False)

    @classmethod
    def read(cls, data: dict[str, Any]) -> Model:
        names = ("name", "default", "trained", "description", "licence", "weights_hash", "guidance")
        return cls(**{name: data[name] for name in names}, data=data)


class JobFacts:
    """A job as the server told last; `data` is all of it, as `GET /jobs/{id}` gives it."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.kind} {self.status}>"

    @property
    def id(self) -> str:
        return str(self.data["id"])

    @property
    def kind(self) -> str:
        return str(self.data["kind"])

    @property
    def status(self) -> str:
        """queued, in_progress, completed, failed or canceled."""
        return str(self.data["status"])

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def model(self) -> str:
        return str(self.data["model"])

    @property
    def seed(self) -> int:
        return int(self.data["params"]["seed"])

    @property
    def params(self) -> dict[str, Any]:
        """Every parameter as used."""
        return dict(self.data["params"])

    @property
    def stage(self) -> str | None:
        """`base` or `sr` while it runs."""
        stage: str | None = self.data["stage"]
        return stage

    @property
    def step(self) -> int | None:
        step: int | None = self.data["step"]
        return step

    @property
    def total_steps(self) -> int | None:
        """Steps of the stage."""
        total_steps: int | None = self.data["total_steps"]
        return total_steps

    @property
    def progress(self) -> float:
        """0 … 1, over all stages."""
        return float(self.data["progress"])

    @property
    def eta_seconds(self) -> float | None:
        eta_seconds: float | None = self.data["eta_seconds"]
        return eta_seconds

    @property
    def queue_position(self) -> int | None:
        """Jobs that run before this one."""
        queue_position: int | None = self.data["queue_position"]
        return queue_position

    @property
    def attempt(self) -> int:
        return int(self.data["attempt"])

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self.data["metadata"])

    @property
    def outputs(self) -> list[Output]:
        """The clips, once it has completed."""
        return [Output(each["index"], each["seed"], dict(each["files"])) for each in self.data["outputs"]]

    def check(self) -> None:
        """Raise JobFailed or JobCanceled if it ended without a result."""
        if self.status == "canceled":
            raise JobCanceled(self.id)
        if self.status == "failed":
            error = self.data["error"]
            raise JobFailed(self.id, error["code"], error["message"], error["retryable"])

    def place(self, file: str, output: int) -> str:
        """Where to fetch the file: a path below the server's address, or a whole URL of another's.

        Raises ValueError for an output or a file that the job does not have.
        """
        found = next((each for each in self.outputs if each.index == output), None)
        if found is None:
            raise ValueError(f"{self.id} has no output {output}: it is {self.status} with {len(self.outputs)} outputs")
        if file not in found.files:
            raise ValueError(f"{self.id} has no file {file!r}; its files are {', '.join(found.files)}")
        url = found.files[file]
        if not url.startswith("/"):
            return url
        # The server's own path may begin with what a proxy puts before it, as our address does.
        return f"/jobs/{self.id}/files/{_name(url)}"

    def target(self, path: str | Path, file: str, output: int) -> Path:
        """Where a file is saved to: `path`, or if that is a folder, there under the name that the server gives it."""
        path = Path(path)
        return path / _name(self.place(file, output)) if path.is_dir() else path


def _name(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]
