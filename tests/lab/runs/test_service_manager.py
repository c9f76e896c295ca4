"""What a role tells the service manager that started it: ready, alive, ending - and nothing once its loop hangs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.runs.roles.service_manager import AskedEvent, ServiceManager, loop_limit_s
from lab.runs.testbeds.folder import create_folder, template_path

ROLE = """
import sys, threading, time
from lab.runs.roles.service_manager import AskedEvent, ServiceManager

stop, service = AskedEvent(), ServiceManager()
service.ready("at work", stop)
for line in iter(lambda: (stop.is_set(), time.sleep(0.02)), None):
    if "hang" in sys.argv:
        threading.Thread(target=lambda: [stop.is_set() or time.sleep(0.02) for _ in iter(int, 1)], daemon=True).start()
        time.sleep(3600)
"""


class Manager:
    """A service manager's end of the socket."""

    def __init__(self, place: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(place)
        self.environment = {"NOTIFY_SOCKET": place.replace("\0", "@", 1)}

    def said(self, timeout_s: float) -> list[str]:
        """The lines of the next word; none where nothing comes."""
        self.socket.settimeout(timeout_s)
        try:
            return self.socket.recv(4096).decode().splitlines()
        except TimeoutError:
            return []

    def until(self, line: str, timeout_s: float) -> list[str]:
        """Every line up to the wanted one."""
        lines, end = list[str](), time.monotonic() + timeout_s
        while line not in lines:
            assert time.monotonic() < end, lines
            lines += self.said(1.0)
        return lines

    def quiet_for(self, duration_s: float) -> bool:
        """Whether nothing is said for so long, what was on its way aside."""
        while self.said(0.0001):
            pass
        return not self.said(duration_s)


@pytest.fixture(params=["file", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    place = str(tmp_path / "notify") if request.param == "file" else f"\0qunetlab-test-{os.getpid()}"
    made = Manager(place)
    yield made
    made.socket.close()


def started(manager: Manager, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, **manager.environment, "WATCHDOG_USEC": "400000"}
    return subprocess.Popen([sys.executable, "-P", "-c", ROLE, *arguments], env=environment)


def test_words_reach_the_manager_and_values_stay_on_their_line(manager: Manager) -> None:
    service = ServiceManager(manager.environment)
    service.tell(STATUS="relay is gone\nREADY=1", STOPPING=1)
    assert manager.said(1.0) == ["STATUS=relay is gone READY=1", "STOPPING=1"]


def test_without_a_manager_or_with_one_that_is_gone_nothing_happens(tmp_path: Path) -> None:
    ServiceManager({}).tell(READY=1)
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell(READY=1)
    assert ServiceManager({"WATCHDOG_USEC": "1000000"}).timeout_s == 0
    of_another = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert ServiceManager(of_another).timeout_s == 0


def test_only_the_main_thread_s_asking_is_a_sign_of_life() -> None:
    now = [0.0]
    stop = AskedEvent(lambda: now[0])
    now[0] = 5.0
    other = threading.Thread(target=stop.is_set)
    other.start()
    other.join()
    assert stop.asked_s == 0.0
    assert not stop.is_set()
    assert stop.asked_s == 5.0


@pytest.mark.parametrize("manager", ["file"], indirect=True)
def test_a_process_that_stands_still_says_nothing_until_it_goes_on(manager: Manager) -> None:
    with started(manager) as process:
        assert manager.until("WATCHDOG=1", 20.0)[0] == "READY=1"
        process.send_signal(signal.SIGSTOP)
        assert manager.quiet_for(1.0)
        process.send_signal(signal.SIGCONT)
        manager.until("WATCHDOG=1", 10.0)
        process.kill()


@pytest.mark.parametrize("manager", ["file"], indirect=True)
def test_a_loop_that_hangs_says_nothing_though_other_threads_ask(manager: Manager) -> None:
    with started(manager, "hang") as process:
        manager.until("READY=1", 20.0)
        time.sleep(0.5)
        assert manager.quiet_for(1.0)
        process.kill()


@pytest.mark.parametrize("manager", ["file"], indirect=True)
def test_a_role_tells_that_it_serves_that_it_lives_and_that_it_ends(manager: Manager, tmp_path: Path) -> None:
    testbed = create_folder(tmp_path / "bench", template_path("simulated-reference"))
    environment = {**os.environ, **manager.environment, "WATCHDOG_USEC": "2000000"}
    command = [sys.executable, "-P", "-m", "lab.cli.main", "orchestrator", str(testbed)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        lines = manager.until("WATCHDOG=1", 60.0)
        assert lines[:2] == ["READY=1", "STATUS=orchestrator is at work"]
        process.terminate()
        assert "STOPPING=1" in manager.until("STOPPING=1", 10.0)
        assert process.wait(20.0) == 0


def test_a_loop_is_silent_since_it_was_asked_last_and_never_once_told_to_stop() -> None:
    now_s = 0.0
    stop = AskedEvent(lambda: now_s)
    now_s = 100.0
    stop.begin()  # what came before the first turn is no silence
    now_s = 125.0
    assert stop.silent_s == 25.0
    assert not stop.is_set()
    assert stop.silent_s == 0.0
    now_s = 150.0
    stop.set()
    assert stop.silent_s == 0.0
    assert [loop_limit_s(role) for role in ("relay", "fl-server", "fl-alice")] == [20, 600, 600]
