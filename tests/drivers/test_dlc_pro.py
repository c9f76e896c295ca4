"""The driver of the DLC pro at its twin: what people do at the front panel, what somebody left on, and words for refusals."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from drivers.lasers.toptica_dlc_pro import KNOWN_STATE, DLCPro
from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    MalformedReplyError,
    NotReadyError,
    WrongInstrumentError,
)
from sim_backends.lasers.decof import Parameter
from sim_backends.lasers.toptica_dlc_pro import DLCProTwin

Bench = Callable[..., tuple[DLCProTwin, DLCPro]]


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Builds connected pairs and closes them."""
    opened: list[Any] = []

    def build(*, connect: bool = True, of_twin: dict[str, Any] | None = None, **options: Any) -> Any:
        light: list[tuple[float, float]] = []
        twin = DLCProTwin(on_output=lambda *output: light.append(output), command_port=0, **of_twin or {})
        twin.light = light  # type: ignore[attr-defined]
        driver = DLCPro(f"dlc{len(opened)}", twin.serve("127.0.0.1"), **options)
        opened.extend((driver, twin))
        if connect:
            driver.connect()
        return twin, driver

    yield build
    for each in opened:
        each.close()


def light(twin: Any) -> list[tuple[float, float]]:
    return list(twin.light)


def test_light_comes_at_the_set_points(bench: Bench) -> None:
    twin, laser = bench()
    laser.power_mw(12.5)
    laser.wavelength_nm(1550.12)
    assert light(twin) == []
    laser.emission(True)
    laser.check_emitting()
    assert light(twin) == [(pytest.approx(0.0125), 1550.12)]
    assert laser.power_readout_mw() == 12.5
    laser.power_mw(3.0)
    laser.emission(False)
    assert [power_w for power_w, _ in light(twin)] == pytest.approx([0.0125, 0.003, 0.0])
    assert twin.is_safe()


@pytest.mark.parametrize(
    ("people", "says"),
    [
        (lambda twin: twin.turn_key(False), "front key is locked; turn it"),
        (lambda twin: twin.set_interlock(False), "interlock is open; close it"),
        (
            lambda twin: (twin.set_interlock(False), twin.set_interlock(True)),
            "emission button is not pressed; press it",
        ),
    ],
)
def test_what_people_must_do_is_told_and_never_done_for_them(
    bench: Bench, people: Callable[[DLCProTwin], object], says: str
) -> None:
    twin, laser = bench()
    people(twin)
    with pytest.raises(NotReadyError, match=says):
        laser.emission(True)
    assert twin.is_safe()
    with pytest.raises(NotReadyError, match=says):
        laser.check_emitting()


def test_an_interlock_that_opens_ends_the_light_and_closing_it_does_not_bring_it_back(bench: Bench) -> None:
    twin, laser = bench()
    laser.emission(True)
    twin.set_interlock(False)
    assert light(twin)[-1][0] == 0.0
    twin.set_interlock(True)
    assert light(twin)[-1][0] == 0.0
    with pytest.raises(NotReadyError, match="press it"):
        laser.check_emitting()
    laser.safe_state()
    twin.press_button()
    assert light(twin)[-1][0] == 0.0


