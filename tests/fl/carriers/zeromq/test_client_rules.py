"""A client facing a server that lies: it gives nothing away, whatever it is told.

The server here is scripted; the client, its link and its masking are real.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from fl.carriers.zeromq.link import ServerRefusedError
from fl.rounds.client_rules import ClientRefusesError, ClientRules
from fl.rounds.config import FLConfig
from fl.rounds.messages import (
    PROTOCOL_VERSION,
    Answer,
    Confirm,
    Confirmed,
    Decline,
    Join,
    JoinAgain,
    Leave,
    PeerShares,
    Progress,
    Ready,
    Rejected,
    RoundEnd,
    RunEnd,
    Shares,
    Survivors,
    Upload,
    Welcome,
    header_of,
    read_uint8,
)
from orchestrator.delivery.masking import add_packed, unpack_values
from orchestrator.wire.codec import encode

EVERYBODY = ("alice", "bob", "charlie", "dora")


def nothing_but_refusals(world: Any, server: Any, words: str) -> None:
    """Every client declines in these ``words``; nobody gives anything, no node was asked, no pad was released."""
    declined: set[str] = set()
    while declined < set(world.names):
        received = server.receive(10.0)
        assert received is not None
        name, message, _ = received
        assert not isinstance(message, Upload | Shares)
        if isinstance(message, Decline):
            assert words in message.reason
            declined.add(name)
    assert world.network.asked == {}
    assert world.network.released == []


def test_two_different_participant_sets_never_give_a_sum(world: Any, server: Any) -> None:
    """Told {a, b, c} and {a, b, d}, nobody uploads anything and no pad is released."""
    for name in world.names:
        server.welcome(name)
    server.start("alice", 1, ("alice", "bob", "charlie"))
    server.start("charlie", 1, ("alice", "bob", "charlie"))
    server.start("bob", 1, ("alice", "bob", "dora"))
    server.start("dora", 1, ("alice", "bob", "dora"))
    nothing_but_refusals(world, server, "leaves out")


@pytest.mark.parametrize("mode", ["otp", "expanded", "lightsecagg"])
def test_clients_that_were_sent_different_models_release_no_pad(world: Any, server: Any, mode: Any) -> None:
    """From a model that cannot be trained three clients send zeros: the sum would be dora's update alone."""
    world.settings(mode=mode)
    for name in world.names:
        server.welcome(name, rules=ClientRules(mode=mode))
    for name in world.names:
        server.start(name, 1, world.names, model=np.full(37, float(name == "dora"), np.float32))
    nothing_but_refusals(world, server, "does not follow")


@pytest.mark.parametrize(("fewest", "said"), [(2, True), (3, False)])
def test_who_takes_part_in_rounds_of_two_is_told_what_the_other_learns(
    world: Any, server: Any, caplog: pytest.LogCaptureFixture, fewest: int, said: bool
) -> None:
    server.welcome("alice", rules=ClientRules(min_participants=fewest))
    assert ("tells each the update of the other" in caplog.text) == said


def test_a_server_that_proposes_too_few_colluders_is_left_alone() -> None:
    """With T = 0 one share of a mask says something about it, and any other client may pass it on."""

    def config(n: int, **changes: Any) -> FLConfig:
        names = tuple(f"c{index}" for index in range(n))
        return FLConfig(run_id="r", task="t", clients=names, mode="lightsecagg", **changes)

    rules = ClientRules(mode="lightsecagg")
    assert config(5, survivors=3).thresholds == (0, 3)
    with pytest.raises(ClientRefusesError, match="T = 0 colluding clients, c0 asks for 1"):
        rules.check_run("c0", config(5, survivors=3))
    rules.check_run("c0", config(5, survivors=4))
    rules.check_run("c0", config(3))
    ClientRules(mode="lightsecagg", colluders=0).check_run("c0", config(5, survivors=3))
    with pytest.raises(ClientRefusesError, match="c0 asks for 3"):
        ClientRules(mode="lightsecagg", colluders=3).check_run("c0", config(5, survivors=4))


def test_after_an_upload_no_second_participant_set_is_served(world: Any, server: Any) -> None:
    for name in world.names:
        server.welcome(name)
    uploads = {}
    for name in world.names:
        server.start(name, 1, world.names)
    for name in world.names:
        uploads[name] = server.expect(Upload, name)
    released = len(world.network.released)
    for name in ("alice", "bob", "charlie"):
        server.start(name, 1, ("alice", "bob", "charlie"))
        declined, _ = server.expect(Decline, name)
        assert "numbers are used once" in declined.reason
    assert len(world.network.released) == released


