"""A day of a pair: blocks come in, applications and rounds draw, nodes start again, links fail; the books balance to the bit.

Every minute of the day a block arrives at both stores, and applications at both ends ask for keys in a burst; every ten
minutes a round takes its masks.  Now and then a node starts again, or messages are lost for a while.  What the two nodes
handed out is counted here, key by key, and held against both stores' books at midnight, and against what each store
tells an auditor without its key.
"""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.delivery.key_desk import KeyDeskError
from orchestrator.keystore.agreement import reserve
from orchestrator.keystore.lanes import Lane
from orchestrator.keystore.public_books import read_books
from orchestrator.secret import SecretBits
from orchestrator.wire.memory_channel import memory_channel_pair
from tests.helpers.key_delivery import KeyWorld, honest

BLOCK_BYTES = 20_000
MINUTES = 24 * 60
ENDS = (("alice", "app1", "bob", "app2"), ("bob", "app2", "alice", "app1"))


class Day:
    """One pair, and the count of everything that left its stores."""

    def __init__(self, world: KeyWorld, seed: int) -> None:
        self.world = world
        self.rng = np.random.default_rng(seed)
        self.left: Counter[tuple[str, str]] = Counter()
        """Bits that left, by (node, lane)."""
        self.granted = self.refused = self.masks = 0

    def block(self, number: int) -> None:
        """A block that the ring made, at the same place in both stores."""
        key, starts = self.rng.bytes(BLOCK_BYTES), {}
        for name in ("alice", "bob"):
            store, peer = self.world.stores[name], self.world.peer(name)
            store.deposit_pending(peer, f"day/{number}", SecretBits.from_bytes(key), b"")
            tails = {lane: state.tail for lane, state in store.lane_states(peer).items()}
            starts = {lane: max(tail, starts.get(lane, 0)) for lane, tail in tails.items()}
        for name in ("alice", "bob"):
            self.world.stores[name].confirm_deposit(self.world.peer(name), f"day/{number}", starts)

    def burst(self) -> None:
        """Applications ask at once, and their partners fetch what they got, but for some that never come."""
        for node, sae, far, partner in ENDS:
            asked = [
                self.world.master_ends[node].order(sae, partner, int(number), 8 * int(size), patience_s=30.0)
                for number, size in zip(
                    self.rng.integers(1, 4, 12), self.rng.integers(8, 33, 12), strict=True
                )
            ]
            for future in asked:
                try:
                    keys = future.result(60)
                except KeyDeskError:
                    self.refused += 1
                    continue
                self.granted += len(keys)
                self._count(node, far, keys, own=True)
                if self.rng.random() < 0.97:
                    got = self.world.desks[far].dec_keys(partner, sae, [key.key_id for key in keys])
                    twins = got.result(60)
                    assert all(a.key.same_as(b.key) for a, b in zip(keys, twins, strict=True))
                    self._count(far, node, twins, own=False)

    def _count(self, node: str, peer: str, keys: list[Any], *, own: bool) -> None:
        windows = self.world.stores[node].windows
        lane = windows.own_lane(peer) if own else windows.peers_lane(peer)
        self.left[node, str(lane)] += sum(len(key.key) for key in keys)

    def round(self, number: int) -> None:
        """Masks of one round, at both ends."""
        context, bits = number.to_bytes(32, "big"), 20_000
        ends = dict(zip(("alice", "bob"), memory_channel_pair(), strict=True))
        pads: dict[str, SecretBits] = {}

        def one(name: str) -> None:
            store, peer = self.world.stores[name], self.world.peer(name)
            chosen = reserve(store, ends[name], store.pair_end(peer), peer, Lane.MASK, bits, context)
            pads[name] = store.release(peer, Lane.MASK, chosen, context)

        threads = [threading.Thread(target=one, args=(name,)) for name in ends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert pads["alice"].same_as(pads["bob"])
        self.masks += 1
        for name in ends:
            self.left[name, "mask"] += bits

    def trouble(self) -> None:
        """A node starts again, or half of all messages are lost for a while."""
        kind = self.rng.integers(3)
        if kind < 2:
            name = ("alice", "bob")[kind]
            self.world.stop(name)
            self.world.start(name)
            self.world.meet()
            return
        self.world.meddle = lambda _, number, payload: None if number % 2 else payload
        self.burst()
        self.world.meddle = honest


def live(folder: Path, minutes: int, seed: int) -> Day:
    """The day, up to ``minutes``."""
    world = KeyWorld(folder, blocks=1, max_waiting_keys=100_000)
    for name, entry in world.saes.items():
        world.saes[name] = entry.model_copy(update={"bits_per_day": 0, "requests_per_s": 0.0})
    with world:
        day = Day(world, seed)
        for minute in range(minutes):
            day.block(minute)
            day.burst()
            if minute % 10 == 9:
                day.round(minute)
            if day.rng.random() < 0.01 or minute == minutes // 2:
                day.trouble()
        for name in ("alice", "bob"):
            store, peer = world.stores[name], world.peer(name)
            assert store.ledger(peer).balanced
            for lane in (Lane.OTP_AB, Lane.OTP_BA, Lane.MASK):
                assert store.lane_ledger(peer, lane).delivered == day.left[name, str(lane)]
            assert sum(bits for *_, bits in store.windows.uses()) == sum(
                bits for (node, lane), bits in day.left.items() if node == name and lane != "mask"
            )
        produced = [world.stores[name].ledger(world.peer(name)).produced for name in ("alice", "bob")]
        assert produced[0] == produced[1] == 2 * 65536 - 512 + 8 * (65536 + minutes * BLOCK_BYTES)
    for name in ("alice", "bob"):
        books = read_books(world.path(name))
        for lane in books.lanes:
            used = sum(use.bits for use in books.uses if use.lane == lane.lane)
            released = sum(
                each.span.n_bits
                for each in books.reservations
                if each.lane == lane.lane and each.state == "released"
            )
            assert lane.delivered == used + released
    return day


def test_twenty_minutes_of_the_day_balance_to_the_bit(tmp_path: Path) -> None:
    day = live(tmp_path, 20, seed=1)
    assert day.granted > 500
    assert day.masks == 2


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_full_day_balances_to_the_bit(tmp_path: Path) -> None:
    day = live(tmp_path, MINUTES, seed=2)
    print(f"{day.granted} keys, {day.refused} requests refused, {day.masks} rounds")
    assert day.granted > 50_000
    assert day.masks == MINUTES // 10
