"""Time that training stood still, charged to its cause."""

from __future__ import annotations

from fl.experiments.results import Stall
from lab.runs.following.stalls import StallWatch, merged
from orchestrator.events.status import PeerStatus

CLIENTS = ("alice", "bob", "carol")
ALL = ("relay", *CLIENTS)


def present(w: StallWatch, roles: tuple[str, ...], now_s: float) -> None:
    for role in ALL:
        w.peer(PeerStatus(role, role in roles), now_s)


def broken(w: StallWatch, role: str, instrument: str, now_s: float) -> None:
    w.peer(PeerStatus(role, True, False, f"{instrument}: no answer", (instrument,)), now_s)


def watch() -> StallWatch:
    return StallWatch(CLIENTS, 0.0)


def test_a_run_that_moves_has_no_stalls() -> None:
    w = watch()
    w.moving(1.0)
    present(w, ALL, 2.0)
    broken(w, "relay", "laser", 3.0)  # nobody waits for key meanwhile
    w.moving(10.0)
    assert w.stalls() == ()
    assert w.cause is None


def test_waiting_is_charged_to_the_pairs_that_the_clients_name() -> None:
    w = watch()
    w.waiting_for_keys("bob", "too little key: 100 bits with alice missing", 1.0)
    assert w.cause == "waiting for keys: alice-bob"
    w.waiting_for_keys("carol", "too little key: 100 bits with alice, 7 bits with bob missing", 2.0)
    assert w.cause == "waiting for keys: alice-bob, alice-carol, bob-carol"
    w.moving(4.0)
    (stall,) = w.stalls()
    assert (stall.cause, stall.seconds) == ("waiting for keys", 3.0)
    assert stall.because_of == {"alice-bob": 3.0, "alice-carol": 2.0, "bob-carol": 2.0}


def test_a_failed_instrument_is_the_cause_until_a_lease_is_good_again() -> None:
    w = watch()
    w.waiting_for_keys("bob", "with alice", 0.0)
    broken(w, "relay", "detectors", 1.0)
    assert w.cause == "instrument fault: detectors"
    w.waiting_for_keys("bob", "with alice", 2.0)
    w.lease(False, 3.0)
    assert w.cause == "instrument fault: detectors"
    w.lease(True, 3.5)
    assert w.cause == "waiting for keys: alice-bob"
    w.moving(4.0)
    assert {s.cause: s.seconds for s in w.stalls()} == {
        "instrument fault": 2.5,
        "waiting for keys": 1.5,
    }
    assert w.stalls()[0].because_of == {"detectors": 2.5}


def test_a_process_that_is_away_comes_before_instruments() -> None:
    w = watch()
    w.waiting_for_keys("bob", "with alice", 0.0)
    broken(w, "relay", "laser", 0.0)
    w.peer(PeerStatus("relay", False), 0.0)
    assert w.cause == "peer away: relay"
    present(w, ALL, 2.0)
    assert w.cause == "instrument fault: laser"


def test_missing_clients_are_named() -> None:
    w = watch()
    w.missing_clients(("carol",), 1.0)
    w.missing_clients(("carol",), 5.0)
    w.moving(6.0)
    assert w.stalls() == (Stall("waiting for clients", 5.0, {"carol": 5.0}),)


def test_a_wait_that_is_not_renewed_is_over() -> None:
    w = watch()
    w.waiting_for_keys("bob", "with alice", 0.0)
    w.advance(2.0)
    assert w.cause is not None
    w.advance(3.5)
    assert w.cause is None
    w.advance(60.0)
    assert sum(stall.seconds for stall in w.stalls()) == 3.5


def test_stalls_of_two_attempts_add_up() -> None:
    assert merged([Stall("a", 1.0, {"x": 1.0}), Stall("b", 5.0)], [Stall("a", 7.0, {"x": 2.0})]) == (
        Stall("a", 8.0, {"x": 3.0}),
        Stall("b", 5.0),
    )
