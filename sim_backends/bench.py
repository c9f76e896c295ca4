"""Every simulated instrument of a testbed, coupled by one ring of light and one trigger line.

A bench is built from a testbed file: one twin per instrument whose address is ``auto`` or a loopback
address; instruments with other addresses are real ones and left alone.  What a twin does to the light goes
to :class:`sim_backends.optics.Ring`, and what it measures comes from there:

    laser, launch attenuator, users' attenuators, detector bias  ->  state of the light
    light at a user's station                                    ->  power monitor
    record of the time tagger -> trigger line -> waveform generators that play -> clicks -> tags per input

The stations' direction switches follow the waveform generators: a loaded waveform that drives one half of
the slots turns its user's switch, a pair of armed generators settles it.

Building has no side effects, :meth:`Bench.serve` binds; the bench is a context manager.
:func:`run_simulator` is the process around it.
"""

from __future__ import annotations

import contextlib
import json as json_format
import random
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

import numpy as np
import numpy.typing as npt

from sim_backends.attenuators.keysight_n7764a import N7764ATwin
from sim_backends.attenuators.oz_dd100 import OzDD100Twin
from sim_backends.bench_addresses import (
    AUTO,
    PORTS,
    Place,
    free_port_range,
    is_loopback,
    parse_address,
    pick_hosts,
)
from sim_backends.bench_switch import generator_armed, generator_direction
from sim_backends.detectors.websq import WebSQTwin
from sim_backends.lasers.nkt_basik import NKTBasikTwin
from sim_backends.modulators.tektronix_awg70002a import AWG70002ATwin
from sim_backends.optics import Drive, Ring
from sim_backends.optics_setup import ring_of
from sim_backends.powermeters.thorlabs_pm100d import PM100DTwin
from sim_backends.serial_server import FOLDER_PREFIX, is_simulated
from sim_backends.timetaggers.id900 import ID900Twin

if TYPE_CHECKING:
    from lab.testbed import InstrumentEntry, Testbed

STREAM_PORTS = 5

Tags = npt.NDArray[np.uint64]
"""1-d uint64: picoseconds since the reference pulse."""


class BenchError(Exception):
    """A testbed that cannot be simulated, or an instrument that cannot be served."""


class Twin(Protocol):
    """What every simulated instrument offers."""

    def close(self) -> None:
        """Stop serving."""

    def state(self) -> dict[str, object]:
        """What an observer may see."""


