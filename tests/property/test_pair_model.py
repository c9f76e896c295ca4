"""Breadth-first through everything that two ends, a crash at any step, an old copy and a bad hub can do.

The agreements are the production ones, driven effect by effect over a model of the store (``pair_model.py``).  In
every state reached: no bit leaves an end twice or for two contexts, both ends release the same bits for a context,
no one-time key tags two messages, and few lane bits are spent.  From the states sampled, a hub that is honest from
there on gets the pair to work: a fresh context is agreed on and its bits leave both ends.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.keystore.lanes import outgoing_auth
from orchestrator.keystore.letters import Session

_spec = importlib.util.spec_from_file_location("pair_model", Path(__file__).with_name("pair_model.py"))
assert _spec is not None
assert _spec.loader is not None
model: Any = importlib.util.module_from_spec(_spec)
sys.modules["pair_model"] = model
_spec.loader.exec_module(model)

C1, C2 = b"1" * 32, b"2" * 32
RESERVES = (model.Job(C1),)
EVERYTHING = (model.Job(), model.Job(C1))
NOBODY = 2
STATE_BITS, JOB_BITS = 512, 512
"""What one end spends on a state with its fingerprints, and on its part of one job."""


@dataclass(frozen=True)
class Reached:
    """How far a search went."""

    states: int
    depth: int
    checked: int


def search(
    jobs: tuple[Any, ...],
    most_faults: int,
    *,
    every: int,
    most_states: int = 10**9,
    most_lines: int = 2,
    keyed: bool = True,
) -> Reached:
    """All states within ``most_faults`` faults; progress is checked in every ``every``-th.

    A fault is one crash, one restart on an old copy, or one message lost, changed, doubled, overtaken, repeated from
    the past or waited for in vain, at any step.
    """
    start = model.World.begin(jobs, keyed=keyed)
    start.restored = None if keyed else NOBODY
    seen = {start.key()}
    line: deque[tuple[Any, tuple[str, ...]]] = deque([(start, ())])
    depth = checked = 0
    while line and len(seen) < most_states:
        world, path = line.popleft()
        depth = len(path)
        for name, act in model.choices(world, most_faults, most_lines):
            following = world.copy()
            try:
                act(following)
                check_spent(following)
                check_burnt(following)
                key = following.key()
                if key in seen:
                    continue
                seen.add(key)
                if len(seen) % every == 0:
                    check_progress(following)
                    checked += 1
            except model.Violation as broken:
                raise AssertionError(f"after {[*path, name]}: {broken}") from broken
            line.append((following, (*path, name)))
    return Reached(len(seen), depth, checked)


def check_spent(world: Any) -> None:
    """No lane is drained: what is spent follows the work and the restarts, not the faults of the hub."""
    most = (1 + world.restarts) * (STATE_BITS * 2 + JOB_BITS * len(world.jobs))
    for node in world.nodes:
        if node.store.taken > most:
            raise model.Violation(f"{node.store.owner} spent {node.store.taken} bits of its lane")


def check_burnt(world: Any) -> None:
    """Nothing is burnt because a message was lost or wrong: only what a restart gave up, and a block of one end."""
    if world.restarts == 0:
        blocks = {node.store.durable.block for node in world.nodes}
        if blocks == {"burnt", "confirmed"}:
            raise model.Violation("one end has the block and the other burnt it")
        for node in world.nodes:
            if "burnt" in {state for _, state in node.store.durable.reservations.values()}:
                raise model.Violation(f"{node.store.owner} burnt something without a restart")


def check_progress(world: Any) -> None:
    """With a hub that is good from here on, a fresh context is agreed on, and both ends release its bits."""
    later = world.copy()
    later.jobs = (*(job for job in later.jobs if job.context), model.Job(C2))
    before = [node.store.taken for node in later.nodes]
    model.honest(later)
    for job in later.jobs:
        released = {end for (end, _), context in later.released.items() if context == job.context}
        if released != {0, 1} and (world.restarts == 0 or job.context == C2):
            raise model.Violation(f"a good hub does not help: only {released} released for {job.context!r}")
    if any(node.store.durable.block == "pending" for node in later.nodes):
        raise model.Violation("a block still waits after an honest meeting")
    for node, taken in zip(later.nodes, before, strict=True):
        if node.store.taken - taken > STATE_BITS + 2 * JOB_BITS:
            raise model.Violation(
                f"{node.store.owner} spent {node.store.taken - taken} bits on an honest line"
            )


def test_one_fault_anywhere_in_a_meeting_a_deposit_and_a_reservation() -> None:
    """Every state within one fault: 4000 of them, at most 85 steps from the beginning."""
    reached = search(EVERYTHING, 1, every=40)
    assert reached.states > 3500
    assert reached.depth > 80
    assert reached.checked > 80


def test_stores_without_reusable_keys_get_them_whatever_goes_wrong_once() -> None:
    """But for an old copy from before there were keys: that end cannot prove itself, and the pair is seeded again."""
    reached = search(RESERVES, 1, every=40, keyed=False)
    assert reached.states > 1000


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_two_faults_anywhere_in_a_meeting_and_a_reservation() -> None:
    """Every state within two faults and three lines: 161 000 of them, at most 109 steps from the beginning."""
    reached = search(RESERVES, 2, every=100, most_lines=3)
    assert reached.states > 150_000
    assert reached.depth > 100


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_two_faults_in_a_meeting_a_deposit_and_a_reservation() -> None:
    """The first 200 000 states within two faults."""
    assert search(EVERYTHING, 2, every=100, most_states=200_000, most_lines=3).states >= 200_000


@pytest.mark.long
@pytest.mark.timeout(3000)
def test_many_faults_on_long_walks() -> None:
    """Beyond what breadth allows: random walks with up to eight faults each."""
    rng = random.Random(1)
    for _ in range(3000):
        world = model.World.begin(rng.choice([RESERVES, EVERYTHING]))
        path: list[str] = []
        for _ in range(rng.randrange(400)):
            ways = list(model.choices(world, 8, 12))
            if not ways:
                break
            plain = [way for way in ways if way[0].endswith(("goes on", "hears", "a line"))]
            name, act = rng.choice(plain if plain and rng.random() < 0.93 else ways)
            path.append(name)
            try:
                act(world)
                check_spent(world)
                check_burnt(world)
            except model.Violation as broken:
                raise AssertionError(f"after {path}: {broken}") from broken
        check_progress(world)


def resumed(patch: pytest.MonkeyPatch) -> None:
    """What was reserved survives a start."""
    patch.setattr(model.ModelStore, "burn_open", lambda _: None)


def smaller_heads(patch: pytest.MonkeyPatch) -> None:
    """Two ends that disagree adopt the smaller head."""

    def renew(self: Any, peer: str, heads: Any, tails: Any) -> int:
        self.burn_open()
        for lane, head in heads.items():
            self.durable.heads[lane] = min(self.durable.heads[lane], head)
        return 0

    patch.setattr(model.ModelStore, "renew", renew)


def head_stays(patch: pytest.MonkeyPatch) -> None:
    """A tag key is handed out again for the next message."""
    take = model.ModelAuth.take_outgoing

    def take_again(self: Any, n_bits: int) -> Any:
        offset, key = take(self, n_bits)
        self._store.durable.heads[outgoing_auth(self._store.own_end)] = offset
        return offset, key

    patch.setattr(model.ModelAuth, "take_outgoing", take_again)


def unmasked(patch: pytest.MonkeyPatch) -> None:
    """Tag keys of a restored store are those of its former life."""
    patch.setattr(Session, "mask", lambda _, bits, offset, outgoing: bits)


def burns_on_failure(patch: pytest.MonkeyPatch) -> None:
    """A reservation whose exchange broke is given up."""
    failed = model.World._failed

    def burning(self: Any, end: int, talk: Any, error: Exception) -> None:
        self.nodes[end].store.burn_open()
        failed(self, end, talk, error)

    patch.setattr(model.World, "_failed", burning)


@pytest.mark.parametrize(
    ("plant", "promise", "faults"),
    [
        (resumed, "released|agreed", 1),
        (smaller_heads, "does not help|twice|two messages", 1),
        (head_stays, "tagged two messages", 1),
        (unmasked, "tagged two messages", 2),
        (burns_on_failure, "burnt something", 1),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_search_finds_planted_faults(
    monkeypatch: pytest.MonkeyPatch, plant: Callable[[pytest.MonkeyPatch], None], promise: str, faults: int
) -> None:
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=promise):
        search(RESERVES, faults, every=25, most_states=20_000, most_lines=4)
