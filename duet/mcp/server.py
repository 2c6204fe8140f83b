"""The server: performs tool calls with the Python client. Everything that goes wrong becomes a tool error."""

from __future__ import annotations

import logging
import re
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from mcp.server import Server, ServerRequestContext
from mcp.server.session import ServerSession
from mcp_types import CallToolRequestParams, CallToolResult, ListToolsResult, PaginatedRequestParams, Tool

from duet.client import AsyncDuet, AsyncJob, DuetError, JobCanceled, JobFailed, Refused, ServerUnreachable
from duet.mcp import results
from duet.mcp.arguments import Arguments, InvalidArgument
from duet.mcp.sources import Sources
from duet.mcp.tools import MAKING, tools
from service.version import version

EMBED_BYTES = 512 * 1024
"""Bytes of media in one result. In base64 they are a third more; some hosts take results of at most 1 MB."""

CANCEL_TIME = 5
"""Seconds for the request that cancels the job of a cancelled call."""

LEAST_PROGRESS = 0.01
"""Share of a job between two notifications."""

_INSTRUCTIONS = (
    "Duet makes video and sound that belong together. generate, sound_for_video, video_for_sound and edit submit a job "
    "and wait for it; if it takes longer than `wait` seconds, call job with its id. Leave parameters out unless the "
    "user asks for them: the defaults are the best. models says which models take prompts."
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """`local`: the server runs on the caller's machine, for the caller alone, so it may read and write files.

    `embed_bytes`: most bytes of media in a result. `allow_private`: URLs of files may have private addresses.
    """

    local: bool = True
    embed_bytes: int = EMBED_BYTES
    allow_private: bool = False


def create_server(duet: AsyncDuet, options: Options) -> Server[Any]:
    """A server for any transport."""
    calls = _Calls(duet, options)
    return Server(
        "duet",
        title="Duet",
        version=version(),
        instructions=_INSTRUCTIONS,
        on_list_tools=calls.list_tools,
        on_call_tool=calls.call,
    )


class _Calls:
    def __init__(self, duet: AsyncDuet, options: Options) -> None:
        self._duet = duet
        self._options = options
        self._tools: dict[str, Tool] = {tool.name: tool for tool in tools(options.local)}
        self._sources = Sources(duet, options.local, options.allow_private)

    async def list_tools(
        self, context: ServerRequestContext[Any], params: PaginatedRequestParams | None
    ) -> ListToolsResult:
        return ListToolsResult(tools=list(self._tools.values()))

    async def call(self, context: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        """Perform a call. Errors are results, so that the model can correct itself."""
        tool = self._tools.get(params.name)
        if tool is None:
            return results.failure(f"There is no tool {params.name!r}; there are {', '.join(self._tools)}.")
        try:
            return await self._perform(tool, Arguments(tool, params.arguments or {}), context.session)
        except InvalidArgument as error:
            return results.failure(f"Invalid argument. {error}")
        except (DuetError, OSError) as error:
            return results.failure(_explain(error))
        except Exception:
            _log.exception("the tool %s failed", tool.name)
            return results.failure(f"{tool.name} failed because of an error in the MCP server; its log says more.")

    async def _perform(self, tool: Tool, arguments: Arguments, session: ServerSession) -> CallToolResult:
        if tool.name in MAKING:
            return await self._make(tool, arguments, session)
        if tool.name == "models":
            return results.document({"models": [model.data for model in await self._duet.models()]})
        if tool.name == "verify":
            async with self._sources.open("file", arguments.text("file")) as path:
                assert path is not None
                return results.document(await self._duet.verify(path))
        job = await self._duet.job(_job_id(arguments))
        if tool.name == "cancel":
            return await self._result(await job.cancel(), None)
        wait, folder = arguments.seconds("wait"), self._folder(arguments)
        await self._wait(job, wait, session)
        return await self._result(job, folder)

    async def _make(self, tool: Tool, arguments: Arguments, session: ServerSession) -> CallToolResult:
        """Submit a job and wait for it. If the call is cancelled, so is the job."""
        wait, folder = arguments.seconds("wait"), self._folder(arguments)
        async with AsyncExitStack() as files:
            given = {
                name: await files.enter_async_context(self._sources.open(name, arguments.text(name)))
                for name in ("file", "mask")
                if name in tool.input_schema["properties"]
            }
            params = arguments.rest() | {"mask": given.get("mask")}
            with anyio.CancelScope(shield=True):  # a job whose id nobody knows could not be cancelled
                job = await self._duet.submit(MAKING[tool.name].kind, params, given.get("file"))
        try:
            await checkpoint()
            await self._wait(job, wait, session)
            job.check()
            return await self._result(job, folder)
        except (ServerUnreachable, Refused, OSError) as error:  # errors of the job itself name it
            return results.failure(f"{_explain(error)}\nThe job is {job.id}.")
        except anyio.get_cancelled_exc_class():
            with anyio.move_on_after(CANCEL_TIME, shield=True):
                await _cancel(job)
            raise

    async def _wait(self, job: AsyncJob, seconds: float, session: ServerSession) -> None:
        """Wait for the end of the job for at most `seconds`, and report its progress."""
        if job.ended or not seconds:
            return
        progress = _Progress(session)
        await progress.report(job)
        with anyio.move_on_after(seconds), suppress(JobFailed, JobCanceled):
            await job.wait(progress.report)

    async def _result(self, job: AsyncJob, folder: Path | None) -> CallToolResult:
        return await results.job_result(self._duet, job, self._options.embed_bytes, folder)

    def _folder(self, arguments: Arguments) -> Path | None:
        """The folder of `save_to`, created if it does not exist. Raises InvalidArgument, OSError."""
        given = arguments.text("save_to") if self._options.local else None
        if given is None:
            return None
        try:
            folder = Path(given).expanduser()
            if folder.is_absolute() and (folder.is_dir() or not folder.exists()):
                folder.mkdir(parents=True, exist_ok=True)  # now, before a job is made
                return folder
        except (RuntimeError, ValueError) as error:  # the home of an unknown user; a NUL
            raise InvalidArgument("save_to", given, "absolute path of a folder") from error
        raise InvalidArgument("save_to", given, "absolute path of a folder")


class _Progress:
    """Notifications of one call. The protocol requires that the progress grows from each to the next."""

    def __init__(self, session: ServerSession) -> None:
        self._session = session
        self._last = -1.0

    async def report(self, job: AsyncJob) -> None:
        if job.progress < self._last + LEAST_PROGRESS:
            return
        self._last = job.progress
        words = job.status if job.ended else results.progress_words(job)
        await self._session.report_progress(job.progress, 1.0, f"{job.id}: {words}")


def _job_id(arguments: Arguments) -> str:
    given = arguments.text("id") or ""
    if not re.fullmatch(r"job_\w+", given, re.ASCII):
        raise InvalidArgument("id", given, "an id such as job_01ARZ3NDEKTSV4RRFFQ69G5FAV")
    return given


async def _cancel(job: AsyncJob) -> None:
    try:
        await job.cancel()
    except DuetError as error:
        if not (isinstance(error, Refused) and error.code == "already_ended"):
            _log.warning("%s of a cancelled call may still run: %s", job.id, error)


def _explain(error: DuetError | OSError) -> str:
    if isinstance(error, ServerUnreachable):
        return f"{error}. Start Duet with `duet serve`, or point the MCP server at another one with --url or DUET_URL."
    if isinstance(error, Refused):
        hint = " Set an API key of this service for the MCP server, by DUET_KEY." if error.status == 401 else ""
        return f"The service refused the request: {error}{hint}"
    if isinstance(error, JobFailed):
        return f"{error}." + (" It may succeed when tried again." if error.retryable else "")
    if isinstance(error, JobCanceled):
        return f"{error}."
    if isinstance(error, OSError):
        return f"{error.filename or 'the file'}: {error.strerror or error}"
    return str(error)
