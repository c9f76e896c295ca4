"""Thorlabs MBX modulator bias controller, with a variable attenuator, on its serial line (115200 baud).

The controller adds a bias to a Mach-Zehnder modulator and watches the light behind it: it *calibrates*, which finds the
modulator's curve, and then follows a point of it.  That takes light; without it nothing is held.  ``hold("null")`` is
what a pulse carver needs: no light passes but where the generator's pattern drives the modulator.

Safe is the attenuator at its largest attenuation (:mod:`drivers.bias_controllers.mbx_voa`).  The bias stays as it is: at
the null a modulator passes least, and one without bias passes anything.  Connecting leaves both as they are found; only
an attenuator that is off or at constant power is brought to its largest attenuation.

How an instrument answers, sources tell differently, so the driver takes either.  Replies end in LF (guide, chapter 2) or
CR (pymeasure).  A command is answered with 1 (guide, section 2.1), or only a few are (pymeasure, whose reader would take
the 1 for the answer to its next question): :mod:`drivers.links.one_line_replies`.

Sources: Thorlabs' Remote Control User Guide for the MX, MBX, TLX1 and TLX2 series, revision E (framing, ``Err:`` replies,
VOA); pymeasure ``pymeasure/instruments/thorlabs/thorlabsmbxseries.py`` (line, ``MZM`` and ``VOA`` commands, numbers of
the modes).  ``SYStem`` commands are spelt as public drivers of the MX10 have them.  An MX has a laser and an amplifier of
its own, which this driver would not make safe: it is refused.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

from drivers.base import Identity, LabInstrument
from drivers.bias_controllers.mbx_voa import CLOSE, MOST_LIGHT_MW, VoaChannel
from drivers.links.errors import LimitError, NotReadyError
from drivers.links.limits import Within, Words
from drivers.links.one_line_replies import OneLineReplies, number, switch
from drivers.links.serial_link import SerialLink
from drivers.settings import Quantity

logger = logging.getLogger(__name__)

BAUDRATE = 115200
MODEL = "SYSTEM:MODEL?"
MODES = (
    "off",
    "peak",
    "null",
    "quad+",
    "quad-",
    "hold quad+",
    "hold quad-",
    "manual",
    "power+",
    "power-",
)
"""By their numbers (pymeasure ``MzmMode``): the first four points are followed, a held quadrature is found once."""
POINTS = ("null", "peak", "quad+", "quad-")
BIAS_LIMITS_V = (-10.0, 10.0)
"""pymeasure ``voltage_setpoint``."""
BIAS_STEP_V = 1e-3
"""It is set in whole millivolts (pymeasure)."""
POLL_S = 0.1


class ThorlabsMBX(LabInstrument):
    """The controller on the serial port ``address``.

    ``lock_timeout_s`` bounds finding a point, calibration included; no source says how long that takes.
    """

    def __init__(
        self, name: str, address: str, *, timeout_s: float = 2.0, lock_timeout_s: float = 120.0, **kwargs: Any
    ) -> None:
        super().__init__(name, address, **kwargs)
        self.link = SerialLink(
            address, baudrate=BAUDRATE, instrument=name, timeout_s=timeout_s, bring_up=self.bring_up
        )
        self.links = (self.link,)
        self._lock_timeout_s = lock_timeout_s
        self.line = OneLineReplies(
            self.link,
            MODEL,
            is_marked=lambda line: "MBX" in line,
            is_refusal=lambda line: line.startswith("Err"),
            acknowledgement="1",
        )
        self._add_bias()
        self.voa = VoaChannel(self, "voa")
        self.add_submodule("voa", self.voa)

    def _add_bias(self) -> None:
        ask = self.line.ask
        self.mode: Quantity = self.add_setting(
            "mode",
            label="Bias mode",
            get=lambda: ask("MZM:MODE?", _mode),
            put=self._set_mode,
            limits=Words(MODES),
            docstring="hold() finds a point as well.",
        )
        self.manual_bias_v: Quantity = self.add_setting(
            "manual_bias_v",
            label="Bias in manual mode",
            unit="V",
            get=lambda: ask("MZM:HOLD:VOLTAGE?", number(-1e4, 1e4)) / 1000,
            put=lambda volts: self.line.tell(f"MZM:HOLD:VOLTAGE: {round(volts * 1000)}"),
            limits=Within(*BIAS_LIMITS_V, "V"),
            resolution=BIAS_STEP_V,
        )
        self.locked: Quantity = self.add_reading(
            "locked",
            label="Point held",
            get=self._read_locked,
            docstring="Whether a point of the modulator's curve is followed, and the modulator is there.",
        )
        self.add_reading(
            "bias_v",
            label="Bias",
            unit="V",
            get=lambda: ask("MZM:VOLTAGE?", number(-100.0, 100.0)),
            resolution=BIAS_STEP_V,
        )
        self.add_reading(
            "modulator_power_mw", label="Power behind the modulator", unit="mW", get=self._read_power
        )

    @property
    def attenuator(self) -> VoaChannel:
        """The attenuator inside, which all light behind the modulator passes."""
        return self.voa

    def identify(self) -> Identity:
        """Model, serial number and firmware.  Raises WrongInstrumentError for another instrument, an MX included."""
        model = self.line.ask(MODEL, str)
        serial_number = self.line.ask("SYSTEM:SERIAL?", str)
        return Identity("Thorlabs", model, serial_number, self.line.ask("SYSTEM:FIRMWARE?", str))

    def know_state(self) -> None:
        """The attenuator switched on and at constant attenuation; the largest where it was not."""
        mode = self.mode.get()
        logger.info("%s at %s: found in bias mode %s", self.name, self.address, mode)
        if not self.voa.is_holding():
            logger.warning(
                "%s at %s: the attenuator was found off or at constant power; set to its largest attenuation",
                self.name,
                self.address,
            )
            self.voa.block()

    def restore_passive(self) -> None:
        """The attenuator at its largest attenuation, the bias as it was: what is followed is not found anew."""
        self.voa.block()
        self.restore(self.manual_bias_v, self.mode)

    def safe_state(self) -> None:
        """Attenuate most, the first thing sent, whatever else is under way; the bias is left as it is."""
        self.link.urgently(self._close)

    def hold(self, point: Literal["null", "peak", "quad+", "quad-"], *, anew: bool = False) -> None:
        """Find the point and follow it; nothing to do while it is held, unless it is to be found ``anew``.

        Raises NotReadyError when it is not found in time, as in the dark.
        """
        if point not in POINTS:
            raise self.error(LimitError, f"{point!r} is no point to hold; there are {', '.join(POINTS)}")
        with self.link.transaction():
            if not anew and self.mode.get() == point and self.locked.get():
                return
            self.mode.set(point)
            self.line.tell("MZM:RESET")
            begun = self.link.urgencies
        try:
            self.link.wait_until(
                self._read_locked,
                self._lock_timeout_s,
                f"finding the modulator's {point}",
                since=begun,
                poll_s=POLL_S,
            )
        except NotReadyError as error:
            raise self.error(
                NotReadyError,
                f"the modulator's {point} is not held after {self._lock_timeout_s:g} s; "
                f"{self._read_power():g} mW come out of it: is the laser on, and its light in the modulator?",
            ) from error

    def ask_raw(self, cmd: str) -> str:
        """``ask("MZM:VOLTAGE?")``: the line of the reply."""
        return self.line.ask(self.link.one_line(cmd).strip(), str)

    def write_raw(self, cmd: str) -> None:
        """``write("RGB:POWER: 0")``; a command that may open the attenuator ends with it closed, as any other does."""
        command = self.link.one_line(cmd).strip()
        if command.upper().startswith("VOA"):
            self.must_end_dark()
        self.line.tell(command)

    def _close(self) -> None:
        self.line.send(*CLOSE)
        self.voa.require_closed()

    def _set_mode(self, mode: str) -> None:
        if self.line.ask("MZM:MODE?", _mode) != mode:  # the same once more may find the point anew
            self.line.tell(f"MZM:MODE: {MODES.index(mode)}")

    def _read_locked(self) -> bool:
        ask = self.line.ask
        with self.link.transaction():
            return (
                ask("MZM:MODE?", _mode) in POINTS
                and not ask("MZM:CALIBRATING?", switch)
                and ask("MZM:SETPOINT?", switch)
            )

    def _read_power(self) -> float:
        return self.line.ask("MZM:TAP:MW?", number(-MOST_LIGHT_MW, MOST_LIGHT_MW))


def _mode(line: str) -> str:
    if not line.isdecimal() or int(line) >= len(MODES):
        raise ValueError(f"a mode is a number from 0 to {len(MODES) - 1}")
    return MODES[int(line)]
