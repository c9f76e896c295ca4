"""SCPI over TCP for simulated instruments: command tree, error queue, and the server.

A simulated instrument is a :class:`ScpiDevice`: it declares its commands with the manual's own notation
(``SOURce#:VOLTage[:LEVel][:IMMediate][:AMPLitude]``, short forms in capitals, ``#`` an optional channel
number, ``[...]`` optional) and handlers that return a reply or raise :class:`ScpiError`.  It behaves as real
instruments do: errors go to the queue and are read with ``SYSTem:ERRor?``; an unknown header pushes
-113 and gets no reply.

:class:`ScpiServer` serves a device on its own loopback address at the vendor's port.  Blocks are received
straight into the memory that the device hands out (:meth:`ScpiDevice.block_sink`).
"""

from __future__ import annotations

import functools
import logging
import math
import re
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from drivers.links.ieee488 import (
    NUMBER_AND_UNIT,
    FramingError,
    MessageFramer,
    ProgramMessage,
    is_word,
    short_form,
    split_outside_quotes,
)
from sim_backends.faults import FaultInjector
from sim_backends.tcp_server import TcpServer

log = logging.getLogger(__name__)

QUEUE_DEPTH = 20
NO_UNITS: Mapping[str, float] = MappingProxyType({})
_MNEMONIC = re.compile(r"([A-Z*]+)([a-z]*)(#?)")


class ScpiError(Exception):
    """A refusal that goes to the error queue."""

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        self.text = text
        super().__init__(f'{code},"{text}"')


DATA_OUT_OF_RANGE = (-222, "Data out of range")
ILLEGAL_VALUE = (-224, "Illegal parameter value")
SETTINGS_CONFLICT = (-221, "Settings conflict")
UNDEFINED_HEADER = (-113, "Undefined header")
MISSING_PARAMETER = (-109, "Missing parameter")
DATA_TYPE = (-104, "Data type error")
INVALID_CHARACTER = (-101, "Invalid character")
SYSTEM_ERROR = -310


class ErrorQueue:
    """First in, first out; when full the newest entry becomes -350, "Queue overflow"."""

    def __init__(self, no_error: str = '0,"No error"', depth: int = QUEUE_DEPTH) -> None:
        self._entries: deque[ScpiError] = deque()
        self._no_error = no_error
        self._depth = depth

    def __len__(self) -> int:
        return len(self._entries)

    def push(self, error: ScpiError) -> None:
        """Add an error."""
        if len(self._entries) < self._depth:
            self._entries.append(error)
        else:
            self._entries[-1] = ScpiError(-350, "Queue overflow")

    def pop(self) -> ScpiError | None:
        """The oldest error, removed; None when empty."""
        return self._entries.popleft() if self._entries else None

    def next_reply(self) -> str:
        """The reply to ``SYSTem:ERRor?``."""
        error = self.pop()
        return self._no_error if error is None else str(error)

    def clear(self) -> None:
        """Forget all errors."""
        self._entries.clear()


@dataclass(frozen=True)
class Call:
    """One command as a handler sees it: numeric suffixes (1 where omitted), arguments, and a block."""

    suffixes: tuple[int, ...]
    arguments: tuple[str, ...]
    block: memoryview | None = None
    block_bytes: int = 0

    def text(self, index: int) -> str:
        """Argument ``index`` as it came.  Raises ScpiError -109 when it is missing."""
        if index >= len(self.arguments) or not self.arguments[index]:
            raise ScpiError(*MISSING_PARAMETER)
        return self.arguments[index]

    def number(self, index: int, units: Mapping[str, float] = NO_UNITS) -> float:
        """Argument ``index`` as a finite number, ``units`` (capitals) scaled to the base unit.

        Raises ScpiError -109 or -104.
        """
        text = self.text(index)
        match = NUMBER_AND_UNIT.fullmatch(text)
        scale = units.get(match.group(2).upper()) if match and match.group(2) else 1.0
        if match is None or scale is None:
            raise ScpiError(*DATA_TYPE)
        value = float(match.group(1)) * scale
        if not math.isfinite(value):
            raise ScpiError(*DATA_TYPE)
        return value

    def integer(self, index: int) -> int:
        """Argument ``index`` as an integer."""
        value = self.number(index)
        if value != int(value):
            raise ScpiError(*DATA_TYPE)
        return int(value)

    def boolean(self, index: int) -> bool:
        """Argument ``index`` as ``0|1|OFF|ON``."""
        word = self.text(index).upper()
        if word in ("1", "ON"):
            return True
        if word in ("0", "OFF"):
            return False
        raise ScpiError(*ILLEGAL_VALUE)

    def choice(self, index: int, *words: str) -> str:
        """Argument ``index`` as one of ``words`` (manual notation); returns the word's short form.

        Raises ScpiError -224 for another word.
        """
        given = self.text(index)
        for word in words:
            if is_word(word, given):
                return short_form(word)
        raise ScpiError(*ILLEGAL_VALUE)


Handler = Callable[[Call], str | None]


def header_pattern(notation: str) -> re.Pattern[str]:
    """A regular expression for a header in the manual's notation; one group per ``#``."""

    def mnemonic(match: re.Match[str]) -> str:
        short, rest, suffix = match.groups()
        word = re.escape(short) + (f"(?:{rest})?" if rest else "")
        return word + (r"(\d*)" if suffix else "")

    pattern = notation.replace("?", r"\?").replace("[", "(?:").replace("]", ")?")
    return re.compile(_MNEMONIC.sub(mnemonic, pattern), re.IGNORECASE)


