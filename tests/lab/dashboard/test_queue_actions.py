"""An operator at the page works on the queue of an orchestrator that runs, which may come and go under the dashboard."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from served_dashboard import LIMIT_S, Served

from lab.runs.testbeds.machine import Machine
from lab.testbed import load_testbed, read_testbed, write_testbed
from orchestrator import runtime
from orchestrator.events.process import HubServing
from orchestrator.processes.orchestrator_process import run_orchestrator

Serve = Callable[..., Served]


class Orchestrator:
    """One that runs in a thread, at the addresses of the testbed file once it has served."""

    def __init__(self, path: Path) -> None:
        state = path.parent / "state" / "orchestrator"
        state.mkdir(parents=True, exist_ok=True)
        self.stop, serving = threading.Event(), runtime.future()

        def emit(event: Any) -> None:
            if isinstance(event, HubServing):
                serving.set_result(event)

        keys = path.parent / "secrets" / "orchestrator"
        self.thread = threading.Thread(
            target=run_orchestrator, args=(load_testbed(path), keys, state, self.stop, emit)
        )
        self.thread.start()
        hub = serving.result(LIMIT_S)
        data = read_testbed(path)
        data["hub"] = {"control": hub.control, "bulk": hub.bulk}
        write_testbed(data, path)

    def close(self) -> None:
        self.stop.set()
        self.thread.join()


@pytest.fixture
def orchestrator(request: pytest.FixtureRequest) -> Callable[[Path], Orchestrator]:
    def start(path: Path) -> Orchestrator:
        made = Orchestrator(path)
        request.addfinalizer(made.close)
        return made

    return start


def wait_for(true: Callable[[], object]) -> None:
    give_up = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def entries(served: Served) -> dict[int, dict[str, Any]]:
    told = served.board.get("queue")
    return {row["number"]: row for row in told["entries"]} if told else {}


def test_a_queue_is_worked_on_from_a_page(
    machine: Machine, serve: Serve, orchestrator: Callable[[Path], Orchestrator]
) -> None:
    orchestrator(machine.path)
    served = serve(machine)

    def done(name: str, **asked: Any) -> str:
        status, told = served.act(name, asked)
        assert status == 200, told
        return str(told["answer"]["text"])

    assert "held" in done("queue-hold")
    assert "entry 1: 2,000 bits for alice-bob" in done("order-key", pair="bob-alice", bits=2000)
    assert "entry 2: " in done("calibrate", pair="alice-bob", steps=["visibility", "phase"])
    assert "entry 3: " in done("order-key", pair="alice-carol", bits=1000, note="<b>tea</b>")
    wait_for(lambda: set(entries(served)) == {1, 2, 3} and served.board.get("queue")["held_by"])
    rows = entries(served)
    assert list(rows[2]["steps"]) == ["phase", "visibility"]
    assert rows[3]["note"] == "<b>tea</b>"
    done("queue-move", number=3, before=1, priority=2, due_in_s=3600.0)
    done("queue-hold", number=1)
    assert "entry 2 is aborted" in done("queue-abort", number=2)
    wait_for(lambda: entries(served)[2]["state"] == "aborted")
    rows = entries(served)
    assert (rows[1]["state"], rows[3]["priority"]) == ("held", 2)
    assert 3500 < rows[3]["due_in_s"] <= 3600
    assert "resumed" in done("queue-resume", number=1)
    assert "resumed" in done("queue-resume")
    status, told = served.act("queue-abort", {"number": 99})
    assert status == 400
    assert "99" in told["error"]
    wait_for(lambda: not served.board.get("queue")["held_by"])


def test_an_orchestrator_that_comes_goes_and_comes_again(
    machine: Machine, serve: Serve, orchestrator: Callable[[Path], Orchestrator]
) -> None:
    served = serve(machine)
    wait_for(lambda: "auto" in (served.board.get("link") or ""))
    first = orchestrator(machine.path)
    wait_for(lambda: served.board.get("link") == "")
    wait_for(lambda: served.board.get("queue") is not None)
    first.close()
    wait_for(lambda: served.board.get("link"))
    wait_for(lambda: "no process listens" in (served.board.get("problem/queue") or ""))
    assert served.ask("POST", "/api/stop")[0] == 200
    orchestrator(machine.path)
    wait_for(lambda: served.board.get("link") == "")
    wait_for(lambda: served.board.get("problem/queue") is None)
