"""``qunetlab compare RUN RUN...``: training runs side by side, as a table, as JSON, or as a page with curves."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fl.experiments.results import Results, read_results
from fl.keys.budget import quantity
from lab.runs.pages.curves import Line, accuracy_and_bytes, accuracy_and_loss, bytes_text, key_and_time
from lab.runs.pages.page import image, page, table
from lab.runs.pages.run_report import main_arm
from lab.runs.shown import echo, html_text, shown_lines
from lab.runs.training.words import against_float32, exactness, supply
from orchestrator.durable import replace_file

HEAD = (
    "run",
    "task",
    "mode",
    "security",
    "key supply",
    "clients",
    "rounds",
    "seeds",
    "accuracy, %",
    "95 % interval, %",
    "upload of a client",
    "against float32",
    "key of a round",
    "sum exact",
)


def compare_runs(paths: list[Path], out: Path | None, as_json: bool) -> int:
    """Print the runs named; raises ResultsError for what is none."""
    runs = {label(path, paths): read_results(path) for path in paths}
    if len(runs) < len(paths):
        raise ValueError("a run is named twice")
    if out is not None:
        try:
            replace_file(out, render_comparison(runs).encode())
        except OSError as error:
            raise ValueError(
                f"--out {out} cannot be written: {error.strerror}; name a file in a folder that is there"
            ) from error
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


def notes_of(runs: dict[str, Results]) -> list[str]:
    """Every warning and note once, after the names of the runs that have it; warnings first."""
    owners: dict[str, list[str]] = {}
    for notes in (
        {name: run.warnings for name, run in runs.items()},
        {name: run.notes for name, run in runs.items()},
    ):
        for name, each in notes.items():
            for note in each:
                owners.setdefault(note, []).append(name)
    return [f"{', '.join(names)}: {note}" for note, names in owners.items()]


def label(path: Path, paths: list[Path]) -> str:
    """A short name for a run: its folder's, or the whole path where that is not enough."""
    folder = path.parent if path.suffix == ".json" else path
    others = [other.parent if other.suffix == ".json" else other for other in paths]
    same = [other for other in others if other.resolve().name == folder.resolve().name]
    return folder.resolve().name if len(same) == 1 else str(path)


def row_of(name: str, run: Results) -> list[str]:
    """One line of the table."""
    interval = run.final.accuracy_ci95
    return [
        name,
        f"{run.task}:{run.model}@{run.split}",
        f"{run.mode}{' (quick)' if run.quick else ''}",
        run.security,
        supply(run),
        str(run.clients),
        str(len(run.rounds)),
        str(run.final.seeds),
        f"{100 * run.final.accuracy_mean:.2f}",
        "- (one seed)" if interval is None else f"{100 * interval[0]:.2f} to {100 * interval[1]:.2f}",
        bytes_text(run.rounds[-1].upload_bytes_per_client),
        against_float32(run.compression.saving_vs_float32),
        quantity(run.rounds[-1].key_bits),
        exactness(run),
    ]


def as_dict(name: str, run: Results) -> dict[str, object]:
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
        "exact": all(row.exact is True for row in run.rounds),
    }


def render_comparison(runs: dict[str, Results]) -> str:
    """The page with the curves of all runs over each other."""
    lines = [Line(name, main_arm(run)) for name, run in runs.items()]
    columns = [row_of(name, run) for name, run in runs.items()]
    rows = [
        [head, *(html_text(column[index]) for column in columns)] for index, head in enumerate(HEAD) if index
    ]
    notes = [f"<p class='warn'>{html_text(note)}</p>" for note in notes_of(runs)]
    return page(
        "qunetlab: runs compared",
        [
            f"<h1>{len(runs)} runs compared</h1>",
            "<p class='lead'>Lines are means over seeds; shading reaches from the lowest to the highest seed.</p>",
            *notes,
            table(["", *map(html_text, runs)], rows),
            image(accuracy_and_loss(lines), "Accuracy and loss per round"),
            image(accuracy_and_bytes(lines), "Upload size, and accuracy per byte sent"),
            image(key_and_time(lines), "Key used, and time of a round by phase"),
        ],
    )
