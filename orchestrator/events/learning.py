"""What a training run tells the outside: events for progress displays, and the records it leaves behind.

Every event is a tagged struct: a front door prints it, draws it, or writes it as a line of JSON.
None of them holds model parameters or key bits.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from orchestrator.events.common import Serving
from orchestrator.wire.codec import Message


class Clipping(msgspec.Struct, frozen=True):
    """One round, from the bands of its ``clients``.

    ``clipped`` and ``vanished``: the most of any client, as the upper end of its band (a share from 0 to 1).
    ``clipped_clients`` and ``vanished_clients``: how many were beyond the limit.
    """

    clients: int
    clipped: float
    vanished: float
    clipped_clients: int
    vanished_clients: int

    @property
    def harmful(self) -> bool:
        """Whether anybody must be warned."""
        return bool(self.clipped_clients or self.vanished_clients)


class RoundRecord(msgspec.Struct, frozen=True):
    """A completed round.

    ``upload_bytes`` adds up everything that clients gave (packed updates; shares, tags and answers as well in
    mode lightsecagg); ``key_bits_used`` counts each pad once, over all pairs, those of clients that dropped
    out included.  ``masking`` is the mode's label and ``security`` what it promises.  The sum is over the
    participants without the ``dropped`` ones, whose weights add up to ``weight_sum``.

    ``spare_answers`` (None in modes without answers): how many answers came beyond the U that were needed.  So
    many wrong ones would have been noticed for certain; with none, a wrong answer shows only where it makes a
    sum impossible.

    ``clipping``: what clip and rounding took of the updates in the sum, from the bands that clients tell.
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
    security: str = ""
    dropped: tuple[str, ...] = ()
    weight_sum: int = 0
    spare_answers: int | None = None
    clipping: Clipping | None = None

    @property
    def survivors(self) -> tuple[str, ...]:
        """Whose updates are in the sum."""
        return tuple(name for name in self.participants if name not in self.dropped)

    @property
    def upload_bytes_per_client(self) -> float:
        """Mean over the participants."""
        return self.upload_bytes / len(self.participants)


class AbortRecord(msgspec.Struct, frozen=True):
    """A round that gave no sum: its updates are discarded, its number is not used again.

    ``key_bits_burnt`` counts the pads of every pair of which at least one side had spent them, or had reserved
    them and given them up.  Clients say what they burnt once they have; a record in ``run.json`` grows with what
    they say later, after a restart of the server too.  ``upload_bytes`` had been sent in vain, and ``duration_s``
    was lost.
    """

    round: int
    reason: str
    key_bits_burnt: int
    participants: tuple[str, ...]
    upload_bytes: int = 0
    duration_s: float = 0.0


class Listening(Serving, frozen=True):
    """The learning server accepts its clients."""

    endpoint: str
    public_key: str


class ClientServing(Serving, frozen=True):
    """A client's first line: it looks for its server and its node, which may come later."""


class RunDescribed(Message, frozen=True):
    """The description of the run that clients' operators consent to stands at ``path``; ``digest`` in hexadecimal.

    ``command`` is what each of them runs, with the user's name in the place of NAME.
    """

    run_id: str
    path: str
    digest: str
    command: str


class RunStarted(Message, frozen=True):
    """``key_bits_per_pair``: what every pair spends in a round."""

    run_id: str
    task: str
    n_parameters: int
    masking: str
    next_round: int
    completed_rounds: int
    security: str = ""
    key_bits_per_pair: int = 0


class WaitingForClients(Message, frozen=True):
    """Clients are away; ``reason`` says why a run that has begun does not go on without them."""

    missing: tuple[str, ...]
    reason: str = ""


class RoundStarted(Message, frozen=True):
    round: int
    participants: tuple[str, ...]


class WaitingForKeys(Message, frozen=True):
    """A client cannot mask yet: ``missing_bits`` of key with each peer, empty where its node does not answer.

    ``detail`` says the same for people; ``eta_s`` is None while no rate is known.
    """

    round: int
    client: str
    missing_bits: dict[str, int]
    detail: str
    eta_s: float | None


class UploadRefused(Message, frozen=True):
    round: int
    client: str
    reason: str


class ClientDropped(Message, frozen=True):
    """A participant gave nothing to a stage of the round, which goes on without it (mode lightsecagg)."""

    round: int
    client: str
    stage: str
    reason: str


class RoundCompleted(Message, frozen=True):
    record: RoundRecord


class RoundAborted(Message, frozen=True):
    record: AbortRecord


class RunFinished(Message, frozen=True):
    """``reason`` is empty if the run reached its last round."""

    run_id: str
    completed_rounds: int
    reason: str


class ClientState(Message, frozen=True):
    """A client's view: its phase within a round, or the state of its link when ``round`` is 0."""

    client: str
    round: int
    phase: str
    detail: str = ""
    eta_s: float | None = None
    missing_bits: dict[str, int] = msgspec.field(default_factory=dict)


class ClientEnded(Message, frozen=True):
    """The client's last word; ``reason`` is empty if the run reached its last round."""

    rounds: int
    reason: str


ServerEvent: TypeAlias = (
    Listening
    | RunDescribed
    | RunStarted
    | WaitingForClients
    | RoundStarted
    | WaitingForKeys
    | UploadRefused
    | ClientDropped
    | RoundCompleted
    | RoundAborted
    | RunFinished
)
