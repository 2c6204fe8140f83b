"""`/study/{token}`: the page of a blind study, for one rater.

The token of a link is the authority: 256 random bits, good for this rater's clips and votes and nothing else. API keys
play no part. The answers name no label, no file and no rater. A vote is idempotent: a repeated or late request with the
same or a lower `revision` changes nothing and returns the vote that is kept.
"""

from __future__ import annotations

from contextlib import suppress
from functools import cache, partial
from importlib.resources import files
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool

from service.api.cross_origin import refuse_other_sites
from service.api.examples import STUDY_SESSION, STUDY_TOKEN, STUDY_VOTE
from service.api.files import BINARY, object_response
from service.api.middleware import body_limit
from service.api.pages import METHODS, Asset, asset_response, find_asset, read_assets
from service.api.parameters import parse_json
from service.api.problems import FieldError, Problem, responses
from service.api.services import Services, ServicesHere
from service.jobs.connection import StoreUnavailable
from service.study.record import HIGHEST, LOWEST, Answers, Vote, clip_key
from service.study.store import AlreadySubmitted, Seat, StudyClosed, UnknownStudy, VotesMissing

router = APIRouter(tags=["study"], prefix="/study/{token}")
pages = APIRouter(include_in_schema=False)

MAX_BODY = 1024
"""Bytes of a vote."""

MAX_REVISION = 10**6

Token = Annotated[str, Path(description="the secret of a rater's link", examples=[STUDY_TOKEN])]
ClipId = Annotated[str, Path(description="id of a clip", examples=[STUDY_SESSION["clips"][0]["id"]])]

_CLIP_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"description": "the file", "content": {"video/mp4": BINARY}},
    206: {"description": "the requested range", "content": {"video/mp4": BINARY}},
    304: {"description": "not modified"},
}


def _whole(value: Any) -> Any:
    """3.0 as 3: to JSON Schema both are integers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(_whole)]


class StudyVote(BaseModel):
    """A rater's answers about one clip."""

    model_config = ConfigDict(extra="forbid", strict=True)

    video: Whole = Field(ge=LOWEST, le=HIGHEST, description="quality of the picture: 1 bad … 5 excellent", examples=[4])
    sound: Whole = Field(ge=LOWEST, le=HIGHEST, description="quality of the sound: 1 bad … 5 excellent", examples=[3])
    match: Whole = Field(ge=LOWEST, le=HIGHEST, description="how well they match: 1 bad … 5 excellent", examples=[5])
    real: bool = Field(description="judged to be real, not made by a model", examples=[True])
    revision: Whole = Field(
        ge=1,
        le=MAX_REVISION,
        description="a vote replaces an earlier one with a lower revision; otherwise the earlier one stays",
        examples=[1],
    )

    @classmethod
    def of(cls, vote: Vote) -> StudyVote:
        return cls(**vote.answers.__dict__, revision=vote.revision)

    def vote(self) -> Vote:
        return Vote(Answers(self.video, self.sound, self.match, self.real), self.revision)


class StudyClipView(BaseModel):
    """A clip to rate."""

    id: str = Field(description="random name of the clip")
    vote: StudyVote | None = Field(description="the rater's vote; null before the first")


class StudySession(BaseModel):
    """The clips of one rater, in the rater's own order."""

    clips: list[StudyClipView] = Field(description="in the order in which they are shown")
    submitted: bool = Field(description="whether the rater has submitted: votes do not change any more")


async def _seat(token: Token, request: Request, services: ServicesHere) -> Seat:
    """The place that the token grants. Raises Problem 403, 404 or 410, and 429 above the request rate."""
    refuse_other_sites(request, services.settings)
    seat = await run_in_threadpool(_find, services, token)
    wait = await run_in_threadpool(services.rate_limit.take, f"study:{seat.rater}")  # no key's name has a colon
    if wait:
        raise Problem(429, "rate_limited", "Too many requests from this link.", headers={"Retry-After": str(wait)})
    return seat


SeatHere = Annotated[Seat, Depends(_seat)]

_EVERY = (403, 404, 410, 429, 503)


@router.get("/session", responses=responses(*_EVERY))
@router.head("/session", include_in_schema=False)
async def session(seat: SeatHere, services: ServicesHere) -> StudySession:
    """The clips to rate, with the votes so far."""
    return await run_in_threadpool(_session, services, seat)


