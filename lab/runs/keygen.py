"""Key for one pair on a supervised ring: the whole road without the learning.

Everything between laser and key store is as in a demo; only the demand comes from here, through the first
user's delivery service as its learning client would send it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from lab.runs.shown import echo
from lab.runs.supervising.supervised import STALL_TIMEOUT_S, Run
from orchestrator.events.process import LightProgress, ProcessEvent
from orchestrator.events.status import BlockReport, pair_name

WITHOUT_END = 10**15


def make_blocks(
    run: Run, pair: tuple[str, str], count: int, on_event: Callable[[str, ProcessEvent], None]
) -> list[BlockReport]:
    """Have the running ring make ``count`` blocks of ``pair``, one after the other; the first user's reports.

    Raises ChildError when a process fails or nothing happens for long.
    """
    from orchestrator.delivery.client import DeliveryClient
    from orchestrator.wire.curve import load_keys

    first, second = pair
    keys, node = load_keys(run.secrets / f"fl-{first}"), run.testbed.user(first)
    with DeliveryClient(node.delivery, keys, run.testbed.public_key(first)) as client:
        client.demand({second: WITHOUT_END})
    blocks: list[BlockReport] = []

    def take(name: str, event: ProcessEvent) -> None:
        run.note(name, event)
        on_event(name, event)
        if isinstance(event, BlockReport) and name == first:
            blocks.append(event)

    while len(blocks) < count:
        run.supervisor.wait_for(lambda *_: True, STALL_TIMEOUT_S, f"blocks of {pair_name(pair)}", take)
    return blocks


def light_progress() -> Callable[[str, ProcessEvent], None]:
    """A listener that prints part, rate and time left of the light phase every few seconds, on standard error."""
    started = last = time.monotonic()
    first: LightProgress | None = None
    latest = 0

    def show(name: str, event: ProcessEvent) -> None:
        nonlocal last, first, latest
        if not isinstance(event, LightProgress):
            return
        now = time.monotonic()
        if first is None or event.pulses <= latest:
            first = event
        latest, elapsed = event.pulses, event.at_s - first.at_s
        if now - last < 5.0 or elapsed <= 0:
            return
        last = now
        rate = (event.pulses - first.pulses) / elapsed
        left = (event.planned_pulses - event.pulses) / rate
        text = f"{now - started:5.0f} s  {event.pulses:.3g} of {event.planned_pulses:.3g} pulses, "
        echo(f"{text}{rate / 1e6:.0f} Mpulses/s, {left:.0f} s left", err=True)

    return show


def block_row(run: Run, pair: tuple[str, str], block: BlockReport) -> dict[str, Any]:
    """What became of one block, beside what was planned; never bits."""
    from orchestrator.protocols.block_planning import plan_for

    plan = plan_for(run.testbed, *pair)
    secret = block.secret_bits
    return {
        "light": block.light,
        "monitoring": block.monitoring,
        "stored": block.stored,
        "reason": block.reason,
        "pulses": block.pulses,
        "lost_frames": block.lost_frames,
        "p_x": plan.p_x,
        "mu_a": plan.mu_a,
        "mu_b": plan.mu_b,
        "sifted_bits": block.sifted_bits,
        "qber": block.qber,
        "planned_qber": plan.qber,
        "f_ec": block.f_ec,
        "phase_error_upper": block.phase_error_upper,
        "secret_bits": secret,
        "predicted_bits": block.predicted_bits,
        "planned_bits": plan.expected_bits,
        "sifted_bits_per_ring_second": block.sifted_bits / block.light_s,
        "secret_bits_per_ring_second": secret / block.light_s,
        "secret_bits_per_wall_second": secret / block.light_wall_s,
        "pulses_per_wall_second": block.pulses / block.light_wall_s,
    }
