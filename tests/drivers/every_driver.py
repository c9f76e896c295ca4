"""Every driver of the catalogue at its twin, on wires that can misbehave.

A :class:`Rig` is built from the row of a model alone: driver, twin, options and kind of wire.  What a row does not tell
- how to make an instrument unsafe, what changes by itself, what an ignored setting is acknowledged by - stands in
:data:`KNOWN`, one entry per model; a model without an entry is walked without these.
"""

from __future__ import annotations

import importlib
import itertools
import math
import random
import re
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast
from unittest.mock import patch

import numpy as np
from qcodes.parameters import Parameter, ParameterWithSetpoints
from wires import Desk, PtyWire, TcpWire, Wire, ZmqWire

from drivers.base import LabInstrument
from drivers.catalogue import AddressKind, create_instrument, models, row
from drivers.links import apt
from drivers.links.apt import UNIT, AptMessage, AptReader
from drivers.links.ieee488 import ProgramMessage
from drivers.links.interbus import MessageType, Telegram, TelegramReader, encode
from sim_backends.attenuators.keysight_n7752a import SENSOR_N7752A, N7752ATwin
from sim_backends.bench_addresses import free_port_range
from sim_backends.bias_controllers.thorlabs_mbx import ThorlabsMBXTwin
from sim_backends.lasers.toptica_dlc_pro import DLCProTwin
from sim_backends.lines import ReferenceLine, TriggerLine
from sim_backends.powermeters.keysight_8163b import HEAD_81634B, Keysight8163BTwin
from sim_backends.powermeters.thorlabs_pm100d import PM100DTwin
from sim_backends.site import Options, Simulated, Site, Surroundings
from sim_backends.timetaggers.id900 import ID900Twin

HOST = "127.0.0.1"
MODELS = models()
_NUMBERS = itertools.count(1)


@dataclass(frozen=True)
class Known:
    """What cannot be derived from the row of a model.

    ``make`` serves the twin; ``unsafe`` lets the driver switch on what it can; ``change(twin, n)`` is somebody at the
    front panel, or nature, and ``truth(twin)`` what the readings named then are; ``acknowledge(request)`` what the
    instrument says to a setting that it ignores, None for anything that is no setting.  ``strict`` are options that
    allow less than what ``store(twin)`` leaves stored, so that ``unsafe`` is refused; ``options`` shorten waits.
    """

    make: Callable[[bool], Simulated] | None = None
    unsafe: Callable[[Any], object] | None = None
    change: Callable[[Any, int], object] | None = None
    truth: Callable[[Any], Mapping[str, Any]] = lambda twin: {}
    acknowledge: Callable[[bytes], Iterable[bytes] | None] | None = None
    queue_error: Callable[[Any], object] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    strict: Mapping[str, Any] = field(default_factory=dict)
    store: Callable[[Any], object] | None = None
    lose: Callable[[Any], object] | None = None
    lost: str = ""
    zmq: bool = False


