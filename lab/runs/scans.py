"""Scans: one parameter or two stepped, others read at every point, into a data set of QCoDeS.

Every value that will be set is held against the limits before the first one is sent.  The data set grows point by point, so what was
measured is there whatever ends the scan; afterwards each knob is put back to what it was, and then everything is made safe.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from qcodes.validators import Bool, Ints

from drivers.links.errors import InstrumentError
from drivers.links.limits import Words
from lab.calibration.book import now
from lab.datasets.calibrations import Origin
from lab.datasets.database import column_name, whole, writable
from lab.datasets.snapshots import snapshot_of
from lab.runs.at_hand import LIGHT, AtHand
from lab.runs.knobs import Knob, knob, readable_of
from lab.runs.software import commit
from lab.testbed import Testbed, UnknownNameError
from orchestrator.events.status import pair_name

KIND = "scan"
"""The experiment's name in a database."""
MAX_POINTS = 100_000
OF_LIGHT = ("visibility", "error_ratio", "d1_cps", "d2_cps")


@dataclass(frozen=True)
class Axis:
    """A knob and the values that it is set to, in order."""

    knob: str
    values: tuple[float, ...]

    @property
    def column(self) -> str:
        """Its name in a data set."""
        return column_name(self.knob)


def axis(text: str) -> Axis:
    """``INSTRUMENT.PARAMETER:FROM:TO:POINTS``; ValueError for anything else."""
    name, *numbers = text.split(":")
    first = last = math.nan
    count = 0
    with suppress(ValueError):
        if len(numbers) == 3:
            first, last, count = float(numbers[0]), float(numbers[1]), int(numbers[2])
    if count < 1 or not (math.isfinite(first) and math.isfinite(last)):
        raise ValueError(
            f"{text!r} is no scan of a parameter: write INSTRUMENT.PARAMETER:FROM:TO:POINTS, such as "
            "voa_alice.attenuation_db:1:20:20"
        )
    return Axis(name, tuple(float(each) for each in np.linspace(first, last, count)))


def points(axes: Sequence[Axis]) -> Iterator[tuple[float, ...]]:
    """Every point, the last axis fastest; each second line of it backwards, as a knob is turned and not thrown."""
    if len(axes) == 1:
        yield from ((value,) for value in axes[0].values)
        return
    outer, inner = axes
    for number, first in enumerate(outer.values):
        yield from ((first, second) for second in (inner.values if number % 2 == 0 else inner.values[::-1]))


def check_axes(axes: Sequence[Axis]) -> None:
    """Raises ValueError for what is no scan of one or two parameters."""
    if len(axes) not in (1, 2) or len({each.knob for each in axes}) < len(axes):
        raise ValueError("a scan steps one parameter, or two different ones")
    if (count := math.prod(len(each.values) for each in axes)) > MAX_POINTS:
        raise ValueError(f"{count:,} points are more than {MAX_POINTS:,}: take larger steps")


@dataclass(frozen=True)
class Quantity:
    """Something that is read at every point: ``column`` in the data set, with label and unit."""

    name: str
    label: str
    unit: str
    column: str


@dataclass(frozen=True)
class Point:
    """One point: where the knobs stood, and what was read there, in the order of the quantities."""

    at: tuple[float, ...]
    read: tuple[float, ...]


class Scan:
    """A scan with everything looked up and checked, and nothing sent yet."""

    def __init__(self, testbed: Testbed, hand: AtHand, axes: Sequence[Axis], reads: Sequence[str]) -> None:
        """Raises ValueError, UnknownNameError or LimitError for what cannot be set or read."""
        check_axes(axes)
        self.axes, self._hand = tuple(axes), hand
        self._knobs = [hand.settable(knob(testbed, each.knob)) for each in axes]
        for parameter, each in zip(self._knobs, axes, strict=True):
            _check_values(parameter, each)
        self.quantities = tuple(self._quantity(testbed, each) for each in reads)
        self._readers = [self._reader(testbed, each) for each in reads if not each.startswith(f"{LIGHT}.")]

    def _quantity(self, testbed: Testbed, name: str) -> Quantity:
        parameter = self._readable(testbed, name)
        own = "_read" if name in {each.knob for each in self.axes} else ""  # a knob that is read back as well
        return Quantity(name, parameter.label or name, parameter.unit or "", column_name(name) + own)

    def _readable(self, testbed: Testbed, name: str) -> Any:
        holder, _, of = name.partition(".")
        if holder != LIGHT:
            wanted: Knob = knob(testbed, name)
            return readable_of(self._hand.instrument(wanted.entry.name), wanted.parameter)
        if self._hand.light is None:
            raise ValueError(f"{name} needs the light of a pair: name it with --lit, such as --lit alice-bob")
        if of not in OF_LIGHT:
            raise UnknownNameError(f"light has no {of!r}; there are {', '.join(OF_LIGHT)}")
        return self._hand.light.parameters[of]

    def _reader(self, testbed: Testbed, name: str) -> tuple[str, Any]:
        return name, self._readable(testbed, name)

    @property
    def size(self) -> int:
        """Number of points."""
        return math.prod(len(each.values) for each in self.axes)

    def run(self, settle_s: float) -> Generator[Point, None, None]:
        """Set, wait, read, point by point; the knobs are put back at the end, whatever ends it."""
        before = [parameter.get() for parameter in self._knobs]
        stood: tuple[float, ...] = (math.nan,) * len(self._knobs)
        try:
            for at in points(self.axes):
                self._hand.session.check()
                for parameter, value, was in zip(self._knobs, at, stood, strict=True):
                    if value != was:
                        parameter.set(int(value) if isinstance(parameter.vals, Ints) else value)
                stood = at
                time.sleep(settle_s)
                yield Point(at, self._read())
        finally:
            for parameter, value in zip(self._knobs, before, strict=True):
                with suppress(
                    InstrumentError
                ):  # one that failed, or may not be enabled, is made safe in any case
                    parameter.set(value)

    def _read(self) -> tuple[float, ...]:
        """All of one moment; of the light all of one frame."""
        found = {name: float(parameter.get()) for name, parameter in self._readers}
        if self._hand.light is not None and any(
            each.name.startswith(f"{LIGHT}.") for each in self.quantities
        ):
            seen = self._hand.light.look()
            rates = (seen.d1 / seen.light_s, seen.d2 / seen.light_s)
            values = (seen.visibility, seen.error_ratio, *rates)
            found |= {f"{LIGHT}.{name}": value for name, value in zip(OF_LIGHT, values, strict=True)}
        return tuple(found[each.name] for each in self.quantities)

    def labels(self) -> list[tuple[str, str]]:
        """Label and unit of each axis."""
        return [
            (each.label or name.knob, each.unit or "")
            for each, name in zip(self._knobs, self.axes, strict=True)
        ]


