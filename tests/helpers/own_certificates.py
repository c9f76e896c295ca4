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

from orchestrator.delivery.certificates import AUTHORITY_FILE, CERTIFICATE_FILE, KEY_FILE, REVOKED_FILE
from orchestrator.durable import replace_file

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
        self._lists = 0
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

    def node(self, name: str = "alice") -> Path:
        """A secrets folder with the certificate of a node, for localhost, 127.0.0.0/30 and ::1, and the revoked ones."""
        hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1"]
        names = [x509.DNSName("localhost"), *(x509.IPAddress(ipaddress.ip_address(each)) for each in hosts)]
        made = self._sign(f"node-{name}", [name], ExtendedKeyUsageOID.SERVER_AUTH, names)
        folder = made.certificate.parent
        made.certificate.replace(folder / CERTIFICATE_FILE)
        made.key.replace(folder / KEY_FILE)
        (folder / AUTHORITY_FILE).write_bytes(self.ca.read_bytes())
        self.revoke(folder)
        return folder

    def folder_of(self, name: str) -> Path:
        """The secrets folder of a node that was made."""
        return self._folder / f"node-{name}"

    def revoke(self, folder: Path, *serials: int) -> None:
        """Put a list with these serial numbers into a node's folder."""
        self._lists += 1
        now = datetime.now(UTC)
        begun = x509.CertificateRevocationListBuilder().issuer_name(self._name)
        begun = begun.last_update(now).next_update(now + DAY)
        begun = begun.add_extension(x509.CRLNumber(self._lists), critical=False)
        for serial in serials:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
            begun = begun.add_revoked_certificate(entry)
        made = begun.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        replace_file(folder / REVOKED_FILE, made, 0o600)

    def sae(self, *names: str, file: str = "", began: timedelta = -DAY, ends: timedelta = DAY) -> Credentials:
        """A client certificate with these common names, one as a rule; its days count from today."""
        label = file or "-".join(names) or "nobody"
        return self._sign(f"sae-{label}", list(names), ExtendedKeyUsageOID.CLIENT_AUTH, [], began, ends)

    def renewed(self, before: Credentials, *names: str) -> Credentials:
        """Another certificate for the key of one before."""
        key = serialization.load_pem_private_key(before.key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return self._sign(
            f"sae-{'-'.join(names)}-renewed", list(names), ExtendedKeyUsageOID.CLIENT_AUTH, [], key=key
        )

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
        key: ec.EllipticCurvePrivateKey | None = None,
    ) -> Credentials:
        key = key or ec.generate_private_key(ec.SECP256R1())
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
        (folder / "key.pem").chmod(0o600)
        return Credentials(folder / "cert.pem", folder / "key.pem", made.serial_number)


def client_context(ca: Path, own: Credentials | None) -> ssl.SSLContext:
    """How an application connects; without a certificate where ``own`` is None."""
    context = ssl.create_default_context(cafile=str(ca))
    if own is not None:
        context.load_cert_chain(own.certificate, own.key)
    return context
