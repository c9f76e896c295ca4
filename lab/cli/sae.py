"""What the ``qunetlab sae`` commands do: read, ask, act, print; :mod:`lab.runs.certificates` knows how."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lab.cli.options import show
from lab.key_delivery import SAE_FOLDER_PREFIX, SAE_ID_PATTERN, SAE_ID_RULE
from lab.runs.certificates.authority import CERTIFICATE_FILE as AUTHORITY_CERTIFICATE
from lab.runs.certificates.authority import REVOKED_FILE as AUTHORITY_LIST
from lab.runs.certificates.authority import Authority, Issued
from lab.runs.certificates.here import (
    address_of_node,
    authority_folder,
    certify,
    held_by_application,
    held_by_node,
    hosts_of_node,
    present,
    spread_list,
)
from lab.runs.certificates.holding import Arrived, Held, holds_key_of, install, is_strange
from lab.runs.certificates.holding import request as make_request
from lab.runs.certificates.making import check_request
from lab.runs.certificates.signing_key import SEALED_FILE, has_key, is_sealed, passphrase_of, seal_key
from lab.runs.shown import echo
from lab.runs.testbeds.folder import SECRETS, FolderError, own_testbed
from lab.testbed import Testbed, UnknownNameError, load_testbed
from orchestrator.delivery.certificates import (
    CertificateError,
    Holder,
    fingerprint,
    list_number,
    numbered,
    public_key,
    read_certificate,
    read_limited,
    read_list,
)
from orchestrator.durable import replace_file
from orchestrator.wall_clock import utc_now

if TYPE_CHECKING:
    from lab.cli.answers import Certificate, Certificates


class Place:
    """A testbed folder of this machine."""

    def __init__(self, testbed: Path) -> None:
        """Raises TestbedError or FolderError."""
        self.path = own_testbed(testbed)
        self.testbed: Testbed = load_testbed(self.path)
        self.secrets = self.path.parent / SECRETS

    def authority(self, key: str = "file") -> Authority:
        """Raises CertificateError where its key is not here; ``key`` is the option that says how to open it."""
        return Authority(authority_folder(self.secrets), passphrase_of(key))

    def check_holder(self, name: str, holder: Holder) -> None:
        """Raise UnknownNameError unless the testbed file has such a user or application."""
        if holder is Holder.KME:
            self.testbed.user(name)
        elif name not in self.testbed.sae:
            raise UnknownNameError(
                f"{self.path} has no application {name!r}, it has {', '.join(self.testbed.sae) or 'none'}; begin a section "
                f"[sae.{name}] with its user there, and in the file of every other machine"
            )


def request_certificate(
    name: str, testbed: Path, out: Path | None, hosts: Sequence[str], *, kme: bool
) -> int:
    """Make key and request of a holder on this machine."""
    if kme:
        place = Place(testbed)
        place.testbed.user(name)
        held = held_by_node(place.secrets, name)
        if not held.folder.is_dir():
            raise FolderError(f"{held.folder} is not here: {name}'s node has its secrets on another machine")
        hosts = [*hosts_of_node(place.testbed, name), *hosts]
    else:
        if not re.fullmatch(SAE_ID_PATTERN, name):
            raise ValueError(f"{name!r} is no SAE id: {SAE_ID_RULE}")
        held = Held.by_application(name, out or Path(f"{SAE_FOLDER_PREFIX}{name}"))
    mark = make_request(held, hosts)
    echo(f"private key: {held.next_key} (0600); it stays on this machine")
    echo(
        f"request:     {held.request}; carry it to where certificates are approved: `qunetlab sae approve FILE`"
    )
    echo(f"fingerprint: {mark}; tell it to whoever approves, by another way than the request")
    return 0


def approve_request(path: Path, testbed: Path, out: Path | None, authority_key: str, *, yes: bool) -> int:
    """Look at a request, ask, sign."""
    from cryptography import x509

    place, at = Place(testbed), utc_now()
    authority = place.authority(authority_key)
    try:
        asked = x509.load_pem_x509_csr(read_limited(path))
    except ValueError:
        raise CertificateError(f"{path} holds no request for a certificate in PEM form (PKCS#10)") from None
    name, holder, hosts = check_request(asked)
    place.check_holder(name, holder)
    mark = fingerprint(public_key(asked))
    _check_fresh(authority, name, holder, mark, at)
    echo(f"for:         {_called(name, holder)}, {_served(place.testbed, name, holder)}")
    if holder is Holder.KME:
        echo(f"reached as:  {', '.join([name, *hosts])}")
    echo(f"fingerprint: {mark}")
    for each in authority.of(name, holder):
        if each.holds(at):
            echo(
                f"besides:     {numbered(each.serial)} of another key holds until {each.until:%Y-%m-%d}; revoke it if lost"
            )
    if not yes and not typer.confirm("Did whoever made the request tell you this fingerprint?"):
        echo("not approved; nothing was signed")
        return 1
    made = authority.issue(public_key(asked), name, holder, hosts if holder is Holder.KME else [], at)
    target = out or Path(f"{_prefix(holder)}{name}.pem")
    replace_file(target, authority.bundle(made))
    echo(
        f"{target}: certificate {numbered(made.serial_number)}, until {made.not_valid_after_utc:%Y-%m-%d}; it holds no secret."
    )
    echo(f"Carry it to where the request was made: `qunetlab sae install {target.name}`")
    echo(f"authority:   {authority.fingerprint}")
    return 0


def install_file(path: Path, testbed: Path, to: Path | None, *, yes: bool) -> int:
    """Put in place what came from the authority."""
    content = read_limited(path)
    if b"BEGIN CERTIFICATE" not in content and b"BEGIN X509 CRL" in content:
        return _install_list(content, path, testbed)
    came = Arrived.parse(content, str(path))
    if came.holder is Holder.KME:
        if to:
            raise ValueError(
                f"{path} is for the node of {came.name}, whose secrets folder is its place: leave out --to"
            )
        place = Place(testbed)
        place.testbed.user(came.name)
        held = held_by_node(place.secrets, came.name)
    else:
        held = Held.by_application(came.name, to or Path(f"{SAE_FOLDER_PREFIX}{came.name}"))
    if is_strange(held, came.authority):
        echo(f"authority:   {fingerprint(public_key(came.authority))}")
        if not yes and not typer.confirm("Is this what `qunetlab sae approve` said of the authority?"):
            echo("not installed; all is as it was")
            return 1
    install(held, came, utc_now())
    echo(
        f"{held.certificate}: {numbered(came.own.serial_number)}, until {came.own.not_valid_after_utc:%Y-%m-%d}"
    )
    if came.holder is Holder.KME:
        echo(f"The node of {came.name} shows it from its next start on.")
    return 0


def _install_list(content: bytes, path: Path, testbed: Path) -> int:
    from cryptography import x509

    place = Place(testbed)
    try:
        came = x509.load_pem_x509_crl(content)
    except ValueError:
        raise CertificateError(f"{path} holds no list of revoked certificates in PEM form") from None
    spread = spread_list(place.testbed, place.secrets, came)
    if not spread.here:
        raise FolderError(
            f"no node of this machine serves applications: none has a certificate in {place.secrets}"
        )
    if spread.number > list_number(came):
        echo(f"list {list_number(came)} is older than list {spread.number}, which stays in place")
    else:
        echo(
            f"list {spread.number} of revoked certificates is in place for {', '.join(spread.here)}: running nodes read it at once"
        )
    return 0


def renew_certificate(name: str, testbed: Path, out: Path | None, authority_key: str, *, kme: bool) -> int:
    """Sign a holder's key for another year."""
    place, holder, at = Place(testbed), Holder.KME if kme else Holder.SAE, utc_now()
    authority = place.authority(authority_key)
    place.check_holder(name, holder)
    known = authority.of(name, holder)
    if not known:
        raise CertificateError(
            f"{_called(name, holder)} has no certificate to renew; its first one begins with `qunetlab sae request "
            f"{name}{' --kme' if kme else ''}`"
        )
    last = known[-1]
    if last.revoked:
        raise CertificateError(
            f"the last certificate of {name}, {numbered(last.serial)}, was revoked on {last.revoked:%Y-%m-%d}, and its key "
            "with it: a new key begins with `qunetlab sae request`"
        )
    hosts = list(dict.fromkeys([*(hosts_of_node(place.testbed, name) if kme else []), *last.hosts]))
    made = authority.issue(last.key, name, holder, hosts, at)
    held = held_by_node(place.secrets, name) if kme else held_by_application(place.secrets, name)
    told = f"{numbered(made.serial_number)}, until {made.not_valid_after_utc:%Y-%m-%d}"
    bundle = authority.bundle(made)
    if out is None and holds_key_of(held, made):
        install(held, Arrived.parse(bundle, "the certificate"), at)
        echo(f"{held.certificate}: {told}")
    else:
        target = out or Path(f"{_prefix(holder)}{name}.pem")
        replace_file(target, bundle)
        echo(f"{target}: certificate {told}; carry it to its holder: `qunetlab sae install {target.name}`")
    echo(
        f"The one before holds until {last.until:%Y-%m-%d}."
        if at < last.until
        else "The one before has expired."
    )
    return 0


