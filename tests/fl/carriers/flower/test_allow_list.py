"""Nothing leaves a Flower client but by allow-list: messages, metrics, names, texts and metadata."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' in this folder")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from fl.carriers.flower.arrays import flatten
from fl.carriers.flower.identity import client_bond
from fl.carriers.flower.leaving import LARGEST_COUNT, METRICS, Told, read_told, told_of
from fl.carriers.flower.mod import qkd_secagg_mod
from fl.carriers.flower.outcome import NoRoundCompletedError
from fl.carriers.flower.participant import SetupError, participant_of
from fl.carriers.flower.records import (
    CONFIG,
    PAYLOAD,
    Evaluated,
    Evaluation,
    Hello,
    Introduction,
    beside_digest,
    open_record,
    record_of,
)
from fl.carriers.flower.roster import Roster
from fl.carriers.flower.secure_run import SecureRun
from fl.carriers.flower.strategy import QkdFedAvg
from fl.keys.node import KeyServiceError
from fl.modes.base import model_digest
from fl.rounds.client_rules import ClientRefusesError
from fl.rounds.messages import Decline, Upload
from orchestrator.delivery.errors import ConsentError, JournalError
from orchestrator.wire.codec import WireError, decode, encode
from orchestrator.wire.curve import generate_keys

Make = Callable[..., Any]
RUN = 0xABCDEF
SECRET = "s3cret-of-the-client"


def everything_in(message: Message) -> str:
    """All that Flower sends of a message, in one text."""
    found = [repr(sorted(message.metadata.__dict__.items()))]
    if message.has_error():
        return found[0] + repr(message.error)
    for name, record in message.content.items():
        found.append(name)
        for key, value in record.items():
            found += [key, repr(value)]
            if isinstance(value, Array):
                found += [value.dtype, value.stype, repr(value.shape), repr(value.data)]
    return "".join(found)


def talkative(message: Message) -> Message:
    """An app that puts what it knows into every place that a reply has."""
    numbers = [0.123456789, 0.5]
    model = next(iter(message.content.array_records.values()))
    content = RecordDict(
        {
            "arrays": ArrayRecord(dict(model)),
            "metrics": MetricRecord({"accuracy": 0.123456789, "loss": 0.123456789, SECRET: 1, "f1": numbers}),
            SECRET: MetricRecord({"recall": 3, "num-examples": 137}),
            "config": ConfigRecord({SECRET: SECRET, "weights": SECRET.encode(), "all": [SECRET]}),
            CONFIG: ConfigRecord({"message": SECRET.encode(), "tag": b"", "told": SECRET.encode()}),
            "qunetlab": ConfigRecord({SECRET: SECRET}),
        }
    )
    message.metadata.group_id = SECRET
    message.metadata.message_type = "query"
    message.metadata.ttl = 0.123456789
    message.metadata.dst_node_id = 123456789
    reply = Message(content, reply_to=message)
    reply.metadata.group_id = SECRET
    return reply


def deep(what: Any) -> Callable[[Message, Context], Message]:
    """An app in whose state something lies and that does ``what``."""

    def app(message: Message, context: Context) -> Message:
        context.state[SECRET] = ConfigRecord({SECRET: SECRET})
        reply: Message = what(message)
        return reply

    return app


def raises(error: BaseException) -> Callable[[Message], Message]:
    def app(message: Message) -> Message:
        raise error

    return app


def failed(message: Message) -> Message:
    return Message(Error(code=7, reason=SECRET), reply_to=message)


def keeps_all_back(message: Message) -> Message:
    return Message(RecordDict({SECRET: ConfigRecord({SECRET: SECRET})}), reply_to=message)


def sends_another_shape(message: Message) -> Message:
    names = list(next(iter(message.content.array_records.values())))
    strange = {name: Array(np.zeros((123456789 % 1000, 1), np.float32)) for name in names}
    return Message(
        RecordDict({"arrays": ArrayRecord({**strange, SECRET: Array(np.zeros(2))})}), reply_to=message
    )


TELLTALES = [
    talkative,
    raises(ValueError(SECRET)),
    raises(OSError(2, "gone", f"private/{SECRET}")),
    raises(KeyError(SECRET)),
    raises(type(SECRET, (RuntimeError,), {})("a class may be called anything")),
    failed,
    keeps_all_back,
    sends_another_shape,
]


def through_the_mod(federation: Any, message: Message, app: Any, node: int = 100) -> Message:
    return qkd_secagg_mod(message, federation.grid.contexts[node], app)


# -- what is asked --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "evaluate",
        "query",
        "evaluate.anything",
        "train.anything",
        "query.train",
        "get_parameters",
        "get_properties",
    ],
)
@pytest.mark.parametrize("ours", [False, True])
def test_what_the_server_of_the_testbed_did_not_ask_is_not_answered(
    proved: Any, kind: str, ours: bool
) -> None:
    """Whoever asks, with the record of a good announcement or without; the app is not even called."""
    announced = proved.announce()[0]
    content = RecordDict({"arrays": announced.content["arrays"]})
    if ours:
        content[CONFIG] = announced.content[CONFIG]
    message = Message(content, dst_node_id=100, message_type=kind)
    called: list[str] = []
    for context in (proved.grid.contexts[100], Context(RUN, 5, {}, RecordDict(), {})):
        with pytest.raises((ClientRefusesError, WireError)) as refused:
            qkd_secagg_mod(copy.deepcopy(message), context, lambda *_: called.append(kind))  # type: ignore[arg-type,return-value]
        assert SECRET not in str(refused.value)
    assert not called


def test_a_stranger_gets_no_introduction(proved: Any) -> None:
    """Nor does the server of another testbed, nor one who turns a proof of another greeting round."""
    roster = proved.strategy.roster
    assert roster.greet(proved.grid) == proved.users
    mine = Hello(b"n" * 32, tuple(bond.greeting(RUN, 100, b"n" * 32) for bond in roster.bonds.values()))
    strangers = [
        Hello(b"n" * 32),
        Hello(b"m" * 32, mine.proofs),
        Hello(b"n" * 32, tuple(bond.greeting(RUN, 101, b"n" * 32) for bond in roster.bonds.values())),
        Hello(b"n" * 32, tuple(bond.tag("to client", RUN, 100, b"n" * 32) for bond in roster.bonds.values())),
        Hello(
            b"n" * 32, (client_bond(generate_keys(), generate_keys().public).greeting(RUN, 100, b"n" * 32),)
        ),
    ]
    for hello in strangers:
        message = Message(RecordDict({CONFIG: record_of(hello, b"")}), dst_node_id=100, message_type="train")
        with pytest.raises(ClientRefusesError, match="does not carry the proof"):
            through_the_mod(proved, message, None)
    message = Message(RecordDict({CONFIG: record_of(mine, b"")}), dst_node_id=100, message_type="train")
    answer = open_record(through_the_mod(proved, message, None).content, Introduction)[0]
    assert answer.user == "client-0"


def test_a_record_of_another_format_is_told_from_none() -> None:
    with pytest.raises(WireError, match=r"of another format than 3: install the same qunetlab"):
        open_record(RecordDict({"qunetlab": ConfigRecord({"message": b"", "tag": b""})}), Decline)
    with pytest.raises(WireError, match="no qunetlab record"):
        open_record(RecordDict({"arrays": ArrayRecord()}), Decline)


# -- what is answered -----------------------------------------------------------------------------------


@pytest.mark.parametrize("app", TELLTALES, ids=range(len(TELLTALES)))
@pytest.mark.parametrize("mode", ["otp", "lightsecagg"])
def test_nothing_of_a_training_reply_leaves_but_the_protected_update(
    federation: Make, app: Any, mode: str
) -> None:
    public = ",".join(METRICS)
    four = federation(mode=mode, run_config={"mode": mode, "public-metrics": public})
    message = four.announce()[0]
    reply = through_the_mod(four, message, deep(app))
    said = everything_in(reply)
    assert SECRET not in said
    assert "123456789" not in said.replace("m123456789", "")
    assert "137" not in repr(reply.content[CONFIG].get("told", b""))
    assert set(reply.content) <= {CONFIG, PAYLOAD}
    assert set(reply.content[CONFIG]) <= {"message", "tag", "told"}
    answer = open_record(reply.content, Upload | Decline)[0]
    if app is talkative:
        assert isinstance(answer, Upload)
        told = decode(reply.content[CONFIG]["told"], Told).metrics
        assert told == {"accuracy": 0.1, "num-examples": 128.0}
        assert (reply.metadata.group_id, reply.metadata.message_type) == ("1", "train")
        assert reply.metadata.dst_node_id == message.metadata.src_node_id
    else:
        assert isinstance(answer, Decline)
        assert answer.reason.startswith("the app failed, or returned no model")


def test_an_update_of_no_numbers_is_declined_without_one(federation: Make) -> None:
    four = federation()
    four.update = lambda context, number: np.array([np.inf] * 36 + [-np.inf], np.float32)
    reply = four.send(four.announce()[:1])[0]
    assert open_record(reply.content, Decline)[0].reason == "the update is not finite"


def test_a_fault_of_the_node_names_no_place_on_it(
    proved: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client's own log does; the server hears that there is something to look for."""
    for error in (
        OSError(28, "No space left on device", f"private/{SECRET}"),
        _file_fault(JournalError),
        _file_fault(ConsentError),
        ValueError(SECRET),
    ):
        proved.strategy._open = None
        message = proved.announce()[0]

        def fails(*_: Any, error: Exception = error) -> Any:
            raise error

        monkeypatch.setattr("fl.carriers.flower.mod.protect_update", fails)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            reply = proved.send([message])[0]
        assert SECRET not in everything_in(reply)
        assert "the log of its node says which" in open_record(reply.content, Decline)[0].reason
        assert SECRET in caplog.text


