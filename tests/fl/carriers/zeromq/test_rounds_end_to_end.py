"""Server and four clients under CURVE, with real masking: exact sums, refusals, aborts and recoveries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.carriers.zeromq.link import ServerRefusedError
from fl.experiments.reference import train_reference
from fl.rounds.client_rules import ClientRefusesError, ClientRules
from fl.rounds.quantise import RingWidthError, quantisation_rng
from fl.rounds.run_state import RunStateError, load_array, read_state
from fl.rounds.selfcheck import check_run
from fl.workloads import load_task
from fl.workloads.base import training_seed
from orchestrator.delivery.errors import JournalError
from orchestrator.events.learning import (
    RoundAborted,
    RunStarted,
    UploadRefused,
    WaitingForClients,
    WaitingForKeys,
)
from orchestrator.wire.curve import generate_keys


def exact_sum(world: Any, round_number: int, participants: tuple[str, ...]) -> np.ndarray:
    """What the quantised updates of a round add up to, computed from the seeds."""
    total = np.zeros(world.server_task.n_parameters, np.int64)
    for name in participants:
        index = world.config.clients.index(name)
        update = world.tasks[name].local_train(
            np.zeros(0, np.float32), None, training_seed(world.config.seed, round_number, index)
        )
        rng = quantisation_rng(world.config.seed, round_number, index)
        total += world.config.quantiser.quantise(update, rng, client=name, round_number=round_number)
    return total


@pytest.mark.parametrize(("mode", "label", "pairs"), [("otp", "otp", 6), ("plain", "none", 0)])
def test_every_round_is_the_exact_sum(world: Any, tmp_path: Path, mode: str, label: str, pairs: int) -> None:
    world.settings(mode=mode)
    world.start_all(rules=ClientRules(mode=mode), self_check_dir=tmp_path / "private")
    records = world.finish()
    assert [record.round for record in records] == [1, 2, 3]
    model = world.server_task.initial_parameters(0)
    for record in records:
        aggregate = load_array(world.out_dir, "aggregate", record.round)
        assert np.array_equal(aggregate, exact_sum(world, record.round, world.names))
        model = model + world.config.quantiser.mean(aggregate, 4)
        assert record.masking == label
        assert record.upload_bytes == 4 * ((37 * 10 + 7) // 8)
        assert record.key_bits_used == pairs * 37 * 10
        assert record.participants == world.names
    assert np.array_equal(model, load_array(world.out_dir, "model", 3))
    assert [check.exact for check in check_run(world.out_dir, tmp_path / "private")] == [True] * 3
    assert world.of(RunStarted)[0].masking == label


def test_a_masked_run_of_digits_equals_quantised_training_in_one_process_bit_for_bit(world: Any) -> None:
    world.settings(task="digits", rounds=2, seed=3, client_timeout_s=20.0)
    digits = load_task("digits")
    world.server_task = digits
    world.tasks = dict.fromkeys(world.names, digits)
    world.start_all()
    records = world.finish()
    reference = train_reference(digits, 4, 2, seed=3, quantiser=world.config.quantiser)
    assert np.array_equal(load_array(world.out_dir, "model", 2), reference.parameters)
    assert [record.accuracy for record in records] == [e.accuracy for e in reference.rounds]


def test_no_pad_is_released_twice_to_one_side(world: Any) -> None:
    world.start_all()
    world.finish()
    peers = ("bob", "charlie", "dora")
    assert world.network.demands["alice"] == [dict.fromkeys(peers, n * 370) for n in (3, 3, 2, 1)]
    assert len(world.network.released) == 3 * 6 * 2
    assert {world.network.released.count(entry) for entry in world.network.released} == {2}


def test_the_self_check_finds_a_wrong_aggregate(world: Any, tmp_path: Path) -> None:
    world.settings(rounds=1)
    world.start_all(self_check_dir=tmp_path / "private")
    world.finish()
    aggregate = load_array(world.out_dir, "aggregate", 1)
    aggregate[3] += 1
    np.save(world.out_dir / "aggregate-00001.npy", aggregate)
    (check,) = check_run(world.out_dir, tmp_path / "private")
    assert not check.exact
    assert "1 of 37 values differ" in check.detail
    (tmp_path / "private" / "bob" / "test-00001.npy").unlink()
    (check,) = check_run(world.out_dir, tmp_path / "private")
    assert not check.exact
    assert check.exact is None
    assert "cannot compare" in check.detail


def test_private_updates_are_written_only_when_asked_and_only_for_the_owner(
    world: Any, tmp_path: Path
) -> None:
    world.settings(rounds=1)
    world.start_server()
    world.start_client("alice", self_check_dir=tmp_path / "private")
    for name in world.names[1:]:
        world.start_client(name)
    world.finish()
    files = sorted(path.name for path in (tmp_path / "private" / "alice").iterdir())
    assert files == ["PRIVATE-SELF-CHECK.txt", "test-00001.npy"]
    assert (tmp_path / "private" / "alice" / "test-00001.npy").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "private" / "alice").stat().st_mode & 0o777 == 0o700
    assert [path.name for path in (tmp_path / "private").iterdir()] == ["alice"]


def test_too_small_a_ring_is_refused_before_anything_starts(world: Any) -> None:
    world.settings(ring_width=8)
    with pytest.raises(RingWidthError, match="b = 10"):
        world.start_server()
    assert not world.out_dir.exists()


def test_a_client_refuses_settings_that_its_server_should_have_refused(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl.carriers.zeromq.server.check_config", lambda config: None)
    world.settings(ring_width=8)
    world.start_server()
    world.start_client("alice", consents=False)
    error = world.outcome("alice")
    assert isinstance(error, ClientRefusesError)
    assert "b = 10" in str(error)
    assert world.network.released == []


def test_a_client_takes_part_only_in_the_mode_it_was_told(world: Any) -> None:
    world.settings(mode="plain")
    world.start_server()
    world.start_client("alice", rules=ClientRules(mode="otp"))
    assert isinstance(world.outcome("alice"), ClientRefusesError)


def test_an_update_with_nan_is_declined_by_name_and_the_next_round_goes_on(world: Any) -> None:
    world.tasks["bob"].poisoned_rounds = {2}
    world.start_all()
    records = world.finish()
    assert [record.round for record in records] == [1, 3, 4]
    (aborted,) = [event.record for event in world.of(RoundAborted)]
    assert aborted.round == 2
    assert "bob declined: the update is not finite" in aborted.reason, "neither where nor what"
    assert aborted.key_bits_burnt == 0, "nobody had burnt anything yet"
    assert world.network.abandoned, "the others gave their reservations back"
    burnt = world.network.reserved - set(world.network.released)
    (kept,) = read_state(world.out_dir).aborted
    assert kept.key_bits_burnt == 370 * len(burnt), "the record knows what they burnt"


def test_what_a_library_says_about_the_users_data_stays_with_the_user(
    world: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("could not convert string to float: 'patient 4711'")

    monkeypatch.setattr(world.tasks["bob"], "local_train", fails)
    world.settings(max_aborts_in_a_row=1)
    world.start_all()
    assert "bob declined: ValueError: see the log of bob" in str(world.outcome("server"))
    assert "4711" not in str(world.events) + (world.out_dir / "run.json").read_text()
    assert "4711" in caplog.text


def test_where_a_journal_lies_stays_with_the_user(
    world: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def damaged(*_: object, **__: object) -> None:
        raise JournalError("cannot read miriam/state/masked.journal: Input/output error")

    monkeypatch.setattr(world.deliveries["bob"], "stored_update", damaged)
    world.settings(max_aborts_in_a_row=1)
    world.start_all()
    assert "bob declined: KeyServiceError: see the log of bob" in str(world.outcome("server"))
    assert "miriam" not in str(world.events) + (world.out_dir / "run.json").read_text()
    assert "miriam" in caplog.text


def test_a_round_that_was_aborted_for_want_of_keys_records_the_pads_reserved_with_others(world: Any) -> None:
    """alice, bob and charlie hold pads for each other and none for dora, who goes and comes back."""
    world.settings(rounds=1, rejoin_grace_s=0.1)
    for pair in world.network.stock:
        world.network.stock[pair] = 0 if "dora" in pair else 740
    world.start_all()
    world.wait_for(
        lambda: {event.client for event in world.of(WaitingForKeys)} == set(world.names), "all waiting"
    )
    world.stop("dora")
    world.wait_for(lambda: world.of(RoundAborted), "the abort")
    # Whoever still waits for that round would take the key that is for the next one.
    with world.network.changed:
        assert world.network.changed.wait_for(
            lambda: {"alice", "bob", "charlie"} <= {name for name, _ in world.network.abandoned}, 30.0
        )
    for pair in world.network.stock:
        world.network.stock[pair] += 370 * ("dora" in pair)
    world.start_client("dora")
    (record,) = world.finish()
    assert record.participants == world.names
    (aborted,) = read_state(world.out_dir).aborted
    assert (aborted.round, aborted.key_bits_burnt) == (1, 3 * 370)
    assert set(world.network.stock.values()) == {0}


def test_a_wrong_client_key_and_a_wrong_server_key_are_refused(world: Any) -> None:
    world.start_server()
    world.start_client("alice", keys=generate_keys(), patience_s=0.5)
    error = world.outcome("alice")
    assert isinstance(error, ServerRefusedError)
    assert "does not accept our key" in str(error)
    world.start_client("bob", server_public=generate_keys().public, patience_s=0.5)
    error = world.outcome("bob")
    assert isinstance(error, ServerRefusedError)
    assert "key is not the one" in str(error)
    assert world.of(WaitingForClients)[-1].missing == world.names


def test_who_a_client_is_follows_from_its_key_not_from_its_claim(world: Any) -> None:
    """Bob's key in the hands of a process that calls itself alice is bob to the server."""
    world.start_server()
    world.start_client("alice", keys=world.client_keys["bob"])

    def one_is_there() -> list[tuple[str, ...]]:
        return [event.missing for event in world.of(WaitingForClients) if len(event.missing) == 3]

    world.wait_for(one_is_there, "a client being ready")
    assert one_is_there()[0] == ("alice", "charlie", "dora")


