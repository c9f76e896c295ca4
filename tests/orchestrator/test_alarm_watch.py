"""The alarms of running roles: where values come from, and who is told what and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drivers.catalogue import create_instrument
from lab.alarms.book import AlarmBook, Observed
from lab.alarms.table import TABLE, table_with
from lab.calibration.book import Book, Value, book_path, now, write_book
from lab.calibration.current import CurrentTestbed
from lab.calibration.steps import STEPS, Step
from lab.runs.certificates.making import make_authority, make_certificate, make_key, pem
from lab.runs.demo import event_warnings, over_alarms
from lab.runs.first_contact.against_twin import alone
from lab.runs.supervising.supervised import Run
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed
from orchestrator.delivery.certificates import Holder
from orchestrator.events.status import Alarm
from orchestrator.keystore.lanes import AUTH_ALARM_BITS
from orchestrator.keystore.pair_macs import MAC_KEY_BITS
from orchestrator.keystore.pair_secret import PairSecret
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.store import KeyStore
from orchestrator.processes.alarm_sources import (
    RATES_KEPT,
    BlockErrors,
    DetectorRates,
    Refusals,
    Source,
    of_calibrations,
    of_certificate,
    of_instruments,
    of_station,
    of_store,
)
from orchestrator.processes.alarm_watch import AlarmWatch
from orchestrator.processes.latest_deliveries import LatestDeliveries
from orchestrator.processes.node import Node
from orchestrator.processes.node_control import NodeControl
from orchestrator.processes.pair_worker import LowWater
from orchestrator.scheduling.fencing import Fence
from orchestrator.wall_clock import utc_now
from orchestrator.wire.control_socket import (
    AcknowledgeAlarm,
    Done,
    Keys,
    ShelveAlarm,
    ShowAlarms,
    ShowKeys,
    Standing,
)
from orchestrator.wire.links import LinkState
from sim_backends.bench import Bench

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


def keys(observed: Iterable[Observed]) -> list[tuple[str, str | None]]:
    return [(each.name, each.peer) for each in observed]


def test_a_lane_below_the_mark_a_pair_that_waits_and_an_uncut_log_are_alarms(store: KeyStore) -> None:
    book = AlarmBook("alice", TABLE)
    assert book.observe(of_store(store, nobody_waits)(), 0.0) == []
    why = "alice stays in the ring: the launch is open"
    assert list(of_station(lambda: "")()) == []
    (stays,) = AlarmBook("alice", TABLE).observe(of_station(lambda: why)(), 0.0)
    assert (stays.name, stays.text, stays.severity) == ("intensity", why, "major")
    store.auth("bob").take_outgoing(FULL - AUTH_ALARM_BITS + 1)
    low, high = of_store(store, nobody_waits)()
    assert (high.peer, high.value) == ("carol", FULL)
    assert (low.name, low.peer, low.value) == ("low-water", "bob", AUTH_ALARM_BITS - 1)
    assert low.text.startswith("auth_ab: make key with bob")
    assert "qunetlab keys reseed alice-bob --new" in low.text
    (alarm,) = AlarmBook("alice", TABLE).observe([low, high], 0.0)
    assert (alarm.severity, alarm.condition) == ("minor", "low")
    waits = LowWater("bob", "auth_ab", 5000)
    store._core.uncut = "disk full"
    source = of_store(store, {"bob": waits, "carol": None}.__getitem__)
    assert keys(source())[-2:] == [("waits-for-operator", "bob"), ("store", None)]
    assert keys(source())[:-2] == [("low-water", "bob"), ("low-water", "carol")]


def test_the_testbed_file_says_how_low_is_low(store: KeyStore) -> None:
    earlier = table_with({"low-water": {"low_minor": float(FULL - 99)}}, 1e7, 0.06)
    book, source = AlarmBook("alice", earlier), of_store(store, nobody_waits)
    assert book.observe(source(), 0.0) == []
    store.auth("bob").take_outgoing(128)
    (alarm,) = book.observe(source(), 1.0)
    assert (alarm.peer, alarm.on) == ("bob", True)
    assert "auth_ab: make key with bob" in alarm.text


def test_a_peer_that_left_the_testbed_hides_no_other(store: KeyStore) -> None:
    """Its keys lie in the store still; nobody works with it, so none of its meetings wait."""
    testbed = load_testbed(template_path("simulated-reference"))
    for peer in ("dave", "zoe"):
        secret = PairSecret.draw("alice", peer)
        store.install_initial_secret(peer, secret.auth_ab, secret.auth_ba, pair_end="first")
    agent = SimpleNamespace(peers=())
    node = Node(testbed, "alice", SimpleNamespace(), store, agent, Fence(), lambda event: None)  # type: ignore[arg-type]
    assert set(node.workers) < set(store.peers())
    assert {each.name for each in of_store(store, node.waits_why)()} == {"low-water"}
    control = NodeControl(testbed, store, node.workers, SimpleNamespace(), node.alarms, LatestDeliveries())  # type: ignore[arg-type]
    shown = control(ShowKeys())
    assert isinstance(shown, Keys)
    assert {pair.peer: pair.waits for pair in shown.pairs} == dict.fromkeys(store.peers(), False)
    assert control(ShowAlarms()) == Standing("alice", [])


def test_a_certificate_that_ends_soon_is_an_alarm_until_it_is_renewed(tmp_path: Path) -> None:
    path, key, at = tmp_path / "kme-cert.pem", make_key(), utc_now()
    book, source = AlarmBook("alice", TABLE), of_certificate(path)
    (unreadable,) = book.observe(source(), 0.0)
    assert (unreadable.name, unreadable.severity) == ("certificate", "invalid")
    book = AlarmBook("alice", TABLE)
    authority = make_authority(key, "ring", at - timedelta(days=400))

    def issued(ago: timedelta) -> None:
        path.write_bytes(
            pem(make_certificate(authority, key, key.public_key(), "alice", Holder.KME, [], at - ago))
        )

    issued(timedelta(days=340))
    (alarm,) = book.observe(source(), 1.0)
    assert (alarm.severity, alarm.condition) == ("minor", "low")
    assert "it expires on" in alarm.text
    issued(timedelta(days=360))
    (alarm,) = book.observe(source(), 2.0)
    assert alarm.severity == "major"
    issued(timedelta())
    assert [alarm.on for alarm in book.observe(source(), 3.0)] == [False]


def test_a_renewed_pair_ends_its_alarm(store: KeyStore) -> None:
    book, source = AlarmBook("alice", TABLE), of_store(store, nobody_waits)
    store.auth("bob").take_outgoing(FULL - 4096)
    (begun,) = book.observe(source(), 0.0)
    assert begun.on
    assert book.observe(source(), 1.0) == []
    assert book.standing(1.0) == [begun]
    secret = PairSecret.draw("alice", "bob")
    name = store.generations.keep("bob", secret.auth_ab, secret.auth_ba)
    store.generations.begin("bob", name, 1)
    assert book.observe(source(), 2.0) == [Alarm("low-water", "", "bob", on=False)]
    assert book.standing(2.0) == []


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
        "minor alarm of alice: low-water with bob: low",
        "minor alarm of alice: store: full",
    ]
    assert over_alarms(run) == ["over before the end: minor alarm of alice: low-water with carol: low"]


class Hub:
    """What an alarm watch needs of an agent."""

    def __init__(self) -> None:
        self.link_state = LinkState.UP
        self.told: list[Alarm] = []

    def control_send(self, alarm: Alarm) -> None:
        self.told.append(alarm)


def watched(*sources: Source) -> tuple[AlarmWatch, Hub, list[Any]]:
    hub, events = Hub(), list[Any]()
    agent: Any = hub
    return AlarmWatch(agent, "alice", TABLE, sources, events.append), hub, events


def test_a_hub_that_comes_anew_is_told_what_is_on(store: KeyStore) -> None:
    watch, hub, events = watched(of_store(store, nobody_waits))
    store.auth("bob").take_outgoing(FULL - 4096)
    watch.look()
    watch.look()
    (first,) = hub.told
    watch.new_listener()
    watch.look()
    assert hub.told == [first, first]
    assert events == [first]


def test_what_changes_while_there_is_no_hub_is_told_to_the_next_one_and_seen_at_the_machine() -> None:
    on = [Observed("store", text="full")]
    watch, hub, events = watched(lambda: on)
    watch.look()
    hub.link_state = LinkState.LOST
    on[:] = [Observed("instrument", part="laser", text="look")]
    watch.look()
    assert len(hub.told) == 1
    assert [(each.name, each.on) for each in events[1:]] == [("store", False), ("instrument", True)]
    listed = watch.answer(ShowAlarms())
    assert isinstance(listed, Standing)
    assert [each.id_of("alice") for each in listed.alarms] == ["alice/instrument/laser"]
    hub.link_state = LinkState.UP
    watch.look()
    assert [(each.name, each.on) for each in hub.told[1:]] == [("store", False), ("instrument", True)]


def test_an_operator_acknowledges_and_shelves_and_everybody_is_told() -> None:
    watch, hub, _ = watched(lambda: [Observed("store", text="full")])
    watch.look()
    assert watch.answer(AcknowledgeAlarm("alice/store")) == Done("alice/store is acknowledged")
    assert watch.answer(ShelveAlarm("alice/store", 60.0)) == Done("alice/store is shelved for 60 s")
    assert [(each.acknowledged, each.shelved_s) for each in hub.told] == [(False, 0), (True, 0), (True, 60)]
    with pytest.raises(ValueError, match="alice has no alarm 'bob/store'; its alarms: alice/store"):
        watch.answer(AcknowledgeAlarm("bob/store"))
    with pytest.raises(ValueError, match="at most 24 hours"):
        watch.answer(ShelveAlarm("alice/store", 1e6))


def test_repeated_tampering_within_an_hour_is_an_alarm_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr("orchestrator.runtime.now", lambda: now_s[0])
    rejected = Counter[str]()
    workers: Any = {"bob": SimpleNamespace(rejected=rejected)}
    watch, hub, _ = watched(Refusals(workers))
    watch.look()
    rejected["wrong tag"] = 2
    watch.look()
    assert hub.told == []
    rejected["replayed"] = 2
    now_s[0] = 10.0
    watch.look()
    (alarm,) = hub.told
    assert (alarm.name, alarm.peer, alarm.severity, alarm.value) == ("tampering", "bob", "minor", 4.0)
    assert "2 x wrong tag, 2 x replayed" in alarm.text
    now_s[0] = 4000.0
    watch.look()
    assert not hub.told[-1].active
    assert hub.told[-1].on, "somebody must have seen it"
    watch.answer(AcknowledgeAlarm("alice/tampering/bob"))
    assert not hub.told[-1].on


def test_the_error_rate_of_the_latest_block_is_watched() -> None:
    errors = BlockErrors()
    watch, hub, _ = watched(errors)
    for qber in (0.007, None, 0.03):
        errors.note("bob", qber)
        watch.look()
    (alarm,) = hub.told
    assert (alarm.name, alarm.peer, alarm.severity, alarm.value) == ("qber", "bob", "minor", 0.03)


def test_dark_counts_are_judged_in_the_dark_alone_and_rates_always(monkeypatch: pytest.MonkeyPatch) -> None:
    lit, now = [True], [(2e5, 2e7)]
    rates = DetectorRates(lambda: now[0], 100.0, lambda: lit[0])
    watch, hub, _ = watched(rates)
    for _ in range(RATES_KEPT):
        rates.read()
    watch.look()
    (bright,) = hub.told
    assert (bright.name, bright.part, bright.severity) == ("detector-rate", "D2", "major")
    lit[0], now[0] = False, (90.0, 5000.0)
    for _ in range(RATES_KEPT - 1):
        rates.read()
    watch.look()
    assert [each.name for each in hub.told] == ["detector-rate"] * 2, "too few readings to judge"
    rates.read()
    watch.look()
    assert (hub.told[-1].name, hub.told[-1].part, hub.told[-1].severity) == ("dark-rate", "D2", "major")


def test_the_age_of_a_calibration_is_watched(tmp_path: Path) -> None:
    path = tmp_path / "testbed.toml"
    path.write_bytes(template_path("simulated-four-node").read_bytes())
    current = CurrentTestbed(path, load_testbed(path))
    ring = current.book().ring
    old = now() - timedelta(hours=1.5 * STEPS[Step.PHASE].valid_h)
    value = Value(value=4.0, uncertainty=0.01, step=Step.PHASE, measured=old)
    write_book(path, Book(ring=ring).with_values("alice", {"v_pi_v": value}))
    watch, hub, _ = watched(of_calibrations(current.book, "alice"))
    watch.look()
    (alarm,) = hub.told
    assert (alarm.name, alarm.part, alarm.severity) == ("calibration-age", "phase", "minor")
    assert "phase is 12 h old and good for 8 h" in alarm.text
    assert list(of_calibrations(current.book, "bob")()) == []
    book_path(path).write_text("no calibration", encoding="utf-8")
    watch.look()
    assert hub.told[-1].severity == "invalid"


def test_temperatures_and_power_are_read_where_instruments_have_them() -> None:
    """A real driver and its twin; an instrument that does not answer makes its values invalid."""
    testbed, entry = alone("nkt-basik")
    with Bench(testbed, only=(entry.name,)) as bench:
        laser: Any = create_instrument("nkt-basik", "laser", bench.addresses[entry.name])
        laser.connect()
        station: Any = SimpleNamespace(instruments=lambda: (laser,))
        source = of_instruments(station)
        (temperature,) = source()
        assert (temperature.name, temperature.part) == ("temperature", "laser")
        assert temperature.value == laser.temperature_c()
        laser.power_mw(2.0)
        laser.emission(True)
        watch, hub, _ = watched(source)
        assert {each.name for each in source()} == {"temperature", "laser-power"}
        twin: Any = bench.twins[entry.name]
        twin.faults.drop_replies(10_000)
        watch.look()
        assert {(each.name, each.severity) for each in hub.told} == {
            ("temperature", "invalid"),
            ("laser-power", "invalid"),
        }
        laser.close()
