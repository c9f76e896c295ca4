"""Simulated Keysight N7752A: two attenuators in slots 1-2 and 3-4, two power sensors in slots 5 and 6.

Sensors: 1260 to 1640 nm, up to +10 dBm, 2 ms to 10 s, noise in the dark of about 7 pW peak to peak at one second; that
scale and zero are off by up to 5 % and 5 pW is chosen, as is the light above which it finds no zero.
"""

from __future__ import annotations

import numpy as np

from sim_backends.attenuators.keysight_attenuators import FULL_SPEED_DB_PER_S, Attenuators, OnChannel
from sim_backends.keysight import KeysightTwin
from sim_backends.powermeters.keysight_sensors import Make, ReadPower, Sensors
from sim_backends.schedule import Schedule, later
from sim_backends.site import Simulated, Site

ATTENUATORS = {1: 1, 3: 3}
SENSORS = (5, 6)
SENSOR_N7752A = Make(
    zero_error_w=5e-12,
    noise_w=1.2e-12,
    scale_error=0.05,
    top_w=1e-2,
    dark_w=1e-8,
    wavelength_m=(1.26e-6, 1.64e-6),
    averaging_s=(2e-3, 10.0),
)


def build(site: Site) -> Simulated:
    """The box, each attenuator and each sensor in the light where its channel serves."""

    def on_channel(number: int, attenuation_db: float, is_open: bool) -> None:
        site.set_attenuation(f"ch{number}", attenuation_db, is_open)

    twin = N7752ATwin(
        on_channel=on_channel,
        read_power_w=lambda slot: site.power_w(f"ch{slot}"),
        light_nm=site.wavelength_nm,
        serial=site.number,
        sensor=SENSOR_N7752A.hurried(site.sensor_speed).off_by(site.spread),
        rng=site.made,
    )
    return Simulated(twin, lambda: twin.serve(site.host, *site.ports))


class N7752ATwin(KeysightTwin):
    """The simulated box, as :class:`N7764ATwin` and :class:`Keysight8163BTwin` have their parts.

    ``on_channel(1 or 3, attenuation_db, open)`` follows the light, ``read_power_w(5 or 6)`` is the light at ``light_nm``.
    """

    def __init__(
        self,
        *,
        on_channel: OnChannel = lambda channel, attenuation_db, is_open: None,
        read_power_w: ReadPower = lambda slot: 0.0,
        light_nm: float = 1550.0,
        serial: int = 1,
        model: str = "N7752A",
        sensor: Make = SENSOR_N7752A,
        rng: np.random.Generator | None = None,
        speed_db_per_s: float = FULL_SPEED_DB_PER_S,
        schedule: Schedule = later,
        left_by_someone: bool = False,
    ) -> None:
        super().__init__(model, serial)
        self.attenuators = Attenuators(self._device, ATTENUATORS, on_channel, speed_db_per_s, schedule)
        self.sensors = Sensors(
            self._device,
            SENSORS,
            sensor,
            read_power_w=read_power_w,
            light_nm=light_nm,
            rng=rng or np.random.default_rng(serial),
            schedule=schedule,
        )
        if left_by_someone:
            self._device.leave()

    def is_safe(self) -> bool:
        """Every shutter is closed."""
        with self._device.lock:
            return self.attenuators.all_closed()

    def state(self) -> dict[str, object]:
        """What the light meets, the settings, and the number of queued errors."""
        with self._device.lock:
            return {
                **self.attenuators.state(),
                **self.sensors.state(),
                "errors": len(self._device.errors),
            }
