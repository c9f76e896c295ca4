"""Keysight N7752A: two variable attenuators and two power sensors in one box.

The attenuators occupy slots 1-2 and 3-4, the sensors slots 5 and 6 (asakiasako/pyinst ``models/N7752A.py``), and the
channels are named as the box numbers them.  Sensors: -80 dBm to +10 dBm, 1260 to 1640 nm, 2 ms to 10 s (the same).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from drivers.attenuators.keysight_attenuators import WAVELENGTH_LIMITS_NM, KeysightAttenuators
from drivers.powermeters.floors import KEYSIGHT_N7752A_W
from drivers.powermeters.keysight_sensors import SensorChannel

AVERAGING_LIMITS_S = (2e-3, 10.0)


class KeysightN7752A(KeysightAttenuators):
    """Driver of one N7752A; submodules ``ch1`` and ``ch3`` attenuate, ``ch5`` and ``ch6`` measure.

    ``averaging_s`` is the averaging time of both sensors after connecting.
    """

    MODELS = frozenset({"N7752A"})
    ATTENUATORS: ClassVar[Mapping[str, int]] = {"ch1": 1, "ch3": 3}

    def __init__(self, name: str, address: str, *, averaging_s: float = 0.1, **kwargs: Any) -> None:
        super().__init__(name, address, **kwargs)
        self.ch1, self.ch3 = self.channels
        self.ch5, self.ch6 = (
            SensorChannel(
                self,
                f"ch{slot}",
                slot,
                floor_w=KEYSIGHT_N7752A_W,
                wavelength_limits_nm=WAVELENGTH_LIMITS_NM,
                averaging_limits_s=AVERAGING_LIMITS_S,
                averaging_s=averaging_s,
            )
            for slot in (5, 6)
        )
        for channel in (self.ch5, self.ch6):
            self.add_slot(channel)
