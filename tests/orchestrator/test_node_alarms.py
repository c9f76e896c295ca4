"""The alarms of a node: told once when they begin, once when they are over, and again to a new listener."""

from __future__ import annotations

import queue
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.runs.demo import event_warnings
from lab.runs.supervising.supervised import Run
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed
from orchestrator.events.status import Alarm
from orchestrator.keystore.lanes import AUTH_ALARM_BITS
from orchestrator.keystore.pair_macs import MAC_KEY_BITS
from orchestrator.keystore.pair_secret import PairSecret
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.processes.node import Node
from orchestrator.processes.node_alarms import AlarmBook, AlarmWatch, standing_alarms
from orchestrator.processes.node_control import NodeControl
from orchestrator.processes.pair_worker import LowWater
from orchestrator.scheduling.fencing import Fence
from orchestrator.wire.control_socket import Keys, ShowKeys
from orchestrator.wire.links import LinkState

FULL = 65536 - MAC_KEY_BITS


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    with KeyStore.create(tmp_path / "alice.sqlite", "alice", Kek(bytes(32))) as made:
        for peer in ("bob", "carol"):
            secret = PairSecret.draw("alice", peer)
            made.install_initial_secret(peer, secret.auth_ab, secret.auth_ba, pair_end="first")
        yield made


def nobody_waits(peer: str) -> None:
    return None


def test_a_lane_below_the_mark_a_pair_that_waits_and_an_uncut_log_are_alarms(store: KeyStore) -> None:
    assert standing_alarms(store, nobody_waits) == []
    why = "alice stays in the ring: the launch is open"
    assert standing_alarms(store, nobody_waits, why) == [Alarm("intensity", why)]
    store.auth("bob").take_outgoing(FULL - AUTH_ALARM_BITS + 1)
    (low,) = standing_alarms(store, nobody_waits)
    assert (low.name, low.peer, low.on) == ("low-water", "bob", True)
    assert "auth_ab below 16384 bits" in low.text
    assert "qunetlab keys reseed alice-bob --new" in low.text
    waits = LowWater("bob", "auth_ab", 5000)
    store._core.uncut = "disk full"
    names = [
        (alarm.name, alarm.peer)
        for alarm in standing_alarms(store, {"bob": waits, "carol": None}.__getitem__)
    ]
    assert names == [("low-water", "bob"), ("waits-for-operator", "bob"), ("store", None)]


def test_a_peer_that_left_the_testbed_hides_no_other(store: KeyStore) -> None:
    """Its keys lie in the store still; nobody works with it, so none of its meetings wait."""
    testbed = load_testbed(template_path("simulated-reference"))
    for peer in ("dave", "zoe"):
        secret = PairSecret.draw("alice", peer)
        store.install_initial_secret(peer, secret.auth_ab, secret.auth_ba, pair_end="first")
    agent = SimpleNamespace(peers=())
    node = Node(testbed, "alice", SimpleNamespace(), store, agent, Fence(), lambda event: None)  # type: ignore[arg-type]
    assert set(node.workers) < set(store.peers())
    assert standing_alarms(store, node.waits_why) == []
    control = NodeControl(testbed, store, node.workers, SimpleNamespace())  # type: ignore[arg-type]
    shown = control(ShowKeys())
    assert isinstance(shown, Keys)
    assert {pair.peer: pair.waits for pair in shown.pairs} == dict.fromkeys(store.peers(), False)


def test_a_renewed_pair_ends_its_alarm(store: KeyStore) -> None:
    book = AlarmBook()
    store.auth("bob").take_outgoing(FULL - 4096)
    (begun,) = book.changes(standing_alarms(store, nobody_waits))
    assert begun.on
    assert book.changes(standing_alarms(store, nobody_waits)) == []
    assert book.standing() == [begun]
    secret = PairSecret.draw("alice", "bob")
    name = store.generations.keep("bob", secret.auth_ab, secret.auth_ba)
    store.generations.begin("bob", name, 1)
    assert book.changes(standing_alarms(store, nobody_waits)) == [Alarm("low-water", "", "bob", on=False)]
    assert book.standing() == []


def test_alarms_that_are_on_at_the_end_stand_on_the_page_of_a_demo() -> None:
    run: Any = SimpleNamespace(alarms={}, unknown=Counter())
    for alarm in (
        Alarm("low-water", "low", "bob"),
        Alarm("low-water", "low", "carol"),
        Alarm("low-water", "", "carol", on=False),
        Alarm("store", "full"),
    ):
        Run.note(run, "alice", alarm)
    assert event_warnings(run) == [
        "ALARM of alice with bob: low-water: low",
        "ALARM of alice: store: full",
    ]


def test_a_hub_that_comes_anew_is_told_what_is_on(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.processes.node_alarms.EVERY_S", 0.001)
    told: queue.SimpleQueue[Alarm] = queue.SimpleQueue()
    events: list[Any] = []
    agent = SimpleNamespace(link_state=LinkState.UP, control_send=told.put)
    watch = AlarmWatch(agent, store, nobody_waits, events.append)  # type: ignore[arg-type]
    store.auth("bob").take_outgoing(FULL - 4096)
    watch.start()
    first = told.get(timeout=10)
    watch.new_listener()
    assert told.get(timeout=10) == first
    watch.close()
    assert told.empty()
    assert events == [first]
