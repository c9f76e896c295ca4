"""A role with its interlock and what it watches, whose main thread then stands still: a child of the drill of interlocks.

``python held_role.py TESTBED STATE ROLE HOW [KEYS HUB [STATIONS]]``; prints "lit" once light is on or "dark: WHY" where it may not be, and
stands still: ``exchange`` in the middle of an exchange with its instrument, ``lock`` with the lock of its own lease party,
``reading`` with one reading after another of a sensor as in a light phase, ``end`` until its standard input is closed: where it
was dark, a line on it has the light tried once more.  With keys and addresses of a hub it is connected to that, and a relay may
watch STATIONS.
``bypass``, of a user, is left in bypass until a line comes in, and taken in then.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hub_alone import connected

from lab import needs
from lab.guard import guarded_role
from lab.interlock.watching import watching
from lab.testbed import load_testbed
from orchestrator.light.launching import Launching, RelayInstruments, planned_light
from orchestrator.light.own_station import OwnStation, StationInstruments
from orchestrator.processes.interlock_causes import detector_watch, sensor_watch, station_watch

PAIR = ("alice", "bob")


def main(
    testbed_path: str, state: str, role: str, how: str, keys: str = "", hub: str = "", stations: str = ""
) -> None:
    """Light on, then nothing more."""
    agent: Any = connected(Path(keys), role, hub) if hub else None
    path = Path(testbed_path)
    testbed = load_testbed(path)
    with ExitStack() as stack:
        station, interlock = stack.enter_context(guarded_role(testbed, path, role, Path(state)))
        if role == "relay":
            launching = Launching(testbed, RelayInstruments.of(station))
            set_up: Any = launching.set_up
            light: Any = lambda: launching.open(planned_light(testbed, *PAIR))  # noqa: E731
            held: Any = station.get(needs.LASER)
        else:
            owned = StationInstruments.of(station)
            of_user = OwnStation(testbed, role, owned)
            set_up, light, held = of_user.set_up, of_user.take_in, station.get(needs.ATTENUATOR)
        refused = interlock.unless_latched(set_up)
        if role == "relay":
            watches = [detector_watch(testbed, station.get(needs.DETECTORS).count_rates)]
            watches += [station_watch(agent, lambda: PAIR, lambda: True, station.safe)] if stations else []
        else:
            watches = [sensor_watch(testbed, role, owned.sensors, lambda: of_user.is_in)]
        stack.enter_context(watching(interlock, watches))
        busy = threading.Lock()
        if how == "lock":

            def waits(_: Exception) -> None:
                with busy:
                    raise AssertionError("nobody gives this lock back")

            interlock.when_tripped(waits)
        if how == "bypass":
            print("bypassed", flush=True)
            sys.stdin.readline()
        refused = refused or interlock.unless_latched(light)
        print(f"dark: {refused}" if refused else "lit", flush=True)
        if how == "exchange":
            with held.link.exchange():
                time.sleep(600)
        elif how == "lock":
            with busy:
                time.sleep(600)
        while how == "reading":
            owned.sensor_ccw.power_w()
        while sys.stdin.readline():
            refused = interlock.unless_latched(set_up) or interlock.unless_latched(light)
            print(f"dark: {refused}" if refused else "lit", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
