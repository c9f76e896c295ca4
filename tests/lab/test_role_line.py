"""What a role shows: sentences and a line for people on a terminal, JSON for programs."""

from __future__ import annotations

import io
import json
import signal
import subprocess
from pathlib import Path

import pytest
from command_line import QUNETLAB
from rich.console import Console
from terminal import on_a_terminal

from lab.cli.role_line import RoleLine, doing, happened
from lab.runs.testbeds.folder import DEFAULT_TESTBED, create_folder, template_path
from orchestrator.events.learning import RoundCompleted, RoundRecord, WaitingForKeys
from orchestrator.events.process import (
    Calibrated,
    CalibrationProgress,
    LightProgress,
    MadeSafe,
    PeerLedger,
    ProcessEvent,
    RelayServing,
)
from orchestrator.events.status import BlockReport, LeaseStatus

BLOCK = BlockReport(1, 2, "alice", "bob", True, secret_bits=4321, qber=0.012)
ROUND = RoundRecord(3, 0.912, 0.3, 100, 54300, ("alice",), "otp", 2.1, 0.0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return create_folder(tmp_path / "bench", template_path(DEFAULT_TESTBED)).parent


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (RelayServing(instruments={"laser": "basik"}), "relay is ready: laser"),
        (BLOCK, "alice-bob: 4,321 bits of key at QBER 1.20 %"),
        (LeaseStatus(1, 7, "alice", "bob", False, reason="no light"), "alice-bob: lease 7 failed: no light"),
        (
            Calibrated("phase", "alice", ("loop_phase_rad",)),
            "phase of alice is calibrated: loop_phase_rad",
        ),
        (Calibrated("phase", "alice", refused="dark"), "phase of alice was refused: dark"),
        (RoundCompleted(ROUND), "round 3: accuracy 91.2 %, 54.3kbit of key, 2.1 s"),
        (PeerLedger("bob", 0, 0, 0, 0, 0), ""),
        (LightProgress("alice", "bob", 1, 2, 3, 0.0), ""),
    ],
)
def test_what_stays_is_a_sentence_and_progress_is_none(event: ProcessEvent, told: str) -> None:
    assert happened("relay", event) == told


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (
            LightProgress("alice", "bob", 43, 100, 3, 0.0, 2),
            "key light of alice-bob, 43 % of a block, 2 frames lost",
        ),
        (
            CalibrationProgress("phase", "alice", "bob", 0.5, 0.0),
            "calibrates phase in the light of alice-bob, 50 %",
        ),
        (
            WaitingForKeys(4, "dave", {"alice": 9}, "9 bits with alice", 60.0),
            "round 4: dave waits for key: 9 bits with alice, about 60 s",
        ),
        (PeerLedger("bob", 0, 0, 0, 0, 0), None),
    ],
)
def test_what_a_role_does_at_this_moment(event: ProcessEvent, told: str | None) -> None:
    assert doing("relay", event) == told


def test_what_others_wrote_moves_no_cursor() -> None:
    evil = LeaseStatus(1, 7, "alice", "bob", False, reason="\x1b[2Jgone")
    assert "\x1b" not in happened("relay", evil)
    assert "\x1b" not in str(doing("relay", evil))


def test_the_line_has_ages_first_so_that_a_narrow_terminal_shows_them() -> None:
    now = [100.0]
    line = RoleLine("relay", console=Console(file=io.StringIO()), clock=lambda: now[0])
    now[0] = 130.0
    line.tell(LightProgress("alice", "bob", 43, 100, 3, 0.0))
    now[0] = 132.0
    assert line.line() == "relay up 32 s; 2.0 s ago: key light of alice-bob, 43 % of a block"


def test_a_terminal_that_cannot_draw_gets_the_sentences_alone(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, _environ={"TERM": "dumb"})
    with RoleLine("relay", console=console) as line:
        line.tell(BLOCK)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
    assert capsys.readouterr().out.endswith(" alice-bob: 4,321 bits of key at QBER 1.20 %\n")


def test_a_role_tells_people_on_a_terminal_and_ctrl_c_ends_it(home: Path) -> None:
    with on_a_terminal("orchestrator", str(home), columns=60) as terminal:
        terminal.until("orchestrator is ready at tcp://")
        terminal.until("s ago: ready")
        said = terminal.interrupted()
    assert terminal.process.returncode == 0
    assert "{" not in said
    drawn = [part for part in terminal.raw.split("\x1b[2K") if "ago: ready" in part]
    assert all(len(part.splitlines()[0]) <= 60 for part in drawn)


@pytest.mark.parametrize("piped", [True, False])
def test_programs_get_json_with_the_option_and_from_a_pipe(home: Path, piped: bool) -> None:
    if not piped:
        with on_a_terminal("orchestrator", str(home), "--json", columns=2000) as terminal:
            line = next(
                each for each in terminal.until('"ready":true').splitlines() if each.startswith('{"type"')
            )
            terminal.interrupted()
    else:
        with subprocess.Popen(
            [*QUNETLAB, "orchestrator", str(home)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            process.send_signal(signal.SIGINT)
    told = json.loads(line)
    assert (told["type"], told["ready"], told["role"]) == ("HubServing", True, "orchestrator")


def test_what_was_made_safe_ends_it() -> None:
    event = MadeSafe(("laser", "launch"))
    assert happened("relay", event).endswith("read back: laser, launch of relay.")
    assert doing("relay", event) == "dark"
