"""What chance alone would never send: real media, and the names of files that are there."""

from __future__ import annotations

import os
import re

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, HookContext

from service.api.lookup import ID_PATTERN
from tests.api_contract.stack import COMPLETED_JOB, MADE, STUDY
from tests.service import media

schemathesis.openapi.media_type("video/mp4", st.just(media.video()))
schemathesis.openapi.media_type("image/png", st.just(media.png()))
schemathesis.openapi.media_type("audio/wav", st.just(media.sound()))


@schemathesis.hook("before_call")
def ask_for_a_file_that_is_there(context: HookContext, case: Case, kwargs: dict[str, object]) -> None:
    """Every second valid request for a file is for one of a completed job."""
    if case.operation.path != "/jobs/{job_id}/files/{name}" or sum(case.id.encode()) % 2:
        return
    if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
        case.path_parameters["name"] = list(MADE)[sum(case.id.encode()) // 2 % len(MADE)]
        case.path_parameters["job_id"] = os.environ[COMPLETED_JOB]


@schemathesis.hook("before_call")
def ask_for_a_video_that_is_there(context: HookContext, case: Case, kwargs: dict[str, object]) -> None:
    """Every second valid request for the content of a video is for one that is completed."""
    if case.operation.path != "/videos/{video_id}/content" or sum(case.id.encode()) % 2:
        return
    if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
        case.path_parameters["video_id"] = os.environ[COMPLETED_JOB].replace("job_", "video_")


@schemathesis.hook("before_call")
def follow_only_what_ends(context: HookContext, case: Case, kwargs: dict[str, object]) -> None:
    """The events of a job that waits, or that nobody ends, have no end, and neither would the request."""
    job_id = str(case.path_parameters.get("job_id")) if case.path_parameters else ""
    if case.operation.path == "/jobs/{job_id}/events" and re.fullmatch(ID_PATTERN, job_id):
        case.path_parameters["job_id"] = os.environ[COMPLETED_JOB]


@schemathesis.hook("before_call")
def use_a_link_that_is_there(context: HookContext, case: Case, kwargs: dict[str, object]) -> None:
    """Three of four valid requests of a study are those of a rater."""
    if "{token}" not in case.operation.path or sum(case.id.encode()) % 4 == 0:
        return
    if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
        token, *clips = os.environ[STUDY].split()
        case.path_parameters["token"] = token
        if "clip" in case.path_parameters:
            case.path_parameters["clip"] = clips[sum(case.id.encode()) // 4 % len(clips)]