@dataclass
class Rig:
    """One driver, connected over wires to its twin."""

    model: str
    twin: Any
    driver: Any
    desk: Desk
    wires: list[Wire]
    known: Known
    address: str

    def parameter(self, name: str) -> Any:
        holder, _, last = name.rpartition(".")
        return (self.driver.submodules[holder] if holder else self.driver).parameters[last]

    def parameters(self) -> dict[str, Parameter[Any, Any]]:
        """What asks the instrument, by name with the channel before it; no curves, which need a measurement."""
        holders = {"": self.driver, **self.driver.submodules}
        return {
            f"{holder}.{name}".lstrip("."): parameter
            for holder, instrument in holders.items()
            for name, parameter in instrument.parameters.items()
            if name not in ("IDN", "timeout", "resend_count")
            and parameter.gettable
            and not isinstance(parameter, ParameterWithSetpoints)
            and parameter._snapshot_value is not False
        }

    def settings(self) -> dict[str, Parameter[Any, Any]]:
        return {name: each for name, each in self.parameters().items() if each.settable}

    def kinds_of_settings(self) -> dict[str, Parameter[Any, Any]]:
        """One of those that differ by a number only, as channels' do."""
        settings = self.settings()
        return {
            name: settings[name] for name in {re.sub(r"\d", "", each): each for each in settings}.values()
        }

    def unsafe(self) -> None:
        if self.known.unsafe is not None:
            self.known.unsafe(self.driver)

    def change(self, n: int) -> None:
        if self.known.change is not None:
            self.known.change(self.twin, n)

    def check_truth(self) -> None:
        """Every reading is the twin's own state of this moment."""
        for name in self.known.truth(self.twin):
            found = self.parameter(name).get()
            np.testing.assert_allclose(found, self.known.truth(self.twin)[name], rtol=1e-6, err_msg=name)

    def hurry(self, timeout_s: float) -> None:
        for link in self.driver.links:
            link.timeout_s = timeout_s

    def restart(self) -> None:
        """The instrument loses its power and comes back as it wakes up."""
        built = _made(self.model)
        old, self.twin = self.twin, built.twin
        addresses = [built.serve()]
        addresses += [str(each) for key, each in built.options().items() if key == "dlt_address"]
        for wire, address in zip(self.wires, addresses, strict=True):
            wire.restart(_plain_address(address))
        old.close()

    def retired(self) -> None:
        self.driver.close()
        for wire in self.wires:
            wire.close()
        self.twin.close()


def made_from_row(model: str, left: bool) -> Simulated:
    """The twin of a model in the dark: it serves no need of any role; ``left`` as somebody left it."""
    entry = row(model)
    ports = tuple(0 for _ in entry.ports)
    around = Surroundings(
        ring=cast(Any, None),
        trigger=TriggerLine("", {}),
        reference=ReferenceLine({"device"}, {}),
        latency_ps={},
        seed=1,
        tag_channels=(1, 2),
        clock=time.monotonic,
        free_ports=lambda n: free_port_range(n, rng=random.SystemRandom()),
    )
    site = Site("device", "relay", {}, {}, 1, HOST, ports, 1550.12, around)
    module = importlib.import_module(entry.twin)
    names = [
        name for name in vars(module) if name.endswith("Twin") and vars(module)[name].__module__ == entry.twin
    ]
    with ExitStack() as stack:
        for name in names if left else []:
            stack.enter_context(patch.object(module, name, partial(vars(module)[name], left_by_someone=True)))
        built: Simulated = module.build(site)
    return built


def _made(model: str, left: bool = False) -> Simulated:
    make = KNOWN.get(model, Known()).make
    return make(left) if make is not None else made_from_row(model, left)


@contextmanager
def rigged(
    model: str, *, left: bool = False, prepare: Callable[[Any], object] | None = None, **options: Any
) -> Iterator[Rig]:
    """A rig of ``model``; ``prepare(twin)`` comes before the driver connects."""
    known = KNOWN.get(model, Known())
    built = _made(model, left)
    address = built.serve()
    desk = Desk()
    given: Options = built.options()
    wires = [_wire(model, desk, address)]
    if "dlt_address" in given:
        wires.append(ZmqWire(desk, str(given["dlt_address"])).start())
        given = {**given, "dlt_address": wires[1].address}
    if prepare is not None:
        prepare(built.twin)
    address = _driver_address(model, wires[0])
    driver: LabInstrument = create_instrument(
        model, f"device{next(_NUMBERS)}", address, **{**given, **known.options, **options}
    )
    rig = Rig(model, built.twin, driver, desk, wires, known, driver.address)
    try:
        driver.connect()
        yield rig
    finally:
        rig.retired()


def _wire(model: str, desk: Desk, address: str) -> Wire:
    if row(model).address is AddressKind.SERIAL:
        return PtyWire(desk, address).start()
    kind = ZmqWire if KNOWN.get(model, Known()).zmq else TcpWire
    return kind(desk, _plain_address(address)).start()


def _plain_address(address: str) -> str:
    return ":".join(address.split("::")[1:3]) if "::" in address else address


def _driver_address(model: str, wire: Wire) -> str:
    if row(model).address is AddressKind.VISA:
        host, port = wire.address.split(":")
        return f"TCPIP::{host}::{port}::SOCKET"
    return wire.address


