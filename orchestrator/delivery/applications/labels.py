"""The label of a relayed key, from the first node of its path to the last: no node between them can shorten or invent one.

Every hop checks and tags what the one before it says, and could say something else to the next.  So the first node adds a
MAC over id, size, applications and path, under the reusable key that it shares with the last one, with whom it has an
initial secret and no light.  That is computational (:mod:`orchestrator.keystore.pair_macs`): whoever forges it makes an
application hold a key with a false label.  The bits themselves are not covered, as anything derived from them would be
less than one-time-pad secret: a node of the path that changes them makes a key that its ends do not share.
"""

from __future__ import annotations

from orchestrator.delivery.applications.messages import KeyLabel, KeyNote, bound
from orchestrator.keystore.errors import KeyStoreError
from orchestrator.keystore.store import KeyStore
from orchestrator.wire.codec import encode


def prove_label(store: KeyStore, last: str, note: KeyNote) -> bytes:
    """What the first node adds to ``note``; empty, and refused by ``last``, where the two have never met."""
    try:
        return store.auth(last).mac(_covered(store.generation(last), store.owner, last, note))
    except KeyStoreError:
        return b""


def is_proved(store: KeyStore, first: str, note: KeyNote) -> bool:
    """Whether ``first`` has sent the key of ``note`` this way."""
    try:
        data = _covered(store.generation(first), first, store.owner, note)
        return store.auth(first).mac_fits(data, note.proof)
    except KeyStoreError:
        return False


def _covered(generation: int, first: str, last: str, note: KeyNote) -> bytes:
    label = KeyLabel(note.key_id, note.n_bits, note.master, note.slave, note.path)
    return bound("label", generation, first, last, encode(label))
