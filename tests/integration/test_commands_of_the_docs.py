"""The commands that README and pages show, run as they stand there: each has its place in one of three surroundings, or a reason.

``ALONE``: a folder for each page, and no ring.  ``SIMULATED``: instruments of a folder are served, and no role runs.  ``UP``: all
roles of a folder run, as ``qunetlab up`` starts them.  In the latter two a folder that a page calls ``bench`` or ``ring`` is
the one that all tests of that surrounding share.  What follows something live, or serves, is ended as people do, by Ctrl-C.
"""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import pytest
from command_line import QUNETLAB
from pages_commands import SHOWN

Surrounding: TypeAlias = Literal["alone", "simulated", "up"]
LAB = "needs instruments of a laboratory, or its network"
ROLE = "a role alone: `up` starts the same, and tests of processes start each by hand"
NETWORK = "fetches data from the network"
HOURS = "the whole experiment, of a quarter of an hour and more; `--quick` and smaller ones are tested with the workloads"
ELSEWHERE = "where another machine, certificate or parcel takes part: "
PORTS = 40
"""More than one ring takes from its first port on."""


@dataclass(frozen=True)
class Way:
    """Where a command is run; ``live``: for how long before Ctrl-C ends it; ``instead`` of words of the page which."""

    where: Surrounding
    live_s: float = 0.0
    instead: dict[str, str] = field(default_factory=dict)
    within_s: float = 100.0
    typed: str = ""
    codes: tuple[int, ...] = (0,)


