"""The operator's page holds the alarms and causes that there are, with the words of their tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.alarms.table import TABLE, AlarmRow
from lab.dashboard import lamp
from lab.interlock.latch import WHAT_TO_DO

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operating.md").read_text(encoding="utf-8")
CELLS = [
    [cell.strip(" `") for cell in line.split("|")[1:-1]]
    for line in PAGE.splitlines()
    if line.startswith("| `")
]


ROWS = [
    [cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| ")
]


def in_words(row: AlarmRow) -> str:
    """The limits of an alarm as the page tells them."""
    if row.limits is None:
        return "a state"
    said = []
    for severity in ("minor", "major"):
        sides = (("below", f"low_{severity}"), ("above", f"high_{severity}"))
        given = [(word, getattr(row.limits, name)) for word, name in sides]
        if beyond := " or ".join(f"{word} {limit:g}" for word, limit in given if limit is not None):
            said.append(f"{severity}: {beyond}")
    if row.limits.drift is not None:
        said.append(f"drift: {row.limits.drift:g}")
    if row.limits.stale_s is not None:
        said.append(f"older than {row.limits.stale_s:g} s")
    return "; ".join(said) + (" (latches)" if row.latching else "")


@pytest.mark.parametrize("name", TABLE)
def test_every_alarm_stands_in_the_table_with_its_limits_and_what_to_do(name: str) -> None:
    row = TABLE[name]  # type: ignore[index]
    quantity = ", ".join(filter(None, (row.what, row.unit)))
    assert [name, quantity, in_words(row), row.what_to_do.strip("`")] in CELLS


@pytest.mark.parametrize("name", WHAT_TO_DO)
def test_every_cause_of_the_interlock_stands_in_its_table(name: str) -> None:
    assert WHAT_TO_DO[name] in [last for first, *_, last in CELLS if first == name]  # type: ignore[index]


def test_the_colours_of_the_control_room_are_explained_with_their_limits() -> None:
    said = {first: text for first, text, *_ in (row for row in ROWS if len(row) == 2)}
    assert {"red", "amber", "blue", "green"} <= set(said)
    assert all(f"{limit:g} s" in said["red"] for limit in (lamp.MISSING_S, lamp.UNSERVED_S))
    amber = (
        f"{lamp.QBER_HIGH:g} times",
        f"{lamp.RATE_LOW:.0%}",
        f"{lamp.FAILURES} leases",
        f"{lamp.DISK_LOW:.0%}",
    )
    assert [limit for limit in amber if limit.replace("%", " %") not in said["amber"]] == []