def test_light_found_on_with_anything_that_moves_it_goes_off(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    twin, laser = bench(of_twin={"left_by_someone": True})
    assert light(twin)[-1][0] == 0.0
    assert twin.is_safe()
    assert twin.state()["on"] == ["power-stabilization:enabled"]
    for word in ("found emitting", "power-stabilization:enabled off", "scan:enabled on", "lock-enabled on"):
        assert word in caplog.text
    assert laser.wavelength_nm() == 1563.0


def test_light_found_on_as_we_leave_it_stays(bench: Bench) -> None:
    twin, laser = bench()
    laser.emission(True)
    laser.leave_on()
    laser.close()
    with DLCPro("other", laser.address, connect=True) as other:
        assert other.emission() is True
        assert twin.state()["emitting"]


@pytest.mark.parametrize("name", [name for name, wanted in KNOWN_STATE.items() if not wanted])
def test_a_head_without_a_feature_is_as_good_as_one_with_it_off(bench: Bench, name: str) -> None:
    twin, laser = bench(connect=False)
    del twin._interpreter._parameters[f"laser1:{name}"]
    laser.connect()
    laser.emission(True)
    laser.check_emitting()


def test_without_power_stabilization_there_is_no_power_to_set(bench: Bench) -> None:
    twin, laser = bench(connect=False)
    del twin._interpreter._parameters["laser1:power-stabilization:enabled"]
    with pytest.raises(InstrumentRefusedError, match="power-stabilization:enabled"):
        laser.connect()


def test_other_controllers_and_heads_are_told(bench: Bench) -> None:
    twin, laser = bench(connect=False)
    twin._interpreter._parameters["system-type"] = Parameter(lambda: "iBeam smart")
    with pytest.raises(WrongInstrumentError, match="'iBeam smart', not a DLC pro"):
        laser.connect()
    twin, laser = bench(connect=False)
    del twin._interpreter._parameters["laser1:ctl:wavelength-set"]
    with pytest.raises(WrongInstrumentError, match="no head of the CTL series"):
        laser.connect()
    twin, laser = bench(connect=False, laser=2)
    with pytest.raises(WrongInstrumentError, match="laser2 is no head"):
        laser.connect()


def test_a_setting_that_is_acknowledged_and_not_done_leaves_no_known_state(bench: Bench) -> None:
    twin, laser = bench(connect=False, of_twin={"left_by_someone": True})
    twin._interpreter._parameters["laser1:scan:enabled"] = Parameter(lambda: True, lambda value: None)
    with pytest.raises(InstrumentRefusedError, match="laser1:scan:enabled stays"):
        laser.connect()
    assert twin.is_safe()


def test_the_wavelength_of_the_set_up_is_tuned_to_when_it_is_brought_up(bench: Bench) -> None:
    twin, _ = bench(wavelength_nm=1550.12)
    assert twin.state()["wavelength_nm"] == 1550.12
    with closing(twin), pytest.raises(LimitError, match="outside wavelength_limits_nm"):
        bench(connect=False, wavelength_nm=900.0)


def test_tuning_returns_once_the_motor_rests_or_says_that_it_does_not(bench: Bench) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.05
        return now[0]

    _, laser = bench(of_twin={"nm_per_s": 1.0, "clock": clock})
    laser.wavelength_nm(1551.0)
    assert laser.wavelength_readout_nm() == 1551.0
    _, laser = bench(of_twin={"nm_per_s": 1e-6}, move_timeout_s=0.05)
    with pytest.raises(NotReadyError, match=r"tuning to 1552.000 nm: not done"):
        laser.wavelength_nm(1552.0)


def test_what_the_head_refuses_has_its_code(bench: Bench) -> None:
    _, laser = bench(max_power_mw=100.0)
    with pytest.raises(InstrumentRefusedError, match=r"setpoint 80.0\) with -13") as caught:
        laser.power_mw(80.0)
    assert caught.value.code == -13
    with pytest.raises(LimitError, match=r"120 mW is outside 0..100 mW"):
        laser.power_mw(120.0)


def test_free_text_reads_and_never_writes(bench: Bench) -> None:
    twin, laser = bench()
    assert laser.ask("laser1:product-name") == '"CTL 1550"'
    with pytest.raises(LimitError, match="could get round the limits"):
        laser.write("(param-set! 'laser1:dl:cc:enabled #t)")
    with pytest.raises(LimitError, match="not one line"):
        laser.ask("emission)\n(param-set! 'laser1:dl:cc:enabled #t")
    assert twin.is_safe()


def test_an_endless_greeting_is_not_waited_for(bench: Bench) -> None:
    twin, laser = bench(connect=False)
    twin._server._greeting = "x" * 10_000
    with pytest.raises(MalformedReplyError, match="no reply and a prompt"):
        laser.connect()


def test_no_power_is_no_limit() -> None:
    with pytest.raises(LimitError, match="leaves nothing to set"):
        DLCPro("none", "127.0.0.1", max_power_mw=0.0)
