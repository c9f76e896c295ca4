"""A simulated Single Quantum WebSQ controller: JSON control and ASCII counts on two TCP ports.

One thread serves both.  The answer to ``labelProps`` leaves in one write (vendor clients lose a split
burst), each counts line in one send with TCP_NODELAY (they parse only the first line of a read), every
change is broadcast to all control clients, and nothing is acknowledged.  A value that the controller does
not accept is answered by a message labelled ``Error``.  Detectors without bias count nothing.  Currents, levels and
period are remembered from whoever used it last; an automatic calibration or a current scan biases the detectors
itself and takes no settings meanwhile.
Source: vendor's ``WebSQControl.py``, whose parsing sets the rules above; what it does during a scan is our reading.
"""

from __future__ import annotations

import contextlib
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from drivers.links.websq_json import FrameError, JsonObject, RequestReader, encode_reply
from sim_backends.faults import FaultInjector
from sim_backends.site import Options, Simulated, Site

log = logging.getLogger(__name__)

_BIAS_BOUND_UA = 90.9
_TRIGGER_BOUND_MV = 1000.0
_BIAS_OHM = 100e3  # the bias network turns microampere into tenths of a volt
_SEND_TIMEOUT_S = 2.0
_AUTO_IV_S = 0.2  # how long a calibration takes, and what it finds: ours, a real one depends on the nanowires
_AUTO_BIAS_UA = 15.0
_OLD_ERROR = "Detector 2 latched"
_HISTORIES: dict[object, dict[str, object]] = {
    "IVHistory": {"iv_scan_history": [], "ic_scan_history": []},
    "TemperatureHistory": {
        "temperature_long_memory": {
            "x": ["22-Nov-26 14:52:26.000000"],
            "T": [2.51],
            "T2": [38.2],
            "V_avrg": [0.0],
            "BoardTemp1": [31.0],
            "BoardTemp2": [31.0],
        }
    },
}
"""What each request for a history gives."""


def _dark() -> list[float]:
    return []


@dataclass(eq=False)
class _Client:
    connection: socket.socket
    reader: RequestReader = field(default_factory=RequestReader)


def build(site: Site) -> Simulated:
    """The detectors at the ring's two outputs."""
    control, counts = site.ports
    twin = WebSQTwin(
        on_bias=site.set_bias,
        count_rates=site.count_rates,
        control_port=control,
        counts_port=counts,
        rng=np.random.default_rng(site.seed),
    )

    def options() -> Options:
        return {} if counts else {"counts_port": twin.counts_port}

    return Simulated(twin, lambda: twin.serve(site.host), options)


