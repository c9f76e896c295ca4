"""Rounds of mod and strategy together, on simulated keys."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' in this folder")

import msgspec
from flwr.app import ConfigRecord, Message, RecordDict

from fl.carriers.flower.held import HeldError, take
from fl.carriers.flower.participant import participant_of
from fl.carriers.flower.records import CONFIG, PAYLOAD, open_record, record_of
from fl.carriers.flower.rules import run_name
from fl.keys.local import LocalKeys
from fl.rounds.messages import Confirm, Decline, Survivors, Upload
from orchestrator.delivery.client import Wait
from orchestrator.delivery.errors import DeliveryTimeoutError
from orchestrator.delivery.masking import unpack_values
from orchestrator.delivery.messages import RoundContext
from orchestrator.wire.codec import decode

RUN = 0xABCDEF

Make = Callable[..., Any]


def flat(arrays: Any) -> np.ndarray:
    return np.concatenate([array.numpy().ravel() for array in arrays.values()])


@pytest.mark.parametrize("mode", ["otp", "expanded"])
def test_the_model_moves_by_the_exact_mean_of_the_quantised_updates(federation: Make, mode: str) -> None:
    four = federation(mode=mode, run_config={"mode": mode})
    result = four.start(rounds=3)
    np.testing.assert_array_equal(flat(result.arrays), four.expected(3))
    assert [outcome.reason for outcome in four.strategy.outcomes] == ["", "", ""]
    per_pair = 256 if mode == "expanded" else 37 * 10
    assert result.train_metrics_clientapp[3]["qkd-key-bits"] == 6 * per_pair
    assert four.strategy.outcomes[0].security == (
        "computational" if mode == "expanded" else "information-theoretic"
    )
    assert four.strategy.outcomes[0].key_supply == "simulated"


def test_a_round_is_one_exchange_of_packed_masked_values(federation: Make) -> None:
    four = federation()
    replies: list[Message] = []
    four.grid.answer = lambda reply: replies.append(reply) or reply
    four.start(rounds=2)
    assert four.grid.exchanges == 1 + 2  # greetings once, then one per round
    uploads = [reply for reply in replies if PAYLOAD in reply.content]
    for reply in uploads:
        assert set(reply.content) == {CONFIG, PAYLOAD}  # no model, no metric, nothing else
    sent = [np.frombuffer(reply.content[PAYLOAD]["bytes"].data, np.uint8) for reply in uploads[:4]]
    assert all(part.nbytes == (37 * 10 + 7) // 8 for part in sent)
    plain = [four.update(four.grid.contexts[node], 1) * 127 for node in four.grid.connected]
    for part, update in zip(sent, plain, strict=True):
        assert np.mean(np.abs(unpack_values(part, 37, 10) - update) <= 1) < 0.2


def test_public_weights_count_in_the_mean(federation: Make) -> None:
    three = federation(n_clients=3, weights={"client-0": 5, "client-2": 2})
    result = three.start(rounds=2)
    np.testing.assert_array_equal(flat(result.arrays), three.expected(2))
    assert three.strategy._config.client_weights == (5, 1, 2)


def test_only_metrics_that_the_user_made_public_leave_the_node(federation: Make) -> None:
    four = federation(run_config={"public-metrics": "num-examples"})
    metrics = four.start().train_metrics_clientapp[1]
    assert metrics["num-examples"] == 8  # of 10: the power of two below
    assert "loss" not in metrics


def test_rounds_go_on_counting_when_the_strategy_is_started_again(federation: Make) -> None:
    four = federation()
    four.start(rounds=2)
    four.start(rounds=1)
    assert [outcome.round for outcome in four.strategy.outcomes] == [1, 2, 3]
    assert all(not outcome.reason for outcome in four.strategy.outcomes)


def test_settings_that_could_wrap_are_refused_before_the_first_round(federation: Make) -> None:
    four = federation(ring_width=9)
    with pytest.raises(ValueError, match=r"use b = 10 for L = 127, or L = 63"):
        four.start()
    assert four.grid.exchanges == 1
    assert not four.strategy.outcomes


def test_a_client_that_vanishes_aborts_the_round_and_the_model_stays(federation: Make) -> None:
    four = federation()
    four.grid.answer = lambda reply: (
        None if reply.metadata.src_node_id == 102 and reply.metadata.group_id == "1" else reply
    )
    result = four.start(rounds=2)
    first, second = four.strategy.outcomes
    assert "client-2 left: no reply in time" in first.reason
    assert first.key_bits == 6 * 370  # three have masked: every pair has lost its pad
    assert not second.reason
    assert second.round == 2
    assert result.train_metrics_clientapp[1]["qkd-aborted"] == 1
    two = four.expected(2)
    assert not np.array_equal(flat(result.arrays), two)  # the first update is not in it


def test_an_aborted_round_leaves_the_arrays_to_flower(federation: Make) -> None:
    four = federation()
    messages = four.announce()
    replies = four.send(messages)
    arrays, metrics = four.strategy.aggregate_train(1, replies[:3])
    assert arrays is None
    assert metrics["qkd-aborted"] == 1


def test_an_update_with_nan_is_refused_before_a_key_is_spent(federation: Make) -> None:
    four = federation()
    good = four.update

    def poisoned(context: Any, number: int) -> np.ndarray:
        update = good(context, number)
        if context.node_id == 101 and number == 1:
            update[5] = np.nan
        return update

    four.update = poisoned
    result = four.start(rounds=2)
    first, second = four.strategy.outcomes
    assert "client-1" in first.reason
    assert "not finite" in first.reason
    assert first.key_bits == 6 * 370  # the others had masked
    assert not second.reason
    assert np.isfinite(flat(result.arrays)).all()


def test_what_waiting_clients_burnt_is_counted(federation: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Client 2 is gone before it asks for its pads: the others had reserved those that they share."""
    four = federation()
    mask = LocalKeys.masked_update

    def waits(self: LocalKeys, context: RoundContext, *rest: Any, **more: Any) -> Any:
        if context.round == 1:
            rest[-1](Wait({}, ("client-2",), None, "client-2 has not asked"))
            raise DeliveryTimeoutError("client-2 has not asked")
        return mask(self, context, *rest, **more)

    def abandon(self: LocalKeys, context: RoundContext) -> tuple[str, ...]:
        return tuple({"client-0", "client-1", "client-3"} - {self.owner})

    monkeypatch.setattr(LocalKeys, "masked_update", waits)
    monkeypatch.setattr(LocalKeys, "abandon", abandon)
    four.grid.deliver = lambda message: (
        None if message.metadata.dst_node_id == 102 and message.metadata.group_id == "1" else message
    )
    result = four.start(rounds=2)
    first, second = four.strategy.outcomes
    assert first.reason == "client-0 declined: gave up after 0.2 s: client-2 has not asked"
    assert first.key_bits == 3 * 370
    assert not second.reason
    assert result.train_metrics_clientapp[2]["qkd-key-bits"] == 6 * 370


