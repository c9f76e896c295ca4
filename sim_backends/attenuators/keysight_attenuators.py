"""The attenuators of simulated Keysight boxes: slot pairs, attenuation speed, shutters.

Written from the Keysight N77xx Series Programming Guide (N7744-90C): each attenuator answers on both of its slots, and
an attenuation that the offset puts out of the filter's reach gives -221.  A shutter closes at full speed and opens at
the attenuation speed.  Power control (same dialect: 8163A/B Programming Guide, OUTPut subtree) drives the filter itself:
while it is on, an attenuation is taken and does not move the filter.  ``:STATe:APOWeron`` as in the guide of the 8156A:
0 closed at power-on, 1 as left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sim_backends.keysight import (
    DECIBELS,
    EMPTY_SLOT,
    METRES,
    SECONDS,
    KeysightDevice,
    Part,
    asked,
    bounded,
    nr3,
    switch,
)
from sim_backends.schedule import Schedule
from sim_backends.servers import SETTINGS_CONFLICT, Call, ScpiError

_FILTER_DB = 45.0
_WAVELENGTH_M = (1.26e-6, 1.64e-6)
_SPEED_DB_PER_S = (0.1, 1000.0)
FULL_SPEED_DB_PER_S = _SPEED_DB_PER_S[1]

OnChannel = Callable[[int, float, bool], None]


@dataclass
class Attenuator:
    """Target settings and what the light meets: ``filter_db`` and ``is_open`` change when a move ends."""

    number: int
    target_db: float = 0.0
    offset_db: float = 0.0
    wavelength_m: float = 1.55e-6
    speed_db_per_s: float = _SPEED_DB_PER_S[1]
    shutter: bool = False
    controls_power: bool = False
    in_watt: bool = False
    open_at_power_on: bool = False
    averaging_s: float = 0.1
    filter_db: float = 0.0
    is_open: bool = False
    move: int = 0
    moving: bool = False
    opening: bool = False


class Attenuators(Part):
    """Attenuators by number; ``slots`` holds the first slot of each.

    ``on_channel(number, attenuation_db, open)`` follows the light.  ``speed_db_per_s`` is the attenuation speed at
    power-on; ``schedule(delay_s, action)`` runs the end of a move.
    """

    def __init__(
        self,
        device: KeysightDevice,
        slots: Mapping[int, int],
        on_channel: OnChannel,
        speed_db_per_s: float,
        schedule: Schedule,
    ) -> None:
        self.all = [Attenuator(number, speed_db_per_s=speed_db_per_s) for number in slots]
        self._by_slot = {
            slot + half: each for slot, each in zip(slots.values(), self.all, strict=True) for half in (0, 1)
        }
        self._lock = device.lock
        self._default_speed = speed_db_per_s
        self._on_channel = on_channel
        self._schedule = schedule
        self._add = add = device.add
        device.parts.append(self)
        add("INPut#[:CHANnel#]:ATTenuation", lambda c: self._attenuate(self._slot(c), self._attenuation(c)))
        add("INPut#[:CHANnel#]:ATTenuation?", self._ask_attenuation)
        add("INPut[:CHANnel#]:ATTenuation:ALL", self._attenuate_all)
        add("INPut#[:CHANnel#]:ATTenuation:SPEed", self._set_speed)
        add("INPut#[:CHANnel#]:ATTenuation:SPEed?", lambda c: nr3(self._slot(c).speed_db_per_s))
        add("INPut#[:CHANnel#]:OFFSet", self._set_offset)
        add("INPut#[:CHANnel#]:OFFSet?", lambda c: nr3(self._slot(c).offset_db))
        add("INPut#[:CHANnel#]:WAVelength", self._set_wavelength)
        add("INPut#[:CHANnel#]:WAVelength?", self._ask_wavelength)
        add("OUTPut#[:CHANnel#][:STATe]", lambda c: self._shut(self._slot(c), c.boolean(0)))
        add("OUTPut#[:CHANnel#][:STATe]?", lambda c: str(int(self._slot(c).shutter)))
        add("OUTPut[:CHANnel#][:STATe]:ALL", self._shut_all)
        self._switch("OUTPut#[:CHANnel#][:STATe]:APOWeron", "open_at_power_on", ("DIS", "LAST"))
        self._switch("OUTPut#[:CHANnel#]:POWer:CONTRol", "controls_power", ("OFF", "ON"))
        self._switch("OUTPut#[:CHANnel#]:POWer:UNit", "in_watt", ("DBM", "W"), "+d")
        add("OUTPut#[:CHANnel#]:ATIMe", self._set_averaging)
        add("OUTPut#[:CHANnel#]:ATIMe?", lambda c: nr3(self._slot(c).averaging_s))
        add("OUTPut#[:CHANnel#]:APMode?", lambda c: str(int(self._slot(c).controls_power)))

    def _switch(self, notation: str, attribute: str, words: tuple[str, str], reply: str = "d") -> None:
        def store(call: Call) -> None:
            setattr(self._slot(call), attribute, switch(call, words))

        self._add(notation, store)
        self._add(notation + "?", lambda c: format(getattr(self._slot(c), attribute), reply))

    def _set_averaging(self, call: Call) -> None:
        self._slot(call).averaging_s = bounded(call, (2e-3, 1.0), 0.1, SECONDS)

    def is_busy(self) -> bool:
        """Whether a filter or a shutter moves."""
        return any(attenuator.moving for attenuator in self.all)

    def _slot(self, call: Call) -> Attenuator:
        try:
            return self._by_slot[call.suffixes[0]]
        except KeyError:
            raise ScpiError(*EMPTY_SLOT) from None

    def _attenuation(self, call: Call) -> float:
        return bounded(call, (0.0, _FILTER_DB), 0.0, DECIBELS)

    def _ask_attenuation(self, call: Call) -> str:
        attenuator = self._slot(call)
        limits = {"MIN": 0.0, "MAX": _FILTER_DB, "DEF": 0.0}
        if not call.arguments:
            return nr3(attenuator.target_db)
        return nr3(limits[call.choice(0, "MIN", "MAX", "DEF")] + attenuator.offset_db)

    def _attenuate(self, attenuator: Attenuator, value_db: float) -> None:
        wanted_db = value_db - attenuator.offset_db
        if not 0.0 <= wanted_db <= _FILTER_DB:
            raise ScpiError(*SETTINGS_CONFLICT)
        attenuator.target_db = value_db
        if attenuator.controls_power:
            return
        self._move(attenuator, abs(wanted_db - attenuator.filter_db) / attenuator.speed_db_per_s)

    def _attenuate_all(self, call: Call) -> None:
        value_db = self._attenuation(call)
        for attenuator in self.all:
            self._attenuate(attenuator, value_db)

    def _set_offset(self, call: Call) -> None:
        attenuator = self._slot(call)
        offset_db = bounded(call, (-200.0, 200.0), 0.0, DECIBELS)
        attenuator.target_db += offset_db - attenuator.offset_db
        attenuator.offset_db = offset_db

    def _set_speed(self, call: Call) -> None:
        self._slot(call).speed_db_per_s = bounded(call, _SPEED_DB_PER_S, self._default_speed, {})

    def _set_wavelength(self, call: Call) -> None:
        self._slot(call).wavelength_m = bounded(call, _WAVELENGTH_M, 1.55e-6, METRES)

    def _ask_wavelength(self, call: Call) -> str:
        return asked(call, self._slot(call).wavelength_m, _WAVELENGTH_M, 1.55e-6)

    def _shut(self, attenuator: Attenuator, opened: bool) -> None:
        """A shutter opens at the attenuation speed; it closes at once, whatever the filter does meanwhile."""
        attenuator.shutter = opened
        if opened:
            travel_db = 0.0 if attenuator.is_open else _FILTER_DB - attenuator.filter_db
            attenuator.opening = True
            self._move(attenuator, travel_db / attenuator.speed_db_per_s)
        elif attenuator.moving and not attenuator.opening:
            attenuator.is_open = False
            self._on_channel(attenuator.number, attenuator.filter_db, False)
        else:
            self._move(attenuator, 0.0)

    def _shut_all(self, call: Call) -> None:
        opened = call.boolean(0)
        for attenuator in self.all:
            self._shut(attenuator, opened)

    def reset(self) -> None:
        """No offset, no attenuation, shutters closed."""
        for attenuator in self.all:
            attenuator.offset_db, attenuator.wavelength_m = 0.0, 1.55e-6
            attenuator.speed_db_per_s = self._default_speed
            attenuator.controls_power = attenuator.open_at_power_on = False
            attenuator.in_watt, attenuator.averaging_s = False, 0.1
            self._attenuate(attenuator, 0.0)
            self._shut(attenuator, False)

    def leave(self) -> None:
        """Offsets, power control, hardly any attenuation, all open."""
        for attenuator in self.all:
            attenuator.offset_db, attenuator.filter_db, attenuator.target_db = 10.0, 1.0, 11.0
            attenuator.wavelength_m, attenuator.speed_db_per_s = 1.31e-6, 200.0
            attenuator.controls_power = attenuator.open_at_power_on = True
            attenuator.in_watt, attenuator.averaging_s = True, 1.0
            attenuator.shutter = attenuator.is_open = True
            self._on_channel(attenuator.number, attenuator.filter_db, attenuator.is_open)

    def _move(self, attenuator: Attenuator, travel_s: float) -> None:
        """Start a move that ends after ``travel_s``; a later move replaces it."""
        attenuator.move += 1
        move = attenuator.move
        if travel_s <= 0.0:
            self._arrive(attenuator, move)
        else:
            attenuator.moving = True
            self._schedule(travel_s, lambda: self._arrive(attenuator, move))

    def _arrive(self, attenuator: Attenuator, move: int) -> None:
        with self._lock:
            if move != attenuator.move:
                return
            attenuator.moving = attenuator.opening = False
            if not attenuator.controls_power:
                attenuator.filter_db = attenuator.target_db - attenuator.offset_db
            attenuator.is_open = attenuator.shutter
            self._on_channel(attenuator.number, attenuator.filter_db, attenuator.is_open)

    def all_closed(self) -> bool:
        """Whether no light passes any shutter."""
        return not any(attenuator.is_open for attenuator in self.all)

    def state(self) -> dict[str, object]:
        """What the light meets, and the settings, by number."""
        return {
            "attenuation_db": {a.number: a.filter_db for a in self.all},
            "open": {a.number: a.is_open for a in self.all},
            "wavelength_nm": {a.number: a.wavelength_m * 1e9 for a in self.all},
            "offset_db": {a.number: a.offset_db for a in self.all},
            "controls_power": {a.number: a.controls_power for a in self.all},
            "open_at_power_on": {a.number: a.open_at_power_on for a in self.all},
            "moving": {a.number: a.moving for a in self.all},
        }
