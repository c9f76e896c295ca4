"""What became of key at the nodes of a machine, from the records that they write: made, given out, given up, burnt.

Deliveries to applications are not on record one by one, for there may be hundreds in a second: the latest are told by nodes that run
(:func:`delivered`), sums are in the store (`qunetlab keys use`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

import msgspec

from orchestrator.events.common import Unknown
from orchestrator.records.chain import read_chain
from orchestrator.records.keeping import CHAIN_FILE, RECORDS
from orchestrator.records.kinds import AnyRecord, BlockEnded, PadsTaken, RoleStarted, RoleStopped, record_of
from orchestrator.wire.key_control import Deliveries


class KeyEvent(msgspec.Struct, frozen=True):
    """One thing that happened to key of ``node``, shared with ``peer`` (empty: with all).  ``bits`` is None where nothing is counted.

    ``sae`` is the application that was given it or refused; empty where none asked, or one that the node does not serve.
    """

    at: datetime
    node: str
    peer: str
    what: str
    bits: int | None
    about: str
    sae: str = ""


class KeyHistory(msgspec.Struct, frozen=True):
    """The events of nodes, oldest first, and what could not be read."""

    events: list[KeyEvent]
    unread: list[str]


class KeyRecords:
    """What all ``users`` with records below ``state`` write down, as far as it was not told before."""

    def __init__(self, state: Path, users: Iterable[str]) -> None:
        self._paths = {user: state / user / RECORDS / CHAIN_FILE for user in users}
        self._read_bytes = dict.fromkeys(self._paths, 0)

    def new(self) -> KeyHistory:
        """What came since the last call."""
        found: list[KeyEvent] = []
        unread: list[str] = []
        for user, path in self._paths.items():
            if not path.exists():
                continue
            strange = 0
            try:
                records = self._records(user, path)
            except OSError as error:
                unread.append(f"{path}: {error.strerror or error}")
                continue
            for record in records:
                if record is None or isinstance(record, Unknown):
                    strange += 1
                else:
                    found.extend(_events(user, record))
            if strange:
                unread.append(f"{path}: {strange} of its records are damaged or of another version")
        return KeyHistory(sorted(found, key=lambda each: each.at), unread)

    def _records(self, user: str, path: Path) -> list[AnyRecord | Unknown | None]:
        size = path.stat().st_size
        start = self._read_bytes[user] if self._read_bytes[user] <= size else 0
        chain = read_chain(path, start)
        self._read_bytes[user] = chain.end_byte
        return [None if line is None else record_of(bytes(line.record)) for line in chain.lines]


def delivered(told: Deliveries) -> Iterator[KeyEvent]:
    """What a node's applications were given and refused lately."""
    for row in told.rows:
        asked = f"{row.requests:,} requests" if row.requests > 1 else "a request"
        if row.outcome == "delivered":
            about = f"{row.keys:,} keys for {asked}, as {row.side}"
            yield KeyEvent(row.at, told.node, row.peer, "given out", row.bits, about, row.sae)
        else:
            about = f"{asked} as {row.side}: {row.outcome}"
            yield KeyEvent(row.at, told.node, "", "refused", None, about, row.sae)


def _events(node: str, record: AnyRecord) -> Iterator[KeyEvent]:
    match record:
        case BlockEnded(stored=True):
            lanes = ", ".join(f"{lane} {span.n_bits:,}" for lane, span in record.lanes.items())
            yield KeyEvent(
                record.at,
                node,
                record.peer,
                "block stored",
                record.secret_bits,
                f"{record.block_id}: {lanes}",
            )
        case BlockEnded():
            yield KeyEvent(record.at, node, record.peer, "block given up", None, record.reason)
        case PadsTaken():
            what = "burnt" if record.burnt else "taken for a round"
            for peer, span in record.ranges.items():
                about = f"round {record.round} of run {record.run_id}, mask from {span.start} on"
                yield KeyEvent(record.at, node, peer, what, span.n_bits, about)
        case RoleStarted():
            about = "what was reserved, and open windows, are burnt"
            yield KeyEvent(record.at, node, "", "store opened", None, about)
        case RoleStopped():
            by_peer: dict[str, tuple[int, int]] = {}
            for lane in record.lanes:
                stored, burnt = by_peer.get(lane.peer, (0, 0))
                by_peer[lane.peer] = stored + lane.stored, burnt + lane.burnt
            for peer, (stored, burnt) in by_peer.items():
                yield KeyEvent(record.at, node, peer, "store closed", stored, f"{burnt:,} burnt so far")
