"""What a running testbed says of itself: items of status, who may say which, and what each is about.

An item is the latest word of one role on one *subject* and replaces its earlier one; the hub keeps it under
``(role, subject)``.  A subject is a tuple of the item's kind and the names that it is about, never one text
glued from them: the pairs (a, b-c) and (a-b, c) are two subjects.

A node speaks only of pairs that it belongs to, and the orchestrator alone of what several roles are part of: peers,
pairs (stock of both ends put together), leases, the ring.  Who else may say an item stands with it (``said_by``);
everything else is refused, counted and shown (:class:`Refusals`).  No item holds a key bit, and texts in them are
whatever their role wrote: they are escaped before a terminal or a page shows them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from lab.calibration.steps import Step
from orchestrator.events.common import Item, Unknown
from orchestrator.wire.codec import Message
from orchestrator.wire.fields import Count, InstrumentName, Lane, Reason, Role, Seconds

ORCHESTRATOR, RELAY, FL_SERVER, OBSERVER = "orchestrator", "relay", "fl-server", "observer"
NODE = "a user's node"
Pair: TypeAlias = tuple[str, str]
Light: TypeAlias = Literal["assumed", "gated"]
"""The relay's light: believed to be steady and from one side, or counted in the own window by each user's counter."""
Monitoring: TypeAlias = Literal["monitored", "calibrated"]
"""The intensity: read by a sensor while key is made, or believed since the last calibration."""
BlockCause: TypeAlias = Literal[
    "",
    "settlement",
    "sifting",
    "reconciliation",
    "verification",
    "authentication",
    "amplification",
    "no-key",
    "line",
    "store",
    "other",
]
"""In which stage a block was given up; ``no-key``: it went to its end and its length was 0; ``line``: the peer was not ready, or
not reached, before the first stage or after the last; ``store``: the key store refused it."""
KEPT_PER_ROLE = 1024
"""Subjects of one role that are kept; a ring of 256 users needs fewer."""


def pair_name(pair: Sequence[str]) -> str:
    """``alice-bob``; ``a:b-c`` where a hyphen would leave it open which two are meant."""
    return (":" if "-" in "".join(pair) else "-").join(pair)


# -- said by nodes and relay ---------------------------------------------------------------------------


class LaneStock(Message, frozen=True):
    """Free bits that the reporting node holds in one lane with ``peer``."""

    peer: Role
    lane: Lane
    bits: Count
    low_water_bits: Count = 0


class Stock(Item, frozen=True):
    """A node's whole stock; replaces its earlier report.  The scheduler goes by the lane ``mask``."""

    said_by = (NODE,)

    lanes: Annotated[list[LaneStock], Meta(max_length=1280)]


class BlockReport(Item, frozen=True):
    """What became of a block after post-processing, as one of its nodes tells: lengths and rates, never bits.

    Both nodes tell of a block, and whoever adds blocks up counts what ``first`` told (:meth:`counts`).  ``stored``:
    it gave key; otherwise ``reason`` says why not and ``cause`` of which kind that is, and ``interrupted`` that the node was stopping.  ``announced``
    slots, ``lost_frames`` left out, gave ``sifted_bits`` of key and ``test_rounds`` disclosed ones, of which ``test_errors``
    were wrong.  ``lost_reason`` is why the latest of the frames that the telling node lost was lost.  ``light_s`` of light
    took ``light_wall_s``; ``started_s``, on the node's own monotonic clock, is when it was first lit, and
    ``processing_s`` what passed until this report.  ``predicted_bits`` is what the calibrated ring gives at the arrivals
    counted.  ``light`` and ``monitoring`` say what its secrecy rests on, as its plan has it; None where nobody told.
    ``calibrate``: what would mend a ring that its counts do not fit, likeliest first.
    """

    about = ("first", "second")
    said_by = (NODE,)

    epoch: Count
    lease_number: Count
    first: Role
    second: Role
    stored: bool
    reason: Reason = ""
    interrupted: bool = False
    pulses: Count = 0
    lost_frames: Count = 0
    lost_reason: Reason = ""
    announced: Count = 0
    sifted_bits: Count = 0
    test_rounds: Count = 0
    test_errors: Count = 0
    secret_bits: Count = 0
    predicted_bits: Count = 0
    disclosed_bits: Count = 0
    qber: float | None = None
    f_ec: float | None = None
    phase_error_upper: float | None = None
    light_s: Seconds = 0.0
    light_wall_s: Seconds = 0.0
    started_s: float = 0.0
    processing_s: Seconds = 0.0
    light: Light | None = None
    monitoring: Monitoring | None = None
    cause: BlockCause = ""
    calibrate: Annotated[tuple[Step, ...], Meta(max_length=len(Step))] = ()

    @property
    def pair(self) -> Pair:
        """Both users, in the order of the ring."""
        return self.first, self.second

    def counts(self, role: str) -> bool:
        """Whether the report of ``role`` is the one that counts for this block."""
        return role == self.first and not self.interrupted


