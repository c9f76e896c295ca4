"""What a run tells the outside: events for progress displays, and the records it leaves behind.

Every event is a tagged struct, so a front door may print it, draw it, or write it as a line of JSON.
None of them holds model parameters or key bits.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Event(msgspec.Struct, frozen=True, tag=True):
    """Base of everything reported."""


class RoundRecord(msgspec.Struct, frozen=True):
    """A completed round.

    ``upload_bytes`` adds up the packed uploads of all clients; ``key_bits_used`` counts each pad once, over
    all pairs.  ``masking`` is "otp" or "none".
    """

    round: int
    accuracy: float
    loss: float
    upload_bytes: int
    key_bits_used: int
    participants: tuple[str, ...]
    masking: str
    duration_s: float
    key_wait_s: float


class AbortRecord(msgspec.Struct, frozen=True):
    """A round that gave no sum: its updates are discarded, its number is not used again.

    ``key_bits_burnt`` counts the pads of every pair of which at least one side had masked, as far as the
    server heard of it.
    """

    round: int
    reason: str
    key_bits_burnt: int
    participants: tuple[str, ...]


class Listening(Event, frozen=True):
    endpoint: str
    public_key: str


class RunStarted(Event, frozen=True):
    run_id: str
    task: str
    n_parameters: int
    masking: str
    next_round: int
    completed_rounds: int


class WaitingForClients(Event, frozen=True):
    missing: tuple[str, ...]


class RoundStarted(Event, frozen=True):
    round: int
    participants: tuple[str, ...]


class WaitingForKeys(Event, frozen=True):
    """A client cannot mask yet; ``eta_s`` is None while no rate is known."""

    round: int
    client: str
    detail: str
    eta_s: float | None


class UploadRefused(Event, frozen=True):
    round: int
    client: str
    reason: str


class RoundCompleted(Event, frozen=True):
    record: RoundRecord


class RoundAborted(Event, frozen=True):
    record: AbortRecord


class RunFinished(Event, frozen=True):
    """``reason`` is empty if the run reached its last round."""

    run_id: str
    completed_rounds: int
    reason: str


class ClientState(Event, frozen=True):
    """A client's view: its phase within a round, or the state of its link when ``round`` is 0."""

    client: str
    round: int
    phase: str
    detail: str = ""
    eta_s: float | None = None


ServerEvent: TypeAlias = (
    Listening
    | RunStarted
    | WaitingForClients
    | RoundStarted
    | WaitingForKeys
    | UploadRefused
    | RoundCompleted
    | RoundAborted
    | RunFinished
)
