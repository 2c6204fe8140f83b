"""Votes in a real Redis: kept once, through repeats, races and restarts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from service.jobs.connection import StoreUnavailable, connect
from service.settings import Settings
from service.study.record import Answers, Study, Vote
from service.study.results import Standing, rater_results
from service.study.store import (
    AlreadySubmitted,
    Seat,
    StudyClosed,
    StudyExists,
    StudyStore,
    UnknownStudy,
    VotesMissing,
)
from tests.conftest import RedisServer
from tests.service.study.studies import EXPECTED, a_study

GOOD = Answers(4, 4, 5, True)
POOR = Answers(1, 2, 1, False)


@pytest.fixture
def study(studies: StudyStore) -> Study:
    study = a_study()
    studies.create(study)
    return study


def seats(studies: StudyStore, study: Study) -> list[tuple[str, Seat]]:
    """Token and place of each rater."""
    return [(rater.token, studies.seat(rater.token)) for rater in study.raters]


def vote_all(studies: StudyStore, study: Study, number: int, check: Answers = EXPECTED) -> None:
    """All votes of one rater, submitted."""
    token, seat = seats(studies, study)[number]
    checks = {clip.id for clip in study.clips if clip.expected}
    for clip in seat.clips:
        studies.vote(token, seat, clip, Vote(check if clip in checks else GOOD, 1))
    studies.submit(token, seat)


def test_a_study_is_read_as_it_was_written(studies: StudyStore, study: Study) -> None:
    assert studies.get("first") == study
    assert study.labels == ("real", "ours")
    for rater, (_, seat) in zip(study.raters, seats(studies, study), strict=True):
        assert seat == Seat("first", rater.id, rater.clips, study.folder)


def test_what_a_page_may_know_names_no_label(studies: StudyStore, study: Study, settings: Settings) -> None:
    client = connect(settings)
    record = client.get(f"duet:study-link:{study.raters[0].token}")
    assert isinstance(record, bytes)
    assert not [word for word in (b"real", b"ours", b".mp4") if word in record]
    client.close()


def test_a_name_is_taken_once(studies: StudyStore, study: Study) -> None:
    studies.create(study)  # the same again, as after a connection that broke
    with pytest.raises(StudyExists):
        studies.create(a_study())
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: _created(studies, a_study("second")), range(8)))
    assert sum(results) == 1
    assert studies.names() == ["first", "second"]


def _created(studies: StudyStore, study: Study) -> bool:
    try:
        studies.create(study)
    except StudyExists:
        return False
    return True


def test_a_repeated_vote_is_kept_once_and_a_late_one_not_at_all(studies: StudyStore, study: Study) -> None:
    token, seat = seats(studies, study)[0]
    clip = seat.clips[0]
    first, changed = Vote(GOOD, 1), Vote(POOR, 2)
    for _ in range(3):
        assert studies.vote(token, seat, clip, first) == first
    assert studies.vote(token, seat, clip, changed) == changed
    assert studies.vote(token, seat, clip, first) == changed, "a delayed request does not undo a change"
    assert studies.vote(token, seat, clip, Vote(GOOD, 2)) == changed
    assert studies.own_votes(seat) == ({clip: changed}, False)


def test_votes_of_many_requests_at_once_are_all_kept(studies: StudyStore) -> None:
    study = a_study("many", clips=10, raters=10)
    studies.create(study)
    work = [(token, seat, clip) for token, seat in seats(studies, study) for clip in seat.clips] * 2
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda each: studies.vote(*each, Vote(GOOD, 1)), work))
    votes = studies.ballots("many").votes
    assert sum(len(each) for each in votes.values()) == 10 * 21
    assert all(vote == Vote(GOOD, 1) for each in votes.values() for vote in each.values())


def test_submitted_votes_do_not_change(studies: StudyStore, study: Study) -> None:
    token, seat = seats(studies, study)[0]
    with pytest.raises(VotesMissing) as missing:
        studies.submit(token, seat)
    assert missing.value.count == len(seat.clips) == 7
    vote_all(studies, study, 0)
    studies.submit(token, seat)
    with pytest.raises(AlreadySubmitted):
        studies.vote(token, seat, seat.clips[0], Vote(POOR, 2))
    assert studies.vote(token, seat, seat.clips[0], Vote(GOOD, 1)) == studies.own_votes(seat)[0][seat.clips[0]], (
        "the repeat of a request that was kept"
    )


def test_a_closed_study_keeps_its_votes_and_takes_no_more(studies: StudyStore, study: Study) -> None:
    token, seat = seats(studies, study)[0]
    studies.vote(token, seat, seat.clips[0], Vote(GOOD, 1))
    for _ in range(2):
        studies.close("first")
    for action in (
        lambda: studies.seat(token),
        lambda: studies.vote(token, seat, seat.clips[1], Vote(GOOD, 1)),
        lambda: studies.submit(token, seat),
    ):
        with pytest.raises(StudyClosed):
            action()
    assert studies.ballots("first").closed
    assert studies.ballots("first").votes == {seat.rater: {seat.clips[0]: Vote(GOOD, 1)}}
    with pytest.raises(UnknownStudy):
        studies.close("none")


def test_a_deleted_study_leaves_nothing(studies: StudyStore, study: Study, settings: Settings) -> None:
    other = a_study("other")
    studies.create(other)
    token, seat = seats(studies, study)[0]
    vote_all(studies, study, 0)
    studies.close("first")
    for _ in range(2):
        studies.delete(study)
    with pytest.raises(UnknownStudy):
        studies.vote(token, seat, seat.clips[0], Vote(GOOD, 3))
    client = connect(settings)
    keys = {key.decode() for key in client.keys("duet:stud*")}  # type: ignore[union-attr]
    assert keys == {"duet:studies", *(f"duet:study-link:{rater.token}" for rater in other.raters)}
    client.close()


@pytest.mark.parametrize("token", ["", "x" * 43, "x" * 44, "..", "é" * 43, "*" * 43])
def test_other_tokens_are_unknown(studies: StudyStore, study: Study, token: str) -> None:
    with pytest.raises(UnknownStudy):
        studies.seat(token)


def test_votes_survive_a_redis_that_is_killed(own_redis: RedisServer) -> None:
    client = connect(Settings(redis_url=own_redis.url))
    studies, study = StudyStore(client), a_study()
    studies.create(study)
    vote_all(studies, study, 0)
    before = studies.ballots("first")
    own_redis.kill()
    token, seat = study.raters[1].token, Seat("first", study.raters[1].id, study.raters[1].clips, study.folder)
    with pytest.raises(StoreUnavailable):
        studies.vote(token, seat, seat.clips[0], Vote(GOOD, 1))
    own_redis.start()
    assert studies.ballots("first") == before
    assert studies.vote(token, seat, seat.clips[0], Vote(GOOD, 1)) == Vote(GOOD, 1)
    client.close()


def test_whose_votes_count(studies: StudyStore) -> None:
    study = a_study(raters=4)
    studies.create(study)
    vote_all(studies, study, 0)
    vote_all(studies, study, 1, check=POOR)
    token, seat = seats(studies, study)[2]
    studies.vote(token, seat, seat.clips[0], Vote(GOOD, 1))
    results = rater_results(study, studies.ballots("first"))
    assert [each.standing for each in results] == [
        Standing.COUNTED,
        Standing.FAILED,
        Standing.UNSUBMITTED,
        Standing.UNUSED,
    ]
    assert [each.rated for each in results] == [7, 7, 1, 0]
    assert rater_results(study, studies.ballots("first"), allowed=1)[1].standing is Standing.COUNTED
