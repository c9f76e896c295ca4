"""The certificates of a testbed folder on this machine: made with it, looked at, and given new lists of revoked ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from lab.key_delivery import AUTHORITY_FOLDER, SAE_FOLDER_PREFIX
from lab.runs.certificates.authority import Authority
from lab.runs.certificates.holding import Held, install_list, place
from lab.runs.certificates.making import hosts_of, make_key
from lab.runs.certificates.signing_key import Passphrase
from lab.testbed import AUTO, Testbed
from orchestrator.delivery.certificates import (
    CertificateError,
    RevokedCertificates,
    numbered,
    read_certificate,
    read_held,
)
from orchestrator.wall_clock import utc_now

SOON = timedelta(days=30)
"""A certificate that expires within this is told."""


def authority_folder(secrets: Path) -> Path:
    """Where a testbed's authority lies among its secrets."""
    return secrets / AUTHORITY_FOLDER


def hosts_of_node(testbed: Testbed, user: str) -> list[str]:
    """Names and addresses at which applications reach a node: on its own machine, and the host of its ``etsi014``."""
    where = testbed.user(user).etsi014
    return ["localhost", "127.0.0.1", "::1", *([where.rpartition(":")[0]] if where != AUTO else [])]


def address_of_node(testbed: Testbed, user: str) -> str | None:
    """Where applications reach a node, as its testbed file says; None where the node chooses, and its ready line says it."""
    where = testbed.user(user).etsi014
    return None if where == AUTO else f"https://{where}"


def held_by_node(secrets: Path, user: str) -> Held:
    """The files of a user's node."""
    return Held.by_node(user, secrets / user)


def held_by_application(secrets: Path, name: str) -> Held:
    """The files of an application whose folder lies among the secrets."""
    return Held.by_application(name, secrets / f"{SAE_FOLDER_PREFIX}{name}")


def make_certificates(
    testbed: Testbed, secrets: Path, at: datetime, passphrase: Passphrase | None = None
) -> Authority:
    """An authority, and certificates of every node and application, for a rehearsal on one machine."""
    made = Authority.found(authority_folder(secrets), testbed.name, at, passphrase)
    for user in testbed.user_names():
        certify(made, held_by_node(secrets, user), hosts_of_node(testbed, user), at)
    for name in testbed.sae:
        certify(made, held_by_application(secrets, name), [], at)
    return made


def certify(authority: Authority, held: Held, hosts: list[str], at: datetime) -> None:
    """Key and certificate of a holder that has none."""
    key = make_key()
    certificate = authority.issue(key.public_key(), held.name, held.holder, hosts, at)
    place(held, key, authority.bundle(certificate))


def present(testbed: Testbed, secrets: Path) -> Iterator[Held]:
    """The holders whose certificates lie here."""
    nodes = (held_by_node(secrets, user) for user in testbed.user_names())
    applications = (held_by_application(secrets, name) for name in testbed.sae)
    yield from (held for held in (*nodes, *applications) if held.certificate.exists())


@dataclass(frozen=True)
class Spread:
    """Where a list of revoked certificates is in place: users whose nodes have it, and those it must be carried to.

    ``number`` is the oldest in force among the former, 0 where there is none.
    """

    here: list[str]
    elsewhere: list[str]
    number: int


def spread_list(testbed: Testbed, secrets: Path, came: x509.CertificateRevocationList) -> Spread:
    """Put a list of revoked certificates where the nodes of this machine read it, unless they have a later one.

    CertificateError where a node here has another authority.
    """
    numbers: dict[str, int] = {}
    for user in testbed.user_names():
        held = held_by_node(secrets, user)
        if held.authority.exists() and held.revoked:
            numbers[user] = install_list(held.revoked, came, read_certificate(held.authority))
    elsewhere = [user for user in testbed.user_names() if user not in numbers]
    return Spread(list(numbers), elsewhere, min(numbers.values(), default=0))


def certificate_warnings(testbed: Testbed, secrets: Path) -> list[str]:
    """What somebody should know today of the certificates of this machine, a sentence each."""
    return [*faults(testbed, secrets, utc_now()), *expiring(testbed, secrets, utc_now())]


def faults(testbed: Testbed, secrets: Path, at: datetime) -> list[str]:
    """Why certificates of this machine cannot be used, a sentence each."""
    told = []
    for held in present(testbed, secrets):
        try:
            _check(held, at)
        except CertificateError as error:
            told.append(str(error))
    for user in testbed.user_names():
        told += _unnamed(testbed, held_by_node(secrets, user))
    for user in testbed.user_names():
        lacks = not held_by_node(secrets, user).certificate.exists()
        if lacks and (secrets / user).is_dir() and testbed.applications_of(user):
            told.append(
                f"{user} serves {', '.join(testbed.applications_of(user))} and has no certificate in {secrets / user}: "
                f"`qunetlab sae request {user} --kme`, or `qunetlab sae authority` where certificates are approved"
            )
    return told


def expiring(testbed: Testbed, secrets: Path, at: datetime) -> list[str]:
    """Which certificates of this machine expire soon, a sentence each."""
    told = []
    for held in present(testbed, secrets):
        certificate = read_certificate(held.certificate)
        left = certificate.not_valid_after_utc - at
        if timedelta() < left < SOON:
            what = f"{held.name} --kme" if held.revoked else held.name
            told.append(
                f"the certificate of {held.name} ({numbered(certificate.serial_number)[:8]}) expires in {left.days} days, on "
                f"{certificate.not_valid_after_utc:%Y-%m-%d}: `qunetlab sae renew {what}` where certificates are approved"
            )
    return told


def _unnamed(testbed: Testbed, held: Held) -> list[str]:
    """Names by which applications reach a node and which its certificate does not have, so that they would refuse it."""
    if not held.certificate.exists():
        return []
    named = hosts_of(read_certificate(held.certificate).extensions)
    missing = [each for each in hosts_of_node(testbed, held.name) if each.strip("[]") not in named]
    return [
        f"{held.certificate} does not name {', '.join(missing)}, where applications reach {held.name}'s node: `qunetlab sae renew "
        f"{held.name} --kme` where certificates are approved"
    ] * bool(missing)


def _check(held: Held, at: datetime) -> None:
    certificate, authority = read_held(held.certificate, held.key, held.authority, held.name, held.holder, at)
    if held.revoked and RevokedCertificates(held.revoked, authority).is_revoked(certificate.serial_number):
        raise CertificateError(
            f"{held.certificate} was revoked: applications that know it are to refuse this node; make another key with "
            f"`qunetlab sae request {held.name} --kme`"
        )
