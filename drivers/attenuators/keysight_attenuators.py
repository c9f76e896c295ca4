"""Variable attenuators with shutters in Keysight's N77xx boxes.

Each attenuator occupies two slots and answers to the first of them.
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
1260..1640 nm: N7764A data; the same for the N7752A in asakiasako/pyinst ``models/N7752A.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from qcodes.parameters import Parameter
from qcodes.validators import Bool

from drivers.keysight import POSSIBLE_M, KeysightOptical, SlotChannel
from drivers.links.errors import LimitError, NotReadyError
from drivers.links.limits import Within
from drivers.scpi_state import Required

log = logging.getLogger(__name__)

ATTENUATION_LIMITS_DB = (0.0, 45.0)
WAVELENGTH_LIMITS_NM = (1260.0, 1640.0)
SPEED_LIMITS_DB_PER_S = (0.1, 1000.0)


def required(slot: int) -> list[Required]:
    """What must be so in ``slot``; power control goes first, because it moves the filter."""
    return [
        Required(f"OUTPut{slot}:POWer:CONTRol", "0"),
        Required(f"INPut{slot}:OFFSet", "0"),
        Required(f"OUTPut{slot}:POWer:UNit", "1", if_there=True),
        Required(f"OUTPut{slot}:STATe:APOWeron", "0", if_there=True),
    ]


class AttenuatorChannel(SlotChannel):
    """One attenuator: ``attenuation_db``, ``shutter_open``, ``wavelength_nm``, ``speed_db_per_s``."""

    parent: KeysightAttenuators

    def __init__(self, parent: KeysightAttenuators, name: str, slot: int, min_attenuation_db: float) -> None:
        super().__init__(parent, name, slot, required(slot))
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
            self.state.require()
            travel_s = abs(value - self._attenuation()) / self.speed_db_per_s.get()
            link.command(f"INPut{self.slot}:ATTenuation {value:.4f}")
            since = link.urgencies
        self.parent.wait_settled(travel_s, f"{self.short_name} attenuation {value:g} dB", since)

    def _set_shutter(self, value: bool) -> None:
        link, travel_s = self.parent.link, 0.0  # closes at full speed, opens at the attenuation speed
        with link.transaction():
            if value:
                self.parent.must_end_dark()
                self.state.require()
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

    def know_state(self) -> None:
        """Offsets, power control and power-on state; no shutter stays open at an attenuation beyond the limits."""
        super().know_state()
        try:
            self.check_stored()
        except LimitError as error:
            log.warning("%s", error)
            if self.shutter_open.get():
                log.warning("%s at %s: found open, and closed", self.full_name, self.parent.address)
                self.parent.link.command(f"OUTPut{self.slot}:STATe 0")

    def restore_passive(self) -> None:
        """Bring wavelength, speed and attenuation back to what was last set or read (shutter closed)."""
        self.restore(self.wavelength_nm, self.speed_db_per_s, self.attenuation_db)


class KeysightAttenuators(KeysightOptical):
    """A box with attenuators in ``ATTENUATORS``, the slot of each by the name of its channel.

    ``min_attenuation_db`` is a limit of the set-up: below it no attenuation is set and no shutter opened.
    ``settle_margin_s`` is what a move may take beyond its travel at the attenuation speed.
    """

    ATTENUATORS: ClassVar[Mapping[str, int]]

    def __init__(
        self,
        name: str,
        address: str,
        *,
        min_attenuation_db: float = 0.0,
        settle_margin_s: float = 2.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        low, high = ATTENUATION_LIMITS_DB
        if not low <= min_attenuation_db <= high:
            raise self.error(
                LimitError,
                f"min_attenuation_db is {min_attenuation_db:g} dB, which is outside {low:g}..{high:g} dB",
            )
        self._settle_margin_s = settle_margin_s
        self.channels = tuple(
            AttenuatorChannel(self, channel, slot, min_attenuation_db)
            for channel, slot in self.ATTENUATORS.items()
        )
        for channel in self.channels:
            self.add_slot(channel)

    def safe_state(self) -> None:
        """Close all shutters and confirm it."""
        self.link.urgently(self._close_all)

    def _close_all(self) -> None:
        """All at once, then each that still reads open by itself."""
        each = [f"OUTPut{channel.slot}:STATe OFF" for channel in self.channels]
        for commands in (["OUTPut:STATe:ALL OFF"], each):
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
        """After a reopened link: shutters closed, then wavelengths, attenuations and the rest as they were."""
        self._close_all()
        super().restore_passive()

    def wait_settled(self, travel_s: float, what: str, since: int) -> None:
        """Wait until a move of ``travel_s`` is over.  Raises NotReadyError after it and the margin."""
        self.wait_complete(travel_s + self._settle_margin_s, what, since)
