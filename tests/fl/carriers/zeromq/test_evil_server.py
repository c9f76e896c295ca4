"""A dishonest learning server against unchanged clients: no two sums that it gets differ by one client's update.

Without consent a server recovered every single update: it ran the same round twice, once without the victim, and
subtracted.  Each of its ways is tried here; the node's key is untouched whenever it is refused.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from fl.carriers.zeromq.client import run_client
from fl.carriers.zeromq.client_connections import ClientConnections
from fl.carriers.zeromq.round_server import RoundServer
from fl.rounds.choices import OWN_CHOICES, OwnChoices
from fl.rounds.client_rules import ClientRefusesError, ClientRules
from fl.rounds.following import next_model
from fl.rounds.messages import (
    PROTOCOL_VERSION,
    Decline,
    Join,
    Progress,
    Ready,
    RoundEnd,
    Upload,
    Welcome,
    read_uint8,
)
from fl.rounds.run_state import load_array
from fl.workloads.base import Examples
from orchestrator.delivery.errors import OtherTermsError
from orchestrator.events.learning import RoundAborted

THREE = ("alice", "bob", "charlie")


def honest_round(world: Any, server: Any) -> np.ndarray:
    """Round 1 as it should be: its sum."""
    for name in world.names:
        server.welcome(name)
    for name in world.names:
        server.start(name, 1, world.names)
    uploads = {}
    for name in world.names:
        message, buffer = server.expect(Upload, name)
        uploads[name] = read_uint8(message.header, buffer or b"")
    return world.aggregation().total(world.names, uploads, {})


def spent(world: Any) -> tuple[int, dict[frozenset[str], int]]:
    return len(world.network.released), dict(world.network.stock)


ANNOUNCED: dict[str, dict[str, Any]] = {
    "a second run": {"run_id": "run-2"},
    "a second run without the victim": {"run_id": "run-2", "clients": THREE},
    "another seed": {"run_id": "run-2", "seed": 4},
    "another seed of the same run": {"seed": 4},
    "other weights": {"weights": (1, 1, 1, 2), "ring_width": 11},
    "another clip": {"clip": 0.5},
    "other levels": {"levels": 31},
    "another share of the values": {"keep": 0.5},
    "more rounds": {"rounds": 9},
}


@pytest.mark.parametrize("what", ANNOUNCED)
def test_a_run_that_was_not_consented_to_gets_nothing(world: Any, server: Any, what: str) -> None:
    """After an honest round the server opens the run that would tell the difference, to new and old connections."""
    world.settings(rounds=5)
    honest_round(world, server)
    before, described = spent(world), world.described()
    world.settings(**ANNOUNCED[what])
    for name in THREE:
        world.stop(name)
        world.start_client(name, consents=False)
        server.expect(Join, name)
        server.send(name, Welcome(PROTOCOL_VERSION, world.announced))
        error = world.outcome(name)
        assert isinstance(error, ClientRefusesError), error
        assert "qunetlab fl consent" in str(error)
        assert world.described().name in str(error)
        (offered,) = world.book(name).folder.glob("offered-*")
        assert str(offered) in str(error)
    assert described != world.described()
    assert spent(world) == before


@pytest.mark.parametrize(
    "changes",
    [{"mode": "expanded"}, {"mode": "lightsecagg"}, {"mode": "lightsecagg", "colluders": 2, "survivors": 4}],
)
def test_another_mode_needs_a_consent_of_its_own_even_where_the_client_would_take_part(
    world: Any, server: Any, changes: dict[str, Any]
) -> None:
    world.consent("alice")
    world.settings(run_id="run-2", **changes)
    with pytest.raises(OtherTermsError, match="--accept-leak test"):
        world.book("alice").give("alice", world.described())
    world.start_client("alice", consents=False, rules=ClientRules(mode=changes["mode"]))
    server.expect(Join, "alice")
    server.send("alice", Welcome(PROTOCOL_VERSION, world.announced))
    assert isinstance(world.outcome("alice"), ClientRefusesError)
    assert world.network.asked == {}


def declined(server: Any, names: Sequence[str]) -> set[str]:
    return {server.expect(Decline, name)[0].reason for name in names}


def test_within_the_run_only_the_next_model_that_follows_is_trained_from(world: Any, server: Any) -> None:
    """Round 2 without a victim, from a model one ulp away, from the first model, and round 1 once more: nothing."""
    total = honest_round(world, server)
    first = world.server_task.initial_parameters(0)
    follows = next_model(world.announced, first, total, world.names, 1)
    before = spent(world)
    one_ulp = follows.copy()
    one_ulp[3] = np.nextafter(one_ulp[3], np.float32(9))
    for name in world.names:
        server.start(name, 2, world.names, model=follows)
    assert all("does not follow" in why for why in declined(server, world.names)), "no sum is published yet"
    server.publish(1, total, world.names)
    for name in world.names:
        server.send(name, RoundEnd("test", 1, survivors=world.names))
    for number, model in ((2, one_ulp), (3, first), (4, follows + 1)):
        for name in world.names:
            server.start(name, number, world.names, model=model)
        assert all("does not follow" in why for why in declined(server, world.names))
    for name in THREE:
        server.start(name, 5, THREE, model=follows)
    assert all("leaves out dora" in why for why in declined(server, THREE))
    for name in world.names:
        server.start(name, 1, world.names, model=follows)
    assert all("used once" in why for why in declined(server, world.names))
    assert spent(world) == before
    for name in world.names:
        server.start(name, 6, world.names, model=follows)
    for name in world.names:
        server.expect(Upload, name)


def test_a_sum_that_cannot_be_one_moves_no_model(world: Any, server: Any) -> None:
    total = honest_round(world, server)
    first = world.server_task.initial_parameters(0)
    impossible = total.copy()
    impossible[0] = 4 * 127 + 1
    server.publish(1, impossible, world.names)
    server.publish(1, total, THREE)
    world.wait_for(
        lambda: sum(each.phase == "sum refused" for each in world.client_events) == 8, "eight refusals"
    )
    assert all(world.book(name).position(world.aggregation().run) is None for name in world.names)
    for name in world.names:
        server.send(name, RoundEnd("test", 1, "came to nothing"))
        server.start(name, 2, world.names, model=first)
    for name in world.names:
        server.expect(Upload, name)


def test_a_client_that_lost_its_place_is_caught_up_with_the_sums_it_missed(world: Any) -> None:
    """dora stops after round 2 and comes back without her position: she works the model out from the first."""
    world.settings(rounds=4)
    for pair in world.network.stock:
        world.network.stock[pair] = 2 * 370
    world.start_all()
    world.wait_for(lambda: len(world.rounds_done()) == 2, "two rounds")
    world.stop("dora")
    (place,) = world.book("dora").folder.glob("position-*")
    place.unlink()
    world.start_client("dora")
    world.network.add_stock(10**6)
    records = world.finish()
    assert {record.participants for record in records} == {world.names}
    position = world.book("dora").position(world.aggregation().run)
    assert position.completed == 4
    assert position.model == load_array(world.out_dir, "model", records[-1].round).tobytes()


def test_a_client_that_missed_a_sum_asks_for_it(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message never came: round 2 is declined, not trained from a model that the client does not know."""
    send_sum, lost = RoundServer._send_sum, []

    def loses_one(server: RoundServer, name: str, *arguments: Any, **options: Any) -> None:
        if name == "dora" and not lost:
            lost.append(name)
            return
        send_sum(server, name, *arguments, **options)

    monkeypatch.setattr(RoundServer, "_send_sum", loses_one)
    world.settings(rounds=2)
    world.start_all()
    records = world.finish()
    assert [record.round for record in records] == [1, 3]
    (aborted,) = world.of(RoundAborted)
    assert "dora declined: the model of round 2 does not follow" in aborted.record.reason


