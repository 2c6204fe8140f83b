"""What chance alone would never send: real media, and the names of files that are there."""

from __future__ import annotations

import os

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, HookContext

from tests.api_contract.stack import COMPLETED_JOB, MADE
from tests.service import media

schemathesis.openapi.media_type("video/mp4", st.just(media.video()))
schemathesis.openapi.media_type("audio/wav", st.just(media.sound()))


@schemathesis.hook("before_call")
def ask_for_a_file_that_is_there(context: HookContext, case: Case, kwargs: dict[str, object]) -> None:
    """Every second valid request for a file is for one of a completed job."""
    if case.operation.path != "/jobs/{job_id}/files/{name}" or sum(case.id.encode()) % 2:
        return
    if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
        case.path_parameters["name"] = list(MADE)[sum(case.id.encode()) // 2 % len(MADE)]
        case.path_parameters["job_id"] = os.environ[COMPLETED_JOB]
