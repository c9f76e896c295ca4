"""``calibration.toml``: what was measured of a ring, beside the testbed file that says how it is laid out.

Every value stands with its uncertainty (one sigma), the step that found it and the time.  Each owner writes its own part,
``[relay]`` or ``[users.NAME]``; whoever reads the testbed file gets these values in the place of those of the file, and
none of them without what it may be wrong by.

The book belongs to one ring: it holds a fingerprint of the layout, and is refused beside another.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from lab.calibration.steps import STEPS, Step
from lab.refused import refused
from orchestrator.durable import replace_file

BOOK_FILE = "calibration.toml"

RELAY_PLACES: dict[str, str] = {
    "visibility": "calibration",
    "dark_count_probability": "calibration",
    "detector_efficiency": "calibration",
    "detector_delays_ps": "calibration",
    "detector_ratio": "calibration",
    "loop_phase_rad": "calibration",
    "arm_offsets_cw_db": "calibration",
    "arm_offsets_ccw_db": "calibration",
    "relay_loss_db": "ring",
    "launch_loss_db": "ring",
    "fibre_loss_db_per_km": "ring",
    "backscatter_db_per_m": "ring",
    "extinction_db": "carver",
}
"""The relay's values, by the section of the testbed file in whose place they stand."""
RELAY_CHECKED = ("clock_offset_ppm", "trigger_jitter_ps", "polarization_left_db")
USER_VALUES = (
    "v_pi_v",
    "rf_gain",
    "phase_uncertainty_rad",
    "loop_phase_rad",
    "station_loss_db",
    "sensor_to_output_db",
    "attenuator_slope",
    "modulator_delays_ps",
    "separation_ns",
)
"""A user's own values, of its entry under [[users]]."""
DERIVED = ("separation_ns", *RELAY_CHECKED)
"""What was checked with light, and nobody plans with: dated here, and not in the testbed file."""
BOUNDS = {"extinction_db": -2.0}
"""Values that bound something the proof rests on: read so many standard deviations off, on the safe side."""
WHOLE = ("detector_delays_ps", "modulator_delays_ps")
"""Whole numbers in the testbed file."""

HAPPENS = ("seed", "drift", "time_scale", "sensor_speed")
"""Of [simulation]: what happens on a ring, not which ring it is."""

AHEAD_H = 0.1
"""Clocks of two machines may differ by so much."""

Numbers = float | list[float]


class BookError(ValueError):
    """A calibration file that cannot be used as it is."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Value(_Part):
    """One measured value, or a few that belong together, with the uncertainty of each (one sigma)."""

    value: Numbers
    uncertainty: Numbers
    step: Step
    measured: AwareDatetime


Part = dict[str, Value]


class Book(_Part):
    """Everything measured of one ring."""

    schema_version: Literal[1] = 1
    ring: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    relay: Part = Field(default_factory=dict)
    users: dict[str, Part] = Field(default_factory=dict)

    def part(self, owner: str) -> Part:
        """The values of the relay or of a user."""
        return self.relay if owner == "relay" else self.users.get(owner, {})

    def measured(self, step: Step, owner: str) -> datetime | None:
        """When a step last found values of an owner; None where it never did, or they were found by another since."""
        times = [value.measured for value in self.part(owner).values() if value.step is step]
        return min(times, default=None)

    def with_values(self, owner: str, values: Mapping[str, Value]) -> Book:
        """The book with these values of an owner in the place of older ones.  BookError for a name that is none."""
        known = (*RELAY_PLACES, *RELAY_CHECKED) if owner == "relay" else USER_VALUES
        if strange := [name for name in values if name not in known]:
            raise BookError(f"{', '.join(strange)}: no values of {owner}; its values are {', '.join(known)}")
        part = {**self.part(owner), **values}
        if owner == "relay":
            return self.model_copy(update={"relay": part})
        return self.model_copy(update={"users": {**self.users, owner: part}})


def fingerprint(data: Mapping[str, Any]) -> str:
    """What tells one ring from another: its users, its instruments and, of a simulated one, the order and its seed."""
    simulation = data.get("simulation")
    told = {
        "users": [user.get("name") for user in _tables(data, "users")],
        "instruments": [
            [entry.get(key, "") for key in ("name", "model", "serial_number")]
            for entry in _tables(data, "instruments")
        ],
        "simulation": _as_floats({key: value for key, value in simulation.items() if key not in HAPPENS})
        if isinstance(simulation, dict)
        else None,
    }
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _as_floats(value: Any) -> Any:
    """The same with every number a float: 6 and 6.0 are one length."""
    if isinstance(value, dict):
        return {key: _as_floats(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_floats(each) for each in value]
    return float(value) if isinstance(value, int) else value


def _tables(data: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The tables of an array of a file that nobody has validated."""
    found = data.get(name)
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def book_path(testbed: Path) -> Path:
    """Where the book of a testbed file lies."""
    return testbed.with_name(BOOK_FILE)


