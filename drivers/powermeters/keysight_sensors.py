"""Optical power sensors in slots of Keysight's boxes: heads in 816x mainframes, sensors of the N77xx.

A reading is a new measurement in watts (``READ``), averaged over ``averaging_s``; what is no measurement (over range:
+3.40282300E+038) is an error, never a value.  A reading below ``floor_w`` is given as the instrument says it, a negative
one too: noise averages out only if nothing is cut off, and the reading in the dark tells how good the zero is.  Whether
a reading is enough above the floor is for whoever plans with it.

Known state: no data acquisition (minima and maxima, logging) under way, a measurement only when asked for - while an
8163A measures by itself ``*OPC?`` never says 1 -, no trigger input, watts against no reference, no correction,
automatic range, ``averaging_s``.  The zero of an earlier user stays until :meth:`SensorChannel.zero` takes another.

A reading that averages for long is the mean of equal *parts*, measurements of :data:`PART_S` at the most, and between two
of them whoever waits for the box has it: an interlock that looks at the same sensor or the one beside it, and who closes an
attenuator of the same box, which answers nothing while it measures.  A glance is one part.  The noise of the head is white (its
data sheet: 0.2 pW peak to peak in one second), so the mean of parts is as quiet as one long measurement.

Commands: pymeasure ``instruments/keysight/keysightN7744C.py`` (``READ``, wavelength, unit, range, averaging time, zero),
asakiasako/pyinst ``models/M8163A.py`` and ``models/_N77xx.py`` (the same on an 8163A, ``CORRection`` in dB), SweepMe
``src/Logger-Keysight_816xx/main.py`` (``POWer:REFerence:STATe``, ``INITiate:CONTinuous``, ``TRIGger:INPut``,
3.402823E38), gdsfactory/autosweep ``instruments/optical/KeysightN7745C.py`` (``FUNCtion:STATe`` and its replies ``NONE``,
``LOGGING_STABILITY``, ``MINMAX``), mustafacc/SiEPICLab ``siepiclab/drivers/PowerMonitor_keysight`` (``SLOT{n}:IDN?``,
zeroing in the dark, whose query must then give 0, within at most 200 s for all channels together).  That ``*OPC?`` stays
at 0 while a sensor measures by itself was found by one user of an 8163A; on the N77xx nobody has said so.
"""

from __future__ import annotations

import math
from statistics import fmean

from qcodes.parameters import Parameter

from drivers.keysight import POSSIBLE_M, KeysightOptical, SlotChannel
from drivers.links.errors import InstrumentRefusedError, LimitError
from drivers.links.ieee488 import split_outside_quotes
from drivers.links.limits import Within
from drivers.links.scpi_replies import parse_word
from drivers.scpi_state import Required

PART_S = 0.1
"""In which an 81634B is noisy by 0.1 pW (0.03 pW in one second, data sheet)."""
ZERO_S = 60.0
"""What a zero may take, and any answer meanwhile."""
POSSIBLE_S = (1e-7, 3600.0)
"""An averaging time outside is not in seconds."""
_STOPS = {"NONE": "", "LOGGING_STABILITY": "LOGGing,STOP", "MINMAX": "MINMax,STOP"}
"""What stops the data acquisition that runs, by the first word of the reply to ``FUNCtion:STATe?``."""


def parts_of(averaging_s: float) -> int:
    """In how many parts a reading is taken that averages so long."""
    return max(1, math.ceil(round(averaging_s / PART_S, 6)))


def required(slot: int, averaging_s: float) -> list[Required]:
    """What must be so in ``slot`` before a reading is a power in watts, averaged over ``averaging_s`` in its parts."""
    return [
        Required(f"INITiate{slot}:CONTinuous", "0"),
        Required(f"TRIGger{slot}:INPut", "IGNore"),
        Required(f"SENSe{slot}:POWer:REFerence:STATe", "0"),
        Required(f"SENSe{slot}:CORRection", "0"),
        Required(f"SENSe{slot}:POWer:UNIT", "1"),
        Required(f"SENSe{slot}:POWer:RANGe:AUTO", "1"),
        Required(f"SENSe{slot}:POWer:ATIMe", f"{averaging_s / parts_of(averaging_s):.6g}"),
    ]


def parse_acquisition(reply: str) -> str:
    """What stops the acquisition of a reply ``MINMAX,PROGRESS``, "" for none.  Raises ValueError for another reply."""
    return parse_word(split_outside_quotes(reply, ",")[0], _STOPS)