class ScpiDevice:
    """Commands, error queue and execution of one simulated instrument.

    ``lock`` guards the state: it is held while a message executes and by callbacks from outside.
    """

    def __init__(
        self,
        identity: str,
        faults: FaultInjector,
        *,
        no_error: str = '0,"No error"',
        queue_depth: int = QUEUE_DEPTH,
        line_end: bytes = b"\n",
    ) -> None:
        self.lock = threading.RLock()
        self._resting = threading.Condition(self.lock)
        self.faults = faults
        self.errors = ErrorQueue(no_error, queue_depth)
        self._line_end = line_end
        self._commands: list[tuple[re.Pattern[str], Handler]] = []
        self._find = functools.lru_cache(maxsize=512)(self._search)
        self.add("*IDN?", lambda call: identity)
        self.add("*OPC?", lambda call: str(int(self.is_complete())))
        self.add("*ESR?", lambda call: "0")
        self.add("*STB?", lambda call: "0")
        self.add("*CLS", lambda call: self.errors.clear())
        self.add("*OPC", lambda call: None)
        self.add("*WAI", lambda call: None)
        self.add("SYSTem:ERRor[:NEXT]?", lambda call: self._next_error())
        self.add("SYSTem:ERRor:CODE[:NEXT]?", lambda call: self._next_error().partition(",")[0])
        self.add("SYSTem:ERRor:ALL?", lambda call: self._all_errors())

    def add(self, notation: str, handler: Handler) -> None:
        """Declare a command or query."""
        self._commands.append((header_pattern(notation), handler))

    def is_complete(self) -> bool:
        """Whether all operations are complete (``*OPC?``)."""
        return True

    def block_sink(self, text: bytes, length: int) -> memoryview | None:
        """Where the block after ``text`` is to be received; None discards it.  Called without the lock."""
        return memoryview(bytearray(length))

    def block_aborted(self, text: bytes) -> None:
        """The connection died inside the block after ``text``."""

    def rest(self, seconds: float) -> None:
        """Let time pass inside a command: the lock is let go meanwhile, for other connections and callbacks."""
        with self._resting:
            self._resting.wait(seconds)

    def execute(self, message: ProgramMessage) -> bytes | None:
        """Run one program message; returns the line of replies (with its line feed), or None."""
        try:
            text = message.text.decode("ascii")
        except UnicodeDecodeError:
            with self.lock:
                self.errors.push(ScpiError(*INVALID_CHARACTER))
            return None
        replies: list[str] = []
        with self.lock:
            units = split_outside_quotes(text, ";")
            path = ""
            for number, unit in enumerate(units):
                if not unit:
                    continue
                header, _, rest = unit.partition(" ")
                header, path = _absolute(header, path)
                last = number == len(units) - 1
                reply = self._run(header, rest, message if last else None)
                if reply is not None:
                    replies.append(reply)
        return ";".join(replies).encode("latin-1") + self._line_end if replies else None

    def _run(self, header: str, rest: str, message: ProgramMessage | None) -> str | None:
        found = self._find(header)
        block, block_bytes = (message.block, message.block_bytes) if message else (None, 0)
        try:
            if found is None:
                raise ScpiError(*UNDEFINED_HEADER)
            handler, suffixes = found
            arguments = split_outside_quotes(rest, ",") if rest.strip() else []
            if block_bytes or block is not None:
                arguments = arguments[:-1]
            return handler(Call(suffixes, tuple(arguments), block, block_bytes))
        except ScpiError as error:
            log.debug("refused %s: %s", header, error)
            self.errors.push(error)
            return None

    def _search(self, header: str) -> tuple[Handler, tuple[int, ...]] | None:
        for pattern, handler in self._commands:
            match = pattern.fullmatch(header)
            if match:
                return handler, tuple(int(group) if group else 1 for group in match.groups())
        return None

    def _next_error(self) -> str:
        if self.faults.latched_error is not None:
            return f'{SYSTEM_ERROR},"{self.faults.latched_error}"'
        return self.errors.next_reply()

    def _all_errors(self) -> str:
        parts = [self._next_error()]
        while len(self.errors) and self.faults.latched_error is None:
            parts.append(self._next_error())
        return ",".join(parts)


def _absolute(header: str, path: str) -> tuple[str, str]:
    """Resolve ``header`` against the path of the unit before it (IEEE 488.2 compound headers)."""
    if header.startswith("*"):
        return header, path
    full = header[1:] if header.startswith(":") else path + header
    return full, full[: full.rfind(":") + 1]


class ScpiServer(TcpServer):
    """Serves one device to any number of clients."""

    def __init__(self, device: ScpiDevice, faults: FaultInjector) -> None:
        super().__init__("scpi")
        self._device = device
        self._faults = faults

    def serve(self, host: str, port: int) -> str:
        """Listen on ``host``:``port`` (0 chooses one); returns the VISA address."""
        return "TCPIP::{}::{}::SOCKET".format(*self.listen(host, port))

    def _talk(self, connection: socket.socket) -> None:
        framer = MessageFramer(self._device.block_sink)
        try:
            while count := connection.recv_into(framer.get_buffer()):
                for message in framer.buffer_updated(count):
                    if self._faults.take_disconnect():
                        return
                    reply = self._device.execute(message)
                    if reply is not None and (out := self._faults.reply(reply)) is not None:
                        connection.sendall(out)
        except (OSError, FramingError) as exc:
            log.debug("connection ended: %s", exc)
        finally:
            if framer.open_block is not None:
                self._device.block_aborted(framer.open_block)


class ScpiTwin:
    """A simulated instrument on the network: a device, served, whose faults can be injected."""

    def __init__(self, device: ScpiDevice, faults: FaultInjector) -> None:
        self.faults = faults
        self._server = ScpiServer(device, faults)

    def serve(self, host: str, port: int) -> str:
        """Listen on ``host`` and return the VISA address."""
        return self._server.serve(host, port)

    def close(self) -> None:
        """Stop serving."""
        self._server.close()
