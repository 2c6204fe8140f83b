"""Receives a multipart upload (RFC 7578): bounded, hashed while it arrives, and deleted at the end of the request."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import tempfile
import unicodedata
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool
from werkzeug.http import parse_options_header as parse_disposition

from service.api.middleware import body_limit
from service.api.problems import FieldError, Problem
from service.jobs.concurrency import ConcurrencyLimits, TooManyOpen
from service.jobs.intake import Source
from service.settings import Settings

MAX_FIELD = 64 * 1024
"""Bytes of one form field that is not the file."""

MAX_FIELDS = 40
_FORM_BYTES = 2**20
"""Bytes of a request beyond those of its file."""

MAX_MASK = 4 * 2**20
"""Bytes of a mask. It is kept in memory: a mask of 8K in black and white has some kilobytes."""

_PREFIX = "upload-"


@dataclass(frozen=True)
class MaskFile:
    """A received mask picture. `filename` is the client's name for it."""

    filename: str
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True)
class Upload:
    """A received file, the other fields of its form, and its mask if it has one. Without `has_file`, `source` is an
    empty file."""

    source: Source
    fields: dict[str, str]
    mask: MaskFile | None = None
    has_file: bool = True


@asynccontextmanager
async def receive_upload(
    request: Request,
    settings: Settings,
    limits: ConcurrencyLimits,
    caller: str | None,
    mask: bool = False,
    field: str = "file",
    optional: bool = False,
) -> AsyncIterator[Upload]:
    """Read the form of `request`; its file exists in `settings.temporary` as long as the context is open.

    `mask`: the form may have a mask too; `field`: name of the file's part; `optional`: the form may lack it.

    Raises Problem 400, 408, 413, 415, 422, 429 or 507, StoreUnavailable, and ClientDisconnect.
    """
    media_type, options = parse_options_header(request.headers.get("content-type"))
    if media_type != b"multipart/form-data" or not options.get(b"boundary"):
        raise Problem(415, "unsupported_media_type", f"The body must be multipart/form-data with a field `{field}`.")
    further = _FORM_BYTES + (MAX_MASK if mask else 0)
    body_limit(request).allow(settings.max_upload_bytes + further, _too_large(settings.max_upload_bytes, field))
    reserve = settings.disk_reserve_mib * 2**20
    async with AsyncExitStack() as stack:
        most = settings.max_uploads_per_key
        try:
            await stack.enter_async_context(limits.slot("uploads", caller, most))
        except TooManyOpen as error:
            detail = f"{most} uploads {'' if caller is None else 'of this key '}are in progress already."
            raise Problem(429, "too_many_uploads", detail, headers={"Retry-After": "5"}) from error
        room = reserve + body_limit(request).announced
        path, file = stack.enter_context(temporary_file(settings.temporary, room))
        form = _Form(options[b"boundary"], file, settings.max_upload_bytes, reserve, mask, field, optional)
        async for chunk in request.stream():
            await run_in_threadpool(form.feed, chunk)  # hashing and the disk must not block the event loop
        await run_in_threadpool(form.finish)
        source = Source(path, form.filename, form.size, form.digest.hexdigest())
        yield Upload(source, form.fields, form.mask, form.has_file)