def revoke_certificates(
    name: str, testbed: Path, serial: str | None, authority_key: str, *, kme: bool
) -> int:
    """Refuse the certificates of a holder for good."""
    place, holder, at = Place(testbed), Holder.KME if kme else Holder.SAE, utc_now()
    authority = place.authority(authority_key)
    known = authority.of(name, holder)
    chosen = [each for each in known if numbered(each.serial).startswith((serial or "").lower())]
    if serial and len(chosen) != 1:
        raise CertificateError(
            f"{len(chosen)} certificates of {name} begin with {serial}: `qunetlab sae list` shows their numbers"
        )
    holding = [each for each in chosen if each.holds(at)]
    if not holding:
        why = "every certificate of it is revoked or expired already" if known else "it has no certificate"
        raise CertificateError(f"nothing is left to revoke of {_called(name, holder)}: {why}")
    number = authority.revoke([each.serial for each in holding], at)
    for each in holding:
        echo(f"revoked: {numbered(each.serial)} of {_called(name, holder)}")
    keys = {fingerprint(each.key) for each in holding}
    for each in known:
        if each not in holding and each.holds(at) and fingerprint(each.key) in keys:
            echo(
                f"STILL GOOD for the same key: {numbered(each.serial)}; if the key is lost, revoke without --serial"
            )
    spread = spread_list(place.testbed, place.secrets, authority.revoked_list())
    if spread.here:
        echo(f"list {number} is in place for {', '.join(spread.here)}: a running node refuses from here on")
    if spread.elsewhere:
        echo(
            f"NOT YET REFUSED by {', '.join(spread.elsewhere)}: carry {authority.folder / AUTHORITY_LIST} there: "
            f"`qunetlab sae install {AUTHORITY_LIST}`"
        )
    return 0