def _file_fault(kind: type[Exception]) -> KeyServiceError:
    error = KeyServiceError(f"cannot read private/{SECRET}")
    error.__cause__ = kind(str(error))
    return error


def test_a_node_that_is_not_set_up_says_so_to_its_own_log(
    caplog: pytest.LogCaptureFixture, federation: Make
) -> None:
    four = federation()
    message = four.announce()[0]
    context = Context(RUN, 100, {"user": "alice", "testbed": f"private/{SECRET}.toml"}, RecordDict(), {})
    with pytest.raises(ClientRefusesError, match="the log of its node says which") as refused:
        qkd_secagg_mod(message, context, None)  # type: ignore[arg-type]
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
    assert SECRET in caplog.text


# -- metrics --------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.integers(), st.floats(), st.integers(0, 1 << 41), st.floats(0, 1), st.booleans(), st.just(10**400)
)
values = st.one_of(scalars, st.lists(st.floats(), max_size=3))
names = st.one_of(st.sampled_from(sorted(METRICS)), st.text(max_size=8), st.just("loss"))


class Metrics(dict[str, Any]):
    """A MetricRecord as an app could hand one over, whatever Flower checks."""


class Reply:
    def __init__(self, records: dict[str, dict[str, Any]]) -> None:
        self.metric_records = records


