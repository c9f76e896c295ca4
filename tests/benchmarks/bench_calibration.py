"""Freshly seeded rings, calibrated by nothing but their instruments and then asked for key, through the command line:

python tests/benchmarks/bench_calibration.py FIRST COUNT [--blocks 4] [--folder F] [--json]

For each ring ``qunetlab init --uncalibrated --ring-seed N``, ``qunetlab calibrate`` for all its pairs and ``qunetlab keygen``
for one of them, in turn.  Prints a row for each ring: what was refused, how many values are within two sigma of the truth and
the worst, bits made over planned (from calibrated values) and over predicted (from counted arrivals), seconds of light and of
the wall.  At the end a row for each kind of value.  ``--json`` prints a line of JSON for each ring instead.  A ring takes two
to three minutes of one core; a ring whose row is in ``F/rings.jsonl`` already is not done again.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from true_ring import KINDS, Compared, compared, truth

QUNETLAB = (sys.executable, "-P", "-m", "lab.cli.main")
PAIRS = (
    ("alice", "bob"),
    ("alice", "carol"),
    ("bob", "dave"),
    ("alice", "dave"),
    ("bob", "carol"),
    ("carol", "dave"),
)
TWO_SIGMA = 2.0
LONGEST_S = 1200.0


@dataclass(frozen=True)
class RingRow:
    """One ring: what its calibration found, and the blocks of key that were made with it."""

    seed: int
    pair: tuple[str, str]
    refused: list[str]
    values: list[Compared]
    light_s: float
    calibrate_s: float
    keygen_s: float
    made_bits: list[int]
    planned_bits: list[int]
    predicted_bits: list[int]
    failed: str = ""

    @property
    def made_over_planned(self) -> float:
        """NaN where no block was made."""
        return sum(self.made_bits) / sum(self.planned_bits) if any(self.planned_bits) else math.nan

    @property
    def made_over_predicted(self) -> float:
        """NaN where no block was made."""
        return sum(self.made_bits) / sum(self.predicted_bits) if any(self.predicted_bits) else math.nan


def qunetlab(*arguments: str) -> subprocess.CompletedProcess[str]:
    """One command as its user gives it."""
    return subprocess.run(
        [*QUNETLAB, *arguments], capture_output=True, text=True, timeout=LONGEST_S, check=False
    )


def measure_ring(seed: int, folder: Path, blocks: int) -> RingRow:
    """Make the ring of ``seed`` in ``folder``, calibrate it and make ``blocks`` blocks of key."""
    pair, place = PAIRS[seed % len(PAIRS)], str(folder)
    made = qunetlab("init", place, "--uncalibrated", "--ring-seed", str(seed))
    if made.returncode:
        return _failed(seed, pair, made.stderr)
    true, began_s = truth(folder / "testbed.toml"), time.monotonic()
    told = qunetlab("calibrate", "--testbed", place, "--json")
    calibrate_s = time.monotonic() - began_s
    if not told.stdout:
        return _failed(seed, pair, told.stderr)
    steps = json.loads(told.stdout)["calibrated"]
    findings = [each["finding"] for each in steps if each["finding"]]
    began_s = time.monotonic()
    key = qunetlab("keygen", *pair, "--blocks", str(blocks), "--testbed", place, "--json")
    rows = json.loads(key.stdout.strip().splitlines()[-1])["blocks"] if key.stdout.strip() else []
    return RingRow(
        seed,
        pair,
        [f"{each['step']} of {each['owner']}: {each['refused']}" for each in steps if each["refused"]],
        compared(findings, true),
        sum(each["light_s"] for each in findings),
        calibrate_s,
        time.monotonic() - began_s,
        *([row[kind] for row in rows] for kind in ("secret_bits", "planned_bits", "predicted_bits")),
        "; ".join(
            [*(row["reason"] for row in rows if row["reason"]), *([] if rows else [key.stderr[-500:]])]
        ),
    )


def _failed(seed: int, pair: tuple[str, str], said: str) -> RingRow:
    return RingRow(seed, pair, [], [], 0.0, 0.0, 0.0, [], [], [], said[-500:])


def shown(row: RingRow) -> str:
    """One line; what was refused or failed stands below it."""
    within, of, worst = _pulls(row.values)
    worst_kind = f"({KINDS[worst.kind][0]} of {worst.owner})" if worst else ""
    lines = [
        f"{row.seed:5d} {'-'.join(row.pair):12s} {within:3d} of {of:3d} within 2 sigma, worst "
        f"{worst.pull if worst else 0:+5.2f} {worst_kind:44s} made/planned {row.made_over_planned:.3f}, "
        f"made/predicted {row.made_over_predicted:.3f}, light {row.light_s:.0f} s, calibrated in {row.calibrate_s:.0f} s, "
        f"key in {row.keygen_s:.0f} s"
    ]
    lines += [f"      refused: {each}" for each in row.refused]
    return "\n".join([*lines, *([f"      {row.failed}"] if row.failed else [])])


def _pulls(values: Sequence[Compared]) -> tuple[int, int, Compared | None]:
    within = sum(abs(each.pull) <= TWO_SIGMA for each in values)
    return within, len(values), max(values, key=lambda each: abs(each.pull), default=None)


def table(rows: Sequence[RingRow]) -> str:
    """A row for each kind of value over all rings, and the rates."""
    values = [each for row in rows for each in row.values]
    lines = [
        f"{'value':30s} {'n':>5s} {'within 2 sigma':>15s} {'worst pull':>11s} {'worst error':>12s} {'rms':>10s}"
    ]
    for kind, (name, unit) in (*KINDS.items(), ("", ("all", ""))):
        group = [each for each in values if each.kind == kind or not kind]
        if not group:
            continue
        within, of, worst = _pulls(group)
        errors = ""
        if kind:
            rms = math.sqrt(fmean(each.error**2 for each in group))
            errors = f"{max(abs(each.error) for each in group):12.3g} {rms:10.3g} {unit}"
        lines.append(
            f"{name:30s} {of:5d} {100 * within / of:13.1f} % {abs(worst.pull if worst else 0):11.2f} {errors}"
        )
    for name, ratios in (
        ("made/planned", [row.made_over_planned for row in rows]),
        ("made/predicted", [row.made_over_predicted for row in rows]),
    ):
        known = [each for each in ratios if not math.isnan(each)]
        if known:
            within = sum(abs(each - 1) <= 0.05 for each in known)
            lines.append(
                f"{name:30s} {len(known):5d} {within} within 5 %, {min(known):.3f} to {max(known):.3f}, mean {fmean(known):.3f}"
            )
    if rows:
        lines.append(
            f"light {fmean(row.light_s for row in rows):.0f} s a ring, calibrated in {fmean(row.calibrate_s for row in rows):.0f} s "
            f"(at most {max(row.calibrate_s for row in rows):.0f} s); refused {sum(len(row.refused) for row in rows)} steps"
        )
    return "\n".join(lines)


def kept_rows(path: Path) -> dict[int, RingRow]:
    """The rings that were done, by seed."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {row["seed"]: _read(row) for row in rows}


