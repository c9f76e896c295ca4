"""Calibrating with roles stopped, as things go wrong: what is told, what is kept, and that it is dark."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.calibration.book import BOOK_FILE, book_path, now, read_book
from lab.calibration.keeping import FINDINGS
from lab.calibration.steps import Step
from lab.interlock.interlock import interlocked
from lab.runs.calibrating.rig import Rig, opened_rig
from lab.runs.calibrating.runner import Due, Outcome, plan, run
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed, read_testbed, write_testbed
from orchestrator.light.calibration.parties import UserParty
from orchestrator.light.messages import LightAborted
from sim_backends.bench import Bench

pytestmark = [pytest.mark.early, pytest.mark.usefixtures("no_guards")]

PAIR = ("alice", "bob")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("orchestrator.light.calibration.procedures.REST_CLICKS", 2e4)
    monkeypatch.setattr("orchestrator.light.calibration.procedures.PHASE_CLICKS", 1e4)
    data = read_testbed(template_path("simulated-four-node"))
    data["protocol"]["slots_per_frame"] = 1 << 18
    write_testbed(data, tmp_path / "testbed.toml")
    return tmp_path / "testbed.toml"


@contextmanager
def bench_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Rig, Bench]]:
    """The opened rig and the bench that it serves."""
    made: list[Bench] = []
    init = Bench.__init__

    def noted(self: Bench, *args: Any, **options: Any) -> None:
        made.append(self)
        init(self, *args, **options)

    monkeypatch.setattr(Bench, "__init__", noted)
    with opened_rig(path) as rig:
        yield rig, made[0]


def due(path: Path, *steps: Step) -> list[Due]:
    testbed = load_testbed(path)
    book = read_book(path, read_testbed(path))
    return plan(testbed.user_names(), testbed.pairs(), book, now(), steps=steps, asked=[PAIR])


def is_dark(bench: Bench) -> bool:
    light = bench.ring.light()
    return sum(sum(light.entering_w(direction)) for direction in ("cw", "ccw")) < 1e-18


def done(
    rig: Rig, path: Path, *steps: Step, progress: Callable[[Due, float], None] = lambda due, part: None
) -> list[Outcome]:
    return list(run(rig, path, due(path, *steps), progress=progress))


def told(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {str(each.due): each.refused for each in outcomes}


def test_a_user_who_refuses_a_frame_ends_its_step_in_the_dark_and_the_next_one_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench_of(path, monkeypatch) as (rig, bench):

        def refuse(self: UserParty, pair: tuple[str, str], channel: object) -> None:
            raise LightAborted("no calibration frames while I am at the fibre")

        with monkeypatch.context() as patched:
            patched.setattr(UserParty, "stand", refuse)
            (refused, *_) = done(rig, path, Step.PHASE)
        assert refused.finding is None
        assert "no calibration frames while I am at the fibre" in refused.refused
        assert "bob: " in refused.refused
        assert is_dark(bench)
        assert not book_path(path).exists(), "nothing is applied"
        assert told(done(rig, path, Step.VISIBILITY)) == {"visibility of relay": ""}


def test_ctrl_c_in_a_step_leaves_everything_dark_and_the_same_command_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pressed(due: Due, part: float) -> None:
        if due.step is Step.VISIBILITY:
            raise KeyboardInterrupt

    with bench_of(path, monkeypatch) as (rig, bench):
        with pytest.raises(KeyboardInterrupt):
            done(rig, path, Step.BACKSCATTER, Step.VISIBILITY, progress=pressed)
        assert is_dark(bench)
    book = read_book(path, read_testbed(path))
    assert book.measured(Step.BACKSCATTER, "relay") is not None
    assert book.measured(Step.VISIBILITY, "relay") is None
    testbed = load_testbed(path)
    left = plan(testbed.user_names(), testbed.pairs(), book, now(), steps=(), asked=[PAIR])
    assert "backscatter of relay" not in map(str, left)
    assert "visibility of relay" in map(str, left)


def test_two_calibrations_at_once_are_one_and_a_refusal(qunetlab: Any, path: Path) -> None:
    """A served bench has no addresses to claim: the interlock's place is what the two meet at."""
    station: Any = type("Nobody", (), {"owner": "alice", "permit": None, "safe_jobs": lambda self: ()})()
    folder = path.parent / "state" / "alice"
    folder.mkdir(parents=True)
    with interlocked(station, folder):
        said = qunetlab("calibrate", "visibility", "--pair", "alice-bob", "--testbed", str(path))
    assert said.returncode == 3
    assert "another process listens at" in said.stderr
    assert "another `qunetlab calibrate` works with this ring; nothing was touched" in said.stderr
    assert not book_path(path).exists()


