"""Certificates for tests: an authority, and what it signs, good or faulty."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Credentials:
    """Files of one certificate, and its serial number."""

    certificate: Path
    key: Path
    serial: int


class Authority:
    """Signs certificates into ``folder``; ``ca`` is its own."""

    def __init__(self, folder: Path, name: str = "test authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        public = self._key.public_key()
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        made = (
            self._begun(self._name, public)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def server(self, name: str = "alice") -> Credentials:
        """For 127.0.0.0/30, ::1 and localhost."""
        hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1"]
        names = [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(each)) for each in hosts)]
        return self._sign(f"kme-{name}", [name], ExtendedKeyUsageOID.SERVER_AUTH, names)

    def sae(self, *names: str, file: str = "", began: timedelta = -DAY, ends: timedelta = DAY) -> Credentials:
        """A client certificate with these common names, one as a rule; its days count from today."""
        label = file or "-".join(names) or "nobody"
        return self._sign(f"sae-{label}", list(names), ExtendedKeyUsageOID.CLIENT_AUTH, [], began, ends)

    def _begun(
        self,
        subject: x509.Name,
        public: ec.EllipticCurvePublicKey,
        began: timedelta = -DAY,
        ends: timedelta = DAY,
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + began)
            .not_valid_after(now + ends)
        )

    def _sign(
        self,
        file: str,
        names: list[str],
        usage: x509.ObjectIdentifier,
        hosts: list[x509.GeneralName],
        began: timedelta = -DAY,
        ends: timedelta = DAY,
    ) -> Credentials:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "tests"),
                *(x509.NameAttribute(NameOID.COMMON_NAME, each) for each in names),
            ]
        )
        begun = (
            self._begun(subject, key.public_key(), began, ends)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )
        if hosts:
            begun = begun.add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        made = begun.sign(self._key, hashes.SHA256())
        folder = self._folder / file
        folder.mkdir(exist_ok=True)
        (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        (folder / "key.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return Credentials(folder / "cert.pem", folder / "key.pem", made.serial_number)


def client_context(ca: Path, own: Credentials | None) -> ssl.SSLContext:
    """How an application connects; without a certificate where ``own`` is None."""
    context = ssl.create_default_context(cafile=str(ca))
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    return context
