"""OZ Optics DD-100-MC motor-driven attenuator on a serial line.

Commands end in CR; a reply is lines ended by CR LF, then ``Done`` and an empty line, or ``Error!``.
Setting the attenuation returns once the motor has stopped and the position was read back.  The time-out
of a move follows from its travel and the motor's speed.  Sources: QMI
``qmi/instruments/ozoptics/dd100mc.py`` (framing, ``A``, ``D``, ``H``, ``CD``), pylablib
``pylablib/devices/OZOptics/base.py`` (``IL:`` and ``MAX ATTEN:`` of ``CD``, ``Error!``).
"""

from __future__ import annotations

import math
from typing import Any

from qcodes.parameters import Parameter

from drivers.base import Identity, LabInstrument
from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    LinkTimeoutError,
    MalformedReplyError,
    NotReadyError,
    WrongInstrumentError,
)
from drivers.links.limits import Within
from drivers.links.serial_link import SerialLink

BAUDRATE = 9600
HOME_TIMEOUT_S = 30.0  # QMI: homing may take this long
MAX_REPLY_LINES = 64
LIMIT_DB = 100.0  # no DD-100 attenuates more; the unit's own range (CD) is checked as well


class OzDD100(LabInstrument):
    """The attenuator on the serial port ``address``.

    ``timeout_s`` bounds a reply to anything but a move, whose time follows from its travel.
    ``speed_db_per_s`` is the slowest speed of the motor (it sets how long a move may take), ``tolerance_db``
    how far the position read back may be from the one asked for.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        timeout_s: float = 2.0,
        speed_db_per_s: float = 5.0,
        tolerance_db: float = 0.05,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        self.link = SerialLink(
            address, baudrate=BAUDRATE, instrument=name, timeout_s=timeout_s, bring_up=self.bring_up
        )
        self.links = (self.link,)
        self._speed_db_per_s = speed_db_per_s
        self._tolerance_db = tolerance_db
        self._range_db: tuple[float, float] | None = None
        self._out_of_step = False  # after a time-out: replies to earlier commands may still come
        self.attenuation_db: Parameter[float, OzDD100] = self.add_parameter(
            "attenuation_db",
            label="Attenuation",
            unit="dB",
            get_cmd=self._read_attenuation,
            set_cmd=self._move,
            vals=Within(0.0, LIMIT_DB, "dB"),
            docstring="Total attenuation, insertion loss included; setting waits for the motor.",
        )
        self.add_parameter(
            "insertion_loss_db",
            label="Insertion loss (smallest attenuation)",
            unit="dB",
            get_cmd=lambda: self._read_range()[0],
        )
        self.add_parameter(
            "max_attenuation_db",
            label="Largest attenuation",
            unit="dB",
            get_cmd=lambda: self._read_range()[1],
        )

    def know_state(self) -> None:
        """Read the range; the position is left as it is."""
        self._range_db = self._read_range()

    def identify(self) -> Identity:
        """From the configuration display: the unit has no identity query, only its ``CD`` lines are typical."""
        lines = self._command("CD")
        if not any(line.upper().startswith("MAX ATTEN:") for line in lines):
            raise WrongInstrumentError(
                "no MAX ATTEN line in the configuration display; this is no DD-100",
                instrument=self.name,
                address=self.address,
            )
        serial = _after(lines, "SN:")
        return Identity("OZ Optics", "DD-100", serial or "", _after(lines, "FW:") or "")

    def safe_state(self) -> None:
        """Move to the largest attenuation."""
        self._move((self._range_db or self._read_range())[1])

    def tune(self, wavelength_nm: float) -> None:
        """Nothing to do: the unit is calibrated at one wavelength and offers no other."""

    def let_through(self) -> None:
        """Nothing to do: the unit has no shutter."""

    def block(self) -> None:
        """Move to the largest attenuation."""
        self.safe_state()

    def home(self) -> None:
        """Find the motor's reference; what the output attenuates meanwhile is undefined, so block the light."""
        self._command("H", HOME_TIMEOUT_S)

    def _move(self, target_db: float) -> None:
        low, high = self._range_db or self._read_range()
        if not low <= target_db <= high:
            raise LimitError(
                f"attenuation {target_db:g} dB is outside the unit's range {low:g}..{high:g} dB",
                instrument=self.name,
                address=self.address,
            )
        if target_db < high:
            self.must_end_dark()
        timeout_s = self.link.timeout_s + (high - low) / self._speed_db_per_s
        with self.link.transaction():
            lines = self._command(f"A{target_db:.2f}", timeout_s)
            if not lines or not lines[-1].startswith("Pos:"):
                raise self._malformed(f"the move was answered by {lines[:3]!r}")
            reached_db = self._read_attenuation()
        if abs(reached_db - target_db) > self._tolerance_db:
            raise NotReadyError(
                f"asked for {target_db:.2f} dB, stopped at {reached_db:.2f} dB; home the attenuator",
                instrument=self.name,
                address=self.address,
            )

    def _read_attenuation(self) -> float:
        lines = self._command("D")
        text = _after(lines, "ATTEN:")
        if text is None or not any(line.startswith("DPos:") for line in lines):
            raise self._malformed(f"the position query was answered by {lines[:3]!r}")
        if text.lower() == "unknown":
            raise NotReadyError(
                "the position is unknown; call home()", instrument=self.name, address=self.address
            )
        return self._number(text, "ATTEN")

    def _read_range(self) -> tuple[float, float]:
        lines = self._command("CD")
        low, high = (self._number(_after(lines, key), key) for key in ("IL:", "MAX ATTEN:"))
        if not 0.0 <= low < high:
            raise self._malformed(f"the range {low:g}..{high:g} dB makes no sense")
        return low, high

    def _number(self, text: str | None, what: str) -> float:
        try:
            value = float(text or "")
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self._malformed(f"{what} is {text!r}, not a number")
        return value

    def _command(self, command: str, timeout_s: float | None = None) -> list[str]:
        """Send ``command`` and return the reply's lines before ``Done``; InstrumentRefusedError on ``Error!``."""
        wait_s = self.link.timeout_s if timeout_s is None else timeout_s
        with self.link.exchange():
            try:
                if self._out_of_step:
                    self._get_in_step()
                self.link.write(f"{command}\r".encode("ascii"))
                lines = self._read_reply(self.link.now() + wait_s)
            except LinkTimeoutError as error:
                self._out_of_step = True
                raise LinkTimeoutError(
                    f"{command!r} was not done within {wait_s:g} s",
                    instrument=self.name,
                    address=self.address,
                ) from error
        if lines is None:
            raise InstrumentRefusedError(
                f"{command!r} was refused", instrument=self.name, address=self.address
            )
        return [line for line in lines if line != command]  # some units echo the command

    def _read_reply(self, deadline: float) -> list[str] | None:
        """The lines of the next reply, or None when it is ``Error!``."""
        lines: list[str] = []
        while (line := self._decode(self.link.read_line(deadline))) != "Done":
            if line == "Error!":
                return None
            if line:
                lines.append(line)
            if len(lines) > MAX_REPLY_LINES:
                raise self._malformed("the reply does not end")
        return lines

    def _get_in_step(self) -> None:
        """Ask for the configuration and skip replies until it comes: replies have no other mark."""
        deadline = self.link.now() + self.link.timeout_s
        self.link.write(b"CD\r")
        while _after(self._read_reply(deadline) or [], "MAX ATTEN:") is None:
            continue
        self.link.drain()
        self._out_of_step = False

    def _decode(self, line: bytes) -> str:
        try:
            return line.decode("ascii").strip()
        except UnicodeDecodeError as error:
            raise self._malformed(f"a line of {len(line)} bytes is not text") from error

    def _malformed(self, text: str) -> MalformedReplyError:
        return MalformedReplyError(text, instrument=self.name, address=self.address)


def _after(lines: list[str], key: str) -> str | None:
    """What follows ``key`` in the first line that starts with it, in either case."""
    for line in lines:
        if line.upper().startswith(key):
            return line[len(key) :].strip()
    return None
