"""Metrics of key: blocks, stock, ledgers, epsilons, and what applications were given."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import get_args

from orchestrator.events.delivery import (
    KeyCallerTurnedAway,
    KeyRequestAnswered,
    KeysDelivered,
    KeyServerFault,
    KeysRefused,
)
from orchestrator.events.inside import TagFailures
from orchestrator.events.process import PeerLedger
from orchestrator.events.status import BlockCause, BlockReport, Epsilons, Stock
from orchestrator.metrics.rows import OTHER, By, Metric, Sample, per_pair

PAIR = ("pair",)
STORED = "stored"


def _stock(item: Stock, by: By) -> Iterable[Sample]:
    return (((by.pair(each.peer), by.names.lane(each.lane)), each.bits) for each in item.lanes)


def _low_water(item: Stock, by: By) -> Iterable[Sample]:
    return (
        ((by.pair(each.peer), by.names.lane(each.lane)), each.low_water_bits)
        for each in item.lanes
        if each.low_water_bits
    )


def _counted(value: Callable[[BlockReport], float]) -> Callable[[BlockReport, By], Iterable[Sample]]:
    """Both nodes tell of a block; what its first says is added up."""

    def of(item: BlockReport, by: By) -> Iterable[Sample]:
        return (((by.names.pair(*item.pair),), value(item)),) if item.counts(by.role) else ()

    return of


def _outcomes(item: BlockReport, by: By) -> Iterable[Sample]:
    if item.counts(by.role):
        pair = by.names.pair(*item.pair)
        became = STORED if item.stored else item.cause or "other"
        for outcome in (STORED, *filter(None, get_args(BlockCause))):
            yield (pair, outcome), float(outcome == became)


def _epsilons(item: Epsilons, by: By) -> Iterable[Sample]:
    pair = by.pair(item.peer)
    return (((pair, of), value) for of, value in (("sec", item.sec), ("cor", item.cor), ("auth", item.auth)))


def _delivered(value: Callable[[KeysDelivered], float]) -> Callable[[KeysDelivered, By], Iterable[Sample]]:
    return lambda item, by: (((item.sae, by.pair(item.peer), item.side), value(item)),)


KEYS = (
    Metric(
        "qunetlab_stock_bits",
        "gauge",
        "bits",
        "Free bits that a node holds in a lane of a pair",
        ("pair", "lane"),
        Stock,
        _stock,
    ),
    Metric(
        "qunetlab_stock_low_water_bits",
        "gauge",
        "bits",
        "The mark below which a lane of a pair is low",
        ("pair", "lane"),
        Stock,
        _low_water,
    ),
    Metric(
        "qunetlab_blocks_total",
        "adds",
        "",
        "Blocks by what became of them: stored, or why they gave no key",
        ("pair", "outcome"),
        BlockReport,
        _outcomes,
    ),
    Metric(
        "qunetlab_sifted_bits_total",
        "adds",
        "bits",
        "Sifted key of all blocks",
        PAIR,
        BlockReport,
        _counted(lambda block: block.sifted_bits),
    ),
    Metric(
        "qunetlab_secret_bits_total",
        "adds",
        "bits",
        "Secret key of all blocks",
        PAIR,
        BlockReport,
        _counted(lambda block: block.secret_bits),
    ),
    Metric(
        "qunetlab_disclosed_bits_total",
        "adds",
        "bits",
        "Bits disclosed while blocks were reconciled and verified",
        PAIR,
        BlockReport,
        _counted(lambda block: block.disclosed_bits),
    ),
    Metric(
        "qunetlab_announced_slots_total",
        "adds",
        "",
        "Slots that the relay announced",
        PAIR,
        BlockReport,
        _counted(lambda block: block.announced),
    ),
    Metric(
        "qunetlab_lost_frames_total",
        "adds",
        "",
        "Frames that were lost",
        PAIR,
        BlockReport,
        _counted(lambda block: block.lost_frames),
    ),
    Metric(
        "qunetlab_light_seconds_total",
        "adds",
        "seconds",
        "Light of all blocks, on the ring's clock",
        PAIR,
        BlockReport,
        _counted(lambda block: block.light_s),
    ),
    Metric(
        "qunetlab_light_wall_seconds_total",
        "adds",
        "seconds",
        "What the light of all blocks took",
        PAIR,
        BlockReport,
        _counted(lambda block: block.light_wall_s),
    ),
    Metric(
        "qunetlab_block_qber_ratio",
        "gauge",
        "ratio",
        "Errors in the latest block's key",
        PAIR,
        BlockReport,
        per_pair(lambda block: block.qber),
    ),
    Metric(
        "qunetlab_block_phase_error_ratio",
        "gauge",
        "ratio",
        "Upper bound of the phase error of the latest block",
        PAIR,
        BlockReport,
        per_pair(lambda block: block.phase_error_upper),
    ),
    Metric(
        "qunetlab_block_reconciliation_ratio",
        "gauge",
        "ratio",
        "Parity bits of the latest block over the Shannon limit (f_EC)",
        PAIR,
        BlockReport,
        per_pair(lambda block: block.f_ec),
    ),
    Metric(
        "qunetlab_block_processing_seconds",
        "gauge",
        "seconds",
        "From the first light of the latest block to its report",
        PAIR,
        BlockReport,
        per_pair(lambda block: block.processing_s),
    ),
    Metric(
        "qunetlab_epsilon_ratio",
        "gauge",
        "ratio",
        "What may have gone wrong with a pair, added up: sec, cor or auth",
        ("pair", "epsilon"),
        Epsilons,
        _epsilons,
    ),
    Metric(
        "qunetlab_epsilon_blocks_total",
        "total",
        "",
        "Blocks that the pair's epsilons stand for",
        PAIR,
        Epsilons,
        per_pair(lambda item: item.blocks),
    ),
    Metric(
        "qunetlab_epsilon_tags_total",
        "total",
        "",
        "Tags that the pair's epsilons stand for",
        PAIR,
        Epsilons,
        per_pair(lambda item: item.tags),
    ),
    Metric(
        "qunetlab_ledger_produced_bits_total",
        "total",
        "bits",
        "Key that a pair ever had",
        PAIR,
        PeerLedger,
        per_pair(lambda item: item.produced_bits),
    ),
    Metric(
        "qunetlab_ledger_stored_bits",
        "gauge",
        "bits",
        "Key of a pair that is still stored",
        PAIR,
        PeerLedger,
        per_pair(lambda item: item.stored_bits),
    ),
    Metric(
        "qunetlab_ledger_delivered_bits_total",
        "total",
        "bits",
        "Key of a pair that was delivered",
        PAIR,
        PeerLedger,
        per_pair(lambda item: item.delivered_bits),
    ),
    Metric(
        "qunetlab_ledger_authentication_bits_total",
        "total",
        "bits",
        "Key of a pair that tags took",
        PAIR,
        PeerLedger,
        per_pair(lambda item: item.authentication_bits),
    ),
    Metric(
        "qunetlab_ledger_burnt_bits_total",
        "total",
        "bits",
        "Key of a pair that was burnt",
        PAIR,
        PeerLedger,
        per_pair(lambda item: item.burnt_bits),
    ),
    Metric(
        "qunetlab_tag_failures_total",
        "total",
        "",
        "Messages of the peer that were refused: a tag that does not fit, or a repetition",
        PAIR,
        TagFailures,
        per_pair(lambda item: item.count),
    ),
    Metric(
        "qunetlab_keys_delivered_total",
        "adds",
        "",
        "Keys that an application was given",
        ("sae", "pair", "side"),
        KeysDelivered,
        _delivered(lambda item: item.keys),
    ),
    Metric(
        "qunetlab_keys_delivered_bits_total",
        "adds",
        "bits",
        "Bits of the keys that an application was given",
        ("sae", "pair", "side"),
        KeysDelivered,
        _delivered(lambda item: item.bits),
    ),
    Metric(
        "qunetlab_key_requests_refused_total",
        "adds",
        "",
        "Requests of applications that were not granted",
        ("sae", "reason", "side"),
        KeysRefused,
        lambda item, by: (((item.sae or OTHER, item.reason, item.side), 1.0),),
    ),
    Metric(
        "qunetlab_key_https_requests_total",
        "adds",
        "",
        "Requests to the key server, by endpoint of ETSI GS QKD 014 (none: elsewhere) and status of HTTP",
        ("endpoint", "status"),
        KeyRequestAnswered,
        lambda item, by: (((item.endpoint or "none", str(item.status)), 1.0),),
    ),
    Metric(
        "qunetlab_key_callers_turned_away_total",
        "adds",
        "",
        "Connections to the key server that were refused or closed, by why",
        ("why",),
        KeyCallerTurnedAway,
        lambda item, by: (((item.why,), 1.0),),
    ),
    Metric(
        "qunetlab_key_server_faults_total",
        "adds",
        "",
        "Failures inside the key server, which its log names",
        ("what",),
        KeyServerFault,
        lambda item, by: (((item.what,), 1.0),),
    ),
)
