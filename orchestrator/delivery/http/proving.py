"""Who is at the other end, proved by TLS: the context of both certificates, and the application that one names.

The SAE ID is the one common name of the certificate, never a header.  TLS looks at a certificate when a connection
begins; that it has been revoked or has expired since then is asked before each answer.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from orchestrator.delivery.certificates import (
    CertificateError,
    Holder,
    NodeCertificates,
    RevokedCertificates,
    common_name,
    extensions_of,
    holders,
    key_digest,
    numbered,
    public_key,
    read_certificate,
)
from orchestrator.wall_clock import utc_now


@dataclass(frozen=True)
class Caller:
    """What TLS has proved of one connection."""

    sae_id: str
    serial: int
    key: bytes
    """Digest of the public key, which a renewed certificate shares with the one before."""
    not_after: datetime
    authority: x509.Certificate
    """Which signed the certificate."""


class Proving:
    """The certificates of a node, asked about those of applications."""

    def __init__(self, certificates: NodeCertificates, now: Callable[[], datetime] = utc_now) -> None:
        self._certificates, self._now = certificates, now
        self._authority = certificates.revoked.authority

    def context(self) -> ssl.SSLContext:
        """TLS 1.3 with a certificate from both ends, without resumption; raises OSError or ValueError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.num_tickets = 0
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(self._certificates.certificate, self._certificates.key, password=_no_password)
        context.load_verify_locations(cafile=self._certificates.authority)
        return context

    def renewed(self) -> ssl.SSLContext:
        """:meth:`context` once :meth:`files` are others; raises OSError, ValueError or CertificateError, and nothing changed.

        Where the authority is another one, so is its list, and whoever the one before had signed is no caller any more.
        """
        context = self.context()
        authority = read_certificate(self._certificates.authority)
        if authority != self._authority:
            revoked = RevokedCertificates(self._certificates.revoked.path, authority)
            self._certificates = replace(self._certificates, revoked=revoked)
            self._authority = authority
        return context

    def files(self) -> tuple[bytes, ...]:
        """What :meth:`context` was made of, less the private key; raises OSError."""
        return self._certificates.certificate.read_bytes(), self._certificates.authority.read_bytes()

    def caller(self, der: bytes) -> Caller:
        """Who connected with this certificate, which TLS held against the authority; raises CertificateError."""
        try:
            certificate = x509.load_der_x509_certificate(der)
            name = common_name(certificate.subject)
        except ValueError:
            raise CertificateError("the certificate cannot be read") from None
        try:
            certificate.verify_directly_issued_by(self._authority)
        except (ValueError, TypeError, InvalidSignature):
            raise CertificateError("the certificate is of another authority") from None
        if Holder.SAE not in holders(extensions_of(certificate)):
            raise CertificateError("the certificate is not for an application that draws keys")
        digest = key_digest(public_key(certificate))
        found = Caller(
            name, certificate.serial_number, digest, certificate.not_valid_after_utc, self._authority
        )
        if why := self.objection(found):
            raise CertificateError(why)
        return found

    def objection(self, caller: Caller) -> str:
        """Why a caller is refused from here on; empty where it is not."""
        if caller.authority != self._authority:
            return "the testbed has another authority, which has signed no such certificate"
        if self._certificates.revoked.is_revoked(caller.serial):
            return f"certificate {numbered(caller.serial)} was revoked"
        return f"certificate {numbered(caller.serial)} expired" if self._now() >= caller.not_after else ""


def _no_password() -> str:
    raise ValueError("the private key is under a password, which nobody could type in here")
