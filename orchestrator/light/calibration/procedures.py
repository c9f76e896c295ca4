"""How each calibration is done with the means of its owner."""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean, stdev

import numpy as np
import numpy.typing as npt
from msgspec import structs

from lab.calibration.arm_loss import OutputLight, arm_losses, launch_loss
from lab.calibration.bias import Sweep, plateau
from lab.calibration.carver import LEAST_CLICKS, extinction_db, pulse_of
from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Curve, Finding, Measured
from lab.calibration.flat_light import (
    backscatter_db_per_m,
    backscatter_per_gate,
    dark_count_probability,
    detector_ratio,
)
from lab.calibration.gates import GateCounts
from lab.calibration.reference import reference_of
from lab.calibration.steps import Step
from lab.calibration.visibility import visibility_of
from lab.light_budget import all_bypassed
from lab.light_of import pair_light, ring_light
from orchestrator.events.status import pair_name
from orchestrator.light.aligning import Meter
from orchestrator.light.calibration.exposures import RECORD_S, Exposures
from orchestrator.light.calibration.levels import phase_levels
from orchestrator.light.calibration.means import Pair, UserMeans
from orchestrator.light.calibration.phase import phase_finding
from orchestrator.light.calibration.relay_bench import DIM, MEASURED, AskedStation, RelayBench
from orchestrator.light.calibration.timing import delays, pulses, separation
from orchestrator.light.launching import planned_light
from orchestrator.light.own_station import OWN_DIRECTION, Direction
from orchestrator.light.recording import PS_PER_S, Times
from orchestrator.protocols.block_planning import plan_for

Floats = npt.NDArray[np.float64]
Part = Callable[[float], None]
RelayProcedure = Callable[[RelayBench, str, Pair, Part], Finding]
UserProcedure = Callable[[UserMeans, str, Pair, Part], Finding]
"""With its means, for an owner, in the light of a pair; told the part that is done."""

PHASE_CLICKS = 1e6
REST_CLICKS = 1e6
VISIBILITY_CLICKS = 3e6
"""To a hundredth of a per cent: an error rate of seven in a thousand follows by a hundredth of itself."""
LONGEST_S = 60.0
DARK_S = 20.0
READINGS = 10
POSITION_RECORDS = 12
SWEPT, SWEEP_POINTS, SWEEP_S = (0.5, 1.3), 17, 0.5


def phase(rig: UserMeans, user: str, pair: Pair, part: Part) -> Finding:
    """Half a turn of a user's modulator, from a million clicks at private levels."""
    testbed, index = rig.testbed, pair.index(user)
    planned = plan_for(testbed, *pair)
    n_frames = max(1, math.ceil(PHASE_CLICKS / (planned.gain * testbed.protocol.slots_per_frame)))
    levels = phase_levels(testbed, user)
    clicks = rig.framed(pair, levels, n_frames, lambda frame: part((frame + 1) / n_frames))
    mu_upper = (planned.mu_a, planned.mu_b)[index] * 10 ** (planned.tolerance_db[index] / 10)
    return phase_finding(testbed, user, pair[1 - index], levels, clicks, mu_upper, OWN_DIRECTION[index])


def visibility(rig: RelayBench, relay: str, pair: Pair, part: Part) -> Finding:
    """How much of a pair's light at rest leaves by D1."""
    with rig.lit(pair) as lit:
        counts = lit.exposures.gated(clicks=VISIBILITY_CLICKS, longest_s=LONGEST_S, part=part)
    loop_rad = rig.testbed.loop_phase_rad(pair[0])
    found = visibility_of(counts, loop_rad)
    return _relay_finding(
        rig, Step.VISIBILITY, pair, counts, {"visibility": found}, {"loop_phase_rad": loop_rad}
    )


