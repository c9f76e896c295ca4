"""Key for one pair without any learning: an entry of the queue, on a ring that runs or on one of its own.

On either ring the order goes through the queue of its orchestrator, whose rules hold.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from lab.runs.shown import echo, shown
from lab.runs.supervising.supervised import STALL_TIMEOUT_S, Run
from orchestrator.events.process import Ended, LightProgress, ProcessEvent
from orchestrator.events.status import ORCHESTRATOR, BlockReport, pair_name
from orchestrator.wire.queue_control import OPEN, AbortEntry, AddEntry, QueueRow, ShowQueue

WHO = "keygen"
FOLLOW_S = 0.5
CLOSED_SEEN = 200
"""An entry that is over is looked for among so many."""


def order_key(
    orchestrator: Path,
    pair: tuple[str, str],
    bits: int,
    who: str,
    *,
    priority: int = 0,
    due_in_s: float | None = None,
) -> QueueRow:
    """Put an order into the queue of the orchestrator with this state folder.

    Raises ControlError if none runs there, ControlRefusedError with why it does not take the order.
    """
    from orchestrator.wire.control_socket import ask

    entry = AddEntry(who, "key", (pair,), bits, priority=priority, due_in_s=due_in_s)
    (row,) = ask(orchestrator, entry).entries
    found: QueueRow = row
    return found


def state_of(orchestrator: Path, number: int) -> QueueRow:
    """How far an entry is; raises ControlError as :func:`order_key`."""
    from orchestrator.wire.control_socket import ask

    rows: list[QueueRow] = ask(orchestrator, ShowQueue(CLOSED_SEEN)).entries
    return next(row for row in rows if row.number == number)


def is_open(row: QueueRow) -> bool:
    """Whether it is still in the queue."""
    return row.state in OPEN


def follow(orchestrator: Path, number: int, tell: Callable[[str], None]) -> QueueRow:
    """Wait for an entry of a running ring; ``tell`` hears what changes.  Raises ControlError if the orchestrator goes."""
    last = ""
    while True:
        row = state_of(orchestrator, number)
        text = progress(row)
        if text != last:
            tell(text)
            last = text
        if not is_open(row):
            return row
        time.sleep(FOLLOW_S)


def progress(row: QueueRow) -> str:
    """How far an entry is, in a line."""
    ready = "" if row.ready_in_s is None else f", ready in about {row.ready_in_s:.0f} s"
    why = f" ({row.reason})" if row.reason else ""
    part = f"{row.made_bits:,} of {row.wanted_bits:,} bits"
    return shown(f"entry {row.number}: {row.state}, {part}{ready}{why}")


def make_key(
    run: Run,
    pair: tuple[str, str],
    bits: int,
    on_event: Callable[[str, ProcessEvent], None],
    *,
    blocks: int | None = None,
) -> list[BlockReport]:
    """Have a ring of one's own make ``bits``, or ``blocks`` of whatever they give; the first user's reports.

    An order that is still open at the end is taken out: the queue of a testbed folder outlasts this ring.

    Raises ChildError when a process fails or nothing happens for long.
    """
    orchestrator = run.state / ORCHESTRATOR
    number = order_key(orchestrator, pair, bits, WHO).number
    try:
        return _followed(run, pair, number, on_event, blocks)
    finally:
        _take_out(orchestrator, number)


def _take_out(orchestrator: Path, number: int) -> None:
    from orchestrator.wire.control_socket import ControlError, ControlRefusedError, ask

    try:
        if is_open(state_of(orchestrator, number)):
            ask(orchestrator, AbortEntry(WHO, number))
    except (ControlError, ControlRefusedError) as error:
        echo(f"entry {number} stays in the queue of {orchestrator}: {error}", err=True)


def _followed(
    run: Run,
    pair: tuple[str, str],
    number: int,
    on_event: Callable[[str, ProcessEvent], None],
    blocks: int | None,
) -> list[BlockReport]:
    orchestrator = run.state / ORCHESTRATOR
    made: list[BlockReport] = []
    heard_s, closed_s = time.monotonic(), None
    while blocks is None or len(made) < blocks:
        if closed_s is None and not is_open(state_of(orchestrator, number)):
            closed_s = time.monotonic()
        if closed_s is not None and time.monotonic() - closed_s > FOLLOW_S:
            break  # the report of its last block has had its time
        try:
            name, event = run.supervisor.events.get(timeout=FOLLOW_S)
        except queue.Empty:
            if time.monotonic() - heard_s > STALL_TIMEOUT_S:
                run.supervisor.wait_for(lambda *_: True, 0.0, f"blocks of {pair_name(pair)}")
            continue
        heard_s = time.monotonic()
        run.note(name, event)
        on_event(name, event)
        if isinstance(event, Ended) and run.supervisor.children[name].process.wait() != 0:
            run.supervisor.raise_ended(name, f"blocks of {pair_name(pair)}")
        if isinstance(event, BlockReport) and event.counts(name) and event.pair == pair:
            made.append(event)
    return made


def make_blocks(
    run: Run, pair: tuple[str, str], count: int, on_event: Callable[[str, ProcessEvent], None]
) -> list[BlockReport]:
    """Have a ring of one's own make ``count`` blocks, one after the other, whatever they give; see :func:`make_key`.

    Ordered is what so many should give, and more where they gave more: a run that is killed leaves no order without end.
    """
    from orchestrator.protocols.block_planning import plan_for

    expected = max(1, int(plan_for(run.testbed, *pair).expected_bits))
    made: list[BlockReport] = []
    while lacking := count - len(made):
        made += make_key(run, pair, lacking * expected, on_event, blocks=lacking)
    return made


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


class BlockRow(TypedDict):
    """A block beside its plan; rates are per second of light (``ring``) or of the clock on the wall.  QBER, f and phase error are None
    where a block ended before they were known."""

    light: str | None
    monitoring: str | None
    stored: bool
    reason: str
    pulses: int
    lost_frames: int
    p_x: float
    mu_a: float
    mu_b: float
    sifted_bits: int
    qber: float | None
    planned_qber: float
    f_ec: float | None
    phase_error_upper: float | None
    secret_bits: int
    predicted_bits: float
    planned_bits: float
    sifted_bits_per_ring_second: float
    secret_bits_per_ring_second: float
    secret_bits_per_wall_second: float
    pulses_per_wall_second: float


def block_row(run: Run, pair: tuple[str, str], block: BlockReport) -> BlockRow:
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