@router.post(
    "/votes/{clip}",
    responses=responses(400, 409, 413, 422, *_EVERY),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": StudyVote.model_json_schema(),
                    "examples": {"vote": {"summary": "A vote", "value": STUDY_VOTE}},
                }
            },
        }
    },
)
async def vote(seat: SeatHere, request: Request, services: ServicesHere, token: Token, clip: ClipId) -> StudyVote:
    """Rate a clip, or change the vote before submission. Returns the vote that is kept."""
    _check_clip(seat, clip)
    given = await _given_vote(request)
    try:
        kept = await run_in_threadpool(services.studies.vote, token, seat, clip, given.vote())
    except AlreadySubmitted as error:
        raise Problem(409, "study_submitted", "The votes are submitted and do not change any more.") from error
    except (UnknownStudy, StudyClosed) as error:
        raise _gone(error) from error
    return StudyVote.of(kept)


@router.post("/submit", responses=responses(409, *_EVERY))
async def submit(seat: SeatHere, services: ServicesHere, token: Token) -> StudySession:
    """Make the votes final. Every clip must have one. May be repeated."""
    try:
        await run_in_threadpool(services.studies.submit, token, seat)
    except VotesMissing as error:
        raise Problem(409, "votes_missing", f"Clips without a vote: {error.count}.", missing=error.count) from error
    except (UnknownStudy, StudyClosed) as error:
        raise _gone(error) from error
    return await run_in_threadpool(_session, services, seat)


@router.get("/clips/{clip}.mp4", response_class=Response, responses={**_CLIP_RESPONSES, **responses(416, *_EVERY)})
@router.head("/clips/{clip}.mp4", include_in_schema=False)
async def clip_file(seat: SeatHere, request: Request, services: ServicesHere, clip: ClipId) -> Response:
    """The video of one of the rater's clips."""
    _check_clip(seat, clip)
    respond = partial(object_response, request, services, clip_key(seat.folder, clip), f"{clip}.mp4")
    return await to_thread.run_sync(respond, limiter=services.storage_threads)


@pages.api_route("/study/page/{name}", methods=METHODS)
def page_file(name: str, request: Request) -> Response:
    """A script or style sheet of the page. Raises Problem 404."""
    return asset_response(request, find_asset(_page_files(), name, request))


@pages.api_route("/study/{token}", methods=METHODS)
async def page(token: str, request: Request, services: ServicesHere) -> Response:
    """The page of a rater. For a token that is unknown (404) or of a closed study (410) it says so."""
    status = 200
    with suppress(StoreUnavailable):  # the page tries again
        try:
            await run_in_threadpool(services.studies.seat, token)
        except UnknownStudy:
            status = 404
        except StudyClosed:
            status = 410
    return asset_response(request, _page_files()["study.html"], status)


def _find(services: Services, token: str) -> Seat:
    try:
        return services.studies.seat(token)
    except (UnknownStudy, StudyClosed) as error:
        raise _gone(error) from error


def _gone(error: Exception) -> Problem:
    if isinstance(error, StudyClosed):
        return Problem(410, "study_closed", "The study is closed.")
    return Problem(404, "unknown_study", "This link does not belong to a study.")


def _check_clip(seat: Seat, clip: str) -> None:
    if clip not in seat.clips:
        raise Problem(404, "not_found", "The study has no such clip for this link.")


def _session(services: Services, seat: Seat) -> StudySession:
    votes, submitted = services.studies.own_votes(seat)
    clips = [StudyClipView(id=clip, vote=StudyVote.of(votes[clip]) if clip in votes else None) for clip in seat.clips]
    return StudySession(clips=clips, submitted=submitted)


async def _given_vote(request: Request) -> StudyVote:
    """The body. Raises Problem 400, 413 or 422."""
    body_limit(request).allow(MAX_BODY, Problem(413, "too_large", f"A vote has at most {MAX_BODY} bytes."))
    values = parse_json(await request.body(), "The body")
    try:
        return StudyVote.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False)
        errors = [FieldError(".".join(map(str, each["loc"])), each["input"], each["msg"]) for each in found]
        names = ", ".join(dict.fromkeys(each.field or "the body" for each in errors))
        raise Problem(422, "invalid_parameter", f"Invalid value: {names}.", errors) from error


@cache
def _page_files() -> dict[str, Asset]:
    """The files of `service/study/page`, by name."""
    return read_assets(files("service") / "study" / "page")
