"""Keysight N7764A: four variable attenuators with shutters.

Each attenuator occupies two slots and answers to the first of them, so ``ch1..ch4`` are slots 1, 3, 5, 7.
A new attenuation or an opened shutter takes time at the instrument's attenuation speed; the setters return
once the instrument reports that all operations are complete (``*OPC?`` answers 0 while the filter moves).

Commands: Keysight N77xx Series Programming Guide N7744-90C, chapter 1 (slots, message format) and chapter 4
(INPut and OUTPut subtrees).  Attenuation range 0..45 dB and wavelength range 1260..1640 nm: N7764A data.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from qcodes.parameters import Parameter
from qcodes.validators import Bool

from drivers.base import LabChannel
from drivers.links.errors import NotReadyError
from drivers.links.limits import Within, plain
from drivers.scpi import ScpiInstrument

SLOTS = (1, 3, 5, 7)
"""Slot of each attenuator: "from 1 to 2, 3 to 4, 5 to 6 and 7 to 8 respectively" (programming guide)."""
ATTENUATION_LIMITS_DB = (0.0, 45.0)
WAVELENGTH_LIMITS_NM = (1260.0, 1640.0)
SPEED_LIMITS_DB_PER_S = (0.1, 1000.0)
_POLL_S = 5e-3
_MARGIN_S = 2.0


class AttenuatorChannel(LabChannel):
    """One attenuator: ``attenuation_db``, ``shutter_open``, ``wavelength_nm``, ``speed_db_per_s``."""

    def __init__(self, parent: KeysightN7764A, name: str, slot: int) -> None:
        super().__init__(parent, name)
        self._slot = slot
        link = parent.link
        self.attenuation_db: Parameter[float, AttenuatorChannel] = self.add_parameter(
            "attenuation_db",
            label="Attenuation",
            unit="dB",
            get_cmd=lambda: link.query_float(f"INPut{slot}:ATTenuation?"),
            set_cmd=self._set_attenuation,
            set_parser=plain,
            vals=Within(*ATTENUATION_LIMITS_DB, "dB"),
        )
        self.shutter_open: Parameter[bool, AttenuatorChannel] = self.add_parameter(
            "shutter_open",
            label="Shutter open",
            get_cmd=lambda: bool(link.query_int(f"OUTPut{slot}:STATe?")),
            set_cmd=self._set_shutter,
            set_parser=plain,
            vals=Bool(),
        )
        self.wavelength_nm: Parameter[float, AttenuatorChannel] = self.add_parameter(
            "wavelength_nm",
            label="Wavelength",
            unit="nm",
            get_cmd=lambda: link.query_float(f"INPut{slot}:WAVelength?") * 1e9,
            set_cmd=lambda value: link.command(f"INPut{slot}:WAVelength {value * 1e-9:.9E}"),
            set_parser=plain,
            vals=Within(*WAVELENGTH_LIMITS_NM, "nm"),
        )
        self.speed_db_per_s: Parameter[float, AttenuatorChannel] = self.add_parameter(
            "speed_db_per_s",
            label="Attenuation speed",
            unit="dB/s",
            get_cmd=lambda: link.query_float(f"INPut{slot}:ATTenuation:SPEed?"),
            set_cmd=lambda value: link.command(f"INPut{slot}:ATTenuation:SPEed {value:.6g}"),
            set_parser=plain,
            vals=Within(*SPEED_LIMITS_DB_PER_S, "dB/s"),
        )

    def _set_attenuation(self, value: float) -> None:
        link = self.parent.link
        with link.transaction():
            travel_s = abs(value - self.attenuation_db.get()) / self.speed_db_per_s.get()
            link.command(f"INPut{self._slot}:ATTenuation {value:.4f}")
            self.parent.wait_settled(travel_s, f"{self.name} attenuation {value:g} dB")

    def _set_shutter(self, value: bool) -> None:
        if value:
            self.parent.must_end_dark()
        link = self.parent.link
        with link.transaction():
            # Opens at the attenuation speed, closes at full speed.
            travel_s = ATTENUATION_LIMITS_DB[1] / self.speed_db_per_s.get() if value else 0.0
            link.command(f"OUTPut{self._slot}:STATe {int(value)}")
            self.parent.wait_settled(travel_s, f"{self.name} shutter {'open' if value else 'closed'}")

    def tune(self, wavelength_nm: float) -> None:
        """Attenuate right at this wavelength."""
        self.wavelength_nm(wavelength_nm)

    def let_through(self) -> None:
        """Open the shutter; returns once it is open."""
        self.shutter_open(True)

    def block(self) -> None:
        """Close the shutter; the attenuation stays as it is set."""
        self.shutter_open(False)

    def restore(self) -> None:
        """Bring wavelength, speed and attenuation back to what was last set or read (shutter closed)."""
        for parameter in (self.wavelength_nm, self.speed_db_per_s, self.attenuation_db):
            value = parameter.cache.get(get_if_invalid=False)
            if value is not None:
                parameter.set(value)


class KeysightN7764A(ScpiInstrument):
    """Driver of one N7764A; submodules ``ch1`` to ``ch4``.  ``pause`` and ``clock`` are for tests."""

    MODELS = frozenset({"N7764A"})

    def __init__(
        self,
        name: str,
        address: str,
        *,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        self._pause = pause
        self._clock = clock
        self.channels = tuple(AttenuatorChannel(self, f"ch{n}", slot) for n, slot in enumerate(SLOTS, 1))
        self.ch1, self.ch2, self.ch3, self.ch4 = self.channels
        for channel in self.channels:
            self.add_submodule(channel.short_name, channel)

    def safe_state(self) -> None:
        """Close all shutters and confirm it."""
        with self.link.transaction():
            self.link.command("OUTPut:STATe:ALL OFF")
            still_open = [channel.short_name for channel in self.channels if channel.shutter_open.get()]
            if still_open:
                raise NotReadyError(
                    f"shutters of {', '.join(still_open)} report open after OUTPut:STATe:ALL OFF; "
                    "block the light by hand",
                    instrument=self.name,
                    address=self.address,
                )

    def restore_passive(self) -> None:
        """After a reopened link: shutters closed, wavelengths and attenuations as they were."""
        self.safe_state()
        for channel in self.channels:
            channel.restore()

    def wait_settled(self, travel_s: float, what: str) -> None:
        """Wait until ``*OPC?`` answers 1.  Raises NotReadyError after ``travel_s`` and a margin."""
        deadline = self._clock() + travel_s + _MARGIN_S
        while self.link.query_int("*OPC?") != 1:
            if self._clock() >= deadline:
                raise NotReadyError(
                    f"{what} has not settled after {travel_s + _MARGIN_S:.1f} s",
                    instrument=self.name,
                    address=self.address,
                )
            self._pause(_POLL_S)
