"""What a holder of a certificate keeps: an application three files in a folder of its own, a node four among its secrets.

``sae-NAME/key.pem, cert.pem, ca.pem``  (:mod:`orchestrator.delivery.certificates` names those of a node)

A private key is made on the machine that uses it.  Beside the key in use the next one waits, ``next-key.pem``, until the
certificate for it arrives: nothing that works is given up before its replacement is whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from lab.runs.certificates.making import key_pem, make_key, make_request, pem
from orchestrator.delivery import certificates
from orchestrator.delivery.certificates import (
    CertificateError,
    Holder,
    check_issued,
    check_list,
    common_name,
    extensions_of,
    fingerprint,
    holders,
    list_number,
    public_key,
    read_certificate,
    read_key,
    read_list,
)
from orchestrator.durable import create_file, make_folder, move_file, replace_file


@dataclass(frozen=True)
class Held:
    """The files of one holder; ``revoked`` is a node's alone."""

    name: str
    holder: Holder
    key: Path
    certificate: Path
    authority: Path
    next_key: Path
    request: Path
    revoked: Path | None

    @classmethod
    def by_application(cls, name: str, folder: Path) -> Held:
        """In a folder of an application's own."""
        return cls(
            name,
            Holder.SAE,
            key=folder / "key.pem",
            certificate=folder / "cert.pem",
            authority=folder / "ca.pem",
            next_key=folder / "next-key.pem",
            request=folder / "request.pem",
            revoked=None,
        )

    @classmethod
    def by_node(cls, user: str, folder: Path) -> Held:
        """In a user's secrets folder."""
        return cls(
            user,
            Holder.KME,
            key=folder / certificates.KEY_FILE,
            certificate=folder / certificates.CERTIFICATE_FILE,
            authority=folder / certificates.AUTHORITY_FILE,
            next_key=folder / "kme-next-key.pem",
            request=folder / "kme-request.pem",
            revoked=folder / certificates.REVOKED_FILE,
        )

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.key.parent


def request(held: Held, hosts: Sequence[str] = ()) -> str:
    """Make a private key, if none waits already, and the request for its certificate; the key's fingerprint."""
    make_folder(held.folder)
    if held.next_key.exists():
        key = read_key(held.next_key)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise CertificateError(f"{held.next_key} is no key that was made here; move it away")
    else:
        key = make_key()
        create_file(held.next_key, key_pem(key), 0o600)
    replace_file(held.request, pem(make_request(key, held.name, held.holder, hosts)), 0o600)
    return fingerprint(key.public_key())


def place(held: Held, key: ec.EllipticCurvePrivateKey, bundle: bytes) -> None:
    """Give a holder that has nothing yet all its files at once; for a rehearsal on one machine."""
    make_folder(held.folder)
    came = Arrived.parse(bundle, "the certificate")
    create_file(held.key, key_pem(key), 0o600)
    create_file(held.certificate, pem(came.own), 0o600)
    create_file(held.authority, pem(came.authority), 0o600)
    if held.revoked:
        create_file(held.revoked, pem(came.revoked), 0o600)


@dataclass(frozen=True)
class Arrived:
    """What an authority gives to a holder; ``where`` is for messages."""

    name: str
    holder: Holder
    own: x509.Certificate
    authority: x509.Certificate
    revoked: x509.CertificateRevocationList
    where: str

    @classmethod
    def parse(cls, content: bytes, where: str) -> Arrived:
        """Raises CertificateError for anything else."""
        try:
            own, authority = x509.load_pem_x509_certificates(content)
            revoked = x509.load_pem_x509_crl(content)
            found = holders(extensions_of(own))
        except ValueError:
            raise CertificateError(
                f"{where} is not what `qunetlab sae approve` writes (a certificate, that of its authority, a list of revoked "
                "ones), or it was cut short"
            ) from None
        check_list(revoked, authority, where)
        if len(found) != 1:
            raise CertificateError(f"{where} is neither for an application nor for a node")
        return cls(common_name(own.subject), found.pop(), own, authority, revoked, where)


def is_strange(held: Held, authority: x509.Certificate) -> bool:
    """Whether the holder has not yet met this authority; CertificateError where it has another one."""
    if not held.authority.exists():
        return True
    known = fingerprint(public_key(read_certificate(held.authority)))
    if known != (came := fingerprint(public_key(authority))):
        raise CertificateError(
            f"the certificate comes from the authority {came}, and {held.authority} is {known}: if this testbed has a new "
            f"authority, move {held.authority} away first"
        )
    return False


def install(held: Held, came: Arrived, at: datetime) -> None:
    """Put a certificate in its place, with the key it was made for; CertificateError, and then all is as it was."""
    check_issued(came.own, came.authority, held.name, held.holder, at, came.where)
    strange = is_strange(held, came.authority)
    key = _key_of(held, came)
    if held.revoked and strange:  # a list that lies there is of an authority that was moved away
        replace_file(held.revoked, pem(came.revoked), 0o600)
    elif held.revoked:
        install_list(held.revoked, came.revoked, came.authority)
    replace_file(held.authority, pem(came.authority), 0o600)
    if key == held.next_key:
        move_file(held.next_key, held.key)
    replace_file(held.certificate, pem(came.own), 0o600)
    held.request.unlink(missing_ok=True)


def install_list(target: Path, came: x509.CertificateRevocationList, authority: x509.Certificate) -> int:
    """Put a list of revoked certificates where a node reads it, unless it has a later one; the number in force."""
    check_list(came, authority, "the list of revoked certificates")
    if target.exists() and (number := list_number(read_list(target, authority))) >= list_number(came):
        return number
    replace_file(target, pem(came), 0o600)
    return list_number(came)


def holds_key_of(held: Held, certificate: x509.Certificate) -> bool:
    """Whether the key in use is this certificate's."""
    return held.key.exists() and _fingerprint_at(held.key) == fingerprint(public_key(certificate))


def _key_of(held: Held, came: Arrived) -> Path:
    """Which of the holder's keys the certificate was made for."""
    wanted = fingerprint(public_key(came.own))
    for candidate in (held.next_key, held.key):
        if candidate.exists() and _fingerprint_at(candidate) == wanted:
            return candidate
    raise CertificateError(
        f"no key in {held.folder} is the one that {came.where} was made for: it was requested on another machine, or in "
        "another folder"
    )


def _fingerprint_at(path: Path) -> str:
    return fingerprint(read_key(path).public_key())
