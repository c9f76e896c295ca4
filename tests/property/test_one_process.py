"""Hub, relay stub, two nodes, their stores and clients in one process: a block and a masked round, again and again."""

from __future__ import annotations

import importlib.util
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

_spec = importlib.util.spec_from_file_location("one_process", Path(__file__).with_name("one_process.py"))
assert _spec is not None
assert _spec.loader is not None
world = importlib.util.module_from_spec(_spec)
sys.modules["one_process"] = world
_spec.loader.exec_module(world)


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens one fails."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a socket is opened")

    monkeypatch.setattr(socket.socket, "__init__", refuse)
    monkeypatch.setattr(zmq.Context, "__new__", refuse)
    with pytest.raises(AssertionError, match="a socket"):
        socket.socketpair()
    with pytest.raises(AssertionError, match="a socket"):
        zmq.Context()


def check(outcome: Any) -> None:
    """A block was stored at both ends, the same key lies there, and the sum is exact."""
    np.testing.assert_array_equal(outcome.total, outcome.expected)
    assert np.abs(outcome.total).max() > 0
    assert outcome.keys[0] == outcome.keys[1]
    for user in world.USERS:
        blocks = [line for line in outcome.story if f" {user} BlockReport" in line]
        assert blocks
        assert all("stored=True" in line for line in blocks)
    assert 0 < outcome.seconds < 60


def test_the_same_seeds_give_the_same_world_to_the_last_byte(tmp_path: Path) -> None:
    first, again, order, randomness = (
        world.live(tmp_path / name, seed, random_seed=random_seed)
        for name, seed, random_seed in (("a", 1, 1), ("b", 1, 1), ("c", 2, 1), ("d", 1, 2))
    )
    for outcome in (first, again, order, randomness):
        check(outcome)
        np.testing.assert_array_equal(outcome.total, first.total)
    assert again.turns == first.turns
    assert again.story == first.story
    assert again.ledgers == first.ledgers
    assert again.stores == first.stores
    assert again.keys == first.keys
    assert order.turns != first.turns
    assert order.story != first.story
    assert randomness.keys != first.keys


@pytest.mark.parametrize("untold", [{(1, 0)}, {(1, 0), (1, 1)}])
def test_a_frame_that_one_user_or_both_lost_costs_key_and_no_block(
    untold: set[tuple[int, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.StubRelay, "untold", frozenset(untold))
    outcome = world.live(tmp_path / "a", 1)
    check(outcome)
    blocks = [line for line in outcome.story if "BlockReport" in line]
    assert len(blocks) >= 2
    assert all("lost_frames=1" in line for line in blocks)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_no_order_of_events_keeps_the_key_or_the_sum_from_coming(tmp_path: Path) -> None:
    outcomes = [world.live(tmp_path / str(seed), seed) for seed in range(100)]
    for outcome in outcomes:
        check(outcome)
    assert len({outcome.turns for outcome in outcomes}) == 100
