"""`GET /jobs/{id}/events`, as clients see it."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterable

import httpx
import pytest
import redis
import uvicorn

from service.api import events as route
from service.app import create_app
from service.jobs.connection import connect
from service.jobs.event_keys import CHANNEL, events_key
from service.jobs.events import Events, Preview, Previews, Sprite
from service.jobs.record import Job, JobError, Progress, StaleClaim
from service.jobs.store import JobStore
from service.server import Server
from service.settings import Settings
from tests.conftest import RedisServer, RunningApi
from tests.service.answers import problem
from tests.service.keys import client_of, with_keys
from tests.service.new_jobs import OUTPUT, TIMINGS, a_job
from tests.service.streams import Stream
from tests.waiting import until

WEBP = b"RIFF\n\x00\xffWEBP"


def queued(store: JobStore, **changes: object) -> tuple[Job, str]:
    """A job that waits, and its path."""
    job = a_job(**changes)  # type: ignore[arg-type]
    store.create(job)
    return job, f"/jobs/{job.id}"


def begin(store: JobStore, job: Job) -> int:
    """As a worker does; returns the token."""
    claimed = store.claim(job.id, "a worker")
    assert claimed is not None
    store.start(job.id, claimed.attempt)
    return claimed.attempt


def step(number: int, stage: str = "base") -> Progress:
    return Progress(stage, number, 20, number / 20, 20.0 - number)


def picture(index: int = 0, number: int = 5) -> Preview:
    return Preview(index, "base", number, 20, Sprite(WEBP, 4, 4, 16, 64, 64), ((-0.25, 0.5),) * 160)


def test_a_job_is_seen_from_queue_to_end(client: httpx.Client, store: JobStore) -> None:
    job, url = queued(store)
    with Stream(client, url) as stream:
        assert stream.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert stream.response.headers["cache-control"] == "no-store"
        snapshot = stream.next()
        assert (snapshot.kind, snapshot.data) == ("status", client.get(url).json())
        assert stream.retry == 2000

        token = begin(store, job)
        running = stream.next()
        assert (running.kind, running.data["status"], running.data["attempt"]) == ("status", "in_progress", 1)
        store.progress(job.id, token, step(7))
        told = stream.next()
        assert (told.kind, told.data) == (
            "progress",
            {
                "stage": "base",
                "step": 7,
                "total_steps": 20,
                "progress": 0.35,
                "eta_seconds": 13.0,
                "queue_position": None,
                "attempt": 1,
            },
        )
        store.complete(job.id, token, [OUTPUT], TIMINGS)
        (end,) = stream.rest()
        assert (end.kind, end.data) == ("completed", client.get(url).json())
        assert end.data["outputs"]
        ids = [tuple(map(int, event.id.split("-"))) for event in (snapshot, running, told, end)]
        assert ids == sorted(set(ids)), "each event has an id of its own, and they rise"


def test_the_job_links_to_its_events(client: httpx.Client) -> None:
    made = client.post("/v1/generate").json()
    assert made["urls"]["events"] == f"{made['urls']['self']}/events"
    with Stream(client, made["urls"]["self"]) as stream:
        assert stream.next().data["urls"]["self"].startswith("/v1/")


@pytest.mark.parametrize("kind", ["completed", "failed", "canceled"])
def test_the_stream_of_an_ended_job_is_its_last_event(client: httpx.Client, store: JobStore, kind: str) -> None:
    job, url = queued(store)
    if kind == "canceled":
        store.request_cancel(job.id)
    elif kind == "failed":
        store.fail(job.id, begin(store, job), JobError("internal_error", "it broke", False, 1))
    else:
        store.complete(job.id, begin(store, job), [OUTPUT], TIMINGS)
    with Stream(client, url) as stream:
        (end,) = stream.rest()
    assert (end.kind, end.data) == (kind, client.get(url).json())
    # A browser comes back when a stream has ended, unless it is told that there is nothing more.
    again = client.get(f"{url}/events", headers={"Last-Event-ID": end.id})
    assert (again.status_code, again.content) == (204, b"")


def test_a_reconnected_client_misses_nothing(client: httpx.Client, store: JobStore) -> None:
    job, url = queued(store)
    with Stream(client, url) as stream:
        last = stream.next().id
    token = begin(store, job)
    for number in range(1, 151):  # more than is read at once
        store.progress(job.id, token, Progress("base", number, 150, number / 150))
    store.complete(job.id, token, [OUTPUT], TIMINGS)
    with Stream(client, url, last) as stream:
        events = stream.rest()
    assert [event.kind for event in events] == ["status", *["progress"] * 150, "completed"]
    assert events[0].data["status"] == "in_progress", "as it was then"
    assert [event.data["step"] for event in events[1:-1]] == list(range(1, 151))
    with Stream(client, url, events[99].id) as stream:
        assert stream.rest() == events[100:]


def test_another_api_process_continues_the_stream(
    client: httpx.Client, store: JobStore, settings: Settings, run_api: Callable[[Settings], RunningApi]
) -> None:
    job, url = queued(store)
    token = begin(store, job)
    with Stream(client, url) as stream:
        stream.next()
        store.progress(job.id, token, step(1))
        last = stream.next("progress").id
    other = run_api(settings)
    with httpx.Client(base_url=other.url, trust_env=False) as elsewhere, Stream(elsewhere, url, last) as stream:
        store.progress(job.id, token, step(2))
        assert stream.next().data["step"] == 2


@pytest.mark.parametrize("last", ["1-0", "99999999999999-0", "99999999999999999999-99999999999999999999", "0-0"])
def test_an_unknown_last_event_id_starts_anew(client: httpx.Client, store: JobStore, last: str) -> None:
    job, url = queued(store)
    begin(store, job)
    with Stream(client, url, last) as stream:
        first = stream.next()
    assert (first.kind, first.data["status"]) == ("status", "in_progress")


@pytest.mark.parametrize("last", ["x", "5", "5-", "-5-1", "5-1-1", "١-١", "5-1\u00e9"])
def test_an_invalid_event_id_is_refused(client: httpx.Client, store: JobStore, last: str) -> None:
    _, url = queued(store)
    answer = client.get(f"{url}/events", headers={"Last-Event-ID": last.encode()})
    (error,) = problem(answer, 422, "invalid_parameter")["errors"]
    assert error["field"] == "Last-Event-ID"


def test_an_expired_stream_starts_anew(client: httpx.Client, store: JobStore, settings: Settings) -> None:
    job, url = queued(store)
    with Stream(client, url) as stream:
        last = stream.next().id
    token = begin(store, job)
    with redis.Redis.from_url(settings.redis_url) as plain:
        plain.delete(events_key(job.id))
    with Stream(client, url, last) as stream:
        assert stream.next().data["status"] == "in_progress"
    store.complete(job.id, token, [OUTPUT], TIMINGS)
    with redis.Redis.from_url(settings.redis_url) as plain:
        assert 3500 < int(plain.ttl(events_key(job.id))) <= 3600  # type: ignore[arg-type]
        plain.delete(events_key(job.id))
    with Stream(client, url, last) as stream:
        (end,) = stream.rest()
    assert end.kind == "completed"
    assert client.get(f"{url}/events", headers={"Last-Event-ID": end.id}).status_code == 204


def test_no_event_is_lost_between_the_first_status_and_the_stream(client: httpx.Client, store: JobStore) -> None:
    """Clients that come at any moment of a busy job see every step after the one that they began with."""
    job, url = queued(store)
    token = begin(store, job)
    stop = threading.Event()
    done = 0

    def work() -> None:
        nonlocal done
        while not stop.is_set():
            done += 1
            store.progress(job.id, token, Progress("base", done, 10_000, 0.5))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for _ in range(20):
            with Stream(client, url) as stream:
                began = stream.next().data["step"]
                steps = [stream.next().data["step"] for _ in range(20)]
            assert steps == list(range(steps[0], steps[0] + 20))
            assert began is None or steps[0] <= began + 1
    finally:
        stop.set()
        worker.join()


def test_a_queued_job_reports_its_position(client: httpx.Client, store: JobStore) -> None:
    first, _ = queued(store)
    second, _ = queued(store)
    job, url = queued(store)
    with Stream(client, url) as stream:
        assert stream.next().data["queue_position"] == 2
        stream.nothing(1.5)
        store.request_cancel(first.id)
        moved = stream.next(seconds=3)
        assert (moved.kind, moved.data["queue_position"], moved.data["stage"]) == ("progress", 1, None)
        begin(store, second)
        assert stream.next(seconds=3).data["queue_position"] == 0
        begin(store, job)
        assert stream.next().kind == "status"
        stream.nothing(1.5)
    with Stream(client, url, moved.id) as stream:
        assert stream.next().data["status"] == "in_progress"


def test_a_requeued_job_is_reported(client: httpx.Client, store: JobStore) -> None:
    job, url = queued(store)
    token = begin(store, job)
    with Stream(client, url) as stream:
        stream.next()
        store.progress(job.id, token, step(3))
        store.strike(job.id, token, JobError("internal_error", "it broke", True, 1))
        assert stream.next().kind == "progress"
        assert stream.next().data["status"] == "queued"
        begin(store, job)
        again = stream.next("status")
        assert (again.data["status"], again.data["attempt"]) == ("in_progress", 2)
        with pytest.raises(StaleClaim):
            store.progress(job.id, token, step(4))
        store.progress(job.id, 2, step(1))
        assert stream.next("progress").data["attempt"] == 2
        store.request_cancel(job.id)
        assert stream.next().data["cancel_requested_at"]
        store.cancelled(job.id, 2)
        assert [event.kind for event in stream.rest()] == ["canceled"]


def test_previews_arrive_as_pictures(client: httpx.Client, store: JobStore, settings: Settings) -> None:
    previews = Previews(connect(settings))
    job, url = queued(store)
    token = begin(store, job)
    with Stream(client, url) as stream:
        stream.next()
        previews.publish(job.id, token, picture())
        shown = stream.next()
        assert shown.kind == "preview"
        address = shown.data["sprite"].pop("url")
        assert address.startswith("data:image/webp;base64,")
        assert base64.b64decode(address.partition(",")[2]) == WEBP
        assert shown.data == {
            "attempt": 1,
            "index": 0,
            "stage": "base",
            "step": 5,
            "total_steps": 20,
            "sprite": {"columns": 4, "rows": 4, "frames": 16, "width": 64, "height": 64},
            "waveform": [[-0.25, 0.5]] * 160,
        }
        previews.publish(job.id, token, Preview(0, "base", 8, 20, None, None))
        both = stream.next().data
        assert (both["sprite"], both["waveform"]) == (None, None)


def test_a_late_client_receives_the_latest_previews(client: httpx.Client, store: JobStore, settings: Settings) -> None:
    previews = Previews(connect(settings))
    job, url = queued(store)
    with Stream(client, url) as stream:
        last = stream.next().id
    token = begin(store, job)
    for number in (3, 6, 9):
        for index in (0, 1):
            previews.publish(job.id, token, picture(index, number))
        store.progress(job.id, token, step(number))
    with Stream(client, url) as stream:
        events = [stream.next() for _ in range(3)]
    assert [event.kind for event in events] == ["status", "preview", "preview"]
    assert [(event.data["index"], event.data["step"]) for event in events[1:]] == [(0, 9), (1, 9)]
    with Stream(client, url, last) as stream:
        events = [stream.next() for _ in range(6)]
    kinds = ["status", "progress", "progress", "preview", "preview", "progress"]
    assert [event.kind for event in events] == kinds, "of previews the last of each output"


@pytest.mark.timed
def test_the_stream_sends_heartbeats(client: httpx.Client, store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert route.HEARTBEAT_S == 15
    monkeypatch.setattr(route, "HEARTBEAT_S", 0.2)
    _, url = queued(store)
    with Stream(client, url) as stream:
        stream.next()
        until(lambda: stream.comments >= 3, "three comments came", 5)
        stream.nothing(0.1)


def test_the_end_is_reported_even_if_the_stream_has_lost_it(
    client: httpx.Client, store: JobStore, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "HEARTBEAT_S", 0.5)
    job, url = queued(store)
    with Stream(client, url) as stream:
        stream.next()
        with redis.Redis.from_url(settings.redis_url) as plain, plain.pipeline() as together:
            ended = store.get(job.id).to_json().replace('"queued"', '"canceled"')
            together.set(f"duet:job:{job.id}", ended).delete(events_key(job.id)).execute()
        assert [event.kind for event in stream.rest()] == ["canceled"]
    with Stream(client, queued(store)[1]) as stream:
        stream.next()
        with redis.Redis.from_url(settings.redis_url) as plain:
            plain.flushall()
        assert [event.kind for event in stream.rest()] == ["gone"]


def test_an_erased_job_ends_its_streams(client: httpx.Client, store: JobStore) -> None:
    job, url = queued(store)
    with Stream(client, url) as stream:
        stream.next()
        assert client.delete(url).status_code == 204
        (gone,) = stream.rest()
        assert (gone.kind, gone.data) == ("gone", {"id": job.id})
    problem(client.get(f"{url}/events"), 410, "gone")
    problem(client.get("/jobs/job_00000000000000000000000000/events"), 404, "unknown_job")


def test_the_head_of_a_stream_is_an_answer_that_ends(client: httpx.Client, store: JobStore) -> None:
    _, url = queued(store)
    head = client.head(f"{url}/events")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == "text/event-stream; charset=utf-8"


@pytest.mark.timed
def test_the_stream_survives_a_restart_of_redis(
    own_redis: RedisServer, settings: Settings, run_api: Callable[[Settings], RunningApi]
) -> None:
    api = run_api(settings.model_copy(update={"redis_url": own_redis.url}))
    store = JobStore(connect(Settings(redis_url=own_redis.url)))
    job, url = queued(store)
    with httpx.Client(base_url=api.url, trust_env=False) as client, Stream(client, url) as stream:
        stream.next()
        own_redis.kill()
        problem(client.get(f"{url}/events"), 503, "queue_unavailable")
        stream.nothing(1)
        own_redis.start()
        token = begin(store, job)
        assert stream.next("status").data["status"] == "in_progress"
        store.progress(job.id, token, step(1))
        began = time.monotonic()
        assert stream.next().data["step"] == 1
        store.complete(job.id, token, [OUTPUT], TIMINGS)
        assert stream.rest()[-1].kind == "completed"
        assert time.monotonic() - began < 3, "it is woken again, and need not wait for the next breath"


@pytest.mark.timed
def test_a_server_has_a_maximum_of_followers(
    settings: Settings, store: JobStore, run_api: Callable[[Settings], RunningApi]
) -> None:
    api = run_api(settings.model_copy(update={"max_event_streams": 3}))
    job, url = queued(store)
    with httpx.Client(base_url=api.url, trust_env=False) as client:
        streams = [Stream(client, url) for _ in range(3)]
        for stream in streams:
            stream.next()
        refused = client.get(f"{url}/events")
        problem(refused, 503, "too_many_streams")
        assert int(refused.headers["retry-after"]) >= 1
        streams.pop().close()  # the client goes away, and its place is free

        def free() -> bool:
            streams.append(Stream(client, url))
            return streams[-1].response.status_code == 200

        until(free, "the place of the client that went away is free", 5)
        store.complete(job.id, begin(store, job), [OUTPUT], TIMINGS)
        assert streams[0].rest()[-1].kind == "completed"
        for stream in streams:
            stream.close()


@pytest.mark.timed
def test_two_hundred_pages_receive_a_step_within_seconds(
    settings: Settings, store: JobStore, run_api: Callable[[Settings], RunningApi]
) -> None:
    api = run_api(settings)
    jobs = [queued(store) for _ in range(10)]
    tokens = [begin(store, job) for job, _ in jobs]
    limits = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=api.url, trust_env=False, limits=limits, timeout=30) as client:
        streams = [Stream(client, url) for _, url in jobs for _ in range(20)]
        for stream in streams:
            stream.next()
        began = time.monotonic()
        for (job, _), token in zip(jobs, tokens, strict=True):
            store.progress(job.id, token, step(1))
        assert {stream.next().data["step"] for stream in streams} == {1}
        assert time.monotonic() - began < 3
        for stream in streams:
            stream.close()


def test_with_keys_only_the_owner_follows(
    settings: Settings, store: JobStore, run_api: Callable[[Settings], RunningApi]
) -> None:
    api = run_api(with_keys(settings))
    with client_of(api, "alice") as alice, client_of(api, "bob") as bob, client_of(api, None) as stranger:
        url = alice.post("/generate").json()["urls"]["self"]
        job = store.get(url.rpartition("/")[2])
        problem(bob.get(f"{url}/events"), 404, "unknown_job")
        problem(stranger.get(f"{url}/events"), 401, "unauthorized")
        with Stream(alice, url) as stream:
            stream.next()
            store.complete(job.id, begin(store, job), [OUTPUT], TIMINGS)
            end = stream.rest()[-1]
        file = end.data["outputs"][0]["files"]["video.mp4"]
        assert "signature=" in file
        assert stranger.get(file).status_code != 401, "the page can fetch what the event names"


def test_open_streams_do_not_delay_the_end_of_a_server(settings: Settings, store: JobStore) -> None:
    app = create_app(settings)
    server = Server(uvicorn.Config(app, port=0, log_config=None), app)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, "the API listens")
    port = server.servers[0].sockets[0].getsockname()[1]
    _, url = queued(store)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client, Stream(client, url) as stream:
        assert stream.next().kind == "status"
        server.should_exit = True
        assert stream.rest(5) == [], "the job goes on, and the client elsewhere"
        thread.join(5)
        assert not thread.is_alive()


@pytest.mark.parametrize("what", ["noise", "an unknown error"])
def test_streams_survive_unexpected_messages_and_errors(
    what: str,
    run_api: Callable[[Settings], RunningApi],
    settings: Settings,
    store: JobStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A task that ended would leave every stream silent until its next comment."""
    woken = Events._wake

    def fails_once(self: Events, job_ids: Iterable[str], erased: bool = False) -> None:
        monkeypatch.setattr(Events, "_wake", woken)
        raise LookupError("nobody expects this")

    api = run_api(settings)
    job, url = queued(store)
    with httpx.Client(base_url=api.url, trust_env=False) as client, Stream(client, url) as stream:
        stream.next()
        if what == "noise":
            store._redis.publish(CHANNEL, b"\xff\xfe")
        else:
            monkeypatch.setattr(Events, "_wake", fails_once)
        store._redis.publish(CHANNEL, b"job_of_nobody")
        until(lambda: Events._wake is woken, "it has failed")
        began = time.monotonic()
        begin(store, job)
        while stream.next().data["status"] != "in_progress":
            pass
        assert time.monotonic() - began < 5


def test_progress_is_appended_to_the_stream_in_the_same_script(store: JobStore, settings: Settings) -> None:
    job, _ = queued(store)
    token = begin(store, job)
    store.progress(job.id, token, step(7))
    store.complete(job.id, token, [OUTPUT], TIMINGS)
    store.complete(job.id, token, [OUTPUT], TIMINGS)  # sent again, as by a worker whose answer was lost
    with redis.Redis.from_url(settings.redis_url) as plain:
        entries = plain.xrange(events_key(job.id))
    kinds = [what[b"kind"].decode() for _, what in entries]  # type: ignore[union-attr]
    assert kinds == ["status", "status", "progress", "completed"]
    assert json.loads(entries[0][1][b"data"])["status"] == "queued"  # type: ignore[index]
