"""Metrics of a process and of its connections; what the operating system tells of it adds prometheus-client itself."""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.events.common import Unknown
from orchestrator.events.inside import Connections, Disk, Heartbeat, HubLink, HubTraffic, Loop
from orchestrator.events.status import HubStatus, Refusals
from orchestrator.metrics.rows import By, Metric, Sample, one, one_of
from orchestrator.wire.links import LinkState

LINK_STATES = tuple(state.name.lower() for state in LinkState)


def _turned_away(item: Connections, by: By) -> Iterable[Sample]:
    yield (item.door, "key"), item.unknown_keys
    yield (item.door, "flood"), item.floods


def _refused(item: HubTraffic, by: By) -> Iterable[Sample]:
    for reason in ("malformed", "strangers", "stale", "undelivered"):
        yield (reason,), getattr(item, reason)


PROCESS = (
    Metric(
        "qunetlab_hub_link",
        "gauge",
        "",
        "1 for how the link to the hub stands",
        ("state",),
        HubLink,
        one_of(LINK_STATES, lambda item: item.state.name.lower()),
    ),
    Metric(
        "qunetlab_loop_age_seconds",
        "gauge",
        "seconds",
        "Since the control loop of the process has turned",
        (),
        Loop,
        one(lambda item: item.age_s),
    ),
    Metric(
        "qunetlab_loop_limit_seconds",
        "gauge",
        "seconds",
        "After so long the control loop is taken to hang",
        (),
        Loop,
        one(lambda item: item.limit_s),
    ),
    Metric(
        "qunetlab_heartbeat_age_seconds",
        "gauge",
        "seconds",
        "Since a peer was last heard",
        ("peer",),
        Heartbeat,
        lambda item, by: (((by.names.role(item.peer),), item.age_s),),
    ),
    Metric(
        "qunetlab_connections_refused_total",
        "total",
        "",
        "Connections that were turned away: an unknown or revoked key, or a flood of bytes",
        ("door", "reason"),
        Connections,
        _turned_away,
    ),
    Metric(
        "qunetlab_hub_frames_total",
        "total",
        "",
        "Bulk messages that the hub carried",
        (),
        HubTraffic,
        one(lambda item: item.frames),
    ),
    Metric(
        "qunetlab_hub_bytes_total",
        "total",
        "bytes",
        "Bytes of bulk messages that the hub carried",
        (),
        HubTraffic,
        one(lambda item: item.size_bytes),
    ),
    Metric(
        "qunetlab_hub_messages_refused_total",
        "total",
        "",
        "Messages that the hub did not carry",
        ("reason",),
        HubTraffic,
        _refused,
    ),
    Metric(
        "qunetlab_hub_lost_peers_total",
        "total",
        "",
        "Peers that fell silent",
        (),
        HubTraffic,
        one(lambda item: item.lost_peers),
    ),
    Metric(
        "qunetlab_hub_overloads_total",
        "total",
        "",
        "What the hub refused or dropped because too many bytes were waiting",
        (),
        HubStatus,
        one(lambda item: item.overloads),
    ),
    Metric(
        "qunetlab_items_refused_total",
        "total",
        "",
        "Items of status that a role may not say",
        ("peer",),
        Refusals,
        lambda item, by: (((by.names.role(item.peer),), item.count),),
    ),
    Metric(
        "qunetlab_unknown_events_total",
        "adds",
        "",
        "Events of a kind that this version does not know",
        (),
        Unknown,
        one(lambda _: 1),
    ),
    Metric(
        "qunetlab_disk_free_bytes",
        "gauge",
        "bytes",
        "Room on the disk of the role's state",
        (),
        Disk,
        one(lambda item: item.free_bytes),
    ),
    Metric(
        "qunetlab_disk_size_bytes",
        "gauge",
        "bytes",
        "Size of the disk of the role's state",
        (),
        Disk,
        one(lambda item: item.size_bytes),
    ),
)