def read_book(testbed: Path, data: Mapping[str, Any]) -> Book:
    """The book beside a testbed file with this content, empty where there is none.

    Raises BookError with what is wrong with it, and for the book of another ring.
    """
    path, ring = book_path(testbed), fingerprint(data)
    try:
        book = Book.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Book(ring=ring)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BookError(f"{path} is no calibration file: {error}") from error
    except ValidationError as error:
        told = "; ".join(f"{place}: {message}" for place, message in refused(error)[:5])
        raise BookError(f"{path} is no calibration file: {told}") from error
    if book.ring != ring:
        raise BookError(
            f"{path} was measured on another ring (other users, instruments or serial numbers); move it away and calibrate, "
            "or bring back the testbed file it belongs to"
        )
    return book


def write_book(testbed: Path, book: Book) -> None:
    """Put a book in the place of the one beside a testbed file, whole or not at all."""
    replace_file(
        book_path(testbed), tomli_w.dumps(book.model_dump(mode="python", exclude_defaults=False)).encode()
    )


def calibrated(data: Mapping[str, Any], book: Book) -> dict[str, Any]:
    """The content of a testbed file with everything that was measured in its place."""
    result = dict(data)
    for name, value in book.relay.items():
        if name in DERIVED:
            continue
        section = RELAY_PLACES[name]
        if isinstance(standing := result.get(section, {}), dict):
            result[section] = {**standing, name: _plain(name, value)}
    if users := _tables(data, "users"):
        result["users"] = [
            {
                **user,
                **{
                    name: _plain(name, value)
                    for name, value in book.part(str(user.get("name"))).items()
                    if name not in DERIVED
                },
            }
            for user in users
        ]
    return result


def _plain(name: str, value: Value) -> Any:
    if isinstance(value.value, list):
        return [round(each) if name in WHOLE else each for each in value.value]
    assert isinstance(value.uncertainty, float)
    bounded = value.value + BOUNDS.get(name, 0.0) * value.uncertainty
    return round(bounded) if name in WHOLE else bounded


def why_stale(book: Book, step: Step, owner: str, at: datetime) -> str:
    """Why a step's values of an owner are too old to rest on; empty for good ones, and for those the book does not have.

    The latter are the testbed file's, which nobody dates.
    """
    found = book.measured(step, owner)
    if found is None:
        return ""
    age_h = (at - found).total_seconds() / 3600
    if age_h < -AHEAD_H:
        return f"{step} of {owner} has a date ahead of this machine's clock ({found:%Y-%m-%d %H:%M} UTC)"
    if age_h > STEPS[step].valid_h:
        return f"{step} of {owner} is {age_h:.0f} h old and good for {STEPS[step].valid_h:g} h"
    return ""


def stale(book: Book, step: Step, users: Collection[str], at: datetime) -> Iterator[str]:
    """Why a step for these users cannot rest on the ones it needs: a sentence for each that is too old."""
    for needed in STEPS[step].needs:
        for owner in users if STEPS[needed].owner == "user" else ("relay",):
            if why := why_stale(book, needed, owner, at):
                yield why


def too_old(book: Book, at: datetime) -> Iterator[str]:
    """A sentence for each step of each owner whose values in the book nothing should rest on."""
    for owner in ("relay", *book.users):
        for step in Step:
            if why := why_stale(book, step, owner, at):
                yield why


def now() -> datetime:
    """This moment, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