def _read(row: dict[str, Any]) -> RingRow:
    values = [Compared(**each) for each in row["values"]]
    return RingRow(**{**row, "values": values, "pair": tuple(row["pair"])})


def run(first: int, count: int, folder: Path, blocks: int, *, as_json: bool) -> list[RingRow]:
    """All rings, each kept as soon as it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    kept, rows = kept_rows(folder / "rings.jsonl"), []
    for seed in range(first, first + count):
        if (row := kept.get(seed)) is None:
            shutil.rmtree(folder / str(seed), ignore_errors=True)
            row = measure_ring(seed, folder / str(seed), blocks)
            with (folder / "rings.jsonl").open("a") as file:
                file.write(json.dumps(asdict(row)) + "\n")
        rows.append(row)
        ratios = {"made_over_planned": row.made_over_planned, "made_over_predicted": row.made_over_predicted}
        print(json.dumps(asdict(row) | ratios) if as_json else shown(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=int, help="seed of the first ring")
    parser.add_argument("count", type=int, help="how many rings, with seeds one after the other")
    parser.add_argument("--blocks", type=int, default=4, help="blocks of key for each")
    parser.add_argument("--folder", type=Path, help="where rings and rows stay; default: nowhere")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        rows = run(
            options.first,
            options.count,
            options.folder or Path(temporary),
            options.blocks,
            as_json=options.json,
        )
    if not options.json:
        print("\n" + table(rows))


if __name__ == "__main__":
    main()
