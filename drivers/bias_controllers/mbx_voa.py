"""The variable optical attenuator (VOA) of a Thorlabs MBX: behind the modulator's tap, in line with the light.

Switched off it attenuates *least*, and in its constant-power mode its attenuation is whatever gives that power.  So the
driver has it switched on and at constant attenuation, and lets as little through as it can by attenuating most.

Commands: Thorlabs' Remote Control User Guide for the MX, MBX, TLX1 and TLX2 series, section 2.6; pymeasure
``thorlabs/thorlabsmbxseries.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from drivers.base import LabChannel
from drivers.links.errors import InstrumentRefusedError, LimitError
from drivers.links.limits import Within
from drivers.links.one_line_replies import number, switch
from drivers.settings import Quantity

if TYPE_CHECKING:
    from drivers.bias_controllers.thorlabs_mbx import ThorlabsMBX

LIMITS_DB = (1.0, 20.0)
"""The guide's, revision E; pymeasure has 0.5 dB for the least."""
STEP_DB = 0.01
"""The digits that are sent."""
MOST_LIGHT_MW = 1000.0
"""More than any tap can tell (guide: output powers up to 100 mW)."""
CLOSE = (f"VOA:ATTEN: {LIMITS_DB[1]:g}", "VOA:MODE: 0", "VOA:POWER: 1")
"""In this order nothing becomes brighter on the way: an attenuation is kept until its mode comes."""
BANDS_NM = {1310: (1260.0, 1360.0), 1550: (1500.0, 1570.0), 1590: (1570.0, 1630.0)}
"""The wavelengths that an instrument of the series can be set to (``SYStem:WAVElength``), and for which light we use each."""


class VoaChannel(LabChannel):
    """The attenuator: ``attenuation_db``, and what comes out of it."""

    parent: ThorlabsMBX

    def __init__(self, parent: ThorlabsMBX, name: str) -> None:
        super().__init__(parent, name)
        self._line = parent.line
        self.attenuation_db: Quantity = self.add_setting(
            "attenuation_db",
            label="Attenuation",
            unit="dB",
            get=self._read_attenuation,
            put=self._set_attenuation,
            limits=Within(*LIMITS_DB, "dB"),
            resolution=STEP_DB,
            docstring="Set point of the attenuation of the light that is let through.",
        )
        self.add_reading(
            "reached",
            label="Attenuation within 0.1 dB of its set point",
            get=lambda: self._line.ask("VOA:SETPOINT?", switch),
            docstring="It is measured from the light before and behind, so it is reached in the light only.",
        )
        self.add_reading(
            "power_mw",
            label="Power behind the attenuator",
            unit="mW",
            get=lambda: self._line.ask("VOA:TAP:MW?", number(-MOST_LIGHT_MW, MOST_LIGHT_MW)),
        )

    def tune(self, wavelength_nm: float) -> None:
        """Set the instrument to the wavelength nearest to this one; LimitError where it has none."""
        for setting, (low, high) in BANDS_NM.items():
            if low <= wavelength_nm < high:
                self._line.tell(f"SYSTEM:WAVELENGTH: {setting}")
                self._must_hold("SYSTEM:WAVELENGTH?", setting)
                return
        known = ", ".join(f"{setting} nm" for setting in BANDS_NM)
        raise self.parent.error(
            LimitError, f"{wavelength_nm:g} nm is not in the bands of {known}; nothing was sent"
        )

    def let_through(self) -> None:
        """Attenuate by the set point and no more: switched on, at constant attenuation."""
        with self.parent.links[0].transaction():
            self.parent.must_end_dark()
            for command in CLOSE[1:]:
                self._line.tell(command)
        self.require_holding()

    def block(self) -> None:
        """Attenuate most."""
        for command in CLOSE:
            self._line.tell(command)
        self.require_closed()

    def require_holding(self) -> None:
        """InstrumentRefusedError unless the set point is what the light is attenuated by."""
        self._must_hold("VOA:MODE?", 0)
        self._must_hold("VOA:POWER?", 1)

    def require_closed(self) -> None:
        """InstrumentRefusedError unless it attenuates most."""
        self.require_holding()
        self._must_hold("VOA:ATTEN?", LIMITS_DB[1])

    def is_holding(self) -> bool:
        """Whether the set point is what the light is attenuated by."""
        return not self._line.ask("VOA:MODE?", switch) and self._line.ask("VOA:POWER?", switch)

    def _must_hold(self, question: str, wanted: float) -> None:
        held = self._line.ask(question, number(0.0, 1e4))
        if abs(held - wanted) > STEP_DB:
            raise self.parent.error(
                InstrumentRefusedError,
                f"{question!r} says {held:g}, and {wanted:g} is needed; was it changed by hand?",
            )

    def _read_attenuation(self) -> float:
        """The set point; InstrumentRefusedError where it is not what the light is attenuated by."""
        with self.parent.link.transaction():
            self.require_holding()
            return self._line.ask("VOA:ATTEN?", number(0.0, LIMITS_DB[1]))

    def _set_attenuation(self, value: float) -> None:
        with self.parent.links[0].transaction():
            if value < LIMITS_DB[1]:
                self.parent.must_end_dark()
            self._line.tell(f"VOA:ATTEN: {value:.2f}")
