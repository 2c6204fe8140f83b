"""Files that a tool is given: a local path, a URL, or base64 in a `data:` URL.

A server over HTTP reads no local paths: they would be its own files. URLs are fetched from public addresses only
(`service.webhooks.ssrf`), and from the service itself, whose files are fetched with its key.
"""

from __future__ import annotations

import base64
import binascii
import mimetypes
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urljoin, urlsplit

import anyio
import httpcore
import httpx

from duet.client import AsyncDuet
from duet.mcp.arguments import InvalidArgument
from service.webhooks.sender import GuardedNetwork
from service.webhooks.ssrf import Lookup, TargetRefused, look_up, plain_url

MAX_DATA = 16 * 2**20
"""Bytes of a file in a `data:` URL."""

MAX_DOWNLOAD = 200 * 2**20
"""Bytes of a file that is fetched: the service's default limit of uploads."""

DOWNLOAD_TIME = 120
"""Seconds."""

MAX_REDIRECTS = 5

_REMOTE = f"an http:// or https:// URL, or a data: URL with base64 of at most {MAX_DATA // 2**20} MiB"
HERE = f"absolute path of a local file, {_REMOTE}"
ANYWHERE = _REMOTE
"""Allowed values, in words."""

_DATA = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*;base64,", re.IGNORECASE)
_RESULT = re.compile(r"/jobs/(?P<job>job_\w+)/files/(?P<file>[\w.-]+)\Z")


class Sources:
    """Opens the files that tools are given. `local`: paths are allowed."""

    def __init__(self, duet: AsyncDuet, local: bool, allow_private: bool = False, lookup: Lookup = look_up) -> None:
        self._duet = duet
        self._local = local
        self._network = GuardedNetwork(allow_private, lookup)

    @asynccontextmanager
    async def open(self, name: str, given: str | None) -> AsyncIterator[Path | None]:
        """The path of the file that argument `name` names, inside the context; None for None.

        Raises InvalidArgument, and errors of the client if it is a file of the service.
        """
        if given is None:
            yield None
        elif re.match(r"(data|https?):", given, re.IGNORECASE):
            with TemporaryDirectory(prefix="duet-mcp-") as folder:
                yield await self._fetch(name, given, Path(folder))
        else:
            yield self._path(name, given)

    def _path(self, name: str, given: str) -> Path:
        if not self._local:
            raise InvalidArgument(name, given, f"{ANYWHERE}; this server reads no local files")
        try:
            if re.match(r"file://", given, re.IGNORECASE):
                given = unquote(urlsplit(given).path)
            path = Path(given).expanduser()
        except (RuntimeError, ValueError) as error:  # the home of an unknown user; no URL
            raise InvalidArgument(name, given, HERE) from error
        if not path.is_absolute():
            raise InvalidArgument(name, given, HERE)
        if not path.is_file():
            raise InvalidArgument(name, given, "a file that exists")
        return path

    async def _fetch(self, name: str, given: str, folder: Path) -> Path:
        if given[:5].lower() == "data:":
            return await anyio.to_thread.run_sync(_decode, name, given, folder)
        if (own := self._own(given)) is not None:
            return await self._result(name, given, own, folder)
        try:
            with anyio.fail_after(DOWNLOAD_TIME):
                return await self._download(given, folder)
        except TargetRefused as error:
            raise InvalidArgument(name, given, f"a URL of a public address; this one is refused: {error}") from error
        except (TimeoutError, httpcore.TimeoutException) as error:
            raise InvalidArgument(name, given, f"a URL that answers within {DOWNLOAD_TIME} s") from error
        except (OSError, ValueError, httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise InvalidArgument(name, given, f"a URL that can be fetched; {error or type(error).__name__}") from error

    def _own(self, url: str) -> re.Match[str] | None:
        """The job and the file, if the URL is one of the service's results."""
        try:
            found = urlsplit(url)
        except ValueError:  # such as http://[
            return None
        service = urlsplit(self._duet.endpoint.url)
        if (found.scheme, found.netloc) != (service.scheme, service.netloc):
            return None
        return _RESULT.search(found.path)

    async def _result(self, name: str, given: str, own: re.Match[str], folder: Path) -> Path:
        """A file that a job has made. Raises DuetError, InvalidArgument."""
        job = await self._duet.job(own["job"])
        for output in job.outputs:
            for file, url in output.files.items():
                if urlsplit(url).path.rpartition("/")[2] == own["file"]:
                    return await job.save(folder / file, output.index, file)
        raise InvalidArgument(name, given, f"a file that {job.id} has made")

    async def _download(self, url: str, folder: Path) -> Path:
        """Raises TargetRefused, also for a response that is not the file, and errors of httpcore."""
        context: ssl.SSLContext = httpx.create_ssl_context(trust_env=False)
        async with httpcore.AsyncConnectionPool(ssl_context=context, network_backend=self._network) as pool:
            for _ in range(MAX_REDIRECTS + 1):
                url = plain_url(url)
                async with pool.stream("GET", url, headers={"User-Agent": "Duet-MCP"}) as response:
                    fields = {key.decode().lower(): value.decode("latin-1") for key, value in response.headers}
                    if response.status in (301, 302, 303, 307, 308) and "location" in fields:
                        url = urljoin(url, fields["location"])
                        continue
                    if response.status != 200:
                        raise TargetRefused(f"the server answered {response.status}")
                    path = folder / _file_name(url, fields.get("content-type", ""))
                    await _write(response, path)
                    return path
        raise TargetRefused(f"more than {MAX_REDIRECTS} redirects")


async def _write(response: httpcore.Response, path: Path) -> None:
    size = 0
    async with await anyio.open_file(path, "wb") as file:
        async for chunk in response.aiter_stream():
            size += len(chunk)
            if size > MAX_DOWNLOAD:
                raise TargetRefused(f"it has more than {MAX_DOWNLOAD // 2**20} MiB")
            await file.write(chunk)


def _file_name(url: str, media_type: str) -> str:
    """A name for the upload: the URL's own if it is plain, with the suffix of its media type if it has none."""
    name = re.sub(r"[^\w.-]", "", unquote(urlsplit(url).path).rpartition("/")[2])[-100:].lstrip(".") or "upload"
    return name if "." in name else name + (mimetypes.guess_extension(media_type.partition(";")[0].strip()) or "")


def _decode(name: str, given: str, folder: Path) -> Path:
    head = _DATA.match(given)
    if head is None:
        raise InvalidArgument(name, given, "a data: URL such as data:video/mp4;base64,…")
    if len(given) - head.end() > MAX_DATA * 4 // 3 + 4:
        raise InvalidArgument(name, given, f"at most {MAX_DATA // 2**20} MiB in a data: URL; give larger files by URL")
    try:
        content = base64.b64decode(given[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidArgument(name, given, f"a data: URL with valid base64; {error}") from error
    path = folder / f"upload{mimetypes.guess_extension(head['type'] or '') or ''}"
    path.write_bytes(content)
    return path
