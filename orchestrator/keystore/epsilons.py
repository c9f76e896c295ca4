"""The epsilons of a pair, added up over everything that was ever done with it.

Security statements compose by addition: after many blocks and many tags, the keys of a pair are secret, equal and
authentic except with the *sum* of what each step allowed.  This node books what it relied on itself:

* every block, before its key is stored: ``sec`` and ``cor``;
* every one-time tag that it checked, whether it fitted or not: ``auth``, for the bytes that were really tagged.

The sums are rows of the key store, written in the transaction that spends the tag's key, and only ever grow; the
peer's store holds those of the peer.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.keystore.core import Core


@dataclass(frozen=True)
class EpsilonLedger:
    """Sums of failure probabilities, and how many blocks and tags they stand for."""

    sec: float = 0.0
    cor: float = 0.0
    auth: float = 0.0
    blocks: int = 0
    tags: int = 0

    @property
    def total(self) -> float:
        """All that may have gone wrong."""
        return self.sec + self.cor + self.auth


def add_epsilons(core: Core, peer: str, more: EpsilonLedger) -> None:
    """Add to the sums with ``peer``; inside a transaction."""
    core.db.write(
        "INSERT INTO epsilons VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (peer) DO UPDATE SET sec = sec + excluded.sec,"
        " cor = cor + excluded.cor, auth = auth + excluded.auth, blocks = blocks + excluded.blocks,"
        " tags = tags + excluded.tags",
        *(peer, more.sec, more.cor, more.auth, more.blocks, more.tags),
    )


def epsilons_of(core: Core, peer: str) -> EpsilonLedger:
    """The sums with ``peer``."""
    rows = core.db.query("SELECT sec, cor, auth, blocks, tags FROM epsilons WHERE peer = ?", peer)
    return EpsilonLedger(*rows[0]) if rows else EpsilonLedger()
