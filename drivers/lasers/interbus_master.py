"""The master's side of Interbus on a serial line: read and write registers of one module.

Real lasers drop about 1 of 250 requests (comment in QMI's protocol module), so a request that gets no sound
answer is sent again, at most ``resends`` times.  The source address alternates between 161 and 162 from one
request to the next: a late answer to the previous request carries the other address and is passed over.
Reads and writes of registers are idempotent, so that sending twice does no harm.  A NACK is an answer and is
not repeated.  Sources: QMI ``nkt_photonics_interbus_protocol.py``; NKT SDK manual 2.1.3.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from drivers.links.errors import (
    InstrumentRefusedError,
    LinkTimeoutError,
    MalformedReplyError,
)
from drivers.links.interbus import MessageType, Telegram, TelegramError, TelegramReader, encode
from drivers.links.serial_link import SerialLink

SOURCES = (161, 162)  # hosts have addresses above 160
BUSY_PAUSE_S = 0.05


class InterbusMaster:
    """Requests to the module with bus address ``module`` over ``link``; ``resend_count`` counts repetitions."""

    def __init__(
        self,
        link: SerialLink,
        module: int,
        *,
        instrument: str,
        resends: int = 10,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.link = link
        self.module = module
        self.resend_count = 0
        self._resends = resends
        self._pause = pause
        self._instrument = instrument
        self._source_index = 0

    def read(self, register: int) -> bytes:
        """The data of ``register``."""
        return self._request(MessageType.READ, register, b"", MessageType.DATAGRAM)

    def write(self, register: int, data: bytes) -> None:
        """Set ``register``; returns when the module acknowledged."""
        self._request(MessageType.WRITE, register, data, MessageType.ACK)

    def _request(self, kind: MessageType, register: int, data: bytes, wanted: MessageType) -> bytes:
        with self.link.exchange():
            source = SOURCES[self._source_index]
            self._source_index = 1 - self._source_index
            telegram = Telegram(self.module, source, kind, register, data)
            last_failure = "no answer"
            for attempt in range(self._resends + 1):
                self.resend_count += attempt > 0
                self.link.write(encode(telegram))
                answer = self._await_answer(telegram)
                if isinstance(answer, str):
                    last_failure = answer
                elif answer.kind == wanted:
                    return answer.data
                elif answer.kind == MessageType.NACK:
                    raise InstrumentRefusedError(
                        f"register 0x{register:02X} was refused (NACK): it is unknown, read-only, "
                        "or the value is out of range",
                        instrument=self._instrument,
                        address=self.link.address,
                    )
                else:
                    last_failure = f"answer of type {answer.kind}"
                    if answer.kind == MessageType.BUSY:
                        self._pause(BUSY_PAUSE_S)
            error = LinkTimeoutError if last_failure == "no answer" else MalformedReplyError
            raise error(
                f"module {self.module}, register 0x{register:02X}: {last_failure} after "
                f"{self._resends + 1} requests of {self.link.timeout_s:g} s; is the module on this bus address?",
                instrument=self._instrument,
                address=self.link.address,
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
                return f"{noise} bytes that are no answer" if noise else "no answer"
            noise += len(data)
            damage = ""
            for item in reader.feed(data):
                if isinstance(item, TelegramError):
                    damage = f"damaged answer ({item})"
                elif _answers(item, request):
                    return item
            if damage:
                return damage


def _answers(answer: Telegram, request: Telegram) -> bool:
    return (
        answer.destination == request.source
        and answer.source == request.destination
        and answer.register == request.register
    )
