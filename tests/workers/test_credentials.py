"""Signing by a worker: what each file states, and what happens if signing fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from model.checkpoint.manifest import Manifest
from model.media.edits import Edit, Extend, Retake
from model.media.mix_levels import Mix
from model.media.source import MediaError
from model.networks.config import PRESETS
from service.credentials.claims import Made, Origin, Span
from service.credentials.identity import IdentityError, make_identity, open_identity
from service.credentials.reading import read_credentials
from service.credentials.report import Model
from service.credentials.signing import Signing
from service.jobs.record import Job
from service.settings import Settings
from tests.clips import Film, Track, make
from tests.service.new_jobs import UPLOAD, a_job, upload_of
from tests.small_disk import NotMounted, fill, small_disk
from workers.credentials import Credentials, NotSigned, contents

MANIFEST = Manifest("tiny", PRESETS["tiny"], trained=False, description="for tests", licence="MIT", init_seed=7)
MADE, OWN, PARTLY = Origin.MADE, Origin.OWN, Origin.PARTLY_MADE


def files_of(job: Job, folder: Path) -> dict[str, Path]:
    files = {each.title: folder / f"0-{each.title}" for each in contents(job)}
    for path in files.values():
        if path.suffix == ".mp4":
            make(path, Film(), Track())
        else:
            make(path, sound=Track(codec="pcm_s16le"))
    return files


def test_what_the_files_of_each_kind_contain() -> None:
    under = Mix("under")
    for job, expected in (
        (a_job("generate"), {"video.mp4": (MADE, MADE), "audio.wav": (None, MADE)}),
        (a_job("v2a"), {"video.mp4": (OWN, MADE), "audio.wav": (None, MADE)}),
        (a_job("a2v"), {"video.mp4": (MADE, OWN), "audio.wav": (None, OWN)}),
        (
            a_job("v2a", mix=under),
            {"video.mp4": (OWN, PARTLY), "audio.wav": (None, PARTLY), "audio-new.wav": (None, MADE)},
        ),
    ):
        assert {each.title: (each.video, each.audio) for each in contents(job)} == expected


def test_an_edit_names_its_spans_in_seconds_of_the_file() -> None:
    video, audio, new = contents(a_job("edit", edit=Edit(extend=Extend(before=0.5, after=1.0), length=2.0)))
    assert (video.video, video.audio, audio.audio, new.audio) == (PARTLY, PARTLY, PARTLY, MADE)
    assert audio.spans == (Span("sound", 0.0, 0.5), Span("sound", 2.5, 3.5))
    assert video.spans[:2] == (Span("picture", 0.0, 0.5), Span("picture", 2.5, 3.5))
    retake = contents(a_job("edit", edit=Edit(retake=Retake(audio=((0.2, 0.4),)), length=2.0)))
    assert retake[0] == Made("video.mp4", "video/mp4", OWN, PARTLY, (Span("sound", 0.2, 0.4),))


def test_every_media_file_is_signed_and_nothing_is_left(tmp_path: Path) -> None:
    credentials = Credentials.open(Settings(data=tmp_path / "data"))
    folder, source = tmp_path / "files", make(tmp_path / "upload.mp4", Film(), Track())
    folder.mkdir()
    job = a_job("v2a", input=upload_of(source, duration=2.0))
    files = files_of(job, folder)

    said = credentials.sign(job, MANIFEST, files, source)

    assert said is not None
    assert said["signed"]
    assert len(said["certificate_sha256"]) == 64
    reports = {name: read_credentials(path) for name, path in files.items()}
    assert {name: (each.credentials, each.generated) for name, each in reports.items()} == {
        "video.mp4": ("untrusted", "part"),
        "audio.wav": ("untrusted", "all"),
    }
    assert reports["video.mp4"].ingredients[0].relationship == "parentOf"
    assert reports["audio.wav"].ingredients[0].relationship == "inputTo"
    assert reports["video.mp4"].model == Model("tiny", MANIFEST.weights_hash)
    assert b"beach.mov" not in files["video.mp4"].read_bytes()
    assert sorted(folder.iterdir()) == sorted(files.values())


@pytest.mark.parametrize("required", [False, True])
def test_a_signature_that_fails_later_stores_unsigned_or_fails_the_job(tmp_path: Path, required: bool) -> None:
    signing = Signing(open_identity(Settings(data=tmp_path / "data")))

    def refuse(_: bytes) -> bytes:
        raise IdentityError("the device is locked")

    signing.identity = replace(signing.identity, sign=refuse)
    credentials, job = Credentials(signing, required), a_job()
    files = files_of(job, tmp_path)
    before = {name: path.read_bytes() for name, path in files.items()}
    if required:
        with pytest.raises(NotSigned, match="the device is locked"):
            credentials.sign(job, MANIFEST, files, None)
    else:
        assert credentials.sign(job, MANIFEST, files, None) == {
            "signed": False,
            "reason": "video.mp4 cannot be signed: the device is locked",
        }
    assert {name: path.read_bytes() for name, path in files.items()} == before


def test_an_upload_that_upsets_the_library_costs_the_signature_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise MediaError("the decoder crashed")

    monkeypatch.setattr("workers.credentials.confined_within", crash)
    job = a_job("v2a", input=upload_of(make(tmp_path / "upload.mp4", Film()), duration=2.0))
    said = Credentials.open(Settings(data=tmp_path / "data")).sign(
        job, MANIFEST, files_of(job, tmp_path), tmp_path / "upload.mp4"
    )
    assert said == {"signed": False, "reason": "the decoder crashed"}


def test_what_extends_a_silent_film_claims_no_sound() -> None:
    silent = replace(UPLOAD, audio=None)
    made = contents(a_job("edit", input=silent, edit=Edit(extend=Extend(after=1.0), length=2.0)))
    assert [(each.title, each.audio) for each in made] == [("video.mp4", OWN), ("audio.wav", OWN)]


def test_a_full_disk_is_not_a_failed_signature(tmp_path: Path) -> None:
    signing = Signing(open_identity(Settings(data=tmp_path / "data")))
    disk = tmp_path / "disk"
    try:
        with small_disk(disk, 2**20):
            path = make(disk / "video.mp4", Film(), Track())
            fill(disk / "filler")
            with pytest.raises(OSError, match="No space left"):
                signing.sign(path, Made("video.mp4", "video/mp4", MADE, MADE), {})
            assert sorted(each.name for each in disk.iterdir()) == ["filler", "video.mp4"]
    except NotMounted as error:
        pytest.skip(str(error))


def test_only_an_own_pair_that_nobody_asked_for_may_be_missing(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    own = Settings(data=blocked / "data")
    assert Credentials.open(own).signing is None
    with pytest.raises(IdentityError):
        Credentials.open(own.model_copy(update={"provenance": "required"}))
    certificate = tmp_path / "identity.pem"
    make_identity(certificate)
    named = Settings(data=blocked / "data", provenance_certificate=certificate)
    assert Credentials.open(named).signing is not None
    certificate.write_text("damaged")
    with pytest.raises(IdentityError):
        Credentials.open(named)
    assert Credentials.open(named.model_copy(update={"provenance": "off"})).signing is None
