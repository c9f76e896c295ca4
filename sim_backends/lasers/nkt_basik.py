"""A simulated Koheras BASIK on an Interbus line (pseudo-terminal).

It answers telegrams to its own bus address only (silence for the others), a register that it does not have
or a write that it does not accept with NACK, a damaged telegram with type 1.  Emission needs a closed
interlock; light comes ``emission_delay_s`` after it was asked for, and ``on_output`` hears each change of
(power in W, wavelength in nm), with 0.0 W for dark.  ``drop_every`` of 250 loses one request in 250 for good,
as real units do (comment in QMI's protocol module).
"""

from __future__ import annotations

import math
import struct
import threading
import time
from collections.abc import Callable

from drivers.links.interbus import CrcError, MessageType, Telegram, TelegramError, TelegramReader, encode
from sim_backends.faults import FaultInjector
from sim_backends.serial_server import PtyServer
from sim_backends.site import Simulated, Site

_TYPE_K1X2 = 0x33
_MODULATION = {
    **dict.fromkeys((0x2B, 0x2C, 0x2F, 0xB7), bytes(2)),
    0xB5: bytes(1),
    **dict.fromkeys((0xB8, 0xBA), bytes(8)),  # pairs of frequencies, 32-bit floating point
}
_DARK_DBM = (
    -0x8000
)  # hundredths; what a dark module says in dBm is documented nowhere, so the least that 16 bits hold


def build(site: Site) -> Simulated:
    """The laser whose light goes where the site's does."""
    twin = NKTBasikTwin(
        on_output=site.set_laser,
        wavelength_nm=site.wavelength_nm,
        serial_number=site.serial,
        clock=site.clock,
    )
    return Simulated(twin, twin.serve)


