"""Live progress of a run: a table that redraws itself on a terminal, plain lines elsewhere, all on stderr."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lab.runs.shown import echo, shown
from orchestrator.events.common import Unknown
from orchestrator.events.learning import RoundCompleted, RoundStarted, WaitingForClients, WaitingForKeys
from orchestrator.events.process import LightProgress, ProcessEvent
from orchestrator.events.status import BlockReport, pair_name

PLAIN_INTERVAL_S = 5.0


@dataclass
class PairProgress:
    """What is known of one pair so far."""

    demand_bits: int = 0
    pulses: int = 0
    blocks: int = 0
    aborted: int = 0
    secret_bits: int = 0
    qber: float | None = None
    on_ring: bool = False

    @property
    def state(self) -> str:
        """One word or two for the table."""
        if self.on_ring:
            return "light"
        return "stocked" if self.secret_bits >= self.demand_bits > 0 else "waiting"


@dataclass
class RunProgress:
    """Everything the display shows; :func:`show_event` fills it in."""

    phase: str = "starting"
    pairs: dict[tuple[str, str], PairProgress] = field(default_factory=dict)
    pulses_per_s: float = 0.0
    round: int = 0
    rounds: int = 0
    accuracy: float | None = None
    waiting: str = ""
    warning: str = ""
    started: float = field(default_factory=time.monotonic)
    lit: float | None = None
    """When the first light was on; starting processes is not part of the rate at which keys come."""

    def left_s(self) -> float | None:
        """Seconds of key generation left at the present rate, if it can be told."""
        wanted = sum(pair.demand_bits for pair in self.pairs.values())
        have = sum(min(pair.secret_bits, pair.demand_bits) for pair in self.pairs.values())
        elapsed = time.monotonic() - (self.started if self.lit is None else self.lit)
        return (wanted - have) * elapsed / have if have and wanted > have else None


def show_event(progress: RunProgress, name: str, event: ProcessEvent) -> None:
    """Carry one event of the process ``name`` over into what the display shows."""
    match event:
        case LightProgress():
            progress.lit = progress.lit or time.monotonic()
            for pair, row in progress.pairs.items():
                row.on_ring = pair == event.pair and event.pulses < event.planned_pulses
        case BlockReport() if event.counts(name):
            row = progress.pairs[event.pair]
            row.pulses += event.pulses
            if event.stored:
                row.blocks += 1
                row.secret_bits += event.secret_bits
                row.qber = event.qber
            else:
                row.aborted += 1
        case RoundCompleted(record):
            progress.round, progress.accuracy, progress.waiting = record.round, record.accuracy, ""
            if record.clipping is not None and record.clipping.harmful:
                progress.warning = "WARNING: clip or levels do not fit, updates are lost; see the report"
        case RoundStarted():
            progress.waiting = ""
        case WaitingForClients():
            progress.waiting = event.reason or f"waiting for {', '.join(event.missing)}"
        case WaitingForKeys():
            progress.waiting = f"waiting for keys: {event.detail}"
        case Unknown():
            progress.warning = event.told_by(name)


class Display:
    """Shows a RunProgress; a context manager."""

    def __init__(self, progress: RunProgress) -> None:
        self.progress = progress
        self._console = Console(stderr=True)
        self._live: Live | None = None
        self._last_line = 0.0
        self._last_text = ""

    def __enter__(self) -> Display:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(self._table(), console=self._console, refresh_per_second=4)
            self._live.__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        if self._live is not None:
            self._live.update(self._table())
            self._live.__exit__(*details)

    def update(self, *, force: bool = False) -> None:
        """Redraw; without a terminal one line every few seconds, or at once with ``force``."""
        if self._live is not None:
            self._live.update(self._table())
            return
        quiet = time.monotonic() - self._last_line < PLAIN_INTERVAL_S
        text = self._line()
        if text != self._last_text and (force or not quiet):
            self._last_line, self._last_text = time.monotonic(), text
            echo(text, err=True)

    def _head(self) -> str:
        p = self.progress
        parts = [f"{time.monotonic() - p.started:5.0f} s  {p.phase}"]
        if p.pulses_per_s:
            parts.append(f"{p.pulses_per_s / 1e6:.0f} Mpulses/s")
        left = p.left_s()
        if left is not None:
            parts.append(f"keys for all rounds in about {left:.0f} s")
        if p.round:
            parts.append(f"round {p.round}/{p.rounds}")
        if p.accuracy is not None:
            parts.append(f"accuracy {100 * p.accuracy:.1f} %")
        if p.waiting:
            parts.append(p.waiting)
        if p.warning:
            parts.append(p.warning)
        return shown(", ".join(parts))

    def _line(self) -> str:
        done = sum(pair.secret_bits for pair in self.progress.pairs.values())
        keyed = sum(pair.secret_bits > 0 for pair in self.progress.pairs.values())
        return f"{self._head()}; {keyed}/{len(self.progress.pairs)} pairs keyed, {done / 1000:.0f} kbit"

    def _table(self) -> Group:
        table = Table(box=None, pad_edge=False)
        for name in ("pair", "pulses", "blocks", "aborted", "QBER", "secret bits", "needed", "state"):
            table.add_column(name, justify="left" if name in ("pair", "state") else "right")
        for names, pair in self.progress.pairs.items():
            table.add_row(
                pair_name(names),
                f"{pair.pulses:.3g}",
                str(pair.blocks),
                str(pair.aborted),
                "-" if pair.qber is None else f"{100 * pair.qber:.2f} %",
                f"{pair.secret_bits:,}",
                f"{pair.demand_bits:,}",
                pair.state,
            )
        return Group(Text(self._head()), table)
