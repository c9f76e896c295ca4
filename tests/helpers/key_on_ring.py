"""Blocks of key on a simulated ring through the drivers of every instrument: light, post-processing, what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from driven_ring import TEMPLATE, DrivenRing, Phase
from rehearsal import Side, memory_lanes, rehearse

from lab.runs.testbeds.another_ring import another_ring
from lab.testbed import read_testbed
from orchestrator.keystore.lanes import PairEnd
from orchestrator.light.messages import LightAborted
from orchestrator.postprocessing.block import BlockResult, OnTold
from orchestrator.postprocessing.conversation import BlockAborted
from orchestrator.protocols.block_planning import plan_for

Outcome = BlockResult | BlockAborted | LightAborted


def ring_file(ring_seed: int, *, pulses: int, slots: int, uncalibrated: bool = False) -> dict[str, Any]:
    """The bundled ring made anew from another seed, surveyed or known as ordered; its phases are said to be known."""
    data = read_testbed(TEMPLATE)
    known = data["uncertainty"]
    data["protocol"] |= {"slots_per_frame": slots, "pulses_per_block": pulses}
    made = another_ring(data, TEMPLATE, ring_seed=ring_seed, uncalibrated=uncalibrated)
    return {**made, "uncertainty": known}


def blocks(data: dict[str, Any], pair: tuple[str, str], count: int) -> Iterator[Outcome]:
    """What became of each block, as the first user has it; keys are wiped.  A light phase that ends early is one."""
    ring = DrivenRing(data, pair)
    try:
        for number in range(count):
            try:
                phase = ring.phase(ring.testbed.frames_per_block())
            except LightAborted as ended:
                yield ended
            else:
                yield key_of(ring, phase, number)
    finally:
        ring.close()


def key_of(ring: DrivenRing, phase: Phase, number: int, on_told: OnTold = lambda clicks: None) -> Outcome:
    """What both users make of a light phase, as the first one has it; keys are wiped.  ``on_told`` as of run_block."""
    plan = plan_for(ring.testbed, *ring.pair)
    lanes = memory_lanes(np.random.default_rng(number))
    sides: dict[PairEnd, Side] = {}
    ends: tuple[PairEnd, PairEnd] = ("first", "second")
    for end, clicks, auth, told in zip(
        ends, (phase.first, phase.second), lanes, phase.announcements, strict=True
    ):
        sides[end] = Side(clicks, auth, plan, told, pair=ring.pair, block=number, on_told=on_told)
    rehearse(sides, seed=number)
    for side in sides.values():
        if side.key is not None:
            side.key.wipe()
    outcome = sides["first"].outcome
    assert outcome is not None
    return outcome
