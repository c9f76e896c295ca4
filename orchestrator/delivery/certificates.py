"""Certificates of key delivery as their holders read them: a node's own, the authority's, and who was revoked.

One authority per testbed (:mod:`lab.runs.certificates`) signs two kinds of certificate (X.509, RFC 5280), told apart by their
extended key usage: an application's (SAE, ``clientAuth``), whose common name is its SAE id, and a node's (KME,
``serverAuth``), whose common name is its user.  A node has four files in its secrets folder, all 0600:

``kme-key.pem``   its private key
``kme-cert.pem``  its certificate
``kme-ca.pem``    the authority's certificate
``kme-crl.pem``   the authority's list of revoked certificates

A server needs :meth:`NodeCertificates.load` with the role's secrets folder before it listens, then its ``certificate``, ``key``
and ``authority`` for TLS, and ``revoked.is_revoked`` with the serial number of a caller's certificate before every answer, so
that one that is revoked while a connection is open is refused at once.  A list of revoked certificates that is put in place is read without a restart; one that cannot be used (damaged, older,
of another authority) is refused, and the one before holds on: whoever was revoked must not come back through a bad file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.wall_clock import utc_now

logger = logging.getLogger(__name__)

KEY_FILE = "kme-key.pem"
CERTIFICATE_FILE = "kme-cert.pem"
AUTHORITY_FILE = "kme-ca.pem"
REVOKED_FILE = "kme-crl.pem"
LARGEST_BYTES = 4 << 20
"""Of a file of certificates: a list of a hundred thousand revoked ones fits."""

PrivateKey: TypeAlias = (
    ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey | rsa.RSAPrivateKey
)
PublicKey: TypeAlias = (
    ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey | rsa.RSAPublicKey
)


class CertificateError(Exception):
    """A certificate, key or list that cannot be used: what, where and what to do."""


class Holder(Enum):
    """Who a certificate is for; the value is what it says of its use."""

    SAE = ExtendedKeyUsageOID.CLIENT_AUTH
    KME = ExtendedKeyUsageOID.SERVER_AUTH

    @property
    def words(self) -> str:
        """For a message."""
        return "an application" if self is Holder.SAE else "a node's key delivery"


# -- one file ---------------------------------------------------------------------------------------------------------


def read_limited(path: Path, *, private: bool = False) -> bytes:
    """The content of a regular file; CertificateError if it is missing, too long, or ``private`` and open to others."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise CertificateError(f"cannot read {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise CertificateError(f"{path} is not a regular file")
        if private and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise CertificateError(
                f"{path} has mode {stat.S_IMODE(mode):04o}, others on this machine could read it; if nobody did, run "
                f"`chmod 600 {path}`, otherwise replace the key"
            )
        content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise CertificateError(f"{path} is longer than any file of certificates")
    return content


def read_certificates(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, at least one; CertificateError."""
    try:
        return x509.load_pem_x509_certificates(read_limited(path))
    except ValueError:
        raise CertificateError(f"{path} holds no certificate in PEM form") from None


def read_certificate(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file; CertificateError."""
    return read_certificates(path)[0]


def read_key(path: Path) -> PrivateKey:
    """The private key of a PEM file that nobody else may read; CertificateError."""
    content = read_limited(path, private=True)
    try:
        key = serialization.load_pem_private_key(content, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateError(f"{path} holds no private key in PEM form without a passphrase") from None
    if not isinstance(key, PrivateKey):
        raise CertificateError(f"{path} holds a key of a kind that no certificate here has")
    return key


def check_list(revoked: x509.CertificateRevocationList, authority: x509.Certificate, place: str) -> None:
    """Raise CertificateError unless ``authority`` signed the list."""
    if revoked.issuer != authority.subject or not revoked.is_signature_valid(public_key(authority)):
        raise CertificateError(
            f"{place} is a list of another authority than {fingerprint(public_key(authority))}: copy crl.pem from the "
            "machine where this testbed's certificates are approved"
        )


def read_list(path: Path, authority: x509.Certificate) -> x509.CertificateRevocationList:
    """The list of revoked certificates at ``path``, signed by ``authority``; CertificateError."""
    try:
        revoked = x509.load_pem_x509_crl(read_limited(path))
    except ValueError:
        raise CertificateError(f"{path} holds no list of revoked certificates in PEM form") from None
    check_list(revoked, authority, str(path))
    return revoked


# -- what a certificate says ------------------------------------------------------------------------------------------


def common_name(subject: x509.Name) -> str:
    """The one common name of a subject; CertificateError where there are none or several."""
    names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(names) != 1 or not isinstance(names[0].value, str):
        raise CertificateError(f"a certificate here has one common name (CN), and this one {len(names)}")
    return names[0].value


def extensions_of(signed: x509.Certificate | x509.CertificateSigningRequest) -> x509.Extensions:
    """The extensions of a certificate or a request; CertificateError where they cannot be read."""
    try:
        return signed.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise CertificateError(
            "its extensions cannot be read: one is malformed, or stands there twice"
        ) from None


def holders(extensions: x509.Extensions) -> set[Holder]:
    """For whom a certificate, or a request for one, says that it is."""
    try:
        usages = set(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return set()
    return {holder for holder in Holder if holder.value in usages}


def fingerprint(key: PublicKey) -> str:
    """What two people compare: :func:`key_digest` as ``ab:cd:...``."""
    return key_digest(key).hex(":")


def key_digest(key: PublicKey) -> bytes:
    """SHA-256 of a public key (SubjectPublicKeyInfo, DER)."""
    spki = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).digest()


def public_key(signed: x509.Certificate | x509.CertificateSigningRequest) -> PublicKey:
    """The public key of a certificate or a request; CertificateError for a kind that none has here."""
    try:
        key = signed.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError("the public key cannot be read") from None
    if not isinstance(key, PublicKey):
        raise CertificateError("the public key is of a kind that signs nothing: make one of P-256 (ECDSA)")
    return key


def numbered(serial: int) -> str:
    """A serial number as commands and files write it."""
    return f"{serial:032x}"


def check_issued(
    certificate: x509.Certificate,
    authority: x509.Certificate,
    name: str,
    holder: Holder,
    at: datetime,
    place: str,
) -> None:
    """Raise CertificateError unless ``authority`` issued it for such a holder of that name, and it is valid ``at`` that time."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise CertificateError(
            f"{place} was issued by another authority than {fingerprint(public_key(authority))}: every certificate of a "
            "testbed comes from the machine where they are approved"
        ) from None
    if holder not in holders(extensions_of(certificate)):
        raise CertificateError(f"{place} is no certificate for {holder.words}")
    for what, one in (("it", certificate), ("its authority", authority)):
        if at < one.not_valid_before_utc:
            raise CertificateError(
                f"{place}: {what} is valid only from {one.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on; is the clock of this "
                "machine right?"
            )
        if at >= one.not_valid_after_utc:
            raise CertificateError(
                f"{place}: {what} expired on {one.not_valid_after_utc:%Y-%m-%d}; `qunetlab sae renew` on the machine where "
                "certificates are approved makes another"
            )
    if (found := common_name(certificate.subject)) != name:
        raise CertificateError(f"{place} is the certificate of {found!r}, not of {name}")


def check_pair(certificate: x509.Certificate, key: PrivateKey, place: str) -> None:
    """Raise CertificateError unless the key is the certificate's."""
    if fingerprint(key.public_key()) != fingerprint(public_key(certificate)):
        raise CertificateError(
            f"{place}: certificate and private key are no pair; install the certificate that was made for this key, or "
            "make another key with `qunetlab sae request`"
        )


def read_held(
    certificate: Path, key: Path, authority: Path, name: str, holder: Holder, at: datetime
) -> tuple[x509.Certificate, x509.Certificate]:
    """The certificate of a holder and its authority's, once both and the private key may be used; CertificateError."""
    own, issuer = read_certificate(certificate), read_certificate(authority)
    check_issued(own, issuer, name, holder, at, str(certificate))
    check_pair(own, read_key(key), str(certificate))
    return own, issuer


# -- revoked ones -----------------------------------------------------------------------------------------------------


class RevokedCertificates:
    """The serial numbers that an authority revoked, as the file says at any time; safe to ask from any thread."""

    def __init__(self, path: Path, authority: x509.Certificate) -> None:
        """Raises CertificateError: who is revoked must be known before anybody is served."""
        self.path = path
        self.authority = authority
        self._seen = self._stamp()
        self._list = read_list(path, authority)
        self._serials = _serials(self._list)

    @property
    def number(self) -> int:
        """Of the list in force; later lists have greater ones."""
        return list_number(self._in_force())

    def is_revoked(self, serial: int) -> bool:
        """Whether that certificate is refused."""
        self._in_force()
        return serial in self._serials

    def _in_force(self) -> x509.CertificateRevocationList:
        """The list, read again where the file is another one."""
        if (stamp := self._stamp()) != self._seen:
            self._seen = stamp
            self._read_again()
        return self._list

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            told = self.path.stat()
        except OSError:
            return None
        return told.st_mtime_ns, told.st_size, told.st_ino

    def _read_again(self) -> None:
        before = list_number(self._list)
        try:
            found = read_list(self.path, self.authority)
            if list_number(found) < before:
                raise CertificateError(
                    f"{self.path} is list {list_number(found)}, older than list {before} that was read before"
                )
        except CertificateError as error:
            logger.error("revoked certificates: %s; list %d holds on", error, before)
            return
        self._list, self._serials = found, _serials(found)
        logger.info(
            "revoked certificates: list %d with %d is in force", list_number(found), len(self._serials)
        )


def list_number(revoked: x509.CertificateRevocationList) -> int:
    """The number of a list (RFC 5280, 5.2.3); 0 where it has none."""
    try:
        return revoked.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def _serials(revoked: x509.CertificateRevocationList) -> frozenset[int]:
    return frozenset(each.serial_number for each in revoked)


# -- a node -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NodeCertificates:
    """What a node proves itself with, and whom it refuses; paths are for TLS, which reads the files itself."""

    certificate: Path
    key: Path
    authority: Path
    until: datetime
    """When the certificate that was found expires."""
    revoked: RevokedCertificates

    @classmethod
    def load(cls, folder: Path, user: str, at: datetime | None = None) -> NodeCertificates:
        """Read and check the four files of ``user`` in its secrets folder, valid ``at`` a time (now); CertificateError."""
        path, key, authority_path = (folder / name for name in (CERTIFICATE_FILE, KEY_FILE, AUTHORITY_FILE))
        if not path.exists():
            raise CertificateError(
                f"{path} is missing: {user}'s node has no certificate to serve applications with; make one with `qunetlab sae "
                f"request {user} --kme`, or `qunetlab sae authority` on the machine where certificates are approved"
            )
        certificate, authority = read_held(path, key, authority_path, user, Holder.KME, at or utc_now())
        revoked = RevokedCertificates(folder / REVOKED_FILE, authority)
        return cls(path, key, authority_path, certificate.not_valid_after_utc, revoked)