def test_the_same_announcement_again_gets_the_same_upload_again(world: Any, server: Any) -> None:
    for name in world.names:
        server.welcome(name)
    for name in world.names:
        server.start(name, 1, world.names)
    first = {name: server.expect(Upload, name) for name in world.names}
    server.start("bob", 1, world.names)
    assert server.expect(Upload, "bob") == first["bob"]
    total = None
    for message, buffer in first.values():
        packed = read_uint8(message.header, buffer or b"")
        total = packed if total is None else add_packed(total, packed, 37, 10)
    assert total is not None
    assert np.abs(unpack_values(total, 37, 10)).max() <= 4 * 127


@pytest.mark.parametrize("mode", ["otp", "expanded"])
def test_a_client_restarted_within_a_round_sends_what_it_masked_before(
    world: Any, server: Any, mode: Any
) -> None:
    world.settings(mode=mode)
    rules = ClientRules(mode=mode, min_participants=2)
    for name in world.names:
        server.welcome(name, rules=rules)
    for name in world.names:
        server.start(name, 1, world.names)
    first = {name: server.expect(Upload, name) for name in world.names}
    world.stop("dora")
    server.welcome("dora", rules=rules)
    server.start("dora", 1, world.names)
    upload, packed = first["dora"]
    again = msgspec.structs.replace(upload, losses=None)  # counted by the process that is gone
    assert server.expect(Upload, "dora") == (again, packed)
    assert world.tasks["dora"].trainings == 1
    world.stop("dora")
    server.welcome("dora", rules=rules)
    server.start("dora", 1, ("alice", "bob", "dora"))
    declined, _ = server.expect(Decline, "dora")
    assert "leaves out charlie" in declined.reason
    assert len(world.network.released) == 12


@pytest.mark.parametrize(
    ("participants", "changes", "words"),
    [
        (("alice", "bob"), {}, "asks for at least 3"),
        (("bob", "charlie", "dora"), {}, "not among the participants"),
        (("bob", "alice", "charlie"), {}, "in the run's order"),
        (("alice", "bob", "eve"), {}, "in the run's order"),
        (("alice", "alice", "bob"), {}, "in the run's order"),
        (("alice", "bob", "charlie"), {"weights": (1, 1)}, "2 weights for 3"),
        (("alice", "bob", "charlie"), {"weights": (1, 1, 3)}, "are not those of run test"),
        (("alice", "bob", "charlie"), {}, "leaves out dora"),
        (EVERYBODY, {"model": np.zeros(36, np.float32)}, "expected 37 finite values"),
        (EVERYBODY, {"model": np.full(37, np.nan, np.float32)}, "NaN or infinity"),
    ],
)
def test_a_round_that_is_not_as_it_should_be_is_declined(
    world: Any, server: Any, participants: tuple[str, ...], changes: dict[str, Any], words: str
) -> None:
    server.welcome("alice", rules=ClientRules(min_participants=3))
    server.start("alice", 1, participants, **changes)
    declined, _ = server.expect(Decline, "alice")
    assert words in declined.reason
    assert world.network.asked == {}


def test_an_end_of_the_round_before_masking_costs_nothing(world: Any, server: Any) -> None:
    server.welcome("alice")
    server.start("alice", 1, world.names)
    while True:
        received = server.receive(10.0)
        assert received is not None
        if isinstance(received[1], Progress) and received[1].phase == "waiting for peers":
            break
    server.send("alice", RoundEnd("test", 1, "bob vanished"))
    while True:
        message, _ = server.expect(Progress, "alice")
        if message.phase == "idle":
            break
    world.stop("alice")
    assert world.network.abandoned == [("alice", 1)]
    assert world.network.released == []


def test_a_refusal_that_passes_is_overcome(world: Any, server: Any) -> None:
    allowed = {keys.public: name for name, keys in world.client_keys.items()}
    server.gate.set_allowed({})
    world.start_client("alice")
    refused = "the server does not accept our key or name"
    world.wait_for(lambda: any(e.detail == refused for e in world.client_events), "the refusal")
    server.gate.set_allowed(allowed)
    server.expect(Join, "alice")


