"""A simulated Koheras BASIK on an Interbus line (pseudo-terminal), alone or in an ADJUSTIK frame.

It answers telegrams to its own bus address only (silence for the others), a register that it does not have
or a write that it does not accept with NACK, a damaged telegram with type 1, and, while ``busy`` counts down,
anything with BUSY.  Emission needs a closed interlock; light comes ``emission_delay_s`` after it was asked for,
and ``on_output`` hears each change of (power in W, wavelength in nm), with 0.0 W for dark.  ``drop_every`` of
250 loses one request in 250 for good, as real units do (comment in QMI's protocol module).

Everything that is set survives a power cycle, so a module wakes up as somebody left it: ``left_by_someone``
starts with emission on, four fifths of the power, a wavelength offset, every modulation on and the pump at
constant current, where the power set point means nothing (that it then emits all it can is our guess).

Registers after the vendor's register files 33, 34 and 36 as kept in NickSchnoor/NKTcontrol ``Register Files/``;
telegram types 6, 7 and 9 after QMI ``nkt_photonics_interbus_protocol.py``.
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

TYPE_K1X2, TYPE_MIKRO, TYPE_FRAME = 0x33, 0x36, 0x34
FRAME_ADDRESS = 0x80
# Version and text: MSL-Equipment nkt.py on the SDK manual.
_FIRMWARE = struct.pack("<H", 0x0107) + b"1.07\x00"
_CONSTANT_CURRENT = 1 << 8
# What only the K1x2 has, with sizes.  0xB7 has 8 bits in the register file, 16 in QMI and nkt_basik.
_MODULATION_SIZES = {0x2B: 2, 0x2C: 2, 0x2F: 2, 0xB4: 1, 0xB5: 1, 0xB6: 1, 0xB7: 2, 0xB8: 8, 0xBA: 8}
_LEFT_BY_SOMEONE = {
    0x2F: b"\xfa\x00",
    0x31: b"\x3e\x03",
    0xB5: b"\x01",
    0xB6: b"\x01",
    0x8D: b"DO NOT TOUCH".ljust(240),
}


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
    """The laser.  ``clock`` serves the emission delay; ``busy`` is how many requests it will answer with BUSY."""

    def __init__(
        self,
        *,
        on_output: Callable[[float, float], None] = lambda power_w, wavelength_nm: None,
        module: int = 1,
        module_type: int = TYPE_K1X2,
        frame: bool = False,
        serial_number: str = "SIM00001",
        wavelength_nm: float = 1550.12,
        max_power_mw: float = 100.0,
        max_offset_pm: float = 370.0,
        emission_delay_s: float = 0.0,
        drop_every: int = 0,
        left_by_someone: bool = False,
        clock: Callable[[], float] = time.monotonic,
        faults: FaultInjector | None = None,
    ) -> None:
        self.faults = faults or FaultInjector()
        self.drop_every = drop_every
        self.busy = 0
        self._on_output = on_output
        self._module = module
        self._module_type = module_type
        self._frame = frame
        self._serial_number = serial_number
        self._centre = round(wavelength_nm * 1e4)  # in 0.1 pm
        self._max_power = round(max_power_mw * 100)  # in 0.01 mW
        self._max_offset = round(max_offset_pm * 10)  # in 0.1 pm
        self._emission_delay_s = emission_delay_s
        self._clock = clock
        self._lock = threading.RLock()
        self._power = round(max_power_mw * (80 if left_by_someone else 10))  # a tenth of the largest
        self._offset = round(self._max_offset * 0.6) if left_by_someone else 0
        self._emission = left_by_someone
        self._light_at = clock() + emission_delay_s if left_by_someone else None
        self._interlock_closed = True
        sizes = {0x31: 2, 0x8D: 240} | (_MODULATION_SIZES if module_type == TYPE_K1X2 else {})
        stored = _LEFT_BY_SOMEONE if left_by_someone else {}
        self._plain = {register: stored.get(register, bytes(size)) for register, size in sizes.items()}
        self._output = (0.0, 0.0)
        self._requests = 0
        self._reader = TelegramReader()
        self._server = PtyServer(self._receive, self.faults, on_tick=self.tick)
        self.tick()

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
                "setup": int.from_bytes(self._plain[0x31], "little"),
                "modulated": any(self._plain.get(register, b"\x00") != b"\x00" for register in (0xB5, 0xB6)),
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
            wavelength_nm = (self._centre + self._offset) / 1e4
            output = (self._emitted() * 1e-5, wavelength_nm) if self._lit() else (0.0, 0.0)
            if output == self._output:
                return
            self._output = output
            self._on_output(output[0], wavelength_nm)

    def _lit(self) -> bool:
        return self._emission and self._light_at is not None and self._clock() >= self._light_at

    def _emitted(self) -> int:
        """What comes out, in 0.01 mW."""
        constant_current = int.from_bytes(self._plain[0x31], "little") & _CONSTANT_CURRENT
        return (self._max_power if constant_current else self._power) if self._lit() else 0

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
        if isinstance(item, TelegramError):
            return None
        if self._frame and item.destination == FRAME_ADDRESS:
            kind, data = self._answer_as_frame(item)
        elif item.destination != self._module:
            return None
        elif self.busy > 0:
            self.busy -= 1
            kind, data = MessageType.BUSY, b""
        else:
            kind, data = self._execute(item)
        return Telegram(item.source, item.destination, kind, item.register, data)

    def _execute(self, item: Telegram) -> tuple[MessageType, bytes]:
        found = self._read(item.register)
        if item.kind == MessageType.READ and not item.data and found is not None:
            return MessageType.DATAGRAM, found
        wanted = item.data
        if item.kind in (MessageType.SET_BITS, MessageType.CLEAR_BITS, MessageType.TOGGLE_BITS):
            if found is None or len(found) != len(wanted):
                return MessageType.NACK, b""
            wanted = _change_bits(item.kind, found, wanted)
        elif item.kind != MessageType.WRITE:
            return MessageType.NACK, b""
        return (MessageType.ACK if self._write(item.register, wanted) else MessageType.NACK), b""

    def _answer_as_frame(self, item: Telegram) -> tuple[MessageType, bytes]:
        """The frame knows its own registers, and one that speaks to all lasers in it."""
        registers = {
            0x11: struct.pack("<H", 24000),
            0x30: bytes((self._emission,)),
            0x61: bytes((TYPE_FRAME,)),
            0x64: _FIRMWARE,
            0x65: b"FRAME001",
            0x66: struct.pack("<H", self._lit()),
            0x67: b"\x00",
        }
        if item.kind == MessageType.READ and item.register in registers:
            return MessageType.DATAGRAM, registers[item.register]
        if item.kind == MessageType.WRITE and item.register == 0x30 and self._write(0x30, item.data):
            return MessageType.ACK, b""
        return MessageType.NACK, b""

    def _read(self, register: int) -> bytes | None:
        if register in self._plain:
            return self._plain[register]
        readings: dict[int, Callable[[], bytes]] = {
            0x17: lambda: struct.pack("<H", self._emitted()),
            0x1C: lambda: struct.pack("<h", 254),
            0x1E: lambda: struct.pack("<H", 12040),
            0x22: lambda: struct.pack("<H", self._power),
            0x2A: lambda: struct.pack("<h", self._offset),
            0x30: lambda: bytes((self._emission,)),
            0x32: lambda: struct.pack("<I", self._centre),
            0x3A: lambda: bytes((min(round(self._emission_delay_s * 10), 255),)),
            0x61: lambda: bytes((self._module_type,)),
            0x64: lambda: _FIRMWARE,
            0x65: lambda: self._serial_number.encode("latin-1"),
            0x66: lambda: struct.pack("<H", self._status()),
            0x67: lambda: bytes((self._error_code(),)),
            0x72: lambda: struct.pack("<i", self._offset),
            0x90: lambda: struct.pack("<h", _dbm(self._emitted())),
            0xA0: lambda: struct.pack("<h", _dbm(self._power)),
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
        if register == 0x8D and len(data) <= 240:
            self._plain[register] = data.ljust(240, b"\x00")
            return True
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
            return self._set_power(round(10 ** (int.from_bytes(data, "little", signed=True) / 1000) * 100))
        if register == 0x2A and len(data) == 2:
            offset = int.from_bytes(data, "little", signed=True)
            inside = abs(offset) <= self._max_offset
            self._offset = offset if inside else self._offset
            return inside
        return False

    def _set_power(self, power: int) -> bool:
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


def _change_bits(kind: int, held: bytes, bits: bytes) -> bytes:
    change: dict[int, Callable[[int, int], int]] = {
        MessageType.SET_BITS: lambda old, bit: old | bit,
        MessageType.CLEAR_BITS: lambda old, bit: old & ~bit,
        MessageType.TOGGLE_BITS: lambda old, bit: old ^ bit,
    }
    return bytes(change[kind](old, bit) for old, bit in zip(held, bits, strict=True))


def _dbm(centimilliwatt: int) -> int:
    """0.01 mW as 0.01 dBm; no light is the smallest number there is (what a real module says is not known)."""
    return round(1000 * math.log10(centimilliwatt / 100)) if centimilliwatt else -(1 << 15)
