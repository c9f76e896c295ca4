"""When light is where: pulses at the detectors, and at every user's modulator in both directions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import Curve, Finding, Measured
from lab.calibration.pulses import BIN_PS, Pulse, Tags, pulse_positions
from lab.calibration.steps import Step
from orchestrator.events.status import pair_name
from orchestrator.light.calibration.delays import (
    check_timings,
    delays_finding,
    scan_fit,
    scan_levels,
    scan_timings,
    separation_finding,
)
from orchestrator.light.calibration.exposures import RECORD_S
from orchestrator.light.calibration.means import Pair, UserMeans
from orchestrator.light.calibration.relay_bench import RelayBench
from orchestrator.protocols.block_planning import plan_for
from orchestrator.randomness import local_generator

Part = Callable[[float], None]

PULSE_SIGMA_PS = 9.0
"""Good enough for a gate; the darker detector sees only what does not interfere."""
RECORDS_AT_ONCE = 10
LONGEST_S = 20.0
SCAN_CLICKS = 200_000
CHECK_CLICKS = 10_000


def pulses(rig: RelayBench, relay: str, pair: Pair, part: Part) -> Finding:
    """Where in the slot the clicks of light at rest are."""
    slot_ps = 1e12 / rig.testbed.protocol.clock_hz
    tags: tuple[list[Tags], list[Tags]] = ([], [])
    expected_ps, light_s = rig.testbed.calibration.detector_delays_ps, 0.0
    with rig.lit(pair) as lit:
        while True:
            for _ in range(RECORDS_AT_ONCE):
                for kept, each in zip(tags, lit.exposures.tags(), strict=True):
                    kept.append(each)
            light_s += RECORDS_AT_ONCE * RECORD_S
            try:
                joined = np.concatenate(tags[0]), np.concatenate(tags[1])
                found = pulse_positions(joined, expected_ps, slot_ps)
            except CalibrationRefusedError:
                if light_s >= LONGEST_S:
                    raise
                continue
            done = max((PULSE_SIGMA_PS / max(each.sigma_ps for each in found)) ** 2, light_s / LONGEST_S)
            part(min(done, 1.0))
            if done >= 1:
                break
    return Finding(
        step=Step.PULSES,
        owner="relay",
        partner=pair_name(pair),
        values={
            "detector_delays_ps": Measured(
                [each.delay_ps for each in found], [each.sigma_ps for each in found], "ps"
            )
        },
        figures={"pulse_width_ps": Measured([each.width_ps for each in found], [0.0, 0.0], "ps")},
        settings={"slot_ps": slot_ps},
        quality={f"clicks_D{d + 1}": each.clicks for d, each in enumerate(found)},
        counts={f"D{d + 1}": each.histogram.tolist() for d, each in enumerate(found)},
        curves=[_histogram(found, slot_ps)],
        light_s=light_s,
    )


def _histogram(found: tuple[Pulse, Pulse], slot_ps: float) -> Curve:
    bins = found[0].histogram.size
    places = (np.arange(bins) + 0.5) * slot_ps / bins - slot_ps / 2
    return Curve(
        "Clicks of light at rest, by their place in the slot",
        "time from what was expected / ps",
        f"clicks per {BIN_PS:g} ps",
        places.tolist(),
        {f"D{d + 1}": each.histogram.astype(float).tolist() for d, each in enumerate(found)},
    )


def delays(rig: UserMeans, user: str, pair: Pair, part: Part) -> Finding:
    """When pulses pass a user's modulator, by a scan across the slot and frames that are laid out by what it finds."""
    testbed = rig.testbed
    partner = pair[1 - pair.index(user)]
    per_frame = plan_for(testbed, *pair).gain * testbed.protocol.slots_per_frame
    levels, timings = scan_levels(testbed, user), scan_timings(testbed, user)
    repeats = math.ceil(SCAN_CLICKS / per_frame / len(timings))
    order = [timings[index] for index in local_generator().permutation(len(timings)) for _ in range(repeats)]
    scanned = rig.scanned(pair, levels, order, lambda frame: part(0.9 * (frame + 1) / len(order)))
    fit = scan_fit(testbed, user, scanned)
    again = [
        each for each in check_timings(testbed, fit) for _ in range(math.ceil(CHECK_CLICKS / per_frame / 2))
    ]
    checked = rig.scanned(pair, levels, again, lambda frame: part(0.9 + 0.1 * (frame + 1) / len(again)))
    return delays_finding(testbed, user, partner, fit, scanned, checked)


def separation(rig: UserMeans, user: str, pair: Pair, part: Part) -> Finding:
    """How far apart the two directions pass a user's station, by its delays."""
    known = rig.book.part(user).get("modulator_delays_ps")
    if known is None or not isinstance(known.uncertainty, list):
        raise CalibrationRefusedError(f"nobody has measured the delays of {user}", "calibrate delays first")
    cw_ps, ccw_ps = known.uncertainty
    part(1.0)
    return separation_finding(rig.testbed, user, pair[1 - pair.index(user)], (cw_ps, ccw_ps))