def reference(rig: RelayBench, relay: str, pair: Pair, part: Part) -> Finding:
    """Whether pulses stay where they are, along a record and from one trigger to the next, with nobody in the ring.

    Every generator and the tagger have said before that they follow the reference: their drivers refuse to be set up else.
    """
    testbed = rig.testbed
    records: list[Times] = []
    with rig.bypassed(DIM) as exposures:
        for number in range(POSITION_RECORDS):
            records.append(exposures.tags())
            part((number + 1) / POSITION_RECORDS)
    slot_ps, record_ps = PS_PER_S / testbed.protocol.clock_hz, RECORD_S * PS_PER_S
    found = reference_of([first for first, _ in records], slot_ps, record_ps)
    numbers = [float(number) for number in range(1, len(records) + 1)]
    jumps = Curve(
        "Pulses of D1 by record",
        "record",
        "place in the slot / ps",
        numbers,
        {"D1": found.places_ps.tolist()},
    )
    return Finding(
        step=Step.REFERENCE,
        owner="relay",
        partner="",
        values={"clock_offset_ppm": found.offset_ppm, "trigger_jitter_ps": found.jitter_ps},
        figures={"latency_in_slot_ps": Measured(float(found.places_ps.mean()) % slot_ps, 0.0, "ps")},
        settings={"record_s": RECORD_S},
        quality={"clicks": float(sum(first.size for first, _ in records))},
        counts={"D1": [first.size for first, _ in records]},
        curves=[jumps],
        light_s=len(records) * RECORD_S,
    )


def carver(rig: RelayBench, relay: str, pair: Pair, part: Part) -> Finding:
    """Where the pulse stands in the slot, and how dark it is between pulses, with nobody in the ring."""
    testbed = rig.testbed
    slot_ns = 1e9 / testbed.protocol.clock_hz
    with rig.bypassed(DIM) as exposures:
        tags = exposures.joined(POSITION_RECORDS)
        pulse = pulse_of(tags[0], slot_ns, "D1")
        # Its cable is of another length; where it sees too little to tell it has no pulse to keep out of its ground.
        darker = pulse_of(tags[1], slot_ns, "D2") if tags[1].size >= LEAST_CLICKS else pulse
        counts = exposures.gated(
            clicks=5 * REST_CLICKS,
            longest_s=LONGEST_S,
            part=part,
            delays_ps=(pulse.middle_ns * 1e3, darker.middle_ns * 1e3),
        )
    scattered = all_bypassed(ring_light(testbed)).backscatter * counts.arriving
    found = extinction_db(counts, testbed.calibration.dark_count_probability, scattered)
    finding = _relay_finding(rig, Step.CARVER, pair, counts, {"extinction_db": found}, {})
    figures = {
        "pulse_ns": Measured(pulse.middle_ns, pulse.middle_sigma_ns, "ns"),
        "pulse_width_ns": Measured(
            pulse.width_ns, pulse.width_ns / math.sqrt(2 * max(tags[0].size, 1)), "ns"
        ),
    }
    place_ns = (tags[0] % round(slot_ns * 1e3)) * 1e-3
    seen, edges = np.histogram(place_ns, bins=200, range=(0, slot_ns))
    middles = (edges[:-1] + edges[1:]) / 2
    curve = Curve(
        "Clicks of D1 in the slot",
        "time in the slot / ns",
        "clicks",
        middles.tolist(),
        {"D1": seen.astype(float).tolist()},
    )
    return structs.replace(finding, figures={**finding.figures, **figures}, curves=[curve])


def detectors(rig: RelayBench, relay: str, pair: Pair, part: Part) -> Finding:
    """Dark counts with the launch closed, and a sweep of the bias with the light of a pair and without."""
    counts = rig.dark().gated(clicks=math.inf, longest_s=DARK_S, part=lambda done: part(done / 3))
    dark = dark_count_probability(counts)
    finding = _relay_finding(rig, Step.DETECTORS, pair, counts, {"dark_count_probability": dark}, {})
    operating = rig.testbed.detectors.bias_ua
    factors = np.linspace(SWEPT[0], SWEPT[1], SWEEP_POINTS)
    try:
        unlit = _sweep(rig, rig.dark(), factors, lambda done: part((1 + done) / 3))
        with rig.lit(pair) as lit:
            seen = _sweep(rig, lit.exposures, factors, lambda done: part((2 + done) / 3))
    finally:
        rig.bias(operating)
    figures: dict[str, Measured] = {}
    curves: list[Curve] = []
    for d, name in enumerate(("D1", "D2")):
        bias_ua = factors * operating[d]
        figures |= plateau(Sweep(bias_ua, seen[:, d], unlit[:, d], SWEEP_S), operating[d], name)
        rates = {"light": (seen[:, d] / SWEEP_S).tolist(), "dark": (unlit[:, d] / SWEEP_S).tolist()}
        curves.append(Curve(f"{name} by bias", "bias / uA", "counts per second", bias_ua.tolist(), rates))
    return structs.replace(finding, figures={**finding.figures, **figures}, curves=curves)


