"""The power sensors of simulated Keysight boxes: settings that outlive their user, noise, scale and zero errors.

Written from the clients named in :mod:`drivers.powermeters.keysight_sensors` and from the head's data sheet.  What is no
measurement reads +3.40282300E+038: a power above the range, nothing or less in dBm, a sensor that takes its zero or
waits for a trigger.  While a sensor measures by itself ``*OPC?`` never says 1 (found by a user of an 8163A), and while it
acquires data for its own memory some settings are refused (-221).  ``READ`` is answered after the averaging time, with the mean
of the light in it; the box goes on serving others meanwhile.

The diode gives a current in proportion to its wavelength, so a sensor that is set to another wavelength than the light's
reads wrong by their ratio.  Scale, zero and noise are the sensor's own secret; a zero ends with what reached the sensor
taken for darkness, and fails (a code other than 0) where that is much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

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
from sim_backends.powermeters.averaging import Averaging
from sim_backends.schedule import Schedule
from sim_backends.servers import SETTINGS_CONFLICT, Call, ScpiError

NO_VALUE = "+3.40282300E+038"
ZERO_FAILED = 1
"""Any code but 0: which one the instrument has for light at its input is not published."""
_DEFAULT_M = 1.55e-6
_ZERO_AVERAGED_S = 10.0
"""What an instrument spends on finding its zero; how noisy that is does not depend on how long it takes here."""
_RANGES_DBM = (-110.0, 30.0)
_CORRECTION_DB = (-200.0, 200.0)
_FUNCTIONS = {"LOGG": "LOGGING_STABILITY", "STAB": "LOGGING_STABILITY", "MINM": "MINMAX"}

ReadPower = Callable[[int], float]


@dataclass(frozen=True)
class Make:
    """What sensors of one make have in common.

    A zero that was never taken is off by at most ``zero_error_w``; ``noise_w`` is the standard deviation of a reading
    averaged over one second; the reading is wrong by a factor of at most ``1 +- scale_error``.  ``zero_s`` is what a
    zero takes, averaging all the while.  Readings take their averaging time divided by ``speed``.
    """

    zero_error_w: float
    noise_w: float
    scale_error: float
    top_w: float
    dark_w: float
    wavelength_m: tuple[float, float]
    averaging_s: tuple[float, float]
    zero_s: float = 10.0
    speed: float = 1.0

    def off_by(self, spread: float) -> Make:
        """The same with errors of ``spread`` times the usual ones."""
        return replace(self, zero_error_w=spread * self.zero_error_w, scale_error=spread * self.scale_error)

    def hurried(self, speed: float) -> Make:
        """The same whose readings and zeros take their time divided by ``speed``."""
        return replace(self, zero_s=self.zero_s / speed, speed=speed)

    def exact(self, zero_s: float = 0.0) -> Make:
        """The same without any error, and quick: for tests against the light itself."""
        return replace(self, zero_error_w=0.0, noise_w=0.0, scale_error=0.0, zero_s=zero_s, speed=math.inf)


@dataclass
class Sensor:
    """One sensor; ``scale`` and ``zero_w`` are hidden."""

    number: int
    scale: float
    zero_w: float
    in_watt: bool = False
    relative: bool = False
    correction_db: float = 0.0
    wavelength_m: float = _DEFAULT_M
    averaging_s: float = 0.1
    auto_range: bool = True
    range_dbm: float = 10.0
    continuous: bool = True
    trigger: str = "IGN"
    function: str = "NONE"
    zeroing: bool = False
    zero_code: int = 0


class Sensors(Part):
    """Sensors in ``slots``, all of one ``make``.

    ``read_power_w(slot)`` is the light on one, at ``light_nm``; ``schedule(delay_s, action)`` runs the end of a zero.
    """

    def __init__(
        self,
        device: KeysightDevice,
        slots: tuple[int, ...],
        make: Make,
        *,
        read_power_w: ReadPower,
        light_nm: float,
        rng: np.random.Generator,
        schedule: Schedule,
    ) -> None:
        self._make = make
        self._averaging = Averaging(make.noise_w, rng, device.rest, make.speed)
        self.all = [
            Sensor(
                slot,
                scale=1 + make.scale_error * rng.uniform(-1, 1),
                zero_w=make.zero_error_w * rng.uniform(-1, 1),
            )
            for slot in slots
        ]
        self._by_slot = {each.number: each for each in self.all}
        self._read_power_w = read_power_w
        self._light_m = light_nm * 1e-9
        self._schedule = schedule
        self._lock = device.lock
        device.parts.append(self)
        for name in ("READ", "FETCh"):
            device.add(f"{name}#[:CHANnel#][:SCALar]:POWer[:DC]?", lambda c: self._read(self._slot(c)))
        device.add("INITiate#[:CHANnel#][:IMMediate]", self._measure_once)
        self._declare_settings(device)
        self._declare_actions(device)

    def _declare_settings(self, device: KeysightDevice) -> None:
        sense, power = "SENSe#[:CHANnel#]", "SENSe#[:CHANnel#]:POWer"

        def on_or_off(notation: str, attribute: str, words: tuple[str, str]) -> None:
            device.add(notation, lambda c: setattr(self._slot(c), attribute, switch(c, words)))
            device.add(notation + "?", lambda c: f"{getattr(self._slot(c), attribute):+d}")

        def number(
            notation: str,
            attribute: str,
            limits: tuple[float, float],
            default: float,
            units: Mapping[str, float],
        ) -> None:
            def store(call: Call) -> None:
                setattr(self._idle(call), attribute, bounded(call, limits, default, units))

            device.add(notation, store)
            device.add(notation + "?", lambda c: asked(c, getattr(self._slot(c), attribute), limits, default))

        on_or_off(f"{power}:UNIT", "in_watt", ("DBM", "WATT"))
        on_or_off(f"{power}:REFerence:STATe", "relative", ("OFF", "ON"))
        on_or_off(f"{power}:RANGe:AUTO", "auto_range", ("OFF", "ON"))
        number(
            f"{sense}:CORRection[:LOSS][:INPut][:MAGNitude]", "correction_db", _CORRECTION_DB, 0.0, DECIBELS
        )
        number(f"{power}:WAVelength", "wavelength_m", self._make.wavelength_m, _DEFAULT_M, METRES)
        number(f"{power}:ATIMe", "averaging_s", self._make.averaging_s, 0.1, SECONDS)
        number(f"{power}:RANGe[:UPPer]", "range_dbm", _RANGES_DBM, 10.0, {"DBM": 1.0})

    def _declare_actions(self, device: KeysightDevice) -> None:
        sense = "SENSe#[:CHANnel#]"
        device.add("INITiate#[:CHANnel#]:CONTinuous", self._set_continuous)
        device.add("INITiate#[:CHANnel#]:CONTinuous?", lambda c: f"+{int(self._slot(c).continuous)}")
        device.add("TRIGger#[:CHANnel#]:INPut", self._set_trigger)
        device.add("TRIGger#[:CHANnel#]:INPut?", lambda c: self._slot(c).trigger)
        device.add(f"{sense}:FUNCtion:STATe", self._set_function)
        device.add(f"{sense}:FUNCtion:STATe?", lambda c: f"{self._slot(c).function},PROGRESS")
        device.add(f"{sense}:CORRection:COLLect:ZERO", lambda c: self._zero([self._slot(c)]))
        device.add(f"{sense}:CORRection:COLLect:ZERO?", lambda c: f"+{self._slot(c).zero_code}")
        device.add("SENSe[:CHANnel#]:CORRection:COLLect:ZERO:ALL", lambda c: self._zero(self.all))

    def _slot(self, call: Call) -> Sensor:
        try:
            return self._by_slot[call.suffixes[0]]
        except KeyError:
            raise ScpiError(*EMPTY_SLOT) from None

    def _idle(self, call: Call) -> Sensor:
        """The sensor; -221 while it is busy with something of its own."""
        sensor = self._slot(call)
        if sensor.zeroing or sensor.function != "NONE":
            raise ScpiError(*SETTINGS_CONFLICT)
        return sensor

    def _measure_once(self, call: Call) -> None:
        self._idle(call)

    def _set_continuous(self, call: Call) -> None:
        self._idle(call).continuous = call.boolean(0)

    def _set_trigger(self, call: Call) -> None:
        words = ("IGNore", "SMEasure", "CMEasure", "MMEasure", "PREtrigger", "THReshold")
        self._slot(call).trigger = call.choice(0, *words)

    def _set_function(self, call: Call) -> None:
        sensor = self._slot(call)
        function = _FUNCTIONS[call.choice(0, "LOGGing", "STABility", "MINMax")]
        starts = call.choice(1, "STOP", "STARt") == "STAR"
        if sensor.function not in ("NONE", function):
            raise ScpiError(*SETTINGS_CONFLICT)
        sensor.function = function if starts else "NONE"

    # Measuring

    def _seen(self, sensor: Sensor, light_w: float, averaged_s: float) -> float:
        """What the sensor takes ``light_w`` for before its zero is applied; W."""
        light_w *= self._light_m / sensor.wavelength_m
        return light_w * sensor.scale + self._averaging.noise(averaged_s)

    def _read(self, sensor: Sensor) -> str:
        top_w = self._make.top_w
        if not sensor.auto_range:
            top_w = min(top_w, 1e-3 * 10 ** (sensor.range_dbm / 10))
        idle = sensor.function == "NONE" and sensor.trigger == "IGN" and not sensor.zeroing
        light_w = (
            self._averaging.mean_w(lambda: self._read_power_w(sensor.number), sensor.averaging_s)
            if idle
            else 0.0
        )
        if not idle or not light_w <= top_w:
            return NO_VALUE
        power_w = self._seen(sensor, light_w, sensor.averaging_s) + sensor.zero_w
        power_w *= 10 ** (-sensor.correction_db / 10)
        if sensor.in_watt and not sensor.relative:
            return nr3(power_w)
        if power_w <= 0:
            return NO_VALUE
        return nr3(10 * math.log10(power_w / 1e-3))

    def _zero(self, sensors: list[Sensor]) -> None:
        if any(sensor.zeroing or sensor.function != "NONE" for sensor in sensors):
            raise ScpiError(*SETTINGS_CONFLICT)
        for sensor in sensors:
            sensor.zeroing = True

        def end() -> None:
            with self._lock:
                for sensor in sensors:
                    sensor.zeroing = False
                    light_w = self._read_power_w(sensor.number)
                    sensor.zero_code = 0 if light_w <= self._make.dark_w else ZERO_FAILED
                    if not sensor.zero_code:
                        sensor.zero_w = -self._seen(sensor, light_w, _ZERO_AVERAGED_S)

        if self._make.zero_s > 0:
            self._schedule(self._make.zero_s, end)
        else:
            end()

    # As a part of its box

    def is_busy(self) -> bool:
        """Whether a sensor takes its zero or measures by itself."""
        return any(sensor.zeroing or sensor.continuous for sensor in self.all)

    def reset(self) -> None:
        """Settings as from the factory; the zero stays."""
        for sensor in self.all:
            fresh = Sensor(sensor.number, sensor.scale, sensor.zero_w, zero_code=sensor.zero_code)
            vars(sensor).update(vars(fresh))

    def leave(self) -> None:
        """dBm against a reference, a correction, another wavelength, a fixed range, and minima and maxima under way."""
        for sensor in self.all:
            sensor.in_watt, sensor.relative, sensor.correction_db = False, True, 3.0
            sensor.wavelength_m, sensor.averaging_s = 1.31e-6, self._make.averaging_s[0]
            sensor.auto_range, sensor.range_dbm = False, -30.0
            sensor.continuous, sensor.trigger, sensor.function = True, "SME", "MINMAX"

    def state(self) -> dict[str, object]:
        """Settings by slot."""
        return {
            "sensor_wavelength_nm": {s.number: s.wavelength_m * 1e9 for s in self.all},
            "averaging_s": {s.number: s.averaging_s for s in self.all},
            "unit": {s.number: "W" if s.in_watt else "dBm" for s in self.all},
            "relative": {s.number: s.relative for s in self.all},
            "correction_db": {s.number: s.correction_db for s in self.all},
            "auto_range": {s.number: s.auto_range for s in self.all},
            "continuous": {s.number: s.continuous for s in self.all},
            "trigger": {s.number: s.trigger for s in self.all},
            "function": {s.number: s.function for s in self.all},
            "zeroing": {s.number: s.zeroing for s in self.all},
        }
