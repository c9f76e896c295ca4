"""The switch twin as PnPQ and Qudi drive it: their bytes and their ways of waiting, over a real terminal.

PnPQ ``src/pnpq/devices/switch_thorlabs_osw_e.py`` and Qudi ``hardware/switches/osw12.py`` find their port by a USB serial
number and by VISA, which a pseudo-terminal has not; so what they write and how they read is done here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import serial

from sim_backends.switches.thorlabs_osw22 import ThorlabsOSW22Twin

Ask = Callable[[bytes], bytes]


@pytest.fixture(params=[False, True], ids=["fresh", "left by someone"])
def twin(request: pytest.FixtureRequest) -> Iterator[ThorlabsOSW22Twin]:
    with closing(ThorlabsOSW22Twin(left_by_someone=request.param)) as twin:
        yield twin


@pytest.fixture
def port(twin: ThorlabsOSW22Twin) -> Iterator[serial.Serial]:
    """Opened as PnPQ does."""
    with serial.Serial(
        twin.serve(), 115200, exclusive=True, rtscts=True, timeout=2.0, write_timeout=2.0
    ) as port:
        port.reset_input_buffer()
        port.reset_output_buffer()
        yield port


@pytest.fixture
def ask(port: serial.Serial) -> Ask:
    def exchange(question: bytes) -> bytes:
        port.write(question)
        reply: bytes = port.read_until(b"\r\n")
        assert reply.endswith(b"\r\n")
        return reply[:-2]

    return exchange


@pytest.mark.parametrize("position", [2, 1])
def test_pnpq_sets_a_state_and_asks_until_it_is_told(
    twin: ThorlabsOSW22Twin, port: serial.Serial, ask: Ask, position: int
) -> None:
    for _ in range(2):  # a state that it has already is no error
        port.write(f"S {position}\n".encode())
        tries = 0
        while int(ask(b"S?\n")) != position:
            tries += 1
            assert tries < 1000
    deadline = time.monotonic() + 5.0  # the answer that ends the loop may be the stale one
    while twin.state() != {"crossed": position == 2, "moving": False}:
        assert time.monotonic() < deadline


def test_pnpq_asks_for_type_and_name(ask: Ask) -> None:
    assert ask(b"T?\n") == b"0"
    assert ask(b"I?\n") == b"OSW22-1550E v1.0"


def test_qudi_throws_the_first_answer_after_a_move_away(
    twin: ThorlabsOSW22Twin, port: serial.Serial, ask: Ask
) -> None:
    before = ask(b"S?\n"), ask(b"S?\n")
    wanted = {b"1": b"2", b"2": b"1"}[before[1]]
    port.write(b"S " + wanted + b"\n")
    while twin.state()["moving"] or twin.state()["crossed"] is not (wanted == b"2"):
        assert not port.in_waiting
    assert [ask(b"S?\n"), ask(b"S?\n")] == [before[1], wanted]


def test_a_command_in_pieces_two_in_one_write_and_one_that_is_none(port: serial.Serial, ask: Ask) -> None:
    port.write(b"S")
    assert ask(b"?\n") in (b"1", b"2")
    port.write(b"X 3\nS 3\n")
    assert ask(b"I?\r\nT?\n") == b"OSW22-1550E v1.0"
    assert port.read_until(b"\r\n") == b"0\r\n"