def _sweep(rig: RelayBench, exposures: Exposures, factors: Floats, part: Part) -> Floats:
    """Counts of both detectors at each part of their operating bias: float64 of shape (n, 2)."""
    counted = np.zeros((factors.size, 2))
    for k, factor in enumerate(factors):
        rig.bias([float(factor * each) for each in rig.testbed.detectors.bias_ua])
        for _ in range(round(SWEEP_S / RECORD_S)):
            counted[k] += [tags.size for tags in exposures.tags()]
        part((k + 1) / factors.size)
    return counted


def backscatter(rig: RelayBench, relay: str, pair: Pair, part: Part) -> Finding:
    """What is left above the dark counts when neither station lets light through."""
    light = pair_light(rig.testbed, *pair)
    unlit = rig.dark().gated(clicks=math.inf, longest_s=DARK_S / 4)
    dark = dark_count_probability(unlit)
    with rig.lit(pair, MEASURED) as lit:
        through = lit.exposures.gated(clicks=REST_CLICKS / 5, longest_s=LONGEST_S)
        for station in lit.stations:
            station.darken()
        closed = lit.exposures.gated(clicks=REST_CLICKS / 20, longest_s=DARK_S, part=part)
    per_gate = backscatter_per_gate(closed, dark)
    expected = light.backscatter * light.backscatter_behind_closed_stations * through.arriving
    found = backscatter_db_per_m(per_gate, expected, light.ring.backscatter_db_per_m)
    return _relay_finding(
        rig,
        Step.BACKSCATTER,
        pair,
        closed,
        {"backscatter_db_per_m": found, "detector_ratio": detector_ratio(closed, unlit)},
        {"arriving_per_slot": through.arriving},
    )


def arm_loss(rig: RelayBench, relay: str, pair: Pair, part: Part) -> Finding:
    """The losses of relay and launch, from a pair's rate and from what both users measure at their outputs."""
    light = pair_light(rig.testbed, *pair)
    with rig.lit(pair, MEASURED) as lit:
        measured = [
            _output(rig, station, direction, arm_db)
            for station, direction, arm_db in zip(lit.stations, OWN_DIRECTION, light.arms_db, strict=True)
        ]
        counts = lit.exposures.gated(clicks=REST_CLICKS / 5, longest_s=LONGEST_S, part=part)
    users = measured[0], measured[1]
    ring, planned = rig.testbed.ring, planned_light(rig.testbed, *pair).arriving
    offsets_db = np.array([station.arm_offsets_db for station in light.ring.stations])
    arms = (light.first, 1), (light.second, 0)
    scale_db = rig.testbed.uncertainty.sensor_scale_db
    found = arm_losses(counts, users, arms, ring.relay_loss_db, offsets_db, scale_db)
    values = {
        "relay_loss_db": found.relay_db,
        "arm_offsets_cw_db": found.offsets_cw_db,
        "arm_offsets_ccw_db": found.offsets_ccw_db,
        "launch_loss_db": launch_loss(
            counts, planned, found.relay_db, (ring.launch_loss_db, ring.relay_loss_db)
        ),
    }
    settings = {f"mu_{user}": each.mu for user, each in zip(pair, measured, strict=True)}
    return _relay_finding(rig, Step.ARM_LOSS, pair, counts, values, settings)