ALONE, SIMULATED, UP = (Way(where) for where in ("alone", "simulated", "up"))  # type: ignore[arg-type]
LIVE = Way("up", live_s=8.0, codes=(0, 130))
WAYS: dict[str, Way | str] = {
    # a page and the beginning of a command, or the beginning of a command of any page; the first that fits counts
    "at-the-bench.md: qunetlab init": ALONE,
    "at-the-bench.md: qunetlab check": ALONE,
    "several-machines.md: qunetlab init bench --host": ALONE,
    "several-machines.md: qunetlab check": ALONE,
    "several-machines.md: qunetlab init bench --export": ALONE,
    "several-machines.md: qunetlab init bench --import": ELSEWHERE + "tests/lab/runs/testbeds",
    "several-machines.md: qunetlab init bench --anew": ELSEWHERE + "tests/faults/test_lost_machine.py",
    "several-machines.md: qunetlab keys": ELSEWHERE + "tests/faults/test_lost_machine.py",
    "several-machines.md: qunetlab systemd": ELSEWHERE + "tests/lab/runs/test_units.py",
    "several-machines.md": ROLE,
    "first-contact.md: qunetlab instruments record nkt": LAB,
    "first-contact.md: qunetlab instruments record": Way("simulated", live_s=60.0, typed="y\n"),
    "first-contact.md: qunetlab instruments replay": SIMULATED,
    "at-the-bench.md": LAB,
    "running.md: qunetlab init bench --host": ALONE,
    "running.md: qunetlab check": ALONE,
    "running.md: qunetlab keyrate": ALONE,
    "running.md: qunetlab instruments bench": SIMULATED,
    "running.md: qunetlab calibrate": Way(
        "simulated", instead={"calibrate": "calibrate --dry-run"}
    ),  # all of it takes a quarter of an hour; the steps are tests/lab/calibration's
    "running.md: qunetlab set": Way("simulated", live_s=10.0, codes=(0, 130)),
    "running.md: qunetlab monitor simulated": Way(
        "alone", live_s=45.0, typed="voa_alice.attenuation_db 12\n", codes=(0, 130)
    ),
    "running.md: qunetlab scan simulated": Way("alone", within_s=200.0),
    "running.md: qunetlab scan bench": Way("simulated", within_s=300.0),
    "running.md: qunetlab fl": ELSEWHERE + "tests/fl/carriers/zeromq, and every demo",
    "running.md: qunetlab init bench --sae": Way("alone", instead={"init bench": "init serving"}),
    "running.md: qunetlab sae": ELSEWHERE + "tests/lab/test_sae_cli.py",
    "running.md: qunetlab keys reseed": ELSEWHERE + "tests/lab/test_keys_cli.py",
    "running.md: qunetlab keys meet": ELSEWHERE + "tests/lab/test_keys_cli.py",
    "running.md: qunetlab keys revoke": ELSEWHERE + "tests/lab/test_keys_cli.py",
    "running.md: qunetlab keys replace": ELSEWHERE + "tests/lab/test_anew_cli.py",
    "keys-to-applications.md: qunetlab init": ALONE,
    "keys-to-applications.md: qunetlab sae": ALONE,
    "keys-to-applications.md: qunetlab up": "the surrounding of all that are run while it is up",
    "keys-to-applications.md: qunetlab down": "the surrounding of all that are run while it is up",
    "running.md: qunetlab up": "the surrounding of all that are run while it is up",
    "running.md: qunetlab down": "the surrounding of all that are run while it is up",
    "running.md: qunetlab queue add maintenance": "the bench is given to one person at a time: the same line of operating.md is run",
    "running.md: qunetlab queue add key": Way("up", instead={"queue add": "queue add --testbed bench"}),
    "running.md: qunetlab queue add": Way("up", instead={"queue add": "queue add --testbed bench"}),
    "running.md: qunetlab queue list": Way("up", instead={"queue list": "queue list --testbed bench"}),
    "quick-start.md: qunetlab keygen": Way("alone", within_s=200.0),
    "quick-start.md: qunetlab train": Way("alone", within_s=200.0),
    "quick-start.md: qunetlab up": "the surrounding of all that are run while it is up",
    "operating.md: qunetlab init ring": ALONE,
    "operating.md: qunetlab calibrate --testbed ring --dry-run": ALONE,
    "operating.md: qunetlab keyrate": Way("alone", codes=(2,)),  # none yet: its calibration is a row below
    "operating.md: qunetlab calibrate --testbed ring": "a quarter of an hour: tests/lab/calibration and tests/integration/test_whole_road.py",
    "operating.md: qunetlab calibrate": Way("simulated", instead={"calibrate": "calibrate --pair alice-bob"}, within_s=300.0),
    "operating.md: qunetlab demo": "tests/integration/test_control_room.py runs it with a browser",
    "operating.md: qunetlab audit ring --out": Way("alone", instead={"audit ring": "audit RUN"}),
    "operating.md: qunetlab audit": "roles at rest: the same with --out",
    "training.md: qunetlab data": NETWORK,
    "training.md: qunetlab train digits --testbed": Way("alone", within_s=400.0, instead={"--live": "--live --quick --seeds 1 --rounds 2 --no-baselines --out live"}),
    "training.md: qunetlab train digits": Way("alone", within_s=200.0),
    "training.md: qunetlab train beans": ELSEWHERE + "tests/fl/workloads has one",
    "training.md: qunetlab train": HOURS,
    "training.md: qunetlab compare": Way("alone", instead={"RUN RUN ...": "first-run live"}),
    "status.md: qunetlab alarms": "an alarm has to stand: tests/lab/test_alarms_cli.py",
    "qunetlab status bench --check": Way("up", codes=(0, 1, 3)),  # 3: somebody was given the bench, a row above
    "qunetlab status bench --watch": LIVE,
    "qunetlab status ring --watch": LIVE,
    "qunetlab dashboard": LIVE,
    "qunetlab monitor": LIVE,
    "qunetlab orchestrator": ROLE,
    "qunetlab relay": ROLE,
    "qunetlab node": ROLE,
    "attack-range.md: qunetlab init": ALONE,
    "attack-range.md: qunetlab up": "the surrounding of all that are run while it is up",
    "operating.md: qunetlab up": "the surrounding of all that are run while it is up",
    "attack-range.md: qunetlab down": "the surrounding of all that are run while it is up",
    "qunetlab keyrate": ALONE,
    "quick-start.md: qunetlab init": ALONE,
    "quick-start.md: qunetlab check": ALONE,
    "quick-start.md: qunetlab calibrate": ALONE,
    "qunetlab compile": ALONE,
    "qunetlab attack": UP,
    "qunetlab status": UP,
    "qunetlab queue": UP,
    "qunetlab keys": UP,
    "qunetlab runs": UP,
    "qunetlab stop": UP,
    "qunetlab acknowledge": UP,
}  # fmt: skip


def way_of(page: str, line: str) -> tuple[str, Way | str]:
    """The row of the table that counts for a command, and what it says."""
    for begin, way in WAYS.items():
        if f"{page}: {line}".startswith(begin) or line.startswith(begin):
            return begin, way
    raise AssertionError(
        f"{page} shows {line!r}, which has no place in WAYS: run it somewhere, or say why not"
    )


