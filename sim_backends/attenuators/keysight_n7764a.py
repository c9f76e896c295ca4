"""Simulated Keysight N7764A: four attenuators in slot pairs, attenuation speed, error queue.

Written from the Keysight N77xx Series Programming Guide (N7744-90C): each attenuator answers on both of its
slots; replies end with CR LF; the error queue holds 30 entries; out-of-range values give -222, words outside
a list -224, an attenuation that the offset puts out of the filter's reach -221, empty slots -303.  A shutter
closes at full speed and opens at the attenuation speed; ``*OPC?`` answers 0 while a filter moves.  Power control (same
dialect: 8163A/B Programming Guide, OUTPut subtree) drives the filter itself: while it is on, an attenuation is taken
and does not move the filter.  ``:STATe:APOWeron`` as in the guide of the 8156A: 0 closed at power-on, 1 as left.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sim_backends.faults import FaultInjector
from sim_backends.servers import SETTINGS_CONFLICT, Call, ScpiDevice, ScpiError, ScpiServer
from sim_backends.site import Simulated, Site

IDENTITY = "Keysight Technologies,{model},SIM{serial:05d},1.000"
_FILTER_DB = 45.0
_WAVELENGTH_M = (1.26e-6, 1.64e-6)
_SPEED_DB_PER_S = (0.1, 1000.0)
_TOO_LARGE = (-222, "Data out of range (StatParmTooLarge)")
_TOO_SMALL = (-222, "Data out of range (StatParmTooSmall)")
_EMPTY_SLOT = (-303, "Module slot empty or slot / channel invalid")
_METRES: Mapping[str, float] = {"PM": 1e-12, "NM": 1e-9, "UM": 1e-6, "MM": 1e-3, "M": 1.0}
_DECIBELS: Mapping[str, float] = {"MDB": 1e-3, "DB": 1.0}

OnChannel = Callable[[int, float, bool], None]
Schedule = Callable[[float, Callable[[], None]], None]


def _later(delay_s: float, action: Callable[[], None]) -> None:
    timer = threading.Timer(delay_s, action)
    timer.daemon = True
    timer.start()


@dataclass
class _Attenuator:
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


class _Device(ScpiDevice):
    def __init__(
        self,
        identity: str,
        faults: FaultInjector,
        on_channel: OnChannel,
        speed_db_per_s: float,
        schedule: Schedule,
    ) -> None:
        super().__init__(identity, faults, no_error='+0,"No error"', queue_depth=30, line_end=b"\r\n")
        self.attenuators = [_Attenuator(n, speed_db_per_s=speed_db_per_s) for n in (1, 2, 3, 4)]
        self._default_speed = speed_db_per_s
        self._on_channel = on_channel
        self._schedule = schedule
        add = self.add
        add("*RST", self._reset)
        add("INPut#[:CHANnel#]:ATTenuation", lambda c: self._attenuate(self._slot(c), self._attenuation(c)))
        add("INPut#[:CHANnel#]:ATTenuation?", self._ask_attenuation)
        add("INPut[:CHANnel#]:ATTenuation:ALL", self._attenuate_all)
        add("INPut#[:CHANnel#]:ATTenuation:SPEed", self._set_speed)
        add("INPut#[:CHANnel#]:ATTenuation:SPEed?", lambda c: _float(self._slot(c).speed_db_per_s))
        add("INPut#[:CHANnel#]:OFFSet", self._set_offset)
        add("INPut#[:CHANnel#]:OFFSet?", lambda c: _float(self._slot(c).offset_db))
        add("INPut#[:CHANnel#]:WAVelength", self._set_wavelength)
        add("INPut#[:CHANnel#]:WAVelength?", self._ask_wavelength)
        add("OUTPut#[:CHANnel#][:STATe]", lambda c: self._shut(self._slot(c), c.boolean(0)))
        add("OUTPut#[:CHANnel#][:STATe]?", lambda c: str(int(self._slot(c).shutter)))
        add("OUTPut[:CHANnel#][:STATe]:ALL", self._shut_all)
        self._switch("OUTPut#[:CHANnel#][:STATe]:APOWeron", "open_at_power_on", ("DIS", "LAST"))
        self._switch("OUTPut#[:CHANnel#]:POWer:CONTRol", "controls_power", ("OFF", "ON"))
        self._switch("OUTPut#[:CHANnel#]:POWer:UNit", "in_watt", ("DBM", "W"), "+d")
        add("OUTPut#[:CHANnel#]:ATIMe", self._set_averaging)
        add("OUTPut#[:CHANnel#]:ATIMe?", lambda c: _float(self._slot(c).averaging_s))
        add("OUTPut#[:CHANnel#]:APMode?", lambda c: str(int(self._slot(c).controls_power)))

    def _switch(self, notation: str, attribute: str, words: tuple[str, str], reply: str = "d") -> None:
        def store(call: Call) -> None:
            word = call.text(0).upper()
            setattr(self._slot(call), attribute, word == words[1] if word in words else call.boolean(0))

        self.add(notation, store)
        self.add(notation + "?", lambda c: format(getattr(self._slot(c), attribute), reply))

    def _set_averaging(self, call: Call) -> None:
        self._slot(call).averaging_s = _bounded(call, (2e-3, 1.0), 0.1, {"S": 1.0, "MS": 1e-3})

    def is_complete(self) -> bool:
        return not any(attenuator.moving for attenuator in self.attenuators)

    def _slot(self, call: Call) -> _Attenuator:
        slot = call.suffixes[0]
        if not 1 <= slot <= 2 * len(self.attenuators):
            raise ScpiError(*_EMPTY_SLOT)
        return self.attenuators[(slot - 1) // 2]

    def _attenuation(self, call: Call) -> float:
        return _bounded(call, (0.0, _FILTER_DB), 0.0, _DECIBELS)

    def _ask_attenuation(self, call: Call) -> str:
        attenuator = self._slot(call)
        limits = {"MIN": 0.0, "MAX": _FILTER_DB, "DEF": 0.0}
        if not call.arguments:
            return _float(attenuator.target_db)
        return _float(limits[call.choice(0, "MIN", "MAX", "DEF")] + attenuator.offset_db)

    def _attenuate(self, attenuator: _Attenuator, value_db: float) -> None:
        wanted_db = value_db - attenuator.offset_db
        if not 0.0 <= wanted_db <= _FILTER_DB:
            raise ScpiError(*SETTINGS_CONFLICT)
        attenuator.target_db = value_db
        if attenuator.controls_power:
            return
        self._move(attenuator, abs(wanted_db - attenuator.filter_db) / attenuator.speed_db_per_s)

    def _attenuate_all(self, call: Call) -> None:
        value_db = self._attenuation(call)
        for attenuator in self.attenuators:
            self._attenuate(attenuator, value_db)

    def _set_offset(self, call: Call) -> None:
        attenuator = self._slot(call)
        offset_db = _bounded(call, (-200.0, 200.0), 0.0, _DECIBELS)
        attenuator.target_db += offset_db - attenuator.offset_db
        attenuator.offset_db = offset_db

    def _set_speed(self, call: Call) -> None:
        self._slot(call).speed_db_per_s = _bounded(call, _SPEED_DB_PER_S, self._default_speed, {})

    def _set_wavelength(self, call: Call) -> None:
        self._slot(call).wavelength_m = _bounded(call, _WAVELENGTH_M, 1.55e-6, _METRES)

    def _ask_wavelength(self, call: Call) -> str:
        limits = {"MIN": _WAVELENGTH_M[0], "MAX": _WAVELENGTH_M[1], "DEF": 1.55e-6}
        word = call.choice(0, "MIN", "MAX", "DEF") if call.arguments else ""
        return _float(limits[word] if word else self._slot(call).wavelength_m)

    def _shut(self, attenuator: _Attenuator, opened: bool) -> None:
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
        for attenuator in self.attenuators:
            self._shut(attenuator, opened)

    def _reset(self, call: Call) -> None:
        self.errors.clear()
        for attenuator in self.attenuators:
            attenuator.offset_db, attenuator.wavelength_m = 0.0, 1.55e-6
            attenuator.speed_db_per_s = self._default_speed
            attenuator.controls_power = attenuator.open_at_power_on = False
            attenuator.in_watt, attenuator.averaging_s = False, 0.1
            self._attenuate(attenuator, 0.0)
            self._shut(attenuator, False)

    def leave(self) -> None:
        """The state in which an earlier user left it: offsets, power control, hardly any attenuation, all open."""
        for attenuator in self.attenuators:
            attenuator.offset_db, attenuator.filter_db, attenuator.target_db = 10.0, 1.0, 11.0
            attenuator.wavelength_m, attenuator.speed_db_per_s = 1.31e-6, 200.0
            attenuator.controls_power = attenuator.open_at_power_on = True
            attenuator.in_watt, attenuator.averaging_s = True, 1.0
            attenuator.shutter = attenuator.is_open = True
            self._on_channel(attenuator.number, attenuator.filter_db, attenuator.is_open)
        self.errors.push(ScpiError(-410, "Query INTERRUPTED"))
        self.errors.push(ScpiError(*SETTINGS_CONFLICT))

    def _move(self, attenuator: _Attenuator, travel_s: float) -> None:
        """Start a move that ends after ``travel_s``; a later move replaces it."""
        attenuator.move += 1
        move = attenuator.move
        if travel_s <= 0.0:
            self._arrive(attenuator, move)
        else:
            attenuator.moving = True
            self._schedule(travel_s, lambda: self._arrive(attenuator, move))

    def _arrive(self, attenuator: _Attenuator, move: int) -> None:
        with self.lock:
            if move != attenuator.move:
                return
            attenuator.moving = attenuator.opening = False
            if not attenuator.controls_power:
                attenuator.filter_db = attenuator.target_db - attenuator.offset_db
            attenuator.is_open = attenuator.shutter
            self._on_channel(attenuator.number, attenuator.filter_db, attenuator.is_open)


def _bounded(call: Call, limits: tuple[float, float], default: float, units: Mapping[str, float]) -> float:
    """Argument 0: a number with one of ``units`` within ``limits``, or MIN, MAX, DEF."""
    word = call.text(0).upper()
    named = {"MIN": limits[0], "MAX": limits[1], "DEF": default}
    if word in named:
        return named[word]
    value = call.number(0, units)
    if value > limits[1]:
        raise ScpiError(*_TOO_LARGE)
    if value < limits[0]:
        raise ScpiError(*_TOO_SMALL)
    return value


def _float(value: float) -> str:
    """The guide's form, ``+1.55000000E-006``."""
    mantissa, _, exponent = f"{value:+.8E}".partition("E")
    return f"{mantissa}E{int(exponent):+04d}"


