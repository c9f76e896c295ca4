"""What a restart must not change about alarms, in a file of the role: acknowledgements, shelves, and what latched.

The end of a shelf is kept on the wall clock, the only one that a restart does not set back; a clock that was stepped meanwhile
makes a shelf shorter or longer, never endless.  A file that cannot be read is told, and every alarm is unacknowledged then:
an operator looks once too often rather than once too little.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lab.alarms.limits import Condition, Severity
from lab.alarms.states import LONGEST_SHELF_S
from orchestrator.durable import read_kept, write_kept
from orchestrator.events.status import AlarmName

logger = logging.getLogger(__name__)

ALARMS_FILE = "alarms.json"
FORMAT = 1


class KeptAlarm(msgspec.Struct, frozen=True):
    """One alarm as it stood; ``shelf_left_s`` counts from when it is given, 0 for one that is not shelved.

    ``reference`` is the value from which drift counts, ``limit`` the one that was passed.
    """

    name: AlarmName
    peer: str | None
    part: str
    text: str
    value: float | None
    reference: float | None
    condition: Condition
    limit: float | None
    severity: Severity
    worst: Severity
    acknowledged: bool
    shelf_left_s: float = 0.0

    def __post_init__(self) -> None:
        passed = self.condition in ("high", "low", "drift", "stale")
        if passed and (self.value is None or self.limit is None):
            raise ValueError(f"{self.name} is {self.condition} without a value or a limit")


class _Kept(msgspec.Struct, frozen=True):
    alarms: tuple[KeptAlarm, ...]
    at: float
    """Wall clock, seconds since 1970."""
    format: int = FORMAT


def keep_alarms(folder: Path, alarms: Sequence[KeptAlarm]) -> None:
    """Write the file; durable when this returns.  Raises OSError."""
    write_kept(folder / ALARMS_FILE, _Kept(tuple(alarms), time.time()), 0o600)


def kept_alarms(folder: Path) -> list[KeptAlarm]:
    """What the file in ``folder`` holds, shelves shortened by the time since; nothing where there is none."""
    path = folder / ALARMS_FILE
    try:
        kept = read_kept(path, _Kept, FORMAT)
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        logger.error("%s cannot be read, so every alarm counts as not acknowledged: %s", path, error)
        return []
    since_s = max(time.time() - kept.at, 0.0)
    return [
        msgspec.structs.replace(
            each, shelf_left_s=min(max(each.shelf_left_s - since_s, 0.0), LONGEST_SHELF_S)
        )
        for each in kept.alarms
    ]
