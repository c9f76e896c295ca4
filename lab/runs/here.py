"""The roles of this machine as one: started together, watched, ended together, and what was then made safe.

A role is of this machine if its secrets lie in the testbed folder.  Learning clients and servers are not among them:
a training run starts its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from lab.runs.attacks.replacing import RoleAttacks
from lab.runs.made_safe import words_of
from lab.runs.supervising.kernels import compile_all
from lab.runs.supervising.supervised import Run, running_folder
from lab.runs.supervising.supervisor import ChildError
from lab.runs.testbeds.folder import (
    SECRETS,
    TESTBED_FILE,
    FolderError,
    check_down,
    find_testbed,
    own_testbed,
    up_folder,
    up_process,
)
from lab.runs.watched.targets import TARGETS_FILE, Targets
from lab.testbed import Testbed, load_testbed
from orchestrator.events.process import Ended
from orchestrator.wire.control_socket import ControlSocket

READY_FILE, ENDED_FILE, LOG_FILE = "ready", "ended", "up.log"
LOOK_S = 0.5
EXPECTED = (OSError, ValueError, ChildError)
"""What an operator who asks for an attack is told in its own words."""
DOWN_S = 60.0


def home_of(testbed: Path) -> Path:
    """The folder of a testbed with secrets; raises FolderError or TestbedError saying what to name instead."""
    home = own_testbed(testbed).parent
    if not (home / SECRETS).is_dir():
        raise FolderError(
            f"there are no secrets in {home / SECRETS}: `qunetlab init FOLDER --template {find_testbed(testbed)}` makes a "
            f"folder that has them, and `qunetlab init {home} --import PARCEL` takes in those of a role of this machine"
        )
    return home


def roles_here(home: Path, testbed: Testbed) -> list[str]:
    """The roles whose secrets lie here: orchestrator, relay, users; raises FolderError where there are none."""
    roles = ["orchestrator", "relay", *testbed.user_names()]
    if found := [role for role in roles if (home / SECRETS / role).is_dir()]:
        return found
    raise FolderError(f"no role has its secrets in {home / SECRETS}; roles are {', '.join(roles)}")


def run_here(home: Path, stop: threading.Event, tell: Callable[[str], None]) -> list[str]:
    """Run the roles until ``stop``; returns what was made safe, in words, and what was not."""
    roles = roles_here(home, load_testbed(home / TESTBED_FILE))
    check_down(home)
    compile_all()
    with running_folder(home) as run:
        for leftover in (READY_FILE, ENDED_FILE):
            (up_folder(home) / leftover).unlink(missing_ok=True)
        run.start_ring(here=roles)
        ready = f"ready: {', '.join(run.supervisor.children)}; logs in {up_folder(home)}"
        targets = Targets(up_folder(home) / TARGETS_FILE)
        targets.tell(run.serving)
        attacks = RoleAttacks(run)
        with ControlSocket(up_folder(home), attacks.answer, EXPECTED, together=True):
            (up_folder(home) / READY_FILE).write_text(ready)
            tell(ready)
            while not stop.wait(LOOK_S):
                attacks.serve()
                _watch(run, tell)
                targets.tell(run.serving)
        run.stop()
        words = words_of(run)
        (up_folder(home) / READY_FILE).unlink()
        targets.close()
        (up_folder(home) / ENDED_FILE).write_text("\n".join(words))
    return words


def _watch(run: Run, tell: Callable[[str], None]) -> None:
    for name, event in run.supervisor.drain():
        run.note(name, event)
        if isinstance(event, Ended):
            child = run.supervisor.children[name]
            code = child.process.wait()
            why = child.failed.text if child.failed else child.failure(lines=1).text
            tell(f"{name} ENDED with exit code {code}, the others go on; {why}\n  whole log: {child.log}")


def detach(home: Path) -> str:
    """Start :func:`run_here` in a process of its own and wait until it is ready; raises FolderError with its words."""
    check_down(home)
    folder = up_folder(home)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / READY_FILE).unlink(missing_ok=True)
    with (folder / LOG_FILE).open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "lab.cli.main", "up", str(home.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while not (folder / READY_FILE).exists():
        if child.poll() is not None:
            raise FolderError(f"it did not start:\n{(folder / LOG_FILE).read_text(errors='replace').strip()}")
        time.sleep(0.1)
    return (folder / READY_FILE).read_text()


def end_here(home: Path) -> list[str]:
    """End what ``qunetlab up`` runs for this folder; returns what was made safe.  Raises FolderError."""
    process = up_process(home)
    if process is None:
        raise FolderError(f"`qunetlab up {home}` does not run on this machine, so there is nothing to end")
    os.kill(process, signal.SIGTERM)
    give_up = time.monotonic() + DOWN_S
    while up_process(home) is not None:
        if time.monotonic() > give_up:
            raise FolderError(
                f"process {process} and its roles have not ended within {DOWN_S:g} s; logs: {up_folder(home)}"
            )
        time.sleep(0.1)
    ended = up_folder(home) / ENDED_FILE
    return (
        ended.read_text().splitlines()
        if ended.exists()
        else ["it ended without a word of what was made safe"]
    )
