"""Every simulated instrument of a testbed, coupled by one ring of light, one trigger line and one reference clock.

A bench is built from a testbed file: one twin per instrument whose address is ``auto`` or a loopback
address; instruments with other addresses are real ones and left alone.  Each twin is built by the module that
the catalogue names, at a :class:`sim_backends.site.Site` that couples it to the rest.

Building has no side effects, :meth:`Bench.serve` binds; the bench is a context manager.
:func:`run_simulator` is the process around it.
"""

from __future__ import annotations

import contextlib
import importlib
import json as json_format
import random
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from drivers.catalogue import AddressKind, CatalogueError, Row, place_of, row, run
from lab.testbed import (
    AUTO,
    InstrumentEntry,
    Testbed,
    load_testbed,
    read_testbed,
    resolve_addresses,
    write_testbed,
)
from sim_backends.bench_addresses import (
    Place,
    free_port_range,
    is_loopback,
    parse_address,
    pick_hosts,
)
from sim_backends.lines import ReferenceLine, TriggerLine
from sim_backends.optics import Ring
from sim_backends.optics_drift import PhysicsClock
from sim_backends.optics_hidden import lines_of, ring_of, simulated
from sim_backends.optics_way import Direction
from sim_backends.serial_server import FOLDER_PREFIX, is_simulated
from sim_backends.site import Options, Plugged, Simulated, Site, Surroundings, Twin

MATED_AGAIN_DB = 0.1
LOOK_S = 1.0
"""What a connector takes more or less when it is mated again, usual for clean ones."""


class BenchError(Exception):
    """A testbed that cannot be simulated, or an instrument that cannot be served."""