# Per model


def _scpi(twin: Any, *commands: str) -> None:
    for command in commands:
        twin._device.execute(ProgramMessage(command.encode()))


def _scpi_acknowledge(request: bytes) -> Iterable[bytes] | None:
    """A command that is ignored without a word; queries pass.  The error query may come along with it."""
    command, _, rest = request.partition(b"\n")
    if b"?" in command or command.startswith(b"*"):
        return None
    return (b'0,"No error"\n',) if rest.startswith(b"SYSTem:ERRor?") else ()


def _awg_arm(driver: Any) -> None:
    driver.configure(1e9, 0.3)
    driver.prepare(2400)
    driver.upload(0, np.full(2400, 0.5, np.float32))
    driver.arm(0)


def _nkt_change(twin: Any, n: int) -> None:
    with twin._lock:
        twin._centre = 15_501_200 + n
        twin._write(0x22, (500 + n % 400).to_bytes(2, "little"))


def _nkt_acknowledge(request: bytes) -> Iterable[bytes] | None:
    for item in TelegramReader().feed(request):
        if isinstance(item, Telegram) and item.kind == MessageType.WRITE:
            return (encode(Telegram(item.source, item.destination, MessageType.ACK, item.register, b"")),)
    return None


def _33622a_arm(driver: Any) -> None:
    driver.configure(20e6, 0.3)
    driver.prepare(2400)
    driver.upload(0, np.full(2400, 0.5, np.float32))
    driver.arm(0)


def _33622a_change(twin: Any, n: int) -> None:
    with twin._device.lock:
        twin._device.outputs[1].rate_hz = 10e6 + n * 1e3
        twin._device.outputs[1].volts = 0.26 + n % 200 * 1e-3


def _make_dlc(left: bool) -> Simulated:
    """With a motor that is soon at the other end."""
    twin = DLCProTwin(command_port=0, left_by_someone=left)
    return Simulated(twin, lambda: twin.serve(HOST))


def _dlc_change(twin: Any, n: int) -> None:
    with twin._lock:
        twin._setpoint_mw = 5.0 + n % 400 * 0.01
        twin._wavelength_nm = twin._from_nm = 1545.0 + n % 900 * 0.01


def _dlc_acknowledge(request: bytes) -> Iterable[bytes] | None:
    return (b"0\n> ",) if b"param-set!" in request else None


def _oz_change(twin: Any, n: int) -> None:
    with twin._lock:
        twin._position = 1000 + n % 4000


