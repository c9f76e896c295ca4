"""What stays of a run on a testbed between its attempts, and what is read from its processes' own records.

The learning server keeps models, sums and round records in its state folder; beside them one file holds what
only the supervisor knows: which sums were checked, how long training stood still, the pairs' ledgers.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fl.experiments.options import OptionsError
from fl.experiments.results import AbortedRow, RoundRow, RoundTimes, Stall
from fl.keys.budget import PairLedger
from lab.runs.supervising.supervised import Run
from orchestrator.decoding import from_json
from orchestrator.durable import replace_file

if TYPE_CHECKING:
    from fl.rounds.config import FLConfig

RECORD_FILE = "live.json"
SERVER_STATE = "state"
"""Folder in which the learning server keeps models and records of the rounds: nothing secret."""


class LiveRecord(msgspec.Struct, frozen=True):
    """What is kept of a run between its attempts, besides the server's own state."""

    exact: dict[int, bool] = {}
    stalls: tuple[Stall, ...] = ()
    seconds: float = 0.0
    ledgers: tuple[PairLedger, ...] = ()
    restarts: dict[str, int] = {}
    started_at: str = ""


def server_rounds(
    state: Path, config: FLConfig
) -> tuple[list[tuple[RoundRow, RoundTimes]], tuple[AbortedRow, ...]]:
    """Completed and aborted rounds as the server recorded them; none before it ever started."""
    from fl.rounds.run_state import STATE_FILE, read_state

    folder = state / "fl-server" / config.run_id
    if not (folder / STATE_FILE).exists():
        return [], ()
    kept = read_state(folder)
    rounds = []
    for record in kept.rounds:
        row = RoundRow(
            record.round,
            record.accuracy,
            record.loss,
            record.upload_bytes_per_client,
            record.key_bits_used,
            config.n_clients - len(record.survivors),
            None,
            record.clipping,
        )
        work_s = max(0.0, record.duration_s - record.key_wait_s)
        rounds.append((row, RoundTimes(work_s=work_s, wait_s=record.key_wait_s)))
    aborted = tuple(AbortedRow(each.round, each.reason, each.key_bits_burnt) for each in kept.aborted)
    return rounds, aborted


def sums_checked(run: Run, state: Path, config: FLConfig) -> dict[int, bool]:
    """Whether the aggregate of every completed round of this attempt is the plain sum."""
    from fl.rounds.run_state import STATE_FILE
    from fl.rounds.selfcheck import check_run

    folder = state / "fl-server" / config.run_id
    if not (folder / STATE_FILE).exists():
        return {}
    checks = check_run(folder, run.self_check)
    return {check.round: check.exact for check in checks if check.exact is not None}


def ledgers_of(run: Run) -> tuple[PairLedger, ...]:
    """The key store of every pair at the end, as its first user counts it."""
    found = []
    for first, second in run.testbed.pairs():
        ledger = run.ledgers.get((first, second))
        if ledger is not None:
            spent = (ledger.delivered_bits, ledger.authentication_bits, ledger.burnt_bits)
            found.append(PairLedger((first, second), ledger.produced_bits, *spent, ledger.stored_bits))
    return tuple(found)


def read_record(folder: Path) -> LiveRecord:
    """What earlier attempts left; an empty record before the first."""
    path = folder / RECORD_FILE
    try:
        return from_json(path.read_bytes(), LiveRecord)
    except FileNotFoundError:
        return LiveRecord()
    except ValueError as error:
        raise OptionsError(f"{path} cannot be read: {error}; the run cannot be continued") from error


def write_record(record: LiveRecord, folder: Path) -> None:
    """Keep the record of a run."""
    replace_file(folder / RECORD_FILE, msgspec.json.encode(record))
