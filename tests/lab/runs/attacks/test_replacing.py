"""Who lies in a run: one process at a time, of a ring that is simulated alone, and honest again afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.runs.attacks.places import UP
from lab.runs.attacks.replacing import RoleAttacks, program_of
from lab.runs.attacks.role import MODULE
from lab.runs.supervising.supervisor import HONEST, ChildError
from orchestrator.wire.attack_control import BeginAttack, EndAttack, ShowAttack
from orchestrator.wire.control_socket import ControlSocket, Done, Failed, ShowKeys

TESTBED = Path("bench/running.toml")
LIE = BeginAttack("eve", "lying-relay", 10.0)


class FakeRun:
    """A run of a relay and a hub that remembers what was started."""

    def __init__(self, not_simulated: tuple[str, ...] | None = ()) -> None:
        self.not_simulated, self.testbed_path = not_simulated, TESTBED
        self.supervisor = SimpleNamespace(children={"relay": None, "orchestrator": None})
        self.started: list[tuple[str, tuple[str, ...]]] = []
        self.fails = False

    def replace(self, role: str, program: tuple[str, ...]) -> None:
        self.started.append((role, program))
        if self.fails and program != HONEST:
            raise ChildError("it does not start")


def asked(attacks: RoleAttacks, request: Any) -> Any:
    """As the socket's thread asks, while the loop serves; an error of the loop is the answer."""
    answers: list[Any] = []

    def ask() -> None:
        try:
            answers.append(attacks.answer(request))
        except ChildError as error:
            answers.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    while thread.is_alive():
        attacks.serve()
        thread.join(0.01)
    return answers[0]


@pytest.fixture
def attacks() -> Callable[..., tuple[FakeRun, RoleAttacks]]:
    def make(*arguments: Any) -> tuple[FakeRun, RoleAttacks]:
        run: Any = FakeRun(*arguments)
        return run, RoleAttacks(run)

    return make


def test_a_process_lies_from_the_beginning_of_an_attack_to_its_end(attacks: Any) -> None:
    run, desk = attacks()
    assert desk.answer(ShowAttack()).name == ""
    assert isinstance(asked(desk, LIE), Done)
    assert run.started == [("relay", (MODULE, "lying-relay", "10.0", str(TESTBED)))]
    on = desk.answer(ShowAttack())
    assert (on.name, on.strength, on.who) == ("lying-relay", 10.0, "eve")
    second = asked(desk, BeginAttack("eve", "tampering-hub", 1.0))
    assert second == Failed("lying-relay is on already: end it first")
    assert "honest again" in asked(desk, EndAttack("eve")).text
    assert run.started[1:] == [("relay", HONEST)]
    assert desk.answer(ShowAttack()).name == ""
    assert asked(desk, EndAttack("eve")) == Done("no attack of a process was on")
    assert len(run.started) == 2


@pytest.mark.parametrize(
    ("real", "told"), [(("laser",), "laser are real instruments"), (None, "not simulated alone")]
)
def test_no_process_lies_where_anything_is_real(
    attacks: Any, real: tuple[str, ...] | None, told: str
) -> None:
    run, desk = attacks(real)
    assert told in asked(desk, LIE).text
    assert run.started == []


def test_what_the_processes_here_cannot_be_is_refused(attacks: Any) -> None:
    run, desk = attacks()
    assert "tap is no attack of a process" in asked(desk, BeginAttack("eve", "tap", 10.0)).text
    assert "answers no ShowKeys" in desk.answer(ShowKeys()).text
    del run.supervisor.children["relay"]
    assert asked(desk, LIE) == Failed("relay does not run here")
    assert run.started == []


def test_a_liar_that_does_not_start_leaves_the_honest_process(attacks: Any) -> None:
    run, desk = attacks()
    run.fails = True
    assert isinstance(asked(desk, LIE), ChildError)
    assert [program for _, program in run.started] == [run.started[0][1], HONEST]
    assert desk.answer(ShowAttack()).name == ""


def test_a_learning_server_lies_only_in_runs_that_begin_while_the_attack_is_on(
    attacks: Any, tmp_path: Path
) -> None:
    def program(*, simulated: bool = True) -> tuple[str, ...]:
        return program_of("fl-server", tmp_path, TESTBED, simulated=simulated)

    run, desk = attacks()
    assert program() == HONEST, "nobody is there to ask"
    (tmp_path / UP).mkdir()
    with ControlSocket(tmp_path / UP, desk.answer, together=True):
        assert program() == HONEST
        asked(desk, BeginAttack("eve", "two-list-server", 1.0))
        assert program() == (MODULE, "two-list-server", "1.0", str(TESTBED))
        assert program(simulated=False) == HONEST
        assert program_of("relay", tmp_path, TESTBED, simulated=True) == HONEST
        asked(desk, EndAttack("eve"))
        assert program() == HONEST
    assert run.started == []
