"""The hub against peers that say anything: who they are follows from their keys."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import pytest

from orchestrator.hub.events import HubError, HubLimits, PeerDown, PeerMessage, PeerRefused, PeerUp
from orchestrator.hub.hub import Hub
from orchestrator.wire.agreed import Agreed
from orchestrator.wire.codec import WireError, encode
from orchestrator.wire.links import LinkState
from orchestrator.wire.messages import (
    CHUNK_BYTES,
    PROTOCOL_VERSION,
    WINDOW_BYTES,
    BulkHello,
    Credit,
    CreditReturn,
    Delivery,
    Demand,
    Heartbeat,
    Hello,
    LeaseOffer,
    PeerChange,
    Post,
    Refused,
    Shutdown,
    Superseded,
    Welcome,
    chunk_cost,
)


def events(hub: Hub, count: int) -> list[Any]:
    return [hub.recv(5.0) for _ in range(count)]


class SteppedClock:
    """A clock that only the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def step(self, by_s: float, peer: Any) -> bool:
        """Move on, and wait for the heartbeat that the hub then sends; False if none comes."""
        while peer.control.poll(0):
            peer.control.recv()
        self.now_s += by_s
        return bool(peer.control.poll(3000))


def test_a_peer_is_welcomed_with_the_epoch(hub_world: Any) -> None:
    alice = hub_world.raw("alice")
    alice.say(Hello("alice", PROTOCOL_VERSION, alice.instance))
    welcome = alice.hear()
    assert welcome == Welcome("alice", hub_world.hub.epoch, 0.5, 4.0)


def test_control_messages_arrive_with_the_name_of_the_key(hub_world: Any) -> None:
    hub_world.raw("alice").join().say(Demand("alice", "bob", 100))
    assert events(hub_world.hub, 2) == [PeerUp("alice"), PeerMessage("alice", Demand("alice", "bob", 100))]


def test_control_messages_go_to_the_one_they_are_meant_for(hub_world: Any) -> None:
    alice, bob = hub_world.raw("alice").join(), hub_world.raw("bob").join()
    hub_world.hub.send("bob", LeaseOffer(1, 1, "alice", "bob", 4))
    assert bob.hear() == LeaseOffer(1, 1, "alice", "bob", 4)
    assert alice.hear(100) is None


def test_frames_pass_unread_and_the_sender_is_not_what_it_claims(hub_world: Any) -> None:
    alice, bob = hub_world.raw("alice").join(), hub_world.raw("bob").join()
    alice.post(Post("bob", "topic", 0, more=True), b"\x00\xffanything")
    assert bob.get() == Delivery("alice", "topic", 0, more=True)
    assert bob.payload == b"\x00\xffanything"
    assert hub_world.hub.counters.frames == 1


def test_nothing_is_served_before_hello(hub_world: Any) -> None:
    alice = hub_world.raw("alice")
    alice.say(Demand("alice", "bob", 1))
    alice.post(Post("bob", "topic", 0), b"x")
    assert alice.hear().code == "hello-first"
    assert alice.get().code == "hello-first"
    assert hub_world.hub.recv(0.1) is None


def test_bulk_joins_only_the_process_that_said_hello(hub_world: Any) -> None:
    alice = hub_world.raw("alice")
    alice.say(Hello("alice", PROTOCOL_VERSION, alice.instance))
    alice.hear()
    alice.post(BulkHello("somebody-elses-instance"))
    assert alice.get().code == "hello-first"


def test_another_protocol_version_is_refused_with_both_numbers(hub_world: Any) -> None:
    alice = hub_world.raw("alice")
    alice.say(Hello("alice", PROTOCOL_VERSION + 1, alice.instance))
    refused = alice.hear()
    assert refused.code == "version"
    assert f"version {PROTOCOL_VERSION}" in refused.detail
    assert str(PROTOCOL_VERSION + 1) in refused.detail


@pytest.mark.parametrize(("to", "code"), [("mallory", "unknown-peer"), ("bob", "not-connected")])
def test_a_post_that_cannot_arrive_is_refused_to_its_sender(hub_world: Any, to: str, code: str) -> None:
    alice = hub_world.raw("alice").join()
    alice.post(Post(to, "topic", 0), b"x")
    refused = alice.get()
    assert (refused.code, refused.to, refused.topic) == (code, to, "topic")


def test_more_than_the_credit_is_refused_and_not_passed_on(hub_world: Any) -> None:
    alice, bob = hub_world.raw("alice").join(), hub_world.raw("bob").join()
    assert alice.get() == PeerChange("bob", True, 2)
    chunk = bytes(CHUNK_BYTES)
    for number in range(5):
        alice.post(Post("bob", "topic", number), chunk)
    assert alice.get().code == "credit"
    assert [bob.get().seq for _ in range(4)] == [0, 1, 2, 3]
    assert bob.get(200) is None
    bob.post(CreditReturn("alice", chunk_cost(CHUNK_BYTES)))
    assert alice.get() == Credit("bob", chunk_cost(CHUNK_BYTES))
    alice.post(Post("bob", "topic", 4), chunk)
    assert bob.get().seq == 4