@pytest.mark.parametrize(
    "content", [b'ring = "0123', b"\xff\xfe", b"", b'schema_version = 1\nring = "0000000000000000"\n']
)
def test_a_damaged_book_is_told_with_its_place_and_left_as_it_is(
    qunetlab: Any, path: Path, content: bytes
) -> None:
    book_path(path).write_bytes(content)
    said = qunetlab("calibrate", "visibility", "--pair", "alice,bob", "--testbed", str(path))
    assert said.returncode == 2
    assert "calibration.toml" in said.stderr
    assert book_path(path).read_bytes() == content
    assert not (path.parent / "state").exists(), "no instrument was opened"


def test_a_folder_in_which_nothing_can_be_kept_is_told_before_there_is_light(
    qunetlab: Any, path: Path
) -> None:
    (path.parent / "state").write_text("a file in its place")
    said = qunetlab("calibrate", "visibility", "--pair", "alice,bob", "--testbed", str(path))
    assert said.returncode != 0
    assert "state" in said.stderr
    assert "unexpected" not in said.stderr
    assert not book_path(path).exists()


def failing_disk(
    monkeypatch: pytest.MonkeyPatch, path: Path, number: int, fails: Callable[[Path], bool]
) -> None:
    """Nothing is written beside the testbed file where it ``fails``: read-only, full or not allowed."""
    opened = os.open

    def refusing(name: str | Path, flags: int, *mode: int) -> int:
        place = Path(name)
        if flags & os.O_WRONLY and path.parent in place.parents and fails(place):
            raise OSError(number, os.strerror(number), str(name))
        return opened(name, flags, *mode)

    monkeypatch.setattr("orchestrator.durable.os.open", refusing)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC])
def test_a_folder_that_takes_nothing_is_told_before_an_instrument_is_opened(
    qunetlab: Any, path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    (path.parent / FINDINGS).mkdir()
    failing_disk(monkeypatch, path, number, lambda place: place.parent.name == FINDINGS)
    said = qunetlab("calibrate", "visibility", "--pair", "alice,bob", "--testbed", str(path))
    assert said.returncode == 1
    assert f"{FINDINGS}/..try" in said.stderr
    assert f"{os.strerror(number)}), so nothing of it is applied; make room there, or let" in said.stderr
    assert "unexpected" not in said.stderr
    assert not (path.parent / "state").exists(), "no instrument was opened"
    assert list((path.parent / FINDINGS).iterdir()) == []


def test_a_disk_that_fills_while_a_calibration_is_kept_applies_nothing_and_leaves_it_dark(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench_of(path, monkeypatch) as (rig, bench):
        with monkeypatch.context() as patched:
            failing_disk(patched, path, errno.ENOSPC, lambda place: place.name == f".{BOOK_FILE}.tmp")
            (refused,) = done(rig, path, Step.VISIBILITY)
        assert refused.finding is None
        assert f".{BOOK_FILE}.tmp: No space left on device), so nothing of it is applied" in refused.refused
        assert is_dark(bench)
        assert not book_path(path).exists()
        assert list((path.parent / FINDINGS).glob("*.json")) == [], "nor does it stand in the history"
        assert told(done(rig, path, Step.VISIBILITY)) == {"visibility of relay": ""}
    assert len(list((path.parent / FINDINGS).glob("*.json"))) == 1
