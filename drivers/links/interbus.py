"""NKT Photonics Interbus telegrams as pure functions.

A telegram on the line is ``0x0D | escaped(DEST SRC TYPE REGISTER DATA... CRC_hi CRC_lo) | 0x0A``.  The CRC
is CRC-16-CCITT (polynomial 0x1021, start 0, most significant bit first, no final xor) over DEST..DATA, big
endian.  The bytes 0x0A, 0x0D and 0x5E are escaped as 0x5E followed by the byte plus 0x40, in the CRC too.
DATA is at most 240 bytes.  Sources: NKT SDK manual 2.1.3; QMI
``qmi/instruments/nkt_photonics/nkt_photonics_interbus_protocol.py``; pylablib
``pylablib/devices/NKT/interbus.py``.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass
from enum import IntEnum

START, END, ESCAPE = 0x0D, 0x0A, 0x5E
ESCAPE_SHIFT = 0x40
MAX_DATA_BYTES = 240
_RESERVED = frozenset((START, END, ESCAPE))
_HEADER_BYTES, _CRC_BYTES = 4, 2
MAX_ESCAPED_BYTES = 2 * (_HEADER_BYTES + MAX_DATA_BYTES + _CRC_BYTES)


class MessageType(IntEnum):
    """The TYPE byte."""

    NACK = 0
    CRC_ERROR = 1
    BUSY = 2
    ACK = 3
    READ = 4
    WRITE = 5
    SET_BITS = 6
    CLEAR_BITS = 7
    DATAGRAM = 8
    TOGGLE_BITS = 9


class TelegramError(ValueError):
    """Bytes that are no telegram."""


class CrcError(TelegramError):
    """A telegram whose check sum is wrong; the header fields are what they claim to be, nothing more."""

    def __init__(self, body: bytes) -> None:
        super().__init__(f"wrong CRC in a telegram of {len(body)} bytes")
        self.body = body


@dataclass(frozen=True)
class Telegram:
    """One message: ``kind`` is a MessageType (other values are kept as they came)."""

    destination: int
    source: int
    kind: int
    register: int
    data: bytes = b""


def crc16(body: bytes) -> int:
    """CRC-16-CCITT with start value 0 (XMODEM); over a body with its CRC appended it is 0."""
    return binascii.crc_hqx(body, 0)


def escape(body: bytes) -> bytes:
    """Replace the reserved bytes."""
    out = bytearray()
    for byte in body:
        if byte in _RESERVED:
            out += bytes((ESCAPE, byte + ESCAPE_SHIFT))
        else:
            out.append(byte)
    return bytes(out)


def unescape(escaped: bytes) -> bytes:
    """The inverse of :func:`escape`; TelegramError for a sequence that no escaping produces."""
    out = bytearray()
    pending = False
    for byte in escaped:
        if pending:
            if byte - ESCAPE_SHIFT not in _RESERVED:
                raise TelegramError(f"byte 0x{byte:02X} after an escape")
            out.append(byte - ESCAPE_SHIFT)
            pending = False
        elif byte == ESCAPE:
            pending = True
        elif byte in _RESERVED:
            raise TelegramError(f"unescaped byte 0x{byte:02X} inside a telegram")
        else:
            out.append(byte)
    if pending:
        raise TelegramError("the telegram ends in an escape")
    return bytes(out)


def encode(telegram: Telegram) -> bytes:
    """The bytes on the line."""
    if len(telegram.data) > MAX_DATA_BYTES:
        raise TelegramError(f"{len(telegram.data)} data bytes, at most {MAX_DATA_BYTES} fit")
    header = bytes((telegram.destination, telegram.source, telegram.kind, telegram.register))
    body = header + telegram.data
    return bytes((START,)) + escape(body + crc16(body).to_bytes(2, "big")) + bytes((END,))


def decode(escaped: bytes) -> Telegram:
    """A telegram from what lies between START and END; CrcError or TelegramError when it is none."""
    body = unescape(escaped)
    if not _HEADER_BYTES + _CRC_BYTES <= len(body) <= _HEADER_BYTES + MAX_DATA_BYTES + _CRC_BYTES:
        raise TelegramError(f"a telegram of {len(body)} bytes")
    if crc16(body):
        raise CrcError(body)
    return Telegram(body[0], body[1], body[2], body[3], body[_HEADER_BYTES:-_CRC_BYTES])


class TelegramReader:
    """Cuts a byte stream into telegrams: everything before a START is skipped, a new START restarts."""

    def __init__(self) -> None:
        self._escaped: bytearray | None = None

    def feed(self, data: bytes) -> list[Telegram | TelegramError]:
        """What ``data`` completes, in order: telegrams, and errors in the place of damaged ones."""
        found: list[Telegram | TelegramError] = []
        for byte in data:
            if byte == START:
                self._escaped = bytearray()
            elif self._escaped is None:
                continue
            elif byte == END:
                try:
                    found.append(decode(bytes(self._escaped)))
                except TelegramError as error:
                    found.append(error)
                self._escaped = None
            elif len(self._escaped) >= MAX_ESCAPED_BYTES:
                found.append(TelegramError("a telegram without an end"))
                self._escaped = None
            else:
                self._escaped.append(byte)
        return found