def test_changed_settings_of_a_run_end_the_client(world: Any, server: Any) -> None:
    server.welcome("alice")
    world.settings(clip=0.5)
    server.send("alice", Welcome(PROTOCOL_VERSION, world.announced))
    assert isinstance(world.outcome("alice"), ClientRefusesError)


def test_another_run_on_the_same_server_is_joined_afresh(world: Any, server: Any) -> None:
    server.welcome("alice")
    world.settings(run_id="second")
    world.consent("alice")
    server.send("alice", Welcome(PROTOCOL_VERSION, world.announced))
    ready, _ = server.expect(Ready, "alice")
    assert ready.run_id == "second"


def test_a_server_that_forgot_the_client_is_told_again(world: Any, server: Any) -> None:
    server.welcome("alice")
    server.send("alice", JoinAgain())
    server.expect(Join, "alice")
    server.send("alice", Welcome(PROTOCOL_VERSION, world.announced))
    server.expect(Ready, "alice")
    server.send("alice", RunEnd("test"))
    server.expect(Leave, "alice")
    assert world.outcome("alice").reason == ""


def test_an_interrupted_run_is_waited_for(world: Any, server: Any) -> None:
    server.welcome("alice")
    server.send("alice", RunEnd("test", "the server was stopped"))
    server.expect(Progress, "alice")
    assert "alice" not in world.outcomes
    assert world.stop("alice").reason == "stopped"
    server.expect(Leave, "alice")


def test_a_rejection_ends_the_client_with_the_reason(world: Any, server: Any) -> None:
    server.welcome("alice")
    server.send("alice", Rejected("wrong version"))
    error = world.outcome("alice")
    assert isinstance(error, ServerRefusedError)
    assert "wrong version" in str(error)


def test_garbage_from_the_server_is_dropped(world: Any, server: Any) -> None:
    server.welcome("alice")
    for frames in ([b"\xff" * 40], [b""], [encode(Join(1))], [encode(JoinAgain()), b"x", b"y"]):
        server.socket.send_multipart([server.routes["alice"], *frames])
    server.expect(Progress, "alice")
    assert "alice" not in world.outcomes


# -- secret shares -------------------------------------------------------------------------------------

SHARING = ClientRules(mode="lightsecagg")


class Sharing:
    """A scripted server in the middle of a lightsecagg round of four (T = 1, U = 3): it passes on what it likes."""

    def __init__(self, server: Any) -> None:
        self.server, self.world = server, server.world
        self.names = self.world.names
        self.world.settings(mode="lightsecagg")
        for name in self.names:
            server.welcome(name, rules=SHARING)
        for name in self.names:
            server.start(name, 1, self.names)

    def row(self, array: np.ndarray, sender: str, receiver: str) -> np.ndarray:
        return array[[name for name in self.names if name != sender].index(receiver)]

    def pass_on(self, kind: type[Any], collected: dict[str, np.ndarray]) -> None:
        for name in self.names:
            senders = tuple(peer for peer in collected if peer != name)
            rows = np.stack([self.row(collected[peer], peer, name) for peer in senders])
            self.server.send(name, kind("test", 1, senders, header_of(rows)), rows)

    def collect(self, kind: type[Any]) -> dict[str, np.ndarray]:
        received = {name: self.server.expect(kind, name) for name in self.names}
        return {
            name: read_uint8(message.header, buffer or b"") for name, (message, buffer) in received.items()
        }

    def up_to_uploads(self) -> None:
        self.pass_on(PeerShares, self.collect(Shares))
        self.collect(Upload)

    def ask(self, name: str, *survivors: str) -> None:
        self.server.send(name, Survivors("test", 1, self.names, self.names, survivors))


def test_a_client_killed_between_answer_and_sending_repeats_its_answer(world: Any, server: Any) -> None:
    sharing = Sharing(server)
    sharing.up_to_uploads()
    for name in world.names:
        sharing.ask(name, *world.names)
    sharing.pass_on(Confirmed, sharing.collect(Confirm))
    answers = sharing.collect(Answer)
    world.stop("dora")
    server.welcome("dora", rules=SHARING)
    sharing.ask("dora", *world.names)
    again, buffer = server.expect(Answer, "dora")
    assert again.survivors == world.names
    assert np.array_equal(read_uint8(again.header, buffer or b""), answers["dora"])
    sharing.ask("dora", "alice", "bob", "dora")
    declined, _ = server.expect(Decline, "dora")
    assert "bound to other survivors" in declined.reason


