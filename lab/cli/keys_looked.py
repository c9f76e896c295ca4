"""``qunetlab keys audit`` and ``use``: whether key can be had, and who had it; never bits.

A running node is asked at its control socket, the store of a stopped one is opened here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from lab.cli.keys import AskedNodes, of_nodes
from lab.runs.following.terminal import columns
from lab.runs.following.view import table
from lab.runs.shown import echo
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import pair_name
from orchestrator.wire.key_control import KeysAudited, SaeUse, Use

AUDIT_S = 600.0
"""For a node with as much key as a disk gives in that time."""


class AuditedStore(KeysAudited, frozen=True, kw_only=True, tag=False):
    """What came of opening every seal of a node's store, and whether the node runs."""

    running: bool


class AuditedStores(msgspec.Struct, frozen=True):
    """Of the nodes on this machine."""

    stores: list[AuditedStore]


class UsedBySae(SaeUse, frozen=True, kw_only=True, tag=False):
    """What an application was given of the key of one pair, at ``node``."""

    node: str


class UseOfKeys(msgspec.Struct, frozen=True):
    """Of the applications of the nodes on this machine."""

    use: list[UsedBySae]


def audit_keys(path: Path, state: Path | None, as_json: bool, store_key: str) -> int:
    """Open every seal of every node found; 1 where one does not open, or books do not balance."""
    from orchestrator.processes.node_control import audited
    from orchestrator.wire.key_control import AuditKeys

    asked: AskedNodes[KeysAudited] = of_nodes(path, state, store_key, AuditKeys(), audited, AUDIT_S)
    found = asked.told
    if as_json:
        stores = [AuditedStore(running=running, **msgspec.structs.asdict(said)) for said, running in found]
        echo(msgspec.json.encode(AuditedStores(stores)).decode())
    else:
        for said, running in found:
            for line in _audit_lines(said, running):
                echo(line)
    return asked.tell_failed() or (1 if any(said.failed or said.books for said, _ in found) else 0)


def show_use(path: Path, state: Path | None, as_json: bool, store_key: str) -> int:
    """What every application was given."""
    from orchestrator.processes.node_control import use_of
    from orchestrator.wall_clock import utc_day
    from orchestrator.wire.key_control import ShowUse

    asked: AskedNodes[Use] = of_nodes(
        path, state, store_key, ShowUse(), lambda store: use_of(store, utc_day())
    )
    rows = [(said.node, row) for said, _ in asked.told for row in said.rows]
    if as_json:
        use = [UsedBySae(node=node, **msgspec.structs.asdict(row)) for node, row in rows]
        echo(msgspec.json.encode(UseOfKeys(use)).decode())
        return asked.tell_failed()
    quotas = {name: entry.bits_per_day for name, entry in Machine(path, state).testbed.sae.items()}
    cells = [
        (
            row.sae,
            node,
            f"{pair_name((node, row.peer))}, {row.side}",
            f"{row.keys:,}",
            f"{row.bits:,}",
            f"{row.bits_today:,}" + (f" of {quotas[row.sae]:,}" if quotas.get(row.sae) else ""),
        )
        for node, row in rows
    ]
    head = ("application", "node", "pair, side", "keys", "bits", "bits today")
    echo("\n".join(table(head, cells, columns(100))) if cells else "no application was given any key yet")
    return asked.tell_failed()


def _audit_lines(said: KeysAudited, running: bool) -> Iterator[str]:
    yield (
        f"{said.node} ({'running' if running else 'stopped'}): {said.opened:,} seals opened, {said.bits:,} bits in the lanes; "
        + (f"{said.failed:,} DO NOT OPEN" if said.failed else "every one opened")
        + ("; THE BOOKS DO NOT BALANCE" if said.books else "; books balance")
    )
    for each in said.unopened:
        where = "" if each.start is None else f" from {each.start} on"
        of = f", {each.bits:,} bits of block {each.block}" if each.bits else ""
        yield f"  {pair_name((said.node, each.peer))}: {each.what}{where}{of}: {each.why}"
    if said.failed > len(said.unopened):
        yield f"  and {said.failed - len(said.unopened):,} more"
    if said.books:
        yield f"  {said.books}"
    if said.uncut:
        yield f"  destroyed bits may still be readable: {said.uncut}"
    if said.failed or said.books:
        yield "  Stop the node, look at the disk, and give the pairs concerned a fresh start; copies of a store are never put back."
