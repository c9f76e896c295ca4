"""``qunetlab keygen``: key for one pair on simulated instruments, the whole road without the learning."""

from __future__ import annotations

import json
from typing import Any

from lab.runs.keygen import block_row, light_progress, make_blocks
from lab.runs.shown import echo
from lab.runs.supervising.kernels import compile_all
from lab.runs.supervising.supervised import supervised_run
from orchestrator.events.status import pair_name


def run_keygen(source: str, pair: tuple[str, str], count: int, as_json: bool) -> int:
    """Make ``count`` blocks and print what became of each; 1 if none gave key."""
    compile_all()
    with supervised_run(source, {}) as run:
        if pair not in run.testbed.pairs():
            known = ", ".join(map(pair_name, run.testbed.pairs()))
            raise ValueError(f"{pair_name(pair)} is no pair of this testbed; pairs in ring order: {known}")
        run.start_ring()
        blocks = make_blocks(run, pair, count, light_progress())
    rows = [block_row(run, pair, block) for block in blocks]
    if as_json:
        echo(json.dumps({"pair": list(pair), "simulated": True, "blocks": rows}))
    else:
        for row in rows:
            echo(", ".join(f"{name} {_short(value)}" for name, value in row.items()))
    return 0 if any(row["stored"] for row in rows) else 1


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
