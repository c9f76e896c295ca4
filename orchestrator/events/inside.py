"""What a process tells its own metrics alone: neither printed nor told to the hub.

Most of it is asked for when somebody reads the metrics, so that a number which changes all the time costs nothing while
nobody looks.  No kind holds a key bit, and texts in them never become the name of anything.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from orchestrator.events.common import Item
from orchestrator.events.delivery import DeliveryEvent
from orchestrator.events.process import ProcessEvent
from orchestrator.events.status import HubItem, PeerItem
from orchestrator.wire.fields import Count, InstrumentName, Reason, Role, Seconds
from orchestrator.wire.links import LinkState

Door: TypeAlias = Literal["hub", "delivery"]
"""Where others connect to: the orchestrator's hub, or a node's key delivery."""


RingState: TypeAlias = Literal["running", "idle", "degraded", "stopped", "no answer"]


class Judged(Item, frozen=True):
    """The ring as a whole, as an observer judges it from all that it hears."""

    state: RingState


class HubLink(Item, frozen=True):
    """How the link of this process to the hub stands; ``reason`` says why the last session ended or never began."""

    state: LinkState
    reason: Reason = ""


class Loop(Item, frozen=True):
    """The control loop of this process has turned last ``age_s`` ago; after ``limit_s`` it is taken to hang."""

    age_s: Seconds
    limit_s: Seconds


class Heartbeat(Item, frozen=True):
    """``age_s`` passed since ``peer`` was last heard."""

    about = ("peer",)

    peer: Role
    age_s: Seconds


class Connections(Item, frozen=True):
    """What was turned away at a door since this process started: keys that are not on its list, or floods of bytes."""

    about = ("door",)

    door: Door
    unknown_keys: Count
    floods: Count


class HubTraffic(Item, frozen=True):
    """What the hub carried and what it refused since this process started."""

    frames: Count
    size_bytes: Count
    malformed: Count
    strangers: Count
    stale: Count
    undelivered: Count
    lost_peers: Count


class TagFailures(Item, frozen=True):
    """Messages of ``peer`` that were refused since this process started: their tag did not fit, or they came again."""

    about = ("peer",)

    peer: Role
    count: Count


class InstrumentState(Item, frozen=True):
    """Whether an instrument answers; its latest value of any parameter was read or set ``age_s`` ago, None before."""

    about = ("instrument",)

    instrument: InstrumentName
    reachable: bool
    age_s: Seconds | None = None


class Disk(Item, frozen=True):
    """Room on the disk of the role's state folder, as others than root have it."""

    free_bytes: Count
    size_bytes: Count


InsideItem: TypeAlias = (
    Judged | HubLink | Loop | Heartbeat | Connections | HubTraffic | TagFailures | InstrumentState | Disk
)
Told: TypeAlias = ProcessEvent | PeerItem | HubItem | InsideItem | DeliveryEvent
"""All that a process's metrics may be told."""
