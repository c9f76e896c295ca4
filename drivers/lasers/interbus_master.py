"""The master's side of Interbus on a serial line: read and write registers of one module.

Real lasers drop about 1 of 250 requests (comment in QMI's protocol module), so a request that gets no sound
answer is sent again until the time of all ``resends`` is over; a busy module is asked again after a pause.  Reads and
writes of registers are idempotent, so that sending twice does no harm.  A NACK is an answer and is not repeated.

The source address changes from one request to the next (QMI alternates between two; hosts have the addresses above
160), and a telegram has a check sum: a late answer to an earlier request is passed over, and so is noise.
Sources: QMI ``nkt_photonics_interbus_protocol.py``; NKT SDK manual 2.1.3.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle

from drivers.links.errors import (
    InstrumentError,
    InstrumentRefusedError,
    LinkTimeoutError,
    MalformedReplyError,
    NotReadyError,
)
from drivers.links.interbus import MessageType, Telegram, TelegramError, TelegramReader, encode
from drivers.links.serial_link import SerialLink

SOURCES = range(161, 256)
PAUSE_S = 0.05  # before a busy module, or one whose answer was damaged, is asked again
NO_ANSWER, BUSY = "no answer", "busy"


class InterbusMaster:
    """Requests to the module with bus address ``module`` over ``link``; ``resend_count`` counts repetitions."""

    def __init__(
        self,
        link: SerialLink,
        module: int,
        *,
        resends: int = 10,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.link = link
        self.module = module
        self.resend_count = 0
        self._resends = resends
        self._pause = pause
        self._sources = cycle(SOURCES)

    def read(self, register: int, *, module: int | None = None, resends: int | None = None) -> bytes:
        """The data of ``register``, of another module on the bus if one is named."""
        telegram = self._telegram(MessageType.READ, register, b"", module)
        return self._request(telegram, MessageType.DATAGRAM, self._resends if resends is None else resends)

    def write(self, register: int, data: bytes) -> None:
        """Set ``register``; returns when the module acknowledged."""
        telegram = self._telegram(MessageType.WRITE, register, data, None)
        self._request(telegram, MessageType.ACK, self._resends)

    def _telegram(self, kind: MessageType, register: int, data: bytes, module: int | None) -> Telegram:
        return Telegram(self.module if module is None else module, next(self._sources), kind, register, data)

    def _request(self, telegram: Telegram, wanted: MessageType, resends: int) -> bytes:
        with self.link.exchange():
            failure, sent, noisy = NO_ANSWER, 0, False
            give_up = self.link.deadline((resends + 1) * self.link.timeout_s)
            while not sent or (self.link.now() < give_up and (failure == BUSY or sent <= resends)):
                self.link.write(encode(telegram))
                self.resend_count += sent > 0
                sent += 1
                answer = self._await_answer(telegram)
                if isinstance(answer, Telegram):
                    if answer.kind == wanted:
                        return answer.data
                    if answer.kind == MessageType.NACK:
                        raise self._refused(telegram)
                    busy = answer.kind == MessageType.BUSY
                    answer = BUSY if busy else f"an answer of type {answer.kind}"
                failure = answer
                noisy = noisy or failure not in (NO_ANSWER, BUSY)
                if failure != NO_ANSWER:
                    self._pause(PAUSE_S)
            raise self._failed(telegram, failure, sent, noisy)

    def _refused(self, telegram: Telegram) -> InstrumentError:
        return self.link.error(
            InstrumentRefusedError,
            f"register 0x{telegram.register:02X} was refused (NACK): it is unknown, read-only, "
            "or the value is out of range",
        )

    def _failed(self, telegram: Telegram, failure: str, sent: int, noisy: bool) -> InstrumentError:
        where = f"module {telegram.destination}, register 0x{telegram.register:02X}: {failure} after {sent} requests"
        if failure == BUSY:
            return self.link.error(NotReadyError, f"{where}; it stays busy, try again later")
        if noisy:
            return self.link.error(
                MalformedReplyError, f"{where}; check baud rate, cable and who else is on the line"
            )
        return self.link.error(
            LinkTimeoutError,
            f"{where} of {self.link.timeout_s:g} s; "
            + (self.link.why_silent() or "is the module switched on and on this bus address?"),
        )

    def _await_answer(self, request: Telegram) -> Telegram | str:
        """The telegram that answers ``request``, or why there is none."""
        reader = TelegramReader()
        deadline = self.link.deadline()
        noise = 0
        while True:
            try:
                data = self.link.read_some(deadline)
            except LinkTimeoutError:
                return f"{noise} bytes that are no answer" if noise else NO_ANSWER
            noise += len(data)
            damage = ""
            for item in reader.feed(data):
                if isinstance(item, TelegramError):
                    damage = f"a damaged answer ({item})"
                elif _answers(item, request):
                    return item
            if damage or self.link.now() >= deadline:
                return damage or f"{noise} bytes that are no answer"


def _answers(answer: Telegram, request: Telegram) -> bool:
    return (
        answer.destination == request.source
        and answer.source == request.destination
        and answer.register == request.register
    )
