"""``qunetlab bench``: figures of speed, measured on this machine when asked.

What measures them stands in ``tests/benchmarks`` of the source tree (``rows.py`` lists the figures), beside the
packages that an editable installation runs; an installed wheel has no benchmarks.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lab
from fl.workloads.data import DataError
from lab.cli.errors import explain
from lab.runs.shown import echo
from lab.runs.testbeds.folder import FolderError

Figure = Mapping[str, Any]


def benchmarks() -> Any:
    """The module ``rows`` of the source tree; raises FolderError where there is none."""
    root = Path(lab.__file__).resolve().parent.parent
    folder = root / "tests" / "benchmarks"
    if not (folder / "rows.py").is_file():
        raise FolderError(
            f"benchmarks come with the source of qunetlab and are not installed ({root} has none): unpack the source"
            " of this version and run `make bench` in it, or `qunetlab bench` after `pip install -e .` there"
        )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    import rows  # type: ignore[import-not-found]

    return rows


def run_benchmarks(only: list[str], as_json: bool) -> int:
    """Run the benchmarks named (all without names) and print their figures.

    Returns 1 if a check failed, or a benchmark other than for lack of data: the others are still reported.
    """
    rows = benchmarks()
    if unknown := [name for name in only if name not in rows.ROWS]:
        raise ValueError(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(rows.ROWS)}")
    figures: dict[str, Figure] = {}
    failed = False
    for name in only or rows.ROWS:
        if name in figures:
            continue
        echo(f"measuring {name} ...", err=True)
        try:
            measured: dict[str, Figure] = rows.measure(name)
        except Exception as error:
            if only:
                raise
            echo(f"{name} is left out: {explain(error)[1]}", err=True)
            failed |= not isinstance(error, DataError)
            continue
        found = {key: value for key, value in measured.items() if key == name or not only}
        figures |= found
        if not as_json:
            echo("\n".join(_line(key, figure) for key, figure in found.items()))
    if as_json:
        echo(json.dumps(figures))
    passed = all(figure.get("checks_passed", True) for figure in figures.values())
    return 0 if passed and not failed else 1


def _line(name: str, figure: Figure) -> str:
    details = ", ".join(
        f"{key} {_short(value)}" for key, value in figure.items() if key not in ("value", "unit")
    )
    return f"{name:24s} {figure['value']:.4g} {figure['unit']}   ({details})"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "; ".join(f"{key}: {_short(item)}" for key, item in value.items())
    return str(value)
