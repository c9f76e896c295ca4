"""The queue on the simulated ring: real processes, real drivers, the light and the twins as they really are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fewer_users import ring_of_users
from qcodes.dataset import load_by_id
from qcodes.dataset.data_set import DataSet

from lab.datasets.calibrations import database_of
from lab.datasets.database import readable
from lab.runs.keygen import order_key, state_of
from lab.runs.supervising.supervised import Run, supervised_run
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed, read_testbed, write_testbed
from orchestrator.events.process import Calibrated, HubServing, LightProgress, ProcessEvent
from orchestrator.events.status import BlockReport
from orchestrator.wire.control_socket import ControlRefusedError, ask
from orchestrator.wire.queue_control import AbortEntry, AddEntry, HoldQueue, QueueRequest, ResumeQueue
from sim_backends.bench import Bench
from sim_backends.optics_way import DIRECTIONS

PAIR = ("alice", "bob")
WITHOUT_END = 1 << 50
PATIENCE_S = 120.0
PHOTON_W = 1e-18

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]


class Ring:
    """Processes of a ring of two users whose twins live in this process."""

    def __init__(self, run: Run, bench: Bench) -> None:
        self.run, self.bench = run, bench
        path, places = str(run.testbed_path), ("--secrets", str(run.secrets), "--state", str(run.state))
        run.supervisor.start("orchestrator", "orchestrator", path, *places)
        hub = run.supervisor.ready(["orchestrator"], PATIENCE_S)["orchestrator"]
        assert isinstance(hub, HubServing)
        data = read_testbed(run.testbed_path)
        write_testbed({**data, "hub": {"control": hub.control, "bulk": hub.bulk}}, run.testbed_path)
        for role in ("relay", *PAIR):
            run.supervisor.start(role, *([role] if role == "relay" else ["node", role]), path, *places)
        run.supervisor.ready(["relay", *PAIR], PATIENCE_S)
        self.folder = run.state / "orchestrator"

    def ask(self, request: QueueRequest) -> Any:
        return ask(self.folder, request)

    def until(self, wanted: Callable[[str, ProcessEvent], bool], what: str) -> ProcessEvent:
        return self.run.supervisor.wait_for(wanted, PATIENCE_S, what)

    def until_lit(self) -> None:
        self.until(lambda _, event: isinstance(event, LightProgress), "light")

    @property
    def is_dark(self) -> bool:
        light = self.bench.ring.light()
        return sum(sum(light.entering_w(direction)) for direction in DIRECTIONS) < PHOTON_W

    def until_safe(self) -> None:
        """Wait until the simulator finds every instrument in its safe state; the test's time-out ends this."""
        for _ in range(2000):
            if not self.bench.unsafe():
                break
            self.run.supervisor.children["relay"].process.poll()
            try:
                self.run.supervisor.events.get(timeout=0.05)
            except Exception:  # noqa: BLE001 - nothing was told meanwhile
                continue
        assert not self.bench.unsafe()
        assert self.is_dark


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    source = tmp_path / "two.toml"
    write_testbed(ring_of_users(read_testbed(template_path("simulated-four-node")), PAIR), source)
    with supervised_run(str(source), {}) as run, Bench(run.testbed) as bench:
        write_testbed(bench.resolved(read_testbed(run.testbed_path)), run.testbed_path)
        try:
            yield Ring(run, bench)
        finally:
            run.stop()


def test_a_hold_in_a_block_finishes_it_makes_the_bench_safe_and_lets_it_go_on(ring: Ring) -> None:
    number = order_key(ring.folder, PAIR, WITHOUT_END, "olga").number
    ring.until_lit()
    ring.ask(HoldQueue("olga"))
    assert not ring.is_dark, "the block goes on"
    report = ring.until(lambda name, event: isinstance(event, BlockReport) and name == "alice", "a block")
    assert isinstance(report, BlockReport)
    assert report.stored, report.reason
    ring.until_safe()
    assert state_of(ring.folder, number).state == "waiting"
    ring.ask(ResumeQueue("olga"))
    ring.until_lit()
    assert state_of(ring.folder, number).made_bits == report.secret_bits
    ring.ask(AbortEntry("olga", number))
    assert state_of(ring.folder, number).state == "aborted"


def test_maintenance_waits_for_the_block_has_the_bench_safe_and_gives_it_back(ring: Ring) -> None:
    number = order_key(ring.folder, PAIR, WITHOUT_END, "olga").number
    ring.until_lit()
    (lock,) = ring.ask(AddEntry("pete", "maintenance", note="clean a connector")).entries
    with pytest.raises(ControlRefusedError, match="pete waits for the bench since"):
        ring.ask(AddEntry("olga", "maintenance"))
    ring.until_safe()
    assert state_of(ring.folder, lock.number).state == "running"
    ring.ask(AbortEntry("pete", lock.number))
    ring.until_lit()
    assert state_of(ring.folder, lock.number).state == "done"
    assert state_of(ring.folder, number).made_bits > 0


@pytest.mark.parametrize(("step", "owners"), [("phase", PAIR), ("visibility", ("relay",))])
def test_a_calibration_comes_between_blocks_and_the_next_block_is_planned_with_it(
    ring: Ring, step: str, owners: tuple[str, ...]
) -> None:
    number = order_key(ring.folder, PAIR, WITHOUT_END, "olga").number
    ring.until_lit()
    (entry,) = ring.ask(AddEntry("pete", "calibration", pairs=(PAIR,), steps=(step,), priority=5)).entries
    before = load_testbed(ring.run.testbed_path)
    for owner in owners:
        found = ring.until(lambda name, event: isinstance(event, Calibrated), f"{step} of {owner}")
        assert isinstance(found, Calibrated)
        assert (found.step, found.refused) == (step, "")
        assert found.owner in owners
    after = load_testbed(ring.run.testbed_path)
    if step == "phase":
        for user in PAIR:
            assert after.user(user).v_pi_v != before.user(user).v_pi_v
            assert after.user(user).v_pi_v == pytest.approx(before.user(user).v_pi_v, rel=0.01)
    else:
        assert after.calibration.visibility == pytest.approx(before.calibration.visibility, abs=0.003)
    report = ring.until(lambda name, event: isinstance(event, BlockReport) and name == "alice", "a block")
    assert isinstance(report, BlockReport)
    report = ring.until(lambda name, event: isinstance(event, BlockReport) and name == "alice", "a block")
    assert isinstance(report, BlockReport)
    assert report.stored, report.reason
    assert state_of(ring.folder, entry.number).state == "done"
    ring.ask(AbortEntry("olga", number))
    for owner in owners:
        with readable(database_of(ring.run.testbed_path, owner)) as connection:
            data = load_by_id(1, connection)
            assert isinstance(data, DataSet)
            assert data.name == f"{step} of {owner}"
            assert data.snapshot is not None
            assert data.snapshot["station"]["instruments"]
    ring.run.stop()
    for role in ("relay", *PAIR):
        (day,) = (ring.run.state / role / "slow-log").glob("*.db")
        with readable(day) as connection:
            found = load_by_id(1, connection)
            assert isinstance(found, DataSet)
            assert (
                "detector_rate_D1" if role == "relay" else "qber_" + PAIR[PAIR[0] == role]
            ) in found.paramspecs
            assert found.number_of_results > 0
