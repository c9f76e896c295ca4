"""Questions on a serial line that are answered by one line each, when nothing in a line tells what it answers.

A reply that comes late, or twice, would be taken for that to the next question.  After any trouble, and when something
came that nobody asked for, the line *gets in step*: it asks the *marker*, a question whose answer no other question has,
and skips lines until that answer comes, and waits for what may be later still.  What a command that needs no answer says all the same is told apart in the same
way: all that comes before the marker's answer.

Lines end in LF, CR LF or CR; empty ones are no replies.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import TypeVar

from drivers.links.byte_link import MAX_UNTERMINATED_BYTES
from drivers.links.errors import (
    InstrumentRefusedError,
    LinkTimeoutError,
    MalformedReplyError,
    WrongInstrumentError,
)
from drivers.links.serial_link import SerialLink

logger = logging.getLogger(__name__)

T = TypeVar("T")
_LINE_END = re.compile(rb"[\r\n]")


class OneLineReplies:
    """The questions and answers over ``link``.

    ``is_marked`` knows the answer to ``marker``, ``is_refusal`` a line by which the instrument refuses;
    ``acknowledgement`` is what it may say to a command.
    """

    def __init__(
        self,
        link: SerialLink,
        marker: str,
        is_marked: Callable[[str], bool],
        is_refusal: Callable[[str], bool] = lambda line: False,
        acknowledgement: str = "",
    ) -> None:
        self._link = link
        self._marker = marker
        self._is_marked = is_marked
        self._is_refusal = is_refusal
        self._acknowledgement = acknowledgement
        self._in_step_with = -1  # the line on which the last reply was read
        self._beginning = b""  # of a line that is not complete yet

    def ask(self, question: str, read: Callable[[str], T]) -> T:
        """``read`` of the reply to ``question``.

        Raises InstrumentRefusedError on a refusal, MalformedReplyError when ``read`` raises ValueError.
        """
        with self._link.exchange():
            reply = self._get_in_step()
            if reply is None or question != self._marker:
                self._write(question)
                deadline = self._link.deadline()
                reply = self._next_line(question, deadline)
                while question != self._marker and self._is_marked(reply):  # it was asked more than once
                    reply = self._next_line(question, deadline)
                self._answered()
            if self._is_refusal(reply):
                raise self._refused(question, reply)
            try:
                return read(reply)
            except ValueError as error:
                raise self._link.error(
                    MalformedReplyError, f"{question!r} was answered with {reply[:60]!r}: {error}"
                ) from error

    def tell(self, command: str) -> None:
        """Send a ``command`` that may be acknowledged, or not answered at all.

        Raises InstrumentRefusedError on a refusal; any other line answers something else, asked before.
        """
        with self._link.exchange():
            self._get_in_step()
            self._write(command, self._marker)
            said, deadline = [], self._link.deadline()
            while not self._is_marked(line := self._next_line(command, deadline)):
                said.append(line)
            self._answered()
        for line in said:
            if self._is_refusal(line):
                raise self._refused(command, line)
            if line != self._acknowledgement:
                self._tell_unasked(len(line))

    def send(self, *commands: str) -> None:
        """Send ``commands`` at once, whatever is under way; what they may be answered with is nobody's."""
        with self._link.exchange():
            self._write(*commands)

    def _write(self, *messages: str) -> None:
        self._in_step_with = -1
        self._link.write("".join(f"{message}\n" for message in messages).encode("ascii"))

    def _answered(self) -> None:
        self._in_step_with = self._link.renewed

    def _get_in_step(self) -> str | None:
        """Skip replies to what was asked before; the marker's answer if it had to be asked for."""
        link = self._link
        if self._in_step_with == link.renewed and not self._unasked():
            return None
        self._beginning = b""
        self._write(self._marker)
        skipped, deadline = "", link.deadline()
        try:
            while not self._is_marked(line := self._next_line(self._marker, deadline)):
                skipped = line
        except LinkTimeoutError as error:
            if skipped:
                raise link.error(
                    WrongInstrumentError, f"{self._marker!r} is answered with {skipped[:60]!r}"
                ) from error
            raise
        link.throw_away_late()
        self._beginning = b""
        self._answered()
        return line

    def _unasked(self) -> bytes:
        """What came since the last reply, apart from the end of its line."""
        link = self._link
        try:
            unasked = (self._beginning + link.read_some(link.now())).strip()
        except LinkTimeoutError:
            unasked = self._beginning.strip()
        self._beginning = b""
        if unasked:
            self._tell_unasked(len(unasked))
        return unasked

    def _tell_unasked(self, count: int) -> None:
        logger.warning("%s at %s: %d bytes came unasked", self._link.instrument, self._link.address, count)

    def _next_line(self, question: str, deadline: float) -> str:
        """The next line that is not empty; LinkTimeoutError once the link's clock passes ``deadline``."""
        link = self._link
        while True:
            if end := _LINE_END.search(self._beginning):
                line, self._beginning = self._beginning[: end.start()], self._beginning[end.end() :]
                if text := line.decode("latin-1").strip():
                    return text
            elif len(self._beginning) > MAX_UNTERMINATED_BYTES:
                raise link.error(MalformedReplyError, f"{len(self._beginning)} bytes without a line end")
            else:
                try:
                    self._beginning += link.read_some(deadline)
                except LinkTimeoutError as error:
                    raise link.error(LinkTimeoutError, f"{question!r} was not answered in time") from error

    def _refused(self, command: str, line: str) -> InstrumentRefusedError:
        return self._link.error(InstrumentRefusedError, f"{command!r} was refused: {line}")


def number(low: float, high: float) -> Callable[[str], float]:
    """Reads a number within what it can be; ValueError for anything else."""

    def read(line: str) -> float:
        if not low <= (value := float(line)) <= high:
            raise ValueError(f"not within {low:g}..{high:g}")
        return value

    return read


def switch(line: str) -> bool:
    """Reads 0 or 1; ValueError for anything else."""
    if line not in ("0", "1"):
        raise ValueError("neither 0 nor 1")
    return line == "1"