@contextmanager
def temporary_file(folder: Path, room: int) -> Iterator[tuple[Path, IO[bytes]]]:
    """A new, locked file in `folder`, which exists as long as the context is open.

    Raises Problem 507 unless the disk has `room` bytes.

    The lock tells `sweep` that the file is in use. `sweep` in another process may delete the file between its creation
    and the lock, so its name is checked once it is locked.
    """
    while True:
        with room_on_disk():
            folder.mkdir(parents=True, exist_ok=True)
            check_room_on_disk(folder, room)
            handle, name = tempfile.mkstemp(dir=folder, prefix=_PREFIX)
        path = Path(name)
        with os.fdopen(handle, "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not _names(path, file):
                continue
            try:
                yield path, file
            finally:
                path.unlink(missing_ok=True)
            return


def sweep(folder: Path) -> int:
    """Delete files that a killed process left in `folder`; return their number. Files in use are locked."""
    removed = 0
    for path in folder.glob(f"{_PREFIX}*"):
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            removed += 1
    return removed


def _names(path: Path, file: IO[bytes]) -> bool:
    """Whether `path` is the name of the open `file`."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


class _Form:
    """Parses the body: the part `field` goes to disk, `mask` to memory, the others to `fields`. Raises Problem."""

    def __init__(
        self,
        boundary: bytes,
        file: IO[bytes],
        max_bytes: int,
        reserve: int,
        takes_mask: bool,
        field: str,
        optional: bool,
    ) -> None:
        """`reserve`: bytes to leave free on the disk of `file`; `optional`: the part `field` may be missing."""
        self.mask: MaskFile | None = None
        self._field = field
        self._optional = optional
        self._files = (field, "mask") if takes_mask else (field,)
        self.filename = ""
        self.size = 0
        self.digest = hashlib.sha256()
        self.fields: dict[str, str] = {}
        self._file = file
        self._max_bytes = max_bytes
        self._reserve = reserve
        self.has_file = False
        self._ended = False
        self._name = ""
        self._is_file = False
        self._value = bytearray()
        self._header = bytearray()
        self._header_value = bytearray()
        self._disposition = ""
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._part_begin,
                    "on_part_data": self._part_data,
                    "on_part_end": self._part_end,
                    "on_header_field": self._header_field,
                    "on_header_value": self._header_part,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers_finished,
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the body."""
        check_room_on_disk(self._file.fileno(), self._reserve)
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(str(error)) from error

    def finish(self) -> None:
        """Check at the end of the body that it was complete and had a file."""
        if not self._ended:
            raise _malformed("the closing boundary is missing")
        if not self.has_file and not self._optional:
            missing = FieldError(self._field, None, "a part with a filename")
            raise Problem(422, "missing_file", "The form has no file.", [missing])
        with room_on_disk():
            self._file.flush()

    def _part_begin(self) -> None:
        self._disposition = ""
        self._value = bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_part(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._header_value.decode("utf-8", "surrogateescape")
        self._header, self._header_value = bytearray(), bytearray()

    def _headers_finished(self) -> None:
        _, options = parse_disposition(self._disposition)
        if "name" not in options:
            raise _malformed("a part has no name")
        self._name = _text(options["name"].encode("utf-8", "surrogateescape"), "the name of a part")
        self._is_file = "filename" in options
        if self._is_file != (self._name in self._files):
            named = self._name in self._files
            allowed = "a part with a filename" if named else f"the file belongs in the field `{self._field}`"
            raise _invalid(self._name, "a file" if self._is_file else "a value", allowed)
        there = self.mask is not None if self._name == "mask" else self.has_file
        if self._name in self.fields or (self._is_file and there):
            raise _invalid(self._name, "more than one", "each field once")
        if self._is_file:
            filename = options["filename"].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            if self._name == "mask":
                self.mask = MaskFile(_display_name(filename), b"")
            else:
                self.has_file, self.filename = True, _display_name(filename)
        elif len(self.fields) >= MAX_FIELDS:
            raise _invalid(self._name, "one field more", f"{MAX_FIELDS} fields at most")

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._is_file or self._name == "mask":
            most = MAX_MASK if self._is_file else MAX_FIELD
            if len(self._value) + end - start > most:
                raise _invalid(self._name, "a longer value", f"{most} bytes at most")
            self._value += data[start:end]
            return
        self.size += end - start
        if self.size > self._max_bytes:
            raise _too_large(self._max_bytes, self._field)
        piece = memoryview(data)[start:end]
        self.digest.update(piece)
        with room_on_disk():
            self._file.write(piece)

    def _part_end(self) -> None:
        if self._is_file and self._name == "mask" and self.mask is not None:
            self.mask = MaskFile(self.mask.filename, bytes(self._value))
        elif not self._is_file:
            self.fields[self._name] = _text(bytes(self._value), self._name)

    def _end(self) -> None:
        self._ended = True


@contextmanager
def room_on_disk() -> Iterator[None]:
    """Context for writes to the data disk. Raises Problem 507 if it is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _disk_full() from error


def check_room_on_disk(place: Path | int, room: int) -> None:
    """Raise Problem 507 unless the disk of `place`, a path or a file descriptor, has `room` bytes."""
    status = os.statvfs(place)
    if status.f_bavail * status.f_frsize < room:
        raise _disk_full()


def _disk_full() -> Problem:
    return Problem(507, "storage_full", "The server has no space left for the upload.")


def _text(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _malformed(f"{what} is not UTF-8") from error


def _display_name(given: str) -> str:
    """The client's file name for display: no folders, no unprintable characters, at most 255 characters."""
    name = re.split(r"[/\\]", given)[-1]
    return "".join(c for c in name if unicodedata.category(c)[0] != "C")[:255].strip() or "upload"


def _too_large(max_bytes: int, field: str) -> Problem:
    limit = f"at most {max_bytes // 2**20} MiB"
    return Problem(413, "too_large", f"The file is too large: {limit} are allowed.", [FieldError(field, "more", limit)])


def _malformed(reason: str) -> Problem:
    return Problem(400, "malformed", f"The form cannot be read: {reason}.")


def _invalid(field: str, got: str, allowed: str) -> Problem:
    return Problem(422, "invalid_parameter", f"{field}: {allowed}.", [FieldError(field, got, allowed)])
