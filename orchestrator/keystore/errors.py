"""The whole exception tree of the key store and of its agreements.

No message carries key bits.  :class:`StoreError` means the file, :class:`RefusedError` a request against
the rules, :class:`AgreementError` a peer or a channel that did not play along; whatever is raised, no key
bit has left the store.
"""

from __future__ import annotations


class KeyStoreError(Exception):
    """Base of everything the key store raises."""


class StoreError(KeyStoreError):
    """The database file failed: disk full, read-only, I/O error, not a key store; nothing was released."""


class StoreBusyError(StoreError):
    """Another process owns the store."""


class StoreSettingsError(StoreError):
    """A setting that durability rests on did not take effect, or the file system cannot give it."""


class SealError(StoreError):
    """The key-encryption key does not belong to this store, or a sealed piece was altered."""


class LedgerError(StoreError):
    """Produced bits and the sum of stored, delivered, authentication and burnt bits differ."""


class RefusedError(KeyStoreError):
    """The request breaks a rule of the store; nothing was changed."""


class ReplayError(RefusedError):
    """The bits asked for lie below the head: they were used or burnt before."""


class AlreadyReleasedError(RefusedError):
    """The range of this context was released before; a retry must return the stored output instead."""


class ReservationError(RefusedError):
    """No such reservation in the state that the step needs, or the two ends ask for different contexts."""


class DepositError(RefusedError):
    """The block is unknown, known under this name already, or in another state."""


class LaneShortError(RefusedError):
    """A lane holds fewer bits than were asked for; nothing was burnt."""

    def __init__(self, peer: str, lane: str, missing_bits: int) -> None:
        self.peer = peer
        self.lane = lane
        self.missing_bits = missing_bits
        super().__init__(f"lane {lane} with {peer} is short of {missing_bits} bits; wait for more key")


class AuthLaneExhaustedError(RefusedError):
    """The authentication lane reached its hard stop; the pair must be seeded again out of band."""


class AgreementError(KeyStoreError):
    """The peer's answer is not the one the protocol allows; the session is to be dropped."""


class TamperedError(AgreementError):
    """A message carries no valid one-time tag."""


class KeyMismatchError(AgreementError):
    """The two ends hold different keys under one block id; both destroyed theirs."""


class RollbackError(AgreementError):
    """Both ends look restored from an old copy; nobody can tell what was used, so the pair must be seeded
    again."""
