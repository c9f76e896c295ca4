"""Questions to a Thorlabs unit that speaks APT on its own serial line.

An answer has the number of its message and, where it is about one, its channel; nothing tells which of two questions it
answers, and a unit says things unasked: that a move has ended, or a status again and again.  So what came unasked is looked
at before a question.  Ends of moves are nobody's answer and are passed over; after anything else, and after any trouble,
the line *gets in step*: it asks who the unit is, which nothing else tells, finds that answer in whatever comes, and waits for
what may be later still.
"""

from __future__ import annotations

import logging

from drivers.links.apt import HOST, UNIT, AptError, AptMessage, AptReader, encode
from drivers.links.byte_link import MAX_UNTERMINATED_BYTES
from drivers.links.errors import (
    InstrumentRefusedError,
    LinkTimeoutError,
    MalformedReplyError,
    WrongInstrumentError,
)
from drivers.links.serial_link import SerialLink

logger = logging.getLogger(__name__)

REQ_INFO, GET_INFO = 0x0005, 0x0006
INFO_BYTES = 84
REFUSALS = (0x0080, 0x0081)
"""HW_RESPONSE and HW_RICHRESPONSE: the unit tells of an error."""
UNASKED = (0x0444, 0x0464, 0x0466)
"""Homed, move completed, move stopped."""
_INFO_HEADER = encode(AptMessage(GET_INFO, data=bytes(INFO_BYTES)), destination=HOST, source=UNIT)[:6]


class AptLine:
    """The questions and answers over ``link``."""

    def __init__(self, link: SerialLink) -> None:
        self._link = link
        self._in_step_with = -1  # the line on which the last answer was read
        self._reader = AptReader()

    def ask(
        self, question: AptMessage, answer: int, *, size: int = 0, channel: int | None = None
    ) -> AptMessage:
        """The message ``answer`` with ``size`` bytes of data, which begin with the ``channel`` if there is one.

        Raises InstrumentRefusedError when the unit tells of an error, MalformedReplyError for another size.
        """
        link = self._link
        with link.exchange():
            info = self._get_in_step()
            if info is not None and question.number == REQ_INFO:
                return info
            self._write(question)
            deadline = link.deadline()
            while True:
                for message in self._next(deadline, f"0x{question.number:04X}"):
                    if message.number in REFUSALS:
                        self._in_step_with = -1
                        raise link.error(
                            InstrumentRefusedError,
                            f"0x{question.number:04X} was refused: {message.data.hex()}",
                        )
                    if message.number == answer and (channel is None or _channel(message) == channel):
                        return self._answered(message, size)

    def tell(self, *commands: AptMessage) -> None:
        """Send ``commands``, which nothing answers; whether they were obeyed is to be asked."""
        with self._link.exchange():
            self._get_in_step()
            self._write(*commands)
            self._in_step_with = self._link.renewed

    def _answered(self, message: AptMessage, size: int) -> AptMessage:
        if len(message.data) != size:
            raise self._link.error(
                MalformedReplyError,
                f"message 0x{message.number:04X} has {len(message.data)} bytes of data, {size} were expected; "
                "this firmware differs, and no value is guessed",
            )
        self._in_step_with = self._link.renewed if self._reader.is_between else -1
        return message

    def _write(self, *messages: AptMessage) -> None:
        self._in_step_with = -1
        self._link.write(b"".join(map(encode, messages)))

    def _next(self, deadline: float, what: str) -> list[AptMessage]:
        try:
            return self._reader.feed(self._link.read_some(deadline))
        except LinkTimeoutError as error:
            raise self._link.error(LinkTimeoutError, f"{what} was not answered in time") from error
        except AptError as error:
            raise self._link.error(MalformedReplyError, str(error)) from error

    def _get_in_step(self) -> AptMessage | None:
        """Skip what was asked before; who the unit is, if that had to be asked."""
        if self._in_step_with == self._link.renewed and not self._unasked():
            return None
        self._reader = AptReader()
        self._write(AptMessage(REQ_INFO))
        heard, deadline = b"", self._link.deadline()
        while (start := heard.find(_INFO_HEADER)) < 0 or len(heard) < start + len(_INFO_HEADER) + INFO_BYTES:
            try:
                heard = heard[-MAX_UNTERMINATED_BYTES:] + self._link.read_some(deadline)
            except LinkTimeoutError as error:
                if heard:
                    raise self._link.error(
                        WrongInstrumentError,
                        f"{heard[:20].hex()} came when it was asked who it is; a unit that speaks APT tells its name",
                    ) from error
                raise
        self._link.throw_away_late()
        self._in_step_with = self._link.renewed
        data = heard[start + len(_INFO_HEADER) :][:INFO_BYTES]
        return AptMessage(GET_INFO, data=data)

    def _unasked(self) -> bool:
        """Whether something came since the last answer that is not the end of a move."""
        unasked: list[AptMessage] = []
        try:
            unasked = self._reader.feed(self._link.read_some(self._link.now()))
        except LinkTimeoutError:
            return False
        except AptError as error:
            logger.warning("%s at %s: %s", self._link.instrument, self._link.address, error)
            return True
        others = [each.number for each in unasked if each.number not in UNASKED]
        if others:
            logger.warning(
                "%s at %s: message 0x%04X came unasked", self._link.instrument, self._link.address, others[0]
            )
        return bool(others) or not self._reader.is_between


def _channel(message: AptMessage) -> int:
    return int.from_bytes(message.data[:2], "little") if message.data else message.p1
