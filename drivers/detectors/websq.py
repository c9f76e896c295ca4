"""Single Quantum WebSQ controller of superconducting nanowire detectors (SNSPD).

Two TCP connections: JSON control on port 12000 (:mod:`drivers.detectors.websq_labels`), ASCII counts on port 12345
(:mod:`drivers.detectors.websq_counts`).  The control protocol acknowledges nothing, so every setting is judged by its
label, which is read until it shows the value or ``settle_s`` is over.
Sources: vendor's ``WebSQControl.py``; qcodes_contrib_drivers ``SingleQuantum.py``.

The controller remembers currents and levels of whoever used it last, so they are held against the limits of this set-up
before detectors are enabled; detectors found enabled beyond them are disabled.  A calibration or current scan that the
vendor's interface runs drives the detectors by itself and is refused.  Biasing detectors is never done by itself:
after a possible restart they are off, with trigger levels and measurement period as they were.

It has no serial number and tells no firmware: two controllers differ by their address and number of detectors only.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from qcodes.validators import Bool

from drivers.base import Identity, LabChannel, LabInstrument
from drivers.detectors.websq_counts import CountsLink
from drivers.detectors.websq_labels import REQUIRED_LABELS, ControlLink, Labels
from drivers.links.addresses import split_address
from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    MalformedReplyError,
    NotReadyError,
    WrongInstrumentError,
)
from drivers.links.limits import ListWithin, Within, floats
from drivers.links.link import Link
from drivers.settings import Quantity, same

log = logging.getLogger(__name__)

CONTROL_PORT = 12000
COUNTS_PORT = 12345
# Neither source bounds trigger levels: 1 V (default of max_trigger_mv) is a choice of ours.
BIAS_LIMIT_UA = 90.9  # the controller's own limit in current scans
MIN_PERIOD_MS = 10.0
# Neither source gives the steps of the converters; these are what a user would notice.
BIAS_RESOLUTION_UA = 0.1
TRIGGER_RESOLUTION_MV = 1.0
SCANS = {"StartAutoIV": "AutoCaliBiasCurrents", "IVScanEnable": "IVScanEnable"}
"""Label that shows a calibration or current scan -> command that starts it and, with false, stops it."""


class WebSQ(LabInstrument):
    """The controller at ``"host"`` or ``"host:port"``; ``ch1``, ``ch2``, ... are its detectors, once connected.

    ``max_bias_ua`` and ``max_trigger_mv`` are hard limits of the set-up; ``timeout_s`` bounds one request and
    ``settle_s`` how long a setting may take to show in its label.
    """

    def __init__(
        self,
        name: str,
        address: str,
        *,
        counts_port: int = COUNTS_PORT,
        max_bias_ua: float = 40.0,
        max_trigger_mv: float = 1000.0,
        timeout_s: float = 2.0,
        settle_s: float = 5.0,
        poll_interval_s: float = 0.02,
        pause: Callable[[float], None] = time.sleep,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        host, port = split_address(address, CONTROL_PORT)
        self.link = ControlLink(
            host, port, instrument=name, timeout_s=timeout_s, talkative=True, bring_up=self.bring_up
        )
        self.links = (self.link,)
        self._counts = CountsLink(host, counts_port, instrument=name, timeout_s=timeout_s)
        self._settle_s = settle_s
        self._poll_interval_s = poll_interval_s
        self._pause = pause
        self._passive: dict[str, tuple[str, object, float]] = {}  # label -> command, value, resolution
        self.max_bias_ua = min(max_bias_ua, BIAS_LIMIT_UA)
        self.max_trigger_mv = max_trigger_mv
        self.bias_current_ua: Quantity = self.add_setting(
            "bias_current_ua",
            label="Bias currents",
            unit="uA",
            get=lambda: self.link.read_numbers("BiasCurrent"),
            put=self.put_currents,
            limits=ListWithin(-self.max_bias_ua, self.max_bias_ua, "uA"),
            resolution=BIAS_RESOLUTION_UA,
            set_parser=floats,
        )
        self.trigger_level_mv: Quantity = self.add_setting(
            "trigger_level_mv",
            label="Trigger levels",
            unit="mV",
            get=lambda: self.link.read_numbers("TriggerLevel"),
            put=self.put_levels,
            limits=ListWithin(-max_trigger_mv, max_trigger_mv, "mV"),
            resolution=TRIGGER_RESOLUTION_MV,
            set_parser=floats,
        )
        self.enabled: Quantity = self.add_setting(
            "enabled",
            label="Detectors biased",
            get=lambda: self.link.switch(self.link.read_labels(), "DetectorEnable"),
            put=self._put_enabled,
            limits=Bool(),
        )
        self.add_setting(
            "measurement_period_ms",
            label="Measurement period",
            unit="ms",
            get=lambda: self.link.number(self.link.read_labels(), "InptMeasurementPeriod"),
            put=self._put_period,
            limits=Within(MIN_PERIOD_MS, 60000.0, "ms"),
            resolution=1e-3,
        )
        self.add_reading(
            "n_detectors",
            label="Number of detectors",
            get=lambda: self.link.count_detectors(self.link.read_labels()),
        )
        self.add_reading(
            "bias_voltage_mv",
            label="Bias voltages",
            unit="mV",
            get=self._read_voltages,
        )
        self.count_rates = self.add_curve(
            "count_rates",
            label="Count rates",
            unit="1/s",
            get=self._measure_count_rates,
            axis="detector",
            axis_label="Detector",
            axis_unit="",
            axis_points=lambda: np.arange(1, len(self._channels()) + 1),
            docstring="Counts per second of each detector, from one whole measurement period that began after the call.",
        )

    def every_link(self) -> dict[str, Link]:
        """Control and counts."""
        return {"": self.link, "counts_port": self._counts}

    # Identity, known state and safe state

    def identify(self) -> Identity:
        """The protocol has no identity query: WrongInstrumentError unless the typical labels are there."""
        missing = REQUIRED_LABELS - self.link.read_labels().keys()
        if missing:
            raise self.error(
                WrongInstrumentError, f"no WebSQ: the labels {', '.join(sorted(missing))} are missing"
            )
        return Identity("Single Quantum", "WebSQ", "", "")

    def know_state(self) -> None:
        """Offer a channel per detector, refuse a running scan, disable detectors found biased beyond the limits."""
        labels = self.link.read_labels()
        for label in ("BiasCurrent", "TriggerLevel"):
            self.link.per_detector(labels, label)
        self._offer_channels(self.link.count_detectors(labels))
        self._refuse_scan(labels)
        if self.link.switch(labels, "DetectorEnable") and (beyond := self._beyond_limits(labels)):
            log.warning("%s at %s: found enabled with %s; disabled", self.name, self.address, beyond)
            self._put_enabled(False)

    def restore_passive(self) -> None:
        """Detectors off, trigger levels and measurement period as they were."""
        self._put_enabled(False)
        for label, (command, value, resolution) in self._passive.items():
            self._put(command, label, value, resolution)

    def check_biased(self) -> None:
        """NotReadyError unless the detectors are biased, as after a power cut of the controller."""
        if not self.enabled():
            raise self.error(
                NotReadyError, "the detectors are not biased any more; did the controller restart?"
            )

    def safe_state(self) -> None:
        """Take the bias off all detectors, and stop what biases them by itself."""
        self.link.urgently(self._take_bias_off)

    def _take_bias_off(self) -> None:
        deadline = self.link.now() + self._settle_s
        busy = True
        while busy:
            self._send("DetectorEnable", "DetectorEnable", False)
            labels = self.link.read_labels()
            scans = [command for label, command in SCANS.items() if labels.get(label, False) is not False]
            for command in scans:
                self._send(command, command, False)
            busy = bool(self._running_scans(labels)) or self.link.switch(labels, "DetectorEnable")
            if busy and self.link.now() > deadline:
                raise self.error(
                    NotReadyError,
                    f"the detectors are not off {self._settle_s:g} s after they were switched off; "
                    "cut the controller's power",
                )
            if busy:
                self._pause(self._poll_interval_s)

    def _refuse_scan(self, labels: Labels) -> None:
        for label, command in self._running_scans(labels).items():
            raise self.error(
                NotReadyError,
                f"{label} shows that an automatic calibration or current scan runs ({command}), which drives the "
                "detectors by itself; wait for its end or stop it in the vendor's interface",
            )

    def _running_scans(self, labels: Labels) -> dict[str, str]:
        """The labels that show a running scan, with the command of each."""
        return {
            label: command
            for label, command in SCANS.items()
            if label in labels and self.link.switch(labels, label)
        }

    def _beyond_limits(self, labels: Labels) -> str:
        """The stored currents and levels that this set-up does not allow, in words; "" when all are allowed."""
        found = []
        for label, limit, unit in (
            ("BiasCurrent", self.max_bias_ua, "uA"),
            ("TriggerLevel", self.max_trigger_mv, "mV"),
        ):
            for number, value in enumerate(self.link.numbers(labels, label), start=1):
                if abs(value) > limit:
                    found.append(f"{label} of detector {number} at {value:g} {unit} (limit {limit:g} {unit})")
        return ", ".join(found)

    def __getattr__(self, key: str) -> object:
        """``ch1`` to ``chN`` are known once the controller said how many it has: their first use connects."""
        if self.identity is None and re.fullmatch(r"ch\d+", key):
            self.connect()
        return super().__getattr__(key)

    def _offer_channels(self, detectors: int) -> None:
        """Have ``ch1`` to ``chN``, whatever there was before."""
        have = self._channels()
        want = [f"ch{number}" for number in range(1, detectors + 1)]
        for name in have.difference(want):
            del self.submodules[name]
            self.instrument_modules.pop(name, None)
        for number, name in enumerate(want, start=1):
            if name not in have:
                self.add_submodule(name, Detector(self, name, number))

    def _channels(self) -> set[str]:
        return {name for name in self.submodules if name.startswith("ch")}

    def _read_voltages(self) -> list[float]:
        labels = self.link.read_labels()
        return self.link.per_detector(
            {**labels, "BiasVoltage": self.link.ask_value("BiasVoltage")}, "BiasVoltage"
        )

    def _measure_count_rates(self) -> npt.NDArray[np.float64]:
        labels = self.link.read_labels()
        period_s = self.link.number(labels, "InptMeasurementPeriod") / 1000
        if period_s <= 0:
            raise self.error(MalformedReplyError, f"a measurement period of {period_s:g} s")
        counts = self._counts.measure(self.link.count_detectors(labels), period_s)
        return np.array(counts, np.float64) / period_s

    # Settings

    def put_currents(self, wanted: Sequence[float | None]) -> None:
        """Set bias currents in uA; None leaves a detector's as it is (``SetAllBiasCurrents``)."""
        self._put_list("SetAllBiasCurrents", "BiasCurrent", wanted, BIAS_RESOLUTION_UA)

    def put_levels(self, wanted: Sequence[float | None]) -> None:
        """Set trigger levels in mV; None leaves a detector's as it is (``SetAllTriggerLevels``)."""
        levels = self._put_list("SetAllTriggerLevels", "TriggerLevel", wanted, TRIGGER_RESOLUTION_MV)
        self._passive["TriggerLevel"] = ("SetAllTriggerLevels", levels, TRIGGER_RESOLUTION_MV)

    def _put_list(
        self, command: str, label: str, wanted: Sequence[float | None], resolution: float
    ) -> list[float]:
        with self.link.transaction():  # nobody changes one detector while we set another
            labels = self.link.read_labels()
            stored = self.link.numbers(labels, label)
            if len(wanted) != self.link.count_detectors(labels) or len(wanted) != len(stored):
                raise self.error(
                    LimitError,
                    f"{label}: {len(wanted)} values for {self.link.count_detectors(labels)} detectors",
                )
            self._refuse_scan(labels)
            values = [old if new is None else new for new, old in zip(wanted, stored, strict=True)]
            self._send(command, label, values)
        self._await(command, label, values, resolution)
        return values

    def _put_enabled(self, on: bool) -> None:
        with self.link.transaction():
            self._send_enabled(on)
        self._await("DetectorEnable", "DetectorEnable", on, 0.0)

    def _send_enabled(self, on: bool) -> None:
        if on:
            self.must_end_dark()
            labels = self.link.read_labels()
            self._refuse_scan(labels)
            if beyond := self._beyond_limits(labels):
                raise self.error(
                    LimitError,
                    f"the controller has {beyond} stored; set allowed values before enabling detectors",
                )
        self._send("DetectorEnable", "DetectorEnable", on)

    def _put_period(self, period_ms: float) -> None:
        command, label = "SetMeasurementPeriod", "InptMeasurementPeriod"
        self._put(command, label, period_ms, 1e-3)
        self._passive[label] = (command, period_ms, 1e-3)

    def _put(self, command: str, label: str, value: object, resolution: float) -> None:
        self._send(command, label, value)
        self._await(command, label, value, resolution)

    def _send(self, command: str, label: str, value: object) -> None:
        self.link.send({"command": command, "label": label, "value": value})

    def _await(self, command: str, label: str, value: object, resolution: float) -> None:
        """Read a label until it shows ``value``.  Raises InstrumentRefusedError when it does not in time."""
        errors, _ = self.link.errors
        try:
            self.link.wait_until(
                lambda: same(value, self.link.read_label(label), resolution),
                self._settle_s,
                f"{command} {value!r}",
                poll_s=self._poll_interval_s,
                pause=self._pause,
            )
        except NotReadyError as error:
            count, text = self.link.errors
            reported = f"; meanwhile the controller reported {text!r}" if count != errors else ""
            raise self.error(
                InstrumentRefusedError,
                f"{command} {value!r}: {label} shows {self.link.read_label(label)!r} after {self._settle_s:g} s{reported}",
            ) from error

    # Free text

    def ask_raw(self, cmd: str) -> str:
        """One JSON object as text; the answer as JSON text: an object, or a list of those that came."""
        said = self.link.talk(cmd)
        return json.dumps(said[0] if len(said) == 1 else said)

    def write_raw(self, cmd: str) -> None:
        """One JSON object as text, of which no answer is awaited.  Limits of the set-up are not looked at."""
        self.link.tell(cmd)


