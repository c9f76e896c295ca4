"""Keys by way of nodes in the middle: the same at both ends, booked at every hop, labelled, and off by default."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.delivery.applications import desk, master_end
from orchestrator.delivery.applications.routes import bottleneck, cheapest
from orchestrator.delivery.key_desk import KeysUnavailableError
from orchestrator.keystore.errors import StoreError
from tests.helpers.key_delivery import balanced, same, waited_for
from tests.helpers.key_relay import RelayWorld
from tests.helpers.key_servers import authority_in, served

OVER_BOB = {("alice", "bob"): 65536, ("bob", "carol"): 65536}
CHAIN = {**OVER_BOB, ("carol", "dave"): 65536}


def test_a_pair_without_key_is_served_by_the_node_in_the_middle(tmp_path: Path) -> None:
    with RelayWorld(tmp_path, OVER_BOB) as world:
        keys = world.order("alice", "carol", 3, 512).result(20)
        got = world.fetch("carol", "alice", [key.key_id for key in keys])
        assert same(keys, got)
        assert {key.path for key in (*keys, *got)} == {("bob",)}
        assert world.stores["bob"].windows.uses() == [
            ("app-alice", "alice", "relay", 3, 1536),
            ("app-alice", "carol", "relay", 3, 1536),
        ]
        assert world.stores["carol"].windows.uses() == [("app-carol", "bob", "slave", 3, 1536)]
        assert balanced(world.stores)
    everything = b"|".join(world.seen)
    assert not any(key.key.reveal_bytes()[at : at + 16] in everything for key in keys for at in range(49))
    assert all(world.told)


def test_a_master_that_takes_no_relayed_key_gets_none(tmp_path: Path) -> None:
    with RelayWorld(tmp_path, OVER_BOB) as world:
        before = world.free()
        with pytest.raises(KeysUnavailableError, match="not enough key"):
            world.order("alice", "carol", may_be_relayed=False).result(20)
        assert world.free() == before
        (key,) = world.order("alice", "bob", may_be_relayed=False).result(20)
        assert (key.path, world.fetch("bob", "alice", [key.key_id])[0].path) == ((), ())


def test_both_applications_are_told_the_same_label(tmp_path: Path) -> None:
    authority = authority_in(tmp_path / "authority")
    alice, carol = authority.sae("app-alice"), authority.sae("app-carol")
    label = {"trust": "relayed", "nodes": ["bob"]}
    with RelayWorld(tmp_path, OVER_BOB) as world:
        desks = world.nodes["alice"].desk, world.nodes["carol"].desk
        with (
            served(authority, desks[0], known=desks[0].serves) as first,
            served(authority, desks[1], known=desks[1].serves) as last,
        ):
            path = "/api/v1/keys/app-carol"
            waited_for(
                lambda: first.ask(alice, "GET", f"{path}/status").json.get("status_extension") == label
            )
            assert first.ask(alice, "GET", f"{path}/status").json["stored_key_count"] > 0
            direct = {"extension_mandatory": [{"qunetlab_route_type": "direct"}]}
            refused = first.ask(alice, "POST", f"{path}/enc_keys", direct)
            assert (refused.status, refused.message) == (503, "not enough key")
            keys = first.ask(alice, "POST", f"{path}/enc_keys", {"number": 2}).json["keys"]
            assert [key["key_extension"] for key in keys] == [label, label]
            wanted = {"key_IDs": [{"key_ID": key["key_ID"]} for key in keys]}
            assert last.ask(carol, "POST", "/api/v1/keys/app-alice/dec_keys", wanted).json["keys"] == keys
            (key,) = first.ask(alice, "POST", "/api/v1/keys/app-bob/enc_keys", direct).json["keys"]
            assert "key_extension" not in key


def test_requests_for_relayed_keys_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "MOST_RELAYED", 1)
    with RelayWorld(tmp_path, OVER_BOB) as world:
        orders = [world.order("alice", "carol") for _ in range(4)]
        refused = [each for each in orders if each.exception(20)]
        assert len(refused) == 3
        with pytest.raises(KeysUnavailableError, match="wait for nodes in the middle"):
            refused[0].result()
        assert len(world.order("alice", "carol").result(20)) == 1


def test_a_node_that_claims_what_it_has_not_is_passed_by(tmp_path: Path) -> None:
    """bob draws keys for dave to itself with a stock that it does not have; the second time carol is asked."""
    stocked = {("alice", "bob"): 65536, ("alice", "carol"): 65536, ("carol", "dave"): 65536}
    with RelayWorld(tmp_path, stocked) as world:
        world.nodes["bob"].relay.links = lambda: {"dave": 1 << 50}  # type: ignore[method-assign]
        with pytest.raises(KeysUnavailableError, match="lost the key"):
            world.order("alice", "dave").result(20)
        (key,) = world.order("alice", "dave").result(20)
        assert key.path == ("carol",)
        assert same([key], world.fetch("dave", "alice", [key.key_id]))
        assert balanced(world.stores)


def test_a_way_that_failed_is_better_than_none(tmp_path: Path) -> None:
    with RelayWorld(tmp_path, OVER_BOB) as world:
        routes = world.nodes["alice"].desk._routes
        assert routes is not None
        routes.failed(("bob",))
        assert world.order("alice", "carol").result(20)[0].path == ("bob",)


def test_routes_are_asked_again_after_a_store_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object) -> int:
        raise StoreError("the disk is full")

    with RelayWorld(tmp_path, OVER_BOB) as world:
        routes = world.nodes["alice"].desk._routes
        assert routes is not None
        monkeypatch.setattr(master_end.MasterEnd, "free_bits", fails)
        monkeypatch.setattr("orchestrator.runtime.spawn", lambda ask, name: None)
        routes.known()
        with pytest.raises(StoreError):
            routes.ask()
        monkeypatch.undo()
        waited_for(lambda: "bob" in routes.known())


def test_a_chain_of_two(tmp_path: Path) -> None:
    with RelayWorld(tmp_path, CHAIN) as world:
        keys = world.order("alice", "dave", 2).result(20)
        assert same(keys, world.fetch("dave", "alice", [key.key_id for key in keys]))
        assert keys[0].path == ("bob", "carol")
        back = world.order("dave", "alice").result(20)
        assert same(back, world.fetch("alice", "dave", [back[0].key_id]))
        assert balanced(world.stores)


def test_no_key_is_relayed_unless_every_node_was_told_to(tmp_path: Path) -> None:
    for number, options in enumerate(({"relay": False}, {"deaf": ("bob",)}, {"deaf": ("alice",)})):
        (tmp_path / str(number)).mkdir()
        with RelayWorld(tmp_path / str(number), OVER_BOB, **options) as world:
            before = world.free()
            with pytest.raises(KeysUnavailableError, match="not enough key"):
                world.order("alice", "carol").result(20)
            assert world.free() == before


def test_a_last_node_that_takes_no_relayed_key_loses_nothing_of_its_own(tmp_path: Path) -> None:
    with RelayWorld(tmp_path, OVER_BOB, deaf=("carol",)) as world:
        with pytest.raises(KeysUnavailableError, match=r"lost the key|passes no key"):
            world.order("alice", "carol").result(20)
        assert balanced(world.stores)


@pytest.mark.parametrize("hop", ["bob", "carol"])
def test_a_dead_hop_is_a_clear_error_and_costs_nothing(tmp_path: Path, hop: str) -> None:
    with RelayWorld(tmp_path, OVER_BOB) as world:
        before = world.free()
        world.away.add(hop)
        with pytest.raises(KeysUnavailableError, match="not enough key"):
            world.order("alice", "carol").result(20)
        world.away.clear()
        assert world.free() == before
        assert balanced(world.stores)


def test_keys_on_their_way_when_a_hop_dies_go_to_the_next_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RelayWorld(tmp_path, OVER_BOB) as world:
        taken = world.nodes["bob"].relay.take

        def and_dies(peer: str, notes: list) -> None:
            world.away.add("carol")
            taken(peer, notes)

        monkeypatch.setattr(world.nodes["bob"].relay, "take", and_dies)
        monkeypatch.setattr(master_end.MasterEnd.order, "__defaults__", (0.5,))
        with pytest.raises(KeysUnavailableError, match="did not answer in time"):
            world.order("alice", "carol", 2).result(20)
        monkeypatch.undo()
        world.away.clear()
        before = world.stores["alice"].windows.uses()
        free = world.nodes["alice"].free_bits("bob")
        keys = world.order("alice", "carol", 2).result(20)
        assert before == []
        assert world.nodes["alice"].free_bits("bob") >= free - 2 * 256 - 256
        assert same(keys, world.fetch("carol", "alice", [key.key_id for key in keys]))
        assert balanced(world.stores)


def test_a_store_that_fails_is_a_refusal_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> int:
        raise StoreError("the disk is full")

    with RelayWorld(tmp_path, OVER_BOB) as world:
        monkeypatch.setattr(master_end.MasterEnd, "free_bits", fails)
        with pytest.raises(KeysUnavailableError, match="the key store failed: the disk is full"):
            world.order("alice", "carol").result(20)
        monkeypatch.undo()
        assert len(world.order("alice", "carol").result(20)) == 1


def test_scarce_pairs_are_spared() -> None:
    links = {
        "alice": {"bob": 10_000, "carol": 80_000},
        "bob": {"dave": 90_000},
        "carol": {"dave": 80_000, "bob": 80_000},
        "dave": {},
    }
    assert cheapest(links, "alice", "dave", 1000) == ("carol",)
    assert bottleneck(links, "alice", ("carol",), "dave") == 80_000
    assert cheapest(links, "alice", "bob", 20_000) == ("carol",)
    assert cheapest(links, "alice", "bob", 1000) == ("carol",)
    assert cheapest(links, "alice", "dave", 100_000) is None
    assert cheapest({}, "alice", "dave", 1) is None


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.sampled_from("abcde"), st.sampled_from("abcde")), st.integers(0, 100), max_size=20
    ),
    st.integers(1, 100),
)
def test_a_way_is_one_and_holds_enough(stocks: dict[tuple[str, str], int], bits: int) -> None:
    links: dict[str, dict[str, int]] = {}
    for (here, there), free in stocks.items():
        links.setdefault(here, {})[there] = free
    way = cheapest(links, "a", "e", bits)
    reach, grown = {"a"}, True
    while grown:
        more = {there for here in reach for there, free in links.get(here, {}).items() if free >= bits}
        grown = not more <= reach
        reach |= more
    assert (way is not None) == ("e" in reach)
    if way is not None:
        assert len({"a", *way, "e"}) == len(way) + 2
        assert bottleneck(links, "a", way, "e") >= bits
