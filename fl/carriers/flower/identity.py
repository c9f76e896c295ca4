"""Who sent a Flower message: proofs with the CURVE keys of the testbed file.

A Flower node has an id that means nothing to us.  Its user's learning client has a CURVE key pair (role
``fl-USER``), and that pair is the only one to which the user's node gives key.  The same pair proves the
user's messages here.  CURVE keys are X25519 keys (Bernstein, Curve25519, PKC 2006), so client and server
share, without any exchange,

    K = HKDF-SHA256(X25519(own secret, other's public), info = purpose | client's public | server's public)

and every message carries HMAC-SHA256(K, direction | run | Flower node | payload digest | message).

What a tag proves to the server: a holder of the user's secret key (or of the server's own) made this message
for this run and this Flower node.  The key is static, so there is no forward secrecy, and none is needed:
nothing is encrypted with it.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from orchestrator.wire.curve import CurveKeys, check_public, raw_key

PURPOSE = b"qunetlab-flower-identity-v2"
GREETING = b"greeting|"
Direction: TypeAlias = Literal["to client", "to server"]


class IdentityError(Exception):
    """A message that was not made by the user, or the server, whose name it bears."""


@dataclass(frozen=True)
class Bond:
    """The key that the client of one user and the server share for proving messages."""

    _key: bytes = field(repr=False)

    def tag(
        self, direction: Direction, run: int, node_id: int, message: bytes, payload: bytes = b""
    ) -> bytes:
        """HMAC over a message; ``payload`` is the digest of what travels beside it, or nothing."""
        return hmac.digest(self._key, _covered(direction, run, node_id, message, payload), "sha256")

    def check(
        self,
        tag: bytes,
        direction: Direction,
        run: int,
        node_id: int,
        message: bytes,
        payload: bytes = b"",
    ) -> None:
        """Raise IdentityError unless ``tag`` belongs to exactly this message."""
        if not hmac.compare_digest(tag, self.tag(direction, run, node_id, message, payload)):
            raise IdentityError("the message does not carry the proof of the key pair in the testbed file")

    def greeting(self, run: int, node_id: int, nonce: bytes) -> bytes:
        """The server's proof in a greeting, which it sends before it knows whom it greets."""
        return self.tag("to client", run, node_id, GREETING + nonce)

    def check_greeting(self, proofs: Iterable[bytes], run: int, node_id: int, nonce: bytes) -> None:
        """Raise IdentityError unless one of ``proofs`` is that of the server, for this client."""
        own = self.greeting(run, node_id, nonce)
        if not any(hmac.compare_digest(own, proof) for proof in proofs):
            raise IdentityError("the greeting does not carry the proof of the key pair in the testbed file")


def bond(own: CurveKeys, other_public: str, *, client_public: str, server_public: str) -> Bond:
    """The bond of ``own`` with the holder of ``other_public``; both ends get the same one."""
    secret = X25519PrivateKey.from_private_bytes(raw_key(own.secret.reveal_bytes()))
    shared = secret.exchange(X25519PublicKey.from_public_bytes(_raw(other_public)))
    info = PURPOSE + _raw(client_public) + _raw(server_public)
    return Bond(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(shared))


def client_bond(keys: CurveKeys, server_public: str) -> Bond:
    """A client's bond with the server."""
    return bond(keys, server_public, client_public=keys.public, server_public=server_public)


def server_bond(keys: CurveKeys, client_public: str) -> Bond:
    """The server's bond with a client."""
    return bond(keys, client_public, client_public=client_public, server_public=keys.public)


def _raw(public: str) -> bytes:
    return raw_key(check_public(public).encode("ascii"))


def _covered(direction: Direction, run: int, node_id: int, message: bytes, payload: bytes) -> bytes:
    head = f"{direction}|{run}|{node_id}|{len(payload)}|".encode()
    return PURPOSE + b"|" + head + payload + message
