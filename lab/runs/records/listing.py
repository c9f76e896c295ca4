"""What was done on a ring, from what its roles wrote down: blocks, calibrations, orders of key, training runs.

``F`` is a testbed folder with the state of its roles, or the folder of a run (:mod:`lab.runs.records.gathering`); nothing in
it is changed, and roles may go on meanwhile.

============================  ==========================================================================
id                            from
============================  ==========================================================================
``block/EPOCH/NUMBER``        records of both nodes; of the orchestrator, where no node had a block; ``ring-2/block/...``
                              where attempts of one run had rings of their own
``calibration/OWNER/NUMBER``  data set NUMBER in ``calibrations/OWNER.db``
``order/NUMBER``              the queue: key for a pair, or for the pairs of a training run
``training/RUN``              records of the learning server
``run/NUMBER``                supervisors: a demo, a training, ``keygen`` or ``calibrate`` in this folder, and how it ended
============================  ==========================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from lab.calibration.finding import Finding
from lab.calibration.keeping import FINDINGS
from lab.datasets.database import SUFFIX, DatabaseError, readable
from lab.runs.records.ending import is_running
from lab.runs.testbeds.folder import STATE
from orchestrator.decoding import from_plain
from orchestrator.events.common import Unknown
from orchestrator.events.status import RELAY, pair_name
from orchestrator.records.chain import read_chain
from orchestrator.records.keeping import CHAIN_FILE, RECORDS
from orchestrator.records.kinds import (
    AnyRecord,
    BlockEnded,
    LeaseEnded,
    NoSum,
    ResultsKept,
    RoleStarted,
    RunBegan,
    RunEnded,
    SumKept,
    record_of,
)
from orchestrator.wire.messages import KEY
from orchestrator.wire.queue_control import QueueRow

Kind: TypeAlias = Literal["block", "calibration", "order", "training", "run"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One of them; ``result`` in words.  Digests are SHA-256, "" where none is known."""

    id: str
    kind: Kind
    when: datetime
    pair: str = ""
    ok: bool
    result: str
    bits: int | None = None
    qber: float | None = None
    light_s: float | None = None
    testbed: str = ""
    calibration: str = ""
    code: str = ""


@dataclass
class Found:
    """Everything that is there, with all that is known of each by its id; ``unread`` says what could not be read."""

    listed: list[Listed] = field(default_factory=list)
    whole: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)

    def add(self, listed: Listed, whole: list[dict[str, Any]]) -> None:
        """One more."""
        self.listed.append(listed)
        self.whole[listed.id] = whole


@dataclass(frozen=True)
class _Kept:
    """A record, of which ring and whom, and by which code it was written."""

    ring: str
    role: str
    record: AnyRecord
    code: str

    @property
    def plain(self) -> dict[str, Any]:
        kept: dict[str, Any] = msgspec.to_builtins(self.record)
        return {"role": self.role, "code": self.code, **kept}


def found_in(folder: Path, orders: Iterable[QueueRow]) -> Found:
    """Everything in a folder, oldest first; ``orders`` are those of its queue."""
    found = Found()
    kept = list(_kept(folder, found.unread))
    _add_blocks(found, kept)
    _add_training(found, kept)
    _add_runs(found, kept, is_running(folder))
    _add_calibrations(found, folder)
    for row in orders:
        if row.kind in ("key", "run"):
            found.add(_of_order(row), [msgspec.to_builtins(row)])
    found.listed.sort(key=lambda each: each.when)
    return found


def _kept(folder: Path, unread: list[str]) -> Iterator[_Kept]:
    chains = [
        *folder.glob(f"{STATE}/*/{RECORDS}/{CHAIN_FILE}"),
        *folder.glob(f"{RECORDS}/*/{CHAIN_FILE}"),
        *folder.glob(f"{RECORDS}/*/*/{CHAIN_FILE}"),
    ]
    for path in sorted(chains):
        ring = path.parent.parent.name if path.parent.parent.parent.name == RECORDS else ""
        role, code = (path.parent.parent if path.parent.name == RECORDS else path.parent).name, ""
        try:
            lines = read_chain(path).lines
        except OSError as error:
            unread.append(f"{path}: {error.strerror or error}")
            continue
        records = [None if line is None else record_of(bytes(line.record)) for line in lines]
        strange = sum(record is None or isinstance(record, Unknown) for record in records)
        if strange:
            unread.append(
                f"{path}: {strange} of its records are damaged or of another version; `qunetlab audit` says which"
            )
        for record in records:
            if isinstance(record, RoleStarted):
                code = " ".join(filter(None, (record.version, record.commit)))
            if record is not None and not isinstance(record, Unknown):
                yield _Kept(ring, role, record, code)


def _add_blocks(found: Found, kept: list[_Kept]) -> None:
    """Attempts of one run may have had rings of their own, which number their leases alike."""
    by_token: dict[tuple[str, int, int], list[_Kept]] = {}
    for each in kept:
        record = each.record
        if isinstance(record, BlockEnded) or (isinstance(record, LeaseEnded) and record.purpose == KEY):
            by_token.setdefault((each.ring, *record.token), []).append(each)
    several = len({ring for ring, _, _ in by_token}) > 1
    for (ring, epoch, number), of_block in by_token.items():
        blocks = [each for each in of_block if isinstance(each.record, BlockEnded)]
        name = f"block/{epoch}/{number}"
        listed = _of_block(f"{ring}/{name}" if several else name, blocks or of_block)
        found.add(listed, [each.plain for each in of_block])


