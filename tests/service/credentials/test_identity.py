"""The certificate and key that sign: made once, from files, and behind a command."""

from __future__ import annotations

import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from service.credentials.identity import IdentityError, make_identity, only_certificates, open_identity
from service.credentials.signing import Signing, SigningError
from service.settings import Settings

COMMAND = """
import sys
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
key = serialization.load_pem_private_key(open(sys.argv[1], "rb").read(), None)
sys.stdout.buffer.write(key.sign(sys.stdin.buffer.read(), ec.ECDSA(hashes.SHA256())))
"""
"""A device that answers with a DER structure, as most do."""


def test_a_pair_is_made_once_for_all_processes(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: open_identity(Settings(data=tmp_path)), range(8)))
    assert len({each.fingerprint for each in found}) == 1
    path = tmp_path / "provenance" / "identity.pem"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert "PRIVATE" not in found[0].certificates
    Signing(found[0])


def test_a_command_signs_in_place_of_a_key(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    make_identity(path)
    certificate = tmp_path / "certificate.pem"
    certificate.write_text(only_certificates(path.read_bytes()))
    command = shlex.join([sys.executable, "-c", COMMAND, str(path)])
    Signing(open_identity(Settings(data=tmp_path, provenance_certificate=certificate, provenance_command=command)))


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("false", "false ended with status 1"),
        ("no-such-program", "cannot be run"),
        ("true", "wrote 0 bytes, which are no signature"),
        ("head -c 64 /dev/zero", "signature"),
    ],
)
def test_a_command_that_fails_is_named(tmp_path: Path, command: str, reason: str) -> None:
    path = tmp_path / "identity.pem"
    make_identity(path)
    with pytest.raises(SigningError, match=reason):
        Signing(open_identity(Settings(data=tmp_path, provenance_certificate=path, provenance_command=command)))


def test_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path, other, text = tmp_path / "identity.pem", tmp_path / "other.pem", tmp_path / "notes.txt"
    make_identity(path)
    key = ec.generate_private_key(ec.SECP256R1())
    other.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    text.write_text("not a certificate")
    for settings, reason in (
        ({"provenance_certificate": path, "provenance_key": other}, "does not belong to the first certificate"),
        ({"provenance_certificate": path, "provenance_key": text}, "holds no private key"),
        ({"provenance_certificate": text}, "holds no certificate"),
    ):
        with pytest.raises(IdentityError, match=reason):
            open_identity(Settings(data=tmp_path, **settings))


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    make_identity(path)
    with pytest.raises(ValueError, match="PROVENANCE_CERTIFICATE must be set"):
        Settings(data=tmp_path, provenance_key=path)
    with pytest.raises(ValueError, match="set only one of"):
        Settings(data=tmp_path, provenance_certificate=path, provenance_key=path, provenance_command="x")