class Epsilons(Item, frozen=True):
    """What may have gone wrong with ``peer``, added up over ``blocks`` and ``tags``."""

    about = ("peer",)
    said_by = (NODE,)

    peer: Role
    sec: float
    cor: float
    auth: float
    blocks: Count
    tags: Count


class Ready(Item, frozen=True):
    """Whether a party of leases can take one; if not, why, and the ``instruments`` that failed."""

    said_by = (NODE, RELAY)

    ready: bool
    reason: Reason = ""
    instruments: Annotated[tuple[InstrumentName, ...], Meta(max_length=64)] = ()


class Served(Item, frozen=True):
    """The relay's own count of leases: light phases that ended well and that did not, seconds of light."""

    said_by = (RELAY,)

    leases: Count
    failed: Count
    light_s: Seconds


class LightNow(Item, frozen=True):
    """Key light in the ring at this moment, said once a second at most; without ``first`` there is none.

    A lease of the pair is at ``pulses`` of ``planned_pulses``, and ``lost_frames`` of its frames are lost.  ``d1_cps`` and
    ``d2_cps``: clicks in the gates per second of light, over the frames since the last word; None before there is one.
    ``backscatter_cps``: what came between the pulses of the light at rest before the first frame less dark counts, per
    second and detector, so scattered light and what the carver leaves; None where it was not looked at.  Sums over a frame
    and more, and later than the announcements: they say nothing of a slot.
    """

    said_by = (RELAY,)

    first: Role | None = None
    second: Role | None = None
    pulses: Count = 0
    planned_pulses: Count = 0
    lost_frames: Count = 0
    d1_cps: float | None = None
    d2_cps: float | None = None
    backscatter_cps: float | None = None


class Readings(Item, frozen=True):
    """A parameter of an instrument as it was last read or set, ``age_s`` before this was said; said where that changed.

    ``low`` and ``high``: between which no alarm begins, or what the driver takes; None where there is no such limit.
    Of the relay all single numbers that are known, as it has no secrets.  Of a user temperatures, and the light on its
    sensors while its station is bypassed, and nothing else (:mod:`orchestrator.processes.readings_told`).
    """

    about = ("instrument", "parameter")
    said_by = (NODE, RELAY)

    instrument: InstrumentName
    parameter: Annotated[str, Meta(min_length=1, max_length=64)]
    value: float | bool
    unit: Annotated[str, Meta(max_length=32)] = ""
    low: float | None = None
    high: float | None = None
    age_s: Seconds = 0.0


AlarmName: TypeAlias = Literal[
    "interlock",
    "laser-power",
    "temperature",
    "detector-rate",
    "dark-rate",
    "sensor",
    "qber",
    "low-water",
    "waits-for-operator",
    "tampering",
    "calibration-age",
    "certificate",
    "instrument",
    "store",
    "old-copy",
    "data-sets",
    "intensity",
]


class Alarm(Item, frozen=True):
    """Something an operator has to look at; ``on`` False ends it.

    ``peer`` is None where none is meant, ``part`` names an instrument, a detector or a calibration where one of several is.
    ``severity`` is the worst since it began; ``active`` is False for one that is over and waits to be acknowledged.
    ``value`` is in ``unit``.  A shelved one is known and disturbs nobody for ``shelved_s`` more, from when it was said.
    """

    about = ("name", "peer", "part")
    said_by = (NODE, RELAY, FL_SERVER)

    name: AlarmName
    text: Reason
    peer: Role | None = None
    on: bool = True
    part: Annotated[str, Meta(max_length=64)] = ""
    severity: Literal["minor", "major", "invalid"] = "minor"
    condition: Literal["high", "low", "drift", "stale", "unreadable", "state"] = "state"
    active: bool = True
    acknowledged: bool = False
    shelved_s: Seconds = 0.0
    value: float | None = None
    unit: Annotated[str, Meta(max_length=32)] = ""
    what_to_do: Reason = ""

    def id_of(self, role: str) -> str:
        """What an operator calls it, such as ``alice/low-water/bob``; ``role`` is whose it is."""
        return "/".join(filter(None, (role, self.name, self.peer, self.part)))

    def told_by(self, role: str) -> str:
        """In one line for people."""
        of = "".join(f" {word} {each}" for word, each in (("with", self.peer), ("of", self.part)) if each)
        how = "" if self.active else " (over)"
        return f"{self.severity} alarm of {role}: {self.name}{of}{how}: {self.text}"


# -- said by the learning server -----------------------------------------------------------------------


class Learning(Item, frozen=True):
    """How a training run goes: ``done`` of ``rounds`` rounds summed, ``aborted`` without a sum.

    ``waits``: the latest client that waits for key, and each peer that it lacks key with; ``eta_s`` is how long the
    node of that client expects it to take, None while no rate is known.  Every pair spends ``round_bits`` of key in a
    round.  The latest round that ended spent ``key_bits`` over all pairs, and its clients sent ``upload_bytes``.
    """

    said_by = (FL_SERVER,)

    run_id: Annotated[str, Meta(max_length=64)]
    mode: Annotated[str, Meta(max_length=32)]
    state: Literal["running", "waiting", "finished", "failed"]
    rounds: Count
    done: Count = 0
    aborted: Count = 0
    accuracy: float | None = None
    reason: Reason = ""
    waits: Annotated[tuple[tuple[Role, Role], ...], Meta(max_length=256)] = ()
    eta_s: Seconds | None = None
    round_bits: Count = 0
    key_bits: Count = 0
    upload_bytes: Count = 0


