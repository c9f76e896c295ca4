"""Training on a testbed, without its processes: what --testbed names, what events mean, how stock is read."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from held_up import held

from fl.experiments.options import OptionsError, TrainOptions
from fl.workloads import load_task
from lab.runs.following.live import RESTARTS, Follower
from lab.runs.following.observer import planned_rate_bps
from lab.runs.following.progress import PairProgress, RunProgress
from lab.runs.following.stalls import StallWatch
from lab.runs.supervising.supervised import attached_run
from lab.runs.supervising.supervisor import ChildError
from lab.runs.testbeds.folder import RUNNING_FILE, SECRETS, STATE, create_folder, template_path
from lab.runs.training.on_testbed import live_plan
from lab.runs.training.place import check_place, find_place
from lab.runs.training.record import server_rounds
from lab.testbed import load_testbed, read_testbed, write_testbed
from orchestrator.events.learning import RunFinished, WaitingForKeys
from orchestrator.events.process import Ended, ProcessEvent
from orchestrator.events.status import PairStatus
from orchestrator.hub.agent import LinkUp
from orchestrator.wire.messages import TelemetryItem

NAME = "simulated-four-node"
TASK = "digits:mlp@iid"


def test_what_testbed_may_name(tmp_path: Path) -> None:
    template = template_path(NAME)
    assert find_place(NAME).kind == "fresh"
    assert find_place(str(template)).kind == "fresh"
    create_folder(tmp_path / "auto", template)
    assert find_place(str(tmp_path / "auto")).kind == "folder"
    assert find_place(str(tmp_path / "auto" / "testbed.toml")).kind == "folder"
    create_folder(tmp_path / "bench", template, host="192.168.1.10")
    assert find_place(str(tmp_path / "bench")).kind == "attached"


def test_a_folder_that_is_up_is_at_work_with_the_addresses_in_use(tmp_path: Path) -> None:
    """Its own file leaves them open, and a second ring in the same folder would find its sockets taken."""
    home = tmp_path / "bench"
    data = read_testbed(create_folder(home, template_path(NAME)))
    with held(home):
        data["hub"] = {"control": "tcp://127.0.0.1:5001", "bulk": "tcp://127.0.0.1:5002"}
        for user in data["users"]:
            user["delivery"] = "tcp://127.0.0.1:5003"
        write_testbed(data, home / RUNNING_FILE)
        place = find_place(str(home))
        assert (place.kind, place.testbed.hub.bulk) == ("attached", "tcp://127.0.0.1:5002")
        with attached_run(home, tmp_path / "logs", records=tmp_path / "out") as run:
            assert run.testbed_path != home / RUNNING_FILE
            assert (run.secrets, run.state) == (home / SECRETS, home / STATE)
        del data["users"][3]["delivery"]
        write_testbed(data, home / RUNNING_FILE)
        with pytest.raises(OptionsError, match=r"by `qunetlab up`, without users.dave.delivery: write"):
            find_place(str(home))
    assert find_place(str(home)).kind == "folder"


def test_a_real_testbed_with_open_endpoints_says_which(tmp_path: Path) -> None:
    path = create_folder(tmp_path / "real", template_path(NAME))
    data = read_testbed(path)
    del data["simulation"]
    write_testbed(data, path)
    with pytest.raises(OptionsError, match=r"leaves hub.control, .*users.dave.delivery 'auto'"):
        find_place(str(tmp_path / "real"))
    alone = tmp_path / "alone.toml"
    alone.write_text(path.read_text())
    with pytest.raises(OptionsError, match="no secrets beside it; make a testbed folder"):
        find_place(str(alone))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "add --live"),
        ({"live": True, "drop_outs": 1}, "--drop-outs belongs to simulated clients"),
        ({"live": True, "seeds": 2}, "has one seed"),
    ],
)
def test_what_is_not_offered_on_a_testbed(options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionsError, match=told):
        check_place(find_place(NAME), TrainOptions(task=TASK, **options))


def test_clients_of_a_live_run_are_users_in_ring_order_and_its_name_is_new_every_time() -> None:
    testbed, task = load_testbed(template_path(NAME)), load_task(TASK)
    plans = [live_plan(TrainOptions(task=TASK, live=True, clients=3), task, testbed) for _ in range(2)]
    assert plans[0].primary.config.clients == ("alice", "bob", "carol")
    assert plans[0].primary.config.run_id != plans[1].primary.config.run_id
    assert [cell.kind for cell in plans[0].cells] == ["federated", "float32"]
    with pytest.raises(OptionsError, match="9 clients, but the testbed has 4 users"):
        live_plan(TrainOptions(task=TASK, live=True, clients=9), task, testbed)


def test_a_run_that_never_started_has_no_rounds(tmp_path: Path) -> None:
    plan = live_plan(TrainOptions(task=TASK), load_task(TASK), load_testbed(template_path(NAME)))
    assert server_rounds(tmp_path, plan.primary.config) == ([], ())


def test_supply_tells_measured_rates_from_planned_ones_by_what_was_told_of_them(observed: Any) -> None:
    planned = planned_rate_bps(load_testbed(template_path(NAME)), ("alice", "bob"))
    pair = PairStatus("alice", "bob", 500, 0, 0, planned, measured=True, available=True)
    listening = observed(LinkUp(1), TelemetryItem.of("orchestrator", 0, 0.0, pair))
    listening.poll()
    known, unknown = listening.supply([("alice", "bob"), ("alice", "carol")], light=True)
    assert (known.stock_bits, known.rate_bps, known.source) == (500, planned, "measured")
    planned = planned_rate_bps(listening.testbed, ("alice", "carol"))
    assert planned > 1000
    assert (unknown.stock_bits, unknown.rate_bps, unknown.source) == (0, planned, "planned")
    dark = listening.supply([("alice", "bob")], light=False)[0]
    assert (dark.stock_bits, dark.rate_bps, dark.source) == (500, 0.0, "none")


class FakeRun:
    """What a follower needs of a run: events to come, and children that ended."""

    has_ring = True

    def __init__(self, *events: tuple[str, ProcessEvent], exit_code: int = 1) -> None:
        import queue

        self.finished: RunFinished | None = None
        self.supervisor = SimpleNamespace(
            events=queue.Queue(), children={}, restart=self._restart, raise_ended=self._raise
        )
        for event in events:
            self.supervisor.events.put(event)
        process = SimpleNamespace(wait=lambda: exit_code)
        self.supervisor.children = {"relay": SimpleNamespace(process=process)}
        self.restarted: list[str] = []

    def note(self, name: str, event: ProcessEvent) -> None:
        if isinstance(event, RunFinished):
            self.finished = event

    def _restart(self, name: str) -> None:
        self.restarted.append(name)

    def _raise(self, name: str, doing: str) -> None:
        raise ChildError(f"{doing}: {name} ended")


def follower(run: Any, **more: Any) -> Follower:
    progress = RunProgress(pairs={("alice", "bob"): PairProgress()})
    display: Any = SimpleNamespace(update=lambda force=False: None)
    watch = StallWatch(("alice", "bob"), time.monotonic())
    return Follower(run, watch, progress, display, None, **more)


FINISHED = ("fl-server", RunFinished("run", 1, ""))
ENDED = ("relay", Ended())
WAITING = ("fl-server", WaitingForKeys(1, "alice", {"bob": 5}, "5 bits", 7.0))


def test_a_process_that_dies_is_started_again_but_not_for_ever() -> None:
    run = FakeRun(ENDED, ENDED, FINISHED)
    following = follower(run)
    assert following.follow(threading.Event()) == ""
    assert run.restarted == ["relay", "relay"]
    assert following.restarts == Counter(relay=2)
    dying = FakeRun(*[ENDED] * (RESTARTS + 1), FINISHED)
    with pytest.raises(ChildError, match="relay ended"):
        follower(dying).follow(threading.Event())
    assert len(dying.restarted) == RESTARTS


def test_a_process_that_ends_in_order_is_left_alone() -> None:
    run = FakeRun(ENDED, FINISHED, exit_code=0)
    assert follower(run).follow(threading.Event()) == ""
    assert run.restarted == []


def test_a_wait_is_shown_with_reason_and_estimate_and_may_end_the_run() -> None:
    following = follower(FakeRun(WAITING, FINISHED))
    shown: list[str] = []
    following.display.update = lambda force=False: shown.append(following.progress.waiting)  # type: ignore[method-assign]
    assert following.follow(threading.Event()) == ""
    assert "waiting for keys: alice-bob, about 7 s" in shown
    stopping = follower(FakeRun(WAITING), if_short="stop", max_wait_s=0.0)
    assert "without progress: waiting for keys: alice-bob" in stopping.follow(threading.Event())


def test_an_interrupted_run_says_so() -> None:
    stop = threading.Event()
    stop.set()
    assert follower(FakeRun(WAITING)).follow(stop) == "interrupted"


def test_the_time_left_for_keys_counts_from_the_first_light() -> None:
    now = time.monotonic()
    progress = RunProgress(started=now - 100.0)
    progress.pairs = {("alice", "bob"): PairProgress(demand_bits=4000, secret_bits=1000)}
    assert progress.left_s() == pytest.approx(300.0, rel=0.01)
    progress.lit = now - 10.0
    assert progress.left_s() == pytest.approx(30.0, rel=0.01)
