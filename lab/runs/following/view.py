"""How ``qunetlab status`` shows its document to people: tables that fit the terminal, the verdict first.

Everything that another process wrote goes through :mod:`lab.runs.shown`.  Rates of pairs say whether they were
measured or are the plan's, as the orchestrator told; every row has its age.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fl.keys.budget import duration
from lab.runs.attacks.seen import AttackSeen
from lab.runs.following.document import Document, PairRow
from lab.runs.following.observer import Heard
from lab.runs.light_notes import notes_of
from lab.runs.shown import shown
from orchestrator.events.common import Unknown
from orchestrator.events.status import (
    Alarm,
    BlockReport,
    HubStatus,
    Learning,
    LeaseStatus,
    LightNow,
    PeerStatus,
    QueueStatus,
    Refusals,
    Stock,
    pair_name,
)
from orchestrator.scheduling.ring_schedule import USABLE_LANE

RIGHT = ("stock", "asked", "rate", "QBER", "eps")
"""Columns of numbers."""
PAIR_HEAD = ("pair", "stock", "asked", "rate", "QBER", "last block", "last lease", "eps", "state")
LEFT_OUT, NARROW = ("last lease", "eps"), 76
"""Columns of pairs that a terminal of fewer characters does without: what went wrong with a lease stands below the table."""
REASON_SHOWN = 200
WHOLE, NAMES = ("pair", "figure"), 50
"""Columns of names, which stay in one line in terminals of so many characters."""
WIDE = 100
"""Columns of a terminal from which cells stand two spaces apart."""
UNITS = "bits; block: of those predicted; rate: per second on the ring, * planned"


def text(document: Document, width: int) -> str:
    """The whole page, its tables ``width`` characters wide at most."""
    parts: list[str] = [shown(document.verdict.line)]
    parts += textwrap.wrap(attack_words(document.attack), width) if document.attack else []
    parts += [*textwrap.wrap(_about(document), width), ""]
    head = [name for name in PAIR_HEAD if width >= NARROW or name not in LEFT_OUT]
    rows_of_pairs = [
        [cell for name, cell in zip(PAIR_HEAD, _pair(row), strict=True) if name in head]
        for row in document.pairs
    ]
    parts += [*table(head, rows_of_pairs, width), *textwrap.wrap(f"({UNITS})", width)]
    sections: list[tuple[tuple[str, ...], list[tuple[str, ...]]]] = [
        (("pair", "", "since", "why"), [each for row in document.pairs for each in _troubles(row)]),
        (("role", "", "since", ""), [_peer(*row) for row in document.said(PeerStatus)]),
        (("ALARM", "", "since", ""), [alarm_cells(*row) for row in document.said(Alarm)]),
    ]
    for names, rows in sections:
        parts += ["", *table(names, rows, width)] if rows else []
    return "\n".join([*parts, *_beliefs(document, width), *_remarks(document)])


def _beliefs(document: Document, width: int) -> list[str]:
    """What the keys of the pairs rest on, each thing once."""
    said = (note for row in document.pairs for note in notes_of(row.pair.light, row.pair.monitoring))
    return [line for note in dict.fromkeys(said) for line in textwrap.wrap(note, width)]


def attack_words(attack: AttackSeen | None) -> str:
    """That an attack of the attack range is on, or none any more."""
    if attack is None:
        return "no simulated attack is on"
    return shown(f"SIMULATED ATTACK ON {ago(attack.for_s)}: {attack.told}, begun by {attack.who}")


def _about(document: Document) -> str:
    peers = [peer for _, peer, _ in document.said(PeerStatus)]
    epoch = "no link" if document.epoch is None else f"epoch {document.epoch}"
    lost = f"; {document.lost} items were lost on the way" if document.lost else ""
    return (
        f"{shown(document.testbed)}: {epoch}, heard {ago(document.heard_s)} ago; "
        f"{sum(peer.present for peer in peers)} of {len(peers)} roles here{lost}"
    )


def _pair(row: PairRow) -> tuple[str, ...]:
    pair, block, lease, sums = row.pair, row.block, row.lease, row.epsilons
    return (
        pair_name(pair.pair),
        short(pair.stock_bits),
        short(pair.demand_bits),
        f"{short(pair.rate_bps)}{'' if pair.measured else '*'}",
        "-" if block is None or block.qber is None else f"{100 * block.qber:.2f} %",
        "-" if block is None else f"{_gave(block)} {ago(row.block_age_s)}",
        "-" if lease is None else f"{_how(lease)} {ago(row.lease_age_s)}",
        "-" if sums is None else f"{sums.sec + sums.cor + sums.auth:.1g}",
        "ready" if pair.available and not pair.failures else "fails" if pair.available else "away",
    )


def _gave(block: BlockReport) -> str:
    lost = f", {block.lost_frames} lost," if block.lost_frames else ""
    predicted = f" of {short(block.predicted_bits)}" if block.predicted_bits else ""
    return f"{short(block.secret_bits) if block.stored else 'no key'}{predicted}{lost}"


def _how(lease: LeaseStatus) -> str:
    return "good" if lease.ok else "refused" if lease.refused else "failed"


def _troubles(row: PairRow) -> Iterator[tuple[str, ...]]:
    """Why a pair makes no key: that it is away, its failed block, its failed lease, and the fault that lasts."""
    name, pair, told = pair_name(row.pair.pair), row.pair, set()
    if row.block is not None and not row.block.stored:
        told.add(row.block.reason)
        yield name, "no key", ago(row.block_age_s), shown(row.block.reason)
    if row.block is not None and row.block.lost_reason:
        yield name, "lost frames", ago(row.block_age_s), shown(row.block.lost_reason)
    if row.lease is not None and not row.lease.ok:
        told.add(row.lease.reason)
        yield name, f"lease {_how(row.lease)}", ago(row.lease_age_s), shown(row.lease.reason)
    if pair.failures and pair.fault not in told:
        yield name, f"{pair.failures} failures", ago(pair.failing_s), shown(pair.fault)
    if not pair.available:
        yield name, "away", "", shown(pair.reason)


def _peer(_: str, peer: PeerStatus, age_s: float) -> tuple[str, ...]:
    how = "GONE" if not peer.present else "here" if peer.ready else "NOT READY"
    return peer.peer, how, ago(age_s), shown(peer.reason, REASON_SHOWN)


def alarm_cells(role: str, alarm: Alarm, age_s: float | None) -> tuple[str, ...]:
    """An alarm of ``role``: its id, how it stands, since when, what it is and what to do."""
    states = [
        alarm.severity,
        *(["over"] if not alarm.active else []),
        *(["seen"] if alarm.acknowledged else []),
        *(["shelved"] if alarm.shelved_s else []),
    ]
    what = f"{alarm.text}; {alarm.what_to_do}" if alarm.what_to_do else alarm.text
    return alarm.id_of(role), ", ".join(states), ago(age_s), shown(what)


def _remarks(document: Document) -> Iterable[str]:
    """The training run, refusals, overloads, and what was not understood: only what there is."""
    for row in document.items:
        age = f"{ago(row.age_s)} ago"
        match row.data:
            case LightNow(first=str()) as light:
                yield shown(f"{light_words(light)}, told {age}")
            case Learning() as run:
                aborted = f", {run.aborted} aborted" if run.aborted else ""
                reason = f": {run.reason}" if run.reason else ""
                yield shown(
                    f"training {run.run_id} ({run.mode}): {run.state}, {run.done} of {run.rounds} rounds"
                    f"{aborted}, told {age}{reason}"
                )
            case QueueStatus() as queue if queue != QueueStatus(0, 0):
                at_work = "" if queue.running_entry is None else f", entry {queue.running_entry} is at work"
                held = f", {queue.held_entries} are held" if queue.held_entries else ""
                rests = f"; the ring rests: {queue.rests}" if queue.rests else ""
                yield shown(
                    f"queue: {queue.waiting_entries} wait{held}{at_work}{rests} (`qunetlab queue list`)"
                )
            case Refusals() as refused:
                yield shown(
                    f"refused: {refused.count} messages of {refused.peer}, the last {age}: {refused.last}"
                )
            case HubStatus() as hub:
                yield f"overload: {hub.overloads} messages were refused or dropped, more was said than may wait"
            case Unknown() as unknown:
                yield shown(
                    f"{unknown.told_by(row.role)}: {unknown.count} of them, the last {age}: {unknown.reason}"
                )


def light_words(light: LightNow) -> str:
    """Key light at this moment: whose, how far, and what both detectors see of it."""
    if light.first is None or light.second is None:
        return "light: none for key"
    part = f"{100 * light.pulses / light.planned_pulses:.0f} %" if light.planned_pulses else "begins"
    rates = (("D1", light.d1_cps), ("D2", light.d2_cps), ("between pulses", light.backscatter_cps))
    told = "".join(f", {name} {short(max(cps, 0.0))}/s" for name, cps in rates if cps is not None)
    lost = f", {light.lost_frames} frames lost" if light.lost_frames else ""
    return f"light: {pair_name((light.first, light.second))} {part} of a block{told}{lost}"


def change(heard: Heard) -> str:
    """One item in one line, for ``--watch`` without a terminal: what differs from the usual, and no more."""
    if isinstance(heard.item, Unknown):
        return shown(heard.item.told_by(heard.role))
    if isinstance(heard.item, Stock):
        return shown(f"{heard.role} Stock: {_lanes(heard.item)}")
    data = msgspec.to_builtins(heard.item)
    kind = data.pop("type")
    told = ", ".join(
        f"{key} {_told(value)}"
        for key, value in data.items()
        if value not in ("", [], (), None, 0, 0.0, False)
    )
    return shown(f"{heard.role} {kind}: {told}")


def _lanes(stock: Stock) -> str:
    """Bits for applications with each peer, and lanes that are low."""
    free = [f"{each.bits:,} bits with {each.peer}" for each in stock.lanes if each.lane == USABLE_LANE]
    low = [
        f"LOW: {each.bits:,} bits of {each.lane} with {each.peer}"
        for each in stock.lanes
        if each.bits < each.low_water_bits
    ]
    return "; ".join((*free, *low))


def ago(seconds: float | None) -> str:
    """An age for people; None is not known."""
    if seconds is None:
        return ""
    return f"{seconds:.1f} s" if seconds < 10 else duration(round(seconds))


def short(number: float) -> str:
    """A number in three digits: 0, 999, 18.1k, 4.32M."""
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g}{letter}"
    return f"{number:.3g}"


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Lines with aligned columns; cells wrap between words so that a line has at most ``width`` characters."""
    made = Table(box=None, pad_edge=False, padding=(0, 1 if width < WIDE else 2, 0, 0))
    for name in head:
        justify: Literal["left", "right"] = "right" if name in RIGHT else "left"
        made.add_column(
            Text(name), justify=justify, overflow="fold", no_wrap=name in WHOLE and width >= NAMES
        )
    for row in rows:
        made.add_row(*map(Text, row))
    console = Console(width=width, color_system=None, legacy_windows=False)
    with console.capture() as caught:
        console.print(made)
    return [line.rstrip() for line in caught.get().splitlines()]