def _check_values(parameter: Any, along: Axis) -> None:
    if isinstance(parameter.vals, Words | Bool):
        raise ValueError(f"{along.knob} takes words, not numbers: it cannot be stepped")
    whole_numbers = isinstance(parameter.vals, Ints)
    for value in along.values:
        if whole_numbers and value != int(value):
            raise ValueError(f"{along.knob} takes whole numbers, and {value:g} would be one of its steps")
        parameter.validate(int(value) if whole_numbers else value)


@dataclass(frozen=True)
class Kept:
    """A data set by its number in its database, and how many points it has."""

    number: int
    points: int


def kept(
    scan: Scan,
    database: Path,
    origin: Origin,
    pair: tuple[str, str] | None,
    found: Generator[Point, None, None],
    tell: Callable[[Point], object],
) -> Kept:
    """Write the points into the database as they come.

    ``tell`` hears each.  Raises DatabaseError.  Interrupted, the data set is closed with the points that it has.
    """
    from qcodes.dataset import ParamSpec, load_or_create_experiment, new_data_set

    axes = [
        ParamSpec(each.column, "numeric", label, unit)
        for each, (label, unit) in zip(scan.axes, scan.labels(), strict=True)
    ]
    reads = [
        ParamSpec(each.column, "numeric", each.label, each.unit, depends_on=axes) for each in scan.quantities
    ]
    count = 0
    with writable(database) as connection:
        with whole(connection):
            experiment = load_or_create_experiment(KIND, origin.testbed, conn=connection)
            about = " x ".join(each.knob for each in scan.axes)
            data = new_data_set(about, exp_id=experiment.exp_id, specs=[*axes, *reads], conn=connection)
            for name, value in metadata(origin, scan, pair).items():
                data.add_metadata(name, value)
            data.add_snapshot(json.dumps(scan_snapshot(scan)))
            data.mark_started()
        try:
            with closing(found):
                for point in found:
                    data.add_results([row_of(scan, point)])
                    count += 1
                    tell(point)
        finally:
            data.add_metadata("points_measured", count)
            data.mark_completed()
        return Kept(data.run_id, count)


def row_of(scan: Scan, point: Point) -> dict[str, float]:
    """A point by the columns of the data set."""
    along = {each.column: value for each, value in zip(scan.axes, point.at, strict=True)}
    return along | {each.column: value for each, value in zip(scan.quantities, point.read, strict=True)}


def metadata(origin: Origin, scan: Scan, pair: tuple[str, str] | None) -> Mapping[str, Any]:
    """Where it was measured, in which light, and by which code."""
    return {
        "testbed": origin.testbed,
        "testbed_digest": origin.testbed_digest,
        "calibration_digest": origin.calibration_digest,
        "code_version": origin.code_version,
        "code_commit": origin.code_commit,
        "began": now().isoformat(),
        "lit": pair_name(pair) if pair else "",
        "points_planned": scan.size,
    }


def scan_snapshot(scan: Scan) -> Mapping[str, Any]:
    """How the instruments in hand stood, as far as it is known."""
    return {owner: snapshot_of(station) for owner, station in scan._hand.session.stations.items()}


def origin_of(testbed: Testbed, file: Path) -> Origin:
    """The files and the code of this scan."""
    return Origin.of(testbed.name, file, commit())


def grid_of(scan: Scan, found: Sequence[Point], quantity: int) -> list[list[float]]:
    """Of two axes: a row for each value of the first, NaN where nothing was read yet."""
    outer, inner = (each.values for each in scan.axes)
    at = {point.at: point.read[quantity] for point in found}
    rows = itertools.product(outer, inner)
    flat = [at.get(where, math.nan) for where in rows]
    return [flat[start : start + len(inner)] for start in range(0, len(flat), len(inner))]
