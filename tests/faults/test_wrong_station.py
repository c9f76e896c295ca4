"""Something at a station is not as its file says: the light phase stops with what to check, and everything is dark.

Drivers and twins of a whole ring; the faults are made in the ring's optics, where no driver can see them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from driven_ring import TEMPLATE, DrivenRing, ring_content

from drivers.links.errors import InstrumentError
from lab import needs
from lab.testbed import parse_testbed
from orchestrator.light.messages import LightAborted
from orchestrator.light.user import UserLight
from sim_backends.survey import surveyed

pytestmark = pytest.mark.early

Plant = Callable[[DrivenRing, pytest.MonkeyPatch], Callable[[int], None] | None]


@pytest.fixture(scope="module")
def driven() -> Iterator[DrivenRing]:
    data = ring_content(1 << 14)
    data["users"][0]["attenuation_db"] = 4.0
    made = DrivenRing(surveyed(data, parse_testbed(data, TEMPLATE)))
    yield made
    made.close()


def swapped_taps(driven: DrivenRing, patch: pytest.MonkeyPatch) -> None:
    owned = driven.owned["alice"]
    owned = replace(owned, sensor_cw=owned.sensor_ccw, sensor_ccw=owned.sensor_cw)
    modulator = driven.stations["alice"].get(needs.MODULATOR)
    users = [UserLight(driven.testbed, "alice", modulator, owned), driven.users[1]]
    patch.setattr(driven, "users", users)


def switch_that_does_not_move(driven: DrivenRing, patch: pytest.MonkeyPatch) -> None:
    ring = driven.bench.ring
    moves = ring.set_switch
    patch.setattr(ring, "set_switch", lambda user, crossed: moves(user, crossed or user == "alice"))


def bystander_that_came_on_in_bar(driven: DrivenRing, patch: pytest.MonkeyPatch) -> None:
    """Carol's node does not run."""
    settings = driven.bench.ring._settings
    patch.setitem(settings, "carol", replace(settings["carol"], crossed=False, attenuation_db=0.0))


def dark_sensor(driven: DrivenRing, patch: pytest.MonkeyPatch) -> None:
    ring = driven.bench.ring
    reads = ring.sensor_power_w
    patch.setattr(
        ring, "sensor_power_w", lambda user, way: 0.0 if (user, way) == ("bob", "cw") else reads(user, way)
    )


def lying_attenuator(lie_db: float) -> Plant:
    def plant(driven: DrivenRing, patch: pytest.MonkeyPatch) -> None:
        ring = driven.bench.ring
        attenuates = ring.set_user_attenuation
        patch.setattr(
            ring,
            "set_user_attenuation",
            lambda user, db: attenuates(user, db + lie_db if user == "alice" else db),
        )

    return plant


def turned_sensor(driven: DrivenRing, patch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Somebody turns the wavelength at the front panel while light is on."""
    return lambda frame: driven.owned["alice"].sensor_ccw.wavelength_nm(1625.0) if frame == 1 else None


def noted(driven: DrivenRing, patch: pytest.MonkeyPatch) -> list[str]:
    """How the light phase ends for each user that does not come to its end."""
    said: list[str] = []

    def noting(run: Callable[..., Any]) -> Callable[..., Any]:
        def noted_run(*given: Any, **more: Any) -> Any:
            try:
                return run(*given, **more)
            except Exception as error:
                said.append(str(error))
                raise

        return noted_run

    for light in driven.users:
        patch.setattr(light, "run", noting(light.run))
    return said


CASES: list[tuple[Plant, str]] = [
    (
        swapped_taps,
        r"bob: the output is -\d+\.\d+ dB off the planned .* calibrate intensity, polarization, or suspect the light",
    ),
    (
        switch_that_does_not_move,
        "would blind them; are both stations of the pair taken in",
    ),
    (
        bystander_that_came_on_in_bar,
        r"light, and \S+ together were planned: is a station taken in that should be bypassed \(carol, dave\)",
    ),
    (dark_sensor, "bob: the cw sensor reads .* no light arrives|bob: the output is -.* dB off the planned"),
    (lying_attenuator(3.0), r"bob: the output is -[23]\.\d+ dB off the planned"),
    (lying_attenuator(-3.0), r"alice: the output is -[23]\.\d+ dB off the planned"),
    (turned_sensor, r"alice: the ccw sensor is set to 1625 nm and the light has 1550\.12 nm"),
]


@pytest.mark.parametrize(("plant", "text"), CASES, ids=[getattr(plant, "__name__", "") for plant, _ in CASES])
def test_what_is_wrong_with_a_station_is_told_nothing_is_kept_and_the_light_is_off(
    driven: DrivenRing, monkeypatch: pytest.MonkeyPatch, plant: Plant, text: str
) -> None:
    with monkeypatch.context() as patch:
        at_frame = plant(driven, patch) or (lambda frame: None)
        said = noted(driven, patch)
        with pytest.raises((LightAborted, InstrumentError)):
            driven.phase(4, at_frame)
        assert any(re.search(text, each) for each in said), said
        assert len(said) == len(driven.pair), "a user kept its block"
        ring = driven.bench.ring
        assert sum(ring.light().entering_w("cw")) < 1e-18
        for user in driven.pair:
            assert driven.owned[user].switch.crossed(), "out of the ring, by the relay's word"
            assert driven.bench.states()[f"awg_{user}"]["waveforms"] == {}, "symbols are left"
    for light in driven.users:
        light.set_up()
    assert driven.phase(2).clicks > 20, "and once it is mended the ring makes key"
