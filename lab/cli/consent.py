"""``qunetlab fl consent RUNFILE``: an operator reads what a run is and what it tells, and agrees or does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from fl.rounds.consent_words import explained
from lab.runs.consent import book_of, who_and_where
from lab.runs.shown import echo
from orchestrator.delivery.consent import check_terms
from orchestrator.delivery.consent_book import read_run_file
from orchestrator.delivery.errors import OtherTermsError


def consent_to(
    run_file: Path,
    user: str | None,
    testbed: Path | None,
    state: Path | None,
    accept: Sequence[str],
    *,
    yes: bool,
) -> int:
    """Tell what the run is, ask, and keep the answer; returns the exit code."""
    description = read_run_file(run_file)
    name, place = who_and_where(description, user, testbed, state)
    book = book_of(name, place)
    for line in explained(description, name):
        echo(f"* {line}")
    echo(f"digest {description.name}: compare it with the other operators")
    for consent in book.consents():
        try:
            check_terms(description, [consent])
        except OtherTermsError as error:
            if consent.description.run_id not in accept:
                raise
            echo(f"* accepted: {error}")
    if not yes and not typer.confirm(f"Does {name} take part in this run?"):
        echo("not agreed; nothing was written")
        return 1
    book.give(name, description, accept)
    echo(f"{name} takes part in run {description.run_id}; kept in {book.folder}")
    return 0
