"""Simulated Keysight N7764A: four attenuators in slot pairs (:mod:`sim_backends.attenuators.keysight_attenuators`)."""

from __future__ import annotations

from sim_backends.attenuators.keysight_attenuators import FULL_SPEED_DB_PER_S, Attenuators, OnChannel
from sim_backends.keysight import KeysightTwin
from sim_backends.schedule import Schedule, later
from sim_backends.site import Simulated, Site

SLOTS = {1: 1, 2: 3, 3: 5, 4: 7}


def build(site: Site) -> Simulated:
    """The four attenuators, each in the light where its channel serves."""

    def on_channel(number: int, attenuation_db: float, is_open: bool) -> None:
        site.set_attenuation(f"ch{number}", attenuation_db, is_open)

    twin = N7764ATwin(on_channel=on_channel, serial=site.number)
    return Simulated(twin, lambda: twin.serve(site.host, *site.ports))


class N7764ATwin(KeysightTwin):
    """The simulated attenuator.  ``on_channel(channel 1..4, attenuation_db, open)`` follows the light.

    ``speed_db_per_s`` is the attenuation speed at power-on; ``schedule(delay_s, action)`` runs the end of a
    move (a timer thread by default); ``left_by_someone`` starts it in another user's state.
    """

    def __init__(
        self,
        *,
        on_channel: OnChannel = lambda channel, attenuation_db, is_open: None,
        serial: int = 1,
        model: str = "N7764A",
        speed_db_per_s: float = FULL_SPEED_DB_PER_S,
        schedule: Schedule = later,
        left_by_someone: bool = False,
    ) -> None:
        super().__init__(model, serial)
        self.attenuators = Attenuators(self._device, SLOTS, on_channel, speed_db_per_s, schedule)
        if left_by_someone:
            self._device.leave()

    def is_safe(self) -> bool:
        """Every shutter is closed."""
        with self._device.lock:
            return self.attenuators.all_closed()

    def state(self) -> dict[str, object]:
        """What the light meets, per channel, and the number of queued errors."""
        with self._device.lock:
            return {**self.attenuators.state(), "errors": len(self._device.errors)}
