"""What a simulated ring really is, beside what its calibration found: every value with its error and uncertainty.

Two things are nobody's to find.  Which slot is number 0 is the relay's choice, so delays of one ring may all be whole slots
off.  Efficiency and loss are measured as a product, and are compared as one.  Half a turn is what the driver's gain makes of
V_pi, at the moment in its sample when the pulse passes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.calibration.steps import Step
from lab.light_budget import RISE_NS, pulse_place
from lab.testbed import Testbed, load_testbed, read_testbed
from sim_backends.optics_hidden import ring_of
from sim_backends.survey import surveyed

KINDS: dict[str, tuple[str, str]] = {
    "v_pi_v": ("V_pi", "%"),
    "detector_delays_ps": ("delay at detectors", "ps"),
    "modulator_delays_ps": ("delay at modulators", "ps"),
    "relay_loss_db": ("relay loss, efficiency in it", "dB"),
    "launch_loss_db": ("launch loss", "dB"),
    "station_loss_db": ("station loss", "dB"),
    "sensor_to_output_db": ("sensor to output", "dB"),
    "attenuator_slope": ("attenuator slope", ""),
    "extinction_db": ("extinction", "dB"),
    "backscatter_db_per_m": ("back-scatter", "dB/m"),
    "dark_count_probability": ("dark counts", "%"),
    "detector_ratio": ("D2 over D1", "%"),
    "visibility": ("visibility", "%"),
    "loop_phase_rad": ("loop phase", "rad"),
}
"""What is compared: its name for people, and the unit of its error."""
RELATIVE = ("v_pi_v", "dark_count_probability", "detector_ratio")


@dataclass(frozen=True)
class Compared:
    """One number of a calibration: off the truth by ``error``, in the unit of its kind, thought to be known to ``sigma``."""

    kind: str
    owner: str
    error: float
    sigma: float

    @property
    def pull(self) -> float:
        """The error in units of its uncertainty."""
        return self.error / self.sigma if self.sigma else math.copysign(math.inf, self.error)


def truth(path: Path) -> dict[str, dict[str, Any]]:
    """Hidden values by owner and by the name that the book has for them; ``path`` is a simulated testbed's."""
    testbed = load_testbed(path)
    data, ring = surveyed(read_testbed(path), testbed), ring_of(testbed)
    optics, detectors = ring.optics, ring.detectors
    efficiency = sum(each.efficiency_max for each in detectors) / len(detectors)
    assumed = testbed.calibration.detector_efficiency
    relay = {
        "detector_delays_ps": data["calibration"]["detector_delays_ps"],
        "relay_loss_db": data["ring"]["relay_loss_db"] + 10 * math.log10(assumed / efficiency),
        "launch_loss_db": data["ring"]["launch_loss_db"],
        "extinction_db": optics.carver.extinction_db,
        "backscatter_db_per_m": -optics.backscatter_db_per_m,
        "dark_count_probability": sum(each.dark_count_probability for each in detectors) / len(detectors),
        "detector_ratio": detectors[1].efficiency_max / detectors[0].efficiency_max,
        "visibility": optics.visibility,
    }
    users = {each["name"]: {**each, **_driven(testbed, each)} for each in data["users"]}
    return {"relay": relay, **users}


def _driven(testbed: Testbed, user: Mapping[str, Any]) -> dict[str, Any]:
    """``v_pi_v`` by the direction whose pulse is driven: where it sits in its sample, the edge before it has settled."""
    optics, name = ring_of(testbed).optics, user["name"]
    station = next(each for each in optics.users if each.name == name)
    half_turn_v = station.v_pi_v / station.rf_gain * testbed.user(name).rf_gain
    cw_ns, ccw_ns = (1e-3 * each for each in user["modulator_delays_ps"])
    slot_ns = 1e9 / testbed.protocol.clock_hz
    settled = {
        direction: -math.expm1(-pulse_place(slot_ns / 2, to_other_ns % slot_ns) * math.log(9) / RISE_NS)
        for direction, to_other_ns in (("cw", ccw_ns - cw_ns), ("ccw", cw_ns - ccw_ns))
    }
    return {
        "v_pi_v": {direction: half_turn_v / each for direction, each in settled.items()},
        "attenuator_slope": 1 + station.attenuator_slope,
        "loop_phase_rad": optics.loop_phase_rad,
    }


def compared(findings: Sequence[Mapping[str, Any]], true: Mapping[str, Mapping[str, Any]]) -> list[Compared]:
    """Every value that was found, as ``qunetlab calibrate --json`` gives them; the last of each where there are several."""
    latest = {
        (finding["owner"], kind): measured
        for finding in findings
        for kind, measured in finding["values"].items()
        if kind in true[finding["owner"]] and kind in KINDS
    }
    order = [owner for owner in true if owner != "relay"]
    partners = {finding["owner"]: finding["partner"] for finding in findings if finding["step"] == Step.PHASE}
    slots_ps = 0.0
    if found := latest.get(("relay", "detector_delays_ps")):
        slots_ps = 1e4 * round((found["value"][0] - true["relay"]["detector_delays_ps"][0]) / 1e4)

    def real(owner: str, kind: str) -> Any:
        if kind != "v_pi_v":
            return true[owner][kind]
        first = order.index(owner) < order.index(partners[owner])
        return true[owner][kind]["ccw" if first else "cw"]

    return [
        each
        for (owner, kind), measured in latest.items()
        for each in _compared(kind, owner, measured, real(owner, kind), slots_ps)
    ]


def _compared(
    kind: str, owner: str, measured: Mapping[str, Any], true: Any, slots_ps: float
) -> Iterator[Compared]:
    value, sigma, real = (np.atleast_1d(each) for each in (measured["value"], measured["uncertainty"], true))
    off = value - real - (slots_ps if kind.endswith("delays_ps") else 0.0)
    percent = 100.0 if kind == "visibility" else 1.0
    scale = 100.0 / real if kind in RELATIVE else np.full(real.shape, percent)
    for error, one_sigma in zip(off * scale, sigma * scale, strict=True):
        yield Compared(kind, owner, float(error), float(one_sigma))
