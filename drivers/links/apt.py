"""Thorlabs APT messages as pure functions.

A message is a header of six bytes, little endian: ``u16 number | u8 p1 | u8 p2 | u8 destination | u8 source``; with data,
``u16 number | u16 length | u8 destination + 0x80 | u8 source`` and as many bytes.  The host is 0x01, a unit on its own USB
line 0x50.  There is no start byte, no check sum and no count: a reader that lost its place knows it only by a header that
cannot be.  Sources: Thorlabs, APT Controllers Host-Controller Communications Protocol; QMI
``qmi/instruments/thorlabs/apt_packets.py``; PnPQ ``src/pnpq/apt/protocol.py``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HOST, UNIT = 0x01, 0x50
HEADER = struct.Struct("<HBBBB")
WITH_DATA = 0x80
MAX_DATA_BYTES = 255
"""None of the messages of single units is longer."""


class AptError(ValueError):
    """Bytes that are no message to us."""


@dataclass(frozen=True)
class AptMessage:
    """One message: with ``data``, or without and then with two parameters."""

    number: int
    p1: int = 0
    p2: int = 0
    data: bytes = b""


def encode(message: AptMessage, *, destination: int = UNIT, source: int = HOST) -> bytes:
    """The bytes on the line."""
    if message.data:
        low, high = len(message.data).to_bytes(2, "little")
        return HEADER.pack(message.number, low, high, destination | WITH_DATA, source) + message.data
    return HEADER.pack(message.number, message.p1, message.p2, destination, source)


class AptReader:
    """Cuts a byte stream into messages from ``source`` to ``me``."""

    def __init__(self, me: int = HOST, source: int = UNIT) -> None:
        self._me, self._source = me, source
        self._begun = b""

    @property
    def is_between(self) -> bool:
        """Whether no message is begun."""
        return not self._begun

    def feed(self, data: bytes) -> list[AptMessage]:
        """The messages that ``data`` completes.  Raises AptError for a header that cannot be; the reader is empty then."""
        self._begun += data
        found: list[AptMessage] = []
        while len(self._begun) >= HEADER.size:
            number, p1, p2, destination, source = HEADER.unpack_from(self._begun)
            length = p1 + (p2 << 8) if destination & WITH_DATA else 0
            if destination & ~WITH_DATA != self._me or source != self._source or length > MAX_DATA_BYTES:
                seen, self._begun = self._begun[: HEADER.size].hex(), b""
                raise AptError(f"{seen} is no header of a message from 0x{self._source:02X}")
            whole = HEADER.size + length
            if len(self._begun) < whole:
                break
            data = self._begun[HEADER.size : whole]
            found.append(AptMessage(number, data=data) if length else AptMessage(number, p1, p2))
            self._begun = self._begun[whole:]
        return found