def _of_block(name: str, kept: list[_Kept]) -> Listed:
    first = kept[0].record
    assert isinstance(first, BlockEnded | LeaseEnded)
    pair = pair_name((first.first, first.second))
    if not isinstance(first, BlockEnded):
        result = f"no block: {first.reason or 'the nodes put none on record'}"
        return Listed(
            id=name, kind="block", when=first.at, pair=pair, ok=False, result=result, code=kept[0].code
        )
    owners = [
        each.record.owner for each in kept if isinstance(each.record, BlockEnded) and each.record.stored
    ]
    result = f"no key: {first.reason}"
    if owners:
        result = f"{first.secret_bits} bits" if len(owners) == 2 else f"stored by {owners[0]} alone on record"
        result += f", QBER {100 * first.qber:.2f} %" if first.qber is not None else ""
    return Listed(
        id=name,
        kind="block",
        when=first.at,
        pair=pair,
        ok=len(owners) == 2,
        result=result,
        bits=first.secret_bits,
        qber=first.qber,
        light_s=first.light_s,
        testbed=first.testbed,
        code=kept[0].code,
    )


def _add_training(found: Found, kept: list[_Kept]) -> None:
    runs: dict[str, list[_Kept]] = {}
    for each in kept:
        if isinstance(each.record, SumKept | NoSum):
            runs.setdefault(each.record.run_id, []).append(each)
    for run_id, of_run in runs.items():
        sums = [each.record for each in of_run if isinstance(each.record, SumKept)]
        lost = len(of_run) - len(sums)
        result = f"{len(sums)} rounds" + (f", accuracy {sums[-1].accuracy:.3f}" if sums else "")
        result += f"; {lost} given up" if lost else ""
        bits = sum(each.key_bits for each in sums)
        listed = Listed(
            id=f"training/{run_id}",
            kind="training",
            when=of_run[0].record.at,
            ok=bool(sums),
            result=result,
            bits=bits,
            code=of_run[0].code,
        )
        found.add(listed, [each.plain for each in of_run])


def _add_runs(found: Found, kept: list[_Kept], running: bool) -> None:
    """A beginning that no end follows is of a run that was killed; the last one's may be still to come."""
    runs: list[list[_Kept]] = []
    for each in kept:
        if isinstance(each.record, RunBegan):
            runs.append([each])
        elif isinstance(each.record, RunEnded | ResultsKept) and runs:
            runs[-1].append(each)
    for number, of_run in enumerate(runs, start=1):
        goes_on = running and number == len(runs)
        found.add(_of_run(f"run/{number}", of_run, goes_on), [each.plain for each in of_run])


def _of_run(name: str, kept: list[_Kept], goes_on: bool) -> Listed:
    began, end = kept[0].record, kept[-1].record
    assert isinstance(began, RunBegan)
    if isinstance(end, RunEnded):
        result = f"{end.how} after {end.seconds:.0f} s" + (f": {end.reason}" if end.reason else "")
    else:
        result = "goes on" if goes_on else "ended without a word: it was killed, or its machine was"
    return Listed(
        id=name,
        kind="run",
        when=began.at,
        ok=goes_on or (isinstance(end, RunEnded) and end.how == "done"),
        result=f"{began.kind} {began.about}: {result}",
        code=kept[0].code,
    )


def _add_calibrations(found: Found, folder: Path) -> None:
    for path in sorted((folder / FINDINGS).glob(f"*{SUFFIX}")):
        try:
            for number, told in _data_sets(path):
                found.add(_of_calibration(f"calibration/{path.stem}/{number}", told), [told])
        except DatabaseError as error:
            found.unread.append(str(error))
        except (KeyError, ValueError) as error:
            found.unread.append(f"{path}: a data set there is of no calibration: {error}")


def _data_sets(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The metadata of every data set of a database."""
    from qcodes.dataset import load_by_id

    with readable(path) as connection:
        for (number,) in connection.execute("SELECT run_id FROM runs ORDER BY run_id").fetchall():
            data = load_by_id(number, connection)
            told = {**data.metadata, "finding": json.loads(data.metadata["finding"])}
            yield number, {**told, "database": str(path), "parameters": sorted(data.paramspecs)}


def _of_calibration(name: str, told: dict[str, Any]) -> Listed:
    finding = from_plain(told["finding"], Finding)
    values = ", ".join(
        f"{value} {found.told()}" for value, found in (finding.values or finding.figures).items()
    )
    users = (told["partner"],) if told["owner"] == RELAY else (told["owner"], told["partner"])
    return Listed(
        id=name,
        kind="calibration",
        when=datetime.fromisoformat(told["ended"]),
        pair=pair_name(users) if told["partner"] else "",
        ok=True,
        result=f"{told['step']}: {values}",
        light_s=told["light_s"],
        testbed=told["testbed_digest"],
        calibration=told["calibration_digest"],
        code=f"{told['code_version']} {told['code_commit']}".strip(),
    )


def _of_order(row: QueueRow) -> Listed:
    result = f"{row.what}: {row.state}" + (f", {row.reason}" if row.reason else "")
    return Listed(
        id=f"order/{row.number}",
        kind="order",
        when=datetime.fromtimestamp(row.added_at, UTC),
        pair=" ".join(map(pair_name, row.pairs)),
        ok=row.state not in ("failed", "aborted"),
        result=result,
        bits=row.made_bits,
    )