def test_credit_is_kept_per_pair(hub_world: Any) -> None:
    alice, bob, carol = (hub_world.raw(role).join() for role in ("alice", "bob", "carol"))
    for number in range(WINDOW_BYTES // chunk_cost(CHUNK_BYTES)):
        alice.post(Post("bob", "topic", number), bytes(CHUNK_BYTES))
    alice.post(Post("carol", "topic", 0), b"still flows")
    assert isinstance(carol.get(), Delivery)
    carol.post(Post("bob", "topic", 0), b"flows too")
    changes_and_posts = [bob.get() for _ in range(6)]
    assert changes_and_posts[-1] == Delivery("carol", "topic", 0)


def test_a_frame_longer_than_a_chunk_is_refused(hub_world: Any) -> None:
    alice, bob = hub_world.raw("alice").join(), hub_world.raw("bob").join()
    alice.get()
    alice.post(Post("bob", "topic", 0), bytes(CHUNK_BYTES + 1))
    assert alice.get().code == "malformed"
    assert bob.get(100) is None


def test_frames_for_an_earlier_session_of_the_recipient_are_dropped(hub_world: Any) -> None:
    alice = hub_world.raw("alice").join()
    hub_world.raw("bob").join()
    first = alice.get()
    newer = hub_world.raw("bob")
    newer.instance = "b" * 32
    newer.join()
    assert alice.get() == PeerChange("bob", False, first.session, "replaced by a newer connection")
    second = alice.get()
    alice.post(Post("bob", "topic", 7, first.session), b"meant for the earlier one")
    alice.post(Post("bob", "topic", 0, second.session), b"meant for the new one")
    assert newer.get() == Delivery("alice", "topic", 0)
    assert hub_world.hub.counters.stale == 1


def test_the_newest_connection_of_a_key_wins_and_the_older_stays_out(hub_world: Any) -> None:
    older = hub_world.raw("alice").join()
    newer = hub_world.raw("alice")
    newer.instance = "f" * 32
    newer.join()
    assert older.hear() == Superseded()
    older.say(Demand("alice", "bob", 1))
    assert older.hear() == Superseded()
    older.say(Hello("alice", PROTOCOL_VERSION, older.instance))
    assert older.hear() == Superseded()
    newer.say(Demand("alice", "bob", 2))
    seen = events(hub_world.hub, 4)
    assert seen[-1] == PeerMessage("alice", Demand("alice", "bob", 2))
    assert hub_world.hub.counters.superseded == 1


def test_the_same_process_may_come_back_over_a_new_connection(hub_world: Any) -> None:
    before = hub_world.raw("alice").join()
    again = hub_world.raw("alice")
    again.instance = before.instance
    again.join()
    assert hub_world.hub.counters.superseded == 0
    assert events(hub_world.hub, 3) == [
        PeerUp("alice"),
        PeerDown("alice", "replaced by a newer connection"),
        PeerUp("alice"),
    ]


def test_a_revoked_key_is_out_whether_it_speaks_or_not(hub_world: Any) -> None:
    hub_world.raw("alice").join()
    hub_world.hub.gate.revoke("alice")
    assert events(hub_world.hub, 2) == [PeerUp("alice"), PeerDown("alice", "its key was revoked")]


def test_a_silent_peer_is_lost_after_the_agreed_time_and_not_before(make_hub_world: Any) -> None:
    clock = SteppedClock()
    limits = HubLimits(heartbeat_s=0.02, lost_after_s=0.2)
    world = make_hub_world(clock=clock, limits=limits)
    bob = world.raw("bob").join()
    assert events(world.hub, 1) == [PeerUp("bob")]
    for _ in range(9):
        assert clock.step(0.02, bob)
    assert world.hub.recv(0.1) is None
    for _ in range(3):
        clock.now_s += 0.02
        event = world.hub.recv(0.5)
        if event is not None:
            break
    assert event == PeerDown("bob", "nothing heard for 0.2 s")


def test_any_message_is_a_heartbeat(make_hub_world: Any) -> None:
    clock = SteppedClock()
    world = make_hub_world(clock=clock, limits=HubLimits(heartbeat_s=0.02, lost_after_s=0.2))
    bob = world.raw("bob").join()
    for step in range(40):
        assert clock.step(0.02, bob)
        if step % 4 == 0:
            bob.post(CreditReturn("alice", 1))
            bob.post(Post("mallory", "topic", 0), b"")
            assert bob.get().code == "unknown-peer"
    assert world.hub.counters.lost_peers == 0


def test_a_hub_that_was_stopped_itself_blames_nobody(make_hub_world: Any) -> None:
    clock = SteppedClock()
    world = make_hub_world(clock=clock, limits=HubLimits(heartbeat_s=0.02, lost_after_s=0.2))
    bob = world.raw("bob").join()
    assert clock.step(3600.0, bob)
    assert world.hub.counters.lost_peers == 0


def test_peers_hear_of_each_other(hub_world: Any) -> None:
    alice = hub_world.raw("alice").join()
    bob = hub_world.raw("bob").join()
    assert alice.get() == PeerChange("bob", True, 2)
    bob.control.close()
    bob.bulk.close()
    assert alice.get() == PeerChange("bob", False, 2, "its connection ended")


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"\xc1"],
        [encode(Heartbeat()), b"more"],
        [b"x" * 100_000],
        [encode(Welcome("alice", 1, 1.0, 1.0))],
        [b""] * 10,
    ],
)
def test_malformed_control_messages_are_counted_and_answered(hub_world: Any, frames: list[bytes]) -> None:
    alice = hub_world.raw("alice").join()
    alice.control.send_multipart(frames)
    assert alice.hear().code == "malformed"
    assert hub_world.hub.counters.malformed == 1
    alice.say(Demand("alice", "bob", 1))
    assert isinstance(events(hub_world.hub, 2)[1], PeerMessage)


