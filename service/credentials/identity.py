"""The certificate and the key that sign. Without configured ones, a pair is made once and kept in the data folder.

A key is in a file, or behind a command for keys that cannot leave their device (HSM, cloud KMS): the command reads the
bytes to sign from standard input and writes the signature to standard output.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from service.settings import Settings

VALIDITY = timedelta(days=3650)
COMMAND_SECONDS = 30.0

_CURVES: dict[str, tuple[str, hashes.HashAlgorithm]] = {
    "secp256r1": ("es256", hashes.SHA256()),
    "secp384r1": ("es384", hashes.SHA384()),
    "secp521r1": ("es512", hashes.SHA512()),
}
"""C2PA's algorithm for each curve."""


class IdentityError(Exception):
    """The certificate or the key cannot be used."""


@dataclass(frozen=True)
class Identity:
    """`certificates`: PEM, the signer's first. `algorithm`: in C2PA's names.

    `sign` returns a raw signature, r and s for elliptic curves, and raises IdentityError.
    """

    certificates: str
    algorithm: str
    sign: Callable[[bytes], bytes]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the signer's certificate, in hexadecimal."""
        return _leaf(self.certificates).fingerprint(hashes.SHA256()).hex()


def open_identity(settings: Settings) -> Identity:
    """The identity that `settings` name, or the one that Duet makes for itself. Raises IdentityError."""
    path = settings.provenance_certificate
    try:
        if path is None:
            path = settings.data / "provenance" / "identity.pem"
            make_identity(path)
        content = path.read_bytes()
        key_path = settings.provenance_key or path
        secret = b"" if settings.provenance_command else key_path.read_bytes()
    except OSError as error:
        raise IdentityError(f"{error.filename}: {error.strerror}") from error
    try:
        certificates = only_certificates(content)
    except ValueError as error:
        raise IdentityError(f"{path} holds no certificate in PEM: {error}") from error
    public = _leaf(certificates).public_key()
    algorithm = _algorithm(public)
    if settings.provenance_command:
        return Identity(certificates, algorithm, partial(_by_command, shlex.split(settings.provenance_command), public))
    try:
        key = serialization.load_pem_private_key(secret, password=None)
    except (ValueError, TypeError) as error:
        raise IdentityError(f"{key_path} holds no private key in PEM without a password: {error}") from error
    if key.public_key() != public:
        raise IdentityError(f"the key in {key_path} does not belong to the first certificate in {path}")
    return Identity(certificates, algorithm, partial(_by_key, key))


def trusted_certificates(settings: Settings) -> str:
    """The certificates that `POST /verify` trusts, in PEM; empty if none are set. Raises ValueError."""
    path = settings.provenance_trust
    if path is None:
        return ""
    try:
        return only_certificates(path.read_bytes())
    except OSError as error:
        raise ValueError(f"DUET_PROVENANCE_TRUST: {path}: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"DUET_PROVENANCE_TRUST: {path} holds no certificate in PEM") from error


def only_certificates(content: bytes) -> str:
    """The certificates of a PEM file without anything else in it: the library puts every block into the clips, and a
    key may be one of them. Raises ValueError if there are none."""
    found = x509.load_pem_x509_certificates(content)
    return "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in found)


def make_identity(path: Path) -> None:
    """Write a new key and its certificates to `path`, in one file, unless it exists. Several processes may do so.

    Verifiers refuse a signer's certificate that signs itself, so an authority signs it whose key is thrown away.
    Raises OSError.
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certify(authority_key, "Duet: authority of this installation", authority_key, authority=True)
    signer = _certify(key, "Duet: this installation", authority_key, authority=False)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = [each.public_bytes(serialization.Encoding.PEM) for each in (signer, authority)]
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)  # which only its owner can read
    try:
        with open(descriptor, "wb") as file:
            file.write(b"".join([*chain, secret]))
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was first
    finally:
        os.unlink(temporary)


def _certify(
    key: ec.EllipticCurvePrivateKey, subject: str, issuer_key: ec.EllipticCurvePrivateKey, authority: bool
) -> x509.Certificate:
    """A certificate by the installation's authority, as C2PA's certificate profile asks for."""
    now = datetime.now(UTC)
    unused = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    usage = dict.fromkeys((*unused, "encipher_only", "decipher_only"), False)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name("Duet: authority of this installation"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + VALIDITY)
        .add_extension(x509.BasicConstraints(authority, 0 if authority else None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not authority, key_cert_sign=authority, crl_sign=authority, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=True)
    return builder.sign(issuer_key, hashes.SHA256())


def _name(common: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Duet"), x509.NameAttribute(NameOID.COMMON_NAME, common)]
    )


def _leaf(certificates: str) -> x509.Certificate:
    return x509.load_pem_x509_certificates(certificates.encode())[0]


def _algorithm(public: Any) -> str:
    if isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in _CURVES:
        return _CURVES[public.curve.name][0]
    if isinstance(public, ed25519.Ed25519PublicKey):
        return "ed25519"
    if isinstance(public, rsa.RSAPublicKey) and public.key_size >= 2048:
        return "ps256"
    raise IdentityError("the certificate's key must be P-256, P-384, P-521, Ed25519, or RSA of at least 2048 bits")


def _by_key(key: Any, data: bytes) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _raw(key.sign(data, ec.ECDSA(_CURVES[key.curve.name][1])), key.curve)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    signature: bytes = key.sign(data)
    return signature


def _by_command(command: list[str], public: Any, data: bytes) -> bytes:
    """The command's signature. Many devices write r and s as a DER structure, which is unpacked."""
    try:
        ran = subprocess.run(command, input=data, capture_output=True, timeout=COMMAND_SECONDS, check=True)
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        raise IdentityError(f"{command[0]} ended with status {error.returncode}: {said}") from error
    except subprocess.TimeoutExpired as error:
        raise IdentityError(f"{command[0]} gave no signature within {COMMAND_SECONDS:g} s") from error
    except OSError as error:
        raise IdentityError(f"{command[0]} cannot be run: {error.strerror}") from error
    if isinstance(public, ec.EllipticCurvePublicKey) and len(ran.stdout) != 2 * _width(public.curve):
        try:
            return _raw(ran.stdout, public.curve)
        except ValueError as error:
            raise IdentityError(f"{command[0]} wrote {len(ran.stdout)} bytes, which are no signature") from error
    return ran.stdout


def _raw(der: bytes, curve: ec.EllipticCurve) -> bytes:
    """r and s, each at the curve's full width (COSE, RFC 9053 section 2.1). Raises ValueError."""
    return b"".join(number.to_bytes(_width(curve), "big") for number in decode_dss_signature(der))


def _width(curve: ec.EllipticCurve) -> int:
    return (curve.key_size + 7) // 8