class WebSQTwin:
    """The controller.  ``count_rates`` gives the mean counts per second of each biased detector."""

    def __init__(
        self,
        n_detectors: int = 2,
        *,
        on_bias: Callable[[list[float], bool], None] = lambda bias_ua, enabled: None,
        count_rates: Callable[[], Sequence[float]] = _dark,
        control_port: int = 12000,
        counts_port: int = 12345,
        measurement_period_ms: float = 100.0,
        calibration_s: float = _AUTO_IV_S,
        left_by_someone: bool = False,
        rng: np.random.Generator | None = None,
        wall_clock: Callable[[], float] = time.time,
        faults: FaultInjector | None = None,
    ) -> None:
        self.faults = faults or FaultInjector()
        self.freeze_counts = False  # fault: the same line again and again
        self.ignores: set[str] = set()  # fault: commands that change nothing
        self.clamp_ua: float | None = None  # fault: bias currents held are at most this
        self.answers = 1  # fault: how often each request is answered
        self._calibration_s = calibration_s
        self._calibrated_at: float | None = None
        self._greeting = b""
        self.counts_port = counts_port
        self._n = n_detectors
        self._on_bias = on_bias
        self._count_rates = count_rates
        self._control_port = control_port
        self._rng = rng
        self._wall_clock = wall_clock
        self._lock = threading.Lock()
        self._values: dict[str, object] = {
            "NumberOfDetectors": n_detectors,
            "InptMeasurementPeriod": float(measurement_period_ms),
            "BiasCurrent": [0.0] * n_detectors,
            "TriggerLevel": [0.0] * n_detectors,
            "BiasVoltage": [0.0] * n_detectors,
            "DetectorEnable": False,
            "StartAutoIV": False,
            "BiasCurrentAutoIV": [0.0] * n_detectors,
            "IVScanEnable": False,
            "IVScanStart": 0.0,
            "IVScanEnd": 30.0,
            "IVScanIncrement": 0.5,
            "DarkCountsAutoIV": [100.0] * n_detectors,
        }
        if left_by_someone:
            self._leave()
        self._last_line = b""
        self._closing = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._clients: list[_Client] = []
        self._listeners: list[socket.socket] = []
        self._readers: list[socket.socket] = []
        self._thread: threading.Thread | None = None

    def serve(self, host: str) -> str:
        """Bind both ports on ``host`` (0 takes any free port) and serve in a thread."""
        for port in (self._control_port, self.counts_port):
            listener = socket.create_server((host, port), backlog=8)
            listener.setblocking(False)
            self._selector.register(listener, selectors.EVENT_READ)
            self._listeners.append(listener)
        self._control_port, self.counts_port = (s.getsockname()[1] for s in self._listeners)
        self._thread = threading.Thread(target=self._run, name="websq-twin", daemon=True)
        self._thread.start()
        return f"{host}:{self._control_port}"

    def close(self) -> None:
        """Stop serving; closing twice does no harm."""
        self._closing.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
        for connection in (*self._listeners, *self._readers, *(c.connection for c in self._clients)):
            connection.close()
        self._listeners, self._readers, self._clients = [], [], []
        self._selector.close()

    def state(self) -> dict[str, object]:
        """What an observer may see."""
        with self._lock:
            return dict(self._values)

    def is_safe(self) -> bool:
        """No bias."""
        with self._lock:
            return self._values["DetectorEnable"] is False

    def report_error(self, text: str) -> None:
        """Tell every control client of an error that nobody's command caused, or caused long ago."""
        self._send(self._clients, encode_reply({"label": "Error", "value": text}))

    def press_dial(self, label: str, value: object) -> None:
        """Somebody changes a setting elsewhere, as in the vendor's own interface: every client is told."""
        self._change(label, value)

    def _leave(self) -> None:
        """As the vendor's interface may leave it: currents of other detectors, biased, an error never read."""
        self._values.update(
            BiasCurrent=[80.0] + [32.5] * (self._n - 1),
            TriggerLevel=[-850.0] * self._n,
            DetectorEnable=True,
            LastError=_OLD_ERROR,
        )
        self._greeting = encode_reply({"label": "Error", "value": _OLD_ERROR})
        self._apply_bias()

    def _run(self) -> None:
        next_line = time.monotonic()
        while not self._closing.is_set():
            for key, _ in self._selector.select(max(0.0, min(next_line - time.monotonic(), 0.02))):
                if key.fileobj in self._listeners:
                    self._accept(self._listeners.index(key.fileobj))
                elif isinstance(key.data, _Client):
                    if key.data in self._clients:  # a broadcast may have dropped it just before
                        self._serve_client(key.data)
                else:
                    self._drop_reader(key.fileobj)
            if self._calibrated_at is not None and time.monotonic() >= self._calibrated_at:
                self._end_calibration()
            if time.monotonic() >= next_line:
                self._send_counts()
                next_line = time.monotonic() + self._period_s()

    def _accept(self, which: int) -> None:
        connection, _ = self._listeners[which].accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_SEND_TIMEOUT_S)
        if which == 0:
            client = _Client(connection)
            self._clients.append(client)
            self._selector.register(connection, selectors.EVENT_READ, client)
            if self._greeting:
                self._send([client], self._greeting)
        else:
            self._readers.append(connection)
            self._selector.register(connection, selectors.EVENT_READ)

    def _serve_client(self, client: _Client) -> None:
        try:
            data = client.connection.recv(65536)
        except OSError:
            data = b""
        if not data or self.faults.take_disconnect():
            self._drop_client(client)
            return
        for message in client.reader.feed(data):
            if isinstance(message, FrameError):
                log.debug("a control client sent %s", message)
            else:
                self._handle(client, message)

    def _handle(self, client: _Client, message: JsonObject) -> None:
        label = message.get("request")
        if self.faults.latched_error is not None and "command" in message:
            self._send([client], encode_reply({"label": "Error", "value": self.faults.latched_error}))
        elif label == "labelProps":
            with self._lock:
                burst = b"".join(
                    encode_reply({"label": label, "value": {"value": value}})
                    for label, value in self._values.items()
                )
            self._send([client], burst * self.answers)
        elif label in _HISTORIES:
            for name, value in _HISTORIES[label].items():
                self._send([client], encode_reply({"label": name, "value": value}))
        elif isinstance(label, str) and label in self._values:
            reply = encode_reply({"label": label, "value": self._values[label]})
            self._send([client], reply * self.answers)
        elif "command" in message or message.get("label") in ("IVScanStart", "IVScanEnd", "IVScanIncrement"):
            self._command(client, message)

    def _command(self, client: _Client, message: JsonObject) -> None:
        command = message.get("command", message.get("label"))
        if command == "AutoCaliBiasCurrents":
            self._calibrate(message.get("value") is True)
            return
        setters: dict[object, tuple[str, Callable[[object], object | None]]] = {
            "SetMeasurementPeriod": ("InptMeasurementPeriod", lambda v: _number(v, 10.0, 60000.0)),
            "SetAllBiasCurrents": ("BiasCurrent", lambda v: _numbers(v, self._n, _BIAS_BOUND_UA)),
            "SetAllTriggerLevels": ("TriggerLevel", lambda v: _numbers(v, self._n, _TRIGGER_BOUND_MV)),
            "DetectorEnable": ("DetectorEnable", _boolean),
            "DarkCountsAutoIV": ("DarkCountsAutoIV", lambda v: _numbers(v, self._n, 1e9)),
            "IVScanEnable": ("IVScanEnable", _boolean),
            **{
                name: (name, lambda v: _number(v, -_BIAS_BOUND_UA, _BIAS_BOUND_UA))
                for name in ("IVScanStart", "IVScanEnd", "IVScanIncrement")
            },
        }
        if command not in setters or command in self.ignores:
            return
        label, check = setters[command]
        value = check(message.get("value"))
        busy = self._scanning() and command in ("SetAllBiasCurrents", "SetAllTriggerLevels")
        if value is None or busy:
            reason = "a scan is running" if busy else "value not accepted"
            self._send([client], encode_reply({"label": "Error", "value": f"{label}: {reason}"}))
            return
        if label == "BiasCurrent" and isinstance(value, list) and self.clamp_ua is not None:
            value = [min(current, self.clamp_ua) for current in value]
        self._change(label, value)

    def _change(self, label: str, value: object) -> None:
        with self._lock:
            self._values[label] = value
        if label in ("BiasCurrent", "DetectorEnable"):
            self._apply_bias()
        self._send(self._clients, encode_reply({"label": label, "value": value}))

    def _apply_bias(self) -> None:
        bias, enabled = self._bias(), self._values["DetectorEnable"] is True
        with self._lock:
            self._values["BiasVoltage"] = [b * 1e-6 * _BIAS_OHM * 1e3 if enabled else 0.0 for b in bias]
        self._on_bias(bias, enabled)

    def _scanning(self) -> bool:
        return self._values["StartAutoIV"] is True or self._values["IVScanEnable"] is True

    def _calibrate(self, on: bool) -> None:
        """Start or stop the search for the currents at which the detectors show ``DarkCountsAutoIV``."""
        self._calibrated_at = time.monotonic() + self._calibration_s if on else None
        self._change("StartAutoIV", on)
        if on:
            self._change("DetectorEnable", True)

    def _end_calibration(self) -> None:
        self._calibrated_at = None
        found = [_AUTO_BIAS_UA] * self._n
        self._change("BiasCurrentAutoIV", found)
        self._change("BiasCurrent", found)
        self._change("StartAutoIV", False)

    def _bias(self) -> list[float]:
        value = self._values["BiasCurrent"]
        assert isinstance(value, list)
        return list(value)

    def _period_s(self) -> float:
        value = self._values["InptMeasurementPeriod"]
        assert isinstance(value, float)
        return value / 1000

    def _send_counts(self) -> None:
        if not self._readers:
            return
        if not self.freeze_counts or not self._last_line:
            self._last_line = self._counts_line()
        for connection in list(self._readers):
            try:
                connection.sendall(self._last_line)
            except OSError:
                self._drop_reader(connection)

    def _counts_line(self) -> bytes:
        rates = np.zeros(self._n)
        if self._values["DetectorEnable"] is True:
            given = self._count_rates()
            rates[: len(given)] = given
        means = rates * self._period_s()
        counts = np.rint(means) if self._rng is None else self._rng.poisson(means)
        fields = (f"{self._wall_clock():.6f}", *(str(int(c)) for c in counts))
        return (",".join(fields) + "\n").encode("ascii")

    def _send(self, clients: Sequence[_Client], data: bytes) -> None:
        outgoing = self.faults.reply(data)
        if outgoing is None:
            return
        for client in list(clients):
            try:
                client.connection.sendall(outgoing)
            except OSError:
                self._drop_client(client)

    def _drop_client(self, client: _Client) -> None:
        with contextlib.suppress(ValueError, KeyError):  # somebody at the dials noticed it at the same time
            self._clients.remove(client)
            self._selector.unregister(client.connection)
        client.connection.close()

    def _drop_reader(self, connection: object) -> None:
        """A counts client sent something or left; such clients only listen, so either ends the connection."""
        assert isinstance(connection, socket.socket)
        with contextlib.suppress(ValueError):
            self._readers.remove(connection)
        self._selector.unregister(connection)
        connection.close()


def _boolean(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _number(value: object, low: float, high: float) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return None
    return float(value)


def _numbers(value: object, length: int, bound: float) -> list[float] | None:
    if not isinstance(value, list) or len(value) != length:
        return None
    checked = [_number(element, -bound, bound) for element in value]
    return [element for element in checked if element is not None] if None not in checked else None