class Bench:
    """The simulated instruments of one testbed."""

    def __init__(self, testbed: Testbed, rng: random.Random | None = None) -> None:
        """Build and couple the twins; ``rng`` picks the loopback block.

        Raises BenchError for a testbed without [simulation] or without anything to simulate.
        """
        if testbed.simulation is None:
            raise BenchError(f"testbed {testbed.name!r} has no [simulation] section; add one to simulate it")
        self._testbed = testbed
        self._rng = rng or random.SystemRandom()
        self._seed = testbed.simulation.seed
        self.ring: Ring = ring_of(testbed)
        self._places, self._links = self._plan()
        if not self._places:
            raise BenchError(f"testbed {testbed.name!r} names real addresses only; nothing to simulate")
        self._serve: dict[str, Callable[[], str]] = {}
        self.twins: dict[str, Twin] = {}
        self.addresses: dict[str, str] = {}
        self.options: dict[str, dict[str, str | int]] = {}
        self._generators: dict[str, AWG70002ATwin] = {}
        self._tagger: ID900Twin | None = None
        for number, entry in enumerate(testbed.instruments, start=1):
            if entry.name in self._places:
                self._build(entry, self._places[entry.name], number)
        self._sinks = self._trigger_sinks()

    # Life

    def serve(self) -> dict[str, str]:
        """Serve every twin; returns the address of each by instrument name.

        Raises BenchError naming the instrument that could not be bound; the others are closed again.
        """
        self.ring.expose({}, 0, seed=0)  # compiles the kernel, or loads it from the cache
        # Serial ones last: a second simulator fails at a taken port before it takes over a serial line.
        for name, serve in sorted(self._serve.items(), key=lambda item: item[0] in self._links):
            try:
                self.addresses[name] = self._linked(name, serve())
            except OSError as error:
                self.close()
                raise BenchError(f"{name} cannot be served at {self._places[name]}: {error}") from error
        return dict(self.addresses)

    def close(self) -> None:
        """Stop every twin, last one first; safe to call twice."""
        for twin in reversed(self.twins.values()):
            twin.close()
        for link in self._links.values():
            if link.is_symlink():
                link.unlink()
            if link.parent.name.startswith(FOLDER_PREFIX):
                with contextlib.suppress(OSError):  # gone already, or other links are in it
                    link.parent.rmdir()

    def __enter__(self) -> Bench:
        self.serve()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ready_line(self) -> dict[str, object]:
        """What ``qunetlab simulate --json`` prints once everything answers."""
        entries = [
            {
                "name": entry.name,
                "model": entry.model,
                "owner": entry.owner,
                "address": self.addresses[entry.name],
                "options": self.options.get(entry.name, {}),
            }
            for entry in self._testbed.instruments
            if entry.name in self.addresses
        ]
        real = [entry.name for entry in self._testbed.instruments if entry.name not in self.addresses]
        return {
            "type": "SimulatorServing",
            "ready": True,
            "testbed": self._testbed.name,
            "instruments": entries,
            "not_simulated": real,
        }

    def states(self) -> dict[str, dict[str, object]]:
        """The state of every twin by instrument name; no waveforms, no tag times."""
        return {name: twin.state() for name, twin in self.twins.items()}

    # Places

    def _plan(self) -> tuple[dict[str, Place], dict[str, Path]]:
        """Where each simulated instrument goes, and the links for serial ones with a path of their own."""
        entries = self._testbed.instruments
        automatic = [entry for entry in entries if entry.address == AUTO]
        picked = pick_hosts([entry.model for entry in automatic], self._rng)
        places = {entry.name: place for entry, place in zip(automatic, picked, strict=True)}
        links: dict[str, Path] = {}
        for entry in entries:
            place = parse_address(entry.address) if entry.address != AUTO else None
            if entry.model in PORTS and place is not None and is_loopback(place.host):
                places[entry.name] = place
            elif entry.model not in PORTS and entry.address != AUTO and _is_free(Path(entry.address)):
                places[entry.name] = Place(entry.address)
                links[entry.name] = Path(entry.address)
        return places, links

    def _linked(self, name: str, address: str) -> str:
        """The address under which a twin is announced: for a serial one the configured path, if any."""
        link = self._links.get(name)
        if link is None:
            return address
        if link.is_symlink():
            link.unlink()
        if link.parent.name.startswith(FOLDER_PREFIX):
            link.parent.mkdir(mode=0o700, exist_ok=True)
        link.symlink_to(address)
        return str(link)

    # Twins and their couplings

    def _build(self, entry: InstrumentEntry, place: Place, number: int) -> None:
        builders: Mapping[str, Callable[[InstrumentEntry, Place, int], Twin]] = {
            "nkt-basik": self._laser,
            "keysight-n7764a": self._launch,
            "single-quantum-websq": self._detectors,
            "id-quantique-id900": self._time_tagger,
            "tektronix-awg70002a": self._generator,
            "oz-dd100": self._attenuator,
            "thorlabs-pm100d": self._monitor,
        }
        if entry.model not in builders:
            raise BenchError(f"{entry.name}: no simulated {entry.model!r}; give it a real address")
        self.twins[entry.name] = builders[entry.model](entry, place, number)

    def _laser(self, entry: InstrumentEntry, place: Place, number: int) -> Twin:
        twin = NKTBasikTwin(
            on_output=self.ring.set_laser,
            wavelength_nm=self._testbed.ring.wavelength_nm,
            serial_number=_serial(number),
        )
        self._serve[entry.name] = twin.serve
        return twin

    def _launch(self, entry: InstrumentEntry, place: Place, number: int) -> Twin:
        def on_channel(channel: int, attenuation_db: float, is_open: bool) -> None:
            if channel == self._testbed.ring.launch_channel:
                self.ring.set_launch(attenuation_db, is_open)

        twin = N7764ATwin(on_channel=on_channel, serial=number)
        self._serve[entry.name] = _at(twin.serve, place)
        return twin

    def _detectors(self, entry: InstrumentEntry, place: Place, number: int) -> Twin:
        control, counts = _ports(entry.model, place)
        twin = WebSQTwin(
            on_bias=self.ring.set_detectors,
            count_rates=self._count_rates,
            control_port=control,
            counts_port=counts,
            rng=np.random.default_rng(self._seed),
        )

        def serve() -> str:
            address = twin.serve(place.host)
            if counts == 0:
                self.options[entry.name] = {"counts_port": twin.counts_port}
            return place.host if place.port is None else address

        self._serve[entry.name] = serve
        return twin

    def _time_tagger(self, entry: InstrumentEntry, place: Place, number: int) -> Twin:
        scpi, dlt = _ports(entry.model, place)
        identity = f"ID Quantique,ID900,{_serial(number)},2.2.0"
        twin = ID900Twin(on_record=self._on_record, identity=identity, scpi_port=scpi, dlt_port=dlt)

        def serve() -> str:
            address = twin.serve(place.host)
            if dlt == 0:
                streams = free_port_range(STREAM_PORTS, self._rng)
                self.options[entry.name] = {"dlt_address": twin.dlt_address, "stream_port": streams}
            return place.host if place.port is None else address

        self._serve[entry.name] = serve
        return twin

    def _generator(self, entry: InstrumentEntry, place: Place, number: int) -> Twin:
        twin = AWG70002ATwin(serial=number)
        self._generators[entry.name] = twin
        self._serve[entry.name] = _at(twin.serve, place)
        return twin

    def _attenuator(self, entry: InstrumentEntry, place: Place, number: int) -> Twin:
        twin = OzDD100Twin(
            on_attenuation=lambda attenuation_db: self.ring.set_user_attenuation(entry.owner, attenuation_db),
            serial_number=_serial(number),
        )
        self._serve[entry.name] = twin.serve
        return twin

    def _monitor(self, entry: InstrumentEntry, place: Place, number: int) -> Twin:
        def read_power_w() -> float:
            self._follow_generators()
            return self.ring.monitor_power_w(entry.owner)

        twin = PM100DTwin(read_power_w=read_power_w, serial=number)
        self._serve[entry.name] = _at(twin.serve, place)
        return twin

    # Light and trigger

    def _trigger_sinks(self) -> dict[str, tuple[AWG70002ATwin, int]]:
        """Generator and its channel by user, for every generator on the trigger line."""
        sinks = {}
        for entry in self._testbed.instruments:
            if entry.name in self._testbed.cabling.trigger_sinks and entry.name in self._generators:
                channel = entry.options.get("channel", 1)
                sinks[entry.owner] = (self._generators[entry.name], int(str(channel)))
        return sinks

    def _follow_generators(self) -> None:
        """Turn the direction switches as the waveform generators stand."""
        armed = []
        for user, (generator, channel) in self._sinks.items():
            direction = generator_direction(generator, self._testbed.protocol.samples_per_slot)
            if direction is not None:
                self.ring.set_direction(user, direction)
            if generator_armed(generator, channel):
                armed.append(user)
        self.ring.set_armed(armed)

    def _count_rates(self) -> Sequence[float]:
        self._follow_generators()
        return self.ring.detector_count_rates()

    def _on_record(self, duration_ps: int, record_index: int) -> dict[int, Tags]:
        """The tagger's record starts: fire the trigger line and collect the clicks per tagger input."""
        self._follow_generators()
        drives = {}
        for user, (generator, channel) in self._sinks.items():
            playback = (generator.trigger() or {}).get(channel)
            if playback is not None:
                drives[user] = Drive(playback.samples, playback.sample_rate_hz, playback.amplitude_vpp)
        clicks = self.ring.expose(drives, duration_ps, seed=(self._seed << 32) + record_index)
        return {
            channel: clicks.of(detector).astype(np.uint64)
            for detector, channel in enumerate(self._testbed.detectors.channels)
        }


