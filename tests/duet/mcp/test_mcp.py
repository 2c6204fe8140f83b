"""`duet mcp` as a process, with the client of the `mcp` package, a real API and a worker whose model takes no time."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import httpx2
import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import CallToolResult

from duet.client import AsyncDuet, RetryPolicy
from duet.mcp.server import Options, create_server
from duet.mcp.sources import MAX_DATA
from duet.mcp.transports import MAX_BODY, http_app
from service.jobs.record import JobError, Progress
from service.jobs.store import JobStore
from service.settings import Settings
from tests.command_line import invoke
from tests.conftest import RedisServer, RunningApi
from tests.duet.cli.conftest import Cli, Server, command, environment, running
from tests.service import media
from tests.service.completed import completing
from tests.service.keys import KEYS, with_keys
from tests.waiting import until

TOKEN = "a-token-of-the-tests"
MAKING = ("generate", "sound_for_video", "video_for_sound", "edit")


@pytest.fixture(scope="module")
def service(shared_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An API with a worker whose jobs have five steps of 0.05 s."""
    with running(f"{shared_redis.url}?db=4", tmp_path_factory.mktemp("service")) as server:
        server.work(0.05)
        yield server


@pytest.fixture
def idle_service(shared_redis: RedisServer, tmp_path: Path) -> Iterator[Server]:
    """An API without a worker: its jobs stay in the queue."""
    with running(f"{shared_redis.url}?db=5", tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def over_http(service: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of `duet mcp --http` with a token."""
    folder = tmp_path_factory.mktemp("http")
    cli = Cli(folder, DUET_URL=service.url, DUET_MCP_TOKEN=TOKEN)
    with (folder / "log").open("wb") as log:
        process = cli.start("mcp", "--http", "--port", 0, stderr=log.fileno())

    def url() -> str | None:
        text = (folder / "log").read_text()
        assert process.poll() is None, text
        return text.partition("MCP server at ")[2].strip() or None

    yield until(url, "the MCP server listens", 60)
    process.terminate()
    process.communicate(timeout=20)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("upload") / "beach.mp4"
    path.write_bytes(media.video(2.0, sound=True))
    return path


def in_time(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 120))


@asynccontextmanager
async def over_stdio(service: Server, strays: list[object]) -> AsyncIterator[Client]:
    """A client of a process of its own; `strays`: what was not a message of the protocol."""
    program, *arguments = command("mcp", "--url", service.url)
    parameters = StdioServerParameters(command=program, args=arguments, env=environment(PYTHONPATH=str(Path.cwd())))

    async def listen(message: object) -> None:
        if isinstance(message, Exception):
            strays.append(message)

    async with Client(stdio_client(parameters, sys.stderr), message_handler=listen) as client:
        yield client


@asynccontextmanager
async def with_token(url: str, token: str = TOKEN) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=120, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield client


def words(result: CallToolResult) -> str:
    return result.content[0].text


def links(result: CallToolResult) -> dict[str, str]:
    return {each.name: each.uri for each in result.content if each.type == "resource_link"}


def done(result: CallToolResult) -> dict[str, Any]:
    assert not result.is_error, words(result)
    job = result.structured_content
    assert job["status"] == "completed"
    return job


async def refusal(client: Client, tool: str, **arguments: object) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error, f"{tool} took {arguments}"
    assert "Traceback" not in words(result)
    return words(result)


def test_every_tool_over_stdio(service: Server, film: Path, tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(media.sound())
    told: list[tuple[float, float | None, str | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append((done, total, message))

    async def talk() -> None:
        strays: list[object] = []
        async with over_stdio(service, strays) as client:
            arguments = {"seed": 7, "num_outputs": 2, "save_to": str(tmp_path / "clips")}
            result = await client.call_tool("generate", arguments, progress_callback=progress)
            job = done(result)
            assert (job["kind"], job["seed"], [each["seed"] for each in job["outputs"]]) == ("generate", 7, [7, 7])
            shares = [share for share, _, _ in told]
            assert shares == sorted(set(shares)), "the progress grows"
            assert shares[-1] == 1.0
            assert {total for _, total, _ in told} == {1.0}

            assert set(links(result)) == {
                f"{index}-{name}" for index in (0, 1) for name in ("video.mp4", "audio.wav", "manifest.json")
            }
            for name, url in links(result).items():
                content = httpx.get(url, trust_env=False, timeout=120).raise_for_status().content
                assert json.loads(content)["index"] == int(name[0])
            embedded = [each.resource for each in result.content if each.type == "resource"]
            assert [each.mime_type for each in embedded] == ["video/mp4", "video/mp4"]
            assert embedded[0].uri == links(result)["0-video.mp4"]
            assert json.loads(base64.b64decode(embedded[1].blob))["index"] == 1
            for index, output in enumerate(job["outputs"]):
                assert json.loads(Path(output["saved"]["video.mp4"]).read_text())["index"] == index
            assert len(list((tmp_path / "clips").iterdir())) == 4

            result = await client.call_tool("sound_for_video", {"file": str(film), "mix": '{"own": -6, "new": 0}'})
            assert done(result)["kind"] == "v2a"
            assert [each.mime_type for each in result.content if each.type == "audio"] == ["audio/wav"]
            assert done(await client.call_tool("video_for_sound", {"file": (tmp_path / "song.wav").as_uri()}))
            edit = done(await client.call_tool("edit", {"file": str(film), "retake": {"audio": [[0.5, 1.0]]}}))
            assert (await AsyncDuet(service.url).job(edit["id"])).params["retake"] == {"audio": [[0.5, 1.0]]}
            assert done(await client.call_tool("job", {"id": edit["id"]})) == edit
            verdict = (await client.call_tool("verify", {"file": str(film)})).structured_content
            assert verdict["credentials"] == "none"
            models = (await client.call_tool("models")).structured_content["models"]
            assert [each["name"] for each in models if each["default"]] == [job["model"]]
        assert not strays, "standard output carries the protocol and nothing else"

    in_time(talk())


def test_a_cancelled_call_cancels_its_job(idle_service: Server) -> None:
    async def talk() -> None:
        async with (
            AsyncDuet(idle_service.url) as duet,
            Client(create_server(duet, Options()), mode="legacy") as client,  # the protocol before 2026
        ):
            called, scope = anyio.Event(), anyio.CancelScope()

            async def progress(done: float, total: float | None, message: str | None) -> None:
                called.set()

            async def call() -> None:
                with scope:
                    await client.call_tool("generate", progress_callback=progress)

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await called.wait()
                scope.cancel()
            (job,) = await duet.jobs()
            while not job.ended:
                await asyncio.sleep(0.02)
                await job.refresh()
            assert job.status == "canceled"

            result = await client.call_tool("generate", {"wait": 0.1})
            waiting = result.structured_content
            assert (waiting["status"], waiting["outputs"]) == ("queued", [])
            assert "call job with its id" in words(result)
            asked = {"id": waiting["id"]}
            assert (await client.call_tool("job", asked)).structured_content["status"] == "queued"
            assert (await client.call_tool("cancel", asked)).structured_content["status"] == "canceled"
            ended = await client.call_tool("job", asked | {"wait": 60})
            assert (ended.structured_content["status"], ended.is_error) == ("canceled", False)

    in_time(talk())


def test_what_is_wrong_is_said_with_field_and_limit(service: Server, film: Path, tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    (tmp_path / "file").write_text("no folder")

    async def talk() -> None:
        async with AsyncDuet(service.url) as duet, Client(create_server(duet, Options())) as client:
            assert "steps: got 0, allowed: an integer 1 … 1000" in await refusal(client, "generate", steps=0)
            assert "allowed: only prompt" in await refusal(client, "generate", colour="red")
            assert "model: got 'none', allowed: one of" in await refusal(client, "generate", model="none")
            assert "retake.audio.0" in await refusal(client, "edit", file=str(film), retake={"audio": [[2.0, 1.0]]})
            assert "wait: got 601, allowed: a number 0 … 600" in await refusal(client, "generate", wait=601)
            assert "save_to: got 'clips', allowed: absolute" in await refusal(client, "generate", save_to="clips")
            assert "save_to" in await refusal(client, "generate", save_to=str(tmp_path / "file"))
            for path in ("~nobody-of-this-name/clips", "/tmp/a\0b"):
                assert "save_to: got" in await refusal(client, "generate", save_to=path)
            below = str(tmp_path / "file" / "clips")
            assert f"{below}: Not a directory" in await refusal(client, "generate", save_to=below)
            for tool in ("job", "cancel"):
                assert "id: got '../models', allowed: an id" in await refusal(client, tool, id="../models")
            for tool in ("sound_for_video", "verify"):
                assert "file: allowed: " in await refusal(client, tool)
                assert "a file that exists" in await refusal(client, tool, file=str(tmp_path / "none.mp4"))
                assert "a file that exists" in await refusal(client, tool, file=str(tmp_path))
                for path in ("beach.mp4", "~nobody-of-this-name/beach.mp4", "file://[/beach.mp4"):
                    assert "allowed: absolute path" in await refusal(client, tool, file=path)
                assert "a file that exists" in await refusal(client, tool, file="/tmp/a\0b")
                assert "file: got 'http://['" in await refusal(client, tool, file="http://[")
                assert "unsupported_media" in await refusal(client, tool, file=str(tmp_path / "text.mp4"))
                assert "valid base64" in await refusal(client, tool, file="data:video/mp4;base64,%%")
                assert "data: URL such as" in await refusal(client, tool, file="data:text/plain,hello")
            assert "unknown_job" in await refusal(client, "job", id="job_01ARZ3NDEKTSV4RRFFQ69G5FAV")
            assert "there are generate" in await refusal(client, "destroy")

    in_time(talk())


def test_a_service_that_is_away_is_named(film: Path) -> None:
    async def talk() -> None:
        async with (
            AsyncDuet("http://127.0.0.1:9", retry=RetryPolicy(())) as duet,
            Client(create_server(duet, Options())) as client,
        ):
            for tool in ("generate", "models"):
                message = await refusal(client, tool)
                assert message.startswith("Cannot reach the server at http://127.0.0.1:9")
                assert "duet serve" in message
            assert "Cannot reach the server" in await refusal(client, "verify", file=str(film))

    in_time(talk())


def test_schemas_have_descriptions_and_limits(service: Server) -> None:
    async def talk() -> None:
        async with AsyncDuet(service.url) as duet, Client(create_server(duet, Options(local=False))) as client:
            found = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(found) == {*MAKING, "job", "cancel", "verify", "models"}
            for tool in found.values():
                assert tool.description
                assert all(each["description"] for each in tool.input_schema["properties"].values())
                assert "save_to" not in tool.input_schema["properties"], "the server has no folder for its clients"
            steps = found["generate"].input_schema["properties"]["steps"]
            assert (steps["type"], steps["minimum"], steps["maximum"]) == ("integer", 1, 1000)

    in_time(talk())


def test_progress_follows_the_job_and_a_failure_says_why(
    settings: Settings, store: JobStore, shared_api: RunningApi
) -> None:
    told: list[tuple[float, float | None, str]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        """Each step is made once the one before it was told, however long that takes."""
        job, _, words = str(message).partition(": ")
        told.append((done, total, words))
        if done == 0.0:
            assert store.claim(job, "a worker") is not None
            store.start(job, 1)
            store.progress(job, 1, Progress("base", 2, 5, 0.4))
        elif done == 0.4:
            store.progress(job, 1, Progress("sr", 1, 2, 0.8))
        elif done == 0.8:
            store.fail(job, 1, JobError("out_of_memory", "the model needs more memory", True, 1))

    async def talk() -> None:
        async with AsyncDuet(shared_api.url) as duet, Client(create_server(duet, Options())) as client:
            result = await client.call_tool("generate", {"wait": 100}, progress_callback=progress)
            assert result.is_error
            assert "failed: the model needs more memory (out_of_memory). It may succeed" in words(result)
            assert [(done, total) for done, total, _ in told] == [(0.0, 1.0), (0.4, 1.0), (0.8, 1.0)]
            assert told[0][2] == "queued, jobs before it: 0"
            assert told[1][2].startswith("base, step 2 of 5")
            assert told[2][2].startswith("super-resolution, step 1 of 2")

    in_time(talk())


def test_with_keys_links_are_signed_and_a_missing_key_is_named(
    settings: Settings, store: JobStore, run_api: Callable[[Settings], RunningApi]
) -> None:
    keyed = with_keys(settings)
    api = run_api(keyed)

    async def talk() -> None:
        files = {"video.mp4": b"a video", "poster.webp": b"a poster"}
        with completing(store, keyed, files):
            async with AsyncDuet(api.url, KEYS["alice"]) as duet, Client(create_server(duet, Options())) as client:
                result = await client.call_tool("generate")
        for name, content in files.items():
            assert httpx.get(links(result)[f"0-{name}"], trust_env=False, timeout=120).content == content
        assert "signature=" in links(result)["0-video.mp4"]
        assert [base64.b64decode(each.data) for each in result.content if each.type == "image"] == [b"a poster"]
        async with AsyncDuet(api.url) as duet, Client(create_server(duet, Options())) as client:
            assert "by DUET_KEY" in await refusal(client, "generate")

    in_time(talk())


def test_large_media_are_links_only(service: Server) -> None:
    async def talk() -> None:
        async with AsyncDuet(service.url) as duet, Client(create_server(duet, Options(embed_bytes=20))) as client:
            result = await client.call_tool("generate", {"seed": 1})
            done(result)
            assert {each.type for each in result.content} == {"text", "resource_link"}

    in_time(talk())


def test_over_http_files_are_given_by_url_or_as_base64(service: Server, over_http: str, film: Path) -> None:
    data = "data:video/mp4;base64," + base64.b64encode(film.read_bytes()).decode()
    told: list[float] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        told.append(done)

    async def talk() -> None:
        async with with_token(over_http) as client:
            result = await client.call_tool("sound_for_video", {"file": data}, progress_callback=progress)
            assert done(result)["kind"] == "v2a"
            assert told == sorted(set(told))
            assert told[-1] == 1.0

            # The service itself has a private address. The fake model's results are no films.
            assert "415 unsupported_media" in await refusal(client, "verify", file=links(result)["0-video.mp4"])
            assert "allowed: a file that job_" in await refusal(
                client, "verify", file=links(result)["0-video.mp4"].replace("video.mp4", "film.mp4")
            )

            for path in (str(film), film.as_uri(), "/etc/passwd", "~/film.mp4"):
                for tool in ("sound_for_video", "verify"):
                    assert "reads no local files" in await refusal(client, tool, file=path)
            assert "only file" in await refusal(client, "sound_for_video", file=data, save_to="/tmp")
            for url in ("http://127.0.0.1:1/film.mp4", "http://[::1]/film.mp4", "http://169.254.169.254/latest"):
                assert "is not a public address" in await refusal(client, "verify", file=url)

    in_time(talk())


def test_files_are_fetched_from_private_addresses_if_that_is_allowed(service: Server, over_http: str) -> None:
    async def talk() -> None:
        async with (
            AsyncDuet(service.url) as duet,
            Client(create_server(duet, Options(local=False, allow_private=True))) as client,
        ):
            icon = service.url.replace("127.0.0.1", "localhost") + "/studio/favicon.svg"
            assert "favicon.svg" in await refusal(client, "verify", file=icon), "it was fetched, and the service asked"
            assert "the server answered 404" in await refusal(client, "verify", file=f"{icon}/none")

    in_time(talk())


def test_http_requires_the_token_and_its_own_name(over_http: str) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    headers = {"Accept": "application/json, text/event-stream", "Authorization": f"Bearer {TOKEN}"}
    for change, status in (
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer another-token"}, 401),
        ({"Host": "evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
    ):
        answer = httpx.post(over_http, json=request, headers=headers | change, trust_env=False, timeout=120)
        assert answer.status_code == status, answer.text
    assert httpx.get(over_http, trust_env=False, timeout=120).headers["WWW-Authenticate"] == "Bearer"


def test_a_request_may_carry_a_file_and_a_mask() -> None:
    assert 2 * len(base64.b64encode(bytes(MAX_DATA))) < MAX_BODY


def test_other_addresses_are_not_served_without_a_token() -> None:
    for host in ("0.0.0.0", "192.0.2.1", "duet.example"):
        ended = invoke(["mcp", "--http", "--host", host])
        assert ended.exit_code == 2
        assert "DUET_MCP_TOKEN" in ended.stderr
        with pytest.raises(ValueError, match="no token"):
            http_app(create_server(AsyncDuet(), Options(local=False)), host, None)
    short = invoke(["mcp", "--http"], {"DUET_MCP_TOKEN": "short"})
    assert short.exit_code == 2
    assert "at least 16" in short.stderr
    assert "short" not in short.stderr.replace("shorter", "")
    wrong = invoke(["mcp", "--url", "beach"])
    assert (wrong.exit_code, "not a URL" in wrong.stderr) == (2, True)