def test_clients_give_up_waiting_before_the_round_ends(federation: Make) -> None:
    four = federation(wait_timeout_s=5.0)
    with pytest.raises(ValueError, match="a round ends after 5 s, but clients wait up to 5 s"):
        four.start()
    assert not four.grid.exchanges


@pytest.mark.parametrize("mode", ["otp", "lightsecagg"])
@pytest.mark.parametrize(
    ("clip", "metric", "words"),
    [(1e-6, "qkd-clipped", "clip is too small"), (1e6, "qkd-vanished", "clip is too large")],
)
def test_a_clip_that_takes_the_update_away_is_told(
    federation: Make, caplog: pytest.LogCaptureFixture, mode: str, clip: float, metric: str, words: str
) -> None:
    four = federation(mode=mode, run_config={"mode": mode}, clip=clip)
    with caplog.at_level("WARNING"):
        result = four.start()
    assert result.train_metrics_clientapp[1][metric] == 1.0
    assert words in caplog.text
    assert "client-3, round 1: 100.0 % of the update" in caplog.text  # at the client alone
    assert four.strategy.outcomes[0].clipping.clients == 4


# -- lightsecagg ---------------------------------------------------------------------------------------

SHARES = {"mode": "lightsecagg", "run_config": {"mode": "lightsecagg"}}


def without(federation: Any, user: int, exchange: int) -> None:
    """Client ``user`` stops answering from an exchange of round 1 on (0: sharing ... 3: answering)."""
    seen: dict[int, int] = {}

    def answer(reply: Message) -> Message | None:
        node = reply.metadata.src_node_id
        if reply.metadata.group_id != "1" or node != 100 + user:
            return reply
        seen[node] = seen.get(node, -1) + 1
        return None if seen[node] >= exchange else reply

    federation.grid.answer = answer


def test_shares_give_the_exact_sum_in_four_exchanges(federation: Make) -> None:
    four = federation(**SHARES)
    result = four.start(rounds=2)
    np.testing.assert_array_equal(flat(result.arrays), four.expected(2))
    assert four.grid.exchanges == 1 + 2 * 4
    assert [outcome.dropped for outcome in four.strategy.outcomes] == [(), ()]
    assert four.strategy.outcomes[0].key_bits > 6 * 2 * 37 // 2 * 10


