"""Reads what an untrusted file says of its making, in a confined child process. Imports neither decoder nor library."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from model.media.containers import READABLE, identify, why_unknown
from service.credentials.report import Report
from service.sandbox import child as children
from service.sandbox.limits import ProcessLimits
from service.sandbox.probe import CANNOT_START, ProbeUnavailableError

log = logging.getLogger(__name__)

LIMITS = ProcessLimits(cpu_seconds=30, wall_seconds=60, memory_bytes=2**30, file_bytes=0)
"""The library computes the hash of the whole file: some 5 s for 5 GiB."""

_CHILD = Path(__file__).with_name("child.py")


class UnknownFileError(Exception):
    """The file is not a video or sound that Duet opens. The message says what it is, for its owner."""

    allowed = READABLE


def read_credentials(path: str | os.PathLike[str], trusted: str = "", limits: ProcessLimits = LIMITS) -> Report:
    """The report of a file. `trusted`: certificates in PEM.

    A file that makes the child fail or exceed its limits is `unreadable`. Raises OSError, UnknownFileError and
    ProbeUnavailableError.
    """
    with open(path, "rb") as file:
        signature = identify(file.fileno())
        if signature is None:
            raise UnknownFileError(why_unknown(file.fileno()) if file.read(1) else "the file is empty")
    request = {
        "path": os.fspath(path),
        "signature": asdict(signature),
        "trusted": trusted,
        "limits": asdict(limits),
    }
    pipe = subprocess.PIPE
    try:
        child = children.start([sys.executable, "-I", str(_CHILD)], stdin=pipe, stdout=pipe, stderr=pipe)
    except OSError as error:
        raise ProbeUnavailableError(f"no process could be started to read the file: {error}") from error
    try:
        out, err = child.communicate(json.dumps(request).encode() + b"\n", timeout=limits.wall_seconds)
    except subprocess.TimeoutExpired:
        return Report("unreadable", problems=[f"not read within {limits.wall_seconds:g} s"])
    finally:
        children.kill(child)
    if child.returncode == 0:
        try:
            return TypeAdapter(Report).validate_json(out)
        except ValidationError:
            return Report("unreadable", problems=["the file is damaged"])
    problem = err.decode(errors="replace").strip()
    if child.returncode == CANNOT_START:
        raise ProbeUnavailableError(f"the libraries cannot be loaded: {problem}")
    log.warning("reading the credentials of a file ended with status %d: %s", child.returncode, problem[-500:])
    return Report("unreadable", problems=["the file is damaged, or too much work to read"])
