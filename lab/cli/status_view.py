"""How ``qunetlab status`` shows a testbed: text for people, a versioned document for programs.

Everything that another process wrote goes through :mod:`lab.runs.shown`; JSON escapes it by itself.  Rates of
pairs say whether they were measured or are the plan's, as the orchestrator told; every line has its age.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from fl.keys.budget import duration
from lab.runs.following.observer import Heard, Observer
from lab.runs.following.verdict import Verdict, verdict
from lab.runs.shown import shown
from orchestrator.events.status import (
    BlockReport,
    Epsilons,
    HubStatus,
    LeaseStatus,
    PairStatus,
    PeerStatus,
    Refusals,
    Stock,
)
from orchestrator.scheduling.ring_schedule import USABLE_LANE

SCHEMA = 1
"""Version of the JSON document; grows when a field changes its meaning or goes."""


def text(observer: Observer) -> str:
    """The whole page: the verdict first."""
    facts = observer.facts()
    parts = [
        shown(verdict(facts).line),
        _about(observer, facts.heard_s),
        "",
        *_pairs(observer),
        "",
        *_peers(observer),
        *_remarks(observer),
    ]
    return "\n".join(parts)


def document(observer: Observer) -> dict[str, Any]:
    """Everything that was told, for ``--json``; floats are plain seconds and bits."""
    facts = observer.facts()
    now_s = observer.clock()
    return {
        "schema": SCHEMA,
        "verdict": verdict_document(verdict(facts)),
        "testbed": observer.testbed.name,
        "epoch": observer.agent.epoch,
        "heard_s": round(facts.heard_s, 3),
        "lost": observer.lost,
        "items": [item_document(each, now_s) for each in observer.heard.values()],
    }


def verdict_document(said: Verdict) -> dict[str, Any]:
    """A verdict as plain values."""
    return {
        "state": said.state,
        "age_s": round(said.age_s, 3),
        "text": said.text,
        "exit_code": said.exit_code,
    }


def item_document(heard: Heard, now_s: float) -> dict[str, Any]:
    """An item as plain values: who said it, of which kind it is, how old it is, what it says."""
    data = msgspec.to_builtins(heard.item)
    kind = data.pop("type")
    return {
        "role": heard.role,
        "kind": kind,
        "age_s": round(max(0.0, now_s - heard.since_s), 3),
        "data": data,
    }


def change(heard: Heard) -> str:
    """One item in one line, for ``--watch`` without a terminal: what differs from the usual, and no more."""
    if isinstance(heard.item, Stock):
        return shown(f"{heard.role} Stock: {_lanes(heard.item)}")
    data = msgspec.to_builtins(heard.item)
    kind = data.pop("type")
    told = ", ".join(
        f"{key} {_short(value)}" for key, value in data.items() if value not in ("", [], (), None)
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


def ago(seconds: float) -> str:
    """An age for people."""
    return f"{seconds:.1f} s" if seconds < 10 else duration(round(seconds))


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _about(observer: Observer, heard_s: float) -> str:
    here = {item.peer for _, item, _ in observer.said_by(PeerStatus) if item.present}
    expected = observer.facts().expected
    epoch = "no link" if observer.agent.epoch is None else f"epoch {observer.agent.epoch}"
    lost = f"; {observer.lost} items were lost on the way" if observer.lost else ""
    return (
        f"{shown(observer.testbed.name)}: {epoch}, heard {ago(heard_s)} ago; "
        f"{sum(role in here for role in expected)} of {len(expected)} roles here{lost}"
    )


def _pairs(observer: Observer) -> list[str]:
    blocks = {
        (item.first, item.second): (item, age_s)
        for role, item, age_s in observer.said_by(BlockReport)
        if role == item.first
    }
    leases = {(item.first, item.second): (item, age_s) for _, item, age_s in observer.said_by(LeaseStatus)}
    epsilons = {(role, item.peer): item for role, item, _ in observer.said_by(Epsilons)}
    rows = [["pair", "stock", "asked for", "rate, bit/s", "QBER", "last block", "last lease", "eps", "state"]]
    for _, pair, _ in observer.said_by(PairStatus):
        names = pair.first, pair.second
        block, lease = blocks.get(names), leases.get(names)
        sums = epsilons.get(names)
        rows.append(
            [
                f"{pair.first}-{pair.second}",
                f"{pair.stock_bits:,}",
                f"{pair.demand_bits:,}",
                f"{pair.rate_bps:,.0f} {'measured' if pair.measured else 'planned'}",
                f"{100 * block[0].qber:.2f} %" if block else "-",
                _block(*block) if block else "-",
                _lease(*lease) if lease else "-",
                f"{sums.sec + sums.cor + sums.auth:.1g}" if sums else "-",
                shown(pair.reason) or (f"fails: {shown(pair.fault)}" if pair.failures else "ready"),
            ]
        )
    return table(rows)


def _block(block: BlockReport, age_s: float) -> str:
    what = f"{block.secret_bits:,} bits" if block.stored else f"no key: {shown(block.reason, 60)}"
    return f"{what}, {ago(age_s)} ago"


def _lease(lease: LeaseStatus, age_s: float) -> str:
    how = "good" if lease.ok else f"{'refused' if lease.refused else 'failed'}: {shown(lease.reason, 60)}"
    return f"{lease.lease_number} {how}, {ago(age_s)} ago"


def _peers(observer: Observer) -> list[str]:
    rows = [["role", "", "since", ""]]
    for _, peer, age_s in observer.said_by(PeerStatus):
        how = "GONE" if not peer.present else "here" if peer.ready else "NOT READY"
        rows.append([peer.peer, how, ago(age_s), shown(peer.reason, 100)])
    return table(rows)


def _remarks(observer: Observer) -> Iterable[str]:
    """Alarms, refusals, overloads and the training run: only what there is."""
    facts = observer.facts()
    for role, alarm, age_s in facts.alarms:
        peer = f" with {alarm.peer}" if alarm.peer else ""
        yield shown(f"ALARM of {role}{peer} since {ago(age_s)}: {alarm.name}: {alarm.text}")
    for _, refused, age_s in observer.said_by(Refusals):
        yield shown(
            f"refused: {refused.count} messages of {refused.peer}, the last {ago(age_s)} ago: {refused.last}"
        )
    for _, hub, _ in observer.said_by(HubStatus):
        yield f"overload: {hub.overloads} messages were refused or dropped, more was said than may wait"
    if facts.learning is not None:
        run, age_s = facts.learning
        aborted = f", {run.aborted} aborted" if run.aborted else ""
        reason = f": {run.reason}" if run.reason else ""
        yield shown(
            f"training {run.run_id} ({run.mode}): {run.state}, {run.done} of {run.rounds} rounds{aborted}, "
            f"told {ago(age_s)} ago{reason}"
        )


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