def build(site: Site) -> Simulated:
    """The four attenuators, each in the light where its channel serves."""

    def on_channel(number: int, attenuation_db: float, is_open: bool) -> None:
        site.set_attenuation(f"ch{number}", attenuation_db, is_open)

    twin = N7764ATwin(on_channel=on_channel, serial=site.number)
    return Simulated(twin, lambda: twin.serve(site.host, *site.ports))


class N7764ATwin:
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
        speed_db_per_s: float = _SPEED_DB_PER_S[1],
        schedule: Schedule = _later,
        left_by_someone: bool = False,
    ) -> None:
        self.faults = FaultInjector()
        identity = IDENTITY.format(model=model, serial=serial)
        self._device = _Device(identity, self.faults, on_channel, speed_db_per_s, schedule)
        if left_by_someone:
            self._device.leave()
        self._server = ScpiServer(self._device, self.faults)

    def serve(self, host: str, port: int) -> str:
        """Listen on ``host`` and return the VISA address."""
        return self._server.serve(host, port)

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    def is_safe(self) -> bool:
        """Every shutter is closed."""
        with self._device.lock:
            return not any(attenuator.is_open for attenuator in self._device.attenuators)

    def state(self) -> dict[str, object]:
        """What the light meets, per channel, and the number of queued errors."""
        device = self._device
        with device.lock:
            return {
                "attenuation_db": {a.number: a.filter_db for a in device.attenuators},
                "open": {a.number: a.is_open for a in device.attenuators},
                "wavelength_nm": {a.number: a.wavelength_m * 1e9 for a in device.attenuators},
                "offset_db": {a.number: a.offset_db for a in device.attenuators},
                "controls_power": {a.number: a.controls_power for a in device.attenuators},
                "open_at_power_on": {a.number: a.open_at_power_on for a in device.attenuators},
                "moving": {a.number: a.moving for a in device.attenuators},
                "errors": len(device.errors),
            }
