"""Sensors that average for long: the interlock looks at them without keeping anybody from measuring."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from driven_ring import DrivenRing, ring_content

from lab.interlock.interlock import Interlock
from lab.interlock.watching import watching
from orchestrator.processes.interlock_causes import sensor_watch

LIMIT_S = 5.0
DARK_S = 1.0


def test_sensors_that_average_for_long_are_watched_and_free_for_who_measures(tmp_path: Path) -> None:
    """A reading takes a second; somebody takes three of them while the interlock looks, and then it gets bright."""
    ring = DrivenRing(ring_content(1 << 12))
    try:
        own = ring.light()["alice"]
        sensors: Any = ring.bench.twins["sensors_alice"]
        sensors.sensors._averaging.speed = (
            10.0  # not before: half a minute of zeros and readings shows nothing here
        )
        interlock = Interlock(ring.stations["alice"], tmp_path)
        watch = sensor_watch(ring.testbed, "alice", ring.owned["alice"].sensors, lambda: own.is_in)
        with watching(interlock, [watch]):
            begun = time.monotonic()
            for _ in range(3):
                own.output_photons("ccw")
            took_s = time.monotonic() - begun
            print(f"three readings of a second each, with the interlock beside them: {took_s:.2f} s")
            assert took_s < 4.5, "looks that average as long as readings make it nine"
            assert not interlock.causes
            first = ring.instruments.launch
            noticed = threading.Event()
            interlock.when_tripped(lambda error: noticed.set())
            first.attenuation_db(first.attenuation_db() - 25.0)
            begun = time.monotonic()
            assert noticed.wait(LIMIT_S)
            noticed_s = time.monotonic() - begun
            print(f"noticed after {noticed_s:.2f} s")
            assert noticed_s < DARK_S
    finally:
        ring.close()
