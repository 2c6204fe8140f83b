"""`POST /verify`: reports on files of any origin, and leaves nothing behind."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from pathlib import Path

import httpx

from service.credentials.claims import Made, Origin
from service.credentials.identity import open_identity
from service.credentials.signing import Signing
from service.settings import Settings
from tests.conftest import RunningApi
from tests.files import files_in
from tests.service.answers import problem


def a_wav() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, 8000, 0, "NONE", ""))
        out.writeframes(bytes(3200))
    return file.getvalue()


def test_reports_for_signed_and_for_other_files(
    run_api: Callable[[Settings], RunningApi], settings: Settings, tmp_path: Path
) -> None:
    signing = Signing(open_identity(settings))
    trust = settings.data / "provenance" / "identity.pem"
    api = run_api(settings.model_copy(update={"provenance_trust": trust}))
    path = tmp_path / "sound.wav"
    path.write_bytes(a_wav())
    signing.sign(path, Made("audio.wav", "audio/wav", audio=Origin.MADE), {})
    before = files_in(settings.data)
    with httpx.Client(base_url=api.url, trust_env=False) as client:
        report = client.post("/verify", files={"file": ("sound.wav", path.read_bytes())}).json()
        assert (report["credentials"], report["generated"]) == ("valid", "all")
        plain = client.post("/v1/verify", files={"file": ("sound.wav", a_wav())}).json()
        assert (plain["credentials"], plain["generated"], plain["actions"]) == ("none", None, [])
        text = client.post("/verify", files={"file": ("notes.txt", b"no clip")})
        assert problem(text, 415, "unsupported_media")["errors"][0]["field"] == "file"
        empty = client.post("/verify", files={"file": ("empty.wav", b"")})
        assert problem(empty, 422, "empty_file")["errors"][0]["field"] == "file"
        more = client.post("/verify", files={"file": ("sound.wav", a_wav())}, data={"seed": "1"})
        assert problem(more, 422, "invalid_parameter")["errors"][0]["field"] == "seed"
    assert files_in(settings.data) == before
