"""Puts a signed statement into a file, by the library `c2pa`. Nothing is fetched but a time stamp, if one is set."""

from __future__ import annotations

import errno
import io
import os
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import c2pa

from service.credentials.claims import Made, Origin, claim
from service.credentials.identity import Identity, IdentityError
from service.credentials.library import OFFLINE

DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Errors of a disk, which are not the signature's: the job is to be tried again."""


class SigningError(Exception):
    """The file could not be signed. It is unchanged."""


class _Target(io.BufferedRandom):
    """A file that remembers why a write failed, which the library does not tell."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


class Signing:
    """Signs files with one identity. Thread-safe."""

    def __init__(self, identity: Identity, time_stamps: str | None = None) -> None:
        """`time_stamps`: URL of a time-stamping authority. Raises SigningError if nothing can be signed."""
        self.identity = identity
        self._time_stamps = time_stamps
        self._context = c2pa.Context.from_dict(OFFLINE)
        self._try_out()

    def sign(self, path: Path, made: Made, generation: Mapping[str, Any], ingredient: Path | None = None) -> None:
        """Replace the file at `path` by the same media with a signed statement.

        Raises SigningError, and OSError for DISK_FAULTS.
        """
        signed = path.with_name(f"{path.name}.signed")
        try:
            with path.open("rb") as source, _Target(io.FileIO(signed, "w+")) as target:
                self._write(source, target, made, generation, ingredient)
            os.replace(signed, path)
        except OSError as error:
            if error.errno in DISK_FAULTS:
                raise
            raise SigningError(f"{path.name} cannot be signed: {error.strerror or error}") from error
        finally:
            signed.unlink(missing_ok=True)

    def _write(
        self, source: Any, target: Any, made: Made, generation: Mapping[str, Any], ingredient: Path | None
    ) -> None:
        failed: list[IdentityError] = []

        def sign(data: bytes) -> bytes:
            try:
                return self.identity.sign(data)
            except IdentityError as error:
                failed.append(error)
                raise

        algorithm = c2pa.C2paSigningAlg[self.identity.algorithm.upper()]
        try:
            with (
                c2pa.Signer.from_callback(sign, algorithm, self.identity.certificates, self._time_stamps) as signer,
                c2pa.Builder(claim(made, generation, ingredient is not None), context=self._context) as builder,
            ):
                if ingredient is not None:
                    with ingredient.open("rb") as archive:
                        builder.add_ingredient_from_archive(archive)
                builder.sign(signer, made.media_type, source, target)
        except c2pa.C2paError as error:
            if isinstance(target, _Target) and target.failure is not None:
                raise target.failure from error
            raise SigningError(f"{made.title} cannot be signed: {failed[0] if failed else error}") from error

    def _try_out(self) -> None:
        """Sign a moment of silence, so that a wrong certificate is noticed at the start."""
        silence = io.BytesIO()
        with wave.open(silence, "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes(bytes(1600))
        silence.seek(0)
        self._write(silence, io.BytesIO(), Made("silence", "audio/wav", audio=Origin.MADE), {}, None)
