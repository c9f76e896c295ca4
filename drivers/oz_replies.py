"""Replies of OZ Optics instruments, put together and read without a line.

A reply is lines ended by CR LF, then ``Done`` - and from a DD-100 an empty line -, or one line that begins with ``Error`` or
ends in ``Error!``.  With the echo on, the command and its CR come in front of the first line.

What a DD-100-MC says is read here too.  Two firmwares are known by how they write (sources at the driver):
``DPos:2400`` and ``ATTEN:12.00``, or ``Pos:2400`` and ``Atten:12.00(dB)``; both write ``Unknown`` for a position that is
not known.  A number is read only where digits stand, and where nothing else does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from drivers.links.link import NO_TEXT

MAX_LINES = 64
MAX_DB = 100.0  # no DD-100 attenuates more
CONFIGURATION = "MAX ATTEN:"  # stands in the configuration only
SERIAL_NUMBERS = (
    "SN:",
    "S/N:",
    "SERIAL:",
    "SERIAL NUMBER:",
)  # no source quotes that line of the configuration
ERRORS = {
    "Error-2": "bad command",
    "Error-5": "home sensor error, the unit needs repair",
    "Error-6": "overflow",
    "Error-7": "motor voltage beyond its safe limits",
}
_REFUSAL = re.compile(r"error\b|.*\berror!$", re.IGNORECASE)
_NUMBER = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)(?: ?\(?dB\)?)?", re.ASCII | re.IGNORECASE)


class ReplyError(ValueError):
    """What came is no reply of such an instrument."""


@dataclass(frozen=True)
class Reply:
    """The ``lines`` before ``Done``, or why the command was refused."""

    lines: tuple[str, ...] = ()
    refusal: str = ""

    def after(self, *keys: str) -> str | None:
        """What follows the first of ``keys`` that a line starts with, in either case."""
        for line in self.lines:
            for key in keys:
                if line.upper().startswith(key):
                    return line[len(key) :].strip()
        return None

    @property
    def is_configuration(self) -> bool:
        """Whether it answers ``CD``."""
        return self.after(CONFIGURATION) is not None

    def position_db(self) -> float | None:
        """The attenuation in the answer to ``D``, or None where it is unknown.  Raises ReplyError."""
        text = self.after("ATTEN:")
        if text is None or self.after("DPOS:", "POS:") is None:
            raise ReplyError(f"the position query was answered by {list(self.lines[:3])}")
        return None if text.lower() == "unknown" else _number("ATTEN", text)

    def check_moved(self) -> None:
        """ReplyError unless it says where a motor has stopped."""
        if not self.lines or not self.lines[-1].upper().startswith("POS:"):
            raise ReplyError(f"the move was answered by {list(self.lines[:3])}")

    def largest_db(self) -> float:
        """Largest attenuation in the answer to ``CD``.  Raises ReplyError."""
        return _number(CONFIGURATION, self.after(CONFIGURATION))

    def range_db(self) -> tuple[float, float]:
        """Smallest (the insertion loss) and largest attenuation in the answer to ``CD``.  Raises ReplyError."""
        low, high = _number("IL:", self.after("IL:")), self.largest_db()
        if not low < high:
            raise ReplyError(f"the range {low:g}..{high:g} dB makes no sense")
        return low, high


def _number(what: str, text: str | None) -> float:
    found = _NUMBER.fullmatch(text or "")
    if found is None or float(found[1]) > MAX_DB:
        raise ReplyError(
            f"{what.rstrip(':')} is {text!r}, not an attenuation; this firmware differs, and no value is guessed"
        )
    return float(found[1])


class ReplyReader:
    """Puts lines together to replies; ``command`` is what is passed over as an echo."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._lines: list[str] = []

    def feed(self, line: bytes) -> Reply | None:
        """The reply that ``line`` completes, if it does.  Raises ReplyError for what is no text, or has no end."""
        if NO_TEXT.search(line):
            raise ReplyError(f"a line of {len(line)} bytes is not text")
        for part in (part.strip() for part in line.decode("latin-1").split("\r")):
            if _REFUSAL.match(part):
                reason = ERRORS.get(part.removesuffix("!").capitalize(), "no reason given")
                return self._complete(Reply(refusal=f"{reason} ({part})"))
            if part.upper() == "DONE":
                return self._complete(Reply(tuple(self._lines)))
            if part not in ("", self._command):
                self._lines.append(part)
        if len(self._lines) > MAX_LINES:
            raise ReplyError("the reply does not end")
        return None

    def _complete(self, reply: Reply) -> Reply:
        self._lines = []
        return reply
