"""Metrics of the ring: light, leases, parties, queue, alarms and instruments."""

from __future__ import annotations

from collections.abc import Iterable
from typing import get_args

from lab.calibration.steps import Step
from orchestrator.events.inside import InstrumentState, Judged, RingState
from orchestrator.events.process import Calibrated
from orchestrator.events.status import (
    Alarm,
    LeaseStatus,
    LightNow,
    PairStatus,
    PeerStatus,
    QueueStatus,
    Ready,
    RingStatus,
    Served,
)
from orchestrator.metrics.rows import OTHER, By, Metric, Sample, one, one_of, per_pair

PAIR, PEER, INSTRUMENT = ("pair",), ("peer",), ("instrument",)
RING_PHASES = ("free", "offered", "granted", "draining")
STEPS = frozenset(Step)


def _lease(item: LeaseStatus, by: By) -> Iterable[Sample]:
    pair = by.names.pair(*item.pair)
    outcome = "ended" if item.ok else "refused" if item.refused else "failed"
    return (((pair, each), float(each == outcome)) for each in ("ended", "refused", "failed"))


def _detectors(item: LightNow, by: By) -> Iterable[Sample]:
    told = (("d1", item.d1_cps), ("d2", item.d2_cps))
    return (((name,), rate) for name, rate in told if rate is not None)


def _queue(item: QueueStatus, by: By) -> Iterable[Sample]:
    running = item.running_entry is not None
    told = (("waiting", item.waiting_entries), ("held", item.held_entries), ("running", running))
    return (((state,), float(count)) for state, count in told)


def _alarm(item: Alarm, by: By) -> Iterable[Sample]:
    state = "shelved" if item.shelved_s else "acknowledged" if item.acknowledged else "standing"
    return (((item.name, item.severity, state), float(item.on)),)


def _calibrated(item: Calibrated, by: By) -> Iterable[Sample]:
    step = item.step if item.step in STEPS else OTHER
    yield (step, "refused" if item.refused else "taken"), 1.0


def _instrument_age(item: InstrumentState, by: By) -> Iterable[Sample]:
    if item.age_s is not None:
        yield (by.names.instrument(item.instrument),), item.age_s


