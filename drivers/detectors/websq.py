"""Single Quantum WebSQ controller of superconducting nanowire detectors (SNSPD).

Two TCP connections: JSON control on port 12000, ASCII counts on port 12345.  The control protocol
acknowledges nothing, so every setting is verified by reading its label back until it shows the value, and a
label with ``Error`` in its name that arrives meanwhile is the instrument's refusal.  A request for
``labelProps`` is answered by one object per label; the whole burst is awaited, so that no part of it can be
taken for the answer to a later request.  Counts are read on a connection of their own per call: lines pile
up on an idle connection, and what is returned must have been counted after the call.
Sources: vendor's ``WebSQControl.py``; qcodes_contrib_drivers ``SingleQuantum.py``.

Biasing detectors is never done by itself: after a lost link ``connect`` disables them and re-applies trigger
levels and measurement period only.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from qcodes.parameters import Parameter
from qcodes.validators import Bool

from drivers.base import Identity, LabInstrument
from drivers.links.errors import (
    InstrumentError,
    InstrumentRefusedError,
    LimitError,
    LinkTimeoutError,
    MalformedReplyError,
    NotReadyError,
    WrongInstrumentError,
)
from drivers.links.limits import ListWithin, Within
from drivers.links.tcp_link import TcpLink
from drivers.links.websq_json import FrameError, JsonObject, ReplyReader, encode_request
from drivers.links.zmq_reqrep import split_address

CONTROL_PORT = 12000
COUNTS_PORT = 12345
QUIET_S = 0.05
"""A burst of labels ends when nothing comes for so long."""
# Neither source bounds trigger levels: 1 V (default of max_trigger_mv) is a choice of ours.
BIAS_LIMIT_UA = 90.9  # the controller's own limit in current scans
MIN_PERIOD_MS = 10.0
EXACT = 1e-6
REQUIRED_LABELS = frozenset(
    ("NumberOfDetectors", "BiasCurrent", "TriggerLevel", "DetectorEnable", "InptMeasurementPeriod")
)


class WebSQ(LabInstrument):
    """The controller at ``"host"`` or ``"host:port"``.

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
        self.link = TcpLink(
            host, port, instrument=name, timeout_s=timeout_s, talkative=True, bring_up=self.bring_up
        )
        self.links = (self.link,)
        self._counts = TcpLink(host, counts_port, instrument=name, timeout_s=timeout_s, talkative=True)
        self._lock = threading.RLock()
        self._counts_lock = threading.Lock()
        self._settle_s = settle_s
        self._poll_interval_s = poll_interval_s
        self._pause = pause
        self._burst: frozenset[str] = REQUIRED_LABELS
        self._passive: dict[str, tuple[str, object, float]] = {}  # label -> command, value, tolerance
        self._add_parameters(min(max_bias_ua, BIAS_LIMIT_UA), max_trigger_mv)

    def _add_parameters(self, max_bias_ua: float, max_trigger_mv: float) -> None:
        self.bias_current_ua: Parameter[list[float], WebSQ] = self.add_parameter(
            "bias_current_ua",
            label="Bias currents",
            unit="uA",
            get_cmd=lambda: self._read_list("BiasCurrent"),
            set_cmd=lambda values: self._set_list("SetAllBiasCurrents", "BiasCurrent", values, 0.1),
            vals=ListWithin(-max_bias_ua, max_bias_ua, "uA"),
        )
        self.trigger_level_mv: Parameter[list[float], WebSQ] = self.add_parameter(
            "trigger_level_mv",
            label="Trigger levels",
            unit="mV",
            get_cmd=lambda: self._read_list("TriggerLevel"),
            set_cmd=lambda values: self._set_passive_list("SetAllTriggerLevels", "TriggerLevel", values, 1.0),
            vals=ListWithin(-max_trigger_mv, max_trigger_mv, "mV"),
        )
        self.enabled: Parameter[bool, WebSQ] = self.add_parameter(
            "enabled",
            label="Detectors biased",
            get_cmd=lambda: self._read_label("DetectorEnable") is True,
            set_cmd=self._enable,
            vals=Bool(),
        )
        self.add_parameter(
            "measurement_period_ms",
            label="Measurement period",
            unit="ms",
            get_cmd=lambda: self._number(self._read_label("InptMeasurementPeriod"), "InptMeasurementPeriod"),
            set_cmd=self._set_period,
            vals=Within(MIN_PERIOD_MS, 60000.0, "ms"),
        )
        self.add_parameter(
            "n_detectors",
            label="Number of detectors",
            get_cmd=lambda: self._count_detectors(self._read_label("NumberOfDetectors")),
        )
        self.add_parameter(
            "bias_voltage_mv",
            label="Bias voltages",
            unit="mV",
            get_cmd=self._read_bias_voltage,
        )

    # Link and identity

    def restore_passive(self) -> None:
        """Detectors off, trigger levels and measurement period as they were."""
        self._enable(False)
        for label, (command, value, tolerance) in self._passive.items():
            self._set_label(command, label, value, tolerance)

    def identify(self) -> Identity:
        """The protocol has no identity query: WrongInstrumentError unless the typical labels are there."""
        with self._lock, self.link.exchange():
            labels = self._learn_burst()
        missing = REQUIRED_LABELS - labels.keys()
        if missing:
            raise WrongInstrumentError(
                f"no WebSQ: the labels {', '.join(sorted(missing))} are missing",
                instrument=self.name,
                address=self.address,
            )
        self._burst = frozenset(labels)
        return Identity("Single Quantum", "WebSQ", "", "")

    def check_biased(self) -> None:
        """NotReadyError unless the detectors are biased, as after a power cut of the controller."""
        if not self.enabled():
            raise NotReadyError(
                "the detectors are not biased any more; did the controller restart?",
                instrument=self.name,
                address=self.address,
            )

    def safe_state(self) -> None:
        """Take the bias off all detectors."""
        self._enable(False)

    # Counts

    def count_rates(self) -> list[float]:
        """Counts per second of each detector, from one whole measurement period that began after the call."""
        labels = self._read_labels()
        detectors = self._count_detectors(labels["NumberOfDetectors"])
        period_s = self._number(labels["InptMeasurementPeriod"], "InptMeasurementPeriod") / 1000
        if period_s <= 0:
            raise self._malformed(f"a measurement period of {period_s:g} s")
        with self._counts_lock:  # not the control lock: taking the bias off must not wait for counts
            self._counts.open()
            try:
                deadline = self._counts.now() + 2 * period_s + self._counts.timeout_s
                begun = self._parse_counts(self._counts.read_line(deadline), detectors)
                whole = self._parse_counts(self._counts.read_line(deadline), detectors)
            finally:
                self._counts.close()
        if whole[0] <= begun[0]:
            raise self._malformed("the time stamps of the counts stand still; the readings are stale")
        return [count / period_s for count in whole[1:]]

    def _parse_counts(self, line: bytes, detectors: int) -> list[float]:
        try:
            fields = [float(field) for field in line.decode("ascii").split(",")]
        except ValueError as error:
            raise self._malformed(f"a counts line of {len(line)} bytes is not a list of numbers") from error
        if len(fields) != detectors + 1:
            raise self._malformed(f"{len(fields) - 1} counts for {detectors} detectors")
        if not all(math.isfinite(field) and field >= 0 for field in fields):
            raise self._malformed("a count is negative or not finite")
        return fields

    # Settings

    def _enable(self, on: bool) -> None:
        if on:
            self.must_end_dark()
        self._set_label("DetectorEnable", "DetectorEnable", on)

    def _set_period(self, period_ms: float) -> None:
        command, label = "SetMeasurementPeriod", "InptMeasurementPeriod"
        self._set_label(command, label, period_ms)
        self._passive[label] = (command, period_ms, EXACT)

    def _set_passive_list(self, command: str, label: str, values: Sequence[float], tolerance: float) -> None:
        self._set_list(command, label, values, tolerance)
        self._passive[label] = (command, [float(value) for value in values], tolerance)

    def _set_list(self, command: str, label: str, values: Sequence[float], tolerance: float) -> None:
        wanted = [float(value) for value in values]
        detectors = self._count_detectors(self._read_label("NumberOfDetectors"))
        if len(wanted) != detectors:
            raise LimitError(
                f"{label}: {len(wanted)} values for {detectors} detectors",
                instrument=self.name,
                address=self.address,
            )
        self._set_label(command, label, wanted, tolerance)

    def _set_label(self, command: str, label: str, value: object, tolerance: float = EXACT) -> None:
        """Send a command and read its label back until it shows the value."""
        with self._lock:
            with self.link.exchange():
                self.link.write(encode_request({"command": command, "label": label, "value": value}))
            deadline = self.link.now() + self._settle_s
            while not _shows(shown := self._read_label(label), value, tolerance):
                if self.link.now() > deadline:
                    raise NotReadyError(
                        f"{command} {value!r}: {label} still shows {shown!r} after {self._settle_s:g} s",
                        instrument=self.name,
                        address=self.address,
                    )
                self._pause(self._poll_interval_s)

    # Labels

    def _read_label(self, label: str) -> object:
        labels = self._read_labels()
        if label not in labels:
            raise self._malformed(f"the label {label} is missing")
        return labels[label]

    def _read_list(self, label: str) -> list[float]:
        value = self._read_label(label)
        if not isinstance(value, list):
            raise self._malformed(f"{label} is no list")
        return [self._number(element, label) for element in value]

    def _read_bias_voltage(self) -> list[float]:
        """Bias voltages are measured on request (vendor's ``get_bias_voltage``)."""
        with self._lock:
            with self.link.exchange():
                self.link.write(encode_request({"request": "BiasVoltage"}))
            return self._read_list("BiasVoltage")

    def _read_labels(self) -> dict[str, object]:
        """All labels, from one complete answer to ``labelProps``."""
        with self._lock, self.link.exchange():
            return self._await_labels(self._burst, ReplyReader())

    def _learn_burst(self) -> dict[str, object]:
        """All labels when it is not known which there are: the burst ends when the line falls silent."""
        reader = ReplyReader()
        labels = self._await_labels(REQUIRED_LABELS, reader, missing_is_fine=True)
        while True:
            try:
                data = self.link.read_some(self.link.now() + QUIET_S)
            except LinkTimeoutError:
                return labels
            labels.update(_properties(self._parse(reader, data)))

    def _await_labels(
        self, wanted: frozenset[str], reader: ReplyReader, *, missing_is_fine: bool = False
    ) -> dict[str, object]:
        self.link.write(encode_request({"request": "labelProps", "value": "None"}))
        deadline = self.link.now() + self.link.timeout_s
        labels: dict[str, object] = {}
        while not labels.keys() >= wanted:
            try:
                messages = self._parse(reader, self.link.read_some(deadline))
            except LinkTimeoutError:
                if missing_is_fine and labels:
                    break
                raise
            self._raise_errors(messages)
            labels.update(_properties(messages))
        return labels

    def _parse(self, reader: ReplyReader, data: bytes) -> list[JsonObject]:
        try:
            return reader.feed(data)
        except FrameError as error:
            raise self._malformed(str(error)) from error

    def _raise_errors(self, messages: Sequence[JsonObject]) -> None:
        for message in messages:
            label, value = message.get("label"), message.get("value")
            if isinstance(label, str) and "Error" in label and value and not isinstance(value, dict):
                raise InstrumentRefusedError(
                    f"the controller reports {label}: {value}", instrument=self.name, address=self.address
                )

    def _count_detectors(self, value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._malformed(f"NumberOfDetectors is {value!r}")
        return value

    def _number(self, value: object, label: str) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._malformed(f"{label} holds {value!r}, not a number")
        return float(value)

    def _malformed(self, text: str) -> InstrumentError:
        return MalformedReplyError(text, instrument=self.name, address=self.address)


def _properties(messages: Sequence[JsonObject]) -> dict[str, object]:
    """Label -> value of the messages that answer ``labelProps`` (their value is an object with the value)."""
    found: dict[str, object] = {}
    for message in messages:
        label, value = message.get("label"), message.get("value")
        if isinstance(label, str) and isinstance(value, dict) and "value" in value:
            found[label] = value["value"]
    return found


def _shows(shown: object, wanted: object, tolerance: float) -> bool:
    """Whether a label shows ``wanted``: a bool, a number, or a list of numbers within ``tolerance``."""
    if isinstance(wanted, bool) or isinstance(shown, bool):
        return shown is wanted
    if isinstance(shown, list) and isinstance(wanted, list):
        pairs = zip(shown, wanted, strict=False)
        return len(shown) == len(wanted) and all(_shows(s, w, tolerance) for s, w in pairs)
    if isinstance(shown, int | float) and isinstance(wanted, int | float):
        return abs(shown - wanted) <= tolerance
    return False
