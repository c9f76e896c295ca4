"""Clients that vanish, return and are restarted in ``lightsecagg``: the sum is that of those who uploaded.

Four clients, T = 1 and U = 3: one may be missing at every stage.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.carriers.zeromq.link import ServerLink
from fl.modes.lightsecagg import HeldShares
from fl.rounds.answering import Answerer
from fl.rounds.client_rules import ClientRules
from fl.rounds.compression import Compression
from fl.rounds.engine import CollectingRound
from fl.rounds.messages import Leave
from fl.rounds.quantise import quantisation_rng
from fl.rounds.run_state import load_array, read_state
from fl.rounds.selfcheck import check_run
from fl.workloads.base import training_seed
from orchestrator.events.learning import ClientDropped, ClientState, RoundAborted, UploadRefused

MODE = "lightsecagg"
RULES = ClientRules(mode=MODE)
WEIGHTS = (1, 2, 1, 3)


def exact_sum(world: Any, number: int, survivors: tuple[str, ...]) -> np.ndarray:
    """What the weighted values of the survivors add up to, computed from the seeds."""
    config = world.config
    compression = Compression.from_config(config)
    total = np.zeros(37, np.int64)
    for name, weight in zip(survivors, config.weights_of(survivors), strict=True):
        index = config.clients.index(name)
        update = np.random.default_rng(list(training_seed(config.seed, number, index))).normal(0, 0.4, 37)
        rng = quantisation_rng(config.seed, number, index)
        total += weight * compression.quantiser(number).quantise(
            update.astype(np.float32), rng, client=name, round_number=number
        )
    return total


@pytest.fixture
def lightsecagg(world: Any, tmp_path: Path) -> Any:
    world.settings(mode=MODE, weights=WEIGHTS, rounds=3, client_timeout_s=0.6, rejoin_grace_s=0.3)
    world.private = tmp_path / "private"
    return world


def start(world: Any, *names: str) -> None:
    for name in names or world.names:
        world.start_client(name, rules=RULES, self_check_dir=world.private)


def check(world: Any, records: Any) -> None:
    """Every sum is exact over its survivors, by the seeds and by the self-check."""
    for record in records:
        aggregate = load_array(world.out_dir, "aggregate", record.round)
        assert np.array_equal(aggregate, exact_sum(world, record.round, record.survivors)), record
        assert record.weight_sum == sum(world.config.weights_of(record.survivors))
    assert all(each.exact for each in check_run(world.out_dir, world.private))


def test_who_leaves_while_training_is_missing_in_the_sum_only(lightsecagg: Any) -> None:
    world = lightsecagg
    world.tasks["dora"].held_rounds = {2}
    world.start_server()
    start(world)
    assert world.tasks["dora"].holding.wait(20)
    world._stops["dora"].set()
    world.wait_for(lambda: world.of(ClientDropped), "dora being missed")
    world.tasks["dora"].go_on.set()
    records = world.outcome("server")
    assert [record.dropped for record in records] == [(), ("dora",), ()]
    assert [len(record.participants) for record in records] == [4, 4, 3]
    assert records[0].spare_answers in (0, 1), "one more than U is waited for only a moment"
    assert [record.spare_answers for record in records[1:]] == [0, 0], "nobody was left to check by"
    dropped = world.of(ClientDropped)[0]
    assert (dropped.round, dropped.client, dropped.stage) == (2, "dora", "uploading")
    assert "dora left" in dropped.reason
    assert world.of(RoundAborted) == []
    check(world, records)


def test_who_falls_silent_while_training_is_waited_for_no_longer_than_its_time_out(lightsecagg: Any) -> None:
    """Its process hangs: no word, no goodbye.  The late upload is refused, and the next round has it back."""
    world = lightsecagg
    world.settings(rounds=2, round_timeout_s=1.0)
    world.tasks["dora"].held_rounds = {1}
    world.start_server()
    start(world)
    world.wait_for(lambda: world.rounds_done() == [1], "round 1 without dora")
    world.tasks["dora"].go_on.set()
    records = world.finish()
    assert [record.dropped for record in records] == [("dora",), ()]
    check(world, records)


def test_an_upload_that_comes_after_the_survivors_were_named_is_refused(
    lightsecagg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dora goes on once she was given up; bob confirms only after her upload, so that the round is still open."""
    world = lightsecagg
    world.settings(rounds=1, round_timeout_s=0.5, client_timeout_s=2.0)
    world.tasks["dora"].held_rounds = {1}
    confirm = Answerer.confirm

    def bob_waits(answerer: Answerer, *arguments: Any) -> Any:
        if answerer.name == "bob":
            world.tasks["dora"].go_on.set()
            world.wait_for(lambda: world.of(UploadRefused), "dora's late upload")
        return confirm(answerer, *arguments)

    monkeypatch.setattr(Answerer, "confirm", bob_waits)
    world.start_server()
    start(world)
    records = world.finish()
    (refused,) = world.of(UploadRefused)
    assert refused.client == "dora"
    assert "too late: round 1 went on without it, dora had not uploaded in time" in refused.reason
    assert records[0].dropped == ("dora",)
    check(world, records)


def test_an_update_with_nan_drops_its_client_which_answers_all_the_same(lightsecagg: Any) -> None:
    world = lightsecagg
    world.tasks["bob"].poisoned_rounds = {2}
    world.start_server()
    start(world)
    records = world.finish()
    assert [record.dropped for record in records] == [(), ("bob",), ()]
    (dropped,) = world.of(ClientDropped)
    assert "bob declined: the update is not finite" in dropped.reason
    check(world, records)


