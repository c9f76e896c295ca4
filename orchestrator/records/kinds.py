"""The kinds of records: who writes each, and what of a run stands in it.

==================  ==============  =============================================================================
record              written by      about
==================  ==============  =============================================================================
RoleStarted         every role      version and commit, and what a kill had left of the last line
LightServed         relay           a light phase: what it announced, and how its instruments stood
BlockEnded          both nodes      a block: counts by published label, what was disclosed, where its key lies
LeaseEnded          orchestrator    a lease, and what each party told of it
PadsTaken           nodes           ranges of key that left a store for one round, or were given up
UpdateGiven         FL clients      what a client uploaded in a round, and from which model it came
ModelFollowed       FL clients      the next model as a client worked it out itself
SumKept, NoSum      FL server       a round: models before and after, the sum, who is in it, what it cost
RunBegan, RunEnded  supervisor      that a run began, and how it ended; one without an end was killed, or goes on
ResultsKept         supervisor      the files that a run left, by their digests
RoleStopped         every role      the clean end; of a node, how each lane of its key store stands
==================  ==============  =============================================================================

Aggregates only: a node's counts are written when the block is over, its key stored or destroyed.  Digests are SHA-256 in
hexadecimal, empty where there is nothing; a digest never covers key bits or an update that was not masked.  Times are UTC
and for people; durations are counted on monotonic clocks.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from orchestrator.events.common import Unknown, read_line
from orchestrator.wall_clock import utc_now

Token: TypeAlias = tuple[int, int]
"""(epoch, number) of a lease."""
RunEnding: TypeAlias = Literal["done", "failed", "interrupted"]


class Record(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    """Base of all records; ``at`` is when it was written."""

    at: datetime = msgspec.field(default_factory=utc_now)


class Span(msgspec.Struct, frozen=True, array_like=True):
    """Bit positions ``start .. start + n_bits`` of a lane."""

    start: int
    n_bits: int

    @property
    def end(self) -> int:
        return self.start + self.n_bits


class Reading(msgspec.Struct, frozen=True):
    """A parameter of an instrument as it was last read or set, ``age_s`` ago."""

    instrument: str
    model: str
    serial_number: str
    parameter: str
    value: float | bool | str
    unit: str
    age_s: float


class RoleStarted(Record, frozen=True, kw_only=True):
    """A role began to write; ``cut_bytes`` of an unfinished line, left by a kill, were cut off before."""

    role: str
    version: str
    commit: str = ""
    cut_bytes: int = 0


class LaneBook(msgspec.Struct, frozen=True):
    """What became of the bits of one lane of a key store, and where it stands."""

    peer: str
    lane: str
    head: int
    tail: int
    produced: int
    stored: int
    delivered: int
    authentication: int
    burnt: int


class RoleStopped(Record, frozen=True, kw_only=True):
    """A role ended by itself; ``lanes`` of a node's key store."""

    lanes: tuple[LaneBook, ...] = ()


class OfLease(Record, frozen=True, kw_only=True):
    """Base of what is told of one lease, by its users in the order of the ring."""

    epoch: int
    lease_number: int
    first: str
    second: str

    @property
    def token(self) -> Token:
        """Which lease."""
        return self.epoch, self.lease_number


class LightServed(OfLease, frozen=True, kw_only=True):
    """A light phase at the relay; ``testbed`` is the digest of the testbed as it was calibrated.

    ``announcements`` is that of the digests of all frames' announcements as they were sent, with zeros for the
    ``lost_frames``; see :func:`orchestrator.light.messages.block_digest`.
    """

    purpose: str
    ok: bool
    reason: str = ""
    testbed: str = ""
    frames: int = 0
    lost_frames: tuple[int, ...] = ()
    pulses: int = 0
    announced: int = 0
    announcements: str = ""
    light_s: float = 0.0
    wall_s: float = 0.0
    readings: tuple[Reading, ...] = ()


class SymbolCounts(msgspec.Struct, frozen=True):
    """What a user counted, as in :class:`orchestrator.protocols.base.BlockCounts`."""

    n_announced: int
    n_key: int
    n_test: int
    n_drawn: int
    test_errors: int
    key_errors: int | None
    lost_pulses: int
    by_labels: tuple[tuple[int, ...], ...]
    by_detector: tuple[int, int]
    test_errors_by_detector: tuple[int, int]


class Spent(msgspec.Struct, frozen=True):
    """What a block with key used up: parity bits and tags of its verification, and what it adds to the epsilons."""

    parity_bits: int
    tags: int
    eps_sec: float
    eps_cor: float
    eps_auth: float


