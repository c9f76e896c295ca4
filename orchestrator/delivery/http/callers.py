"""Who is connected: the application a certificate names, and how many connections it holds, from where.

The SAE ID is the one common name of the certificate that TLS has verified, never a header.  A certificate is one
application on one machine: while it is in use from one address, a connection with it from another one is refused, as
one of the two holds a stolen key.
"""

from __future__ import annotations

import hashlib
import ssl
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass

from orchestrator.delivery.http.limits import Limits
from orchestrator.events.key_requests import TurnedAway


@dataclass(frozen=True)
class Caller:
    """What TLS has proved of one connection."""

    sae: str
    serial: int
    certificate: bytes
    """SHA-256 of it."""
    address: str


def caller_of(tls: ssl.SSLObject, address: str) -> Caller | None:
    """The application at the other end; None where its certificate has no common name, or several."""
    encoded, fields = tls.getpeercert(binary_form=True), tls.getpeercert()
    if not encoded or not fields:
        return None
    subject = [part for group in fields["subject"] for part in group]
    names = [str(part[1]) for part in subject if part[0] == "commonName"]
    if len(names) != 1 or not names[0]:
        return None
    serial = int(str(fields["serialNumber"]), 16)
    return Caller(names[0], serial, hashlib.sha256(encoded).digest(), address)


class Register:
    """The connections of all callers; used by the server's loop alone."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._of_certificate: dict[bytes, tuple[str, set[Hashable]]] = {}
        self._of_sae: defaultdict[str, int] = defaultdict(int)

    def enter(self, connection: Hashable, caller: Caller) -> TurnedAway | None:
        """Count ``connection`` of ``caller``, or say why it is turned away."""
        address, _ = held = self._of_certificate.get(caller.certificate, (caller.address, set()))
        if address != caller.address:
            return "certificate in use at another address"
        if self._of_sae[caller.sae] >= self._limits.connections_per_sae:
            return "too many connections of one SAE"
        held[1].add(connection)
        self._of_certificate[caller.certificate] = held
        self._of_sae[caller.sae] += 1
        return None

    def address_of(self, caller: Caller) -> str:
        """Where the certificate of ``caller`` is in use; empty where it is not."""
        return self._of_certificate.get(caller.certificate, ("", set()))[0]

    def leave(self, connection: Hashable, caller: Caller) -> None:
        """``connection`` has ended; one that was turned away is not counted."""
        _, held = self._of_certificate.get(caller.certificate, ("", set()))
        if connection not in held:
            return
        held.remove(connection)
        if not held:
            del self._of_certificate[caller.certificate]
        self._of_sae[caller.sae] -= 1
        if not self._of_sae[caller.sae]:
            del self._of_sae[caller.sae]
