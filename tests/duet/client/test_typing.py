"""Methods that are written once have exact types and are real methods in both clients."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from mypy import api

from duet.client import AsyncDuet, AsyncJob, Duet, Job

SNIPPET = """
from duet import AsyncDuet, Duet

duet = Duet()
reveal_type(duet.v2a)
reveal_type(duet.v2a("beach.mp4", seed=7).wait())
reveal_type(duet.jobs(limit=3))
duet.generate().wait(lambda job: reveal_type(job))
reveal_type(next(duet.job("job_1").events()))
duet.v2a("beach.mp4", sr_steps=8)
duet.generate(seed="7")

async def use(duet: AsyncDuet) -> None:
    reveal_type(duet.a2v)
    job = await duet.a2v("song.mp3", sr_steps=8)
    reveal_type(await job.wait())
    reveal_type(await job.save("clip.mp4"))
    reveal_type(await duet.models())
"""


@pytest.mark.slow
def test_mypy_knows_arguments_and_results(tmp_path: Path) -> None:
    (tmp_path / "snippet.py").write_text(SNIPPET)
    options = ["--strict", "--no-error-summary", "--cache-dir", str(tmp_path / "cache")]
    said = re.sub(r"duet\.client\.\w+\.", "", api.run([*options, str(tmp_path / "snippet.py")])[0])
    revealed = re.findall(r'Revealed type is "(.*)"', said)
    blocking, awaited = revealed[0], revealed[5]
    assert blocking.startswith("def (file: str | pathlib.Path, *, model: str =, seed: int =")
    assert "idempotency_key: str | None =" in blocking
    assert "sr_steps: int =" not in blocking
    assert blocking.endswith("-> Job")
    assert "sr_steps: int =" in awaited
    assert awaited.endswith("-> typing.Coroutine[Any, Any, AsyncJob]")
    assert revealed[1:5] == ["Job", "list[Job]", "Job", "Event"]
    assert revealed[6:] == ["AsyncJob", "pathlib.Path", "list[Model]"]
    errors = re.findall(r"snippet\.py.* error: .*?\[([\w-]+)\]$", said, re.MULTILINE)
    assert errors == ["call-arg", "arg-type"], said


@pytest.mark.parametrize(("plain", "awaited", "name"), [(Duet, AsyncDuet, "v2a"), (Job, AsyncJob, "wait")])
def test_methods_are_functions_and_coroutine_functions_with_a_docstring(plain: type, awaited: type, name: str) -> None:
    assert inspect.isfunction(getattr(plain, name))
    assert not inspect.iscoroutinefunction(getattr(plain, name))
    assert inspect.iscoroutinefunction(getattr(awaited, name))
    assert inspect.getdoc(getattr(plain, name)) == inspect.getdoc(getattr(awaited, name))
    assert inspect.getdoc(getattr(plain, name))
