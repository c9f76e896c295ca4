"""Keysight N7764A: four variable attenuators with shutters.

Each attenuator occupies two slots and answers to the first of them, so ``ch1..ch4`` are slots 1, 3, 5, 7.
A new attenuation or an opened shutter takes time at the instrument's attenuation speed; the setters return
once the instrument reports that all operations are complete (``*OPC?`` answers 0 while the filter moves), and
hold nothing while they wait.

Known state: no input offset, no power control (it would drive the filter by itself), power in watts, shutters closed
after a power cut.  Shutters and attenuations stay as they are found; a shutter is opened only at an attenuation within
the limits.

Commands: Keysight N77xx Series Programming Guide N7744-90C, chapter 1 (slots, message format) and chapter 4
(INPut and OUTPut subtrees).  Power control and unit as in the same dialect's 8163A/B guide (OUTPut subtree) and the
open N7752A drivers (``OUTP{n}:POW:CONTR``, ``OUTP{n}:POW:UN``).  ``:STATe:APOWeron`` is in the guide of the 8156A
(0: closed); on the N77xx unverified, so an instrument may refuse it.  Attenuation range 0..45 dB and wavelength range
1260..1640 nm: N7764A data.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from qcodes.parameters import Parameter
from qcodes.validators import Bool

from drivers.base import LabChannel
from drivers.links.errors import LimitError, NotReadyError
from drivers.links.limits import Within
from drivers.scpi import ScpiInstrument
from drivers.scpi_state import KnownState, Required

log = logging.getLogger(__name__)

SLOTS = (1, 3, 5, 7)
"""Slot of each attenuator: "from 1 to 2, 3 to 4, 5 to 6 and 7 to 8 respectively" (programming guide)."""
ATTENUATION_LIMITS_DB = (0.0, 45.0)
WAVELENGTH_LIMITS_NM = (1260.0, 1640.0)
POSSIBLE_M = (1e-7, 1e-5)
"""A wavelength outside is not in metres."""
SPEED_LIMITS_DB_PER_S = (0.1, 1000.0)
_POLL_S = 5e-3


def required(slot: int) -> list[Required]:
    """What must be so in ``slot``; power control goes first, because it moves the filter."""
    return [
        Required(f"OUTPut{slot}:POWer:CONTRol", "0"),
        Required(f"INPut{slot}:OFFSet", "0"),
        Required(f"OUTPut{slot}:POWer:UNit", "1", if_there=True),
        Required(f"OUTPut{slot}:STATe:APOWeron", "0", if_there=True),
    ]


class AttenuatorChannel(LabChannel):
    """One attenuator: ``attenuation_db``, ``shutter_open``, ``wavelength_nm``, ``speed_db_per_s``."""

    parent: KeysightN7764A

    def __init__(self, parent: KeysightN7764A, name: str, slot: int, min_attenuation_db: float) -> None:
        super().__init__(parent, name)
        self.slot = slot
        self._limits_db = (min_attenuation_db, ATTENUATION_LIMITS_DB[1])
        link = parent.link
        self.attenuation_db: Parameter[float, AttenuatorChannel] = self.add_setting(
            "attenuation_db",
            label="Attenuation",
            unit="dB",
            get=self._attenuation,
            put=self._set_attenuation,
            limits=Within(*self._limits_db, "dB"),
            resolution=1e-3,
        )
        self.shutter_open: Parameter[bool, AttenuatorChannel] = self.add_setting(
            "shutter_open",
            label="Shutter open",
            get=lambda: link.query_bool(f"OUTPut{slot}:STATe?"),
            put=self._set_shutter,
            limits=Bool(),
        )
        self.wavelength_nm: Parameter[float, AttenuatorChannel] = self.add_setting(
            "wavelength_nm",
            label="Wavelength",
            unit="nm",
            get=lambda: link.query_float(f"INPut{slot}:WAVelength?", possible=POSSIBLE_M) * 1e9,
            put=lambda value: link.command(f"INPut{slot}:WAVelength {value * 1e-9:.9E}"),
            limits=Within(*WAVELENGTH_LIMITS_NM, "nm"),
            resolution=1e-3,
        )
        self.speed_db_per_s: Parameter[float, AttenuatorChannel] = self.add_setting(
            "speed_db_per_s",
            label="Attenuation speed",
            unit="dB/s",
            get=self._speed,
            put=lambda value: link.command(f"INPut{slot}:ATTenuation:SPEed {value:.6g}"),
            limits=Within(*SPEED_LIMITS_DB_PER_S, "dB/s"),
            resolution=1e-2,
        )

    def _attenuation(self) -> float:
        return self.parent.link.query_float(f"INPut{self.slot}:ATTenuation?")

    def _speed(self) -> float:
        """The attenuation speed, one that an attenuator can have, as times to wait follow from it."""
        return self.parent.link.query_float(
            f"INPut{self.slot}:ATTenuation:SPEed?", possible=SPEED_LIMITS_DB_PER_S
        )

    def _set_attenuation(self, value: float) -> None:
        link = self.parent.link
        with link.transaction():
            self.parent.state.require()
            travel_s = abs(value - self._attenuation()) / self.speed_db_per_s.get()
            link.command(f"INPut{self.slot}:ATTenuation {value:.4f}")
            since = link.urgencies
        self.parent.wait_settled(travel_s, f"{self.short_name} attenuation {value:g} dB", since)

    def _set_shutter(self, value: bool) -> None:
        link, travel_s = self.parent.link, 0.0  # closes at full speed, opens at the attenuation speed
        with link.transaction():
            if value:
                self.parent.must_end_dark()
                self.parent.state.require()
                self.check_stored()
                travel_s = ATTENUATION_LIMITS_DB[1] / self.speed_db_per_s.get()
            link.command(f"OUTPut{self.slot}:STATe {int(value)}")
            since = link.urgencies
        self.parent.wait_settled(
            travel_s, f"{self.short_name} shutter {'open' if value else 'closed'}", since
        )

    def check_stored(self) -> None:
        """LimitError when the attenuation that the instrument holds is outside the limits."""
        held, (low, high) = self._attenuation(), self._limits_db
        if not low <= held <= high:
            raise self.parent.error(
                LimitError,
                f"{self.short_name} holds an attenuation of {held:g} dB, which is outside {low:g}..{high:g} dB; "
                "set attenuation_db before its shutter is opened",
            )

    def tune(self, wavelength_nm: float) -> None:
        """Attenuate right at this wavelength."""
        self.wavelength_nm(wavelength_nm)

    def let_through(self) -> None:
        """Open the shutter; returns once it is open."""
        self.shutter_open(True)

    def block(self) -> None:
        """Close the shutter; the attenuation stays as it is set."""
        self.shutter_open(False)

    def restore_passive(self) -> None:
        """Bring wavelength, speed and attenuation back to what was last set or read (shutter closed)."""
        self.restore(self.wavelength_nm, self.speed_db_per_s, self.attenuation_db)


class KeysightN7764A(ScpiInstrument):
    """Driver of one N7764A; submodules ``ch1`` to ``ch4``.

    ``min_attenuation_db`` is a limit of the set-up: below it no attenuation is set and no shutter opened.
    ``settle_margin_s`` is what a move may take beyond its travel at the attenuation speed.  ``pause`` and ``clock`` are
    for tests.
    """

    MODELS = frozenset({"N7764A"})

    def __init__(
        self,
        name: str,
        address: str,
        *,
        min_attenuation_db: float = 0.0,
        timeout_s: float = 2.0,
        settle_margin_s: float = 2.0,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, timeout_s=timeout_s, clock=clock, **kwargs)
        low, high = ATTENUATION_LIMITS_DB
        if not low <= min_attenuation_db <= high:
            raise LimitError(
                f"min_attenuation_db is {min_attenuation_db:g} dB, which is outside {low:g}..{high:g} dB",
                instrument=name,
                address=address,
            )
        self._pause = pause
        self._settle_margin_s = settle_margin_s
        self.channels = tuple(
            AttenuatorChannel(self, f"ch{n}", slot, min_attenuation_db) for n, slot in enumerate(SLOTS, 1)
        )
        self.ch1, self.ch2, self.ch3, self.ch4 = self.channels
        for channel in self.channels:
            self.add_submodule(channel.short_name, channel)
        self.state = KnownState(self.link, [each for slot in SLOTS for each in required(slot)])

    def know_state(self) -> None:
        """Old errors; offsets, power control and power-on state; stored attenuations against the limits."""
        super().know_state()
        self.state.hold()
        for channel in self.channels:
            try:
                channel.check_stored()
            except LimitError as error:
                log.warning("%s", error)

    def safe_state(self) -> None:
        """Close all shutters and confirm it."""
        self.link.urgently(self._close_all)

    def _close_all(self) -> None:
        """All at once, then each that still reads open by itself."""
        for commands in (["OUTPut:STATe:ALL OFF"], [f"OUTPut{slot}:STATe OFF" for slot in SLOTS]):
            for command in commands:
                self.link.tell(command)
            still_open = [
                c.short_name for c in self.channels if self.link.query_bool(f"OUTPut{c.slot}:STATe?")
            ]
            if not still_open:
                return
        raise self.error(
            NotReadyError,
            f"shutters of {', '.join(still_open)} report open after they were closed; block the light by hand",
        )

    def restore_passive(self) -> None:
        """After a reopened link: shutters closed, wavelengths and attenuations as they were."""
        self._close_all()
        for channel in self.channels:
            channel.restore_passive()

    def wait_settled(self, travel_s: float, what: str, since: int) -> None:
        """Wait until ``*OPC?`` answers 1.  Raises NotReadyError after ``travel_s`` and the margin."""
        self.link.wait_until(
            lambda: self.link.query_bool("*OPC?"),
            travel_s + self._settle_margin_s,
            what,
            since=since,
            poll_s=_POLL_S,
            pause=self._pause,
        )
