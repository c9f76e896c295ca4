"""Reusable keys of greetings: set aside from the initial secret, sealed, one pair per generation."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from orchestrator.keystore.database import SCHEMA_VERSION
from orchestrator.keystore.errors import RefusedError, TamperedError
from orchestrator.keystore.lanes import AUTH_LANES, Lane
from orchestrator.keystore.pair_macs import MAC_KEY_BITS, split_secret
from orchestrator.keystore.reconcile import reconcile_pending
from orchestrator.keystore.reserving import Accept
from orchestrator.keystore.sealing import Kek
from orchestrator.keystore.steps import Expect
from orchestrator.keystore.store import KeyStore
from orchestrator.keystore.tagged import TaggedChannel, _greeted
from orchestrator.secret import SecretBits
from orchestrator.wire.memory_channel import memory_channel_pair

KEK = Kek(b"k" * 32)
AB, BA = np.random.default_rng(1).bytes(8192), np.random.default_rng(2).bytes(8192)


def secret(data: bytes) -> SecretBits:
    return SecretBits.from_bytes(data)


def make(folder: Path, name: str, peer: str) -> KeyStore:
    store = KeyStore.create(folder / name, name, KEK)
    store.install_initial_secret(peer, secret(AB), secret(BA), pair_end="first" if name < peer else "second")
    return store


def test_the_last_bits_of_each_direction_are_set_aside_and_belong_to_no_lane(tmp_path: Path) -> None:
    with make(tmp_path, "alice", "bob") as alice, make(tmp_path, "bob", "alice") as bob:
        for store, peer in ((alice, "bob"), (bob, "alice")):
            assert [store.stock(peer)[lane] for lane in AUTH_LANES] == [65536 - MAC_KEY_BITS] * 2
            assert store.ledger(peer).produced == 2 * (65536 - MAC_KEY_BITS)
        ours, theirs = alice.mac_keys.get("bob", 0), bob.mac_keys.get("alice", 0)
        assert ours is not None
        assert theirs is not None
        assert ours.outgoing.same_as(secret(AB[-32:]))
        assert ours.incoming.same_as(secret(BA[-32:]))
        assert theirs.fits(b"heads", ours.make(b"heads"))
        assert not ours.fits(b"heads", ours.make(b"heads")), "a reflection"
        assert not theirs.fits(b"Heads", ours.make(b"heads"))
        assert alice.mac_keys.get("bob", 1) is None


def test_splitting_loses_no_bit() -> None:
    parts = split_secret(secret(AB), secret(BA))
    assert SecretBits.concat([parts.auth_ab, parts.mac_ab]).same_as(secret(AB))
    assert SecretBits.concat([parts.auth_ba, parts.mac_ba]).same_as(secret(BA))
    assert AB[-32:].hex() not in repr(parts)


def test_the_keys_are_sealed_and_kept_over_restarts(tmp_path: Path) -> None:
    make(tmp_path, "alice", "bob").close()
    content = (tmp_path / "alice").read_bytes()
    assert AB[-32:] not in content
    assert BA[-32:] not in content
    with KeyStore.open(tmp_path / "alice", "alice", KEK) as store:
        kept = store.mac_keys.get("bob", 0)
        assert kept is not None
        assert kept.outgoing.same_as(secret(AB[-32:]))
        assert store.mac_keys.proved("bob", 0), "both ends have them from the same secret"


def as_format_1(path: Path) -> None:
    """Turn a store into one of the first format, which knew neither generations nor reusable keys."""
    with sqlite3.connect(path) as db:
        for table in ("mac_keys", "kept_secrets", "begun", "epsilons", "sae_use"):
            db.execute(f"DROP TABLE {table}")
        db.execute("DROP INDEX reservations_open")
        db.execute(
            "CREATE INDEX reservations_open ON reservations (state) WHERE state IN ('proposed', 'committed')"
        )
        db.execute("ALTER TABLE peers DROP COLUMN generation")
        db.execute("ALTER TABLE blocks DROP COLUMN split")
        db.execute("PRAGMA user_version=1")
    db.close()


def test_a_store_of_the_first_format_is_migrated_and_keeps_its_bits(tmp_path: Path) -> None:
    store = make(tmp_path, "alice", "bob")
    before = store.ledger("bob"), store.lane_states("bob")
    store.close()
    as_format_1(tmp_path / "alice")
    for _ in range(2):
        with KeyStore.open(tmp_path / "alice", "alice", KEK) as store:
            assert (store.ledger("bob"), store.lane_states("bob")) == before
            assert store.generation("bob") == 0
            assert store.mac_keys.get("bob", 0) is None
            assert not store.mac_keys.proved("bob", 0)
            assert store.pair_end("bob") == "first"
    with sqlite3.connect(tmp_path / "alice") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    db.close()
    assert before[1][Lane.AUTH_AB].tail == 65536 - MAC_KEY_BITS


def test_a_store_that_lost_its_reusable_keys_does_not_hold_the_secret(tmp_path: Path) -> None:
    with make(tmp_path, "alice", "bob") as store, make(tmp_path, "bob", "alice") as other:
        assert store.deposits.holds_seed("bob", secret(AB), secret(BA))
        assert other.deposits.holds_seed("alice", secret(AB), secret(BA))
        assert not store.deposits.holds_seed("bob", secret(AB[:-1] + b"?"), secret(BA))
        with store._core.transaction():
            store.mac_keys.destroy("bob", 0)
        assert not store.deposits.holds_seed("bob", secret(AB), secret(BA))


def test_two_stores_of_the_first_format_get_reusable_keys_once(tmp_path: Path) -> None:
    """From a tagged exchange: three keys of one lane spent at both ends, of which two become the reusable ones."""
    for name, peer in (("alice", "bob"), ("bob", "alice")):
        make(tmp_path, name, peer).close()
        as_format_1(tmp_path / name)
    heads = []
    for _ in range(2):
        with (
            KeyStore.open(tmp_path / "alice", "alice", KEK) as alice,
            KeyStore.open(tmp_path / "bob", "bob", KEK) as bob,
            ThreadPoolExecutor(2) as pool,
        ):
            one, two = memory_channel_pair()
            meetings = [
                pool.submit(reconcile_pending, alice, one, "first", "bob", 5.0),
                pool.submit(reconcile_pending, bob, two, "second", "alice", 5.0),
            ]
            assert all(meeting.result().rolled_back is None for meeting in meetings)
            ours, theirs = alice.mac_keys.get("bob", 0), bob.mac_keys.get("alice", 0)
            assert ours is not None
            assert theirs is not None
            assert ours.outgoing.same_as(theirs.incoming)
            assert ours.incoming.same_as(theirs.outgoing)
            assert alice.mac_keys.proved("bob", 0)
            assert bob.mac_keys.proved("alice", 0)
            heads.append(alice.lane_states("bob")[Lane.AUTH_AB].head)
    assert heads == [768 + 256, 768 + 512], "one gift, and one state for every session"
    with (
        KeyStore.open(tmp_path / "alice", "alice", KEK) as alice,
        pytest.raises(RefusedError, match="in use"),
    ):
        alice.install_mac_keys("bob", 0, secret(AB[:32]), secret(BA[:32]))


def test_a_greeting_names_both_ends_the_generation_and_all_it_answers() -> None:
    """Whatever differs, the MAC is made over something else, and no two of the parts run into each other."""
    said = [
        _greeted(*case)
        for case in (
            (0, "alice", "bob", b"hello", b"body"),
            (0, "bob", "alice", b"hello", b"body"),
            (0, "alice", "carol", b"hello", b"body"),
            (0, "alic", "ebob", b"hello", b"body"),
            (1, "alice", "bob", b"hello", b"body"),
            (0, "alice", "bob", b"hell", b"obody"),
            (0, "alice", "bob", b"hello", b"bodY"),
        )
    ]
    assert len(set(said)) == len(said)


def test_a_tag_of_another_generation_fits_nowhere_even_over_the_same_bits(tmp_path: Path) -> None:
    with make(tmp_path, "alice", "bob") as alice, make(tmp_path, "bob", "alice") as bob:
        ours, theirs = memory_channel_pair()
        sender, receiver = TaggedChannel(alice, ours, "bob"), TaggedChannel(bob, theirs, "alice")
        sender.send(Accept("mask", 0, 8, b"same generation"))
        message, _ = receiver.expect(Expect(tagged=(Accept,)), 1.0)
        assert isinstance(message, Accept)
        assert message.context == b"same generation"
    with sqlite3.connect(tmp_path / "alice") as db:
        db.execute("UPDATE peers SET generation = 1")
    db.close()
    with (
        KeyStore.open(tmp_path / "alice", "alice", KEK) as alice,
        KeyStore.open(tmp_path / "bob", "bob", KEK) as bob,
    ):
        TaggedChannel(alice, ours, "bob").send(Accept("mask", 0, 8, b"the next one"))
        with pytest.raises(TamperedError, match="wrong tag"):
            TaggedChannel(bob, theirs, "alice").expect(Expect(tagged=(Accept,)), 1.0)
