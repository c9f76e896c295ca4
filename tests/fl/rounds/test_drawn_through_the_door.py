"""What clients draw - masks, nonces, tags of jobs - comes through the one door, in the wiring that runs."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.keys.simulated import new_run_key
from fl.modes import lightsecagg
from fl.modes.shares import ShareCode, draw_mask
from fl.rounds.client_rules import ClientRules
from orchestrator import randomness

Source = Callable[[int], bytes]


class Door:
    """Every draw, by the thread that made it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.drawn: dict[int, list[bytes]] = defaultdict(list)
        system = randomness._system

        def noting(count: int) -> bytes:
            data = system(count)
            self.drawn[threading.get_ident()].append(data)
            return data

        patch.setattr(randomness, "_system", noting)

    @property
    def mine(self) -> list[bytes]:
        return self.drawn[threading.get_ident()]


def masks_of_a_run(world: Any, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every mask of a real run of four clients: is it what the door gave while it was drawn?"""
    door, found = Door(monkeypatch), []

    def noting(code: ShareCode, source: Source) -> tuple[Any, Any]:
        before = len(door.mine)
        mask, noise = draw_mask(code, source)
        left = door.mine[before:]
        replayed = draw_mask(code, lambda count: left.pop(0)) if left else None
        same = replayed is not None and np.array_equal(replayed[0], mask)
        found.append(bool(same and replayed is not None and np.array_equal(replayed[1], noise)))
        return mask, noise

    monkeypatch.setattr(lightsecagg, "draw_mask", noting)
    world.settings(mode="lightsecagg", rounds=2)
    world.start_all(rules=ClientRules(mode="lightsecagg"))
    world.finish()
    return found


def test_masks_of_real_clients_come_through_the_door(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert masks_of_a_run(world, monkeypatch) == [True] * 8


def test_a_seeded_generator_of_masks_is_found(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = np.random.default_rng(1).bytes
    monkeypatch.setattr(lightsecagg.LightSecAgg.__init__, "__defaults__", (planted,))
    assert masks_of_a_run(world, monkeypatch) == [False] * 8


def test_the_key_of_simulated_pairs_comes_through_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    door = Door(monkeypatch)
    assert [new_run_key()] == door.mine


def test_the_tag_of_a_job_comes_through_the_door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fl.qpu.journal import QpuFolder, RunPlan
    from fl.qpu.options import RunOptions

    door, plan = Door(monkeypatch), RunPlan("digest", "fake", True, RunOptions(), 1, ("Z",), 1)
    with QpuFolder(tmp_path / "run") as folder:
        assert folder.start(plan).tag == f"qunetlab-{door.mine[0].hex()}"


def test_what_a_flower_client_keeps_is_sealed_under_a_nonce_from_the_door(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = pytest.importorskip("fl.carriers.flower.held")
    from flwr.common import Context, RecordDict

    door = Door(monkeypatch)
    context = Context(1, 2, {}, RecordDict(), {})
    monkeypatch.setattr(held, "encode", lambda _: b"what is kept")
    held.keep(context, bytes(32), None)
    sealed = context.state.config_records[held.STATE]["sealed"]
    assert sealed[: held.NONCE_BYTES] == door.mine[0]
