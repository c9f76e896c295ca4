"""What applications may ask of a node's key delivery, without any transport: the seam between keys and HTTP.

The questions and their answers are those of ETSI GS QKD 014 v1.1.1, section 5 (status, keys as master, keys as
slave).  Whoever carries them (``orchestrator/delivery/http``) proves who is asking; the desk decides what that
caller may have.  ``caller`` is always the SAE id of the calling application, from its certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator import runtime
from orchestrator.events.delivery import RefusedFor
from orchestrator.secret import SecretBits

KEY_ID_PATTERN = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
"""A key's id is a UUID (section 6.3)."""
NOT_FOUND = "one or more keys specified are not found on KME"
"""The standard's words (section 5.3) for a key that is unknown or already delivered."""


class KeyDeskError(Exception):
    """Base: the desk refuses; the text is for the caller and holds no key."""

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.details = tuple(details)


class BadKeyRequestError(KeyDeskError):
    """The request can never be granted as it stands (HTTP 400)."""


class WrongCallerError(KeyDeskError):
    """This caller may not have what it asks for (HTTP 401)."""


class KeysUnavailableError(KeyDeskError):
    """Not now: too little key, a quota used up, the peer unreachable, the store failed (HTTP 503)."""

    def __init__(self, message: str, details: Sequence[str] = (), *, reason: RefusedFor = "store") -> None:
        super().__init__(message, details)
        self.reason = reason


@dataclass(frozen=True)
class DeliveryStatus:
    """The data format "Status" of ETSI GS QKD 014, section 6.1; sizes in bits."""

    source_kme_id: str
    target_kme_id: str
    master_sae_id: str
    slave_sae_id: str
    key_size: int
    stored_key_count: int
    max_key_count: int
    max_key_per_request: int
    max_key_size: int
    min_key_size: int
    max_sae_id_count: int = 0
    path: tuple[str, ...] = ()
    """Nodes that would relay the key, and know it; empty for a key that two ends alone hold."""


@dataclass(frozen=True)
class DeliveredKey:
    """One key of a container, section 6.3; ``key`` is wiped by whoever sends it."""

    key_id: str
    """UUID, lower case with hyphens."""
    key: SecretBits
    path: tuple[str, ...] = ()
    """Nodes that relayed the key, and know it; empty for a key that two ends alone hold."""


class KeyDesk(Protocol):
    """A node's desk; every method may be called from any thread and returns at once.

    The futures raise :class:`KeyDeskError` and nothing else.
    """

    def status(self, caller: str, slave: str) -> DeliveryStatus:
        """What ``caller`` may ask for, to share with ``slave``.  Raises KeyDeskError."""

    def enc_keys(
        self,
        caller: str,
        slave: str,
        number: int | None,
        size_bits: int | None,
        *,
        may_be_relayed: bool = True,
    ) -> runtime.Future[list[DeliveredKey]]:
        """``number`` fresh keys (default 1) of ``size_bits`` (default: key_size of the status), all or none.

        Unless they ``may_be_relayed``, no node in the middle knows them.

        The future is done once the peer's node holds its copies; a caller that gave up cancels it.
        """

    def dec_keys(
        self, caller: str, master: str, key_ids: Sequence[str]
    ) -> runtime.Future[list[DeliveredKey]]:
        """The keys that ``master`` shared with ``caller``, each once, all or none; in the order asked for.

        ``key_ids`` as the caller wrote them; what is no id, stands twice, or is too much is refused.
        """
