"""Time that training stood still, charged to its cause."""

from __future__ import annotations

from fl.experiments.results import Stall, StallPart
from lab.runs.following.stalls import StallWatch, merged
from orchestrator.events.learning import WaitingForKeys
from orchestrator.events.status import PeerStatus

CLIENTS = ("alice", "bob", "carol")
ALL = ("relay", *CLIENTS)


def present(w: StallWatch, roles: tuple[str, ...], now_s: float) -> None:
    for role in ALL:
        w.peer(PeerStatus(role, role in roles), now_s)


def broken(w: StallWatch, role: str, instrument: str, now_s: float) -> None:
    w.peer(PeerStatus(role, True, False, f"{instrument}: no answer", (instrument,)), now_s)


def wait(w: StallWatch, client: str, *peers: str, now_s: float) -> None:
    w.waiting_for_keys(WaitingForKeys(1, client, dict.fromkeys(peers, 100), "in words", None), now_s)


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
    wait(w, "bob", "alice", now_s=1.0)
    assert w.cause == "waiting for keys: alice-bob"
    wait(w, "carol", "alice", "bob", now_s=2.0)
    assert w.cause == "waiting for keys: alice-bob, alice-carol, bob-carol"
    w.moving(4.0)
    (stall,) = w.stalls()
    assert (stall.cause, stall.seconds) == ("waiting for keys", 3.0)
    assert {part.names: part.seconds for part in stall.parts} == {
        ("alice", "bob"): 3.0,
        ("alice", "carol"): 2.0,
        ("bob", "carol"): 2.0,
    }


def test_pairs_whose_joined_names_are_the_same_are_charged_apart() -> None:
    """Users a, a-b, b-c, c: the pairs (a, b-c) and (a-b, c) both read "a-b-c", and "a" is part of "a-b"."""
    w = StallWatch(("a", "a-b", "b-c", "c"), 0.0)
    wait(w, "b-c", "a", now_s=0.0)
    w.moving(1.0)
    wait(w, "c", "a-b", now_s=1.0)
    assert w.pairs == (("a-b", "c"),)
    w.moving(3.0)
    assert w.stalls()[0].parts == (StallPart(("a-b", "c"), 2.0), StallPart(("a", "b-c"), 1.0))


def test_a_client_whose_node_does_not_answer_is_the_cause_itself() -> None:
    w = watch()
    wait(w, "bob", now_s=0.0)
    assert w.cause == "waiting for keys: bob"


def test_a_failed_instrument_is_the_cause_until_a_lease_is_good_again() -> None:
    w = watch()
    wait(w, "bob", "alice", now_s=0.0)
    broken(w, "relay", "detectors", 1.0)
    assert w.cause == "instrument fault: detectors"
    wait(w, "bob", "alice", now_s=2.0)
    w.lease(False, 3.0)
    assert w.cause == "instrument fault: detectors"
    w.lease(True, 3.5)
    assert w.cause == "waiting for keys: alice-bob"
    w.moving(4.0)
    assert {s.cause: s.seconds for s in w.stalls()} == {
        "instrument fault": 2.5,
        "waiting for keys": 1.5,
    }
    assert w.stalls()[0].parts == (StallPart(("detectors",), 2.5),)


def test_a_process_that_is_away_comes_before_instruments() -> None:
    w = watch()
    wait(w, "bob", "alice", now_s=0.0)
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
    assert w.stalls() == (Stall("waiting for clients", 5.0, (StallPart(("carol",), 5.0),)),)


def test_a_wait_that_is_not_renewed_is_over() -> None:
    w = watch()
    wait(w, "bob", "alice", now_s=0.0)
    w.advance(2.0)
    assert w.cause is not None
    w.advance(3.5)
    assert w.cause is None
    w.advance(60.0)
    assert sum(stall.seconds for stall in w.stalls()) == 3.5


def test_stalls_of_two_attempts_add_up() -> None:
    def stall(seconds: float, of_x: float) -> Stall:
        return Stall("a", seconds, (StallPart(("x",), of_x),))

    assert merged([stall(1.0, 1.0), Stall("b", 5.0)], [stall(7.0, 2.0)]) == (stall(8.0, 3.0), Stall("b", 5.0))