class NKTBasikTwin:
    """The laser.  ``clock`` serves the emission delay."""

    def __init__(
        self,
        *,
        on_output: Callable[[float, float], None] = lambda power_w, wavelength_nm: None,
        module: int = 1,
        module_type: int = _TYPE_K1X2,
        serial_number: str = "SIM00001",
        wavelength_nm: float = 1550.12,
        max_power_mw: float = 100.0,
        max_offset_pm: float = 370.0,
        emission_delay_s: float = 0.0,
        drop_every: int = 0,
        clock: Callable[[], float] = time.monotonic,
        faults: FaultInjector | None = None,
    ) -> None:
        self.faults = faults or FaultInjector()
        self.drop_every = drop_every
        self._on_output = on_output
        self._module = module
        self._module_type = module_type
        self._serial_number = serial_number
        self._centre = round(wavelength_nm * 1e4)  # in 0.1 pm
        self._max_power = round(max_power_mw * 100)  # in 0.01 mW
        self._max_offset = round(max_offset_pm * 10)  # in 0.1 pm
        self._emission_delay_s = emission_delay_s
        self._clock = clock
        self._lock = threading.RLock()
        self._power = round(max_power_mw * 10)  # a tenth of the largest
        self._offset = 0
        self._emission = False
        self._light_at: float | None = None
        self._interlock_closed = True
        self._plain: dict[int, bytes] = {0x31: b"\x00\x00", 0x8D: bytes(240), **_MODULATION}
        self._output = (0.0, 0.0)
        self._requests = 0
        self._reader = TelegramReader()
        self._server = PtyServer(self._receive, self.faults, on_tick=self.tick)

    def serve(self, host: str = "") -> str:
        """Open a pseudo-terminal; ``host`` does not matter on a serial line."""
        return self._server.serve("basik")

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    def state(self) -> dict[str, object]:
        """What an observer may see."""
        with self._lock:
            return {
                "emission": self._emission,
                "emitting": self._lit(),
                "power_mw": self._power / 100,
                "wavelength_nm": (self._centre + self._offset) / 1e4,
                "interlock_closed": self._interlock_closed,
                "requests": self._requests,
            }

    def is_safe(self) -> bool:
        """No light, and none asked for."""
        with self._lock:
            return not (self._emission or self._lit())

    def set_interlock(self, closed: bool) -> None:
        """Open or close the interlock; opening it stops emission, closing it does not bring it back."""
        with self._lock:
            self._interlock_closed = closed
            if not closed:
                self._emission, self._light_at = False, None
        self.tick()

    def tick(self) -> None:
        """Report the output if it changed."""
        with self._lock:
            output = (self._power * 1e-5, (self._centre + self._offset) / 1e4) if self._lit() else (0.0, 0.0)
            if output == self._output:
                return
            self._output = output
            dark_or_lit = output if output[0] else (0.0, (self._centre + self._offset) / 1e4)
            self._on_output(*dark_or_lit)

    def _lit(self) -> bool:
        return self._emission and self._light_at is not None and self._clock() >= self._light_at

    def _receive(self, data: bytes) -> None:
        for item in self._reader.feed(data):
            self._requests += 1
            if self.drop_every and self._requests % self.drop_every == 0:
                continue
            with self._lock:
                answer = self._answer(item)
            self.tick()
            if answer is not None:
                self._server.send(encode(answer))

    def _answer(self, item: Telegram | TelegramError) -> Telegram | None:
        if isinstance(item, CrcError):
            destination, source, _, register = item.body[:4]
            if destination != self._module:
                return None
            return Telegram(source, destination, MessageType.CRC_ERROR, register)
        if isinstance(item, TelegramError) or item.destination != self._module:
            return None
        kind, data = MessageType.NACK, b""
        if item.kind == MessageType.READ and not item.data:
            found = self._read(item.register)
            if found is not None:
                kind, data = MessageType.DATAGRAM, found
        elif item.kind == MessageType.WRITE and self._write(item.register, item.data):
            kind = MessageType.ACK
        return Telegram(item.source, item.destination, kind, item.register, data)

    def _read(self, register: int) -> bytes | None:
        if register in self._plain:
            return self._plain[register]
        emitted = self._power if self._lit() else 0
        readings: dict[int, Callable[[], bytes]] = {
            0x17: lambda: struct.pack("<H", emitted),
            0x1C: lambda: struct.pack("<h", 254),
            0x1E: lambda: struct.pack("<H", 12040),
            0x22: lambda: struct.pack("<H", self._power),
            0x90: lambda: _in_dbm(emitted),
            0xA0: lambda: _in_dbm(self._power),
            0x2A: lambda: struct.pack("<h", self._offset),
            0x30: lambda: bytes((self._emission,)),
            0x32: lambda: struct.pack("<I", self._centre),
            0x61: lambda: bytes((self._module_type,)),
            0x64: lambda: struct.pack("<H", 0x0107),
            0x65: lambda: self._serial_number.encode("ascii"),
            0x66: lambda: struct.pack("<H", self._status()),
            0x67: lambda: bytes((self._error_code(),)),
            0x72: lambda: struct.pack("<i", self._offset),
        }
        return readings[register]() if register in readings else None

    def _status(self) -> int:
        waiting = self._emission and not self._lit()
        return (
            self._lit()
            | (not self._interlock_closed) << 1
            | waiting << 11
            | self._lit() << 14
            | (self._error_code() != 0) << 15
        )

    def _error_code(self) -> int:
        if self.faults.latched_error is not None:
            text = self.faults.latched_error
            return int(text) if text.isdecimal() else 7
        return 0 if self._interlock_closed else 2

    def _write(self, register: int, data: bytes) -> bool:
        if register in self._plain:
            if len(data) != len(self._plain[register]):
                return False
            self._plain[register] = data
            return True
        if register == 0x30 and len(data) == 1 and data[0] <= 1:
            return self._switch(bool(data[0]))
        if register == 0x22 and len(data) == 2:
            return self._set_power(int.from_bytes(data, "little"))
        if register == 0xA0 and len(data) == 2:
            return self._set_power(round(100 * 10 ** (int.from_bytes(data, "little", signed=True) / 1000)))
        if register == 0x2A and len(data) == 2:
            offset = int.from_bytes(data, "little", signed=True)
            inside = abs(offset) <= self._max_offset
            self._offset = offset if inside else self._offset
            return inside
        return False

    def _set_power(self, power: int) -> bool:
        """Set point in 0.01 mW, which 0x22 holds and 0xA0 mirrors in 0.01 dBm."""
        if power > self._max_power:
            return False
        self._power = power
        return True

    def _switch(self, on: bool) -> bool:
        if on and (not self._interlock_closed or self._error_code()):
            return False
        if on and not self._emission:
            self._light_at = self._clock() + self._emission_delay_s
        self._emission = on
        return True


def _in_dbm(power: int) -> bytes:
    """0.01 mW as 0.01 dBm in 16 bits."""
    return struct.pack("<h", round(1000 * math.log10(power / 100)) if power else _DARK_DBM)
