"""What the mod refuses although the server asks for it, before the app trains or a key is spent."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' in this folder")

from flwr.app import ConfigRecord, Context, RecordDict

from fl.carriers.flower.outcome import NoRoundCompletedError
from fl.carriers.flower.participant import SetupError, participant_of
from fl.carriers.flower.records import CONFIG, PAYLOAD, RoundAnnouncement, open_record, record_of
from fl.rounds.messages import Decline, Upload
from orchestrator.wire.codec import WireError, decode

Make = Callable[..., Any]


class Refusing:
    """One announced round, and a way to send client 0 a changed announcement."""

    def __init__(self, federation: Any) -> None:
        self.federation = federation
        self.trained: list[int] = []
        good = federation.update

        def update(context: Context, number: int) -> np.ndarray:
            self.trained.append(context.node_id)
            return good(context, number)

        federation.update = update
        self.messages = federation.announce()
        self.config = self.announcement.config

    def send(self, **changes: Any) -> Decline | Upload:
        message = self.messages[0]
        announcement = decode(message.content[CONFIG]["message"], RoundAnnouncement)
        changed = msgspec.structs.replace(announcement, **changes)
        message.content[CONFIG] = record_of(changed, b"")
        (reply,) = self.federation.send([message])
        assert not reply.has_error(), reply.error.reason
        answer: Decline | Upload = open_record(reply.content, Decline | Upload)[0]
        return answer

    @property
    def announcement(self) -> RoundAnnouncement:
        return decode(self.messages[0].content[CONFIG]["message"], RoundAnnouncement)

    def refuses(self, match: str, **changes: Any) -> None:
        answer = self.send(**changes)
        assert isinstance(answer, Decline)
        assert match in answer.reason
        assert answer.key_bits == 0
        assert not self.trained


@pytest.fixture
def refusing(federation: Make) -> Refusing:
    return Refusing(federation())


def test_a_round_number_is_used_once(federation: Make) -> None:
    four = federation()
    one = Refusing(four)
    assert isinstance(one.send(), Upload)
    one.trained.clear()
    one.messages = four.announce(2)
    one.refuses("round 1 does not come after round 1", round=1)
    assert isinstance(one.send(round=2), Upload)
    one.trained.clear()
    one.messages = four.announce(3)
    one.refuses("round 2 does not come after round 2", round=2)


def test_the_last_round_number_lies_in_the_context_of_flower(federation: Make) -> None:
    four = federation()
    one = Refusing(four)
    one.send()
    state = four.grid.contexts[100].state["qunetlab"]
    assert dict(state) == {"last-round": 1}
    state["last-round"] = "1"
    one.messages, one.trained = four.announce(2), one.trained
    one.trained.clear()
    one.refuses("memory of used round numbers is damaged")


def test_a_model_that_was_not_announced_to_all_is_refused(refusing: Refusing) -> None:
    """The digest is part of what clients agree on before a pad is released; the model must be the one it names."""
    refusing.refuses("not the one that was announced to all participants", model=bytes(32))


def test_a_number_is_spent_even_if_the_update_was_refused(federation: Make) -> None:
    four = federation()
    four.update = lambda context, number: np.full(37, np.inf, np.float32)
    one = Refusing(four)
    assert "not finite" in one.send().reason
    one.trained.clear()
    one.messages = four.announce(2)
    one.refuses("does not come after", round=1)


def test_other_participants_get_nothing(refusing: Refusing) -> None:
    refusing.refuses("asks for at least 3", participants=("client-0", "client-1"))
    refusing.refuses("in the run's order", participants=("client-1", "client-0", "client-2"))
    refusing.refuses("in the run's order", participants=("client-0", "client-1", "mallory"))
    refusing.refuses("client-0 is not among", participants=("client-1", "client-2", "client-3"))


def test_settings_are_checked_by_the_client_itself(refusing: Refusing) -> None:
    def config(**changes: Any) -> Any:
        return msgspec.structs.replace(refusing.config, **changes)

    refusing.refuses("wrap at a ring width of b = 9", config=config(ring_width=9))
    refusing.refuses("wants mode expanded, client-0 takes part in otp only", config=config(mode="expanded"))
    refusing.refuses("wants mode plain", config=config(mode="plain"))
    refusing.refuses("belongs to run flower-1", config=config(run_id="flower-1"))
    refusing.refuses("error feedback", config=config(error_feedback=True))
    refusing.refuses("36 finite values were announced", config=refusing.config, n_parameters=36)


def test_another_digest_is_no_part_of_the_sum(federation: Make) -> None:
    """A client that was told other settings masks under another context, and the server notices."""
    four = federation()
    one = Refusing(four)
    config = msgspec.structs.replace(one.announcement.config, clip=2.0)
    first = one.messages[0]
    first.content[CONFIG] = record_of(msgspec.structs.replace(one.announcement, config=config), b"")
    arrays, _ = four.strategy.aggregate_train(1, four.send(one.messages))
    assert arrays is None
    assert "agreed on another round context" in four.strategy.outcomes[0].reason


def test_rounds_with_proofs_come_to_the_same_sum(proved: Any) -> None:
    result = proved.start(rounds=2)
    got = np.concatenate([array.numpy().ravel() for array in result.arrays.values()])
    np.testing.assert_array_equal(got, proved.expected(2))
    assert proved.strategy.outcomes[0].key_supply == "node"


def test_a_restarted_supernode_takes_the_place_of_the_one_that_was_killed(proved: Any) -> None:
    """Flower calls the killed one connected for another minute; nothing is sent to it any more."""
    proved.start()
    grid = proved.grid
    grid.apps[200], grid.contexts[200] = grid.apps[102], copy.copy(grid.contexts[102])
    grid.contexts[200].node_id, grid.contexts[200].state = 200, RecordDict()
    grid.connected.append(200)
    grid.deliver = lambda message: None if message.metadata.dst_node_id == 102 else message
    proved.start()
    assert [outcome.reason for outcome in proved.strategy.outcomes] == ["", ""]
    assert proved.strategy.roster.nodes["client-2"] == 200
    assert grid.connected == [100, 101, 102, 103, 200]


def test_without_proofs_nobody_takes_a_place(federation: Make) -> None:
    four = federation()
    four.start()
    four.grid.apps[200], four.grid.contexts[200] = four.grid.apps[102], four.grid.contexts[102]
    four.grid.connected.append(200)
    four.start()
    assert four.strategy.roster.nodes["client-2"] == 102
    assert [outcome.reason for outcome in four.strategy.outcomes] == ["", ""]


def test_a_supernode_that_was_put_right_is_greeted_again(proved: Any) -> None:
    right = proved.grid.contexts[103].run_config
    proved.grid.contexts[103].run_config = {**right, "mode": "plain"}
    with pytest.raises(
        NoRoundCompletedError, match=r"the run pauses: client-3 missing.*correlation about \.8"
    ):
        proved.start()
    proved.grid.contexts[103].run_config = right
    proved.start()
    assert [len(outcome.participants) for outcome in proved.strategy.outcomes] == [4]


def test_a_changed_upload_lacks_the_proof(proved: Any) -> None:
    replies = proved.send(proved.announce())
    record = replies[1].content[PAYLOAD]["bytes"]
    record.data = bytes([record.data[0] ^ 1]) + record.data[1:]
    arrays, _ = proved.strategy.aggregate_train(1, replies)
    assert arrays is None
    assert "client-1 declined: the message does not carry the proof" in proved.strategy.outcomes[0].reason


def test_a_changed_announcement_lacks_the_proof(proved: Any) -> None:
    messages = proved.announce()
    record = messages[0].content[CONFIG]
    announcement = decode(record["message"], RoundAnnouncement)
    changed = msgspec.structs.replace(announcement, participants=announcement.participants[:3])
    messages[0].content[CONFIG] = record_of(changed, record["tag"])
    (reply,) = proved.send(messages[:1])
    answer, _, _ = open_record(reply.content, Decline)
    assert "does not carry the proof" in answer.reason


def test_a_training_message_without_our_record_is_never_trained(federation: Make) -> None:
    four = federation()
    one = Refusing(four)
    del one.messages[0].content[CONFIG]
    (reply,) = four.send(one.messages[:1])
    assert reply.has_error()
    assert "no qunetlab record" in reply.error.reason
    assert not one.trained


def test_damaged_records_are_wire_errors() -> None:
    with pytest.raises(WireError, match="no qunetlab record"):
        open_record(RecordDict(), Decline)
    with pytest.raises(WireError, match="incomplete"):
        open_record(RecordDict({CONFIG: ConfigRecord({"message": b"x"})}), Decline)
    with pytest.raises(WireError, match="malformed"):
        open_record(RecordDict({CONFIG: ConfigRecord({"message": b"\xc1", "tag": b""})}), Decline)


# -- where keys come from ------------------------------------------------------------------------------


def context_with(node: dict[str, Any], run: dict[str, Any]) -> Context:
    return Context(1, 2, node, RecordDict(), run)


@pytest.mark.parametrize(
    ("node", "run", "text"),
    [
        ({"partition-id": 0}, {}, "names no user"),
        ({"partition-id": 0}, {"key-supply": "node"}, "names no user"),
        ({}, {"key-supply": "simulated"}, "partition-id"),
        ({"user": "alice"}, {"key-supply": "simulated"}, "keys of its node only"),
        ({"user": "alice"}, {}, "names no testbed file"),
        ({"user": "alice", "testbed": "/nowhere.toml"}, {}, "cannot read the testbed file"),
        ({"partition-id": 0}, {"key-supply": "free"}, "it is 'node' or 'simulated'"),
        ({"partition-id": 0}, {"key-supply": "simulated", "mode": "plain"}, "mode = 'plain'"),
        ({"partition-id": 0}, {"key-supply": "simulated", "min-participants": 1}, "at least 2"),
    ],
)
def test_keys_are_simulated_only_where_somebody_says_so(
    node: dict[str, Any], run: dict[str, Any], text: str
) -> None:
    with pytest.raises(SetupError, match=text):
        participant_of(context_with(node, run))
