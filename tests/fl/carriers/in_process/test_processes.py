"""Cohorts simulated by several processes: the same bits, and a clear word when one dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.carriers.in_process.clients import ClientGroup
from fl.carriers.in_process.plan import Vanished, make_plan
from fl.carriers.in_process.results import CohortError, CohortEvent, CohortPhase
from fl.carriers.in_process.room import SharedRoom, open_room, private_room
from fl.carriers.in_process.run import run_cohort
from fl.keys.local import LocalKeys
from fl.keys.node import NodeKeys
from fl.keys.simulated import SimulatedKeySupply
from fl.modes.base import RoundInputs
from fl.modes.otp import sum_of
from fl.rounds.config import FLConfig
from fl.rounds.exchange import ShareExchange
from orchestrator.bits import PackedBits, packed_size
from orchestrator.delivery.messages import RoundContext

Settings = Callable[..., FLConfig]
KEY = bytes(range(32))


def ignore(clients: int) -> None:
    pass


def test_two_processes_give_the_bits_of_one(settings: Settings) -> None:
    config = settings(5, mode="otp", rounds=2, keep=0.4, levels=15, error_feedback=True)
    alone = run_cohort(config, workers=0)
    together = run_cohort(config, workers=2)
    assert np.array_equal(together.parameters, alone.parameters)
    assert [row.clipping for row in together.rounds] == [row.clipping for row in alone.rounds]
    assert alone.rounds[-1].exact


def test_a_process_that_dies_is_named_with_its_clients(settings: Settings) -> None:
    def kill(event: CohortEvent) -> None:
        if isinstance(event, CohortPhase) and event.phase == "training":
            for process in multiprocessing.active_children():
                if process.name == "cohort-1":
                    assert process.pid is not None
                    os.kill(process.pid, signal.SIGKILL)

    with pytest.raises(CohortError, match=r"clients 2 to 4 ended with SIGKILL .* during train"):
        run_cohort(settings(5), workers=2, report=kill)
    assert not [p for p in multiprocessing.active_children() if p.name.startswith("cohort-")]


def test_a_stopped_run_leaves_no_process(settings: Settings) -> None:
    stop = threading.Event()
    result = run_cohort(settings(5), workers=1, stop=stop, report=lambda event: stop.set())
    assert result.stopped
    assert not result.rounds
    assert not [p for p in multiprocessing.active_children() if p.name.startswith("cohort-")]


@pytest.fixture(params=["otp", "expanded"])
def groups(settings: Settings, targets: Any, request: pytest.FixtureRequest) -> list[ClientGroup]:
    """Two groups of a cohort of five in one room, without processes, after training and masking."""
    plan = make_plan(settings(5, mode=request.param, weights=(1, 2, 1, 3, 1)), 53)
    shared = SharedRoom(plan, 2)
    made = []
    for index in range(2):
        supply = SimulatedKeySupply(KEY, 5)
        room = open_room(shared.path, plan, 2)
        made.append(ClientGroup(plan, targets(), room, supply, index, 2))
    for group in made:
        group.train(1, ignore)
    for group in made:
        group.mask(1, ignore)
    for group in made:
        group.upload(Vanished(), ignore)
    shared.close()
    return made


def test_an_upload_is_what_a_client_of_a_distributed_round_sends_with_the_same_keys(
    groups: list[ClientGroup], tmp_path: Path
) -> None:
    """Bit for bit what the mode gives a client whose node has the keys of its four pairs."""
    plan, names = groups[0].plan, groups[0].plan.config.clients
    for group in groups:
        for client in group.members:

            def key(peer: str, context: RoundContext, client: int = client) -> PackedBits:
                supply = SimulatedKeySupply(KEY, 5)
                supply.open_attempt(context.round)
                first, second = sorted((client, names.index(peer)))
                words = supply.draw(first, second, context.pad_bits, ends=(client,))
                return words.view(np.uint8)[: packed_size(context.pad_bits)]

            inputs = RoundInputs(
                plan.aggregation.context(1, names),
                names[client],
                plan.config.levels * sum(plan.weights),
                NodeKeys(LocalKeys(names[client], key), names[client], tmp_path),
                ShareExchange(threading.Event()),
                threading.Event(),
                lambda wait: None,
            )
            protection = plan.aggregation.prepare(inputs)
            values = group._values[client].astype(np.int64)
            sent = protection.protect(values, plan.weights[client])
            assert np.array_equal(group._room.uploads[client].view(np.uint8)[: sent.packed.size], sent.packed)
            assert sent.key_bits == 4 * plan.key_bits_per_pair


def test_with_one_upload_missing_the_sum_is_noise(groups: list[ClientGroup]) -> None:
    room, plan = groups[0]._room, groups[0].plan
    packed = [row.view(np.uint8)[: packed_size(53 * plan.value_bits)] for row in room.uploads]
    assert np.array_equal(sum_of(packed, 53, plan.value_bits), room.plain_sums.sum(axis=0))
    without = sum_of(packed[:4], 53, plan.value_bits)
    plain = sum(plan.weights[i] * g._values[i].astype(np.int64) for g in groups for i in g.members if i < 4)
    assert np.mean(without == plain) < 0.2


def test_both_groups_together_make_each_pad_once(groups: list[ClientGroup]) -> None:
    drawn = sum(group._supply.bits_drawn for group in groups)
    assert drawn == 2 * groups[0].plan.n_pairs * groups[0].plan.key_bits_per_pair


def test_too_little_memory_is_said_before_the_start(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CohortError, match=r"5 clients need .* MiB of shared memory: No space left"):
        SharedRoom(make_plan(settings(5), 1_000_000), 2)


def test_a_private_room_holds_only_what_the_mode_needs(settings: Settings) -> None:
    room = private_room(make_plan(settings(5, mode="plain"), 53))
    assert (room.masks.size, room.sealed.size, room.float_sums.size) == (0, 0, 0)
    assert room.uploads.shape == (5, (53 * 7 + 63) // 64)