class SensorChannel(SlotChannel):
    """One sensor: ``power_w``, ``floor_w``, ``wavelength_nm``, ``averaging_s``, and its :meth:`zero`.

    ``floor_w`` and ``averaging_limits_s`` are facts of the model; ``averaging_s`` is put on connecting.
    """

    def __init__(
        self,
        parent: KeysightOptical,
        name: str,
        slot: int,
        *,
        floor_w: float,
        wavelength_limits_nm: tuple[float, float],
        averaging_limits_s: tuple[float, float],
        averaging_s: float,
    ) -> None:
        low, high = averaging_limits_s
        if not low <= averaging_s <= high:
            raise parent.error(
                LimitError, f"averaging_s is {averaging_s:g} s, which is outside {low:g}..{high:g} s"
            )
        super().__init__(parent, name, slot, required(slot, averaging_s))
        link = parent.link
        self._parts, self._part_s = parts_of(averaging_s), averaging_s / parts_of(averaging_s)
        self._sense = f"SENSe{slot}"
        self.power_w: Parameter[float, SensorChannel] = self.add_reading(
            "power_w", label="Optical power", unit="W", get=self._measure
        )
        self.floor_w: Parameter[float, SensorChannel] = self.add_reading(
            "floor_w", label="Least power told from none", unit="W", get=lambda: floor_w
        )
        self.wavelength_nm: Parameter[float, SensorChannel] = self.add_setting(
            "wavelength_nm",
            label="Wavelength",
            unit="nm",
            get=lambda: link.query_float(f"{self._sense}:POWer:WAVelength?", possible=POSSIBLE_M) * 1e9,
            put=self._set_wavelength,
            limits=Within(*wavelength_limits_nm, "nm"),
            resolution=1e-3,
        )
        self.averaging_s: Parameter[float, SensorChannel] = self.add_setting(
            "averaging_s",
            label="Averaging time",
            unit="s",
            get=self._get_averaging,
            put=self._set_averaging,
            limits=Within(low, high, "s"),
            resolution=1e-6,
        )

    def know_state(self) -> None:
        """Stop what runs, without which some settings cannot be put; then put them."""
        self._stop_acquisition()
        super().know_state()

    def restore_passive(self) -> None:
        """Bring wavelength and averaging time back to what was last set or read."""
        self.restore(self.wavelength_nm, self.averaging_s)

    def zero(self) -> None:
        """Take what reaches the sensor as zero: the caller has made it dark.

        Raises InstrumentRefusedError when the instrument says that it found no zero, NotReadyError after :data:`ZERO_S`.
        """
        link = self.parent.link
        with link.transaction():
            link.command(f"{self._sense}:CORRection:COLLect:ZERO", timeout_s=ZERO_S)
            since = link.urgencies
        self.parent.wait_complete(ZERO_S, f"{self.short_name} zero", since, reply_s=ZERO_S)
        if code := link.query_int(f"{self._sense}:CORRection:COLLect:ZERO?"):
            raise self.parent.error(
                InstrumentRefusedError,
                f"{self.short_name} found no zero (code {code}); make sure that no light reaches it",
            )

    def glance_w(self) -> float:
        """The power of this moment, averaged over :data:`PART_S` at the most.  Raises what ``power_w`` does."""
        self.state.require()
        link = self.parent.link
        return link.query_float(f"READ{self.slot}:POWer?", timeout_s=link.timeout_s + 2 * self._part_s)

    def _stop_acquisition(self) -> None:
        link, state = self.parent.link, f"{self._sense}:FUNCtion:STATe"
        if stop := link.query_parsed(f"{state}?", parse_acquisition):
            link.command(f"{state} {stop}")
            if link.query_parsed(f"{state}?", parse_acquisition):
                raise self.parent.error(
                    InstrumentRefusedError,
                    f"{self.short_name} goes on acquiring data after {stop!r}; stop it at the instrument",
                )

    def _measure(self) -> float:
        """NoReadingError where nothing was measured; InstrumentRefusedError outside the known state."""
        return fmean([self.glance_w() for _ in range(self._parts)])

    def _set_wavelength(self, value: float) -> None:
        link, command = self.parent.link, f"{self._sense}:POWer:WAVelength"
        low, high = (
            link.query_float(f"{command}? {end}", possible=POSSIBLE_M) * 1e9 for end in ("MIN", "MAX")
        )
        if not low <= value <= high:
            raise self.parent.error(
                LimitError,
                f"{self.short_name}: {value:g} nm is outside {low:g}..{high:g} nm, which the sensor reaches; "
                "nothing was sent",
            )
        link.command(f"{command} {value * 1e-9:.9E}")

    def _set_averaging(self, value: float) -> None:
        """What the instrument does not take leaves the number of parts as it was."""
        parts = parts_of(value)
        self.parent.link.command(f"{self._sense}:POWer:ATIMe {value / parts:.6g}")
        if math.isclose(self._read_part(), value / parts, rel_tol=1e-5):
            self._parts = parts

    def _get_averaging(self) -> float:
        return round(self._parts * self._read_part(), 6)

    def _read_part(self) -> float:
        self._part_s = self.parent.link.query_float(f"{self._sense}:POWer:ATIMe?", possible=POSSIBLE_S)
        return self._part_s