def test_a_stopping_hub_says_so(hub_world: Any) -> None:
    alice = hub_world.raw("alice").join()
    closing = threading.Thread(target=hub_world.hub.close, args=("maintenance",))
    closing.start()
    assert alice.hear() == Shutdown("maintenance")
    closing.join()


def test_a_peer_that_takes_nothing_is_given_up(make_hub_world: Any) -> None:
    world = make_hub_world(limits=HubLimits(outbox_bytes=1 << 16))
    bob = world.raw("bob").join()
    assert events(world.hub, 1) == [PeerUp("bob")]
    reason = "r" * 1000
    for _ in range(200_000):
        world.hub.send("bob", Refused("overload", reason))
        if world.hub.counters.lost_peers:
            break
    assert world.hub.recv(5.0) == PeerDown("bob", "it does not take its messages")
    del bob


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_hub_whose_thread_has_failed_says_so(hub_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(hub_world.hub, "_tick", fail)
    hub_world.hub._thread.join(10.0)
    with pytest.raises(HubError, match="has failed"):
        hub_world.hub.recv(0.0)


def test_another_version_is_named_whatever_its_greeting_looks_like(hub_world: Any) -> None:
    alice = hub_world.raw("alice")
    alice.control.send(msgspec.msgpack.encode({"type": "Hello", "version": 77, "of_the_future": [1, 2]}))
    refused = alice.hear()
    assert (refused.code, "version 10, alice 77" in refused.detail) == ("version", True)
    assert hub_world.hub.counters.disagreeing == 1
    event = hub_world.hub.recv(2.0)
    assert event == PeerRefused("alice", refused.detail)
    alice.control.send(msgspec.msgpack.encode({"type": "Hello", "version": PROTOCOL_VERSION, "odd": 1}))
    assert alice.hear().code == "malformed"


OURS = Agreed("0.1.0", {"ring": "0" * 16, "users": "1" * 16})


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (Agreed("0.2.0", OURS.testbed), ["alice runs qunetlab 0.2.0, the hub 0.1.0", "same release"]),
        (
            Agreed("0.1.0", {"ring": "0" * 16, "users": "2" * 16}),
            [
                "testbed file of alice differs from the hub's in [users] ([users]: 2222",
                "here 1111",
                "testbed.toml to both",
            ],
        ),
        (Agreed("0.1.0", {"ring": "0" * 16}), ["[users]: none"]),
        (Agreed("0.1.0", {**OURS.testbed, "fog": "3" * 16}), ["in 1 more: bring"]),
        (Agreed(), ["runs qunetlab of an unknown release"]),
    ],
)
def test_a_peer_with_another_release_or_testbed_is_refused_on_both_sides(
    make_hub_world: Any, theirs: Agreed, words: list[str]
) -> None:
    world = make_hub_world(agreed=OURS)
    agent = world.agent("alice", wait=False, agreed=theirs)
    assert agent.wait_for(LinkState.REFUSED, 5.0)
    event = world.hub.recv(2.0)
    assert isinstance(event, PeerRefused)
    assert event.role == "alice"
    for each in words:
        assert each in event.reason
        assert each in agent.link_reason
    assert world.hub.counters.disagreeing >= 1
    assert world.agent("bob", agreed=OURS).wait_up(5.0)


def test_a_refusal_stays_a_sentence_whatever_the_peer_says() -> None:
    many = {f"section-{number:03d}-{'x' * 50}": f"{number:016x}" for number in range(64)}
    told = OURS.objection("a" * 64, Agreed("0.1.0", many))
    assert "[ring], [users], 64 more" in told
    assert "xxx" not in told
    assert len(told) < 400


def test_an_older_hub_that_does_not_understand_the_greeting_is_told_as_such(
    hub_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strange(*_: object) -> None:
        raise WireError("an unknown field")

    monkeypatch.setattr(hub_world.hub, "_on_hello", strange)
    agent = hub_world.agent("alice", wait=False)
    assert agent.wait_for(LinkState.REFUSED, 5.0)
    assert "it runs an older release" in agent.link_reason
