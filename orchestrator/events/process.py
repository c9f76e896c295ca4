"""What the processes of a testbed print: one event a line, JSON, on standard output, for whoever started them.

Items of status (:mod:`~orchestrator.events.status`) and events of a training run (:mod:`~orchestrator.events.learning`)
are printed as they are told to the hub; here is what is printed alone.  A role's first line is its
:class:`Serving`: with ``ready`` true, the version of the package, and where it is reached.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import msgspec

from orchestrator.events.common import Serving, Unknown, read_line
from orchestrator.events.learning import ClientEnded, ClientServing, ClientState, ServerEvent
from orchestrator.events.status import Alarm, BlockReport, Epsilons, LeaseStatus, PeerStatus
from orchestrator.wire.codec import Message


class HubServing(Serving, frozen=True):
    """The orchestrator's endpoints as they were bound, and its epoch."""

    control: str
    bulk: str
    epoch: int


class RelayServing(Serving, frozen=True):
    """Models of the relay's instruments by name."""

    instruments: dict[str, str]


class NodeServing(Serving, frozen=True):
    """Where the node delivers keys to its own client, and to applications (ETSI GS QKD 014; empty if it has none)."""

    delivery: str
    etsi014: str = ""


class DashboardServing(Serving, frozen=True):
    """Where a browser finds the control room."""

    url: str


class SimulatedInstrument(msgspec.Struct, frozen=True):
    """One instrument that is simulated, and the address at which it answers."""

    name: str
    address: str


class SimulatorServing(Serving, frozen=True):
    """Every simulated instrument of a testbed answers; ``not_simulated`` are those with real addresses."""

    testbed: str
    not_simulated: tuple[str, ...]
    instruments: tuple[SimulatedInstrument, ...]


class SimulatorStopped(Message, frozen=True):
    """The last states of all twins, by instrument; their fields are their models' own.

    ``unsafe`` names the instruments that are not in their safe states, as the simulator saw it.
    """

    states: dict[str, Any]
    unsafe: list[str]
    stopped: Literal[True] = True


class LightProgress(Message, frozen=True):
    """The relay is at ``pulses`` of ``planned_pulses`` in a lease of the pair, with ``clicks`` in the latest frame.

    ``lost_frames`` of the frames so far are lost, the latest for ``lost_reason``, as the relay knows; the users may have
    lost others.

    ``at_s`` is on the monotonic clock of its machine.
    """

    first: str
    second: str
    pulses: int
    planned_pulses: int
    clicks: int
    at_s: float
    lost_frames: int = 0
    lost_reason: str = ""

    @property
    def pair(self) -> tuple[str, str]:
        """Both users."""
        return self.first, self.second


class CalibrationProgress(Message, frozen=True):
    """A calibration of the pair is ``done`` to this part, 0 to 1; ``at_s`` as of :class:`LightProgress`."""

    step: str
    first: str
    second: str
    done: float
    at_s: float


class Calibrated(Message, frozen=True):
    """``owner`` found values, which are in its book by these names, or was ``refused`` them for a reason."""

    step: str
    owner: str
    found: tuple[str, ...] = ()
    refused: str = ""


class Tracked(Message, frozen=True):
    """``owner`` corrected something that drifts while the pair makes key, after ``frame`` of its block.

    ``before`` and ``after`` in ``unit``, from the value in the calibration, which stays as it is.
    """

    what: str
    owner: str
    first: str
    second: str
    frame: int
    before: float
    after: float
    unit: str
    why: str


class PeerLedger(Message, frozen=True):
    """What became of every bit that the printing node shared with ``peer``; the last four add up to the first."""

    peer: str
    produced_bits: int
    stored_bits: int
    delivered_bits: int
    authentication_bits: int
    burnt_bits: int


class MadeSafe(Message, frozen=True):
    """The role has made its ``instruments`` safe, and given them up; those ``by_guard`` it could not, and the guard did.

    ``station_out``: whether a user's own station is out of the ring; None where it is not known, and of the relay.
    """

    instruments: tuple[str, ...]
    by_guard: tuple[str, ...] = ()
    station_out: bool | None = None


class Failed(Message, frozen=True):
    """The process ends with an error, in the words of the command line; ``disk_full``: for want of room."""

    text: str
    disk_full: bool = False


class Printed(Message, frozen=True):
    """A line that is no event."""

    text: str


class Ended(Message, frozen=True):
    """Nothing more comes: the process has closed its standard output."""


ProcessEvent: TypeAlias = (
    HubServing
    | RelayServing
    | NodeServing
    | DashboardServing
    | SimulatorServing
    | SimulatorStopped
    | LightProgress
    | CalibrationProgress
    | Calibrated
    | Tracked
    | PeerLedger
    | MadeSafe
    | BlockReport
    | Epsilons
    | Alarm
    | LeaseStatus
    | PeerStatus
    | ServerEvent
    | ClientServing
    | ClientState
    | ClientEnded
    | Failed
    | Unknown
    | Printed
    | Ended
)
Emit: TypeAlias = Callable[[ProcessEvent], None]


def line_of(event: ProcessEvent) -> str:
    """``event`` as a line of JSON, without its end."""
    return msgspec.json.encode(event).decode()


def event_of(line: str) -> ProcessEvent:
    """The event that ``line`` holds; Unknown for one of another version, Printed for what is no event."""
    event: ProcessEvent | None = read_line(line, ProcessEvent)
    return Printed(line.rstrip("\n")) if event is None else event
