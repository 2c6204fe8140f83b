"""The Python client, blocking and for asyncio, with a real API: requests, results, errors and lost connections."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from duet.client import (
    AsyncDuet,
    Duet,
    Event,
    Job,
    JobCanceled,
    JobFailed,
    JobGone,
    Refused,
    RetryPolicy,
    ServerUnreachable,
    StillRunning,
)
from duet.client.events import read, source
from service.app import create_app
from service.jobs.record import Progress
from service.jobs.store import JobStore
from service.settings import Settings
from tests.chaos.proxy import Proxy
from tests.conftest import RunningApi
from tests.service import media
from tests.service.keys import KEYS, with_keys
from tests.service.new_jobs import OUTPUT, TIMINGS
from tests.tcp_server import TcpServer, cut, pump
from tests.workers.fake import FakeWorker

QUICK = RetryPolicy((0.05, 0.1, 0.2, 0.4))


@pytest.fixture
def duet(settings: Settings, shared_api: RunningApi) -> Iterator[Duet]:
    """A client of an API without jobs."""
    with Duet(shared_api.url, retry=QUICK) as duet:
        yield duet


@pytest.fixture
def work(settings: Settings, tmp_path: Path) -> Iterator[Callable[[float], FakeWorker]]:
    """Starts a worker whose jobs have five steps of this duration."""
    workers: list[FakeWorker] = []

    def start(step_seconds: float = 0.01) -> FakeWorker:
        told = Settings(redis_url=settings.redis_url, data=settings.data)
        workers.append(FakeWorker(told, tmp_path, step_seconds * 5))
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()


@contextmanager
def between(api: RunningApi) -> Iterator[Proxy]:
    """A proxy in front of the API, which can be made unreachable."""
    with closing(Proxy(("127.0.0.1", api.port))) as proxy:
        yield proxy


class ForgetfulServer(TcpServer):
    """A proxy that forwards all requests, but loses the first `lost` responses."""

    def __init__(self, api: RunningApi, lost: int) -> None:
        self.lost = lost
        self._target = ("127.0.0.1", api.port)
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}"

    def serve(self, client: socket.socket) -> None:
        with socket.create_connection(self._target) as server:
            threading.Thread(target=pump, args=[client, server], daemon=True).start()
            while data := server.recv(65536):
                if self.lost:
                    self.lost -= 1
                    cut(client)
                    cut(server)
                    return
                client.sendall(data)


class WithoutEvents:
    """An API without event streams."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        missing = scope["type"] == "http" and scope["path"].endswith("/events")
        await (PlainTextResponse("no such page", 404) if missing else self._app)(scope, receive, send)


def test_one_line_from_a_video_to_a_clip(duet: Duet, work: Callable[[], FakeWorker], tmp_path: Path) -> None:
    work()
    (tmp_path / "beach.mp4").write_bytes(media.video(3.0))
    job = duet.v2a(tmp_path / "beach.mp4", seed=7, start=0.5, metadata={"shot": "12"}).wait()
    path = job.save(tmp_path / "out.mp4")
    assert json.loads(path.read_text())["job"] == job.id
    assert (job.kind, job.status, job.seed, job.progress) == ("v2a", "completed", 7, 1.0)
    assert (job.params["start"], job.metadata) == (0.5, {"shot": "12"})
    assert set(job.outputs[0].files) >= {"video.mp4", "audio.wav", "manifest.json"}
    assert job.read() == path.read_bytes()
    assert job.read(limit=path.stat().st_size) == path.read_bytes()
    assert job.read(limit=path.stat().st_size - 1) is None
    folder = tmp_path / "results"
    folder.mkdir()
    assert job.save(folder, file="manifest.json") == folder / "manifest.json"
    assert [each.name for each in folder.iterdir()] == ["manifest.json"], "nothing half-done is left"
    with pytest.raises(ValueError, match=r"no file 'video.avi'; its files are .*video\.mp4"):
        job.save(folder, file="video.avi")
    with pytest.raises(ValueError, match="no output 3"):
        job.save(folder, output=3)


def test_progress_is_reported_as_it_happens(duet: Duet, work: Callable[[float], FakeWorker]) -> None:
    job = duet.generate(seed=1, num_outputs=2)
    assert (job.status, job.ended) == ("queued", False)
    told: list[tuple[str, int | None, float]] = []
    work(0.25)
    job.wait(lambda news: told.append((news.status, news.step, news.progress)), timeout=60)
    assert [status for status, _, _ in told][-1] == "completed"
    shares = [share for _, _, share in told]
    assert shares == sorted(shares)
    assert {step for status, step, _ in told if status == "in_progress"} >= {2, 3, 4}
    assert [output.index for output in job.outputs] == [0, 1]


def test_events_end_with_the_job(duet: Duet, work: Callable[[float], FakeWorker]) -> None:
    job = duet.generate()
    work(0.1)
    seen = list(job.events())
    assert seen[0].name == "status"
    assert seen[0].data["status"] == "queued"
    assert (seen[-1].name, seen[-1].last, seen[-1].data["status"]) == ("completed", True, "completed")
    assert "progress" in {event.name for event in seen}
    assert all(event.id for event in seen)


