"""Studies and votes in Redis. Every write is a script or a transaction, so it happens as a whole or not at all.

duet:studies                  hash: the record of each study by its name, JSON; it never changes
duet:studies:closed           names of the closed studies
duet:study-link:{token}       what the page of a rater needs, JSON: no labels
duet:study:{name}:votes       hash: the vote of each rater and clip, `{rater}:{clip}`, JSON
duet:study:{name}:submitted   ids of the raters who have submitted
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import redis

from service.jobs.connection import reachable
from service.study.record import TOKEN, Study, Vote

_STUDIES = "duet:studies"
_CLOSED = "duet:studies:closed"

_OPEN = """
if redis.call('EXISTS', KEYS[1]) == 0 then return {'unknown'} end
if redis.call('SISMEMBER', KEYS[2], ARGV[1]) == 1 then return {'closed'} end
"""

_VOTE = """
local field, vote = ARGV[2] .. ':' .. ARGV[3], cjson.decode(ARGV[4])
local kept = redis.call('HGET', KEYS[3], field)
if kept and (kept == ARGV[4] or cjson.decode(kept).revision >= vote.revision) then return {'kept', kept} end
if redis.call('SISMEMBER', KEYS[4], ARGV[2]) == 1 then return {'submitted'} end
redis.call('HSET', KEYS[3], field, ARGV[4])
return {'kept', ARGV[4]}
"""
"""Keep a vote, unless one of the same or a higher revision is there: a repeated or late request changes nothing."""

_SUBMIT = """
if redis.call('SISMEMBER', KEYS[4], ARGV[2]) == 1 then return {'submitted'} end
local missing = 0
for i = 3, #ARGV do
  if redis.call('HEXISTS', KEYS[3], ARGV[2] .. ':' .. ARGV[i]) == 0 then missing = missing + 1 end
