"""Every metric: one row each, and nothing else in the product names one.

``docs/metrics.md`` is written from it, and dashboard and alert rules are held against it.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.events import delivery, inside, learning, process, status
from orchestrator.events.common import Unknown
from orchestrator.metrics.keys import KEYS
from orchestrator.metrics.learning import LEARNING
from orchestrator.metrics.process import PROCESS
from orchestrator.metrics.ring import RING
from orchestrator.metrics.rows import Metric

UNITS = {"bits", "bytes", "seconds", "ratio", "hertz", "bits per second", ""}


HUB, NODES, RELAY, SERVER, CLIENTS = "orchestrator", "nodes", "relay", "fl-server", "clients"
ALL, OBSERVER = "every process", "`qunetlab metrics`"
WHERE: dict[type, tuple[str, ...]] = {
    status.Stock: (NODES,),
    status.BlockReport: (NODES,),
    status.Epsilons: (NODES,),
    process.PeerLedger: (NODES,),
    inside.TagFailures: (NODES,),
    **dict.fromkeys(
        (
            delivery.KeysDelivered,
            delivery.KeysRefused,
            delivery.KeyRequestAnswered,
            delivery.KeyCallerTurnedAway,
            delivery.KeyServerFault,
        ),
        (NODES,),
    ),
    inside.Judged: (OBSERVER,),
    **dict.fromkeys(
        (
            status.RingStatus,
            status.LeaseStatus,
            status.PeerStatus,
            status.PairStatus,
            status.QueueStatus,
            status.Refusals,
            status.HubStatus,
            inside.HubTraffic,
        ),
        (HUB,),
    ),
    status.Served: (RELAY,),
    status.LightNow: (RELAY,),
    **dict.fromkeys((status.Ready, status.Alarm, process.Calibrated, inside.InstrumentState), (RELAY, NODES)),
    **dict.fromkeys(
        (
            learning.RoundCompleted,
            learning.RoundAborted,
            learning.RoundStarted,
            learning.WaitingForClients,
            learning.UploadRefused,
            learning.ClientDropped,
            status.Learning,
        ),
        (SERVER,),
    ),
    learning.ClientState: (CLIENTS,),
    inside.HubLink: (RELAY, NODES, SERVER),
    inside.Heartbeat: (HUB, RELAY, NODES),
    inside.Connections: (HUB, NODES),
    inside.Disk: (HUB, RELAY, NODES, SERVER, CLIENTS),
    inside.Loop: (ALL,),
    Unknown: (HUB, RELAY, NODES),
}
"""Which roles serve the metrics that follow from a kind of event; a test holds it against a ring at work."""


class MetricsError(Exception):
    """A row of the table that cannot stand."""


def checked(rows: Iterable[Metric]) -> tuple[Metric, ...]:
    """The rows; raises MetricsError for a name that is there twice or that Prometheus's rules speak against."""
    seen: set[str] = set()
    for row in rows:
        if row.name in seen:
            raise MetricsError(f"{row.name} is there twice")
        seen.add(row.name)
        if row.source not in WHERE:
            raise MetricsError(
                f"{row.name} follows from {row.source.__name__}, and WHERE does not say who tells it"
            )
        if row.unit not in UNITS:
            raise MetricsError(
                f"{row.name} has the unit {row.unit!r}, which is no base unit: {sorted(UNITS)}"
            )
        bare = row.name.removesuffix("_total")
        if row.is_counter != (bare != row.name):
            raise MetricsError(f"{row.name}: a counter ends in _total, and nothing else does")
        if row.unit and not bare.endswith("_" + row.unit.replace(" ", "_")):
            raise MetricsError(f"{row.name} does not end in its unit, {row.unit}")
    return tuple(rows)


TABLE = checked((*KEYS, *RING, *LEARNING, *PROCESS))
