"""Simulated Keysight 8163B with a power head in each slot (:mod:`sim_backends.powermeters.keysight_sensors`).

81634B: 800 to 1650 nm, up to +10 dBm, 100 us to 10 s, noise in the dark less than 0.2 pW peak to peak at one second (data
sheet); that scale and zero are off by up to 5 % and 0.05 pW is chosen, as is the light above which it finds no zero.
"""

from __future__ import annotations

import numpy as np

from sim_backends.keysight import EMPTY_SLOT, KeysightTwin
from sim_backends.powermeters.keysight_sensors import Make, ReadPower, Sensors
from sim_backends.schedule import Schedule, later
from sim_backends.servers import Call, ScpiError
from sim_backends.site import Simulated, Site

SLOTS = (1, 2)
HEAD_81634B = Make(
    zero_error_w=5e-14,
    noise_w=3e-14,
    scale_error=0.05,
    top_w=1e-2,
    dark_w=1e-11,
    wavelength_m=(0.8e-6, 1.65e-6),
    averaging_s=(1e-4, 10.0),
)


def build(site: Site) -> Simulated:
    """The mainframe, each head in the light where its slot serves."""
    twin = Keysight8163BTwin(
        read_power_w=lambda slot: site.power_w(f"slot{slot}"),
        light_nm=site.wavelength_nm,
        serial=site.number,
        head=HEAD_81634B.hurried(site.sensor_speed).off_by(site.spread),
        rng=site.made,
    )
    return Simulated(twin, lambda: twin.serve(site.host, *site.ports))


class Keysight8163BTwin(KeysightTwin):
    """The simulated mainframe; ``read_power_w(slot)`` is asked at each measurement for light at ``light_nm``.

    ``head`` says what both heads are like, and ``rng`` draws what these two are.  ``schedule(delay_s, action)`` runs the
    end of a zero; ``left_by_someone`` starts it in another user's state; ``heads`` are the models in the slots, "" for an
    empty one.
    """

    def __init__(
        self,
        *,
        read_power_w: ReadPower = lambda slot: 0.0,
        light_nm: float = 1550.0,
        serial: int = 1,
        model: str = "8163B",
        head: Make = HEAD_81634B,
        heads: tuple[str, str] = ("81634B", "81634B"),
        rng: np.random.Generator | None = None,
        schedule: Schedule = later,
        left_by_someone: bool = False,
    ) -> None:
        super().__init__(model, serial)
        self._heads = dict(zip(SLOTS, heads, strict=True))
        self._serial = serial
        self.sensors = Sensors(
            self._device,
            tuple(slot for slot in SLOTS if self._heads[slot]),
            head,
            read_power_w=read_power_w,
            light_nm=light_nm,
            rng=rng or np.random.default_rng(serial),
            schedule=schedule,
        )
        self._device.add("SLOT#:IDN?", self._identify)
        self._device.add("SLOT#:EMPTy?", lambda call: f"+{int(not self._heads.get(call.suffixes[0]))}")
        if left_by_someone:
            self._device.leave()

    def _identify(self, call: Call) -> str:
        slot = call.suffixes[0]
        if not self._heads.get(slot):
            raise ScpiError(*EMPTY_SLOT)
        return f"Agilent Technologies,{self._heads[slot]},SIM{self._serial:05d}{slot},V5.25"

    def is_safe(self) -> bool:
        """Always: it emits nothing and holds nothing secret."""
        return True

    def state(self) -> dict[str, object]:
        """Settings by slot and the number of queued errors."""
        with self._device.lock:
            return {**self.sensors.state(), "errors": len(self._device.errors)}