def test_waiting_for_keys_is_visible_and_ends_with_the_keys(world: Any) -> None:
    for pair in world.network.stock:
        world.network.stock[pair] = 100
    world.settings(rounds=1)
    world.start_all()
    world.wait_for(lambda: world.of(WaitingForKeys), "a report of the wait")
    waiting = world.of(WaitingForKeys)[0]
    assert waiting.round == 1
    assert "too little key" in waiting.detail
    others = set(world.names) - {waiting.client}
    assert waiting.missing_bits.keys() & others
    assert waiting.missing_bits.keys() <= others
    assert min(waiting.missing_bits.values()) > 0
    world.network.add_stock(10_000)
    (record,) = world.finish()
    assert record.key_wait_s > 0
    assert world.network.demands["alice"][-1] == dict.fromkeys(("bob", "charlie", "dora"), 370)


def test_a_vanished_client_aborts_the_round_and_the_run_pauses_until_it_is_back(world: Any) -> None:
    """dora stops while the round waits for keys: nothing goes on without her, since it would tell her update."""
    world.settings(rejoin_grace_s=0.1)
    for pair in world.network.stock:
        world.network.stock[pair] = 0
    world.start_all()
    world.wait_for(lambda: world.of(WaitingForKeys), "a report of the wait")
    world.stop("dora")
    world.wait_for(lambda: world.of(RoundAborted), "the abort")
    world.network.add_stock(10**6)
    world.wait_for(lambda: world.of(WaitingForClients)[-1].reason, "the pause")
    paused = world.of(WaitingForClients)[-1]
    assert paused.missing == ("dora",)
    assert "paused until dora is back" in paused.reason
    assert "approximately known" in paused.reason
    assert world.network.released == []
    world.start_client("dora")
    records = world.finish()
    assert "dora left" in world.of(RoundAborted)[0].record.reason
    assert [record.participants for record in records] == [world.names] * 3
    for record in records:
        aggregate = load_array(world.out_dir, "aggregate", record.round)
        assert np.array_equal(aggregate, exact_sum(world, record.round, record.participants))


