"""The known state of a SCPI instrument: settings that must be so, put and read back, with the reason where one is not.

Whoever used an instrument before left it with settings that change what ours mean: units, offsets, corrections, modes.
A driver lists them as :class:`Required`; they are put whenever the instrument is brought up.  An instrument that keeps
one of them otherwise can be looked at, but not relied upon: what depends on the state raises
:class:`InstrumentRefusedError` with every reason, after another try to put it right.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from drivers.links.errors import InstrumentRefusedError
from drivers.links.ieee488 import is_word, unquote
from drivers.links.scpi_visa import ScpiLink

log = logging.getLogger(__name__)

_SWITCH = {"ON": 1.0, "OFF": 0.0}
_MISSING = (-221, -241)
"""SCPI-1999, 21.8: settings conflict (with a mode that has no such setting), hardware missing."""


@dataclass(frozen=True)
class Required:
    """``header value[,argument]``, read back by ``header? [argument]``; ``value`` in the manual's notation.

    ``if_there``: an instrument that does not know the command lacks the feature, and that is as good.  ``timeout_s`` is
    how long the change may take.
    """

    header: str
    value: str
    if_there: bool = False
    argument: str = ""
    timeout_s: float | None = None

    @property
    def command(self) -> str:
        """What puts it."""
        return f"{self.header} {self.value}" + (f",{self.argument}" if self.argument else "")

    @property
    def query(self) -> str:
        """What reads it back."""
        return f"{self.header}? {self.argument}".strip()

    def is_held(self, reply: str) -> bool:
        """Whether ``reply`` says the value: as a number, a switch, or a word in its short or its long form."""
        held = unquote(reply).upper()
        wanted, given = _number(self.value), _number(held)
        if wanted is not None and given is not None:
            return abs(wanted - given) <= 1e-6 * abs(wanted) + 1e-15
        return is_word(self.value, held)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return _SWITCH.get(text.upper())


def _is_missing(code: int | None) -> bool:
    """Whether an error says that there is no such feature: a command error, or one of :data:`_MISSING`."""
    return code is not None and (-200 < code <= -100 or code in _MISSING)


class KnownState:
    """Keeps ``required`` on the instrument behind ``link``."""

    def __init__(self, link: ScpiLink, required: Sequence[Required]) -> None:
        self._link = link
        self._required = required
        self.missing: list[str] = []
        """Why the instrument is not in its known state; empty when it is."""

    def hold(self) -> None:
        """Put what is not so; log and keep the reasons where that fails."""
        self.missing = [reason for each in self._required if (reason := self._put(each))]
        for reason in self.missing:
            log.warning("%s at %s: %s", self._link.instrument, self._link.address, reason)

    def require(self) -> None:
        """Raise InstrumentRefusedError unless the state is known."""
        if self.missing:
            self.hold()
        if self.missing:
            raise self._link.error(
                InstrumentRefusedError,
                f"is not in its known state, so its values cannot be relied upon: {'; '.join(self.missing)}",
            )

    def _put(self, each: Required) -> str:
        """The reason why ``each`` is not held, or ""."""
        link = self._link
        if not each.if_there and each.is_held(link.query(each.query)):
            return ""
        try:
            link.command(each.command, timeout_s=each.timeout_s)
        except InstrumentRefusedError as error:
            return "" if each.if_there and _is_missing(error.code) else str(error)
        held = link.query(each.query, timeout_s=each.timeout_s)
        return "" if each.is_held(held) else f"{each.header} reads back {held[:40]!r}, not {each.value}"
