"""One user of an instrument at a time on a machine, however often it is taken and left."""

from __future__ import annotations

import fcntl
import os
import pty
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import claims
from lab.claims import OwnedError, claiming
from lab.testbed import InstrumentEntry


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own, on which nothing lies."""
    monkeypatch.setattr(claims, "LOCKS", tmp_path / "locks")
    return tmp_path / "locks"


def entry(address: str, model: str = "thorlabs-pm100d", name: str = "meter") -> InstrumentEntry:
    return InstrumentEntry(name=name, model=model, owner="alice", address=address)


METER = entry("TCPIP::127.0.0.1::2000::SOCKET")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (METER, entry("TCPIP0::localhost::2000::SOCKET", name="another_name")),
        (METER, entry("tcpip::LOCALHOST.::INSTR")),
        (entry("127.0.0.1", "single-quantum-websq"), entry("localhost:12000", "single-quantum-websq")),
        (entry("/dev/null", "oz-dd100"), entry("/dev/../dev/null", "nkt-basik")),
    ],
)
def test_an_instrument_is_known_by_what_its_address_means(
    first: InstrumentEntry, second: InstrumentEntry
) -> None:
    with (
        claiming([first], "relay of bench.toml"),
        pytest.raises(
            OwnedError, match=f"process {os.getpid()} on this machine runs as relay of bench.toml and has "
        ),
        claiming([second], "a notebook", patience_s=0.0),
    ):
        pass


def test_what_somebody_has_keeps_nobody_from_the_rest(locks: Path) -> None:
    other = entry("TCPIP::127.0.0.1::2001::SOCKET", name="other")
    with claiming([METER], "relay"):
        with (
            pytest.raises(OwnedError, match="has meter at"),
            claiming([other, METER], "a notebook", patience_s=0.0),
        ):
            pass
        with claiming([other], "a notebook", patience_s=0.0):
            pass
    assert list(locks.iterdir()) == [], "what was given back leaves nothing"
    assert locks.stat().st_mode & 0o7777 == 0o1777, "other users of the machine claim here too"


def test_what_a_killed_process_left_keeps_nobody_out() -> None:
    place = claims._place(METER)
    place.parent.mkdir()
    place.write_text("12 relay of bench.toml\n")
    with claiming([METER], "a notebook", patience_s=0.0):
        assert place.read_text() == f"{os.getpid()} a notebook\n"


def claimed() -> str:
    """What its file says once somebody who waits has the meter."""
    with claiming([METER], "successor", patience_s=20.0):
        return claims._holder(claims._place(METER))


def test_a_guard_that_has_taken_over_is_waited_for() -> None:
    held = claims._locked(claims._place(METER))
    assert held is not None
    with (  # its file is empty, as the guard leaves it
        pytest.raises(OwnedError, match=r"making meter at TCPIP.* safe for"),
        claiming([METER], "b", patience_s=0.1),
    ):
        pass
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(claimed)
        with pytest.raises(TimeoutError):
            waits.result(timeout=0.1)
        os.close(held)
        assert waits.result() == f"{os.getpid()} successor"


def test_the_lock_of_a_file_that_was_taken_away_meanwhile_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever had the instrument gives it back and the next one claims it, while a third has the old file open."""
    opened, others = claims._opened, list[int]()

    def opened_late(place: Path) -> int:
        descriptor = opened(place)
        if not others:
            place.unlink()
            others.append(opened(place))
            fcntl.flock(others[0], fcntl.LOCK_EX)
            os.pwrite(others[0], b"12 relay\n", 0)
        return descriptor

    monkeypatch.setattr(claims, "_opened", opened_late)
    with pytest.raises(OwnedError, match="process 12"), claiming([METER], "a notebook", patience_s=0.0):
        pass
    os.close(others[0])


def test_a_terminal_that_is_made_anew_under_an_old_number_is_another_instrument() -> None:
    """A simulator has ended, and the role that had its switch has not noticed yet."""
    ends = pty.openpty()
    number = os.ttyname(ends[1])
    with claiming([entry(number, "oz-dd100")], "relay of a simulator that has ended"):
        for end in ends:
            os.close(end)
        held: list[int] = []
        try:
            while not held or os.ttyname(held[-1]) != number:
                held += pty.openpty()  # the system gives free numbers from the lowest on
            with (
                claiming([entry(number, "oz-dd100")], "relay", patience_s=0.0),
                pytest.raises(OwnedError, match="runs as relay and"),
                claiming([entry(number, "oz-dd100")], "a notebook", patience_s=0.0),
            ):
                pass
        finally:
            for end in held:
                os.close(end)
