"""``qunetlab calibrate`` interrupted in the light of every step: dark, told in a sentence, nothing half done, and it goes on."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fewer_users import ring_of_users
from turning_ring import EPC

from lab.calibration.book import BOOK_FILE, book_path, now, read_book
from lab.calibration.keeping import FINDINGS, keep
from lab.calibration.steps import Step
from lab.cli.calibrate import run_calibrate
from lab.runs.calibrating.runner import plan
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed, read_testbed, write_testbed
from sim_backends.bench import Bench

pytestmark = pytest.mark.early

PAIR = ("alice", "bob")
PHOTON_W = 1e-18


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two users, the relay with a polarisation controller."""
    data = ring_of_users(read_testbed(template_path("simulated-four-node")), PAIR)
    data["protocol"] = {**data["protocol"], "slots_per_frame": 1 << 18}
    data["instruments"].append(
        {"name": "polarization_relay", "model": EPC, "owner": "relay", "address": "auto"}
    )
    write_testbed(data, tmp_path / "testbed.toml")
    return tmp_path / "testbed.toml"


@pytest.fixture
def benches(monkeypatch: pytest.MonkeyPatch) -> list[Bench]:
    """The bench that is served, once it is."""
    made: list[Bench] = []
    init = Bench.__init__

    def noted(self: Bench, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(Bench, "__init__", noted)
    return made


def launched_w(bench: Bench) -> float:
    light = bench.ring.light()
    return sum(sum(light.entering_w(direction)) for direction in ("cw", "ccw"))


@contextmanager
def signalled(number: signal.Signals, when: Callable[[], bool]) -> Iterator[threading.Event]:
    """This process gets a signal once something is so, as from a terminal; the event says that it did."""
    sent, over = threading.Event(), threading.Event()

    def press() -> None:
        while not over.is_set() and not when():
            time.sleep(0.001)
        if not over.is_set():
            sent.set()
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=press)
    thread.start()
    try:
        try:
            yield sent
        finally:
            over.set()
            thread.join()
    except KeyboardInterrupt:  # to pytest it would be the end of all tests
        over.set()
        thread.join()
        pytest.fail("the signal came when what it was to interrupt had ended")


def is_lit(benches: list[Bench]) -> bool:
    return bool(benches) and launched_w(benches[0]) > PHOTON_W


def calibrate(path: Path, step: Step) -> int:
    return run_calibrate(path, [step], ["-".join(PAIR)], dry_run=False, as_json=False)


def check_left(path: Path, benches: list[Bench], step: Step) -> None:
    """Dark, nothing half written, and the step is due."""
    assert benches[0].unsafe() == []
    assert launched_w(benches[0]) < PHOTON_W
    there = {each.name for each in path.parent.iterdir()}
    assert there <= {path.name, BOOK_FILE, FINDINGS, "records", "state"}, "something half written is left"
    book = read_book(path, read_testbed(path))
    testbed = load_testbed(path)
    due = plan(
        testbed.user_names(), testbed.pairs(), book, now(), steps=(), asked=[PAIR], controlled=["relay"]
    )
    assert step in {each.step for each in due}


LIT = [each for each in Step if each is not Step.SEPARATION]
"""All but one: it is worked out from measured delays without any light."""


@pytest.mark.usefixtures("no_guards")
@pytest.mark.parametrize(
    "step", [each if each is Step.PHASE else pytest.param(each, marks=pytest.mark.long) for each in LIT]
)
def test_ctrl_c_in_the_light_of_a_step_is_told_in_a_sentence_and_the_same_command_goes_on(
    path: Path, benches: list[Bench], capsys: pytest.CaptureFixture[str], step: Step
) -> None:
    with signalled(signal.SIGINT, lambda: is_lit(benches)) as sent:
        assert calibrate(path, step) == 130
    assert sent.is_set(), "there never was light"
    said = capsys.readouterr().err
    assert f"interrupted in {step} of " in said
    assert re.search(r"Dark at [\d:]+, read back: .*laser, launch[^;]* of relay", said)
    assert ": 0 of " in said
    assert said.rstrip().endswith("the same command goes on with the rest")
    check_left(path, benches, step)


@pytest.mark.long
def test_sigterm_ends_it_likewise(
    path: Path, benches: list[Bench], capsys: pytest.CaptureFixture[str]
) -> None:
    with signalled(signal.SIGTERM, lambda: is_lit(benches)):
        assert calibrate(path, Step.VISIBILITY) == 128 + signal.SIGTERM
    said = capsys.readouterr().err
    assert "interrupted in visibility of relay: 0 of 1 steps are kept" in said
    assert re.search(r"Dark at [\d:]+, read back: .*laser, launch[^;]* of relay", said)
    check_left(path, benches, Step.VISIBILITY)


def test_a_second_ctrl_c_leaves_the_rest_to_the_guards_and_says_so(
    path: Path,
    benches: list[Bench],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def pressed_again(*jobs: object) -> None:
        raise KeyboardInterrupt

    with signalled(signal.SIGINT, lambda: is_lit(benches)), monkeypatch.context() as patched:
        patched.setattr("lab.station.make_safe", pressed_again)
        assert calibrate(path, Step.VISIBILITY) == 130
    assert (
        "visibility of relay: the guards make the instruments safe, look at them with"
        in capsys.readouterr().err
    )
    check_left(path, benches, Step.VISIBILITY)


@pytest.mark.usefixtures("no_guards")
def test_ctrl_c_while_a_finding_is_kept_counts_once_it_is_whole(
    path: Path, benches: list[Bench], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("orchestrator.light.calibration.procedures.REST_CLICKS", 2e4)

    def pressed(*finding: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return keep(*finding)

    monkeypatch.setattr("lab.runs.calibrating.runner.keep", pressed)
    assert calibrate(path, Step.BACKSCATTER) == 130
    assert "interrupted in backscatter of relay" in capsys.readouterr().err
    assert benches[0].unsafe() == []
    assert read_book(path, read_testbed(path)).measured(Step.BACKSCATTER, "relay") is not None
    assert len(list((path.parent / FINDINGS).glob("*.json"))) == 1
    assert book_path(path).exists()