def test_asyncio_has_the_same(shared_api: RunningApi, work: Callable[[float], FakeWorker], tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(media.sound())
    sent: list[tuple[int, int]] = []
    told: list[str] = []

    async def use() -> None:
        async def hear(job: object) -> None:
            await asyncio.sleep(0)
            told.append(getattr(job, "status"))  # noqa: B009  # any job will do

        async with AsyncDuet(shared_api.url, retry=QUICK) as duet:
            job = await duet.a2v(tmp_path / "song.wav", seed=3, on_upload=lambda done, size: sent.append((done, size)))
            other = await duet.generate()
            assert [each.id for each in await duet.jobs()] == [other.id, job.id]
            assert [each.id for each in await duet.jobs(kind="a2v")] == [job.id]
            assert (await other.cancel()).status == "canceled"
            work(0.01)
            names = [event.name async for event in job.events()]
            assert names[-1] == "completed"
            await job.wait(hear, timeout=30)
            path = await job.save(tmp_path / "seen.mp4")
            assert json.loads(path.read_text())["job"] == job.id
            again = await (await job.retry()).wait(hear)
            assert again.data["retried_from"] == job.id
            await again.delete()
            with pytest.raises(Refused) as refused:
                await again.refresh()
            assert refused.value.status == 410
            assert (await duet.models())[0].name == "demo"
            assert (await duet.reload_models())["changed"] == []

    asyncio.run(use())
    size = (tmp_path / "song.wav").stat().st_size
    assert sent[-1] == (size, size)
    assert told[-1] == "completed"


def test_a_refusal_names_fields_and_limits(duet: Duet, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refused:
        duet.generate(steps=0, sampler="euler")
    error = refused.value
    assert (error.status, error.code) == (422, "invalid_parameter")
    assert {each.field: each.got for each in error.errors} == {"steps": 0, "sampler": "euler"}
    assert "steps: got 0, allowed: an integer 1 … 1000" in str(error)
    assert len(error.request_id) > 8
    (tmp_path / "text.mp4").write_text("not a film")
    with pytest.raises(Refused, match="unsupported_media"):
        duet.v2a(tmp_path / "text.mp4")
    with pytest.raises(Refused, match="unknown_job"):
        duet.job("job_00000000000000000000000000")
    with pytest.raises(FileNotFoundError):
        duet.v2a(tmp_path / "missing.mp4")
    with pytest.raises(ValueError, match="http:// or https://"):
        Duet("127.0.0.1:8000")


def test_a_job_without_result_raises(duet: Duet, work: Callable[[float], FakeWorker]) -> None:
    canceled, deleted = duet.generate(), duet.generate()
    canceled.cancel()
    assert canceled.cancel().status == "canceled", "that it is canceled already is no error"
    with pytest.raises(JobCanceled):
        canceled.wait()
    with pytest.raises((JobGone, Refused)):
        deleted.wait(lambda news: news.delete(), timeout=60)
    failing = duet.generate(metadata={"behaviour": "raise"})
    work(0.01)
    with pytest.raises(JobFailed, match="its log says why") as failed:
        failing.wait(timeout=60)
    assert (failed.value.code, failed.value.retryable) == ("internal_error", True)
    done = duet.generate().wait()
    with pytest.raises(Refused, match="already_ended"):
        done.cancel()


def test_wait_ends_at_its_timeout(duet: Duet) -> None:
    job = duet.generate()
    with pytest.raises(StillRunning, match=r"within 0\.5 s"):
        job.wait(timeout=0.5)
    with pytest.raises(TimeoutError):
        job.wait(timeout=0.1)
    assert job.refresh().status == "queued"


@pytest.mark.parametrize("upload", [False, True])
def test_a_lost_response_creates_no_second_job(
    duet: Duet, shared_api: RunningApi, upload: bool, tmp_path: Path
) -> None:
    (tmp_path / "song.wav").write_bytes(media.sound(20.0))
    with closing(ForgetfulServer(shared_api, lost=2)) as forgetful, Duet(forgetful.url, retry=QUICK) as through:
        job = through.a2v(tmp_path / "song.wav") if upload else through.generate()
        assert forgetful.lost == 0
    assert [each.id for each in duet.jobs()] == [job.id]


def test_requests_are_retried_until_the_server_is_back(shared_api: RunningApi, duet: Duet) -> None:
    with between(shared_api) as proxy, Duet(f"http://127.0.0.1:{proxy.port}", retry=QUICK) as through:
        proxy.take_away()
        threading.Timer(0.3, proxy.put_back).start()
        assert through.models()
        proxy.take_away()
        with pytest.raises(ServerUnreachable, match=f"Cannot reach the server at http://127.0.0.1:{proxy.port}"):
            through.models()


def test_a_broken_event_stream_is_resumed(
    shared_api: RunningApi, duet: Duet, work: Callable[[float], FakeWorker]
) -> None:
    with between(shared_api) as proxy, Duet(f"http://127.0.0.1:{proxy.port}", retry=QUICK) as through:
        job = through.generate()
        work(0.4)
        seen: list[Event] = []
        for event in job.events():
            seen.append(event)
            if event.name == "progress" and event.data["step"] == 2:
                proxy.take_away()
                proxy.put_back()
    steps = [event.data["step"] for event in seen if event.name == "progress" and event.data["stage"]]
    assert steps == sorted(set(steps)), "none twice"
    assert seen[-1].name == "completed"


def test_jobs_are_polled_without_an_event_stream(settings: Settings, store: JobStore) -> None:
    app = create_app(settings)
    app.add_middleware(WithoutEvents)
    api = RunningApi(app)
    api.start()
    told: list[float] = []
    with ExitStack() as ends:
        ends.callback(api.stop)
        duet = ends.enter_context(Duet(api.url, retry=QUICK))
        job = duet.generate()
        with pytest.raises(Refused, match="http_404"):
            next(iter(job.events()))
        assert store.claim(job.id, "a worker") is not None
        store.start(job.id, 1)

        def hear(news: Job) -> None:
            """Each step is made once the client has heard of the one before it, however long it takes to ask."""
            told.append(news.progress)
            if news.progress == 0.0:
                store.progress(job.id, 1, Progress("base", 2, 5, 0.4))
            elif news.progress == 0.4:
                store.complete(job.id, 1, [OUTPUT], TIMINGS)

        job.wait(hear, timeout=60)
    assert job.status == "completed"
    assert told == [0.0, 0.4, 1.0]


def test_the_key_is_sent_only_to_its_server(
    run_api: Callable[[Settings], RunningApi], settings: Settings, work: Callable[[float], FakeWorker], tmp_path: Path
) -> None:
    api = run_api(with_keys(settings))
    with pytest.raises(Refused) as refused, Duet(api.url) as nobody:
        nobody.jobs()
    assert refused.value.status == 401
    work(0.01)
    with Duet(api.url, KEYS["alice"]) as duet:
        job = duet.generate().wait(timeout=60)
        assert job.save(tmp_path / "clip.mp4").stat().st_size > 0
        with socket.create_server(("127.0.0.1", 0)) as elsewhere:
            elsewhere.settimeout(10)
            heard: list[bytes] = []

            def listen() -> None:
                connection, _ = elsewhere.accept()
                with connection:
                    heard.append(connection.recv(65536))
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nclip")

            thread = threading.Thread(target=listen)
            thread.start()
            signed = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/bucket/video.mp4?signature=1"
            job.data["outputs"][0]["files"]["video.mp4"] = signed
            assert job.save(tmp_path / "signed.mp4").read_bytes() == b"clip"
            thread.join()
    assert heard[0].startswith(b"GET /bucket/video.mp4?signature=1 ")
    assert b"authorization" not in heard[0].lower()


def test_long_lists_of_jobs_are_paged(duet: Duet) -> None:
    made = [duet.generate(seed=number).id for number in range(7)]
    assert [job.id for job in duet.jobs(limit=5)] == made[:1:-1]
    assert len(duet.jobs(limit=100)) == 7


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_event_streams_are_parsed_in_any_chunks(size: int, end: str) -> None:
    lines = ["\ufeffretry: 2000", "", ": still here", "id: 5-0", "event: status", 'data: {"name":', 'data: "ä €"}', ""]
    lines += ["event: progress", "unknown: field", 'data: {"step": 1}', "", "event: gone", "data", "", "event: cut", ""]
    stream = end.join(lines).encode()
    pieces = (stream[at : at + size] for at in range(0, len(stream), size))
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream; charset=latin-1"}, content=pieces)
    messages = list(source(response).iter_sse())
    assert [event for event in map(read, messages) if event] == [
        Event("status", {"name": "ä €"}, "5-0"),
        Event("progress", {"step": 1}, "5-0"),
        Event("gone", {}, "5-0"),
    ]
    assert [message.retry for message in messages if message.retry is not None] == [2000]


def test_an_edit_is_submitted_with_its_mask(duet: Duet, settings: Settings, tmp_path: Path) -> None:
    """By both clients: a region given by a mask, and a retake without one."""
    film, mask = tmp_path / "film.mp4", tmp_path / "mask.png"
    film.write_bytes(media.video(2.0, sound=True))
    mask.write_bytes(media.png())
    job = duet.edit(film, region={"start": 0.5, "end": 1.0}, mask=mask, seed=3)
    assert (job.kind, job.params["region"]) == ("edit", {"start": 0.5, "end": 1.0, "audio": "keep"})
    assert httpx.get(duet.endpoint.url + job.data["urls"]["mask"]).content == mask.read_bytes()

    async def submit() -> dict[str, object]:
        async with AsyncDuet(duet.endpoint.url) as client:
            return (await client.edit(film, retake={"audio": [(0.2, 0.6)]}, mix="under")).params

    params = asyncio.run(submit())
    assert (params["retake"], params["mix"]) == ({"audio": [[0.2, 0.6]]}, "under")
