"""Questions to an ID900: one request, exactly one reply, read inside the exchange so that nonsense makes the line suspect.

An error is the reply itself, which ends in ``SCPI_ERR_...`` or begins with ``No connection``.
Sources: IDQ Python examples ``utils/common.py`` (``zmq_exec``, ``trim_unit``); MSLNZ/pr-single-photons
``photons/equipment/idq_time_controller.py`` (errors); the error names of the JPA-SCPI parser.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import suppress

from drivers.links.errors import InstrumentError, InstrumentRefusedError, MalformedReplyError
from drivers.links.ieee488 import is_word, unquote
from drivers.links.scpi_replies import parse_whole
from drivers.links.zmq_reqrep import RequestLink

MAX_VOLTS = 100.0
"""No input of any instrument like this has a level beyond; SCPI's words for no number (9.9E37) do."""
_TIME_UNIT = re.compile(r"\s*(?:TB|PS)$", re.IGNORECASE)
"""The time base unit, which is 1 ps."""
_VOLTS = re.compile(r"\s*([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*(m?)V?\s*")


class ID900Questions:
    """Questions over ``link``."""

    def __init__(self, link: RequestLink) -> None:
        self._link = link

    def ask(self, command: str) -> str:
        """The reply to a query or a command; InstrumentRefusedError when it is an error."""
        with self._link.asking(command) as reply:
            return self._accepted(command, reply)

    def count(self, command: str) -> int:
        """A whole number, 0 or more, without unit or in time base units."""
        with self._link.asking(command) as reply:
            with suppress(ValueError):
                if (count := parse_whole(_TIME_UNIT.sub("", self._accepted(command, reply).strip()))) >= 0:
                    return count
            raise self._nonsense(command, reply)

    def volts(self, command: str) -> float:
        """A voltage."""
        with self._link.asking(command) as reply:
            found = _VOLTS.fullmatch(self._accepted(command, reply))
            volts = float(found[1]) * (1e-3 if found[2] else 1.0) if found else math.inf
            if abs(volts) > MAX_VOLTS:
                raise self._nonsense(command, reply)
            return volts

    def word(self, command: str, words: Mapping[str, str]) -> str:
        """The name of the word that the reply is, out of name -> word in the manual's spelling."""
        with self._link.asking(command) as reply:
            self._accepted(command, reply)
            for name, word in words.items():
                if is_word(word, unquote(reply)):
                    return name
            raise self._nonsense(command, reply)

    def _accepted(self, command: str, reply: str) -> str:
        if re.search(r"SCPI_ERR_\w+\s*$", reply) or reply.startswith("No connection"):
            raise self._link.error(InstrumentRefusedError, f"{command!r} was refused: {reply[-120:]}")
        return reply

    def _nonsense(self, command: str, reply: str) -> InstrumentError:
        return self._link.error(MalformedReplyError, f"{command!r} was answered by {reply[:60]!r}")
