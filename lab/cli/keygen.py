"""``qunetlab keygen``: key for one pair, without the learning, on every ring.

Where the orchestrator of the testbed runs on this machine, simulated or not, the order goes into its queue and is
followed; it stays there if this command is ended.  Where none runs, a simulated testbed gets a ring of its own for the
while, the whole road; a physical one has to be started.  Key, records and queue are those of the testbed folder, if it is
one; of a bundled testbed, or a file alone, the records stay in a folder of their own, and key and secrets do not.
"""

from __future__ import annotations

import getpass
import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from lab.cli.queue import bits_of, seconds_of, show_rows
from lab.runs.keygen import block_row, follow, light_progress, make_blocks, make_key, order_key
from lab.runs.own_folder import own_folder
from lab.runs.records.ending import on_record
from lab.runs.records.gathering import digests
from lab.runs.shown import echo
from lab.runs.supervising.kernels import compile_all
from lab.runs.supervising.supervised import Run, supervised_folder, supervised_run
from lab.runs.testbeds.folder import SECRETS, STATE, FolderError, source_path
from lab.runs.testbeds.machine import pair_named
from lab.testbed import load_testbed
from orchestrator.events.status import ORCHESTRATOR, pair_name
from orchestrator.wire.queue_control import QueueShown


def run_keygen(
    source: str,
    named: str,
    *,
    bits: str | None,
    blocks: int | None,
    priority: int,
    due_in: str | None,
    state: Path | None,
    as_json: bool,
) -> int:
    """Make key and print what came of it; 1 if there was none."""
    from orchestrator.wire.control_socket import listens

    if bits is not None and blocks is not None:
        raise ValueError("give --bits or --blocks, not both")
    path = source_path(source)
    testbed = load_testbed(path)
    pair = pair_named(testbed, named)
    orchestrator = (state or path.parent / STATE).absolute() / ORCHESTRATOR
    if listens(orchestrator):
        if bits is None:
            raise ValueError("on a ring that runs key is ordered by its length: give --bits, such as 250k")
        due_in_s = None if due_in is None else seconds_of(due_in)
        return _on_running_ring(orchestrator, pair, bits_of(bits), priority, due_in_s, as_json)
    if testbed.simulation is None:
        raise FolderError(
            f"{path} is no simulated testbed and its orchestrator does not run on this machine ({orchestrator}): start"
            " orchestrator, relay and nodes, and give the command where the orchestrator runs"
        )
    if priority or due_in is not None:
        raise ValueError(
            f"--priority and --due-in are for a ring that runs, and no orchestrator listens at {orchestrator}"
        )
    if state is not None:
        raise ValueError(
            "--state is for a ring that runs: a ring of its own keeps its state with its testbed"
        )
    wanted = None if bits is None else bits_of(bits)
    return _on_own_ring(source, path, pair, wanted, blocks or 1, as_json)


def _on_running_ring(
    orchestrator: Path, pair: tuple[str, str], bits: int, priority: int, due_in_s: float | None, as_json: bool
) -> int:
    row = order_key(orchestrator, pair, bits, getpass.getuser(), priority=priority, due_in_s=due_in_s)
    try:
        row = follow(orchestrator, row.number, lambda text: echo(text, err=True))
    except KeyboardInterrupt:
        echo(
            f"entry {row.number} stays in the queue; `qunetlab queue abort {row.number}` takes it out",
            err=True,
        )
        raise
    show_rows(QueueShown("", None, [row]), as_json)
    return 0 if row.state == "done" else 1


def _on_own_ring(
    source: str, path: Path, pair: tuple[str, str], bits: int | None, count: int, as_json: bool
) -> int:
    home = path.parent if (path.parent / SECRETS).is_dir() else own_folder("keygen")
    asked = f"{count} blocks" if bits is None else f"{bits} bits"
    with on_record(home, "keygen", f"{pair_name(pair)}, {asked}", _sealed_here) as ending:
        compile_all()
        with _own_ring(source, path, home) as run:
            run.start_ring()
            progress = light_progress()
            if bits is None:
                blocks = make_blocks(run, pair, count, progress)
            else:
                blocks = make_key(run, pair, bits, progress)
        if not any(block.stored for block in blocks):
            ending.failed("no key")
    rows = [block_row(run, pair, block) for block in blocks]
    if as_json:
        echo(json.dumps({"pair": list(pair), "simulated": True, "blocks": rows}))
    else:
        for row in rows:
            echo(", ".join(f"{name} {_short(value)}" for name, value in row.items()))
    echo(f"on record: `qunetlab audit {home}`", err=True)
    return 0 if any(row["stored"] for row in rows) else 1


def _own_ring(source: str, path: Path, home: Path) -> AbstractContextManager[Run]:
    if home == path.parent:
        return supervised_folder(home)
    return supervised_run(source, {}, records=home)


def _sealed_here(home: Path) -> dict[str, str]:
    """Roles of a testbed folder go on with their records; those of a ring that is gone are sealed."""
    return {} if (home / SECRETS).is_dir() else digests(home)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
