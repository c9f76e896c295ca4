"""No process of ours leaves a core file, whatever the machine is set to do with them."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PR_GET_DUMPABLE = 3
MARK = f"ctypes.CDLL(None).prctl({PR_GET_DUMPABLE}, 0, 0, 0, 0)"
LIMIT = "resource.getrlimit(resource.RLIMIT_CORE)"


@pytest.fixture
def cores_wanted() -> Iterator[None]:
    """A shell that asked for core files; skipped where the machine forbids them to everybody."""
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    if hard == 0:
        pytest.skip("this machine writes no core files: nothing to show")
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


def said(code: str) -> str:
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", f"import ctypes, resource\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.mark.usefixtures("cores_wanted")
def test_without_the_call_a_process_may_be_dumped() -> None:
    assert said(f"print({MARK}, {LIMIT} == (1, 1))") == "1 False"


@pytest.mark.usefixtures("cores_wanted")
def test_a_process_that_holds_key_is_neither_dumped_nor_piped() -> None:
    call = "from orchestrator.core_files import no_core_files; no_core_files()"
    assert said(f"{call}\nprint({MARK}, {LIMIT})") == "0 (1, 1)"


@pytest.mark.usefixtures("cores_wanted")
def test_every_command_is_such_a_process() -> None:
    """The real entry point with a command that looks at its own process."""
    code = f"from lab.cli import main\nmain.app = lambda *_: print({MARK}, {LIMIT})\nmain.main()"
    assert said(code) == "0 (1, 1)"


@pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="becomes another user: needs root and /proc"
)
@pytest.mark.parametrize("shows", [True, False])
def test_only_a_process_that_shows_them_lets_others_of_its_user_follow_its_descriptors(shows: bool) -> None:
    """As a simulated serial line is reached that runs as nobody's root; two processes of one user, without privileges."""
    code = """
import os, signal, sys
from orchestrator.core_files import no_core_files, show_descriptors
ready, said = os.pipe()
held = os.open("/dev/null", os.O_RDONLY)
holder = os.fork()
os.setgid(65534)
os.setuid(65534)
if holder == 0:
    no_core_files()
    if sys.argv[1] == "True":
        show_descriptors()
    os.write(said, b"x")
    signal.pause()
os.read(ready, 1)
try:
    os.open(f"/proc/{holder}/fd/{held}", os.O_RDONLY)
    print("followed")
except PermissionError:
    print("refused")
os.kill(holder, 9)
"""
    command = [sys.executable, "-c", code, str(shows)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ("followed" if shows else "refused")


@pytest.mark.usefixtures("cores_wanted")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_running_simulator_has_the_limit(tmp_path: Path) -> None:
    """The simulator gets the symbols as waveforms."""
    from lab.runs.supervising.supervisor import Supervisor
    from lab.runs.testbeds.folder import create_folder, template_path

    path = create_folder(tmp_path / "bench", template_path("simulated-four-node"))
    supervisor = Supervisor(tmp_path)
    try:
        child = supervisor.start("simulate", "simulate", str(path), "--json")
        supervisor.ready(["simulate"], 60)
        limits = Path(f"/proc/{child.process.pid}/limits").read_text(encoding="ascii")
        (line,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert line.split()[4:6] == ["1", "1"]
    finally:
        supervisor.stop_all([])