class Bench:
    """The simulated instruments of one testbed."""

    def __init__(
        self,
        testbed: Testbed,
        rng: random.Random | None = None,
        *,
        only: Collection[str] | None = None,
        physics: Callable[[], float] | None = None,
    ) -> None:
        """Build and couple the twins, of instruments with names in ``only`` if it is given; ``rng`` picks the loopback block.

        ``physics``: the clock (s) that the ring drifts with; by default the testbed's ``time_scale`` from here on.
        Raises BenchError for a testbed without [simulation] or without anything to simulate.
        """
        if testbed.simulation is None:
            raise BenchError(f"testbed {testbed.name!r} has no [simulation] section; add one to simulate it")
        self._testbed = testbed
        self._only = only
        self._rng = rng or random.SystemRandom()
        self._hands = random.Random(testbed.simulation.seed)
        scaled = PhysicsClock(time.monotonic, testbed.simulation.time_scale, time.monotonic())
        self.ring: Ring = ring_of(testbed, physics or scaled)
        self._places, self._links = self._plan()
        if not self._places:
            raise BenchError(f"testbed {testbed.name!r} names real addresses only; nothing to simulate")
        self._around = _surroundings(testbed, self.ring, partial(free_port_range, rng=self._rng))
        self.trigger: TriggerLine = self._around.trigger
        self.reference: ReferenceLine = self._around.reference
        self.addresses: dict[str, str] = {}
        self.options: dict[str, Options] = {}
        self._built = {
            entry.name: self._build(entry, self._places[entry.name], number)
            for number, entry in enumerate(testbed.instruments, start=1)
            if entry.name in self._places
        }
        self.twins: dict[str, Twin] = {name: built.twin for name, built in self._built.items()}

    # Life

    def serve(self) -> dict[str, str]:
        """Serve every twin; returns the address of each by instrument name.

        Raises BenchError naming the instrument that could not be bound; the others are closed again.
        """
        self.ring.expose({}, 0, seed=0)  # compiles the kernel, or loads it from the cache
        # Serial ones last: a second simulator fails at a taken port before it takes over a serial line.
        for name, built in sorted(self._built.items(), key=lambda item: item[0] in self._links):
            try:
                self.addresses[name] = self._linked(name, built.serve())
                self.options[name] = built.options()
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

    def plug(self, user: str, sensor: Direction, free: bool) -> None:
        """What hands do at a station: move the fibre of a sensor to the free port of the far tap, or back.

        No connector is twice the same.
        """
        spread = self._around.spread
        self._around.plug(user, sensor, Plugged(free, spread * self._hands.uniform(0, MATED_AGAIN_DB)))

    def resolved(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The content of the testbed's file with the addresses in use, and with the options that they need."""
        resolved = resolve_addresses(data, self.addresses)
        for entry in resolved["instruments"]:
            if extra := self.options.get(entry["name"]):
                entry["options"] = {**entry.get("options", {}), **extra}
        return resolved

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
        return {
            "type": "SimulatorServing",
            "ready": True,
            "testbed": self._testbed.name,
            "instruments": entries,
            "not_simulated": self.real(),
        }

    def real(self) -> list[str]:
        """Names of the instruments of the testbed that are not simulated here."""
        return [entry.name for entry in self._testbed.instruments if entry.name not in self._places]

    def states(self) -> dict[str, dict[str, object]]:
        """The state of every twin by instrument name; no waveforms, no tag times."""
        return {name: twin.state() for name, twin in self.twins.items()}

    def unsafe(self) -> list[str]:
        """Names of instruments that are not in their safe states; a real one counts, for it was not looked at."""
        names = [entry.name for entry in self._testbed.instruments]
        return [name for name in names if name not in self.twins or not self.twins[name].is_safe()]

    # Places

    def _plan(self) -> tuple[dict[str, Place], dict[str, Path]]:
        """Where each simulated instrument goes, and the links for serial ones with a path of their own."""
        entries = [
            entry for entry in self._testbed.instruments if self._only is None or entry.name in self._only
        ]
        automatic = [entry for entry in entries if entry.address == AUTO]
        picked = pick_hosts([row(entry.model).ports for entry in automatic], self._rng)
        places = {entry.name: place for entry, place in zip(automatic, picked, strict=True)}
        links: dict[str, Path] = {}
        for entry in entries:
            place = parse_address(entry.address) if entry.address != AUTO else None
            serial = row(entry.model).address is AddressKind.SERIAL
            if not serial and place is not None and is_loopback(place.host):
                places[entry.name] = place
            elif serial and entry.address != AUTO and _is_free(Path(entry.address)):
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

    # Twins

    def _build(self, entry: InstrumentEntry, place: Place, number: int) -> Simulated:
        """The twin of an instrument, built by the module that its catalogue row names."""
        known = row(entry.model)
        if not known.twin:
            raise BenchError(f"{entry.name}: no simulated {entry.model!r}; give it a real address")
        site = Site(
            name=entry.name,
            owner=entry.owner,
            serves={
                need: server.channel
                for need, server in self._testbed.servers(entry.owner).items()
                if server.instrument == entry.name
            },
            options=entry.options,
            number=number,
            host=place.host,
            ports=_ports(known, place),
            wavelength_nm=self._testbed.ring.wavelength_nm,
            around=self._around,
        )
        named = f"{entry.name}: {place_of(entry.model, 'twin', f'{known.twin}:build')}"
        try:
            built = run(named, lambda: importlib.import_module(known.twin).build(site))
        except CatalogueError as error:
            raise BenchError(str(error)) from error
        if not isinstance(built, Simulated):
            raise BenchError(f"{named} gives a {type(built).__name__}, no Simulated of sim_backends.site")
        return built


def _surroundings(testbed: Testbed, ring: Ring, free_ports: Callable[[int], int]) -> Surroundings:
    """Light and lines, cabled as the file says."""
    lines, cabling, simulation = lines_of(testbed), testbed.cabling, simulated(testbed)
    return Surroundings(
        ring=ring,
        trigger=TriggerLine(
            cabling.trigger_source, {sink: lines.trigger_ps[sink] for sink in cabling.trigger_sinks}
        ),
        reference=ReferenceLine(set(cabling.reference), lines.ppm),
        latency_ps=lines.latency_ps,
        seed=simulation.seed,
        ring_seed=simulation.ring_seed,
        spread=simulation.spread,
        sensor_speed=simulation.sensor_speed,
        tag_channels=testbed.detectors.channels,
        clock=time.monotonic,
        free_ports=free_ports,
    )


def _is_free(path: Path) -> bool:
    """Whether a serial instrument may be simulated at ``path``: it is no device, and nothing else is there.

    What an earlier simulator left is replaced; the terminal it led to may be somebody else's by this time.  Below /dev/shm
    there are files in memory, no devices.
    """
    device = Path("/dev") in path.parents and Path("/dev/shm") not in path.parents
    return not device and (is_simulated(path) or not path.exists())


def _ports(known: Row, place: Place) -> tuple[int, ...]:
    """Where to serve: at the vendor's ports, the first of them elsewhere, or at any free ones (0)."""
    if place.port is None or not known.ports:
        return known.ports
    return (place.port, *known.ports[1:]) if place.port else (0,) * len(known.ports)


def run_simulator(
    testbed_path: Path,
    stop: threading.Event,
    *,
    json: bool = False,
    resolved: Path | None = None,
    out: TextIO | None = None,
    beside: Callable[[Bench], AbstractContextManager[object]] = lambda bench: contextlib.nullcontext(),
    when_ready: Callable[[], Mapping[str, object]] = dict,
) -> int:
    """Serve the instruments of a testbed until ``stop`` is set; returns 0.

    Prints one line to ``out`` (standard output) when everything answers (JSON: :meth:`Bench.ready_line`)
    and one with the final states at the end.  ``resolved`` is written before the ready line: the same
    testbed with the addresses in use; ``beside`` gives what is entered while everything answers, and ``when_ready``
    what else stands in the ready line.  Raises TestbedError, BenchError or OSError before anything is served.
    """
    out = out or sys.stdout
    testbed = load_testbed(testbed_path)
    with Bench(testbed) as bench, beside(bench):
        if resolved is not None:
            write_testbed(bench.resolved(read_testbed(testbed_path)), resolved)
        ready = {**bench.ready_line(), **when_ready()}
        _say(out, json_format.dumps(ready) if json else _ready_text(bench, testbed_path))
        while not stop.is_set():
            stop.wait(LOOK_S)
        states, unsafe = bench.states(), bench.unsafe()
    final = {"type": "SimulatorStopped", "stopped": True, "states": states, "unsafe": unsafe}
    _say(out, json_format.dumps(final, default=str) if json else f"{testbed.name}: stopped")
    return 0


def _say(out: TextIO, line: str) -> None:
    print(line, file=out, flush=True)


def _ready_text(bench: Bench, testbed_path: Path) -> str:
    lines = [f"{name:20} {address}" for name, address in bench.addresses.items()]
    return "\n".join([f"simulating {testbed_path}; stop with Ctrl-C", *lines])