@given(st.dictionaries(st.text(max_size=4), st.dictionaries(names, values, max_size=5), max_size=3))
@settings(max_examples=150, deadline=None)
def test_only_single_coarse_numbers_under_names_of_ours_are_told(records: dict[str, dict[str, Any]]) -> None:
    told = told_of(Reply(records), frozenset(METRICS))  # type: ignore[arg-type]
    for key, value in told.metrics.items():
        assert type(value) is float
        if METRICS[key] is METRICS["num-examples"]:
            assert value in {0.0, *(float(1 << bit) for bit in range(41))}
            assert value <= LARGEST_COUNT
        else:
            assert value in {step / 20 for step in range(21)}
    assert read_told(encode(told)) == told.metrics


@pytest.mark.parametrize(
    "metrics", [{"loss": 0.5}, {"accuracy": 0.51}, {"num-examples": 137.0}, {SECRET: 1.0}]
)
def test_a_server_takes_no_finer_metrics_than_clients_tell(metrics: dict[str, float]) -> None:
    with pytest.raises(WireError, match="not those that a client may tell"):
        read_told(encode(Told(metrics)))


@pytest.mark.parametrize("chosen", ["loss", "accuracy,train-loss", "weights", "*"])
def test_nobody_can_make_a_loss_public(chosen: str) -> None:
    run = {"key-supply": "simulated", "public-metrics": chosen}
    with pytest.raises(SetupError, match="never is"):
        participant_of(Context(1, 2, {"partition-id": 0}, RecordDict(), run))


def test_metrics_that_were_changed_on_their_way_lack_the_proof(proved: Any) -> None:
    for node in proved.grid.contexts.values():
        node.run_config["public-metrics"] = "num-examples"
    replies = proved.send(proved.announce())
    assert decode(replies[1].content[CONFIG]["told"], Told).metrics == {"num-examples": 8.0}
    replies[1].content[CONFIG]["told"] = encode(Told({"num-examples": 16.0}))
    assert proved.strategy.aggregate_train(1, replies)[0] is None
    assert "client-1 declined: the message does not carry the proof" in proved.strategy.outcomes[0].reason


# -- evaluation -----------------------------------------------------------------------------------------


@pytest.fixture
def evaluating(proved: Any) -> Any:
    """The proved federation after one round, its clients ready to tell their accuracy."""
    for node in proved.grid.contexts.values():
        node.run_config["public-metrics"] = "accuracy"
    proved.asked = []

    def app(message: Message, context: Context) -> Message:
        proved.asked.append(context.node_id)
        return talkative(message)

    proved.grid.apps = {
        node: (lambda message, context, train=train: _either(message, context, train, app))
        for node, train in proved.grid.apps.items()
    }
    proved.strategy.fraction_evaluate = 1.0
    return proved


def _either(message: Message, context: Context, train: Any, evaluate: Any) -> Message:
    if message.metadata.message_type == "evaluate":
        return qkd_secagg_mod(message, context, evaluate)
    reply: Message = train(message, context)
    return reply


