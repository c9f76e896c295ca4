"""Cohorts simulated by several processes: the same bits, and a clear word when one dies."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fl.carriers.in_process import CohortError, CohortEvent, CohortPhase, run_cohort
from fl.carriers.in_process.clients import ClientGroup
from fl.carriers.in_process.plan import Vanished, make_plan
from fl.carriers.in_process.room import SharedRoom, open_room, private_room
from fl.carriers.in_process.server import sum_of_masked
from fl.keys.simulated import SimulatedKeySupply
from fl.rounds.config import FLConfig
from orchestrator.bits import packed_size
from orchestrator.delivery.masking import mask

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


@pytest.fixture
def groups(settings: Settings, targets: Any) -> list[ClientGroup]:
    """Two groups of a cohort of five in one room, without processes, after training and masking."""
    plan = make_plan(settings(5, mode="otp", weights=(1, 2, 1, 3, 1)), 53)
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


def test_an_upload_is_what_a_client_on_its_own_would_send(groups: list[ClientGroup]) -> None:
    """Bit for bit that of the delivery client's ``mask`` with the pads of its four pairs."""
    plan, bits = groups[0].plan, groups[0].plan.value_bits
    for group in groups:
        for client in group.members:
            pads, signs = [], []
            for peer in range(5):
                if peer != client:
                    supply = SimulatedKeySupply(KEY, 5)
                    supply.open_attempt(1)
                    pad = supply.draw(min(client, peer), max(client, peer), 53 * bits, ends=(client,))
                    pads.append(pad.view(np.uint8)[: packed_size(53 * bits)])
                    signs.append(1 if peer > client else -1)
            values = group._values[client].astype(np.int64)
            expected = mask(values, pads, signs, bits, plan.weights[client])
            assert np.array_equal(group._room.uploads[client].view(np.uint8)[: expected.size], expected)


def test_with_one_upload_missing_the_sum_is_noise(groups: list[ClientGroup]) -> None:
    room, plan = groups[0]._room, groups[0].plan
    everybody = sum_of_masked(room.uploads, range(5), 53, plan.value_bits)
    assert np.array_equal(everybody, room.plain_sums.sum(axis=0))
    without = sum_of_masked(room.uploads, range(4), 53, plan.value_bits)
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
