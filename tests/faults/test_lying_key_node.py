"""A node that is one of ours and lies about keys for applications: it names others' applications, hides that it handed a key
on, says an id twice, or a size that is none.  Nothing of it reaches an application, and honest keys go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from lab.key_delivery import Application
from orchestrator.delivery.applications.master_end import MasterEnd
from orchestrator.delivery.applications.messages import KeyNote
from orchestrator.delivery.key_desk import BadKeyRequestError, KeysUnavailableError
from orchestrator.secret import SecretBits
from tests.helpers.key_delivery import KeyWorld, balanced, waited_for
from tests.helpers.key_relay import RelayWorld

OVER_BOB = {("alice", "bob"): 65536, ("bob", "carol"): 65536, ("carol", "dave"): 65536}
Lie = Callable[[KeyNote], KeyNote]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Lie], None]:
    """``told(owner, lie)``: from here on the node of ``owner`` announces every key as ``lie`` changes it."""
    honest, lies = MasterEnd._note, dict[str, Lie]()

    def note(end: MasterEnd, *of: Any) -> KeyNote:
        found = honest(end, *of)
        lie = lies.get(end._store.owner)
        return found if lie is None else lie(found)

    monkeypatch.setattr(MasterEnd, "_note", note)
    return lies.__setitem__


def waiting(world: RelayWorld, name: str) -> dict[str, int]:
    return world.nodes[name].slave_end.shelf.counts()


def honest_key(world: RelayWorld, first: str, last: str) -> None:
    keys = world.order(first, last).result(20)
    got = world.fetch(last, first, [key.key_id for key in keys])
    assert keys[0].key.same_as(got[0].key)


def test_a_key_in_the_name_of_another_nodes_application(
    tmp_path: Path, told: Callable[[str, Lie], None]
) -> None:
    """bob gives carol's application a key that it would take for one it shares with alice's."""
    told("bob", lambda note: structs.replace(note, master="app-alice"))
    with RelayWorld(tmp_path, OVER_BOB) as world:
        with pytest.raises(KeysUnavailableError, match="no application of this node in the testbed file"):
            world.order("bob", "carol").result(20)
        assert waiting(world, "carol") == {}
        honest_key(world, "dave", "carol")
        assert balanced(world.stores)


def test_a_key_in_the_name_of_nobodys_application(tmp_path: Path, told: Callable[[str, Lie], None]) -> None:
    told("bob", lambda note: structs.replace(note, master="nobody"))
    with RelayWorld(tmp_path, OVER_BOB) as world:
        with pytest.raises(KeysUnavailableError, match="no application of this node"):
            world.order("bob", "carol").result(20)
        assert waiting(world, "carol") == {}


@pytest.mark.parametrize("path", [(), ("dave",), ("alice", "bob")])
def test_a_hop_that_hides_itself_in_the_label(
    tmp_path: Path, told: Callable[[str, Lie], None], path: tuple[str, ...]
) -> None:
    def lie(note: KeyNote) -> KeyNote:
        return structs.replace(note, path=path, carried=note.carried if path else b"")

    told("bob", lie)
    with RelayWorld(tmp_path, OVER_BOB) as world:
        with pytest.raises(KeysUnavailableError, match="lost the key"):
            world.order("alice", "carol").result(20)
        assert waiting(world, "carol") == {}
        assert balanced(world.stores)


def test_a_hop_that_leaves_another_out_of_the_label(tmp_path: Path, told: Callable[[str, Lie], None]) -> None:
    told("carol", lambda note: structs.replace(note, path=("carol",)))
    with RelayWorld(tmp_path, OVER_BOB) as world:
        with pytest.raises(KeysUnavailableError, match="lost the key"):
            world.order("alice", "dave").result(20)
        assert waiting(world, "dave") == {}
        assert balanced(world.stores)


def test_a_relayed_key_that_its_first_node_never_gave(tmp_path: Path) -> None:
    """bob makes one up, openly labelled, in the name of alice's application."""
    with RelayWorld(tmp_path, OVER_BOB) as world:
        (real,) = world.order("alice", "carol").result(20)
        for proof in (b"", b"p" * 32):
            made_up = SecretBits.from_bytes(b"known to bob alone, who made it.")
            order = (
                world.nodes["bob"]
                ._master_ends["carol"]
                .order(
                    "app-alice", "app-carol", 1, 256, path=("bob",), proof=proof, relayed={b"i" * 16: made_up}
                )
            )
            with pytest.raises(KeysUnavailableError, match="no application of this node"):
                order.result(20)
        assert waiting(world, "carol") == {"app-carol": 1}
        assert world.fetch("carol", "alice", [real.key_id])[0].key.same_as(real.key)


