"""Calibrations as data sets: what the page of a step plots, with everything that was found as metadata.

A curve is a set point with its measured values, and beside each what was fitted and one standard deviation where they are
known.  A finding without curves is a point in time with every value and its standard deviation.  The whole finding but its
curves is JSON in the metadata (``finding``), of the format of :mod:`lab.calibration.finding`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import structs

from lab.calibration.book import book_path
from lab.calibration.finding import Curve, Finding
from lab.calibration.keeping import FINDINGS
from lab.datasets.database import SUFFIX, column_name, whole, writable

if TYPE_CHECKING:
    from qcodes.dataset import ParamSpec

KIND = "calibration"
"""The experiment's name in a database."""


@dataclass(frozen=True)
class Origin:
    """From which files and by which code something was measured; digests are SHA-256 of the files' bytes, "" for none."""

    testbed: str
    testbed_digest: str
    calibration_digest: str
    code_version: str
    code_commit: str = ""

    @classmethod
    def of(cls, testbed: str, path: Path, commit: str = "") -> Origin:
        """Of the testbed with this name in the file at ``path``, and the book beside it, as they are at this moment."""
        return cls(testbed, _digest(path), _digest(book_path(path)), version("qunetlab"), commit)


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def database_of(testbed_path: Path, owner: str) -> Path:
    """Where the calibrations of an owner are, beside its book."""
    return testbed_path.parent / FINDINGS / f"{owner}{SUFFIX}"


def write_calibration(
    path: Path,
    finding: Finding,
    origin: Origin,
    snapshot: Mapping[str, Any],
    began: datetime,
    ended: datetime,
) -> int:
    """Write a finding into the database at ``path``; returns the number of its data set.  Raises DatabaseError.

    ``snapshot``: how the instruments of its owner stood (:mod:`lab.datasets.snapshots`).
    """
    columns = list(_columns(finding, ended))
    with writable(path) as connection, whole(connection):
        from qcodes.dataset import load_or_create_experiment, new_data_set

        experiment = load_or_create_experiment(KIND, origin.testbed, conn=connection)
        data = new_data_set(
            f"{finding.step} of {finding.owner}",
            exp_id=experiment.exp_id,
            specs=[spec for column in columns for spec in column.specs()],
            metadata=_metadata(finding, origin, began, ended),
            conn=connection,
        )
        data.add_snapshot(json.dumps(snapshot))
        data.mark_started()
        for column in columns:
            data.add_results(column.rows())
        data.mark_completed()
        return data.run_id


def _metadata(finding: Finding, origin: Origin, began: datetime, ended: datetime) -> dict[str, str | float]:
    return {
        "step": finding.step,
        "owner": finding.owner,
        "partner": finding.partner,
        "testbed": origin.testbed,
        "testbed_digest": origin.testbed_digest,
        "calibration_digest": origin.calibration_digest,
        "code_version": origin.code_version,
        "code_commit": origin.code_commit,
        "began": began.isoformat(),
        "ended": ended.isoformat(),
        "light_s": finding.light_s,
        "finding": msgspec.json.encode(structs.replace(finding, curves=[], measured=ended)).decode(),
    }


@dataclass(frozen=True)
class _Columns:
    """A set point, and what was found at each of its values; names with labels, units and values."""

    name: str
    label: str
    unit: str
    points: list[float]
    found: dict[str, tuple[str, str, list[float]]]

    def specs(self) -> list[ParamSpec]:
        from qcodes.dataset import ParamSpec

        along = ParamSpec(self.name, "numeric", self.label, self.unit)
        dependent = [
            ParamSpec(name, "numeric", label, unit, depends_on=[along])
            for name, (label, unit, _) in self.found.items()
        ]
        return [along, *dependent]

    def rows(self) -> list[dict[str, float]]:
        return [
            {self.name: point, **{name: values[row] for name, (_, _, values) in self.found.items()}}
            for row, point in enumerate(self.points)
        ]


def _columns(finding: Finding, at: datetime) -> Iterator[_Columns]:
    if not finding.curves:
        yield _point(finding, at)
    for number, curve in enumerate(finding.curves):
        yield _of_curve(curve, f"_{number + 1}" if len(finding.curves) > 1 else "")


def _of_curve(curve: Curve, suffix: str) -> _Columns:
    """``suffix`` tells the names of one curve from those of another."""
    (x_label, x_unit), (y_label, y_unit) = _label_and_unit(curve.x_label), _label_and_unit(curve.y_label)
    found = {}
    for kind, lines in (("", curve.measured), ("fitted", curve.fitted), ("sigma", curve.sigma)):
        for line, values in lines.items():
            name = "_".join(filter(None, (column_name(line), column_name(y_label), kind))) + suffix
            found[name] = (", ".join(filter(None, (f"{line}: {y_label}", kind))), y_unit, values)
    return _Columns(column_name(x_label) + suffix, x_label, x_unit, curve.x, found)


def _point(finding: Finding, at: datetime) -> _Columns:
    found = {}
    for name, measured in {**finding.values, **finding.figures}.items():
        pairs = measured.pairs()
        for place, (value, sigma) in enumerate(pairs, start=1):
            one = f"{name}_{place}" if len(pairs) > 1 else name
            found[one] = (one, measured.unit, [value])
            found[f"{one}_sigma"] = (f"{one}, sigma", measured.unit, [sigma])
    return _Columns("measured", "UTC, since 1970", "s", [at.timestamp()], found)


def _label_and_unit(text: str) -> tuple[str, str]:
    label, mark, unit = text.rpartition(" / ")
    return (label, unit) if mark else (text, "")