end
if missing > 0 then return {'missing', tostring(missing)} end
redis.call('SADD', KEYS[4], ARGV[2])
return {'submitted'}
"""


class UnknownStudy(LookupError):
    """No study under this name or token."""


class StudyExists(Exception):
    """The name is taken."""


class StudyClosed(Exception):
    """The study accepts no more votes."""


class AlreadySubmitted(Exception):
    """The rater has submitted: votes do not change any more."""


class VotesMissing(Exception):
    """`count` clips have no vote yet."""

    def __init__(self, count: int) -> None:
        super().__init__(f"{count} clips have no vote yet")
        self.count = count


@dataclass(frozen=True)
class Seat:
    """What the page of one rater knows: the study's name, the rater's id, the clips in order, where their files are."""

    study: str
    rater: str
    clips: tuple[str, ...]
    folder: str


@dataclass(frozen=True)
class Ballots:
    """All votes of a study by rater and clip, the raters who have submitted, and whether the study is closed."""

    votes: dict[str, dict[str, Vote]]
    submitted: frozenset[str]
    closed: bool


class StudyStore:
    """Every method raises StoreUnavailable if Redis does not answer or refuses to write."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._vote = client.register_script(_OPEN + _VOTE)
        self._submit = client.register_script(_OPEN + _SUBMIT)

    def create(self, study: Study) -> None:
        """Write the study and its links. Raises StudyExists."""
        seats = {_link(each.token): Seat(study.name, each.id, each.clips, study.folder) for each in study.raters}
        with reachable(), self._redis.pipeline() as pipeline:
            while True:
                try:
                    pipeline.watch(_STUDIES)
                    known: Any = pipeline.hget(_STUDIES, study.name)
                    if known == study.to_json().encode():
                        return  # the connection broke after the first attempt had succeeded
                    if known is not None:
                        raise StudyExists(study.name)
                    pipeline.multi()
                    pipeline.hset(_STUDIES, study.name, study.to_json())
                    pipeline.mset({link: json.dumps(seat.__dict__) for link, seat in seats.items()})
                    pipeline.execute()
                    return
                except redis.WatchError:  # another study was created or deleted meanwhile
                    continue

    def names(self) -> list[str]:
        """The names of all studies, sorted."""
        with reachable():
            names: Any = self._redis.hkeys(_STUDIES)
        return sorted(name.decode() for name in names)

    def get(self, name: str) -> Study:
        """Raises UnknownStudy."""
        with reachable():
            text: Any = self._redis.hget(_STUDIES, name)
        if text is None:
            raise UnknownStudy(name)
        return Study.from_json(text)

    def seat(self, token: str) -> Seat:
        """The rater's place that a link names. Raises UnknownStudy, StudyClosed."""
        if not TOKEN.fullmatch(token):
            raise UnknownStudy(token)
        with reachable():
            text: Any = self._redis.get(_link(token))
        if text is None:
            raise UnknownStudy(token)
        values: dict[str, Any] = json.loads(text)
        seat = Seat(**values | {"clips": tuple(values["clips"])})
        with reachable():
            if self._redis.sismember(_CLOSED, seat.study):
                raise StudyClosed(seat.study)
        return seat

    def own_votes(self, seat: Seat) -> tuple[dict[str, Vote], bool]:
        """The rater's votes by clip, and whether they are submitted."""
        with reachable(), self._redis.pipeline() as pipeline:
            pipeline.hmget(_votes(seat.study), [_field(seat.rater, clip) for clip in seat.clips])
            pipeline.sismember(_submitted(seat.study), seat.rater)
            texts, submitted = pipeline.execute()
        votes = {clip: Vote.from_json(text) for clip, text in zip(seat.clips, texts, strict=True) if text is not None}
        return votes, bool(submitted)

    def vote(self, token: str, seat: Seat, clip: str, vote: Vote) -> Vote:
        """Keep the vote; returns the one that is kept, which is another if its revision is not lower.

        Raises UnknownStudy, StudyClosed, AlreadySubmitted.
        """
        answer = self._ask(self._vote, token, seat, [clip, vote.to_json()])
        if answer[0] == b"submitted":
            raise AlreadySubmitted(seat.rater)
        return Vote.from_json(answer[1])

    def submit(self, token: str, seat: Seat) -> None:
        """Make the rater's votes final. May be repeated. Raises UnknownStudy, StudyClosed, VotesMissing."""
        answer = self._ask(self._submit, token, seat, list(seat.clips))
        if answer[0] == b"missing":
            raise VotesMissing(int(answer[1]))

    def ballots(self, name: str) -> Ballots:
        """All votes of the study."""
        with reachable(), self._redis.pipeline() as pipeline:
            pipeline.hgetall(_votes(name))
            pipeline.smembers(_submitted(name))
            pipeline.sismember(_CLOSED, name)
            texts, submitted, closed = pipeline.execute()
        votes: dict[str, dict[str, Vote]] = {}
        for field, text in texts.items():
            rater, _, clip = field.decode().partition(":")
            votes.setdefault(rater, {})[clip] = Vote.from_json(text)
        return Ballots(votes, frozenset(rater.decode() for rater in submitted), bool(closed))

    def close(self, name: str) -> None:
        """Accept no more votes. May be repeated. Raises UnknownStudy."""
        self.get(name)
        with reachable():
            self._redis.sadd(_CLOSED, name)

    def delete(self, study: Study) -> None:
        """Erase the study with its votes and links. Its files are the caller's to erase. May be repeated."""
        with reachable(), self._redis.pipeline() as pipeline:
            pipeline.hdel(_STUDIES, study.name)
            pipeline.srem(_CLOSED, study.name)
            links = [_link(rater.token) for rater in study.raters]
            pipeline.delete(_votes(study.name), _submitted(study.name), *links)
            pipeline.execute()

    def _ask(self, script: Any, token: str, seat: Seat, arguments: list[str]) -> list[bytes]:
        keys = [_link(token), _CLOSED, _votes(seat.study), _submitted(seat.study)]
        with reachable():
            answer: list[bytes] = script(keys=keys, args=[seat.study, seat.rater, *arguments])
        if answer[0] == b"unknown":
            raise UnknownStudy(token)
        if answer[0] == b"closed":
            raise StudyClosed(seat.study)
        return answer


def _link(token: str) -> str:
    return f"duet:study-link:{token}"


def _votes(name: str) -> str:
    return f"duet:study:{name}:votes"


def _submitted(name: str) -> str:
    return f"duet:study:{name}:submitted"


def _field(rater: str, clip: str) -> str:
    return f"{rater}:{clip}"
