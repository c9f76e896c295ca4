"""Keysight 8163B mainframe with an 81634B power head in each of its two slots.

A head of another kind, or an empty slot, is refused: the same commands would read another sensor with another floor.

Commands: :mod:`drivers.powermeters.keysight_sensors`; a mainframe measures with one sensor per head, so channel 1 of each
slot; ``SLOT{n}:EMPTy?`` as in the 8163A/B Programming Guide.  81634B: -110 dBm to +10 dBm, 800 to 1650 nm, 100 us to 10 s (data sheet).  The mainframe has GPIB and RS-232
only: its VISA address leads through a LAN-GPIB gateway, or to one that forwards it to a raw socket.
"""

from __future__ import annotations

from typing import Any

from qcodes.parameters import Parameter
from qcodes.validators import Strings

from drivers.keysight import KeysightOptical
from drivers.links.errors import WrongInstrumentError
from drivers.links.scpi_replies import parse_identity
from drivers.powermeters.floors import KEYSIGHT_81634B_W
from drivers.powermeters.keysight_sensors import SensorChannel

HEAD = "81634B"
WAVELENGTH_LIMITS_NM = (800.0, 1650.0)
AVERAGING_LIMITS_S = (1e-4, 10.0)


class HeadChannel(SensorChannel):
    """A head; ``head`` is its model and serial number."""

    def __init__(self, parent: Keysight8163B, name: str, slot: int, averaging_s: float) -> None:
        super().__init__(
            parent,
            name,
            slot,
            floor_w=KEYSIGHT_81634B_W,
            wavelength_limits_nm=WAVELENGTH_LIMITS_NM,
            averaging_limits_s=AVERAGING_LIMITS_S,
            averaging_s=averaging_s,
        )
        self.head: Parameter[str, HeadChannel] = self.add_reading(
            "head", label="Power head", vals=Strings(), get=self._identify
        )

    def know_state(self) -> None:
        """The head is the right one; then as every sensor."""
        self._identify()
        super().know_state()

    def _identify(self) -> str:
        link, slot = self.parent.link, f"SLOT{self.slot}"
        if link.query_bool(f"{slot}:EMPTy?"):  # an empty slot has no identity to tell, and would not answer
            raise self.parent.error(
                WrongInstrumentError, f"slot {self.slot} is empty; each of the two is to hold an {HEAD}"
            )
        found = link.query_parsed(f"{slot}:IDN?", parse_identity)
        if found.model != HEAD:
            raise self.parent.error(
                WrongInstrumentError,
                f"slot {self.slot} holds a {found.model[:40]}, not an {HEAD}; the floor of another head is another",
            )
        return f"{found.model} {found.serial_number}".strip()


class Keysight8163B(KeysightOptical):
    """Driver of one mainframe; submodules ``slot1`` and ``slot2``.

    ``averaging_s`` is the averaging time of both heads after connecting.
    """

    MODELS = frozenset({"8163A", "8163B"})

    def __init__(self, name: str, address: str, *, averaging_s: float = 1.0, **kwargs: Any) -> None:
        super().__init__(name, address, **kwargs)
        self.slot1, self.slot2 = (HeadChannel(self, f"slot{n}", n, averaging_s) for n in (1, 2))
        for channel in (self.slot1, self.slot2):
            self.add_slot(channel)

    def safe_state(self) -> None:
        """Nothing to do: it emits nothing and holds nothing secret."""
