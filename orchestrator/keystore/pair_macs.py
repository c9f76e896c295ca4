"""Reusable keys of a pair: 256 bits per direction and generation, set aside and never spent.

With a one-time tag every greeting would cost lane bits, and whoever garbles greetings could drain a pair; so would the
opening of every block that comes to nothing.  So greetings and openings carry HMAC-SHA-256 (RFC 2104, FIPS 198-1) under keys that do not wear out.  That is **computational**:
it rests on HMAC-SHA-256 being unforgeable, unlike everything that lane bits protect.  A forged one costs
time and no key: nothing is adopted, burnt or released before a one-time tag was checked.

The keys are the last 256 bits of each direction of an out-of-band secret (:func:`split_secret`); they are sealed
like pieces, belong to no lane and are not counted in any ledger.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field

from orchestrator.keystore.errors import RefusedError
from orchestrator.keystore.lanes import AUTH_ALARM_BITS
from orchestrator.secret import SecretBits

MAC_KEY_BITS = 256
MAC_BYTES = 32


@dataclass(frozen=True)
class InstalledSecret:
    """An out-of-band secret as a store takes it: lane bits and the reusable key of each direction."""

    auth_ab: SecretBits = field(repr=False)
    auth_ba: SecretBits = field(repr=False)
    mac_ab: SecretBits = field(repr=False)
    mac_ba: SecretBits = field(repr=False)

    def wipe(self) -> None:
        for part in (self.auth_ab, self.auth_ba, self.mac_ab, self.mac_ba):
            part.wipe()


def split_secret(auth_ab: SecretBits, auth_ba: SecretBits) -> InstalledSecret:
    """The parts of an out-of-band secret; raises RefusedError where a direction is too short to begin with."""
    least = AUTH_ALARM_BITS + MAC_KEY_BITS
    for secret in (auth_ab, auth_ba):
        if len(secret) < least:
            raise RefusedError(
                f"an initial secret has at least {least} bits per direction, got {len(secret)}"
            )
    lanes = [secret.take(0, len(secret) - MAC_KEY_BITS) for secret in (auth_ab, auth_ba)]
    macs = [secret.take(len(secret) - MAC_KEY_BITS, MAC_KEY_BITS) for secret in (auth_ab, auth_ba)]
    return InstalledSecret(lanes[0], lanes[1], macs[0], macs[1])


@dataclass(frozen=True)
class PairMacs:
    """The two reusable keys as one end sees them."""

    outgoing: SecretBits = field(repr=False)
    incoming: SecretBits = field(repr=False)

    def make(self, data: bytes) -> bytes:
        """The MAC of what this end says."""
        return _mac(self.outgoing, data)

    def fits(self, data: bytes, mac: bytes) -> bool:
        """Whether the peer said ``data`` (constant time)."""
        return hmac.compare_digest(_mac(self.incoming, data), mac)


def _mac(key: SecretBits, data: bytes) -> bytes:
    return hmac.new(key.reveal_bytes(), data, hashlib.sha256).digest()
