"""IEEE 488.2 framing: program messages, definite-length blocks, SCPI error and identity replies.

A message ends at a line feed - except that a definite-length block ``#<n><length><bytes>`` may hold any
byte, line feeds included.  :class:`MessageFramer` therefore jumps over blocks: it looks for ``#`` outside
quotes, and the end of a block ends the message whether or not a line feed follows (public clients such as
QCoDeS send none); ``;`` then continues and leading separators are skipped.  It is written in the manner of
``asyncio.BufferedProtocol``: bytes are received straight into the buffer that it hands out, so a large
block lands in its final place without a copy.

Everything here is pure; the drivers use the small functions, the simulated instruments the framer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SCRATCH_BYTES = 65536
MAX_TEXT_BYTES = 1 << 20
MAX_BLOCK_BYTES = 999_999_999
"""IEEE 488.2: the length of a definite block has at most nine digits."""

NUMBER_AND_UNIT = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)")
"""A decimal number (``<NRf>``) and the suffix that may stand behind it, in two groups."""
_SPECIAL = re.compile(rb"[\n\"'#]")
_SEPARATORS = b" \t\r\n;"
_ERROR = re.compile(r"([+-]?\d+)\s*,\s*([\"'A-Za-z].*)|([+-]?0+|-\d+)", re.DOTALL | re.ASCII)


class FramingError(ValueError):
    """The bytes cannot be a sequence of program messages."""


@dataclass(frozen=True)
class ProgramMessage:
    """One program message: its text and, where it ends in a block, the block.

    ``block`` is None without a block and also when the sink declined to store it; ``block_bytes`` is the
    length that the header announced (0 without a block).
    """

    text: bytes
    block: memoryview | None = None
    block_bytes: int = 0


@dataclass(frozen=True)
class ErrorReply:
    """An entry of a SCPI error queue; code 0 means no error."""

    code: int
    text: str


BlockSink = Callable[[bytes, int], memoryview | None]
"""(text before the block, length in bytes) -> where to store it (that length), or None to discard it."""


def _own_buffer(_text: bytes, length: int) -> memoryview | None:
    return memoryview(bytearray(length))


def block_header(n_bytes: int) -> bytes:
    """``#<n><length>`` of a definite-length block.

    Raises ValueError above 999 999 999 bytes.
    """
    if not 0 <= n_bytes <= MAX_BLOCK_BYTES:
        raise ValueError(f"a block holds 0..{MAX_BLOCK_BYTES} bytes, not {n_bytes}; send it in parts")
    digits = str(n_bytes)
    return f"#{len(digits)}{digits}".encode()


def short_form(word: str) -> str:
    """The short form of a word in the manual's notation: ``EXTernal`` -> ``EXT``."""
    return re.sub("[a-z]", "", word)


def is_word(notation: str, said: str) -> bool:
    """Whether ``said`` is the word of the manual's ``notation``, in its short or its long form, in either case."""
    return said.upper() in (notation.upper(), short_form(notation))


def parse_error(reply: str) -> ErrorReply:
    """``-222,"Data out of range"`` -> ErrorReply.

    Some instruments quote the text otherwise or not at all, some say no more than 0 or the negative code of an error.
    Raises ValueError for anything else.
    """
    match = _ERROR.fullmatch(reply.strip())
    if match is None:
        raise ValueError('not of the form <code>,"<text>"')
    code, text, bare = match.groups()
    return ErrorReply(int(code or bare), unquote(text or ""))


def split_outside_quotes(text: str, separator: str) -> list[str]:
    """Split at ``separator`` (one character) outside single and double quotes; parts are stripped."""
    parts: list[str] = []
    start, quote = 0, ""
    for index, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char == separator:
            parts.append(text[start:index].strip())
            start = index + 1
    parts.append(text[start:].strip())
    return parts


def unquote(text: str) -> str:
    """``"name"`` -> ``name``; text without quotes comes back as it is."""
    text = text.strip()
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text


class MessageFramer:
    """Cuts a byte stream into program messages.

    Usage: ``n = sock.recv_into(framer.get_buffer())`` then ``framer.buffer_updated(n)`` yields the messages
    completed by these bytes.  ``sink`` chooses the memory of each block; ``open_block`` is the text before a
    block that has begun and not ended (for cleaning up when the connection dies inside it).
    """

    def __init__(self, sink: BlockSink = _own_buffer) -> None:
        self._sink = sink
        self._scratch = memoryview(bytearray(SCRATCH_BYTES))
        self._pending = bytearray()
        self._prefix: bytes | None = None
        self._target: memoryview | None = None
        self._length = 0
        self._filled = 0

    @property
    def open_block(self) -> bytes | None:
        """The text before an unfinished block, or None."""
        return self._prefix

    def get_buffer(self) -> memoryview:
        """Where the next received bytes belong; never empty."""
        if self._prefix is None:
            return self._scratch
        if self._target is None:
            return self._scratch[: min(SCRATCH_BYTES, self._length - self._filled)]
        return self._target[self._filled :]

    def buffer_updated(self, n_bytes: int) -> Iterator[ProgramMessage]:
        """Account for ``n_bytes`` written to the start of :meth:`get_buffer`; yields complete messages.

        The iterator must be exhausted.  Raises FramingError when no message can come of the bytes.
        """
        if self._prefix is not None:
            self._filled += n_bytes
            if self._filled == self._length:
                yield self._finish_block()
            return
        self._pending += self._scratch[:n_bytes]
        while (message := self._next()) is not None:
            yield message
        if len(self._pending) > MAX_TEXT_BYTES:
            raise FramingError(f"more than {MAX_TEXT_BYTES} bytes without an end of message")

    def _finish_block(self) -> ProgramMessage:
        assert self._prefix is not None
        message = ProgramMessage(self._prefix, self._target, self._length)
        self._prefix = self._target = None
        self._length = self._filled = 0
        return message

    def _next(self) -> ProgramMessage | None:
        """The next complete message of the pending text, opening a block where one begins."""
        pending = self._pending
        del pending[: len(pending) - len(pending.lstrip(_SEPARATORS))]
        position, quote = 0, 0
        while (match := _SPECIAL.search(pending, position)) is not None:
            at, char = match.start(), pending[match.start()]
            position = at + 1
            if char == 0x0A:
                text = bytes(pending[:at]).rstrip(b"\r ")
                del pending[: at + 1]
                return ProgramMessage(text)
            if char in b"\"'":
                quote = 0 if quote == char else (quote or char)
            elif not quote and at and pending[at - 1] in b", \t":
                start = self._block_start(at)
                if start is None:
                    return None
                if start:
                    return self._open_block(at, start)
        return None

    def _block_start(self, at: int) -> int | None:
        """Offset of the first block byte for a ``#`` at ``at``; 0 if no block; None if bytes are missing.

        Sets ``_length``.
        """
        head = bytes(self._pending[at + 1 : at + 11])
        if not head:
            return None
        digits = head[0] - 0x30
        if not 1 <= digits <= 9:
            return 0
        field = head[1 : 1 + digits]
        if field and not field.isdigit():
            return 0
        if len(field) < digits:
            return None
        self._length = int(field)
        return at + 2 + digits

    def _open_block(self, at: int, start: int) -> ProgramMessage | None:
        pending = self._pending
        self._prefix = bytes(pending[:at])
        target = self._sink(self._prefix, self._length)
        self._target = None if target is None else target.cast("B")
        early = min(self._length, len(pending) - start)
        if self._target is not None:
            self._target[:early] = pending[start : start + early]
        del pending[: start + early]
        self._filled = early
        return self._finish_block() if early == self._length else None