def test_what_a_client_decides_for_itself_comes_from_its_own_machine(world: Any) -> None:
    """The same server, seed and model twice: another order of examples and another rounding each time."""
    assert inspect.signature(run_client).parameters["choices"].default is OWN_CHOICES
    world.settings(rounds=1)
    sums = []
    for run in ("one", "two"):
        world.out_dir = world.folder / run
        world.settings(run_id=run)
        world.start_all(choices=OwnChoices())
        world.finish()
        sums.append(load_array(world.out_dir, "aggregate", 1))
    assert np.count_nonzero(sums[0] != sums[1]) > 30
    drawn = {OwnChoices().training(1, 0) for _ in range(50)}
    assert len(drawn) == 50
    assert {each[1:] for each in drawn} == {(1, 0)}
    assert OwnChoices().rounding(1, 0).random() != OwnChoices().rounding(1, 0).random()


def test_no_count_of_examples_and_no_loss_is_told_in_the_clear(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []
    receive = ClientConnections.receive

    def listening(connections: ClientConnections) -> Any:
        received = receive(connections)
        if received is not None:
            heard.append(received[1])
        return received

    monkeypatch.setattr(ClientConnections, "receive", listening)
    world.settings(rounds=1)
    data = Examples(np.zeros((4711, 1), np.float32), np.zeros(4711, np.int64))
    for task in world.tasks.values():
        monkeypatch.setattr(task, "client_data", lambda *_: data)
        task.held_rounds = {1}
    world.start_all()
    world.wait_for(
        lambda: {each.client for each in world.client_events if each.phase == "training"} == set(world.names),
        "everybody saying that it trains",
    )
    for task in world.tasks.values():
        task.go_on.set()
    world.finish()
    told = [each.detail for each in heard if isinstance(each, Progress)]
    assert not any("4711" in detail for detail in told), told
    assert {type(each).__name__ for each in heard} == {"Join", "Ready", "Progress", "Upload", "Leave"}
    fields = {name for each in heard for name in msgspec.structs.asdict(each)}
    assert not any("loss" in name or "example" in name for name in fields - {"losses"}), fields


@pytest.mark.parametrize("victim", range(4))
def test_the_attack_of_two_runs_tells_no_update(
    world: Any, victim: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The server runs honestly with all, then again under its own rules without the victim: nobody takes part."""
    caplog.set_level(logging.ERROR)
    world.settings(rounds=1)
    world.start_all()
    world.finish()
    everybody, key = load_array(world.out_dir, "aggregate", 1), spent(world)
    without = tuple(name for index, name in enumerate(world.names) if index != victim)
    world.out_dir = world.folder / "second"
    world.settings(run_id="second", clients=without)
    world.start_server()
    for name in without:
        world.start_client(name, consents=False)
    for name in without:
        assert isinstance(world.outcome(name), ClientRefusesError)
    assert everybody.any()
    assert world.rounds_done() == [1]
    assert spent(world) == key
    assert world.stop("server") == ()


def test_ready_says_how_far_a_client_is_and_nothing_of_its_data(world: Any, server: Any) -> None:
    world.start_client("alice")
    server.expect(Join, "alice")
    server.send("alice", Welcome(PROTOCOL_VERSION, world.announced))
    ready, _ = server.expect(Ready, "alice")
    assert ready == Ready("test", 37, "ec70", 0)