def test_clients_evaluate_under_the_bond_and_tell_what_is_public(evaluating: Any) -> None:
    replies: list[Message] = []
    evaluating.grid.answer = lambda reply: replies.append(reply) or reply
    result = evaluating.start(rounds=2)
    assert [dict(result.evaluate_metrics_clientapp[number]) for number in (1, 2)] == [{"accuracy": 0.1}] * 2
    assert len(evaluating.asked) == 2 * 4
    for reply in replies:
        assert SECRET not in everything_in(reply)
        assert isinstance(open_record(reply.content, Introduction | Upload | Evaluated)[0], msgspec.Struct)


def test_a_model_is_looked_at_once_after_its_round_and_no_other_is(evaluating: Any) -> None:
    evaluating.strategy.fraction_evaluate = 0.0
    model = evaluating.start().arrays
    evaluating.strategy.fraction_evaluate = 1.0
    strategy, grid = evaluating.strategy, evaluating.grid
    good = next(iter(strategy.configure_evaluate(1, model, ConfigRecord(), grid)))
    order = decode(good.content[CONFIG]["message"], Evaluation)
    sums = good.content[PAYLOAD]

    def ask(order: Evaluation, arrays: ArrayRecord = model, proof: bool = True) -> str:
        beside = beside_digest(sums["bytes"].data)
        tag = strategy.roster.tag("client-0", RUN, encode(order), beside) if proof else bytes(32)
        content = RecordDict({"arrays": arrays, PAYLOAD: sums, CONFIG: record_of(order, tag)})
        reply = grid.send_and_receive([Message(content, dst_node_id=100, message_type="evaluate")])[0]
        answer = open_record(reply.content, Evaluated | Decline)[0]
        return getattr(answer, "reason", "")

    replace = msgspec.structs.replace
    assert "does not carry the proof" in ask(order, proof=False)
    assert "round 1 was the last" in ask(replace(order, last=replace(order.last, round=2)))
    other = replace(order.last, config=replace(order.last.config, clip=2.0))
    assert "was described otherwise" in ask(replace(order, last=other))
    assert "not the one that was announced" in ask(replace(order, model=bytes(32)))
    moved = ArrayRecord(
        {name: Array(np.nextafter(array.numpy(), np.float32(9))) for name, array in model.items()}
    )
    assert "not the one that was announced" in ask(order, moved)
    digest = model_digest(flatten(moved))
    assert "does not follow from the last one" in ask(replace(order, model=digest), moved)
    assert not evaluating.asked
    assert ask(order) == ""
    assert "evaluated once after each" in ask(order)
    assert evaluating.asked == [100]


def test_clients_are_asked_for_no_evaluation_unless_somebody_says_so(tmp_path: Any) -> None:
    assert QkdFedAvg(SecureRun(), Roster(None), tmp_path).fraction_evaluate == 0.0


# -- what a run without a round comes to ------------------------------------------------------------------


def test_a_refused_uploads_key_counts_as_burnt(federation: Make) -> None:
    """Client 1 masks under another context: what it says it spent is gone, whoever else had masked."""
    four = federation()
    replies = four.send(four.announce())
    upload = open_record(replies[1].content, Upload)[0]
    replies[1].content[CONFIG] = record_of(msgspec.structs.replace(upload, context=bytes(32)), b"")
    four.strategy.aggregate_train(1, replies[1:2])
    (outcome,) = four.strategy.outcomes
    assert "client-1 declined" in outcome.reason
    assert outcome.key_bits == 3 * 370


@pytest.mark.parametrize("mode", ["otp", "lightsecagg"])
def test_a_run_in_which_no_round_came_to_a_sum_is_an_error_with_the_initial_model(
    federation: Make, mode: str
) -> None:
    four = federation(mode=mode, run_config={"mode": mode})
    four.grid.answer = lambda reply: reply if reply.metadata.group_id == "hello" else None
    with pytest.raises(NoRoundCompletedError, match=r"none of 2 rounds .* no reply in time") as ended:
        four.start(rounds=2)
    arrays = ended.value.result.arrays
    np.testing.assert_array_equal(
        np.concatenate([each.numpy().ravel() for each in arrays.values()]), four.initial
    )
    assert all(metrics["qkd-aborted"] for metrics in ended.value.result.train_metrics_clientapp.values())


def test_a_run_for_which_nobody_came_is_an_error_too(federation: Make) -> None:
    four = federation()
    four.grid.connected = []
    with pytest.raises(NoRoundCompletedError, match="no Flower node has introduced itself"):
        four.start()
    with pytest.raises(ValueError, match="at least one round"):
        four.start(rounds=0)