class BlockEnded(OfLease, frozen=True, kw_only=True):
    """A block as ``owner``, one of its users, saw it.

    ``plan`` is the digest of the plan that both users compared, ``testbed`` that of the testbed it was made from.
    ``heard`` is the digest of the announcements as received and ``own_lost`` the frames that this user lost; ``agreed``
    and ``lost_frames`` the same after both users settled which frames are lost.  ``counts`` are None for a block that
    was given up before there were any.  ``block_id`` names it in the key store, where its key lies at ``lanes``;
    ``auth`` are the bits of the authentication lanes that passed while it was made.
    """

    owner: str
    block_id: str
    stored: bool
    reason: str = ""
    interrupted: bool = False
    testbed: str = ""
    plan: str = ""
    frames: int = 0
    pulses: int = 0
    own_lost: tuple[int, ...] = ()
    heard: str = ""
    lost_frames: tuple[int, ...] = ()
    agreed: str = ""
    counts: SymbolCounts | None = None
    qber: float | None = None
    f_ec: float | None = None
    phase_error_upper: float | None = None
    disclosed_bits: int = 0
    spent: Spent | None = None
    secret_bits: int = 0
    lanes: dict[str, Span] = {}
    auth: dict[str, Span] = {}
    light_s: float = 0.0
    wall_s: float = 0.0
    readings: tuple[Reading, ...] = ()

    @property
    def peer(self) -> str:
        """The other user."""
        return self.second if self.owner == self.first else self.first


class PartyTold(msgspec.Struct, frozen=True):
    """What a party of a lease told the orchestrator when its light was off."""

    party: str
    frames: int
    lost_frames: int
    pulses: int
    announced: int
    light_s: float


class LeaseEnded(OfLease, frozen=True, kw_only=True):
    """A lease that was granted, as the orchestrator saw it; ``entry`` of the queue, if it was for one."""

    purpose: str
    ok: bool
    reason: str = ""
    entry: int | None = None
    ring_s: float = 0.0
    told: tuple[PartyTold, ...] = ()


class PadsTaken(Record, frozen=True, kw_only=True):
    """Ranges of the mask lanes that left ``owner``'s store for one round, or were ``burnt`` without.

    ``context`` is the digest under which both ends of each pair reserved.
    """

    owner: str
    run_id: str
    round: int
    context: str
    participants: tuple[str, ...]
    ranges: dict[str, Span]
    burnt: bool = False


class UpdateGiven(Record, frozen=True, kw_only=True):
    """An upload of ``client``: ``upload`` is the digest of what went to the server, ``model`` of what it was trained from."""

    client: str
    run_id: str
    round: int
    context: str
    participants: tuple[str, ...]
    model: str
    upload: str
    upload_bytes: int
    key_bits: int


class ModelFollowed(Record, frozen=True, kw_only=True):
    """The model after a round as ``client`` worked it out itself from the published sum."""

    client: str
    run_id: str
    round: int
    model: str


class SumKept(Record, frozen=True, kw_only=True):
    """A completed round; ``uploads`` are digests of what came from each client, ``total`` that of the sum's file.

    ``model`` and ``model_after`` are :func:`fl.modes.base.model_digest` of the model the round began with and of its outcome.
    """

    run_id: str
    round: int
    context: str
    participants: tuple[str, ...]
    survivors: tuple[str, ...]
    model: str
    model_after: str
    total: str
    uploads: dict[str, str]
    upload_bytes: int
    key_bits: int
    accuracy: float
    loss: float


class NoSum(Record, frozen=True, kw_only=True):
    """A round that was given up; what clients told of its cost by then."""

    run_id: str
    round: int
    participants: tuple[str, ...]
    reason: str
    key_bits: int


class ResultsKept(Record, frozen=True, kw_only=True):
    """The files of a run's folder, each by its digest."""

    files: dict[str, str]


class RunBegan(Record, frozen=True, kw_only=True):
    """A run began in this folder; ``kind`` is the command, ``about`` what it was asked, in words."""

    kind: str
    about: str = ""


class RunEnded(Record, frozen=True, kw_only=True):
    """The run that began last ended, ``seconds`` later; ``reason`` why, or what became of it."""

    how: RunEnding
    reason: str = ""
    seconds: float = 0.0


AnyRecord: TypeAlias = (
    RoleStarted
    | RoleStopped
    | LightServed
    | BlockEnded
    | LeaseEnded
    | PadsTaken
    | UpdateGiven
    | ModelFollowed
    | SumKept
    | NoSum
    | ResultsKept
    | RunBegan
    | RunEnded
)


def record_of(data: bytes) -> AnyRecord | Unknown:
    """The record that a line holds; Unknown for one of another version."""
    found: AnyRecord | Unknown | None = read_line(data.decode(errors="replace"), AnyRecord)
    return Unknown("of no kind") if found is None else found
