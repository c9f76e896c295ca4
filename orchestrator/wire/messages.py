"""The messages between hub and peers: what may be said, by whom, within which limits.

Two planes, each with its own socket pair so that heartbeats never wait behind data:

* *control*: one frame, a :data:`FromPeer` or a :data:`FromHub` message.  A peer says :class:`Hello` first and
  is served after :class:`Welcome`.
* *bulk*: one frame, a :data:`BulkFromPeer` or :data:`BulkFromHub` message; :class:`Post` and :class:`Delivery`
  are envelopes and have a second frame, the payload, which the hub passes on unread.

The sender of a message is never a field that a peer fills in: the hub takes it from the CURVE key.
Everything about the ring carries the fencing token ``(epoch, number)``: the epoch grows by one at every
start of the orchestrator, the number by one with every lease.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from msgspec import Meta, Raw, Struct

from lab.calibration.steps import LEASED, Step
from orchestrator.events.common import read_item
from orchestrator.events.status import BlockReport, StatusItem
from orchestrator.wire.agreed import Agreed
from orchestrator.wire.codec import Message, WireError, decode, packed
from orchestrator.wire.fields import Count, Instance, Purpose, Reason, Role, Seconds, Topic

PROTOCOL_VERSION = 10
CHUNK_BYTES = 1 << 20
"""Largest payload frame on the bulk plane; longer channel messages travel in several."""
BULK_LIMIT = CHUNK_BYTES + (1 << 16)
"""Longest frame of a bulk connection: one chunk, and room to refuse a longer one with a message."""
CHUNK_OVERHEAD = 512
"""What a payload frame costs beyond its length, so that many small ones use up the window too."""
WINDOW_BYTES = 4 * (CHUNK_BYTES + CHUNK_OVERHEAD)
"""Credit of one sender towards one recipient: four full chunks on the way."""
MESSAGE_LIMIT = 64 << 20
"""Largest channel message, bytes."""

KEY = "key"
"""The purpose of a lease whose light becomes key."""


def calibration(step: str) -> str:
    """The purpose of a lease for a calibration step."""
    return f"calibration:{step}"


CALIBRATIONS = {calibration(step): step for step in sorted(LEASED)}
"""Steps by the purpose of their leases."""
PURPOSES = (KEY, *CALIBRATIONS)
"""What leases are for that a role takes part in."""


# -- both ways on the control plane --------------------------------------------------------------------


class Heartbeat(Message, frozen=True):
    """The sender is alive and has nothing to say. Every other message counts as a heartbeat too."""


class LeaseAbort(Message, frozen=True):
    """The lease is over at once: from a party that cannot go on, or from the hub to the others."""

    epoch: Count
    number: Count
    reason: Reason


# -- peer to hub, control ------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First message of a connection; ``instance`` is drawn afresh at every start of the process, ``agreed`` is what its
    machine has of what all must have alike."""

    role: Role
    version: Count
    instance: Instance
    agreed: Agreed = Agreed()


class AnyHello(Struct, frozen=True, tag="Hello"):
    """What of a greeting stays as it is from version to version."""

    version: Count


class LeaseAccept(Message, frozen=True):
    """The party is ready to run the lease as soon as it is granted."""

    epoch: Count
    number: Count


class LeaseRefuse(Message, frozen=True):
    """The party cannot take part (instruments not ready, token too old, ...).

    ``newest_epoch`` is the newest that it knows, where its objection is to the token; ``unknown_purpose`` that it takes
    no part in such leases at all.
    """

    epoch: Count
    number: Count
    reason: Reason
    newest_epoch: Count | None = None
    unknown_purpose: bool = False


class LightStatistics(Message, frozen=True):
    """What a party counted while the light was on; what it does not know stays 0.

    ``lost_frames`` by its own count; the two users settle later which are lost for both.
    """

    frames: Count = 0
    lost_frames: Count = 0
    pulses: Count = 0
    announced: Count = 0
    sifted_bits: Count = 0
    light_s: float = 0.0
    wall_s: float = 0.0


class LeaseDone(Message, frozen=True):
    """The light phase is over for this party; the ring is free once all three have said so.

    ``calibrate``: what would mend a ring on which it ended early, as far as this party can tell.
    """

    epoch: Count
    number: Count
    ok: bool
    reason: Reason = ""
    statistics: LightStatistics = LightStatistics()
    calibrate: Annotated[tuple[Step, ...], Meta(max_length=len(Step))] = ()


class Demand(Message, frozen=True):
    """``bits`` of key wanted between two users within ``deadline_s``; replaces the sender's earlier
    demand for this pair, and 0 bits withdraws it."""

    first: Role
    second: Role
    bits: Count
    deadline_s: float | None = None
    purpose: Annotated[str, Meta(max_length=200)] = ""


class ReportedBefore(Message, frozen=True):
    """What a node told of its latest blocks, again, at every connection: a hub that was killed may not have kept it.

    ``in_work`` are the leases (epoch, number) of blocks that are lit or in post-processing; of any other that is not
    among ``blocks`` the node has nothing.
    """

    blocks: Annotated[list[BlockReport], Meta(max_length=64)]
    in_work: Annotated[tuple[tuple[Count, Count], ...], Meta(max_length=1024)] = ()


class Said(Message, frozen=True):
    """An item of status, packed by itself, so that a hub keeps and shows one of a kind that it does not know."""

    packed: Raw


class Subscribe(Message, frozen=True):
    """Observers only: send me telemetry from here on, beginning with the latest on every subject."""


