"""Why an interlock is latched, kept in a file so that a restart changes nothing.

A latch holds causes, one of each kind, each with what happened first.  It is released as a whole, by an operator.  The
file is there while something is latched.  One that cannot be read latches: nobody knows what it said.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from orchestrator.durable import read_kept, sync_path, write_kept

LATCH_FILE = "interlock.json"
FORMAT = 1

CauseName: TypeAlias = Literal[
    "operator", "detector-rate", "monitor", "station-lost", "guard-gone", "unknown"
]
WHAT_TO_DO: dict[CauseName, str] = {
    "operator": "ask whoever stopped it",
    "detector-rate": "find what shines on the detectors: launch attenuators, a station in bypass, stray light",
    "monitor": "find what is brighter than planned: the launch, the taps, the sensor's wavelength and zero",
    "station-lost": "look at the station: its node, its switch, its attenuator; start the node again",
    "guard-gone": "restart the role, which brings a guard with it",
    "unknown": "look at everything that this role owns",
}
"""What an operator does before acknowledging."""


class Cause(msgspec.Struct, frozen=True):
    """One reason; ``at`` is the wall clock when it began, for people."""

    cause: CauseName
    text: str
    at: str

    def __str__(self) -> str:
        return f"{self.cause}: {self.text} ({self.at})"


class _Kept(msgspec.Struct, frozen=True):
    causes: tuple[Cause, ...]
    format: int = FORMAT


def clock_for_people() -> str:
    """The time of day, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def with_cause(causes: Sequence[Cause], cause: Cause) -> tuple[Cause, ...]:
    """``causes`` and this one, unless its kind is there already: what came first is what an operator needs to know."""
    return tuple(causes) if any(each.cause == cause.cause for each in causes) else (*causes, cause)


def kept_causes(folder: Path) -> tuple[Cause, ...]:
    """What the file in ``folder`` holds; one cause of its own where it cannot be read."""
    path = folder / LATCH_FILE
    try:
        return read_kept(path, _Kept, FORMAT).causes
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        return (Cause("unknown", f"{path} cannot be read: {error}", clock_for_people()),)


def keep_causes(folder: Path, causes: Sequence[Cause]) -> None:
    """Write the file, or remove it where there is no cause; durable when this returns.  Raises OSError."""
    path = folder / LATCH_FILE
    if causes:
        write_kept(path, _Kept(tuple(causes)), 0o600)
    else:
        path.unlink(missing_ok=True)
        sync_path(folder)