def _output(rig: RelayBench, station: AskedStation, direction: Direction, arm_db: float) -> OutputLight:
    """A user's light at its output, averaged, with the error of its sensor's zero."""
    readings = [station.output_photons(direction) for _ in range(READINGS)]
    mu = fmean(readings)
    own_w = station.own_power_w(mu, direction)
    zero = mu * rig.testbed.uncertainty.sensor_zero_pw * 1e-12 / own_w
    return OutputLight(mu, math.hypot(stdev(readings) / math.sqrt(READINGS), zero), arm_db)


def _relay_finding(
    rig: RelayBench,
    step: Step,
    pair: tuple[str, str],
    counts: GateCounts,
    values: dict[str, Measured],
    settings: dict[str, float],
) -> Finding:
    light_s = counts.slots / rig.testbed.protocol.clock_hz
    return Finding(
        step=step,
        owner="relay",
        partner=pair_name(pair),
        values=values,
        figures={
            "flat_per_gate": Measured(counts.flat_per_gate.tolist(), counts.flat_sigma.tolist()),
            "pulsed_per_slot": Measured(
                (counts.pulsed / counts.slots).tolist(), (counts.pulsed_sigma / counts.slots).tolist()
            ),
        },
        settings={"gate_ns": counts.gate_ns, "quiet_ns": counts.quiet_ns, **settings},
        quality={"clicks_in_gates": float(counts.inside.sum())},
        counts={"inside": counts.inside.astype(int).tolist(), "quiet": counts.quiet.astype(int).tolist()},
        curves=[],
        light_s=light_s,
    )


def polarization(rig: RelayBench, relay: str, pair: Pair, part: Part) -> Finding:
    """Everybody with a polarisation controller climbs, near where it stood last; settings stay with their owners."""
    climbers = rig.climbers(pair)
    if not climbers:
        raise CalibrationRefusedError(
            f"neither relay nor {' nor '.join(pair)} has a polarisation controller",
            "the polarisation is set by hand, to the most counts",
        )
    left_db: dict[str, float] = {}
    seen: list[float] = []
    with rig.lit(pair) as lit:

        def count() -> int:
            seen.append(float(meter.count()))
            return int(seen[-1])

        meter = Meter(rig.testbed, lit.exposures, gated=False)
        for number, (party, climb) in enumerate(climbers.items(), start=1):
            left_db[party] = climb(count, "it is calibrated", False) or 0.0
            part(number / len(climbers))
        counts = lit.exposures.gated(clicks=REST_CLICKS / 20, longest_s=LONGEST_S)
    found = Measured(
        sum(left_db.values()) / 2, math.hypot(*(each / 4 for each in left_db.values())), "dB"
    )  # of each, nothing to as much is left in 95 of 100 cases
    finding = _relay_finding(rig, Step.POLARIZATION, pair, counts, {"polarization_left_db": found}, {})
    figures = {f"left_{party}_db": Measured(each / 2, each / 4, "dB") for party, each in left_db.items()}
    curve = Curve(
        "Light while polarisation is climbed",
        "reading",
        "clicks of a reading",
        [float(n) for n in range(len(seen))],
        {"D1 and D2": seen},
    )
    return structs.replace(
        finding,
        figures={**finding.figures, **figures},
        quality={**finding.quality, "readings": float(len(seen))},
        curves=[curve],
        light_s=finding.light_s + len(seen) * RECORD_S,
    )


RELAY_PROCEDURES: dict[Step, RelayProcedure] = {
    Step.REFERENCE: reference,
    Step.CARVER: carver,
    Step.DETECTORS: detectors,
    Step.PULSES: pulses,
    Step.POLARIZATION: polarization,
    Step.ARM_LOSS: arm_loss,
    Step.BACKSCATTER: backscatter,
    Step.VISIBILITY: visibility,
}
USER_PROCEDURES: dict[Step, UserProcedure] = {
    Step.DELAYS: delays,
    Step.SEPARATION: separation,
    Step.PHASE: phase,
}
