"""The interlock alone: latched before anything else, dark whoever waits, released by an operator once the cause is gone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from drivers.catalogue import SafeOrder
from drivers.links.errors import InterlockedError, LinkBrokenError, PreemptedError
from drivers.safely import SafeJob
from lab.interlock import interlock as module
from lab.interlock.interlock import INTERLOCK_SOCKET, Interlock, NotReleasedError, interlocked
from lab.interlock.latch import LATCH_FILE, WHAT_TO_DO, Cause, kept_causes, with_cause
from lab.interlock.watching import Watch, watching
from lab.runs.first_contact.against_twin import alone
from lab.station import Station
from orchestrator.wire.control_socket import Acknowledge, ControlRefusedError, Trip, ask
from sim_backends.bench import Bench

LIMIT_S = 5.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECOND_PASS_S", 0.01)


class Light:
    """A station of one light that can be on."""

    owner = "relay"
    permit: Callable[[], None] | None = None

    def __init__(self) -> None:
        self.on = True
        self.dark = threading.Event()
        self.passes = 0
        self.error: Exception | None = None

    def safe_jobs(self) -> tuple[SafeJob, ...]:
        return (SafeJob(SafeOrder.LIGHT, "laser", self._off),)

    def _off(self) -> None:
        if self.error is not None:
            raise self.error
        self.passes += 1
        self.on = False
        if self.passes == 2:
            self.dark.set()


def made(folder: Path, light: Light | None = None) -> tuple[Interlock, Light]:
    light = light or Light()
    station: Any = light
    return Interlock(station, folder), light


def kept(interlock: Interlock) -> Interlock:
    """Once the file is written."""
    while not interlock.state().kept:
        threading.Event().wait(0.005)
    return interlock


def test_a_trip_latches_makes_dark_twice_tells_and_survives_a_restart(tmp_path: Path) -> None:
    interlock, light = made(tmp_path)
    told: list[str] = []
    heard = threading.Event()
    interlock.when_tripped(lambda error: (told.append(str(error)), heard.set()))
    assert interlock.causes == ()
    interlock.check()
    interlock.trip("monitor", "alice's sensor reads 3 nW")
    with pytest.raises(InterlockedError, match=r"monitor: alice's sensor reads 3 nW.*qunetlab acknowledge"):
        interlock.check()
    assert light.dark.wait(LIMIT_S)
    assert heard.wait(LIMIT_S)
    assert WHAT_TO_DO["monitor"] in told[0]
    kept(interlock)
    again, other = made(tmp_path)
    assert [each.cause for each in again.causes] == ["monitor"]
    assert other.permit is not None
    with pytest.raises(InterlockedError):
        other.permit()
    assert (tmp_path / LATCH_FILE).stat().st_mode & 0o777 == 0o600
    assert "released" in again.acknowledge("dana")
    assert not (tmp_path / LATCH_FILE).exists()
    again.check()
    assert made(tmp_path)[0].causes == ()


def test_nothing_on_the_way_to_dark_waits_for_who_listens_or_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interlock, light = made(tmp_path)
    never = threading.Event()
    monkeypatch.setattr(module, "keep_causes", lambda folder, causes: never.wait())
    interlock.when_tripped(lambda error: never.wait())
    interlock.trip("operator", "now")
    assert light.dark.wait(LIMIT_S)
    assert not interlock.state().kept
    never.set()


def test_a_disk_that_is_full_does_not_keep_the_light_on_and_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    interlock, light = made(folder)
    interlock.trip("operator", "now")
    assert light.dark.wait(LIMIT_S)
    assert not interlock.state().kept
    with pytest.raises(InterlockedError):
        interlock.check()


def test_what_came_first_stays_and_every_cause_must_be_gone(tmp_path: Path) -> None:
    interlock, light = made(tmp_path)
    bright = ["D1 counts 2e7"]
    interlock.goes_by("detector-rate", lambda: bright[0])
    interlock.trip("operator", "smoke")
    interlock.trip("detector-rate", "D1 counts 3e7")
    interlock.trip("detector-rate", "D1 counts 9e7")
    assert light.dark.wait(LIMIT_S)
    assert [(each.cause, each.text) for each in interlock.causes] == [
        ("operator", "smoke"),
        ("detector-rate", "D1 counts 3e7"),
    ]
    with pytest.raises(NotReleasedError, match="not gone: detector-rate: D1 counts 2e7; find what shines"):
        interlock.acknowledge("dana")
    assert interlock.has("operator")
    bright[0] = ""
    interlock.acknowledge("dana")
    interlock.check()


def test_a_cause_that_cannot_be_looked_at_is_not_gone(tmp_path: Path) -> None:
    interlock, light = made(tmp_path)

    def broken() -> str:
        raise LinkBrokenError("no answer", instrument="detectors")

    interlock.goes_by("detector-rate", broken)
    interlock.trip("detector-rate", "D1 counts 3e7")
    assert light.dark.wait(LIMIT_S)
    with pytest.raises(NotReleasedError, match="cannot be looked at: detectors: no answer"):
        interlock.acknowledge("dana")


def test_an_instrument_that_could_not_be_made_safe_keeps_it_latched_until_it_is(tmp_path: Path) -> None:
    light = Light()
    light.error = LinkBrokenError("gone", instrument="laser")
    interlock, _ = made(tmp_path, light)
    interlock.trip("operator", "now")
    with pytest.raises(NotReleasedError, match=r"relay is not safe yet \(laser: laser: gone"):
        interlock.acknowledge("dana")
    assert interlock.state().dark_s is None
    light.error = None
    interlock.trip("operator", "again")
    assert light.dark.wait(LIMIT_S)
    interlock.acknowledge("dana")


def test_a_stop_does_not_wait_for_somebody_who_acknowledges(tmp_path: Path) -> None:
    """Who acknowledges waits for an instrument that is slow to say whether its cause is gone."""
    light: Any = Light()
    never, asked = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as pool, interlocked(light, tmp_path) as interlock:

        def slow() -> str:
            asked.set()
            never.wait(LIMIT_S)
            return ""

        interlock.goes_by("monitor", slow)
        interlock.trip("monitor", "3 nW")
        assert light.dark.wait(LIMIT_S)
        acknowledged = pool.submit(ask, tmp_path, Acknowledge("dana"), name=INTERLOCK_SOCKET)
        assert asked.wait(LIMIT_S)
        state = ask(tmp_path, Trip("now"), 1.0, name=INTERLOCK_SOCKET)
        assert [each.cause for each in state.causes] == ["monitor", "operator"]
        never.set()
        with pytest.raises(ControlRefusedError, match="tripped again meanwhile"):
            acknowledged.result(LIMIT_S)


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"format": 9}', b'{"format": 1, "causes": [{"cause": "x"}]}']
)
def test_a_file_that_cannot_be_read_latches(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LATCH_FILE).write_bytes(content)
    interlock, _ = made(tmp_path)
    with pytest.raises(InterlockedError, match=r"unknown: .*interlock.json cannot be read"):
        interlock.check()
    interlock.acknowledge("dana")
    assert kept_causes(tmp_path) == ()


def test_a_cause_comes_once() -> None:
    first, second = Cause("operator", "a", "t"), Cause("operator", "b", "u")
    assert with_cause(with_cause((), first), second) == (first,)


def test_whatever_watches_is_not_kept_from_it_by_one_that_hangs_or_breaks(tmp_path: Path) -> None:
    interlock, light = made(tmp_path)
    never, wrong = threading.Event(), threading.Event()

    def broken() -> str:
        raise LinkBrokenError("no answer", instrument="sensor")

    watches = [
        Watch("detector-rate", lambda: str(never.wait() or ""), 0.001),
        Watch("monitor", broken, 0.001),
        Watch("guard-gone", lambda: "the guard has ended" if wrong.is_set() else "", 0.001),
        Watch("station-lost", lambda: "never asked", 0.001, due=lambda: False),
    ]
    with watching(interlock, watches):
        assert not light.dark.wait(0.05)
        wrong.set()
        assert light.dark.wait(LIMIT_S)
        assert [each.cause for each in interlock.causes] == ["guard-gone"]
        with pytest.raises(NotReleasedError, match="the guard has ended"):
            interlock.acknowledge("dana")
        never.set()


def test_no_driver_enables_anything_while_latched_even_if_it_had_asked_before(tmp_path: Path) -> None:
    """A thread is let through by the interlock, and stands still before it sends; then somebody stops."""
    testbed, entry = alone("nkt-basik")
    with Bench(testbed, only=(entry.name,)) as bench:
        twin: Any = bench.twins[entry.name]
        there = entry.model_copy(update={"address": bench.addresses[entry.name]})
        station = Station(testbed, entry.owner)
        station.entries = (there,)
        with interlocked(station, tmp_path) as interlock, station:
            laser: Any = station.instruments()[0]
            asked, go_on = threading.Event(), threading.Event()

            def slow() -> None:
                interlock.check()
                asked.set()
                go_on.wait(LIMIT_S)

            laser.permit = slow
            ended: list[BaseException] = []

            def enable() -> None:
                try:
                    laser.emission(True)
                except BaseException as error:  # noqa: BLE001 - looked at below
                    ended.append(error)

            thread = threading.Thread(target=enable)
            thread.start()
            assert asked.wait(LIMIT_S)
            interlock.trip("operator", "now")
            while interlock.state().dark_s is None:
                threading.Event().wait(0.005)
            go_on.set()
            thread.join(LIMIT_S)
            assert not twin.state()["emission"]
            assert [type(error) for error in ended] == [PreemptedError]
            assert interlock._pass is not None
            assert interlock._pass.over.wait(LIMIT_S), "made safe twice: the second time preempts as well"
            with pytest.raises(InterlockedError):
                laser.emission(True)
            interlock.acknowledge("dana")
            laser.emission(True)
            assert twin.state()["emission"]