def test_a_client_killed_before_its_upload_is_silent_for_that_round_only(
    lightsecagg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shares are out and its mask is gone: a second mask for the same round must not exist."""
    world = lightsecagg
    killed, send = threading.Event(), ServerLink.send

    def without_goodbye(link: ServerLink, message: Any, array: Any = None) -> bool:
        if isinstance(message, Leave) and message.reason == "stopped":
            killed.set()
            return True
        return send(link, message, array)

    monkeypatch.setattr(ServerLink, "send", without_goodbye)
    world.settings(client_timeout_s=5.0)
    world.tasks["dora"].held_rounds = {2}
    world.start_server()
    start(world)
    assert world.tasks["dora"].holding.wait(20)
    world._stops["dora"].set()
    assert killed.wait(20)
    world.tasks["dora"].held_rounds = set()
    world.tasks["dora"].go_on.set()
    world.outcome("dora")
    start(world, "dora")
    records = world.finish()
    assert [record.dropped for record in records] == [(), ("dora",), ()]
    (dropped,) = [event for event in world.of(ClientDropped) if event.stage == "uploading"]
    assert "sealed before" in dropped.reason
    check(world, records)


def test_a_wrong_answer_is_noticed_though_three_would_be_enough(
    lightsecagg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With so few values nearly every wrong sum is a possible one; the fourth answer contradicts it."""
    world, right, right_review = lightsecagg, HeldShares.answer, CollectingRound.review
    three_there = threading.Event()

    def answer(held: HeldShares, survivors: tuple[str, ...]) -> Any:
        if held.owner == "alice" and held.context.round == 1:
            held.shares["bob"][0] = (held.shares["bob"][0] + 1) % held.code.modulus
        if held.owner == "dora":
            assert three_there.wait(20)
        return right(held, survivors)

    def review(current: CollectingRound, now_s: float) -> bool:
        changed = right_review(current, now_s)
        if len(current.answers) == 3:
            three_there.set()
        return changed

    monkeypatch.setattr(CollectingRound, "review", review)
    monkeypatch.setattr(HeldShares, "answer", answer)
    world.settings(rounds=1, heartbeat_s=4.0, client_timeout_s=20.0)
    world.start_server()
    start(world)
    records = world.finish()
    (aborted,) = [event.record for event in world.of(RoundAborted)]
    assert "contradicts those of 3 others" in aborted.reason
    assert [record.round for record in records] == [2]
    check(world, records)


def test_two_missing_are_one_too_many_and_the_abort_says_what_it_cost(lightsecagg: Any) -> None:
    world = lightsecagg
    world.settings(rounds=1)
    for name in ("charlie", "dora"):
        world.tasks[name].poisoned_rounds = {1}
    world.start_server()
    start(world)
    records = world.finish()
    (aborted,) = [event.record for event in world.of(RoundAborted)]
    assert "2 of the 3 clients needed are left (uploading): charlie declined" in aborted.reason
    assert aborted.key_bits_burnt == 6 * 2 * (19 * 11 + 384), "all pads of the round are gone"
    assert aborted.upload_bytes > 0
    assert [record.round for record in records] == [2]
    assert read_state(world.out_dir).aborted == (aborted,)
    check(world, records)


def test_who_vanishes_before_the_shares_are_out_aborts_the_round(lightsecagg: Any) -> None:
    """dora waits for keys when she goes: nobody has her shares, the others cannot agree on pads with her."""
    world = lightsecagg
    world.settings(rounds=2, rejoin_grace_s=0.2)
    for pair in world.network.stock:
        world.network.stock[pair] = 0 if "dora" in pair else 10**6
    world.start_server()
    start(world)
    world.wait_for(
        lambda: any(
            isinstance(event, ClientState) and event.phase == "waiting for keys"
            for event in world.client_events
        ),
        "a client waiting for keys",
    )
    world.stop("dora")
    world.wait_for(lambda: world.of(RoundAborted), "the abort")
    world.network.add_stock(10**6)
    records = world.outcome("server")
    assert "dora left" in world.of(RoundAborted)[0].record.reason
    assert world.of(RoundAborted)[0].record.upload_bytes == 0
    assert [record.participants for record in records] == [("alice", "bob", "charlie")] * 2
    check(world, records)


def test_who_left_takes_part_again(lightsecagg: Any) -> None:
    world = lightsecagg
    world.settings(rounds=3, rejoin_grace_s=20.0)
    world.tasks["dora"].held_rounds = {1}
    world.start_server()
    start(world)
    assert world.tasks["dora"].holding.wait(20)
    world._stops["dora"].set()
    world.wait_for(lambda: world.rounds_done() == [1], "round 1 without dora")
    world.tasks["dora"].go_on.set()
    world.outcome("dora")
    start(world, "dora")
    records = world.finish()
    assert [record.dropped for record in records] == [("dora",), (), ()]
    check(world, records)


def test_a_server_that_was_stopped_between_the_stages_resumes_with_a_fresh_round(lightsecagg: Any) -> None:
    world = lightsecagg
    world.settings(client_timeout_s=5.0)
    world.tasks["dora"].held_rounds = {2}
    endpoint = world.start_server()
    start(world)
    assert world.tasks["dora"].holding.wait(20)
    world.stop("server")
    world.tasks["dora"].go_on.set()
    (aborted,) = read_state(world.out_dir).aborted
    assert (aborted.round, aborted.key_bits_burnt) == (2, 6 * 2 * (19 * 11 + 384))
    world.start_server(endpoint)
    records = world.finish()
    assert [record.round for record in records] == [1, 3, 4]
    digests = [digest for _, digest in world.network.released]
    assert {digests.count(digest) for digest in digests} == {12}, "no pad was released for two rounds"
    check(world, records)