def test_two_lists_of_survivors_get_no_answer(world: Any, server: Any) -> None:
    sharing = Sharing(server)
    sharing.up_to_uploads()
    for name in ("alice", "bob"):
        sharing.ask(name, *world.names)
    for name in ("charlie", "dora"):
        sharing.ask(name, "alice", "bob", "charlie")
    sharing.pass_on(Confirmed, sharing.collect(Confirm))
    for name in world.names:
        declined, _ = server.expect(Decline, name)
        assert "2 clients are known to be bound to the survivors" in declined.reason
    sharing.ask("alice", "alice", "bob", "charlie")
    declined, _ = server.expect(Decline, "alice")
    assert "bound to other survivors" in declined.reason


def test_a_single_survivor_is_not_answered(world: Any, server: Any) -> None:
    """The sum of the shares of one client is a share of its mask."""
    sharing = Sharing(server)
    sharing.up_to_uploads()
    sharing.ask("alice", "bob")
    declined, _ = server.expect(Decline, "alice")
    assert "1 survivors would let the sum tell too much about each" in declined.reason


def test_a_restarted_client_makes_no_second_set_of_shares(world: Any, server: Any) -> None:
    sharing = Sharing(server)
    sharing.collect(Shares)
    released = len(world.network.released)
    world.stop("dora")
    server.welcome("dora", rules=SHARING)
    server.start("dora", 1, world.names)
    declined, _ = server.expect(Decline, "dora")
    assert "sealed before" in declined.reason
    assert declined.key_bits > 0
    sharing.ask("dora", *world.names)
    declined, _ = server.expect(Decline, "dora")
    assert "holds no shares of round 1" in declined.reason
    assert len(world.network.released) == released


def test_a_fault_of_the_clients_files_is_told_without_their_place(
    world: Any, server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A path names the user's account; the client's own log has it, the server hears that there is a fault."""
    sharing = Sharing(server)
    sharing.up_to_uploads()
    folder = world.folder / "journal" / "alice"
    (folder / ".answers.lock").mkdir()
    sharing.ask("alice", *world.names)
    declined, _ = server.expect(Decline, "alice")
    assert "see the log of alice" in declined.reason
    assert str(world.folder) not in declined.reason
    assert str(folder) in caplog.text


def test_the_same_announcement_again_gets_the_same_shares_again(world: Any, server: Any) -> None:
    sharing = Sharing(server)
    first = sharing.collect(Shares)
    server.start("bob", 1, world.names)
    message, buffer = server.expect(Shares, "bob")
    assert np.array_equal(read_uint8(message.header, buffer or b""), first["bob"])


def test_changed_shares_are_not_accepted(world: Any, server: Any) -> None:
    sharing = Sharing(server)
    shares = {name: rows.copy() for name, rows in sharing.collect(Shares).items()}
    sharing.row(shares["alice"], "alice", "bob")[0] ^= 1
    sharing.pass_on(PeerShares, shares)
    declined, _ = server.expect(Decline, "bob")
    assert "the share of alice was changed on its way" in declined.reason
    server.expect(Upload, "charlie")


def test_shares_of_strangers_or_of_another_shape_are_dropped(world: Any, server: Any) -> None:
    sharing = Sharing(server)
    shares = sharing.collect(Shares)
    rows = np.zeros((3, 58), np.uint8)
    for senders in (("alice", "bob", "eve"), ("alice", "bob"), ("alice", "bob", "dora")):
        server.send("dora", PeerShares("test", 1, senders, header_of(rows)), rows)
    server.send("dora", PeerShares("test", 9, ("alice", "bob", "charlie"), header_of(rows)), rows)
    sharing.pass_on(PeerShares, shares)
    server.expect(Upload, "dora")


def test_too_few_participants_for_the_thresholds_are_declined(world: Any, server: Any) -> None:
    world.settings(mode="lightsecagg", survivors=4)
    server.welcome("alice", rules=SHARING)
    server.start("alice", 1, ("alice", "bob", "charlie"))
    declined, _ = server.expect(Decline, "alice")
    assert "alice asks for at least 4" in declined.reason
    assert world.network.asked == {}
