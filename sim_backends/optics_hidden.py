"""What the simulated ring became: the order of the testbed's [simulation] with the tolerances that parts have.

Every value is drawn from ``ring_seed`` and its own name, so that one more part changes no other.  Tolerances are the
usual ones of such parts (chosen; a ring's own are what calibration finds).  Nothing of this comes from the public
sections of the file, and nothing outside the simulator reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.needs import POLARIZATION
from sim_backends.optics import Ring
from sim_backends.optics_drift import Drift, seeded
from sim_backends.optics_parts import (
    PS_PER_KM,
    CarverOptics,
    DetectorOptics,
    RingOptics,
    StationOptics,
)

if TYPE_CHECKING:
    from lab.testbed import BuiltStation, Simulation, Testbed

HALF_BIAS, BIAS_WIDTH, DARK_WIDTH, CRITICAL = 0.6, 0.1, 0.05, 1.2
"""Of a detector, as fractions of its operating bias: half the efficiency, the rise, growth of dark counts, the end."""
TRIGGER_CABLE_PS, LATENCY_PS = 25_000.0, 120_000.0
"""5 m of coax; from a generator's trigger input to its output (chosen, of the order of such instruments)."""
DETECTOR_CABLE_PS = 30_000.0


@dataclass(frozen=True)
class Hidden:
    """The draws of one ring: uniform around the order, times ``spread``."""

    seed: int
    spread: float

    def within(self, name: str, half: float) -> float:
        """Uniform from -half to half."""
        return float(seeded(self.seed, name).uniform(-half, half)) * self.spread

    def between(self, name: str, low: float, high: float, nominal: float) -> float:
        """Uniform in [low, high]; ``nominal`` for a ring without spread."""
        return float(seeded(self.seed, name).uniform(low, high)) if self.spread else nominal


@dataclass(frozen=True)
class HiddenLines:
    """Cables and clocks of the instruments, by name."""

    trigger_ps: Mapping[str, float]
    latency_ps: Mapping[str, float]
    ppm: Mapping[str, float]


def hidden(simulation: Simulation) -> Hidden:
    """The draws of a testbed's ring."""
    return Hidden(simulation.ring_seed, simulation.spread)


def simulated(testbed: Testbed) -> Simulation:
    """The [simulation] section; ValueError without one."""
    if testbed.simulation is None:
        raise ValueError(f"testbed {testbed.name!r} has no [simulation] section")
    return testbed.simulation


def ring_of(testbed: Testbed, physics: Callable[[], float] = lambda: 0.0) -> Ring:
    """The ring of a testbed with a [simulation] section, dark and with detectors off; it drifts with ``physics``."""
    simulation = simulated(testbed)
    draw = hidden(simulation)
    optics = RingOptics(
        users=tuple(_station(draw, each) for each in simulation.stations),
        length_km=simulation.length_km,
        fibre_loss_db_per_km=simulation.fibre_loss_db_per_km * (1 + draw.within("fibre loss", 0.02)),
        relay_loss_db=simulation.relay_loss_db + draw.within("relay loss", 0.1),
        circulator_db=0.8 + draw.within("circulator", 0.1),
        carver=CarverOptics(
            rf_gain=16.0 * (1 + draw.within("carver gain", 0.02)),
            insertion_db=3.5 + draw.within("carver loss", 0.2),
            null_bias_v=draw.between("carver null", -3.0, 3.0, 1.0),
            extinction_db=simulation.carver_extinction_db + draw.between("carver extinction", 0, 3, 0.0),
        ),
        visibility=simulation.visibility,
        splitter_ratio=simulation.splitter_ratio,
        polarizer_db=draw.between("polarisation", 0.0, 0.05, 0.0),
        phase_noise_rad=simulation.phase_noise_rad,
        loop_phase_rad=simulation.loop_phase_rad + draw.within("loop phase", 1e-3),
        backscatter_db_per_m=72.0,
        leak_db=draw.between("leak", 50.0, 55.0, 55.0),
        # Half a metre of fibre at each loop end: the leaked pulse comes between two gates.
        leak_delay_ps=simulation.length_km * PS_PER_KM + 5_000.0,
    )
    first, second = (
        _detector(draw, simulation, number, bias_ua, testbed.protocol.gate_ns)
        for number, bias_ua in enumerate(testbed.detectors.bias_ua, start=1)
    )
    return Ring(optics, (first, second), _drift(testbed, simulation), physics)


def lines_of(testbed: Testbed) -> HiddenLines:
    """Cables and clocks of every instrument of a testbed."""
    draw = hidden(simulated(testbed))
    names = [entry.name for entry in testbed.instruments]
    return HiddenLines(
        trigger_ps={name: TRIGGER_CABLE_PS + draw.within(f"{name} trigger cable", 20e3) for name in names},
        latency_ps={name: LATENCY_PS + draw.within(f"{name} latency", 20e3) for name in names},
        ppm={name: draw.within(f"{name} clock", 2.0) or 1.0 for name in names},
    )


def _drift(testbed: Testbed, simulation: Simulation) -> Drift:
    """How the ring drifts; where a controller stands, nobody laid the fibre behind it (in a perfect ring somebody did)."""
    roles = ("relay", *testbed.user_names()) if simulation.spread else ()
    return Drift(
        simulation.ring_seed,
        simulation.drift,
        simulation.loop_phase_drift_rad,
        [role for role in roles if POLARIZATION.name in testbed.servers(role)],
    )


def _station(draw: Hidden, built: BuiltStation) -> StationOptics:
    name = built.name
    return StationOptics(
        name=name,
        position_km=built.position_km + draw.within(f"{name} position", 2e-5),
        v_pi_v=built.v_pi_v * (1 + draw.within(f"{name} v_pi", 0.05)),
        rf_gain=built.rf_gain * (1 + draw.within(f"{name} gain", 0.05)),
        modulator_db=3.7 + draw.within(f"{name} modulator", 0.3),
        attenuator_db=0.0,  # part of what is set
        attenuator_error_db=draw.within(f"{name} attenuator error", 0.1),
        attenuator_slope=draw.within(f"{name} attenuator slope", 0.01),
        crosstalk_db=50.0,
    )


def _detector(
    draw: Hidden, simulation: Simulation, number: int, bias_ua: float, gate_ns: float
) -> DetectorOptics:
    name = f"D{number}"
    return DetectorOptics(
        efficiency_max=simulation.detector_efficiency * (1 + draw.within(f"{name} efficiency", 0.02)),
        dark_count_probability=simulation.dark_count_probability * (1 + draw.within(f"{name} dark", 0.2)),
        gate_ns=gate_ns,
        dead_time_ns=simulation.dead_time_ns,
        recovery_ns=draw.between(f"{name} recovery", 5.0, 10.0, 0.0),
        jitter_ps=simulation.jitter_ps,
        delay_ps=DETECTOR_CABLE_PS + draw.within(f"{name} cable", 2e3),
        afterpulse_probability=simulation.afterpulse_probability,
        bias_half_ua=HALF_BIAS * bias_ua,
        bias_width_ua=BIAS_WIDTH * bias_ua,
        operating_bias_ua=bias_ua,
        dark_width_ua=DARK_WIDTH * bias_ua,
        critical_ua=CRITICAL * bias_ua,
        latch_rate_hz=3e7 * (1 + draw.within(f"{name} latching", 0.3)),
    )