RING = (
    Metric(
        "qunetlab_up",
        "gauge",
        "",
        "1 while the orchestrator answers",
        (),
        Judged,
        one(lambda item: item.state != "no answer"),
    ),
    Metric(
        "qunetlab_state",
        "gauge",
        "",
        "1 for the verdict on the ring",
        ("state",),
        Judged,
        one_of(get_args(RingState), lambda item: item.state),
    ),
    Metric(
        "qunetlab_ring_phase",
        "gauge",
        "",
        "1 for where the ring stands",
        ("phase",),
        RingStatus,
        one_of(RING_PHASES, lambda item: item.phase),
    ),
    Metric(
        "qunetlab_ring_phase_seconds",
        "gauge",
        "seconds",
        "For how long the ring has stood there",
        (),
        RingStatus,
        lambda item, by: (((), item.for_s + by.age_s),),
    ),
    Metric(
        "qunetlab_leases_total",
        "adds",
        "",
        "Leases by how they ended: ended well, failed, or refused before there was light",
        ("pair", "outcome"),
        LeaseStatus,
        _lease,
    ),
    Metric(
        "qunetlab_lease_ring_seconds_total",
        "adds",
        "seconds",
        "For how long leases had the ring",
        PAIR,
        LeaseStatus,
        per_pair(lambda item: item.ring_s),
    ),
    Metric(
        "qunetlab_leases_served_total",
        "total",
        "",
        "The relay's own count of light phases that ended well",
        (),
        Served,
        one(lambda item: item.leases),
    ),
    Metric(
        "qunetlab_leases_broken_total",
        "total",
        "",
        "The relay's own count of light phases that did not end well",
        (),
        Served,
        one(lambda item: item.failed),
    ),
    Metric(
        "qunetlab_served_light_seconds_total",
        "total",
        "seconds",
        "The relay's own count of light",
        (),
        Served,
        one(lambda item: item.light_s),
    ),
    Metric(
        "qunetlab_detector_rate_hertz",
        "gauge",
        "hertz",
        "Clicks of a detector in the gates, per second of light",
        ("detector",),
        LightNow,
        _detectors,
    ),
    Metric(
        "qunetlab_backscatter_rate_hertz",
        "gauge",
        "hertz",
        "Clicks between the pulses of the light at rest less dark counts, per detector",
        (),
        LightNow,
        one(lambda item: item.backscatter_cps),
    ),
    Metric(
        "qunetlab_light_on",
        "gauge",
        "",
        "1 while key light is in the ring",
        (),
        LightNow,
        one(lambda item: item.first is not None),
    ),
    Metric(
        "qunetlab_ready",
        "gauge",
        "",
        "1 while the role can take a lease",
        (),
        Ready,
        one(lambda item: item.ready),
    ),
    Metric(
        "qunetlab_failed_instruments",
        "gauge",
        "",
        "Instruments for which the role can take no lease",
        (),
        Ready,
        one(lambda item: len(item.instruments)),
    ),
    Metric(
        "qunetlab_instrument_reachable",
        "gauge",
        "",
        "1 while an instrument answers",
        INSTRUMENT,
        InstrumentState,
        lambda item, by: (((by.names.instrument(item.instrument),), float(item.reachable)),),
    ),
    Metric(
        "qunetlab_instrument_age_seconds",
        "gauge",
        "seconds",
        "Since any value of the instrument was last read or set",
        INSTRUMENT,
        InstrumentState,
        _instrument_age,
    ),
    Metric(
        "qunetlab_peer_present",
        "gauge",
        "",
        "1 while the hub reaches a role",
        PEER,
        PeerStatus,
        lambda item, by: (((by.names.role(item.peer),), float(item.present)),),
    ),
    Metric(
        "qunetlab_peer_ready",
        "gauge",
        "",
        "1 while a role that the hub reaches says that it is ready",
        PEER,
        PeerStatus,
        lambda item, by: (((by.names.role(item.peer),), float(item.present and item.ready)),),
    ),
    Metric(
        "qunetlab_pair_stock_bits",
        "gauge",
        "bits",
        "Stock of a pair: the smaller of what its ends report",
        PAIR,
        PairStatus,
        per_pair(lambda item: item.stock_bits),
    ),
    Metric(
        "qunetlab_pair_demand_bits",
        "gauge",
        "bits",
        "Key that is asked for of a pair",
        PAIR,
        PairStatus,
        per_pair(lambda item: item.demand_bits),
    ),
    Metric(
        "qunetlab_pair_in_work_bits",
        "gauge",
        "bits",
        "Key that blocks between light and report are planned to give",
        PAIR,
        PairStatus,
        per_pair(lambda item: item.in_work_bits),
    ),
    Metric(
        "qunetlab_pair_rate_bits_per_second",
        "gauge",
        "bits per second",
        "Secret bits per second of ring",
        PAIR,
        PairStatus,
        per_pair(lambda item: item.rate_bps),
    ),
    Metric(
        "qunetlab_pair_available",
        "gauge",
        "",
        "1 while the ring can serve a pair",
        PAIR,
        PairStatus,
        per_pair(lambda item: item.available),
    ),
    Metric(
        "qunetlab_pair_failures",
        "gauge",
        "",
        "Leases and blocks of a pair without key, in a row",
        PAIR,
        PairStatus,
        per_pair(lambda item: item.failures),
    ),
    Metric(
        "qunetlab_queue_entries",
        "gauge",
        "",
        "Entries of the queue",
        ("state",),
        QueueStatus,
        _queue,
    ),
    Metric(
        "qunetlab_queue_rests",
        "gauge",
        "",
        "1 while the queue keeps the ring at rest",
        (),
        QueueStatus,
        one(lambda item: bool(item.rests)),
    ),
    Metric(
        "qunetlab_alarms",
        "gauge",
        "",
        "Alarms that stand, are acknowledged, or are shelved",
        ("alarm", "severity", "state"),
        Alarm,
        _alarm,
    ),
    Metric(
        "qunetlab_calibrations_total",
        "adds",
        "",
        "Calibrations whose values were taken or refused",
        ("step", "result"),
        Calibrated,
        _calibrated,
    ),
)