def test_an_id_that_waits_already_is_refused_and_the_first_key_stays(tmp_path: Path) -> None:
    with RelayWorld(tmp_path, OVER_BOB) as world:
        (first,) = world.order("dave", "carol").result(20)
        taken = bytes.fromhex(first.key_id.replace("-", ""))
        world.nodes["bob"]._master_ends["carol"]._random_bytes = lambda _: taken
        with pytest.raises(KeysUnavailableError, match="another key of the same id"):
            world.order("bob", "carol").result(20)
        assert waiting(world, "carol") == {"app-carol": 1}
        (got,) = world.fetch("carol", "dave", [first.key_id])
        assert got.key.same_as(first.key)
        assert waiting(world, "carol") == {}
        assert balanced(world.stores)


def test_two_keys_of_one_id_in_a_batch_are_both_refused(tmp_path: Path) -> None:
    with KeyWorld(tmp_path) as world:
        world.master_ends["alice"]._random_bytes = lambda n: b"i" * n
        with pytest.raises(KeysUnavailableError, match="another key of the same id"):
            world.give(2)
        assert world.slave_ends["bob"].shelf.counts() == {}
        (key,) = world.give()
        assert world.fetch([key.key_id])[0].key.same_as(key.key)
        assert balanced(world.stores)


def test_a_key_of_no_whole_bytes_stops_nobody_elses(tmp_path: Path, told: Callable[[str, Lie], None]) -> None:
    """Once it waited, an application that asks for it and others at once would end them all."""
    told("bob", lambda note: structs.replace(note, n_bits=9))
    with RelayWorld(tmp_path, OVER_BOB) as world:
        before = len(world.seen)
        world.order("bob", "carol", 1, 64)
        honest_key(world, "dave", "carol")
        waited_for(lambda: len(world.seen) > before + 20)
        assert waiting(world, "carol") == {}
        honest_key(world, "dave", "carol")


def test_only_who_brought_a_key_is_told_what_became_of_it(tmp_path: Path) -> None:
    with RelayWorld(tmp_path, OVER_BOB) as world:
        (key,) = world.order("alice", "carol").result(20)
        relay, key_id = world.nodes["bob"].relay, bytes.fromhex(key.key_id.replace("-", ""))
        assert relay.where("alice", [key_id]).arrived == (key_id,)
        assert relay.where("dave", [key_id]).lost == (key_id,)


def test_relayed_key_is_no_authentication_key_and_no_mask(tmp_path: Path) -> None:
    with RelayWorld(tmp_path, OVER_BOB) as world:
        before = {
            name: world.stores[name].stock(peer) for name, peer in (("alice", "carol"), ("carol", "alice"))
        }
        keys = world.order("alice", "carol", 4).result(20)
        world.fetch("carol", "alice", [key.key_id for key in keys])
        assert before == {
            name: world.stores[name].stock(peer) for name, peer in (("alice", "carol"), ("carol", "alice"))
        }


def test_one_master_does_not_take_the_room_of_another(tmp_path: Path) -> None:
    world = KeyWorld(tmp_path, max_waiting_keys=3)
    world.saes["app4"] = Application(user="alice")
    with world:
        world.give(3)
        with pytest.raises(KeysUnavailableError, match="too many keys of app1 wait for app2"):
            world.give(1)
        (key,) = world.desks["alice"].enc_keys("app4", "app2", 1, None).result(20)
        with pytest.raises(BadKeyRequestError, match="not found"):
            world.fetch([key.key_id], master="app1")
        assert world.fetch([key.key_id], master="app4")[0].key.same_as(key.key)