class Detector(LabChannel):
    """One detector of the controller, counted from 1.  Its own settings change no other's."""

    def __init__(self, parent: WebSQ, name: str, number: int) -> None:
        super().__init__(parent, name)
        place = number - 1

        def alone(put: Callable[[Sequence[float | None]], None], value: float) -> None:
            put([value if k == place else None for k in range(len(parent.bias_current_ua()))])

        self.add_setting(
            "bias_current_ua",
            label=f"Bias current of detector {number}",
            unit="uA",
            get=lambda: parent.bias_current_ua()[place],
            put=partial(alone, parent.put_currents),
            limits=Within(-parent.max_bias_ua, parent.max_bias_ua, "uA"),
            resolution=BIAS_RESOLUTION_UA,
        )
        self.add_setting(
            "trigger_level_mv",
            label=f"Trigger level of detector {number}",
            unit="mV",
            get=lambda: parent.trigger_level_mv()[place],
            put=partial(alone, parent.put_levels),
            limits=Within(-parent.max_trigger_mv, parent.max_trigger_mv, "mV"),
            resolution=TRIGGER_RESOLUTION_MV,
        )
        self.add_reading(
            "count_rate",
            label=f"Count rate of detector {number}",
            unit="1/s",
            get=lambda: float(parent.count_rates()[place]),
            snapshot_get=False,
            docstring="Counts per second of a whole measurement period that began after the call.",
        )
