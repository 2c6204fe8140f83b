"""Content Credentials of an output: every mp4 and wav is signed before it is stored."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.checkpoint.manifest import Manifest
from model.media.containers import identify
from model.media.source import MediaError
from service.credentials.claims import Made, Origin, Span, relationship
from service.credentials.identity import IdentityError, open_identity
from service.credentials.ingredients import write_ingredient
from service.credentials.parsing import MEDIA_TYPES
from service.credentials.signing import Signing, SigningError
from service.jobs.record import Job
from service.jobs.view import NEW_SOUND, new_sound, output_files
from service.log import log
from service.settings import Settings
from workers.decoder import DecoderFault, clip_bounds, confined_within, no_check


class NotSigned(Exception):
    """An output could not be signed, and unsigned ones are not wanted."""


@dataclass(frozen=True)
class Credentials:
    """Signs outputs, unless `signing` is None. `required`: an output that cannot be signed is not stored."""

    signing: Signing | None = None
    required: bool = False

    @classmethod
    def open(cls, settings: Settings) -> Credentials:
        """The credentials that `settings` name. Raises IdentityError or SigningError where they cannot be used; only
        Duet's own, which nobody asked for, may be missing unless they are required."""
        if settings.provenance == "off":
            return cls()
        required = settings.provenance == "required"
        try:
            return cls(Signing(open_identity(settings), settings.provenance_tsa), required)
        except (IdentityError, SigningError) as error:
            if required or settings.provenance_certificate is not None:
                raise
            log.warning("clips are not signed", error=str(error))
            return cls()

    def sign(
        self,
        job: Job,
        manifest: Manifest,
        files: Mapping[str, Path],
        source: Path | None,
        check: Callable[[], None] = no_check,
        marked: Sequence[str] = (),
    ) -> dict[str, Any] | None:
        """Sign the files of an output in place; return what its manifest says of it. `source`: the upload.

        `marked`: the sides whose generated parts have the mark in the signal. `check` is called now and then while a
        child process reads the upload. Raises NotSigned; DecoderLost; OSError where the disk fails; and what `check`
        raises.
        """
        if self.signing is None:
            return None
        mark = {"signal_mark": list(marked)} if marked else {}
        model = {"name": manifest.name, "weights_sha256": manifest.weights_hash}
        try:
            for made in contents(job):
                with _ingredient(source, job, relationship(made), files[made.title].parent, check) as upload:
                    self.signing.sign(files[made.title], made, {"kind": job.kind, "model": model, **mark}, upload)
        except (SigningError, DecoderFault, MediaError) as error:
            if self.required:
                raise NotSigned(str(error)) from error
            log.warning("an output is stored unsigned", job=job.id, error=str(error))
            return {"signed": False, "reason": str(error)}
        identity = self.signing.identity
        return {"signed": True, "algorithm": identity.algorithm, "certificate_sha256": identity.fingerprint}


UNSIGNED = Credentials()
"""Signs nothing."""


def contents(job: Job) -> list[Made]:
    """What the media files of a job's outputs contain."""
    video, audio = _origins(job)
    sound = _spans("sound", new_sound(job), job.edit.before) if job.edit is not None else ()
    picture = _spans("picture", job.edit.video, job.edit.before) if job.edit is not None else ()
    found = {
        "video.mp4": Made("video.mp4", "video/mp4", video, audio, (*picture, *sound)),
        "audio.wav": Made("audio.wav", "audio/wav", audio=audio, spans=sound),
        NEW_SOUND: Made(NEW_SOUND, "audio/wav", audio=Origin.MADE),
    }
    return [found[name] for name in output_files(job) if name in found]


def _origins(job: Job) -> tuple[Origin, Origin]:
    """Of picture and sound."""
    if job.edit is not None:
        made = (job.edit.video, new_sound(job))
        video, audio = (Origin.PARTLY_MADE if spans else Origin.OWN for spans in made)
        return video, audio
    mixed = Origin.PARTLY_MADE if job.mix.keeps_own else Origin.MADE
    return Origin.OWN if job.kind == "v2a" else Origin.MADE, Origin.OWN if job.kind == "a2v" else mixed


def _spans(modality: str, spans: Iterable[tuple[float, float]], before: float) -> tuple[Span, ...]:
    """`before`: seconds that the edit adds before the upload."""
    return tuple(Span(modality, start + before, end + before) for start, end in spans)


@contextmanager
def _ingredient(
    source: Path | None, job: Job, relation: str, folder: Path, check: Callable[[], None]
) -> Iterator[Path | None]:
    """The upload as an ingredient, written to `folder` by a child process; None without an upload.

    Raises DecoderFault, DecoderLost.
    """
    if source is None:
        yield None
        return
    with source.open("rb") as file:
        signature = identify(file.fileno())
    media_type = MEDIA_TYPES[signature.demuxer] if signature is not None else "application/octet-stream"
    assert job.input is not None
    bounds = clip_bounds(job.input.duration, check)
    with tempfile.NamedTemporaryFile(prefix="ingredient-", dir=folder) as archive:
        confined_within(bounds, write_ingredient, source, media_type, relation, Path(archive.name))
        yield Path(archive.name)