def _is_free(path: Path) -> bool:
    """Whether a serial instrument may be simulated at ``path``: it is no device, and nothing else is there.

    What an earlier simulator left is replaced; the terminal it led to may be somebody else's by this time.
    """
    return Path("/dev") not in path.parents and (is_simulated(path) or not path.exists())


def _serial(number: int) -> str:
    return f"SIM{number:05d}"


def _ports(model: str, place: Place) -> tuple[int, int]:
    """The two ports of an instrument that has two: the vendor's, unless any free ones are asked for."""
    first, second = PORTS[model]
    if place.port == 0:
        return 0, 0
    return (first if place.port is None else place.port), second


def _at(serve: Callable[..., str], place: Place) -> Callable[[], str]:
    """``serve`` at a place, leaving the vendor's port to the twin where no other is asked for."""
    return lambda: serve(place.host) if place.port is None else serve(place.host, place.port)


def run_simulator(
    testbed_path: Path,
    stop: threading.Event,
    *,
    json: bool = False,
    resolved: Path | None = None,
    out: TextIO | None = None,
) -> int:
    """Serve the instruments of a testbed until ``stop`` is set; returns 0.

    Prints one line to ``out`` (standard output) when everything answers (JSON: :meth:`Bench.ready_line`)
    and one with the final states at the end.  ``resolved`` is written before the ready line: the same
    testbed with the addresses in use.  Raises TestbedError, BenchError or OSError before anything is served.
    """
    from lab.testbed import load_testbed

    out = out or sys.stdout
    testbed = load_testbed(testbed_path)
    with Bench(testbed) as bench:
        if resolved is not None:
            _write_resolved(testbed_path, bench, resolved)
        ready = bench.ready_line()
        _say(out, json_format.dumps(ready) if json else _ready_text(bench, testbed_path))
        stop.wait()
        states = bench.states()
    final = {"type": "SimulatorStopped", "stopped": True, "states": states}
    _say(out, json_format.dumps(final, default=str) if json else f"{testbed.name}: stopped")
    return 0


def _say(out: TextIO, line: str) -> None:
    print(line, file=out, flush=True)


def _ready_text(bench: Bench, testbed_path: Path) -> str:
    lines = [f"{name:20} {address}" for name, address in bench.addresses.items()]
    return "\n".join([f"simulating {testbed_path}; stop with Ctrl-C", *lines])


def _write_resolved(testbed_path: Path, bench: Bench, out: Path) -> None:
    """Copy the testbed file with the addresses in use, and with the options that they need."""
    import tomllib

    from lab.testbed import resolve_addresses, write_testbed

    data = resolve_addresses(tomllib.loads(testbed_path.read_text(encoding="utf-8")), bench.addresses)
    for entry in data["instruments"]:
        extra = bench.options.get(entry["name"])
        if extra:
            entry["options"] = {**entry.get("options", {}), **extra}
    write_testbed(data, out)
