"""What an operator may ask of the queue at the orchestrator's control socket, and what is answered.

Every request that changes something says who asks (``who``): the control socket knows the user of the machine, which
is the role's own for everybody, and operators share it.  Times to come are seconds from the moment of asking; times that were
are seconds of the wall clock, for people.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from orchestrator.wire.codec import Message
from orchestrator.wire.fields import Count, Reason, Role

Who: TypeAlias = Annotated[str, Meta(min_length=1, max_length=64)]
NOTE_LIMIT = 200
Note: TypeAlias = Annotated[str, Meta(max_length=NOTE_LIMIT)]
Kind: TypeAlias = Literal["key", "run", "calibration", "maintenance"]
State: TypeAlias = Literal["waiting", "running", "held", "done", "failed", "aborted"]
OPEN: tuple[State, ...] = ("waiting", "running", "held")
"""What is still in the queue."""
Number: TypeAlias = Annotated[int, Meta(ge=1, le=(1 << 62))]
Priority: TypeAlias = Annotated[int, Meta(ge=-1000, le=1000)]
PairNames: TypeAlias = tuple[Role, Role]


class AddEntry(Message, frozen=True):
    """Put an entry into the queue; what it may be is :mod:`orchestrator.scheduling.entries`' to say."""

    who: Who
    kind: Kind
    pairs: Annotated[tuple[PairNames, ...], Meta(max_length=4096)] = ()
    bits: Count = 0
    until_stock: bool = False
    steps: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=64)] = ()
    priority: Priority = 0
    due_in_s: float | None = None
    note: Note = ""


class ShowQueue(Message, frozen=True):
    """The queue as it is; with ``closed``, so many of the latest that left it too."""

    closed: Annotated[int, Meta(ge=0, le=1000)] = 0


class HoldQueue(Message, frozen=True):
    """No further lease, of one entry or of all; the block that is lit is finished, then instruments are made safe."""

    who: Who
    number: Number | None = None


class ResumeQueue(Message, frozen=True):
    """Go on, with one entry, with a ``pair`` that is suspended, or with all.

    ``since`` (wall clock): a pair that was suspended before stays so.
    """

    who: Who
    number: Number | None = None
    pair: PairNames | None = None
    since: float | None = None


class AbortEntry(Message, frozen=True):
    """Take an entry out; a block that is lit for it ends at once and gives no key.

    A maintenance entry is given back so, by its holder; others have to ``take_over``.
    """

    who: Who
    number: Number
    take_over: bool = False


class MoveEntry(Message, frozen=True):
    """Give an entry another place among equals, priority or due time; what is None stays."""

    who: Who
    number: Number
    before: Number | None = None
    priority: Priority | None = None
    due_in_s: float | None = None


class ShowHistory(Message, frozen=True):
    """The latest lines of what happened, to one entry or to all."""

    number: Number | None = None
    limit: Annotated[int, Meta(ge=1, le=5000)] = 100


QueueRequest: TypeAlias = (
    AddEntry | ShowQueue | HoldQueue | ResumeQueue | AbortEntry | MoveEntry | ShowHistory
)


class QueueRow(Message, frozen=True):
    """An entry.  ``made_bits`` of ``wanted_bits``, over all its pairs; for stock, what is there of what is wanted.

    ``ring_s`` of ring time are still needed if it is served alone, ``ready_in_s`` is when it may be ready with all
    others that go before it; None where that cannot be told.  Of a calibration the first ``steps_done`` of ``steps`` are
    done; what the others take was measured ``estimated_at`` at the latest, or never (``unmeasured_steps``).
    """

    number: int
    kind: Kind
    what: str
    owner: str
    note: str
    state: State
    reason: Reason
    priority: int
    due_in_s: float | None
    made_bits: int
    wanted_bits: int
    ring_s: float | None
    ready_in_s: float | None
    added_at: float
    began_at: float | None
    ended_at: float | None
    steps: tuple[str, ...] = ()
    steps_done: int = 0
    unmeasured_steps: tuple[str, ...] = ()
    estimated_at: float | None = None
    pairs: tuple[tuple[str, str], ...] = ()


class QueueShown(Message, frozen=True):
    """The queue: who holds all of it, since when, and its entries in the order in which they came."""

    held_by: str
    held_at: float | None
    entries: list[QueueRow]


class HistoryRow(Message, frozen=True):
    """Something that happened."""

    at: float
    entry: int | None
    who: str
    what: str


class HistoryShown(Message, frozen=True):
    """What happened, oldest first; what is kept of it, and how much older lines (up to a time) and entries went."""

    lines: list[HistoryRow]
    kept: str = ""
    forgotten_lines: int = 0
    forgotten_entries: int = 0
    forgotten_until: float | None = None


QueueReply: TypeAlias = QueueShown | HistoryShown
