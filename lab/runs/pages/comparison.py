"""The page of ``qunetlab compare``: training runs side by side, with their curves over each other."""

from __future__ import annotations

from fl.experiments.results import Results
from fl.keys.budget import quantity
from lab.runs.pages.curves import Line, accuracy_and_bytes, accuracy_and_loss, bytes_text, key_and_time
from lab.runs.pages.page import Table, render
from lab.runs.pages.run_report import main_arm
from lab.runs.training.words import against_float32, exactness, range_text, supply

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


def row_of(name: str, run: Results) -> list[str]:
    """One line of the table."""
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
        range_text(run.final.accuracy_ci95),
        bytes_text(run.rounds[-1].upload_bytes_per_client),
        against_float32(run.compression.saving_vs_float32),
        quantity(run.rounds[-1].key_bits),
        exactness(run),
    ]


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


def render_comparison(runs: dict[str, Results]) -> str:
    """The page with the curves of all runs over each other."""
    lines = [Line(name, main_arm(run)) for name, run in runs.items()]
    columns = [row_of(name, run) for name, run in runs.items()]
    rows = [[head, *(column[index] for column in columns)] for index, head in enumerate(HEAD) if index]
    return render(
        "comparison.html",
        count=len(runs),
        notes=notes_of(runs),
        rows=Table(["", *runs], rows),
        drawn=[*accuracy_and_loss(lines), *accuracy_and_bytes(lines), *key_and_time(lines)],
    )
