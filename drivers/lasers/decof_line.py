"""The command line of TOPTICA's controllers (DeCoF, TCP port 1998): one expression a line, its value, and a prompt.

    > (param-ref 'laser1:emission)          #t
    > (param-set! 'laser1:dl:cc:enabled #f) 0        below 0: refused; above: done, with a warning
    > (param-ref 'no-such-thing)            Error: ...

A connection begins with a greeting that ends in the first prompt.  A controller whose ``echo`` is on repeats the
expression before its value.  Nothing in a reply says what it answers, so after any trouble the line is a new connection.

Sources: toptica-lasersdk 3.3 ``toptica/lasersdk/asyncio/{connection,client}.py`` and ``decop.py``; QMI
``qmi/instruments/toptica/dlc.py``.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

from drivers.links.byte_link import MAX_UNTERMINATED_BYTES
from drivers.links.errors import InstrumentRefusedError, MalformedReplyError
from drivers.links.link import NO_TEXT
from drivers.links.tcp_link import TcpLink

log = logging.getLogger(__name__)

T = TypeVar("T")
PROMPT = b"\n> "
_ERROR = re.compile(r"error\b:?\s*(-?\d+)?", re.IGNORECASE)


class DecofLine(TcpLink):
    """Parameters by name over one connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._greeted = False

    def read(self, name: str, parse: Callable[[str], T]) -> T:
        """``parse`` of a parameter's value.

        Raises InstrumentRefusedError where there is no such parameter, MalformedReplyError when ``parse`` raises
        ValueError.
        """
        return self.evaluate(f"(param-ref '{name})", parse)

    def put(self, name: str, value: bool | float) -> None:
        """Set a parameter.  Raises InstrumentRefusedError with the controller's code."""
        expression = f"(param-set! '{name} {written(value)})"
        if (status := self.evaluate(expression, int)) < 0:
            raise InstrumentRefusedError(
                f"refused {expression} with {status}",
                instrument=self.instrument,
                address=self.address,
                code=status,
            )
        if status:
            log.warning(
                "%s at %s: %s: done, with warning %d", self.instrument, self.address, expression, status
            )

    def evaluate(self, expression: str, parse: Callable[[str], T]) -> T:
        """``parse`` of what the controller makes of ``expression``; raises as :meth:`read`."""
        with self.exchange():
            if not self._greeted:
                self._reply("")
                self._greeted = True
            self.write(expression.encode("ascii") + b"\n")
            reply = self._reply(expression)
            if error := _ERROR.match(reply):
                raise InstrumentRefusedError(
                    f"{expression} was answered with {reply[:80]!r}",
                    instrument=self.instrument,
                    address=self.address,
                    code=int(error[1]) if error[1] else None,
                )
            try:
                return parse(reply)
            except ValueError as problem:
                raise self.error(
                    MalformedReplyError, f"{expression} was answered with {reply[:60]!r}: {problem}"
                ) from problem

    def _reply(self, expression: str) -> str:
        """What comes until the next prompt, an echo of the expression left out; what comes behind stays unread."""
        data, deadline = bytearray(), self.deadline()
        while (end := data.find(PROMPT)) < 0:
            if NO_TEXT.search(data) or len(data) > MAX_UNTERMINATED_BYTES:
                raise self.error(MalformedReplyError, f"{len(data)} bytes that are no reply and a prompt")
            data += self.read_some(deadline)
        self._received = bytes(data[end + len(PROMPT) :])
        lines = data[:end].decode("latin-1").splitlines()
        if expression and lines and lines[0].strip() == expression:
            del lines[0]
        return "\n".join(line.strip() for line in lines).strip()

    def _open(self, timeout_s: float) -> None:
        super()._open(timeout_s)
        self._greeted = False

    def _trouble(self) -> str:
        """A greeting that waits to be read is none."""
        return super()._trouble() if self._greeted else ""


def written(value: bool | float) -> str:
    """A value as the controller reads it."""
    return ("#t" if value else "#f") if isinstance(value, bool) else repr(value)


def switch(reply: str) -> bool:
    """Reads ``#t`` or ``#f``; ValueError for anything else."""
    if reply.lower() not in ("#t", "#f"):
        raise ValueError("neither #t nor #f")
    return reply.lower() == "#t"


def text(reply: str) -> str:
    """Reads a string in quotes; ValueError for anything else."""
    if len(reply) < 2 or reply[0] != '"' or reply[-1] != '"' or '"' in reply[1:-1]:
        raise ValueError("no text in quotes")
    return reply[1:-1]


def real(low: float, high: float) -> Callable[[str], float]:
    """Reads a number within what it can be; ValueError for anything else."""

    def parse(reply: str) -> float:
        value = float(reply)
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError(f"not within {low:g}..{high:g}")
        return value

    return parse
