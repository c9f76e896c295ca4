"""The authority of a testbed: it signs certificates and revokes them, on one machine alone.

``secrets/authority/ca-key.pem``     its private key (0600 in a 0700 folder), which goes with no role to another machine;
                                     or ``ca-key.sealed`` (:mod:`lab.runs.certificates.signing_key`)
``secrets/authority/ca.pem``         its certificate
``secrets/authority/crl.pem``        the list of revoked certificates, to be copied to every node
``secrets/authority/issued/*.pem``   every certificate that it signed, in order, with its serial number

Whoever can read this folder, and knows the passphrase where there is one, decides who draws keys.  Nothing else is kept: what was issued, and what is revoked, is read
from these files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from lab.runs.certificates.making import (
    hosts_of,
    make_authority,
    make_certificate,
    make_key,
    make_list,
    pem,
    revoked_entry,
)
from lab.runs.certificates.signing_key import Passphrase, has_key, is_sealed, keep_key, open_key
from orchestrator.delivery.certificates import (
    CertificateError,
    Holder,
    PublicKey,
    check_pair,
    common_name,
    extensions_of,
    fingerprint,
    holders,
    list_number,
    numbered,
    public_key,
    read_certificate,
    read_list,
)
from orchestrator.durable import create_file, locked, make_folder, replace_file

CERTIFICATE_FILE = "ca.pem"
REVOKED_FILE = "crl.pem"
ISSUED = "issued"


@dataclass(frozen=True)
class Issued:
    """A certificate that was signed here; ``revoked`` says since when it is refused."""

    certificate: x509.Certificate
    name: str
    holder: Holder
    revoked: datetime | None

    @property
    def serial(self) -> int:
        """Its number."""
        return self.certificate.serial_number

    @property
    def until(self) -> datetime:
        """When it expires."""
        return self.certificate.not_valid_after_utc

    @property
    def key(self) -> PublicKey:
        """Its public key."""
        return public_key(self.certificate)

    @property
    def hosts(self) -> list[str]:
        """Names and addresses in it, its holder's name left out."""
        return [host for host in hosts_of(self.certificate.extensions) if host != self.name]

    def holds(self, at: datetime) -> bool:
        """Whether it lets its holder in."""
        return self.revoked is None and at < self.until


class Authority:
    """An authority whose private key is on this machine."""

    def __init__(self, folder: Path, passphrase: Passphrase | None = None) -> None:
        """Raises CertificateError where there is none, or its files do not fit each other.

        ``passphrase`` opens a sealed key, once something is to be signed.
        """
        self.folder = folder
        self._passphrase = passphrase
        self._key: ec.EllipticCurvePrivateKey | None = None
        if not has_key(folder):
            raise CertificateError(
                f"there is no authority in {folder}: certificates are approved, renewed and revoked where its key is (the "
                "machine of `qunetlab init`); a testbed that never had one gets it with `qunetlab sae authority`"
            )
        self.certificate = read_certificate(folder / CERTIFICATE_FILE)
        if not is_sealed(folder):
            self._signer()
        read_list(folder / REVOKED_FILE, self.certificate)

    def _signer(self) -> ec.EllipticCurvePrivateKey:
        """The private key, opened the first time it is needed."""
        if self._key is None:
            key = open_key(self.folder, self._passphrase)
            check_pair(self.certificate, key, str(self.folder / CERTIFICATE_FILE))
            self._key = key
        return self._key

    @classmethod
    def found(
        cls, folder: Path, testbed: str, at: datetime, passphrase: Passphrase | None = None
    ) -> Authority:
        """Make one in ``folder``, which has none; FileExistsError otherwise.  Its key is sealed with ``passphrase``."""
        make_folder(folder / ISSUED)
        key = make_key()
        certificate = make_authority(key, testbed, at)
        keep_key(folder, key, passphrase)
        create_file(folder / CERTIFICATE_FILE, pem(certificate), 0o600)
        create_file(folder / REVOKED_FILE, pem(make_list(certificate, key, (), 1, at)), 0o600)
        made = cls(folder, passphrase)
        made._key = key
        return made

    @property
    def fingerprint(self) -> str:
        """Of its public key, for people to compare."""
        return fingerprint(public_key(self.certificate))

    def revoked_list(self) -> x509.CertificateRevocationList:
        """The list of revoked certificates in force."""
        return read_list(self.folder / REVOKED_FILE, self.certificate)

    def issued(self) -> Iterator[Issued]:
        """Every certificate signed here, oldest first."""
        revoked = {each.serial_number: each.revocation_date_utc for each in self.revoked_list()}
        for path in sorted((self.folder / ISSUED).glob("*.pem")):
            certificate = read_certificate(path)
            for holder in holders(extensions_of(certificate)):
                name = common_name(certificate.subject)
                yield Issued(certificate, name, holder, revoked.get(certificate.serial_number))

    def of(self, name: str, holder: Holder) -> list[Issued]:
        """The certificates of one holder, oldest first."""
        return [each for each in self.issued() if (each.name, each.holder) == (name, holder)]

    def issue(
        self, key: PublicKey, name: str, holder: Holder, hosts: Sequence[str], at: datetime
    ) -> x509.Certificate:
        """Sign a certificate; it is kept here before it is given away."""
        if at >= self.certificate.not_valid_after_utc:
            raise CertificateError(
                f"the authority in {self.folder} expired on {self.certificate.not_valid_after_utc:%Y-%m-%d}: move its folder "
                "away, make another with `qunetlab sae authority`, and approve every holder anew"
            )
        made = make_certificate(self.certificate, self._signer(), key, name, holder, hosts, at)
        with locked(self.folder / CERTIFICATE_FILE):
            count = sum(1 for _ in (self.folder / ISSUED).glob("*.pem"))
            name_of_file = f"{count + 1:06d}-{numbered(made.serial_number)}.pem"
            create_file(self.folder / ISSUED / name_of_file, pem(made), 0o600)
        return made

    def revoke(self, serials: Sequence[int], at: datetime) -> int:
        """Put certificates on the list, durable when this returns; the number of the new list."""
        signer = self._signer()
        with locked(self.folder / CERTIFICATE_FILE):
            before = self.revoked_list()
            entries = {each.serial_number: each for each in before}
            entries = {serial: revoked_entry(serial, at) for serial in serials} | entries
            number = list_number(before) + 1
            after = make_list(self.certificate, signer, entries.values(), number, at)
            replace_file(self.folder / REVOKED_FILE, pem(after), 0o600)
        return number

    def bundle(self, certificate: x509.Certificate) -> bytes:
        """What is carried to a holder: its certificate, the authority's, and the list of revoked ones; no secret."""
        return pem(certificate) + pem(self.certificate) + pem(self.revoked_list())
