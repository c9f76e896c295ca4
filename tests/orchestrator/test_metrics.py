"""Metrics: one table, numbers that follow from events, and a text that Prometheus reads."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families as families

from orchestrator.events.common import Serving, Unknown
from orchestrator.events.delivery import (
    KeyCallerTurnedAway,
    KeyRequestAnswered,
    KeysDelivered,
    KeyServerFault,
    KeysRefused,
)
from orchestrator.events.inside import Heartbeat, HubLink, Judged, Told
from orchestrator.events.learning import ClientState
from orchestrator.events.status import Alarm, BlockReport, LaneStock, LeaseStatus, Ready, RingStatus, Stock
from orchestrator.metrics.book import LABELS_KEPT, Metrics
from orchestrator.metrics.exposition import Exposition
from orchestrator.metrics.learning import CLIENT_PHASES
from orchestrator.metrics.readiness import unready
from orchestrator.metrics.rows import OTHER, Metric, Names, one
from orchestrator.metrics.table import TABLE, MetricsError, checked
from orchestrator.wire.links import LinkState

NAMES = Names(
    ("alice", "bob", "carol"),
    frozenset(("alice", "bob", "carol", "relay", "orchestrator")),
    frozenset(("mask", "auth_ab")),
    frozenset(("laser",)),
)
BLOCK = BlockReport(1, 7, "alice", "bob", True, secret_bits=5000, sifted_bits=9000, light_s=2.5, qber=0.0213)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def book(role: str = "alice", clock: Any = None) -> Metrics:
    return Metrics(role, NAMES, clock=clock or Clock())


def said(metrics: Metrics) -> dict[str, dict[tuple[str, ...], float]]:
    return {metric.name: samples for metric, samples in metrics.samples()}


def kinds_told() -> Iterator[type]:
    todo: list[Any] = [Told]
    while todo:
        each = todo.pop()
        if isinstance(each, type):
            yield each
        else:
            todo += get_args(each)


def test_every_metric_comes_from_an_event_that_a_process_is_told() -> None:
    assert {metric.source for metric in TABLE} <= {*kinds_told(), Unknown}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"name": "qunetlab_stock_bits"}, "is there twice"),
        ({"name": "qunetlab_x_ms", "unit": "ms"}, "no base unit"),
        ({"name": "qunetlab_x", "unit": "seconds"}, "does not end in its unit"),
        ({"name": "qunetlab_x", "kind": "adds"}, "ends in _total"),
        ({"name": "qunetlab_x_total", "kind": "gauge"}, "ends in _total"),
    ],
)
def test_a_name_against_the_rules_is_refused(changed: dict[str, Any], why: str) -> None:
    row = replace(Metric("qunetlab_x", "gauge", "", "", (), Ready, one(lambda _: 1)), **changed)
    with pytest.raises(MetricsError, match=why):
        checked([*TABLE, row])


def test_a_gauge_is_the_latest_word_and_nothing_of_the_one_before() -> None:
    metrics = book()
    metrics.tell(Stock([LaneStock("bob", "mask", 500), LaneStock("carol", "mask", 700)]))
    metrics.tell(Stock([LaneStock("bob", "mask", 400)]))
    assert said(metrics)["qunetlab_stock_bits"] == {("alice", "alice-bob", "mask"): 400.0}


def test_a_block_counts_once_however_often_it_is_told_and_only_by_its_first() -> None:
    first, second = book("alice"), book("bob")
    for metrics in (first, second):
        metrics.tell(BLOCK)
        metrics.tell(BLOCK)
    assert said(first)["qunetlab_secret_bits_total"] == {("alice", "alice-bob"): 5000.0}
    assert said(first)["qunetlab_light_seconds_total"] == {("alice", "alice-bob"): 2.5}
    assert not said(second).get("qunetlab_secret_bits_total")
    assert said(second)["qunetlab_block_qber_ratio"] == {("bob", "alice-bob"): 0.0213}
    first.tell(msgspec.structs.replace(BLOCK, lease_number=8, secret_bits=1000))
    assert said(first)["qunetlab_secret_bits_total"] == {("alice", "alice-bob"): 6000.0}


def test_counters_begin_at_zero_before_their_first_word() -> None:
    metrics = book()
    metrics.begin(BlockReport(0, 0, "alice", "bob", False))
    told = said(metrics)
    assert told["qunetlab_secret_bits_total"] == {("alice", "alice-bob"): 0.0}
    assert set(told["qunetlab_blocks_total"].values()) == {0.0}
    assert "qunetlab_block_qber_ratio" not in told
    metrics.tell(BLOCK)
    assert said(metrics)["qunetlab_secret_bits_total"] == {("alice", "alice-bob"): 5000.0}


def test_blocks_are_counted_by_what_became_of_them() -> None:
    metrics = book()
    metrics.tell(BLOCK)
    lost = BlockReport(1, 8, "alice", "bob", False, reason='"} 1\nqunetlab_up 0', cause="verification")
    metrics.tell(lost)
    counted = said(metrics)["qunetlab_blocks_total"]
    assert {outcome for (_, _, outcome), n in counted.items() if n} == {"stored", "verification"}


def test_alarms_of_a_kind_add_up_and_one_that_is_over_is_none() -> None:
    metrics = book("relay")
    for part in ("D1", "D2"):
        metrics.tell(Alarm("detector-rate", "too bright", part=part, severity="major"))
    standing = ("relay", "detector-rate", "major", "standing")
    assert said(metrics)["qunetlab_alarms"] == {standing: 2.0}
    metrics.tell(Alarm("detector-rate", "too bright", part="D1", severity="major", on=False))
    metrics.tell(Alarm("detector-rate", "too bright", part="D2", severity="major", shelved_s=60.0))
    shelved = ("relay", "detector-rate", "major", "shelved")
    assert said(metrics)["qunetlab_alarms"] == {standing: 0.0, shelved: 1.0}


def test_ages_go_on_between_words() -> None:
    clock = Clock()
    metrics = book("orchestrator", clock)
    metrics.tell(RingStatus("free", 12.0))
    clock.now_s += 3.0
    assert said(metrics)["qunetlab_ring_phase_seconds"] == {("orchestrator",): 15.0}


def test_no_text_of_a_peer_becomes_a_label() -> None:
    metrics = book("orchestrator")
    evil = 'x",y="1'
    metrics.tell(LeaseStatus(1, 1, "alice", "mallory", True), "orchestrator")
    metrics.tell(Stock([LaneStock("mallory", "lane_of_mine", 1)]), "alice")
    metrics.tell(Heartbeat("mallory", 1.0))
    metrics.tell(Unknown(evil, evil))
    metrics.tell(ClientState("alice", 1, evil, evil))
    metrics.tell(Alarm("store", evil, part=evil))
    page = Exposition(metrics).page()[1].decode()
    assert "mallory" not in page
    assert "lane_of_mine" not in page
    assert "x\\" not in page
    assert f'pair="{OTHER}"' in page
    assert list(families(page))


def test_an_application_of_any_name_is_a_label_that_prometheus_reads_back() -> None:
    metrics = book()
    name = 'app "of"\\\n{x="1"} 1\n# EOF\nqunetlab_up 0 ü'
    metrics.tell(KeysDelivered(name, "bob", 1, 256, "master"))
    metrics.tell(KeysRefused("", "caller", "master"))
    text = Exposition(metrics).page()[1].decode()
    found = {each.name: each for each in families(text)}
    (sample,) = found["qunetlab_keys_delivered"].samples
    assert sample.labels == {"role": "alice", "sae": name, "pair": "alice-bob", "side": "master"}
    (refused,) = found["qunetlab_key_requests_refused"].samples
    assert refused.labels["sae"] == OTHER
    assert "qunetlab_up" not in found


def test_label_sets_of_a_counter_are_bounded() -> None:
    metrics = book()
    for number in range(LABELS_KEPT + 10):
        metrics.tell(KeysDelivered(f"app{number}", "bob", 1, 256, "master"))
    assert len(said(metrics)["qunetlab_keys_delivered_total"]) == LABELS_KEPT


def test_keys_are_counted_per_application() -> None:
    metrics = book()
    metrics.tell(KeysDelivered("app1", "bob", 3, 768, "master"))
    metrics.tell(KeysDelivered("app1", "bob", 3, 768, "master"))
    metrics.tell(KeysRefused("app1", "quota", "master"))
    told = said(metrics)
    assert told["qunetlab_keys_delivered_bits_total"] == {("alice", "app1", "alice-bob", "master"): 1536.0}
    assert told["qunetlab_key_requests_refused_total"] == {("alice", "app1", "quota", "master"): 1.0}


def test_requests_over_https_and_whoever_was_turned_away_are_counted() -> None:
    metrics = book()
    metrics.tell(KeyRequestAnswered("app1", "GET", "status", "app2", 200, 0, 0.001))
    metrics.tell(KeyRequestAnswered("app1", "GET", "", "", 404, 0, 0.001))
    metrics.tell(KeyCallerTurnedAway("10.0.0.2", "certificate in use at another address", "app1", "10.0.0.1"))
    metrics.tell(KeyServerFault("the desk", "OSError"))
    told = said(metrics)
    assert told["qunetlab_key_https_requests_total"] == {
        ("alice", "none", "404"): 1.0,
        ("alice", "status", "200"): 1.0,
    }
    assert told["qunetlab_key_callers_turned_away_total"] == {
        ("alice", "certificate in use at another address"): 1.0
    }
    assert told["qunetlab_key_server_faults_total"] == {("alice", "the desk"): 1.0}


def test_a_source_that_fails_is_left_out_and_counted() -> None:
    metrics = book()

    def broken() -> Iterator[Heartbeat]:
        yield Heartbeat("bob", 1.0)
        raise OSError("no disk")

    metrics.ask(broken, lambda: [Heartbeat("carol", 2.0)])
    page = Exposition(metrics).page()[1].decode()
    assert 'qunetlab_heartbeat_age_seconds{peer="carol",role="alice"} 2.0' in page
    assert 'qunetlab_metrics_failures_total{role="alice"} 1.0' in page


def test_what_was_forgotten_is_shown_once_it_is_said_again_and_never_counted_twice() -> None:
    metrics = book("observer")
    metrics.tell(BLOCK, "alice")
    metrics.forget()
    assert "qunetlab_block_qber_ratio" not in said(metrics)
    metrics.tell(BLOCK, "alice")
    assert said(metrics)["qunetlab_block_qber_ratio"] == {("alice", "alice-bob"): 0.0213}
    assert said(metrics)["qunetlab_secret_bits_total"] == {("alice", "alice-bob"): 5000.0}


def test_the_page_is_what_prometheus_reads_with_types_and_the_process_itself() -> None:
    metrics = book()
    metrics.tell(BLOCK)
    metrics.tell(Serving(version="0.1.0"))
    content_type, text = Exposition(metrics).page()
    assert content_type.startswith("text/plain; version=")
    found = {family.name: family for family in families(text.decode())}
    assert found["qunetlab_blocks"].type == "counter"
    assert found["qunetlab_block_qber_ratio"].type == "gauge"
    assert found["qunetlab_build_info"].samples[0].labels == {"role": "alice", "version": "0.1.0"}
    assert {"process_cpu_seconds", "process_resident_memory_bytes", "process_open_fds"} <= set(found)
    assert Exposition(metrics).page("application/openmetrics-text")[1].endswith(b"# EOF\n")


def test_readiness_says_what_is_missing() -> None:
    metrics = book()
    assert unready(metrics) == ("it has not started to serve",)
    metrics.tell(Serving())
    assert unready(metrics) == ()
    metrics.tell(HubLink(LinkState.UNREACHABLE))
    metrics.tell(Ready(False, "laser does not answer", ("laser",)))
    assert unready(metrics) == (
        "no link to the hub: nothing listens at the address",
        "it can take no lease: laser does not answer",
    )
    metrics.tell(HubLink(LinkState.UP))
    metrics.tell(Ready(True))
    assert unready(metrics) == ()


def test_the_states_of_clients_are_those_of_the_rounds() -> None:
    from fl.rounds.messages import Phase

    assert set(get_args(Phase)) <= set(CLIENT_PHASES)


def test_the_verdict_is_one_state() -> None:
    metrics = book("observer")
    metrics.tell(Judged("degraded"))
    told = said(metrics)
    assert told["qunetlab_up"] == {("observer",): 1.0}
    assert {state for (_, state), on in told["qunetlab_state"].items() if on} == {"degraded"}


def test_the_page_of_metrics_is_what_the_table_says() -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    script = runpy.run_path(str(docs / "scripts" / "metrics.py"))
    published = (docs / "metrics.md").read_text(encoding="utf-8")
    assert published == script["page"](), "python docs/scripts/metrics.py writes it anew"
