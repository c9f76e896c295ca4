"""A server that does not keep to the run that was consented to: nothing is trained, and no pad is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' in this folder")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict

from fl.carriers.flower.arrays import ModelShapeError, flatten, rounded
from fl.carriers.flower.handed import handed_digest, task_name
from fl.carriers.flower.identity import client_bond
from fl.carriers.flower.outcome import NoRoundCompletedError
from fl.carriers.flower.participant import Participant, participant_of
from fl.carriers.flower.records import (
    CONFIG,
    PAYLOAD,
    RoundAnnouncement,
    beside_digest,
    open_record,
    record_of,
)
from fl.carriers.flower.roster import Roster
from fl.carriers.flower.secure_run import SecureRun
from fl.carriers.flower.strategy import QkdFedAvg
from fl.carriers.flower.training import quantise
from fl.keys.node import NodeKeys
from fl.modes.base import model_digest
from fl.rounds.aggregation import aggregation_for
from fl.rounds.messages import Decline, Shares, Upload
from orchestrator.delivery.consent_book import ConsentBook, read_run_file
from orchestrator.delivery.errors import OtherTermsError
from orchestrator.wire.codec import decode, encode
from orchestrator.wire.curve import generate_keys

Make = Callable[..., Any]
RUN = 0xABCDEF
replace = msgspec.structs.replace


@dataclasses.dataclass
class AskedNode:
    """The node of one user: everything that is asked of it is noted, pads are simulated."""

    inner: Any
    asked: list[str]

    def __getattr__(self, name: str) -> Any:
        self.asked.append(name)
        return getattr(self.inner, name)


@dataclasses.dataclass(frozen=True)
class User(Participant):
    """A participant with keys and consents of its own, whose node is a :class:`AskedNode`."""

    asked: list[str] = dataclasses.field(default_factory=list)

    @contextmanager
    def node_keys(self) -> Iterator[NodeKeys]:
        simulated = dataclasses.replace(self, keys=None)
        with Participant.node_keys(simulated) as keys:
            yield NodeKeys(AskedNode(keys.delivery, self.asked), self.user, self.journal_folder)


class Lab:
    """Four users whose operators consented to run ``spring``, and a server that has their bonds."""

    def __init__(self, federation: Any, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.federation, self.grid, self.users = federation, federation.grid, federation.users
        self.server, self.keys = generate_keys(), {user: generate_keys() for user in federation.users}
        self.trained: list[int] = []
        self.asked: dict[str, list[str]] = {user: [] for user in self.users}
        self.settings = {"meeting_s": 0.0, "pause_s": 0.0, "seed": 3, "wait_timeout_s": 0.2, **settings}
        update = federation.update

        def counted(context: Context, number: int) -> np.ndarray:
            self.trained.append(context.node_id)
            values: np.ndarray = update(context, number)
            return values

        federation.update = counted
        monkeypatch.setattr("fl.carriers.flower.mod.participant_of", self.participant)
        self.strategy = self.new_strategy()

    def participant(self, context: Context) -> Participant:
        plain = participant_of(context)
        keys = self.keys[plain.user]
        fields = {each.name: getattr(plain, each.name) for each in dataclasses.fields(plain)}
        fields.update(key_supply="node", bond=client_bond(keys, self.server.public), keys=keys)
        return User(**fields, asked=self.asked[plain.user])

    def new_strategy(self, **settings: Any) -> QkdFedAvg:
        roster = Roster.of_testbed({user: keys.public for user, keys in self.keys.items()}, self.server)
        run_config = self.grid.contexts[100].run_config
        chosen = SecureRun(**{"run_id": "spring", "answer_timeout_s": 0.0, **self.settings, **settings})
        folder = self.federation.folder / "server"
        return QkdFedAvg(chosen, roster, folder, min_available_nodes=4, run_config=run_config)

    def book(self, user: str) -> ConsentBook:
        return ConsentBook(self.federation.folder / "client" / user / "journal")

    def consent(self, rounds: int = 3) -> None:
        """Every operator reads the run file that the server app leaves, and agrees."""
        with pytest.raises(NoRoundCompletedError, match="has not consented to run spring with description"):
            self.start(rounds)
        for user in self.users:
            description = read_run_file(self.federation.folder / "server" / "run-spring.json")
            offered = self.book(user).folder / "offered-spring.json"
            assert read_run_file(offered) == description
            self.book(user).give(user, description)
        assert not self.trained
        assert not any(self.asked.values())
        for context in self.grid.contexts.values():
            context.state = RecordDict()  # the next Flower run begins

    def start(
        self, rounds: int = 3, strategy: QkdFedAvg | None = None, model: np.ndarray | None = None
    ) -> Any:
        arrays = self.federation.arrays(self.federation.initial if model is None else model)
        return (strategy or self.strategy).start(self.grid, arrays, num_rounds=rounds, timeout=5)

    def refused(self, message: Message) -> str:
        """What client 0 says to a message, which must have cost nothing."""
        self.trained.clear()
        self.asked["client-0"].clear()
        (reply,) = self.grid.send_and_receive([message])
        assert not reply.has_error(), reply.error.reason
        answer = open_record(reply.content, Decline | Upload | Shares)[0]
        assert isinstance(answer, Decline), answer
        assert not self.trained
        assert not self.asked["client-0"]
        assert (answer.key_bits, set(reply.content)) == (0, {CONFIG})
        return answer.reason

    def forged(self, message: Message, **changes: Any) -> Message:
        """The message with a changed announcement, with what is beside it, under the server's own proof."""
        order = decode(message.content[CONFIG]["message"], RoundAnnouncement)
        content = RecordDict({**message.content, **changes.pop("beside", {})})
        order = replace(order, **changes)
        sums = content[PAYLOAD]["bytes"].data if PAYLOAD in content else b""
        proof = self.strategy.roster.tag("client-0", RUN, encode(order), beside_digest(sums))
        content[CONFIG] = record_of(order, proof)
        return Message(content, dst_node_id=100, message_type="train", group_id="1")

    def message(self, number: int = 1, model: np.ndarray | None = None) -> Message:
        """What the server sends client 0 in a round, not sent yet."""
        arrays = self.federation.arrays(self.federation.initial if model is None else model)
        messages = self.strategy.configure_train(number, arrays, ConfigRecord(), self.grid)
        return next(iter(messages))


