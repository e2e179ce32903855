"""Certificates with the dates and names that a test wants, each signed by its own authority."""

import datetime as dt
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


def make_certificate(
    directory: Path, name: str = "localhost", begins: float = -1, ends: float = 90, *, has_usage: bool = True
) -> Path:
    """Write certificate.pem and key.pem, good from `begins` to `ends` days from now; return the authority's file.

    Python 3.13 accepts no authority without a key usage (`has_usage`).
    """
    directory.mkdir(exist_ok=True)
    now, keys = dt.datetime.now(dt.UTC), [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"an authority of a test, for {directory.name}")])
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    signs = [(x509.BasicConstraints(True, None), True), (usage, True)][: 2 if has_usage else 1]
    serves = [(x509.BasicConstraints(False, None), True), (x509.SubjectAlternativeName([x509.DNSName(name)]), False)]
    days = ((-400.0, 400.0), (begins, ends))
    for file, subject, key, extensions, (first, last) in zip(
        ("ca.pem", "certificate.pem"), (authority, own), keys, (signs, serves), days, strict=True
    ):
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(authority).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now + dt.timedelta(first)).not_valid_after(now + dt.timedelta(last))
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, is_critical)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(keys[0].public_key())
        builder = builder.add_extension(identifier, False)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        (directory / file).write_bytes(builder.sign(keys[0], SHA256()).public_bytes(Encoding.PEM))
    pem = keys[1].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (directory / "key.pem").write_bytes(pem)
    return directory / "ca.pem"


def tls_context(directory: Path, name: str) -> ssl.SSLContext:
    """Make a certificate for a server of this name; return the server's side of TLS."""
    make_certificate(directory, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "certificate.pem", directory / "key.pem")
    return context