def test_a_given_u_hides_from_as_many_as_it_allows(federation: Make) -> None:
    four = federation(**SHARES, survivors=4)
    result = four.start(rounds=1)
    np.testing.assert_array_equal(flat(result.arrays), four.expected(1))
    assert four.strategy._config.thresholds == (2, 4)
    assert four.strategy.outcomes[0].key_bits == 6 * 2 * (-(-37 // 2) * 10 + 384)


@pytest.mark.parametrize("exchange", [1, 2, 3])
def test_a_client_may_drop_out_after_it_has_shared(federation: Make, exchange: int) -> None:
    four = federation(**SHARES)
    without(four, 2, exchange)
    result = four.start(rounds=1)
    (outcome,) = four.strategy.outcomes
    assert not outcome.reason
    assert outcome.dropped == (("client-2",) if exchange == 1 else ())
    survivors = (0, 1, 3) if exchange == 1 else None
    np.testing.assert_array_equal(flat(result.arrays), four.expected(1, survivors))


def test_too_many_drop_outs_abort_the_round(federation: Make) -> None:
    four = federation(**SHARES)
    four.grid.answer = lambda reply: (
        None if reply.metadata.group_id == "1" and reply.metadata.src_node_id in (102, 103) else reply
    )
    four.start(rounds=2)
    first, second = four.strategy.outcomes
    assert "2 of the 3 clients needed are left" in first.reason
    assert not second.reason


def test_a_second_list_of_survivors_gets_no_answer(federation: Make) -> None:
    """Neither as the next message nor after the node's memory was put back by a backup."""
    four = federation(**SHARES)
    context = four.grid.contexts[100]
    replies = four.send(four.announce())
    before = dict(context.state)
    current = four.strategy._open
    four.strategy._take(current, replies)
    first = current.messages(four.strategy.roster, RecordDict())[0]
    order = decode(first.content[CONFIG]["message"], Survivors)
    other = msgspec.structs.replace(order, survivors=order.survivors[:3])

    def ask(survivors: Survivors) -> Any:
        first.content[CONFIG] = record_of(survivors, b"")
        (reply,) = four.send([first])
        return open_record(reply.content, Confirm | Decline)[0]

    assert isinstance(ask(order), Confirm)
    assert "not at this step" in ask(other).reason
    context.state = RecordDict(before)
    assert "bound to other survivors" in ask(other).reason


def test_a_mask_whose_update_failed_is_gone(federation: Make) -> None:
    four = federation(**SHARES)
    good = four.update
    four.update = lambda context, number: np.full(37, np.nan, np.float32)
    messages = four.announce()
    again = copy.deepcopy(messages[0])
    (reply,) = four.send(messages[:1])
    assert "not finite" in open_record(reply.content, Decline)[0].reason
    four.update = good
    (reply,) = four.send([again])
    assert "nothing is held of round 1" in open_record(reply.content, Decline)[0].reason


def test_a_state_that_is_put_back_masks_no_second_update(federation: Make) -> None:
    """The difference of two updates under one mask would be there for the server to read."""
    four = federation(**SHARES)
    message, context = four.announce()[0], four.grid.contexts[100]
    again, before = copy.deepcopy(message), dict(context.state)
    assert isinstance(open_record(four.send([message])[0].content, Upload | Decline)[0], Upload)
    context.state = RecordDict(before)
    four.update = lambda context, number: np.full(37, 0.25, np.float32)
    (reply,) = four.send([again])
    assert PAYLOAD not in reply.content
    declined = open_record(reply.content, Upload | Decline)[0]
    assert isinstance(declined, Decline)
    assert "has protected an update before" in declined.reason
    assert declined.key_bits > 0


def test_no_mask_is_used_before_its_mark_is_durable(
    federation: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    four = federation(**SHARES)
    message = four.announce()[0]

    def no_disk(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("orchestrator.durable.os.fsync", no_disk)
    (reply,) = four.send([message])
    assert PAYLOAD not in reply.content
    assert isinstance(open_record(reply.content, Upload | Decline)[0], Decline)


def test_what_a_client_holds_between_messages_is_encrypted(federation: Make) -> None:
    four = federation(**SHARES)
    four.announce()
    (context,) = [four.grid.contexts[100]]
    sealed = context.state["qunetlab-shares"]["sealed"]
    participant = participant_of(context)
    held = take(context, participant.held_key, run_name(RUN), 1, "shared")
    assert held.mask not in sealed
    assert "mask" not in repr(held)
    context.state["qunetlab-shares"] = ConfigRecord({"sealed": sealed[:-1] + bytes([sealed[-1] ^ 1])})
    with pytest.raises(HeldError, match="was changed"):
        take(context, participant.held_key, run_name(RUN), 1, "shared")


def test_arrays_left_out_by_name_keep_the_servers_values_and_are_not_uploaded(federation: Make) -> None:
    four = federation(clips={"bias": 0, "weight": 2.0})
    result = four.start(rounds=2)
    assert not any(outcome.reason for outcome in four.strategy.outcomes)
    moved, kept = result.arrays["weight"].numpy().ravel(), result.arrays["bias"].numpy().ravel()
    np.testing.assert_array_equal(kept, four.initial[moved.size :])
    assert np.abs(moved - four.initial[: moved.size]).max() > 0
    assert result.train_metrics_clientapp[1]["qkd-key-bits"] == 6 * moved.size * 10


def test_a_clip_for_an_array_that_the_model_has_not_is_refused_before_the_first_round(
    federation: Make,
) -> None:
    four = federation(clips={"bn.*": 1.0})
    with pytest.raises(ValueError, match=r"no array of the model is called 'bn\.\*'"):
        four.start()
    assert not four.strategy.outcomes
