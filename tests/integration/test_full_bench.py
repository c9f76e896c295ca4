"""Every model of the catalogue on one ring: the bundled file names them all, and light goes through them as planned."""

from __future__ import annotations

import pytest
from driven_ring import DrivenRing

from drivers.catalogue import OURS
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed, read_testbed
from orchestrator.protocols.block_planning import plan_for

PATH = template_path("simulated-full-bench")


def test_every_model_is_in_the_file_and_serves_or_is_a_spare_told_by_name() -> None:
    testbed = load_testbed(PATH)
    assert {row.model for row in OURS} == {entry.model for entry in testbed.instruments}
    serving = {
        server.instrument
        for role in ("relay", *testbed.user_names())
        for server in testbed.servers(role).values()
    }
    idle = {entry.name for entry in testbed.instruments} - serving
    assert idle == {"laser_spare", "powermeter"}


@pytest.mark.long
@pytest.mark.parametrize("pair", [("alice", "bob"), ("carol", "dave"), ("bob", "dave")], ids="-".join)
def test_a_light_phase_gives_what_was_planned(pair: tuple[str, str]) -> None:
    data = read_testbed(PATH)
    data["protocol"]["slots_per_frame"] = 1 << 17
    ring = DrivenRing(data, pair)
    try:
        phase = ring.phase(3)
        plan = plan_for(ring.testbed, *pair)
        assert phase.clicks / phase.slots == pytest.approx(plan.gain, rel=0.15)
        assert phase.wrong / phase.sifted < 2.5 * plan.qber
        for station in ring.stations.values():
            assert station.safe() == {}
        assert not {name for name in ring.bench.unsafe() if name in ring.bench.addresses}
    finally:
        ring.close()
