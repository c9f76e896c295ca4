"""TOPTICA DLC pro with a CTL head: a tunable diode laser behind a controller on the network.

Light needs three things of people and one of us: the interlock closed, the front key turned, the emission button
pressed, and the current of the laser on.  This driver switches the current alone; what people must do it tells, and never
does for them.

The current sets what comes out, so the power is held by the controller's power stabilization, whose set point is in mW
(DLC pro manual, "Stabilization": ``laser1:power-stabilization:...`` with levels in mW).  Unverified, as no source lists
the channels of ``input-channel``: it must be the head's own photodiode, which is how the operator sets it up at the front
panel; ``power_readout_mw`` is what the head measures.

A controller keeps its settings over a power cycle, so it is found as somebody left it.  Connecting brings it to a known
state: stabilization on, and everything off that moves current or wavelength by itself - scan, lock, analogue inputs.
Light that is found on with any of that otherwise, or with a set point beyond a limit, is switched off.

Parameters: toptica-lasersdk 3.3 ``toptica/lasersdk/dlcpro/v3_3_3.py``.  ``laser1:ctl:state`` is 0 at rest (unverified).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

from qcodes.validators import Bool

from drivers.base import Identity, LabInstrument
from drivers.lasers.decof_line import DecofLine, real, switch, text
from drivers.links.addresses import split_address
from drivers.links.errors import InstrumentRefusedError, LimitError, NotReadyError, WrongInstrumentError
from drivers.links.limits import Within
from drivers.settings import Quantity

log = logging.getLogger(__name__)

T = TypeVar("T")
COMMAND_PORT = 1998
POWER_STEP_MW, WAVELENGTH_STEP_NM = 0.01, 1e-3
POSSIBLE_MW, POSSIBLE_NM = real(-1.0, 1e4), real(300.0, 3000.0)
KNOWN_STATE = {
    "power-stabilization:enabled": True,
    "scan:enabled": False,
    "dl:lock:lock-enabled": False,
    "dl:cc:external-input:enabled": False,
    "dl:cc:feedforward-enabled": False,
    "dl:pc:external-input:enabled": False,
    "ctl:remote-control:enabled": False,
}
"""What must be so of a laser, for its set points to be what comes out."""


class DLCPro(LabInstrument):
    """The laser ``laser`` (1 or 2) of the controller at ``"host"`` or ``"host:port"``.

    ``max_power_mw`` and ``wavelength_limits_nm`` are hard limits of the set-up: for what is set, and for what is found stored
    before emission.  ``wavelength_nm`` is tuned to whenever the laser is brought up; left out, the wavelength stays as it
    is.  A motor tunes, for ``move_timeout_s`` at most.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        laser: Literal[1, 2] = 1,
        max_power_mw: float = 50.0,
        wavelength_limits_nm: tuple[float, float] = (1460.0, 1650.0),
        wavelength_nm: float | None = None,
        timeout_s: float = 2.0,
        move_timeout_s: float = 60.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        if not max_power_mw > 0:
            raise self.error(
                LimitError, f"max_power_mw = {max_power_mw:g} leaves nothing to set; give a value above 0"
            )
        host, port = split_address(address, COMMAND_PORT)
        self.link = DecofLine(host, port, instrument=name, timeout_s=timeout_s, bring_up=self.bring_up)
        self.links = (self.link,)
        self._laser = f"laser{laser}"
        self._max_power_mw = max_power_mw
        self._wavelength_limits_nm = wavelength_limits_nm
        self._tune_to_nm = wavelength_nm
        self._move_timeout_s = move_timeout_s
        if (
            wavelength_nm is not None
            and not wavelength_limits_nm[0] <= wavelength_nm <= wavelength_limits_nm[1]
        ):
            raise self.error(LimitError, f"wavelength_nm = {wavelength_nm:g} is outside wavelength_limits_nm")
        self._add_settings()
        self._add_readings()

    def _add_settings(self) -> None:
        self.emission: Quantity = self.add_setting(
            "emission",
            label="Emission",
            get=lambda: self._get("dl:cc:enabled", switch),
            put=self._switch,
            limits=Bool(),
            docstring="Whether the laser's current is on; switching on holds the stored set points against the limits first.",
        )
        self.power_mw: Quantity = self.add_setting(
            "power_mw",
            label="Power setpoint",
            unit="mW",
            get=lambda: self._get("power-stabilization:setpoint", POSSIBLE_MW),
            put=lambda mw: self._put("power-stabilization:setpoint", float(mw)),
            limits=Within(0.0, self._max_power_mw, "mW"),
            resolution=POWER_STEP_MW,
        )
        self.wavelength_nm: Quantity = self.add_setting(
            "wavelength_nm",
            label="Wavelength setpoint",
            unit="nm",
            get=lambda: self._get("ctl:wavelength-set", POSSIBLE_NM),
            put=self._tune,
            limits=Within(*self._wavelength_limits_nm, "nm"),
            resolution=WAVELENGTH_STEP_NM,
            docstring="Setting it returns once the motor is at rest.",
        )

    def _add_readings(self) -> None:
        add, get = self.add_reading, self._get
        add(
            "power_readout_mw",
            label="Emitted power",
            unit="mW",
            get=lambda: get("ctl:power:power-act", POSSIBLE_MW),
            resolution=POWER_STEP_MW,
        )
        add(
            "wavelength_readout_nm",
            label="Wavelength",
            unit="nm",
            get=lambda: get("ctl:wavelength-act", POSSIBLE_NM),
            resolution=WAVELENGTH_STEP_NM,
        )
        add(
            "current_ma",
            label="Laser current",
            unit="mA",
            get=lambda: get("dl:cc:current-act", real(-1.0, 1e4)),
            resolution=0.01,
        )
        add(
            "temperature_c",
            label="Laser diode temperature",
            unit="degC",
            get=lambda: get("dl:tc:temp-act", real(-100.0, 200.0)),
            resolution=0.01,
        )
        add("emitting", label="Light comes out", get=lambda: get("emission", switch))
        add("interlock_open", label="Interlock open", get=lambda: self.link.read("interlock-open", switch))
        add("key_locked", label="Front key locked", get=lambda: self.link.read("frontkey-locked", switch))
        add(
            "emission_button",
            label="Emission button pressed",
            get=lambda: self.link.read("emission-button-enabled", switch),
        )
        add("health", label="Health of the laser", get=lambda: get("health-txt", text))

    def identify(self) -> Identity:
        """System type, serial number and firmware.  Raises WrongInstrumentError for anything but a DLC pro with a CTL head."""
        system = self.link.read("system-type", text)
        if system.replace(" ", "").lower() != "dlcpro":
            raise self.error(WrongInstrumentError, f"the controller is a {system[:40]!r}, not a DLC pro")
        try:
            self._get("ctl:wavelength-set", POSSIBLE_NM)
        except InstrumentRefusedError as error:
            raise self.error(
                WrongInstrumentError,
                f"{self._laser} is no head of the CTL series, whose wavelength and power this driver sets ({error})",
            ) from error
        serial, firmware = (self.link.read(each, text) for each in ("serial-number", "fw-ver"))
        return Identity("TOPTICA", "DLC pro", serial, firmware)

    def know_state(self) -> None:
        """What must be so, the wavelength of the set-up; no light that was on with anything else or beyond a limit."""
        wrong = self._out_of_state()
        beyond = [*self._beyond_limits(), *wrong.values()]
        if self.emission.get():
            if beyond:
                self._dark()
            log.warning(
                "%s at %s: found emitting; %s",
                self.name,
                self.address,
                f"the current is switched off, because of {', '.join(beyond)}" if beyond else "left as it is",
            )
        elif beyond:
            log.warning("%s at %s: found with %s", self.name, self.address, ", ".join(beyond))
        self._bring_to_state(wrong)
        if self._tune_to_nm is not None:
            self.wavelength_nm.set(self._tune_to_nm)

    def restore_passive(self) -> None:
        """The current off, power and wavelength as they were."""
        self._dark()
        self.restore(self.power_mw, self.wavelength_nm)

    def _out_of_state(self) -> dict[str, str]:
        """Parameters of the known state that are otherwise, each with words for how."""
        found = {}
        for name, wanted in KNOWN_STATE.items():
            try:
                held = self._get(name, switch)
            except InstrumentRefusedError:
                if wanted:
                    raise
                continue  # a head without the feature is as good as one with it off
            if held is not wanted:
                found[name] = f"{name} {'on' if held else 'off'}"
        return found

    def _bring_to_state(self, names: dict[str, str]) -> None:
        for name in names:
            self._put(name, KNOWN_STATE[name])
            if self._get(name, switch) is not KNOWN_STATE[name]:
                raise self.error(
                    InstrumentRefusedError, f"{self._laser}:{name} stays as it was when it was set"
                )

    def _beyond_limits(self) -> Iterator[str]:
        """Stored set points that the set-up does not allow."""
        if (mw := self.power_mw.get()) > self._max_power_mw + POWER_STEP_MW / 2:
            yield f"a stored power set point of {mw:.2f} mW, above max_power_mw = {self._max_power_mw:g} mW"
        low, high = self._wavelength_limits_nm
        if not low <= (nm := self.wavelength_nm.get()) <= high:
            yield f"a stored wavelength of {nm:.3f} nm, outside wavelength_limits_nm"

    def _switch(self, on: bool) -> None:
        if not on:
            self._put("dl:cc:enabled", False)
            return
        if beyond := list(self._beyond_limits()):
            raise self.error(
                LimitError,
                f"emission stays off: the laser has {' and '.join(beyond)}; set power_mw and wavelength_nm to allowed "
                "values first",
            )
        if missing := self._missing_of_people():
            raise self.error(NotReadyError, f"emission stays off: {missing}")
        self._bring_to_state(self._out_of_state())
        self.must_end_dark()
        self._put("dl:cc:enabled", True)

    def _missing_of_people(self) -> str:
        """What somebody must do at the controller before light can come; "" when nothing."""
        read = self.link.read
        found = [
            what
            for name, blocking, what in (
                ("interlock-open", True, "the interlock is open; close it, then press the emission button"),
                ("frontkey-locked", True, "the front key is locked; turn it, then press the emission button"),
                ("emission-button-enabled", False, "the emission button is not pressed; press it"),
            )
            if read(name, switch) is blocking
        ]
        return found[0] if found else ""

    def _tune(self, wavelength_nm: float) -> None:
        self._put("ctl:wavelength-set", float(wavelength_nm))
        self.link.wait_until(
            lambda: self._get("ctl:state", int) == 0,
            self._move_timeout_s,
            f"tuning to {wavelength_nm:.3f} nm",
        )

    def check_emitting(self) -> None:
        """NotReadyError with the laser's own reason unless it emits."""
        if not self._get("emission", switch):
            why = self._missing_of_people() or f"its health is {self._get('health-txt', text)[:80]!r}"
            raise self.error(NotReadyError, f"the laser does not emit; {why}")

    def safe_state(self) -> None:
        """Switch the current off; judged by what the controller says of current and light."""
        self.link.urgently(self._dark)

    def _dark(self) -> None:
        self._put("dl:cc:enabled", False)
        if self._get("dl:cc:enabled", switch) or self._get("emission", switch):
            raise self.error(
                NotReadyError, "the laser emits after its current was switched off; turn the front key"
            )

    def ask_raw(self, cmd: str) -> str:
        """``ask("laser1:health-txt")``: the value of a parameter as the controller writes it."""
        return self.link.read(self.link.one_line(cmd).strip(), str)

    def write_raw(self, cmd: str) -> None:
        """Refused: every parameter that moves light has limits, so only the settings of this driver are written."""
        raise self.error(
            LimitError,
            f"{cmd[:40]!r} was not sent: it could get round the limits; set power_mw, wavelength_nm or emission",
        )

    def _get(self, name: str, parse: Callable[[str], T]) -> T:
        return self.link.read(f"{self._laser}:{name}", parse)

    def _put(self, name: str, value: bool | float) -> None:
        self.link.put(f"{self._laser}:{name}", value)