def _osw_change(twin: Any, n: int) -> None:
    with twin._lock:
        twin._crossed = twin._told = bool(n // 50 % 2)
        twin._moving_to = None


def _osw_acknowledge(request: bytes) -> Iterable[bytes] | None:
    """Nothing; a question may come along with the command."""
    if not request.startswith(b"S "):
        return None
    return (b"OSW22-1550E v1.0\r\n",) if b"I?" in request else ()


def _epc_change(twin: Any, n: int) -> None:
    with twin._lock:
        twin._mv = [100 + n % 4000, -n % 5000, 0, 2500]


def _epc_acknowledge(request: bytes) -> Iterable[bytes] | None:
    if found := re.match(rb"V(\d),(-?\d+)\r\n", request):
        return (b"Set CH%b DC Voltage at: %bmV\r\nDone\r\n" % found.groups(),)
    if found := re.match(rb"M(DC|AC)\r\n", request):
        return (b"Set To %b Mode\r\nDone\r\n" % found.groups(),)
    return None


def _mpc_change(twin: Any, n: int) -> None:
    with twin._lock:
        for number, paddle in enumerate(twin._paddles.values()):
            paddle.counts, paddle.target = (n + 100 * number) % 1370, None


def _mpc_acknowledge(request: bytes) -> Iterable[bytes] | None:
    """Nothing to a setting; what is asked along with one is answered as by a unit that was never set."""
    messages = AptReader(me=UNIT, source=apt.HOST).feed(request)
    if not any(each.number in (0x0210, 0x0453, 0x0530) for each in messages):
        return None
    answers = []
    for each in messages:
        if each.number == 0x0490:
            answers.append(AptMessage(0x0491, data=struct.pack("<HiHhI", each.p1, 0, 0, 0, 1 << 31)))
        elif each.number == 0x0531:
            answers.append(AptMessage(0x0532, data=struct.pack("<6H", 0, 50, 0, 25, 25, 25)))
    return [apt.encode(each, destination=apt.HOST, source=UNIT) for each in answers]


class _Modulator:
    """Light behind a modulator whose null is at 1.2 V and whose half-wave voltage is 5 V."""

    def __init__(self) -> None:
        self.light_w = 2e-3

    def __call__(self, bias_v: float) -> float:
        return self.light_w * (math.sin(math.pi / 2 * (bias_v - 1.2) / 5.0) ** 2 + 1e-4)


def _make_mbx(left: bool) -> Simulated:
    modulator = _Modulator()
    twin = ThorlabsMBXTwin(power=modulator, left_by_someone=left)
    twin.modulator = modulator  # type: ignore[attr-defined]
    return Simulated(twin, twin.serve)


def _mbx_change(twin: Any, n: int) -> None:
    with twin._lock:
        twin.modulator.light_w = 2e-3 + n * 1e-6


def _mbx_acknowledge(request: bytes) -> Iterable[bytes] | None:
    """Nothing to a setting; the question for the model comes along with it."""
    if not re.match(rb"[\w:]+: ", request):
        return None
    return (b"MBX\r\n",) if b"MODEL?" in request else ()


def _websq_change(twin: Any, n: int) -> None:
    twin.press_dial("BiasCurrent", [5.0 + n % 200 * 0.1, 7.0])
    twin.press_dial("TriggerLevel", [-50.0 - n % 100, -80.0])


def _id900_change(twin: Any, n: int) -> None:
    with twin._lock:
        twin._scpi.counters.update({1: 1000 + n, 2: 5000 + n})


def _id900_acknowledge(request: bytes) -> Iterable[bytes] | None:
    settings = (b"DEVI", b"STAR", b"INPU", b"HIST", b"REC", b"RAW", b"DELA", b"TSCO", b"GEN", b"OUTP")
    return (b"Value set to it",) if b"?" not in request and request.upper().startswith(settings) else None


class _Endless:
    """A light model whose record lasts until the instrument is told to stop, or the test ends."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def __call__(self, duration_ps: int, record_index: int) -> dict[int, Any]:
        self.over.wait(60)
        return {}


def _make_id900(left: bool) -> Simulated:
    record = _Endless()
    twin = ID900Twin(on_record=record, left_by_someone=left, scpi_port=0, dlt_port=0)
    close = twin.close
    twin.close = lambda: (record.over.set(), close())  # type: ignore[method-assign,assign]
    port = free_port_range(5, rng=random.SystemRandom())
    return Simulated(
        cast(Any, twin),
        lambda: twin.serve(HOST),
        lambda: {"dlt_address": twin.dlt_address, "stream_port": port},
    )


def _id900_play(driver: Any) -> None:
    driver.configure([1], 0.1)
    driver.play_record(10**12)


class _Power:
    def __init__(self) -> None:
        self.power_w = 1.25e-6

    def __call__(self) -> float:
        return self.power_w


def _make_pm100d(left: bool) -> Simulated:
    power = _Power()
    twin = PM100DTwin(read_power_w=power, left_by_someone=left)
    twin.light = power  # type: ignore[attr-defined]
    return Simulated(cast(Any, twin), lambda: twin.serve(HOST, 0))


class _Heads:
    """Light of each sensor by its slot, and what one reads that is set to a wavelength."""

    def __init__(self, *slots: int) -> None:
        self.power_w = {slot: 1e-9 * slot for slot in slots}

    def change(self, n: int) -> None:
        self.power_w = {slot: (slot + 1e-3 * n) * 1e-9 for slot in self.power_w}

    def truth(self, twin: Any, name: str) -> dict[str, float]:
        set_nm = twin.state()["sensor_wavelength_nm"]
        return {f"{name}{slot}.power_w": w * 1550.0 / set_nm[slot] for slot, w in self.power_w.items()}


def _make_8163b(left: bool) -> Simulated:
    light = _Heads(1, 2)
    twin = Keysight8163BTwin(
        read_power_w=lambda slot: light.power_w[slot], head=HEAD_81634B.exact(), left_by_someone=left
    )
    twin.light = light  # type: ignore[attr-defined]
    return Simulated(twin, lambda: twin.serve(HOST, 0))


def _make_n7752a(left: bool) -> Simulated:
    light = _Heads(5, 6)
    twin = N7752ATwin(
        read_power_w=lambda slot: light.power_w[slot], sensor=SENSOR_N7752A.exact(), left_by_someone=left
    )
    twin.light = light  # type: ignore[attr-defined]
    return Simulated(twin, lambda: twin.serve(HOST, 0))


def _n7752a_change(twin: Any, n: int) -> None:
    _scpi(twin, f"INP1:WAV {1.5e-6 + n * 1e-11:.13g}", f"INP3:WAV {1.3e-6 + n * 1e-11:.13g}")
    twin.light.change(n)


KNOWN: dict[str, Known] = {
    "nkt-basik": Known(
        unsafe=lambda driver: driver.emission(True),
        change=_nkt_change,
        truth=lambda twin: {
            "wavelength_nm": twin.state()["wavelength_nm"],
            "power_mw": twin.state()["power_mw"],
        },
        acknowledge=_nkt_acknowledge,
        strict={"max_power_mw": 5.0},
        store=lambda twin: twin._write(0x22, (1000).to_bytes(2, "little")),
    ),
    "toptica-dlc-pro": Known(
        make=_make_dlc,
        unsafe=lambda driver: driver.emission(True),
        change=_dlc_change,
        truth=lambda twin: {name: twin.state()[name] for name in ("power_mw", "wavelength_nm")},
        acknowledge=_dlc_acknowledge,
        strict={"max_power_mw": 5.0},
        store=lambda twin: setattr(twin, "_setpoint_mw", 10.0),
    ),
    "keysight-n7764a": Known(
        unsafe=lambda driver: driver.ch1.shutter_open(True),
        change=lambda twin, n: _scpi(
            twin, f"INP1:WAV {1.5e-6 + n * 1e-11:.13g}", f"INP3:WAV {1.3e-6 + n * 1e-11:.13g}"
        ),
        truth=lambda twin: {f"ch{n}.wavelength_nm": twin.state()["wavelength_nm"][n] for n in (1, 2)},
        acknowledge=_scpi_acknowledge,
        strict={"min_attenuation_db": 10.0},
        store=lambda twin: _scpi(twin, "INP1:ATT 3"),
        queue_error=lambda twin: _scpi(twin, "NO:SUCH"),
    ),
    "keysight-n7752a": Known(
        make=_make_n7752a,
        unsafe=lambda driver: driver.ch1.shutter_open(True),
        change=_n7752a_change,
        truth=lambda twin: {
            **{f"ch{n}.wavelength_nm": twin.state()["wavelength_nm"][n] for n in (1, 3)},
            **twin.light.truth(twin, "ch"),
        },
        acknowledge=_scpi_acknowledge,
        strict={"min_attenuation_db": 10.0},
        store=lambda twin: _scpi(twin, "INP1:ATT 3"),
        queue_error=lambda twin: _scpi(twin, "NO:SUCH"),
        lose=lambda twin: twin.light.power_w.update({6: 1.0}),
        lost="ch6.power_w",
    ),
    "tektronix-awg70002a": Known(
        unsafe=_awg_arm,
        change=lambda twin, n: _scpi(
            twin, f"CLOC:SRAT {2e9 + n * 1e6:.12g}", f"SOUR1:VOLT {0.26 + n % 200 * 1e-3:g}"
        ),
        truth=lambda twin: {
            "sample_rate_hz": twin.state()["sample_rate_hz"],
            "amplitude_vpp": twin.state()["amplitude_vpp"][1],
        },
        acknowledge=_scpi_acknowledge,
        queue_error=lambda twin: _scpi(twin, "NO:SUCH"),
    ),
    "keysight-33622a": Known(
        unsafe=_33622a_arm,
        change=_33622a_change,
        truth=lambda twin: {
            "sample_rate_hz": twin.state()["rate_hz"][1] / 5,
            "amplitude_vpp": twin.state()["amplitude_vpp"][1],
        },
        acknowledge=_scpi_acknowledge,
        queue_error=lambda twin: _scpi(twin, "NO:SUCH"),
    ),
    "oz-dd100": Known(
        unsafe=lambda driver: driver.attenuation_db(10.0),
        change=_oz_change,
        truth=lambda twin: {"attenuation_db": twin.state()["attenuation_db"]},
        acknowledge=lambda request: (
            (b"Pos:2000\r\nDone\r\n\r\n",) if request[:1] == b"A" and b"?" not in request else None
        ),
        options={"move_timeout_s": 0.5, "home_timeout_s": 0.5},
        strict={"min_attenuation_db": 20.0},
        store=lambda twin: _oz_change(twin, 0),
        lose=lambda twin: setattr(twin, "_homed", False),
        lost="attenuation_db",
    ),
    "single-quantum-websq": Known(
        unsafe=lambda driver: driver.enabled(True),
        change=_websq_change,
        truth=lambda twin: {
            "bias_current_ua": twin.state()["BiasCurrent"],
            "trigger_level_mv": twin.state()["TriggerLevel"],
        },
        acknowledge=lambda request: () if b'"command"' in request else None,
        options={"settle_s": 0.3},
        strict={"max_bias_ua": 25.0},
        store=lambda twin: twin.press_dial("BiasCurrent", [80.0, 80.0]),
    ),
    "id-quantique-id900": Known(
        make=_make_id900,
        unsafe=_id900_play,
        change=_id900_change,
        truth=lambda twin: {f"counts_{n}": twin.state()["counters"][n] for n in (1, 2)},
        acknowledge=_id900_acknowledge,
        options={"integration_ms": 10.0},
        zmq=True,
    ),
    "thorlabs-mbx": Known(
        make=_make_mbx,
        unsafe=lambda driver: driver.voa.attenuation_db(3.0),
        change=_mbx_change,
        truth=lambda twin: {"modulator_power_mw": float(f"{twin._power(twin._bias_v) * 1e3:.6g}")},
        acknowledge=_mbx_acknowledge,
    ),
    "thorlabs-osw22": Known(
        change=_osw_change,
        truth=lambda twin: {"crossed": twin.state()["crossed"]},
        acknowledge=_osw_acknowledge,
        options={"move_timeout_s": 0.5},
    ),
    "oz-epc-400": Known(
        change=_epc_change,
        truth=lambda twin: {"actuators": [mv / 1000 for mv in twin.state()["voltages_mv"]]},
        acknowledge=_epc_acknowledge,
    ),
    "thorlabs-mpc320": Known(
        change=_mpc_change,
        truth=lambda twin: {"actuators": [counts * 170 / 1370 for counts in twin.state()["counts"]]},
        acknowledge=_mpc_acknowledge,
        options={"move_timeout_s": 2.0},
    ),
    "thorlabs-pm100d": Known(
        make=_make_pm100d,
        options={"wavelength_limits_nm": (800.0, 1700.0)},
        change=lambda twin, n: setattr(twin.light, "power_w", 1e-6 + n * 1e-9),
        truth=lambda twin: {"power_w": twin.light.power_w},
        acknowledge=_scpi_acknowledge,
        queue_error=lambda twin: _scpi(twin, "NO:SUCH"),
        lose=lambda twin: setattr(twin.light, "power_w", 5.0),
        lost="power_w",
    ),
    "keysight-8163b": Known(
        make=_make_8163b,
        change=lambda twin, n: twin.light.change(n),
        truth=lambda twin: twin.light.truth(twin, "slot"),
        acknowledge=_scpi_acknowledge,
        queue_error=lambda twin: _scpi(twin, "NO:SUCH"),
        lose=lambda twin: twin.light.power_w.update({1: 1.0}),
        lost="slot1.power_w",
    ),
}