def list_certificates(testbed: Path, as_json: bool) -> int:
    """Print what was signed, or what is here."""
    place, at = Place(testbed), utc_now()
    authority = place.authority() if has_key(authority_folder(place.secrets)) else None
    known = list(authority.issued() if authority else _here(place))
    rows = [_row(place.testbed, each, at) for each in known]
    answer: Certificates = {
        "authority": authority.fingerprint if authority else None,
        "certificates": rows,
    }
    lines = [_line(row) for row in rows]
    if authority:
        until = read_certificate(authority.folder / AUTHORITY_CERTIFICATE).not_valid_after_utc
        lines.insert(0, f"authority {authority.fingerprint}, until {until:%Y-%m-%d}")
    else:
        lines.append("The authority is on another machine: all that it signed is listed there.")
    show(answer, as_json, "\n".join(lines))
    return 0


def _here(place: Place) -> Iterator[Issued]:
    """The certificates that lie here; a node knows which are revoked."""
    revoked: dict[int, datetime] = {}
    for held in present(place.testbed, place.secrets):
        if held.revoked:
            listed = read_list(held.revoked, read_certificate(held.authority))
            revoked |= {each.serial_number: each.revocation_date_utc for each in listed}
    for held in present(place.testbed, place.secrets):
        certificate = read_certificate(held.certificate)
        yield Issued(certificate, held.name, held.holder, revoked.get(certificate.serial_number))


