"""Every mode of aggregation with server and four clients under CURVE: exact sums, weights, compression, costs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.carriers.zeromq.client_connections import ClientConnections
from fl.carriers.zeromq.link import ServerRefusedError
from fl.carriers.zeromq.server import run_server
from fl.modes.base import AggregationError
from fl.modes.table import MODES
from fl.modes.thresholds import ShareCodeError
from fl.rounds.aggregation import aggregation_for
from fl.rounds.client_rules import ClientRefusesError, ClientRules
from fl.rounds.compression import Compression, ErrorFeedback
from fl.rounds.config import ConfigError, FLConfig, check_config, check_weights
from fl.rounds.quantise import RingWidthError, quantisation_rng
from fl.rounds.run_state import load_array
from fl.rounds.selfcheck import check_run
from fl.workloads.base import training_seed
from orchestrator.bits import PackedBits, packed_size
from orchestrator.delivery.masking import pack_values
from orchestrator.delivery.sharing import ShareChannel
from orchestrator.events.learning import RoundAborted, RunStarted
from orchestrator.wire.codec import encode
from orchestrator.wire.curve import generate_keys

SECURITY = {
    "otp": "information-theoretic",
    "lightsecagg": "information-theoretic",
    "expanded": "computational",
    "plain": "none",
}
LABELS = {"otp": "otp", "lightsecagg": "lightsecagg", "expanded": "expanded", "plain": "none"}
WEIGHTS = (1, 2, 1, 3)


def by_hand(world: Any, rounds: int) -> list[np.ndarray]:
    """The model after every round, from the seeds alone."""
    config, size = world.config, world.server_task.n_parameters
    compression = Compression.from_config(config)
    feedback = {name: ErrorFeedback(compression, config.seed, size) for name in world.names}
    model, models = world.server_task.initial_parameters(config.seed), []
    for number in range(1, rounds + 1):
        total = np.zeros(compression.n_values(size), np.int64)
        for index, (name, weight) in enumerate(zip(world.names, config.client_weights, strict=True)):
            update = world.tasks[name].local_train(model, None, training_seed(config.seed, number, index))
            rng = quantisation_rng(config.seed, number, index)
            total += weight * feedback[name].compress(update, number, rng, client=name)
            feedback[name].commit()
        coordinates = compression.coordinates(config.seed, number, size)
        mean = compression.mean(total, sum(config.client_weights), coordinates, number, size)
        model = model + mean
        models.append(model)
    return models


@pytest.mark.parametrize("mode", MODES)
def test_weighted_compressed_rounds_are_exact_in_every_mode(world: Any, tmp_path: Path, mode: str) -> None:
    world.settings(
        mode=mode, weights=WEIGHTS, ring_width=11, keep=0.5, error_feedback=True, clip=0.5, clip_decay=0.9
    )
    world.start_all(rules=ClientRules(mode=mode), self_check_dir=tmp_path / "private")
    records = world.finish()
    for record, model in zip(records, by_hand(world, 3), strict=True):
        assert np.array_equal(load_array(world.out_dir, "model", record.round), model)
        assert load_array(world.out_dir, "aggregate", record.round).shape == (18,)
        assert (record.masking, record.security) == (LABELS[mode], SECURITY[mode])
        assert (record.dropped, record.weight_sum) == ((), 7)
    checks = check_run(world.out_dir, tmp_path / "private")
    assert [check.exact for check in checks] == [True] * 3
    (started,) = world.of(RunStarted)
    assert (started.masking, started.security) == (LABELS[mode], SECURITY[mode])


def test_what_every_mode_costs(world: Any) -> None:
    """37 values of 10 bits; lightsecagg with T = 1 and U = 3 sends shares of 19 symbols and 10 bits."""
    bits = 37 * 10
    share_bits = 19 * 10
    costs = {
        "otp": (bits, packed_size(bits)),
        "expanded": (256, packed_size(bits)),
        "plain": (0, packed_size(bits)),
        "lightsecagg": (
            2 * (share_bits + 384),
            3 * (packed_size(share_bits) + 16) + packed_size(bits) + 3 * 16 + packed_size(share_bits),
        ),
    }
    for mode, (key_bits, upload_bytes) in costs.items():
        world.out_dir = world.folder / mode
        world.settings(mode=mode, rounds=1, run_id=mode)
        world.start_all(rules=ClientRules(mode=mode))
        (record,) = world.finish()
        assert record.key_bits_used == 6 * key_bits
        fewest = upload_bytes - packed_size(share_bits) / 4 if mode == "lightsecagg" else upload_bytes
        assert fewest <= record.upload_bytes_per_client <= upload_bytes, mode
        aggregation = aggregation_for(world.config, 37)
        assert aggregation.key_bits_per_pair == key_bits
        assert aggregation.rules(world.config.clients).upload_bytes(4) == upload_bytes


@pytest.mark.parametrize("mode", ["otp", "lightsecagg", "expanded"])
def test_no_pad_serves_twice_in_any_mode(world: Any, mode: str) -> None:
    world.settings(mode=mode)
    world.start_all(rules=ClientRules(mode=mode))
    world.finish()
    assert len(world.network.released) == 3 * 6 * 2
    assert {world.network.released.count(entry) for entry in world.network.released} == {2}
    per_round = aggregation_for(world.config, 37).key_bits_per_pair
    peers = ("bob", "charlie", "dora")
    assert world.network.demands["alice"] == [dict.fromkeys(peers, n * per_round) for n in (3, 3, 2, 1)]


@pytest.mark.parametrize("mode", MODES)
def test_a_client_that_leaves_in_a_round_and_returns_takes_part_again(
    world: Any, tmp_path: Path, mode: str
) -> None:
    """Without drop-outs the round is aborted and its number never used again; with them it is summed up."""
    world.settings(mode=mode, rejoin_grace_s=20.0, rounds=2)
    world.tasks["dora"].held_rounds = {1}
    world.start_server()
    options = {"rules": ClientRules(mode=mode), "self_check_dir": tmp_path / "private"}
    for name in world.names:
        world.start_client(name, **options)
    assert world.tasks["dora"].holding.wait(20)
    world._stops["dora"].set()
    world.wait_for(lambda: world.of(RoundAborted) or world.rounds_done(), "round 1 ending without dora")
    world.tasks["dora"].go_on.set()
    world.outcome("dora")
    world.start_client("dora", **options)
    records = world.finish()
    if mode == "lightsecagg":
        assert [(record.round, record.dropped) for record in records] == [(1, ("dora",)), (2, ())]
    else:
        assert [(record.round, record.dropped) for record in records] == [(2, ()), (3, ())]
        assert "dora left" in world.of(RoundAborted)[0].record.reason
    assert all(check.exact for check in check_run(world.out_dir, tmp_path / "private"))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("wanted", MODES)
def test_a_mode_is_never_taken_for_another(tmp_path: Path, mode: Any, wanted: Any) -> None:
    config = FLConfig(run_id="r", task="t", clients=("alice", "bob", "charlie", "dora"), mode=mode)
    rules = ClientRules(mode=wanted)
    if mode == wanted:
        rules.check_run("alice", config)
    else:
        with pytest.raises(ClientRefusesError, match=f"wants mode {mode}, alice takes part in {wanted} only"):
            rules.check_run("alice", config)


@pytest.mark.parametrize("mode", ["otp", "lightsecagg", "expanded"])
def test_without_a_node_nothing_is_uploaded_instead(world: Any, mode: str) -> None:
    world.settings(mode=mode, rounds=1, max_aborts_in_a_row=1)
    world.start_all(rules=ClientRules(mode=mode), node_keys=None)
    assert "needs a node that delivers keys" in str(world.outcome("server"))
    (aborted,) = [event.record for event in world.of(RoundAborted)]
    assert (aborted.upload_bytes, aborted.key_bits_burnt) == (0, 0)


def test_clients_that_were_welcomed_to_different_settings_agree_on_no_key() -> None:
    names = ("alice", "bob", "charlie", "dora")
    for mode in ("otp", "lightsecagg", "expanded"):
        one, other = (
            aggregation_for(FLConfig(run_id="r", task="t", clients=names, mode=mode, clip=clip), 37)  # type: ignore[arg-type]
            for clip in (1.0, 0.5)
        )
        assert one.context(1, names).digest() != other.context(1, names).digest()
        assert one.context(1, names).digest() != one.context(2, names).digest()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"mode": "lightsecagg", "colluders": 1, "survivors": 2}, ShareCodeError, "2 U > N"),
        ({"mode": "lightsecagg", "colluders": 3, "survivors": 4}, ShareCodeError, "T is 0 to 2"),
        ({"mode": "lightsecagg", "survivors": 5}, ShareCodeError, "use U = 3 to 4"),
        ({"mode": "lightsecagg", "colluders": 2, "survivors": 3}, ShareCodeError, "use U = 4 to 4"),
        ({"mode": "lightsecagg", "survivors": 3, "min_clients": 4}, ConfigError, "U = 3 survivors"),
        ({"mode": "lightsecagg", "levels": 1 << 29, "weights": (9, 9, 9, 9)}, ShareCodeError, "31 bits"),
        ({"mode": "otp", "min_clients": 1}, ConfigError, "with one participant is its update"),
        ({"mode": "otp", "survivors": 3}, ConfigError, "belong to lightsecagg"),
        ({"mode": "otp", "weights": (1, 2, 1)}, ConfigError, "3 weights for 4 clients"),
        (
            {"mode": "otp", "weights": (1, 2, 1, 3), "ring_width": 10},
            RingWidthError,
            "use b = 11 for L = 127",
        ),
        (
            {"mode": "expanded", "weights": (1, 2, 1, 3), "ring_width": 10},
            RingWidthError,
            "use b = 11 for L = 127",
        ),
        ({"mode": "expanded", "clients": ("alice",)}, ConfigError, "at least two clients"),
    ],
)
def test_settings_under_which_a_sum_could_wrap_or_leak_are_refused(
    changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    fields: dict[str, Any] = {"run_id": "r", "task": "t", "clients": ("alice", "bob", "charlie", "dora")}
    with pytest.raises(error, match=words):
        check_config(FLConfig(**{**fields, **changes}))


@pytest.mark.parametrize("mode", ["otp", "expanded", "lightsecagg"])
def test_weights_that_write_updates_side_by_side_into_the_sum_are_refused(mode: Any) -> None:
    """The sum of these is read off as digits to the base 2 L + 1: every update, bit for bit."""
    names, levels = ("alice", "bob", "charlie", "dora"), 31
    base = 2 * levels + 1
    config = FLConfig(
        run_id="r", task="t", clients=names, mode=mode, levels=levels, weights=(1, base, base**2, base**3),
        ring_width=24,
    )  # fmt: skip
    updates = np.random.default_rng(1).integers(-levels, levels + 1, (4, 50))
    rest = np.array(config.weights) @ updates + levels * sum(config.weights)
    for update in updates:
        assert np.array_equal(rest % base - levels, update)
        rest //= base
    with pytest.raises(ClientRefusesError, match="would tell updates apart"):
        ClientRules(mode=mode).check_run("alice", config)
    with pytest.raises(ConfigError, match="would tell updates apart"):
        run_server("unused", generate_keys(), {}, config, Path("unused"), threading.Event())


@given(st.integers(8, 60), st.lists(st.integers(1, 12), min_size=2, max_size=3), st.data())
@settings(max_examples=40, deadline=None)
def test_with_weights_that_are_accepted_every_sum_of_middling_values_has_several_explanations(
    levels: int, weights: list[int], data: Any
) -> None:
    try:
        check_weights(levels, weights)
    except ConfigError:
        return
    middling = st.integers(-levels // 2, levels // 2)
    values = data.draw(st.lists(middling, min_size=len(weights), max_size=len(weights)))
    total = sum(w * q for w, q in zip(weights, values, strict=True))
    candidates = np.arange(-levels, levels + 1)
    others = np.zeros(1, np.int64)
    for weight in weights[1:]:
        others = np.unique(others[:, None] + weight * candidates)
    explained = np.isin(total - weights[0] * candidates, others)
    assert explained.sum() >= 4


def test_thresholds_are_chosen_where_none_are_given_and_bind_smaller_rounds_too() -> None:
    def config(n: int, **changes: Any) -> FLConfig:
        names = tuple(f"c{index}" for index in range(n))
        return FLConfig(run_id="r", task="t", clients=names, mode="lightsecagg", **changes)

    assert config(4).thresholds == (1, 3)
    assert config(10, colluders=2).thresholds == (2, 7)
    assert config(10, survivors=9).thresholds == (7, 9)
    assert config(10, survivors=6).thresholds == (1, 6)
    assert config(4, survivors=4).thresholds == (2, 4)
    assert config(10, colluders=5, survivors=8).quorum == 8
    assert config(3).quorum == 3
    check_config(config(10, colluders=5, survivors=8))
    smaller = aggregation_for(config(10, colluders=5, survivors=8), 37)
    assert smaller.rules([f"c{index}" for index in range(8)]).survivors == 8
    with pytest.raises(ShareCodeError):
        smaller.rules([f"c{index}" for index in range(7)])
    with pytest.raises(ShareCodeError, match="use U = 6 to 10"):
        check_config(config(10, survivors=5))


@pytest.mark.parametrize("mode", ["otp", "expanded", "plain"])
def test_masks_that_do_not_cancel_are_noticed(mode: Any) -> None:
    names = ("alice", "bob", "charlie", "dora")
    aggregation = aggregation_for(
        FLConfig(run_id="r", task="t", clients=names, mode=mode, levels=10, ring_width=10), 3
    )
    fine = {name: pack_values(np.array([10, -10, 0], np.int64), 10) for name in names}
    assert aggregation.total(names, fine, {}).tolist() == [40, -40, 0]
    fine["dora"] = pack_values(np.array([11, -10, 0], np.int64), 10)
    with pytest.raises(AggregationError, match="1 of 3 sums exceed 40"):
        aggregation.total(names, fine, {})
    with pytest.raises(KeyError):
        aggregation.total(names, {name: fine[name] for name in names[:3]}, {})


def test_a_client_with_another_model_or_vocabulary_does_not_take_part(world: Any) -> None:
    world.tasks["alice"].fingerprint = "beef"
    world.start_all()
    error = world.outcome("alice")
    assert isinstance(error, ClientRefusesError)
    assert "alice has another model, vocabulary or data format for task vector than the server" in str(error)
    assert world.network.asked == {}
    assert "alice" not in world.network.demands, "no key was asked for"


def test_the_server_turns_away_a_client_that_does_not_check_its_task(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ClientRules, "check_task", lambda *anything: None)
    world.tasks["alice"].fingerprint = "beef"
    world.start_server()
    world.start_client("alice")
    error = world.outcome("alice")
    assert isinstance(error, ServerRefusedError)
    assert "another model, vocabulary or data format" in str(error)


def test_a_server_with_another_task_than_the_run_was_set_up_for_does_not_start(world: Any) -> None:
    world.settings(task_fingerprint="abad1dea")
    with pytest.raises(ConfigError, match="another model, vocabulary"):
        world.start_server()


def test_shares_whose_pads_are_gone_take_the_client_out_and_are_counted(world: Any) -> None:
    """bob and charlie were restarted after sealing: with two clients left, U = 3 cannot be reached."""
    world.settings(mode="lightsecagg", rounds=1, max_aborts_in_a_row=1)
    for name in ("bob", "charlie"):
        world.deliveries[name].shared.add(("test", 1))
    world.start_all(rules=ClientRules(mode="lightsecagg"))
    assert "sealed before" in str(world.outcome("server"))
    (aborted,) = [event.record for event in world.of(RoundAborted)]
    per_pair = aggregation_for(world.config, 37).key_bits_per_pair
    assert aborted.key_bits_burnt in (5 * per_pair, 6 * per_pair), "alice and dora may have shared"


@pytest.mark.parametrize("mode", ["otp", "lightsecagg", "expanded"])
def test_the_server_receives_neither_key_nor_shares_in_the_clear(
    world: Any, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    heard: list[bytes] = []
    secret: list[bytes] = []
    delivery_type = type(world.deliveries["alice"])
    receive, seal, release = ClientConnections.receive, ShareChannel.seal, delivery_type._release

    def listening(connections: ClientConnections) -> Any:
        received = receive(connections)
        if received is not None:
            heard.append(encode(received[1]) + (received[2] or b""))
        return received

    def sealing(channel: ShareChannel, peer: str, share: PackedBits) -> bytes:
        secret.append(share.tobytes())
        return seal(channel, peer, share)

    def releasing(delivery: Any, *arguments: Any) -> Any:
        pads = release(delivery, *arguments)
        secret.extend(pad.tobytes() for pad in pads.values())
        return pads

    monkeypatch.setattr(ClientConnections, "receive", listening)
    monkeypatch.setattr(ShareChannel, "seal", sealing)
    monkeypatch.setattr(delivery_type, "_release", releasing)
    world.settings(mode=mode, rounds=1)
    world.start_all(rules=ClientRules(mode=mode))
    world.finish()
    windows = {each[i : i + 16] for each in secret for i in range(len(each) - 15)}

    def leaks(traffic: list[bytes]) -> bool:
        return any(each[i : i + 16] in windows for each in traffic for i in range(len(each) - 15))

    assert len(secret) == (12 + 12 if mode == "lightsecagg" else 12)
    assert sum(map(len, heard)) > 4 * 47
    assert not leaks(heard)
    assert leaks([*heard, b"planted" + secret[-1]])
