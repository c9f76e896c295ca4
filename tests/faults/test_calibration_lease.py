"""A calibration over a lease that a user refuses or leaves in its middle: dark, told by name, and the next lease works."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lease_world import PAIR, PARTIES, World

from lab.calibration.book import book_path
from lab.calibration.current import CurrentTestbed
from lab.testbed import Testbed
from orchestrator.events.process import CalibrationProgress
from orchestrator.light.calibration.parties import RelayParty, UserParty
from orchestrator.light.launching import RelayInstruments
from orchestrator.light.messages import LightAborted
from orchestrator.light.own_station import OwnStation, StationInstruments
from orchestrator.light.relay import RelayLight
from orchestrator.light.user import UserLight
from orchestrator.processes.calibrating import Calibrating
from orchestrator.scheduling.lease_party import HeldLease
from orchestrator.wire.messages import KEY, LightStatistics, calibration

pytestmark = pytest.mark.early

PHASE = calibration("phase")
PHOTON_W = 1e-18


class CalibrationWorld(World):
    """Roles that calibrate as those of a ring do; ``in_the_middle`` is done once, in a lit frame of alice's turn."""

    purposes = (KEY, PHASE)

    def __init__(self, stack: ExitStack, path: Path) -> None:
        self.path = path
        self.in_the_middle: Callable[[], None] | None = None
        super().__init__(stack, quick=True)

    def _calibrating(self, role: str) -> Calibrating:
        def emit(event: object) -> None:
            planned, lit = self.in_the_middle, self.launched_w > PHOTON_W
            if isinstance(event, CalibrationProgress) and planned is not None and role == PAIR[0]:
                assert lit, "no light in the middle of a calibration"
                self.in_the_middle = None
                planned()

        agent: Any = self.agents[role]
        return Calibrating(CurrentTestbed(self.path, self.testbed), agent, emit, lambda: lambda finding: None)

    def _relay_light(self, light: RelayLight, lease: HeldLease) -> LightStatistics:
        if lease.purpose == KEY:
            return super()._relay_light(light, lease)
        owned = RelayInstruments.of(self.stations["relay"])
        return self._calibrating("relay").relay(lease, lambda testbed: RelayParty(testbed, light, owned))

    def _user_run(self, user: str, light: UserLight) -> Callable[[HeldLease], LightStatistics]:
        key = super()._user_run(user, light)

        def party(testbed: Testbed) -> UserParty:
            own = OwnStation(testbed, user, StationInstruments.of(self.stations[user]))
            return UserParty(testbed, user, light, own, CurrentTestbed(self.path, self.testbed).book())

        return lambda lease: (
            key(lease) if lease.purpose == KEY else self._calibrating(user).user(lease, user, party)
        )

    @property
    def launched_w(self) -> float:
        """What really enters the loop."""
        light = self.bench.ring.light()
        return sum(sum(light.entering_w(direction)) for direction in ("cw", "ccw"))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CalibrationWorld]:
    monkeypatch.setattr("orchestrator.processes.calibrating.TELL_EVERY_S", 0.0)
    with ExitStack() as stack:
        yield CalibrationWorld(stack, tmp_path / "testbed.toml")


def check_ended(world: CalibrationWorld, told: str) -> None:
    """A lease of phase that fails with what is told; nobody is lit or open, nothing is kept, and key is made next."""
    outcome, _ = world.lease(PHASE)
    assert not outcome.ok
    assert world.in_the_middle is None, outcome.reason
    assert told in outcome.reason
    assert world.launched_w < PHOTON_W
    for user in PAIR:
        owned = StationInstruments.of(world.stations[user])
        assert owned.switch.crossed() or owned.attenuator.attenuation_db() > 30.0, f"{user} is open"
    assert not book_path(world.path).exists(), "nothing is applied"
    world.good_lease()


def test_a_user_whose_disk_takes_nothing_refuses_before_there_is_light(
    world: CalibrationWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, lit = os.open, []

    def read_only(path: str | Path, flags: int, *mode: int) -> int:
        if flags & os.O_WRONLY and Path(path).parent == world.path.parent:
            lit.append(world.launched_w > PHOTON_W)
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opened(path, flags, *mode)

    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.durable.os.open", read_only)
        check_ended(world, "cannot be kept")
    assert lit
    assert not any(lit)


@pytest.mark.parametrize("user", [PAIR[1], pytest.param(PAIR[0], marks=pytest.mark.long)])
def test_a_user_who_refuses_a_frame_ends_the_lease_by_name_and_key_is_made_next(
    world: CalibrationWorld, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        world.in_the_middle = None
        raise LightAborted("no calibration frames while I am at the fibre")

    world.in_the_middle = lambda: None
    with monkeypatch.context() as patched:
        patched.setattr(UserParty, "framed" if user == PAIR[0] else "stand", refuse)
        check_ended(world, f"{user}: LightAborted: no calibration frames while I am at the fibre")


@pytest.mark.parametrize(
    "role", [PAIR[0], *(pytest.param(role, marks=pytest.mark.long) for role in PARTIES[::2])]
)
def test_a_role_that_is_gone_in_a_lit_frame_ends_the_lease_by_name_and_key_is_made_next(
    world: CalibrationWorld, role: str
) -> None:
    world.in_the_middle = partial(world.gone, role)
    check_ended(world, f"{role} is gone")