# -- said by the orchestrator alone --------------------------------------------------------------------


class PeerStatus(Item, frozen=True):
    """Whether the hub reaches ``peer``, and whether it is ready as far as it told, see :class:`Ready`."""

    about = ("peer",)

    peer: Role
    present: bool
    ready: bool = True
    reason: Reason = ""
    instruments: Annotated[tuple[InstrumentName, ...], Meta(max_length=64)] = ()


class PairStatus(Item, frozen=True):
    """A pair as the scheduler sees it.

    ``stock_bits`` is the smaller of what both ends report, ``in_work_bits`` what blocks between light and report
    are planned to give, ``rate_bps`` secret bits per second of ring: the plan's until ``measured``.
    ``available`` is False with a ``reason`` while the ring cannot serve the pair.  ``failures`` counts leases and
    blocks without key in a row, ``fault`` is why the last one failed and ``failing_s`` how long ago the first did.
    ``light`` and ``monitoring`` say what the secrecy of its key rests on, as its plan has it.
    """

    about = ("first", "second")

    first: Role
    second: Role
    stock_bits: Count
    demand_bits: Count
    in_work_bits: Count
    rate_bps: float
    measured: bool
    available: bool
    reason: Reason = ""
    failures: Count = 0
    failing_s: Seconds = 0.0
    fault: Reason = ""
    light: Light | None = None
    monitoring: Monitoring | None = None

    @property
    def pair(self) -> Pair:
        """Both users, in the order of the ring."""
        return self.first, self.second

    @property
    def lacks_key(self) -> bool:
        """Key was asked for that is neither there nor on its way."""
        return self.demand_bits > self.stock_bits + self.in_work_bits


class LeaseStatus(Item, frozen=True):
    """How the latest lease of a pair ended.  ``refused``: no light was ever on."""

    about = ("first", "second")

    epoch: Count
    lease_number: Count
    first: Role
    second: Role
    ok: bool
    refused: bool = False
    reason: Reason = ""
    ring_s: Seconds = 0.0

    @property
    def pair(self) -> Pair:
        """Both users, in the order of the ring."""
        return self.first, self.second


class RingStatus(Item, frozen=True):
    """Where the ring stands, and for how long; said every second, so that silence means something.

    ``first`` and ``second`` are the pair of the lease in being, None while the ring is free.
    """

    phase: Literal["free", "offered", "granted", "draining"]
    for_s: Seconds
    first: Role | None = None
    second: Role | None = None
    lease_number: Count = 0


class QueueStatus(Item, frozen=True):
    """The queue: how many entries wait and are held, the number of the one that has the ring or the bench, and why the
    ring rests."""

    waiting_entries: Count
    held_entries: Count
    running_entry: Count | None = None
    rests: Reason = ""


class Refusals(Item, frozen=True):
    """What ``peer`` said and may not say: how often, and what it was the last time."""

    about = ("peer",)

    peer: Role
    count: Count
    last: Reason


class HubStatus(Item, frozen=True):
    """What the hub refused or dropped because too many bytes were waiting."""

    overloads: Count


PeerItem: TypeAlias = Stock | BlockReport | Epsilons | Ready | Served | LightNow | Readings | Alarm | Learning
"""What roles say of themselves."""
HubItem: TypeAlias = PeerStatus | PairStatus | LeaseStatus | RingStatus | QueueStatus | Refusals | HubStatus
"""What the orchestrator is the only source of."""
StatusItem: TypeAlias = PeerItem | HubItem | Unknown


def objection(role: str, item: PeerItem, users: Collection[str]) -> str:
    """Why ``role`` may not say ``item`` on a ring of ``users``; empty if it may."""
    is_node = role in users
    name = type(item).__name__
    if (NODE if is_node else role) not in item.said_by:
        return f"{role} may not say {name}"
    if isinstance(item, BlockReport):
        if role not in (item.first, item.second) or item.first == item.second:
            return f"{role} may not say {name} of other pairs"
        named = {item.first, item.second}
    else:
        named = _peers_named(item)
        if is_node and role in named:
            return f"{role} named itself as its peer in {name}"
    if not named <= set(users):
        return f"{role} named somebody in {name} who is no user of this testbed"
    return ""


def _peers_named(item: PeerItem) -> set[str]:
    match item:
        case Stock():
            return {each.peer for each in item.lanes}
        case Epsilons():
            return {item.peer}
        case Learning():
            return {name for pair in item.waits for name in pair}
        case Alarm() if item.peer:
            return {item.peer}
        case LightNow():
            return {name for name in (item.first, item.second) if name}
        case _:
            return set()
