"""``qunetlab compare RUN RUN...``: training runs side by side, as a table, as JSON, or as a page with curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fl.experiments.results import Results, all_exact, read_results
from lab.runs.pages.comparison import HEAD, notes_of, render_comparison, row_of
from lab.runs.pages.page import write_out
from lab.runs.shown import echo, shown_lines


def compare_runs(paths: list[Path], out: Path | None, as_json: bool) -> int:
    """Print the runs named; raises ResultsError for what is none."""
    runs = {label(path, paths): read_results(path) for path in paths}
    if len(runs) < len(paths):
        raise ValueError("a run is named twice")
    if out is not None:
        write_out(render_comparison(runs), out)
    if as_json:
        echo(json.dumps({"runs": [as_dict(name, run) for name, run in runs.items()]}))
        return 0
    Console(soft_wrap=False).print(side_by_side(runs))
    for note in notes_of(runs):
        echo(note)
    if out is not None:
        echo(f"page in {out}")
    return 0


def side_by_side(runs: dict[str, Results]) -> Table:
    """One column for each run, so that a terminal of 80 characters holds several."""
    columns = [row_of(name, run) for name, run in runs.items()]
    rows = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(1 + len(columns)):
        rows.add_column(overflow="fold")
    for index, head in enumerate(HEAD):
        cells = (column[index].replace("-theoretic", "-\ntheoretic") for column in columns)
        rows.add_row(head, *(Text(shown_lines(cell)) for cell in cells))
    return rows


def label(path: Path, paths: list[Path]) -> str:
    """A short name for a run: its folder's, or the whole path where that is not enough."""
    folder = path.parent if path.suffix == ".json" else path
    others = [other.parent if other.suffix == ".json" else other for other in paths]
    same = [other for other in others if other.resolve().name == folder.resolve().name]
    return folder.resolve().name if len(same) == 1 else str(path)


class ComparedRun(TypedDict):
    """One run for scripts; accuracies from 0 to 1."""

    run: str
    task: str
    model: str
    split: str
    mode: str
    security: str
    key_supply: str
    quick: bool
    complete: bool
    clients: int
    rounds: int
    accuracy_mean: float
    accuracy_ci95: tuple[float, float] | None
    seeds: int
    upload_bytes_per_client: float
    saving_vs_float32: float
    key_bits_per_round: float
    exact: bool


def as_dict(name: str, run: Results) -> ComparedRun:
    """One run for scripts."""
    return {
        "run": name,
        "task": run.task,
        "model": run.model,
        "split": run.split,
        "mode": run.mode,
        "security": run.security,
        "key_supply": run.key_supply,
        "quick": run.quick,
        "complete": run.complete,
        "clients": run.clients,
        "rounds": len(run.rounds),
        "accuracy_mean": run.final.accuracy_mean,
        "accuracy_ci95": run.final.accuracy_ci95,
        "seeds": run.final.seeds,
        "upload_bytes_per_client": run.rounds[-1].upload_bytes_per_client,
        "saving_vs_float32": run.compression.saving_vs_float32,
        "key_bits_per_round": run.rounds[-1].key_bits,
        "exact": all_exact(run.rounds) is True,
    }