def found_authority(testbed: Path, authority_key: str) -> int:
    """Make an authority where there is none."""
    place, at = Place(testbed), utc_now()
    folder = authority_folder(place.secrets)
    try:
        made = Authority.found(folder, place.testbed.name, at, passphrase_of(authority_key, confirm=True))
    except FileExistsError:
        raise CertificateError(
            f"{folder} holds an authority already; certificates of two do not fit each other, so move it away first if you "
            "mean to begin anew"
        ) from None
    echo(
        f"authority:   {made.fingerprint}; its key is in {folder} ({'sealed' if is_sealed(folder) else '0600'}) and signs whoever may draw keys"
    )
    for user in place.testbed.user_names():
        held = held_by_node(place.secrets, user)
        if held.folder.is_dir() and not held.key.exists():
            certify(made, held, hosts_of_node(place.testbed, user), at)
            echo(f"{held.certificate}: made")
    return 0


def seal_authority(testbed: Path, authority_key: str) -> int:
    """Seal the private key of an authority that was made without a passphrase."""
    folder, passphrase = authority_folder(Place(testbed).secrets), passphrase_of(authority_key, confirm=True)
    if passphrase is None:
        raise ValueError("a key is sealed with a passphrase: give --authority-key passphrase")
    if not has_key(folder):
        raise CertificateError(f"there is no authority in {folder}: its key is on another machine")
    given = passphrase()
    seal_key(folder, lambda: given)
    echo(
        f"{folder / SEALED_FILE}: sealed, and the open key is destroyed; copies of it, in backups as well, are not"
    )
    return 0


def _check_fresh(authority: Authority, name: str, holder: Holder, mark: str, at: datetime) -> None:
    """Nobody has a certificate for this key."""
    for each in authority.issued():
        if fingerprint(each.key) != mark:
            continue
        if (each.name, each.holder) != (name, holder):
            raise CertificateError(
                f"this key belongs to {_called(each.name, each.holder)}: every holder makes a key of its own"
            )
        if each.revoked:
            raise CertificateError(
                f"this key was revoked on {each.revoked:%Y-%m-%d} with certificate {numbered(each.serial)}: make another"
            )
        raise CertificateError(
            f"this request was approved already: certificate {numbered(each.serial)}, until {each.until:%Y-%m-%d}; `qunetlab "
            f"sae renew {name}{' --kme' if holder is Holder.KME else ''}` makes another for the same key"
        )


def _row(testbed: Testbed, each: Issued, at: datetime) -> Certificate:
    entry = testbed.sae.get(each.name) if each.holder is Holder.SAE else None
    user = each.name if each.holder is Holder.KME else entry.user if entry else None
    return {
        "name": each.name,
        "holder": each.holder.name.lower(),
        "user": user,
        "serial": numbered(each.serial),
        "fingerprint": fingerprint(each.key),
        "expires": each.until.isoformat(),
        "days_left": (each.until - at).days,
        "state": "revoked" if each.revoked else "valid" if each.holds(at) else "expired",
        "revoked": each.revoked.isoformat() if each.revoked else None,
        "hosts": each.hosts,
        "address": address_of_node(testbed, user) if user in testbed.user_names() else None,
        "bits_per_day": entry.bits_per_day if entry else None,
        "requests_per_s": entry.requests_per_s if entry else None,
    }


def _line(row: Certificate) -> str:
    day = row["expires"][:10]
    state = {
        "valid": f"until {day} ({row['days_left']} days)",
        "expired": f"EXPIRED on {day}",
        "revoked": f"REVOKED on {(row['revoked'] or '')[:10]}",
    }[row["state"]]
    who = (
        f"{row['name']} (node)"
        if row["holder"] == "kme"
        else f"{row['name']} at {row['user'] or 'no user of the file'}"
    )
    if row["address"]:
        who += f", {row['address']}"
    quota = ""
    if row["bits_per_day"] is not None:
        quota = (
            f"; {row['bits_per_day']:,} bits a day" if row["bits_per_day"] else "; any number of bits a day"
        )
        quota += (
            f", {row['requests_per_s']:g} requests a second"
            if row["requests_per_s"]
            else ", any number of requests"
        )
    return f"{who}: {row['serial'][:8]} {state}{quota}"


def _called(name: str, holder: Holder) -> str:
    return f"{name}'s node" if holder is Holder.KME else f"application {name}"


def _served(testbed: Testbed, name: str, holder: Holder) -> str:
    if holder is Holder.SAE:
        return f"which draws keys at {testbed.sae[name].user}'s node"
    return f"which serves {', '.join(testbed.applications_of(name)) or 'no application yet'}"


def _prefix(holder: Holder) -> str:
    return "kme-" if holder is Holder.KME else SAE_FOLDER_PREFIX