# -- hub to peer, control ------------------------------------------------------------------------------


class Welcome(Message, frozen=True):
    """The peer is in; it counts the hub as lost after ``lost_after_s`` without a message."""

    role: Role
    epoch: Count
    heartbeat_s: float
    lost_after_s: float


class Refused(Message, frozen=True):
    """The hub did not do what was asked.

    ``code``: "hello-first" (connection not known: say Hello), "identity" (the key belongs to another name),
    "version", "testbed" (another release or testbed file than the hub's), "full" (as many of its kind are connected as may be), "malformed", "unknown-peer", "not-connected",
    "credit", "overload" or "not-allowed".
    """

    code: Annotated[str, Meta(max_length=32)]
    detail: Reason
    to: str = ""
    topic: str = ""


class Superseded(Message, frozen=True):
    """A newer process presented the same key; this connection is not served any more."""


class LeaseOffer(Message, frozen=True):
    """The ring for one block of ``n_frames`` frames between ``first`` and ``second``; answer in time.

    ``purpose``: :data:`KEY`, or a calibration step (:func:`calibration`), no frame of which can become key.  Who does
    not know a purpose refuses.
    """

    epoch: Count
    number: Count
    first: Role
    second: Role
    n_frames: Count
    purpose: Purpose = KEY


class EpochStep(Message, frozen=True):
    """For a party that refused an epoch as too far ahead: one step towards it, within its bounds."""

    epoch: Count


class LeaseGrant(Message, frozen=True):
    """All parties accepted: light on.  ``limit_s`` is when the hub takes the ring back."""

    epoch: Count
    number: Count
    limit_s: float


class Rest(Message, frozen=True):
    """To the parties of leases: make the instruments safe and leave them so while ``on``, for ``reason``; said at
    every connection."""

    on: bool
    reason: Reason = ""


class TelemetryItem(Message, frozen=True):
    """An item of status passed on to a subscriber, ``age_s`` after the hub heard it.

    ``role`` is who said it; ``seq`` counts per subscription, gaps are losses; ``packed`` is as in :class:`Said`.
    """

    role: Role
    seq: Count
    age_s: Seconds
    packed: Raw

    @classmethod
    def of(cls, role: str, seq: int, age_s: float, item: StatusItem) -> TelemetryItem:
        """With ``item`` packed."""
        return cls(role, seq, age_s, packed(item))

    @property
    def item(self) -> StatusItem:
        """What was said; Unknown where this version does not know the kind."""
        item: StatusItem = read_item(self.packed, StatusItem)
        return item


class SnapshotEnd(Message, frozen=True):
    """Everything that was known when the subscription began has been sent: ``items`` of them."""

    items: Count


class Shutdown(Message, frozen=True):
    """The hub is about to stop on purpose; peers make safe and wait for its return."""

    reason: Reason


# -- bulk plane ----------------------------------------------------------------------------------------


class BulkHello(Message, frozen=True):
    """Ties the bulk connection to the control connection of the same ``instance``."""

    instance: Instance


class Post(Message, frozen=True):
    """Envelope of one payload frame; ``seq`` counts frames per channel, ``more`` = message continues,
    ``end`` = the sender closed the channel (empty payload).  ``session`` is the recipient's session that
    the sender knows of (0: none yet); the hub drops what was meant for an earlier one."""

    to: Role
    topic: Topic
    seq: Count
    session: Count = 0
    more: bool = False
    end: bool = False


class CreditReturn(Message, frozen=True):
    """The recipient took ``amount`` (lengths plus overheads) of what ``to`` had sent it."""

    to: Role
    amount: Count


class BulkWelcome(Message, frozen=True):
    """The bulk link stands; ``peers`` are the other roles that can be reached, with their sessions."""

    peers: dict[Role, Count]


class Delivery(Message, frozen=True):
    """A :class:`Post` on its way out, ``sender`` filled in by the hub."""

    sender: Role
    topic: Topic
    seq: Count
    more: bool = False
    end: bool = False


class Credit(Message, frozen=True):
    """A :class:`CreditReturn` on its way to the sender of the data."""

    peer: Role
    amount: Count


class PeerChange(Message, frozen=True):
    """``role`` came (up) or went; in order with the deliveries of the same bulk link."""

    role: Role
    up: bool
    session: Count = 0
    reason: Reason = ""


FromPeer: TypeAlias = (
    Hello
    | Heartbeat
    | LeaseAccept
    | LeaseRefuse
    | LeaseDone
    | LeaseAbort
    | Demand
    | ReportedBefore
    | Subscribe
    | Said
)
FromHub: TypeAlias = (
    Welcome
    | Refused
    | Superseded
    | Heartbeat
    | LeaseOffer
    | EpochStep
    | LeaseGrant
    | LeaseAbort
    | Rest
    | TelemetryItem
    | SnapshotEnd
    | Shutdown
)
BulkFromPeer: TypeAlias = BulkHello | Post | CreditReturn
BulkFromHub: TypeAlias = BulkWelcome | Delivery | Credit | PeerChange | Refused | Superseded


def version_of(greeting: bytes | memoryview) -> int | None:
    """The version in a greeting of any version; None for what is none."""
    try:
        hello: AnyHello = decode(greeting, AnyHello)
    except WireError:
        return None
    return hello.version


def chunk_cost(length: int) -> int:
    """Credit that a payload frame of ``length`` bytes takes."""
    return length + CHUNK_OVERHEAD
