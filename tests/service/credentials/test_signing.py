"""Signed files: their media are untouched, and the report says what was stated; changed files are noticed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import av
import pytest
from cryptography.hazmat.primitives import serialization

from service.credentials.claims import COMPOSITE, TRAINED, Made, Origin, Span, relationship
from service.credentials.identity import open_identity, trusted_certificates
from service.credentials.ingredients import write_ingredient
from service.credentials.reading import UnknownFileError, read_credentials
from service.credentials.report import Model
from service.credentials.signing import Signing
from service.sandbox.limits import ProcessLimits
from service.settings import Settings
from tests.clips import Film, Track, make

GENERATION = {"kind": "v2a", "model": {"name": "demo", "weights_sha256": "00"}}
FILM = Made("video.mp4", "video/mp4", Origin.OWN, Origin.MADE)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(data=tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def signing(settings: Settings) -> Signing:
    return Signing(open_identity(settings))


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return make(tmp_path / "film.mp4", Film(), Track(), options={"movflags": "+faststart"})


@pytest.fixture
def signed(signing: Signing, film: Path, tmp_path: Path) -> Callable[[Made, Path | None], Path]:
    def sign(made: Made, upload: Path | None = None) -> Path:
        ingredient = None
        if not made.whole:
            ingredient = tmp_path / "ingredient"
            write_ingredient(upload or film, "video/mp4", relationship(made), ingredient)
        path = tmp_path / made.title
        path.write_bytes(film.read_bytes())
        signing.sign(path, made, GENERATION, ingredient)
        return path

    return sign


def packets(path: Path) -> list[tuple[int, bytes]]:
    with av.open(str(path)) as container:
        return [(packet.stream_index, bytes(packet)) for packet in container.demux()]


def test_the_packets_stay_byte_for_byte(signed: Callable[..., Path], film: Path) -> None:
    path = signed(FILM, film)
    assert path.stat().st_size > film.stat().st_size
    assert packets(path) == packets(film)
    assert sorted(each.name for each in path.parent.iterdir()) == ["film.mp4", "ingredient", "video.mp4"]


def test_a_clip_from_nothing_is_generated_all(signed: Callable[..., Path]) -> None:
    report = read_credentials(signed(Made("video.mp4", "video/mp4", Origin.MADE, Origin.MADE)))
    assert (report.credentials, report.generated) == ("untrusted", "all")
    assert [(each.action, each.source_type) for each in report.actions] == [("c2pa.created", TRAINED)]
    assert (report.made_by or "").startswith("Duet ")
    assert report.model == Model("demo", "00")
    assert report.ingredients == []


def test_the_upload_is_the_parent_and_its_own_credentials_are_kept(
    signed: Callable[..., Path], film: Path, tmp_path: Path
) -> None:
    first = signed(FILM, film)
    upload = first.rename(tmp_path / "upload.mp4")
    report = read_credentials(signed(FILM, upload))
    assert (report.credentials, report.generated) == ("untrusted", "part")
    assert [each.action for each in report.actions] == ["c2pa.opened", "c2pa.edited"]
    assert report.actions[1].source_type == COMPOSITE
    [ingredient] = report.ingredients
    assert (ingredient.relationship, ingredient.credentials) == ("parentOf", "untrusted")


def test_every_span_of_an_edit_is_an_action(signed: Callable[..., Path], film: Path) -> None:
    spans = (Span("sound", 0.25, 0.5), Span("picture", 1.0, 1.5))
    report = read_credentials(
        signed(Made("video.mp4", "video/mp4", Origin.PARTLY_MADE, Origin.PARTLY_MADE, spans), film)
    )
    assert [each.description for each in report.actions[1:]] == [
        "The sound from 0.250 s to 0.500 s is made by the model",
        "The picture from 1.000 s to 1.500 s is made by the model",
    ]


def test_a_trusted_certificate_makes_it_valid(signed: Callable[..., Path], settings: Settings) -> None:
    path = settings.data / "provenance" / "identity.pem"
    trusted = trusted_certificates(settings.model_copy(update={"provenance_trust": path}))
    assert read_credentials(signed(FILM), trusted).credentials == "valid"


def test_the_key_is_not_in_the_file(signed: Callable[..., Path], settings: Settings) -> None:
    key = serialization.load_pem_private_key((settings.data / "provenance" / "identity.pem").read_bytes(), None)
    secret = key.private_numbers().private_value.to_bytes(32, "big")  # type: ignore[union-attr]
    assert secret not in signed(FILM).read_bytes()


def test_one_changed_byte_is_noticed(signed: Callable[..., Path]) -> None:
    path = signed(FILM)
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    report = read_credentials(path)
    assert report.credentials == "tampered"
    assert "assertion.bmffHash.mismatch" in report.problems


def test_damaged_and_huge_statements_are_reported_and_crash_nothing(signed: Callable[..., Path]) -> None:
    path = signed(FILM)
    whole = path.read_bytes()
    start = whole.index(b"jumb")
    draw = random.Random(1)
    for _ in range(4):
        content = bytearray(whole)
        for _ in range(20):
            content[start + draw.randrange(8000)] = draw.randrange(256)
        path.write_bytes(content)
        assert read_credentials(path).credentials in ("tampered", "unreadable", "none")
    content = bytearray(whole)
    content[start - 4 : start] = b"\x7f\xff\xff\xff"  # the statement's length, which the box around it limits
    path.write_bytes(content)
    assert read_credentials(path).credentials == "untrusted"


def test_a_file_that_takes_too_long_is_unreadable(signed: Callable[..., Path]) -> None:
    limits = ProcessLimits(cpu_seconds=30, wall_seconds=0.001, memory_bytes=2**30, file_bytes=0)
    assert read_credentials(signed(FILM), limits=limits).problems == ["not read within 0.001 s"]


def test_files_without_credentials_have_none_and_others_are_refused(film: Path, tmp_path: Path) -> None:
    assert read_credentials(film).credentials == "none"
    webm = make(tmp_path / "film.mkv", Film())
    assert read_credentials(webm).credentials == "none"
    text = tmp_path / "notes.txt"
    text.write_text("no clip")
    with pytest.raises(UnknownFileError, match="not a video or sound"):
        read_credentials(text)
