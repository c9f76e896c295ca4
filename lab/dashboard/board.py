"""The newest value of everything that the control room shows, each under a key and with the number of its last change.

A browser that has seen change ``n`` is told the keys that changed since, whole, and those that are gone: so what it holds is
right after any pause or loss, however many changes it slept through, and nothing waits for it meanwhile.  A board that does not
know what changed since ``n`` (another board, or too long ago) tells everything and says so.

The board holds one value a key and :data:`GONE_KEPT` names of keys that are gone: its size does not grow with time.
Times are seconds of the board's own clock, which never jumps; a browser learns "now" with every message and counts ages from it.
Of what has only a date, on record or in the queue, it counts them from this machine's clock, told as well: never from its own.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.randomness import random_hex

GONE_KEPT = 2048


@dataclass(frozen=True)
class _Entry:
    number: int
    at_s: float
    value: Any
    text: str
    """``[at_s, value]`` as JSON, made once for all browsers."""


class Board:
    """May be used from any thread.  ``changed`` is called after each change, in the thread that made it."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float] = time.time) -> None:
        self.instance = random_hex(8)
        """Tells this board from any other, one before a restart too."""
        self.changed: Callable[[], None] = lambda: None
        self._clock, self._wall = clock, wall
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        self._gone: OrderedDict[str, int] = OrderedDict()
        self._forgotten = 0
        self._number = 0
        self._made: tuple[int, int, str] | None = None

    def now(self) -> float:
        """Of the board's clock, s."""
        return self._clock()

    @property
    def number(self) -> int:
        """Of the latest change."""
        return self._number

    def put(self, key: str, value: Any, at_s: float | None = None) -> None:
        """The value of ``key`` is ``value`` (of JSON), since ``at_s``; one equal to the last changes nothing."""
        with self._lock:
            before = self._entries.get(key)
            if before is not None and before.value == value and (at_s is None or at_s == before.at_s):
                return
            at_s = self._clock() if at_s is None else at_s
            text = _json([round(at_s, 3), value])
            self._number += 1
            self._gone.pop(key, None)
            self._entries[key] = _Entry(self._number, at_s, value, text)
        self.changed()

    def drop(self, key: str) -> None:
        """There is no ``key`` any more."""
        with self._lock:
            if self._entries.pop(key, None) is None:
                return
            self._number += 1
            self._gone[key] = self._number
            while len(self._gone) > GONE_KEPT:
                self._forgotten = self._gone.popitem(last=False)[1]
        self.changed()

    def get(self, key: str) -> Any:
        """The value of ``key``, None where there is none."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def keys(self, beginning: str = "") -> list[str]:
        """Every key that begins so."""
        with self._lock:
            return [key for key in self._entries if key.startswith(beginning)]

    def since(self, number: int, instance: str = "") -> tuple[int, str]:
        """The number of the latest change, and what changed after ``number`` on the board ``instance``, as JSON::

            {"instance": "..", "number": 12, "now": 3.5, "clock": 1.8e9, "whole": false, "set": {KEY: [at_s, value]}, "gone": [KEY]}

        ``now`` is the board's clock, ``clock`` that of the machine, s since 1970; ``whole``: this is everything, and what is not in
        it is gone.
        """
        with self._lock:
            whole = instance != self.instance or not self._forgotten <= number <= self._number
            number = 0 if whole else number
            if self._made is None or self._made[:2] != (number, self._number):
                self._made = number, self._number, self._told(number)
            head = {
                "instance": self.instance,
                "number": self._number,
                "now": round(self._clock(), 3),
                "clock": round(self._wall(), 3),
                "whole": whole,
            }
            return self._number, f"{json.dumps(head)[:-1]},{self._made[2]}}}"

    def _told(self, number: int) -> str:
        told = ",".join(
            f"{json.dumps(key)}:{entry.text}" for key, entry in self._entries.items() if entry.number > number
        )
        gone = [key for key, gone_at in self._gone.items() if gone_at > number] if number else []
        return f'"set":{{{told}}},"gone":{json.dumps(gone)}'


def _json(value: Any) -> str:
    """What is no finite number, which JSON does not know and no browser reads, is null."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"))


def _finite(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(each) for key, each in value.items()}
        case list() | tuple():
            return [_finite(each) for each in value]
    return value