@pytest.fixture
def lab(federation: Make, monkeypatch: pytest.MonkeyPatch) -> Lab:
    """Four operators who consented to three rounds of run ``spring`` in mode otp."""
    one = Lab(federation(), monkeypatch)
    one.consent()
    return one


def ulp(model: np.ndarray) -> np.ndarray:
    """The model, one of its values one unit in the last place further."""
    moved = model.copy()
    moved[7] = np.nextafter(moved[7], np.float32(np.inf))
    return moved


@pytest.mark.parametrize("mode", ["otp", "expanded", "lightsecagg"])
def test_a_run_that_all_consented_to_moves_by_the_mean_and_every_client_follows_it(
    federation: Make, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    lab = Lab(federation(run_config={"mode": mode}), monkeypatch, mode=mode)
    lab.consent()
    result = lab.start()
    got = flatten(result.arrays)
    outcomes = lab.strategy.outcomes[-3:]  # before them are those to which nobody had consented
    assert [(outcome.reason, outcome.key_supply) for outcome in outcomes] == [("", "node")] * 3
    expected, numbers = lab.federation.initial.copy(), [outcome.round for outcome in outcomes]
    for number in numbers:
        changes = [lab.federation.update(lab.grid.contexts[node], number) for node in lab.grid.connected]
        expected += np.clip(np.stack(changes), -1, 1).mean(axis=0)
    assert np.abs(got - expected).max() < 3 / 127  # rounding is each client's own, and unbiased
    run = lab.strategy._published.aggregation.run
    for user in lab.users:  # they have the sums of all rounds but the last, which comes with the next
        position = lab.book(user).position(run)
        assert (position.completed, position.round) == (2, numbers[1])
    with pytest.raises(NoRoundCompletedError):
        lab.start(rounds=3)  # from the first model again


def refusals(lab: Lab) -> Iterator[tuple[str, Message, str]]:
    """(name, message, why it is refused) for every way of not keeping to the description in round 1."""
    message = lab.message()
    config = decode(message.content[CONFIG]["message"], RoundAnnouncement).config

    def other(**changes: Any) -> Message:
        return lab.forged(message, config=replace(config, **changes))

    three = lab.users[:3]
    none = "has not consented"
    yield "another run id", other(run_id="spring-2"), none
    yield "another seed", other(seed=4), none
    yield "other weights", other(weights=(1, 1, 1, 2), ring_width=11), none
    yield "another clip", other(clip=0.5), none
    yield "a clip one ulp further", other(clip=float(np.nextafter(1.0, 2.0))), none
    yield "other levels", other(levels=126), none
    yield "a wider ring", other(ring_width=12), none
    yield "a fingerprint that nobody can compare", other(task_fingerprint="beef"), "has a fingerprint"
    yield "fewer parameters", other(keep=0.5), none
    yield "more rounds", other(rounds=4), none
    fewer = replace(config, clients=three, weights=(), ring_width=0)
    yield "a run of fewer users", lab.forged(message, config=fewer, participants=three), none
    yield "a smaller set", lab.forged(message, participants=three), "(client-3 missing)"
    yield "a number far ahead", lab.forged(message, round=31), "the app would be told another round"
    moved = ulp(lab.federation.initial)
    digest = model_digest(moved)
    beside = {"arrays": lab.federation.arrays(moved)}
    first = lab.forged(message, beside=beside, model=digest, first_model=digest)
    yield "another first model", first, none
    yield "a one-ulp model", lab.forged(message, beside=beside, model=digest), "its model does not follow"
    hidden = lab.forged(message, beside=beside)
    yield "a one-ulp model under the digest of the other", hidden, "not the one that was announced"


def test_whatever_is_not_as_it_was_consented_to_is_refused_before_anything_is_trained(lab: Lab) -> None:
    for name, message, why in refusals(lab):
        lab.grid.contexts[100].state = RecordDict()  # each of them in a Flower run of its own
        assert why in lab.refused(message), name
    lab.grid.contexts[100].state = RecordDict()
    (reply,) = lab.grid.send_and_receive([lab.message()])
    assert isinstance(open_record(reply.content, Upload | Decline)[0], Upload)


def test_a_second_run_under_another_name_is_compared_with_the_first(lab: Lab) -> None:
    """What its app learns from is the server's word alone, so another word for it hides nobody's absence."""
    offered = read_run_file(lab.federation.folder / "server" / "run-spring.json")
    second = lab.new_strategy(run_id="autumn", app="leaves", users=lab.users[:3])
    with pytest.raises(NoRoundCompletedError):
        lab.start(strategy=second)
    without = read_run_file(lab.federation.folder / "server" / "run-autumn.json")
    assert (offered.data, without.data) == ("flower", "leaves")
    with pytest.raises(OtherTermsError, match="client-3 took part in one of them only"):
        lab.book("client-0").give("client-0", without)


def test_what_the_app_is_handed_is_part_of_the_run(lab: Lab) -> None:
    """Clients that train at a rate of 0 would leave the sum to the one that does not."""
    message = lab.message()
    order = decode(message.content[CONFIG]["message"], RoundAnnouncement)
    handed = {
        "a learning rate": {"config": ConfigRecord({"server-round": 1, "lr": 0.0})},
        "one more record": {"more": ConfigRecord({"only": "client-0"})},
        "a record with a name of ours": {"qunetlab": ConfigRecord({"only": "client-0"})},
        "metrics": {"more": MetricRecord({"only": 0})},
        "a counter beside the model": {
            "arrays": ArrayRecord({**message.content["arrays"], "steps": Array(np.zeros(2, np.int64))})
        },
        "arrays of another shape": {
            "arrays": ArrayRecord({"weight": Array(lab.federation.initial)}),
        },
        "arrays under other names": {
            "arrays": ArrayRecord({f"_{name}": array for name, array in message.content["arrays"].items()})
        },
    }
    for number in (order.round + 1, float(order.round), str(order.round)):
        lab.grid.contexts[100].state = RecordDict()
        beside = {"config": ConfigRecord({"server-round": number})}
        assert "told another round" in lab.refused(lab.forged(message, beside=beside)), number
    for name, beside in handed.items():
        lab.grid.contexts[100].state = RecordDict()
        assert "the records for the app" in lab.refused(lab.forged(message, beside=beside)), name
        content = RecordDict(
            {key: value for key, value in {**message.content, **beside}.items() if key != CONFIG}
        )
        digest = handed_digest(content)
        lab.grid.contexts[100].state = RecordDict()
        told = lab.forged(message, beside=beside, handed=digest)
        assert "does not name what its app is handed" in lab.refused(told), name
        task = task_name("flower", digest, order.settings)
        lab.grid.contexts[100].state = RecordDict()
        described = lab.forged(message, beside=beside, handed=digest, config=replace(order.config, task=task))
        assert "has not consented" in lab.refused(described), name
    lab.grid.contexts[100].state = RecordDict()
    lab.grid.contexts[100].run_config["lr"] = 0.0
    assert "the run configuration of this node's app" in lab.refused(message)


def test_shares_protect_no_update_of_an_app_that_was_handed_something_else(
    federation: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model comes after the shares: what it comes with is looked at then."""
    lab = Lab(federation(run_config={"mode": "lightsecagg"}), monkeypatch, mode="lightsecagg")
    lab.consent()
    message = lab.message()
    number = message.content["config"]["server-round"]
    message.content["config"] = ConfigRecord({"server-round": number, "lr": 0.0})
    assert "the records for the app" in lab.refused(message)


def test_a_model_that_does_not_follow_from_the_sum_is_refused(lab: Lab) -> None:
    """In round 2: the first model once more, the right one but for one ulp, and one that follows another sum."""
    first = lab.message()
    replies = lab.grid.send_and_receive(
        list(lab.strategy._open.messages(lab.strategy.roster, _content(first)))
    )
    arrays, _ = lab.strategy.aggregate_train(1, replies)
    model = flatten(arrays)
    state = dict(lab.grid.contexts[100].state)
    positions = lab.book("client-0").folder

    def ask(changed: np.ndarray, **changes: Any) -> str:
        lab.grid.contexts[100].state = RecordDict(dict(state))
        message = lab.message(2, model)
        beside = {"arrays": lab.federation.arrays(changed), **changes.pop("beside", {})}
        return lab.refused(lab.forged(message, beside=beside, model=model_digest(changed), **changes))

    message = lab.message(2, model)
    sums = decode(message.content[CONFIG]["message"], RoundAnnouncement).catch_up
    assert [(head.round, head.survivors) for head in sums.sums] == [(4, lab.users)]
    before = {path.name: path.read_bytes() for path in positions.glob("position-*")}
    for cut in (bytes(3), message.content[PAYLOAD]["bytes"].data + b"x"):
        short = {PAYLOAD: ArrayRecord({"bytes": Array("uint8", (len(cut),), "qunetlab.bytes", cut)})}
        assert "not of the size" in ask(model, beside=short)
    strangers = replace(sums, sums=(replace(sums.sums[0], survivors=(*lab.users[:3], "mallory")),))
    assert "clients outside it" in ask(model, catch_up=strangers)
    fewer = replace(sums, sums=(replace(sums.sums[0], survivors=lab.users[:3]),))
    assert "3 clients, not of 4" in ask(model, catch_up=fewer)
    assert {path.name: path.read_bytes() for path in positions.glob("position-*")} == before
    assert "its model does not follow" in ask(lab.federation.initial)
    assert "its model does not follow" in ask(ulp(model))
    lab.grid.contexts[100].state = RecordDict(dict(state))
    (reply,) = lab.grid.send_and_receive([lab.message(2, model)])
    assert isinstance(open_record(reply.content, Upload | Decline)[0], Upload)


def _content(message: Message) -> RecordDict:
    return RecordDict(
        {name: record for name, record in message.content.items() if name not in (CONFIG, PAYLOAD)}
    )


def test_what_happened_to_a_nodes_files_is_told_without_their_place(lab: Lab) -> None:
    """A consent that was edited, or another user's: the server hears that there is a fault, the log says where."""
    message = lab.message()
    (path,) = lab.book("client-0").folder.glob("consent-*.json")
    whole = path.read_text()
    path.write_text(whole.replace('"clip": 1.0', '"clip": 2.0'))
    reason = lab.refused(message)
    assert str(path.parent) not in reason
    assert "the log of its node says which" in reason
    path.write_text(whole.replace('"user": "client-0"', '"user": "client-1"'))
    lab.grid.contexts[100].state = RecordDict()
    assert "is not client-0's" in lab.refused(message)
    path.unlink()
    lab.grid.contexts[100].state = RecordDict()
    assert "has not consented" in lab.refused(message)


def test_rounding_is_each_clients_own_and_a_simulations_repeats(lab: Lab) -> None:
    order = decode(lab.message().content[CONFIG]["message"], RoundAnnouncement)
    update = np.full(37, 0.0031, np.float32)
    context = lab.grid.contexts[100]
    own, simulated = lab.participant(context), participant_of(context)

    def drawn(participant: Participant) -> list[bytes]:
        return [quantise(update, order, participant)[0].tobytes() for _ in range(8)]

    assert len(set(drawn(own))) == 8
    assert len(set(drawn(simulated))) == 1


def test_a_missing_user_pauses_the_run_and_it_goes_on_when_it_is_back(lab: Lab, caplog: Any) -> None:
    good = lab.grid.connected[:]
    lab.grid.connected = good[:3]
    with pytest.raises(NoRoundCompletedError, match=r"the run pauses: client-3 missing") as ended:
        lab.start()
    assert "every operator consents after reading this" in str(ended.value)
    assert not lab.trained
    assert not any(lab.asked.values())
    lab.grid.connected = good
    assert lab.start().arrays
    assert lab.strategy.outcomes[-1].participants == lab.users


def test_a_round_that_is_skipped_has_no_figures_of_another(lab: Lab) -> None:
    """Client 3 goes after the first round: the two that follow have not been, and must not look as if."""
    seen: list[set[str]] = []
    update = lab.federation.update

    def leaves(context: Context, number: int) -> np.ndarray:
        seen.append(set(lab.grid.sent[-1].content) - {"arrays", "config"})
        if context.node_id == 103:
            lab.grid.connected = lab.grid.connected[:3]
        values: np.ndarray = update(context, number)
        return values

    lab.federation.update = leaves
    result = lab.start()
    assert len(lab.strategy.outcomes) == 3 + 1  # to three nobody had consented
    assert list(result.train_metrics_clientapp) == [1]
    assert seen == [set()] * 4  # of the message, the app gets the model and its settings


def test_shares_go_on_without_a_client_which_catches_up(
    federation: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Client 2 sees nothing of rounds 1 and 2, not even the first model."""
    lab = Lab(federation(run_config={"mode": "lightsecagg"}), monkeypatch, mode="lightsecagg")
    lab.consent()
    lab.grid.deliver = lambda message: (
        None if message.metadata.dst_node_id == 102 and message.metadata.group_id in ("5", "4") else message
    )
    result = lab.start()
    outcomes = lab.strategy.outcomes
    assert [outcome.reason for outcome in outcomes[-3:]] == ["", "", ""]
    assert [outcome.dropped for outcome in outcomes[-3:]] == [("client-2",), ("client-2",), ()]
    assert all("correlation about .8" in outcome.leak for outcome in outcomes[-3:-1])
    assert not outcomes[-1].leak
    run = lab.strategy._published.aggregation.run
    positions = {lab.book(user).position(run).model for user in lab.users}
    assert len(positions) == 1
    assert result.arrays


def test_a_share_of_the_users_is_drawn_where_sums_may_differ_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every round is one of all users"):
        QkdFedAvg(SecureRun(), Roster(None), tmp_path, fraction_train=0.5)
    assert QkdFedAvg(SecureRun(mode="lightsecagg"), Roster(None), tmp_path, fraction_train=0.5)


def test_values_that_no_digest_covers_are_no_model() -> None:
    double = ArrayRecord({"w": Array(np.array([0.1, 0.2]))})
    with pytest.raises(ModelShapeError, match="no float32"):
        flatten(double)
    np.testing.assert_array_equal(flatten(rounded(double)), np.array([0.1, 0.2], np.float32))
    assert rounded(double)["w"].numpy().dtype == np.float64
    with pytest.raises(ModelShapeError, match="float16"):
        rounded(ArrayRecord({"w": Array(np.zeros(2, np.float16))}))


def test_settings_written_as_whole_numbers_are_one_run() -> None:
    users = ("a", "b", "c")
    one, other = SecureRun(clip=1, keep=1), SecureRun(clip=1.0, keep=1.0)
    first, digest = [run.config("spring", users) for run in (one, other)], bytes(32)
    assert encode(first[0]) == encode(first[1])
    assert len({aggregation_for(config, 9, digest).run for config in first}) == 1


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        ({"weights": {"d": 2}}, "weights are given to d, who takes no part: a, b, c do"),
        ({"weights": {"a": 0}}, "weights of a is 0: it must be at least 1"),
        ({"weights": {"b": 1 << 40}}, "weights of b is 1099511627776"),
        ({"app": "x" * 21}, "1 to 20 letters"),
        ({"app": "digits@home"}, "1 to 20 letters"),
        ({"users": ("a", "a", "b")}, "named twice"),
    ],
)
def test_settings_that_are_no_run_are_refused_by_name(chosen: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SecureRun(**chosen).config("spring", ("a", "b", "c"))
