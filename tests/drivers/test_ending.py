"""What a process enabled is dark after it, however it ends; what it only read stays as it is."""

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
from jupyter_client.manager import KernelManager

from drivers.attenuators.keysight_n7764a import KeysightN7764A
from drivers.guard import Guard, Watched
from sim_backends.attenuators.keysight_n7764a import N7764ATwin

ROOT = str(Path(__file__).resolve().parents[2])
DRIVER = """
import os, signal, sys, time
from drivers.attenuators.keysight_n7764a import KeysightN7764A
voa = KeysightN7764A("voa", sys.argv[1])
voa.connect()
"""
OPENED = DRIVER + "voa.ch2.shutter_open(True)\n"


class Light:
    """A twin of an attenuator: whether its second shutter lets light through."""

    def __init__(self) -> None:
        self.twin = N7764ATwin()
        self.address = self.twin.serve("127.0.0.1", 0)

    def leave_errors(self) -> None:
        """Old errors in the queue, as after a crash."""
        host, port = self.address.split("::")[1:3]
        with socket.create_connection((host, int(port))) as other:
            other.sendall(b"OUTPut9:STATe 1\nNONSENSE\n")
            until(lambda: self.twin.state()["errors"], 5)
        assert self.twin.state()["errors"]

    @property
    def on(self) -> bool:
        return bool(self.twin.state()["open"][2])


@pytest.fixture
def light() -> Iterator[Light]:
    light = Light()
    yield light
    light.twin.close()


def script(text: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition: object, limit_s: float) -> None:
    begun = time.monotonic()
    while not condition() and time.monotonic() - begun < limit_s:  # type: ignore[operator]
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("voa.close()", 0),
        pytest.param(
            "from drivers.ending import ENDING as e\ne._guard._process.kill(); e._guard._process.wait()",
            0,
            marks=pytest.mark.long,
        ),
        pytest.param("raise KeyboardInterrupt", -signal.SIGINT, marks=pytest.mark.long),
        pytest.param("sys.exit(3)", 3, marks=pytest.mark.long),
        pytest.param("if pid := os.fork(): os.waitpid(pid, 0)", 0, marks=pytest.mark.long),
    ],
)
def test_dark_when_a_script_has_ended(light: Light, end: str, code: int) -> None:
    ended = script(OPENED + end, light.address)
    _, said = ended.communicate(timeout=60)
    assert ended.returncode == code, said
    assert not light.on
    assert ("has left voa; making safe" in said) is ("kill()" not in end)
    assert "could not" not in said


def test_dark_within_a_second_of_a_kill(light: Light) -> None:
    with script(OPENED + "print('up', flush=True)\nsys.stdin.readline()", light.address) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        assert light.on
        light.leave_errors()
        running.kill()
        begun = time.monotonic()
        until(lambda: not light.on, 10)
        took_s = time.monotonic() - begun
        assert not light.on
        assert took_s < 1.0


@pytest.mark.parametrize(
    "text",
    [
        DRIVER + "print(voa.ch2.attenuation_db())",
        OPENED + "voa.leave_on()",
        pytest.param(DRIVER + "voa.leave_on()\nvoa.ch2.shutter_open(True)", marks=pytest.mark.long),
        pytest.param(OPENED + "voa.leave_on()\nwith voa: pass", marks=pytest.mark.long),
    ],
)
def test_what_was_only_read_or_is_to_stay_stays(light: Light, text: str) -> None:
    if "True" not in text:
        with KeysightN7764A("other", light.address, connect=True) as other:
            other.ch2.shutter_open(True)
            other.leave_on()
    _, said = (ended := script(text, light.address)).communicate(timeout=60)
    assert ended.returncode == 0, said
    assert light.on


def test_a_dead_instrument_keeps_the_guard_for_a_moment_only(light: Light) -> None:
    with KeysightN7764A("other", light.address, connect=True) as other:
        other.ch2.shutter_open(True)
        other.leave_on()
    driver = "drivers.attenuators.keysight_n7764a:KeysightN7764A"
    with socket.create_server(("127.0.0.1", 0)) as dead:
        silent = f"TCPIP::127.0.0.1::{dead.getsockname()[1]}::SOCKET"
        guard = Guard("a test")
        guard.watch(
            [
                Watched(driver, "dead", silent, {"timeout_s": 0.6}, 1),
                Watched(driver, "voa", light.address, {}, 2),
            ]
        )
        guard.await_ready()
        assert light.on
        begun = time.monotonic()
        calling = threading.Thread(target=lambda: outcome.append(guard.call()))
        outcome: list[bool] = []
        calling.start()
        until(lambda: not light.on, 10)
        took_s = time.monotonic() - begun
        calling.join(30)
    assert outcome == [False], "the dead one is told"
    assert took_s < 1.0


@pytest.mark.long
@pytest.mark.parametrize("end", ["shut down", "restarted", "killed"])
def test_dark_when_a_kernel_has_ended(light: Light, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", ROOT)
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    try:
        client = manager.blocking_client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        reply = client.execute(OPENED.replace("sys.argv[1]", repr(light.address)), reply=True, timeout=60)
        assert reply["content"]["status"] == "ok", reply
        assert light.on
        client.stop_channels()
        if end == "restarted":
            manager.restart_kernel()
        begun = time.monotonic()
        if end != "restarted":
            manager.shutdown_kernel(now=end == "killed")
        until(lambda: not light.on, 10)
        assert not light.on
        assert time.monotonic() - begun < 1.5
    finally:
        manager.shutdown_kernel(now=True)
