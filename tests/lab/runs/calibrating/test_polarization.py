"""Polarisation is calibrated by whoever stands in the light, and before losses are measured that it would add to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fewer_users import ring_of_users
from turning_ring import EPC
from uncalibrated_ring import Uncalibrated

from lab.calibration.book import now, read_book
from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.keeping import FINDINGS, kept_findings
from lab.calibration.steps import Step
from lab.runs.calibrating.rig import Rig, opened_rig
from lab.runs.calibrating.runner import Outcome, plan, run
from lab.runs.pages.calibration_page import write_page
from lab.runs.testbeds.another_ring import another_ring
from lab.runs.testbeds.folder import template_path
from lab.testbed import Testbed, parse_testbed, read_testbed, write_testbed
from orchestrator.light.calibration.parties import RelayParty
from orchestrator.light.calibration.procedures import RELAY_PROCEDURES
from orchestrator.light.calibration.relay_bench import MEASURED, RelayBench
from orchestrator.wire.memory_channel import memory_channel_pair
from sim_backends.bench import Bench
from sim_backends.survey import surveyed

pytestmark = [pytest.mark.early, pytest.mark.usefixtures("no_guards")]

PAIR = ("alice", "bob")


def turning_ring(
    folder: Path, controlled: tuple[str, ...], ring_seed: int, drift: float = 0.0
) -> Uncalibrated:
    """Two users on fibre that lies anyhow behind the controllers; nothing is calibrated."""
    source = template_path("simulated-four-node")
    data = ring_of_users(read_testbed(source), PAIR, seed=ring_seed)
    data["protocol"] = {**data["protocol"], "slots_per_frame": 1 << 19}
    data["simulation"]["drift"] = drift
    data["instruments"] += [
        {"name": f"polarization_{owner}", "model": EPC, "owner": owner, "address": "auto"}
        for owner in controlled
    ]
    data = another_ring(data, source, ring_seed=ring_seed, uncalibrated=True)
    path = folder / "testbed.toml"
    write_testbed(data, path)
    return Uncalibrated(path, surveyed(data, parse_testbed(data, path)))


@contextmanager
def on_bench(
    path: Path, monkeypatch: pytest.MonkeyPatch, physics: Callable[[], float] | None = None
) -> Iterator[tuple[Rig, Bench]]:
    """The rig and the bench that is served for it, which alone knows what light does; ``physics``: the clock (s) it drifts by."""
    benches: list[Bench] = []

    class Seen(Bench):
        def __init__(self, testbed: Testbed) -> None:
            super().__init__(testbed, physics=physics)

        def __enter__(self) -> Bench:
            benches.append(self)
            return super().__enter__()

    monkeypatch.setattr("sim_backends.bench.Bench", Seen)
    with opened_rig(path) as rig:
        yield rig, benches[0]


def calibrated(rig: Rig, ring: Uncalibrated, step: Step) -> list[Outcome]:
    testbed = ring.testbed()
    book = read_book(ring.path, read_testbed(ring.path))
    due = plan(testbed.user_names(), testbed.pairs(), book, now(), steps=[step], asked=[PAIR])
    return list(run(rig, ring.path, due, progress=lambda due, part: None))


def test_everybody_climbs_before_anything_else_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step on a fresh ring: nobody knows when pulses arrive, and yet no gap loses a tenth of a decibel."""
    ring = turning_ring(tmp_path, ("relay", "alice"), ring_seed=5)
    lost_db: list[float] = []
    with on_bench(ring.path, monkeypatch) as (rig, bench):
        lit = RelayBench.lit

        @contextmanager
        def looked_at(self: RelayBench, pair: tuple[str, str], why: str = "") -> Iterator[object]:
            with lit(self, pair, why) as light:
                yield light
                lost_db.extend(-10 * math.log10(gap) for gap in bench.ring.light().gaps)

        monkeypatch.setattr(RelayBench, "lit", looked_at)
        (outcome,) = calibrated(rig, ring, Step.POLARIZATION)
    finding = outcome.finding
    assert finding is not None, outcome.refused
    assert len(lost_db) == 3
    assert max(lost_db) < 0.1
    left = finding.values["polarization_left_db"]
    assert set(finding.figures) >= {f"left_{party}_db" for party in ("relay", "alice")}
    assert isinstance(left.value, float)
    assert isinstance(left.uncertainty, float)
    assert 0 < left.value < 0.15
    assert sum(lost_db) < left.value + 4 * left.uncertainty
    page = write_page("the ring", kept_findings(ring.path), ring.path.parent / FINDINGS)
    assert "Light while polarisation is climbed" in page.read_text()


def test_losses_of_a_station_are_measured_with_its_light_aligned(tmp_path: Path) -> None:
    """The taps see light of any polarisation and the polariser behind them takes some: by decibels where nobody aligns it."""
    ring = turning_ring(tmp_path, ("relay",), ring_seed=5)
    with opened_rig(ring.path) as rig:
        outcomes = calibrated(rig, ring, Step.INTENSITY)
    assert [each.refused for each in outcomes] == ["", ""]
    for name in PAIR:
        found, true = ring.testbed().user(name), ring.of_user(name)
        assert np.subtract(found.sensor_to_output_db, true["sensor_to_output_db"]) == pytest.approx(
            0, abs=0.2
        )
        assert found.station_loss_db == pytest.approx(true["station_loss_db"], abs=0.2)


def test_light_that_losses_are_measured_in_is_aligned_though_settings_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six hours later what was kept loses tenths of a decibel, which nothing but a climb finds."""
    ring = turning_ring(tmp_path, ("relay",), ring_seed=5, drift=1.0)
    at_s = [0.0]
    with on_bench(ring.path, monkeypatch, lambda: at_s[0]) as (rig, bench):
        lost_db = []
        for why in ("", "", MEASURED):
            with rig.relay_means().lit(PAIR, why):
                lost_db.append(-10 * math.log10(bench.ring.light().gaps[0]))
            at_s[0] = 6 * 3600.0
    assert lost_db[0] < 0.1
    assert lost_db[1] > 0.3
    assert lost_db[2] < 0.1


def test_a_station_out_of_the_ring_has_no_turn_over_channels_either(tmp_path: Path) -> None:
    """Light past everybody is aligned by the relay alone: nothing that a user's controller does is seen in it."""
    ring = turning_ring(tmp_path, PAIR, ring_seed=5)
    testbed = ring.testbed()
    near, far = memory_channel_pair(), memory_channel_pair()
    seen: list[set[str]] = []

    def look(bench: RelayBench, *_: object) -> None:
        seen.extend(set(bench.climbers(taken_in)) for taken_in in ((), PAIR))
        raise CalibrationRefusedError("looked", "no more")

    with opened_rig(ring.path) as rig, pytest.MonkeyPatch.context() as patched:
        patched.setitem(RELAY_PROCEDURES, Step.REFERENCE, look)
        with pytest.raises(CalibrationRefusedError):
            RelayParty(testbed, rig.relay_light, rig.relay).calibrate(
                Step.REFERENCE, PAIR, (near[1], far[1]), lambda part: None
            )
    assert seen == [set(), set(PAIR)]