def test_a_client_that_returns_takes_part_again(world: Any) -> None:
    world.settings(rounds=4, rejoin_grace_s=20.0)
    for pair in world.network.stock:
        world.network.stock[pair] = 0
    world.start_all()
    world.wait_for(lambda: world.of(WaitingForKeys), "a report of the wait")
    world.stop("dora")
    world.wait_for(lambda: world.of(RoundAborted), "the abort")
    world.start_client("dora")
    world.network.add_stock(10**6)
    records = world.finish()
    assert {record.participants for record in records} == {world.names}
    assert [record.round for record in records] == [2, 3, 4, 5]


def test_a_server_that_was_stopped_resumes_with_fresh_round_numbers(world: Any) -> None:
    world.settings(rounds=6)
    for pair in world.network.stock:
        world.network.stock[pair] = 2 * 370
    endpoint = world.start_server()
    for name in world.names:
        world.start_client(name)
    world.wait_for(lambda: len(world.rounds_done()) == 2, "two rounds")
    world.wait_for(lambda: any(w.round == 3 for w in world.of(WaitingForKeys)), "round three")
    world.stop("server")
    assert [record.round for record in read_state(world.out_dir).aborted] == [3]
    world.start_server(endpoint)
    world.network.add_stock(10**6)
    records = world.finish()
    assert [record.round for record in records] == [1, 2, 4, 5, 6, 7]
    model = world.server_task.initial_parameters(0)
    for record in records:
        model = model + world.config.quantiser.mean(exact_sum(world, record.round, world.names), 4)
    assert np.array_equal(model, load_array(world.out_dir, "model", 7))


def test_a_folder_of_another_run_is_not_continued(world: Any) -> None:
    world.start_server()
    world.stop("server")
    world.settings(seed=1)
    with pytest.raises(RunStateError, match="other settings"):
        world.start_server()


def test_a_healthy_run_is_quiet(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    world.settings(clip=2.0)
    world.start_all(rules=ClientRules())
    world.finish()
    assert [record.message for record in caplog.records if record.name.startswith("fl.")] == []
    assert world.of(UploadRefused) == []
    assert world.of(RoundAborted) == []