def commands_for(where: Surrounding) -> list[tuple[str, str, Way]]:
    """Page, command and way, in the order of the pages; each command of a page once."""
    found = [(page, line, way_of(page, line)[1]) for page, line in dict.fromkeys(SHOWN)]
    return [(page, line, way) for page, line, way in found if isinstance(way, Way) and way.where == where]


def test_every_command_is_run_or_has_a_reason_and_no_row_is_left_over() -> None:
    used = {way_of(page, line)[0] for page, line in SHOWN}
    assert used == set(WAYS)
    ways = [way_of(page, line)[1] for page, line in SHOWN]
    assert sum(isinstance(way, Way) for way in ways) > len(ways) / 2
    with pytest.raises(AssertionError, match="has no place in WAYS"):
        way_of("faq.md", "qunetlab frobnicate")


def first_free_port() -> str:
    """The first of so many that nobody listens at, below those that connections take for themselves."""
    for first in range(20_000, 32_000, PORTS):
        try:
            for port in range(first, first + PORTS):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return str(first)
    raise AssertionError("no ports are free")


def run(line: str, way: Way, folder: Path) -> str:
    """One command to its end, or to Ctrl-C; what it printed."""
    words = line
    for old, new in way.instead.items():
        assert old in words, (old, line)
        words = words.replace(old, new)
    process = subprocess.Popen(
        [*QUNETLAB, *shlex.split(words, comments=True)[1:]],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        if way.live_s:
            assert process.stdin is not None
            process.stdin.write(way.typed)
            process.stdin.flush()
            _live(process, way.live_s)
        printed, _ = process.communicate(timeout=way.within_s)
    finally:
        process.kill()
        process.wait()
    assert process.returncode in way.codes, f"{line}\nended with {process.returncode}:\n{printed}"
    assert "Traceback" not in printed, printed
    return printed


def _live(process: subprocess.Popen[str], live_s: float) -> None:
    """Let it live for so long, unless it ends by itself, and press Ctrl-C."""
    try:
        process.wait(live_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)


def run_all(where: Surrounding, folders: dict[str, Path]) -> None:
    """All of a surrounding; every one that fails is told."""
    failed = []
    for page, line, way in commands_for(where):
        began = time.monotonic()
        try:
            run(line, way, folders[page])
        except (AssertionError, subprocess.TimeoutExpired) as error:
            failed.append(f"{page}: {line}: {error}")
        print(f"{time.monotonic() - began:6.1f} s  {page}: {line}")
    assert not failed, "\n\n".join(failed)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_commands_without_a_ring(tmp_path: Path) -> None:
    folders = {page: tmp_path / page for page, *_ in commands_for("alone")}
    for folder in folders.values():
        folder.mkdir()
    run(
        "qunetlab keygen alice bob --testbed RUN",
        Way("alone", within_s=200.0),
        _with_run(folders["operating.md"]),
    )
    run_all("alone", folders)


def _with_run(folder: Path) -> Path:
    """A ring to work on is there as RUN, with key at rest in it afterwards."""
    run("qunetlab init RUN --users 2", ALONE, folder)
    return folder


@contextmanager
def shared(folder: Path, *begin: str) -> Iterator[Path]:
    """A folder whose ``bench`` and ``ring`` are one testbed, of which something is kept running."""
    run(f"qunetlab init bench --host 127.0.0.1 --port {first_free_port()}", ALONE, folder)
    (folder / "ring").symlink_to("bench")
    process = subprocess.Popen(
        [*QUNETLAB, *begin], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        said = ""
        for text in process.stdout:
            said += text
            if re.search(r'"ready": ?true|^ready: ', text):
                break
        else:
            raise AssertionError(f"{begin} ended with {process.wait()}:\n{said}")
        yield folder
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode in (0, 130)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_commands_at_simulated_instruments(tmp_path: Path) -> None:
    with shared(tmp_path, "simulate", "bench", "--resolved", "bench/testbed.toml", "--json") as folder:
        run_all("simulated", {page: folder for page, *_ in commands_for("simulated")})


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_commands_of_a_ring_that_runs(tmp_path: Path) -> None:
    with shared(tmp_path, "up", "bench") as folder:
        run_all("up", {page: folder for page, *_ in commands_for("up")})
