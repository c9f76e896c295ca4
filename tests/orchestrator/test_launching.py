"""How the relay brings light into the ring: after both stations, pulses first, a hundredth at first, and out at every end."""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from drivers.links.errors import InstrumentError, LinkBrokenError
from lab.light_budget import LATCHING_CPS
from lab.runs.testbeds.folder import template_path
from lab.testbed import parse_testbed
from orchestrator.light.launching import LOW_DB, Launching, PlannedLight, RelayInstruments
from orchestrator.light.messages import (
    Announcement,
    Armed,
    Finished,
    LightAbort,
    LightAborted,
    LightOff,
    LightOn,
    StationIn,
)
from orchestrator.light.relay import RelayLight
from orchestrator.wire.channel import ChannelError, ChannelTimeoutError
from orchestrator.wire.codec import decode, encode
from orchestrator.wire.memory_channel import MemoryChannel, memory_channel_pair

PLANNED_DB, PLANNED_HZ = 56.0, 5e5
PLAN = PlannedLight(PLANNED_DB)
TEMPLATE = template_path("simulated-four-node")


class Bench:
    """The relay's instruments in memory: what was told to them, in order, and the light that comes of it.

    ``counts`` gives the count rate of each detector for the light of now, as a part of the planned one.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.launch, self.launch_second = Launch(self, "launch"), Launch(self, "launch_second")
        self.emits = False
        self.null_held = False
        self.attenuator: Launch | None = None
        self.records = 0
        self.counts: Callable[[float], float] = lambda part: 10 + PLANNED_HZ * part
        parts: tuple[Any, ...] = (self, self.launch, self.launch_second, self, self, self, self)
        self.owned = RelayInstruments(*parts)

    @property
    def light(self) -> float:
        """The light in the ring as a part of what is planned."""
        if not self.emits or self.launch.shut or self.launch_second.shut:
            return 0.0
        inside_db = self.attenuator.value_db - 1.0 if self.attenuator else 0.0
        return float(
            10 ** ((PLANNED_DB - self.launch.value_db - self.launch_second.value_db - inside_db) / 10)
        )

    # The laser

    def power_mw(self, value: float) -> None: ...

    def emission(self, value: bool) -> None:
        self.log.append(f"laser {'on' if value else 'off'}")
        self.emits = value

    def check_emitting(self) -> None:
        assert self.emits

    # Carver and bias

    def hold(self, point: str, *, anew: bool = False) -> None:
        self.log.append(f"hold {point}")
        self.null_held = True

    def locked(self) -> bool:
        return self.null_held

    def carve(self, pattern: npt.NDArray[np.float32], sample_rate_hz: float, amplitude_vpp: float) -> None:
        self.log.append("carve")

    def check_carving(self) -> None:
        assert "carve" in self.log

    # Detectors

    def bias_current_ua(self, value: list[float]) -> None: ...

    def trigger_level_mv(self, value: list[float]) -> None: ...

    def enabled(self, value: bool) -> None: ...

    def check_biased(self) -> None: ...

    def count_rates(self) -> npt.NDArray[np.float64]:
        self.log.append(f"count at {self.light:.3g}")
        return np.full(2, self.counts(self.light))

    # The tagger

    def configure(self, channels: tuple[int, ...], threshold_v: float) -> None: ...

    def start_streams(self, channels: tuple[int, ...]) -> None: ...

    def restart_streams(self) -> None: ...

    def play_record(self, duration_ps: int) -> None:
        self.records += 1
        self.log.append("record")

    def record_playing(self) -> bool:
        return False

    def read_tags(self, channel: int) -> npt.NDArray[np.uint64]:
        return np.zeros((0, 2), np.uint64)


class Launch:
    """One launch attenuator with a shutter."""

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench, self.name = bench, name
        self.value_db, self.shut = 0.0, False
        self.broken = False

    def tune(self, wavelength_nm: float) -> None: ...

    def attenuation_db(self, value: float) -> None:
        self.value_db = value
        self._note()

    def let_through(self) -> None:
        self.shut = False
        self._note()

    def block(self) -> None:
        if self.broken:
            raise LinkBrokenError("no answer", instrument=self.name, address="memory")
        self.shut = True
        self._note()

    def _note(self) -> None:
        self.bench.log.append(f"light {self.bench.light:.3g}")


class Phase:
    """The relay in a light phase; the test is both users."""

    def __init__(self, n_frames: int = 1) -> None:
        self.bench = Bench()
        testbed = parse_testbed(tomllib.loads(TEMPLATE.read_text(encoding="utf-8")), Path("t"))
        self.relay = RelayLight(testbed, self.bench.owned, timeout_s=1.0)
        self.relay.set_up()
        assert self.bench.launch.shut
        assert self.bench.launch_second.shut
        self.bench.log.clear()
        ends = [memory_channel_pair() for _ in range(2)]
        self.users = [user for user, _ in ends]
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=((ends[0][1], ends[1][1]), n_frames))
        self._thread.start()

    def _run(self, channels: tuple[MemoryChannel, MemoryChannel], n_frames: int) -> None:
        try:
            self.relay.run(channels, n_frames, PLAN)
        except (LightAborted, ChannelError, InstrumentError) as error:
            self.error = error

    def say(self, *messages: Any) -> None:
        for user in self.users:
            for message in messages:
                user.send(encode(message))

    def hear(self, kind: type[Any]) -> list[Any]:
        return [decode(user.recv(5.0), kind) for user in self.users]

    def light_up(self) -> None:
        """Both hear of the light, the second when the first is armed."""
        decode(self.users[0].recv(5.0), LightOn)
        with pytest.raises(ChannelTimeoutError):
            self.users[1].recv(0.05)
        self.users[0].send(encode(Armed(0)))
        decode(self.users[1].recv(5.0), LightOn)

    def end(self) -> list[str]:
        """Wait for the end: whatever came before, it is dark."""
        self._thread.join(10.0)
        assert not self._thread.is_alive()
        assert self.bench.light == 0.0
        return self.bench.log


def test_light_comes_after_both_stations_and_pulses_a_hundredth_first() -> None:
    phase = Phase()
    phase.users[0].send(encode(StationIn()))
    with pytest.raises(ChannelTimeoutError):
        phase.users[0].recv(0.3)
    assert phase.bench.log == [], "one station is in bypass still"
    phase.users[1].send(encode(StationIn()))
    phase.light_up()
    log = phase.bench.log
    assert log[:4] == ["laser on", "hold null", "carve", "record"]
    lights = [float(line.split()[-1]) for line in log if line.startswith(("light", "count at"))]
    first = lights.index(next(filter(None, lights)))
    counted = next(index for index, line in enumerate(log) if line.startswith("count at"))
    assert log[counted] == f"count at {10 ** (-LOW_DB / 10):.3g}"
    assert lights[first] == pytest.approx(0.01, rel=0.01)
    assert lights[-1] == pytest.approx(1.0)
    assert max(float(line.split()[-1]) for line in log[4:counted]) <= 0.0101
    phase.users[1].send(encode(Armed(0)))
    phase.hear(Announcement)
    phase.say(Finished())
    phase.hear(LightOff)
    phase.end()
    assert phase.error is None


def test_the_attenuator_inside_the_bias_controller_opens_before_the_launch() -> None:
    """Blocked at first, then at its least: the step from dark to a hundredth is that of the launch."""
    testbed = parse_testbed(tomllib.loads(TEMPLATE.read_text(encoding="utf-8")), Path("t"))
    bench = Bench()
    bench.attenuator = Launch(bench, "inside")
    launching = Launching(testbed, bench.owned)
    launching.set_up()
    assert bench.attenuator.shut
    bench.log.clear()
    launching.open(PlannedLight(PLANNED_DB))
    assert not bench.attenuator.shut
    assert bench.attenuator.value_db == testbed.carver.attenuation_db
    counted = bench.log.index("count at 0.01")
    assert max(float(line.split()[-1]) for line in bench.log[:counted] if line.startswith("light")) <= 0.0101
    assert bench.light == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        (
            lambda part: 1.1 * LATCHING_CPS * part,
            "all of it would blind them; are both stations of the pair taken in",
        ),
        (lambda part: 0.0, "D1 and D2 latched again"),
    ],
)
def test_rates_at_a_hundredth_say_whether_all_of_it_may_come(
    counts: Callable[[float], float], text: str
) -> None:
    phase = Phase()
    phase.bench.counts = counts
    phase.say(StationIn())
    assert all(text in said.reason for said in phase.hear(LightAbort))
    phase.hear(LightOff)
    log = phase.end()
    assert text in str(phase.error)
    assert max(float(line.split()[-1]) for line in log if line.startswith("light")) <= 0.0101


def lets_go_of_the_null(phase: Phase) -> None:
    phase.bench.null_held = False
    phase.users[1].send(encode(Armed(0)))


def says_something_else(phase: Phase) -> None:
    phase.say(StationIn())


def one_gives_up(phase: Phase) -> None:
    phase.users[1].send(encode(LightAbort("off its plan")))


@pytest.mark.parametrize("goes_wrong", [lets_go_of_the_null, says_something_else, one_gives_up])
def test_at_every_end_the_launch_is_closed_before_a_station_may_leave(
    goes_wrong: Callable[[Phase], None],
) -> None:
    phase = Phase()
    phase.say(StationIn())
    phase.light_up()
    goes_wrong(phase)
    reasons = [said.reason for said in phase.hear(LightAbort)]
    assert phase.bench.light == 0.0, "told before it was dark"
    phase.hear(LightOff)
    phase.end()
    assert reasons == [f"{type(phase.error).__name__}: {phase.error}"] * 2


def test_a_user_that_cannot_be_reached_does_not_keep_the_other_from_hearing_that_it_is_dark() -> None:
    phase = Phase()
    phase.say(StationIn())
    phase.light_up()
    phase.users[0].close()
    phase.users[1].send(encode(Armed(0)))
    assert decode(phase.users[1].recv(5.0), LightAbort).reason.startswith("ChannelBrokenError")
    decode(phase.users[1].recv(5.0), LightOff)
    phase.end()


@pytest.mark.parametrize("name", ["launch", "launch_second"])
def test_a_launch_attenuator_that_cannot_be_told_costs_the_laser_and_users_are_told_nothing(
    name: str,
) -> None:
    """One attenuator ends at 45 dB: the launch counts as closed with both."""
    phase = Phase()
    phase.say(StationIn())
    phase.light_up()
    getattr(phase.bench, name).broken = True
    phase.users[1].send(encode(Armed(0)))
    phase.hear(Announcement)
    phase.say(Finished())
    log = phase.end()
    assert log[-1] == "laser off"
    assert name in str(phase.error)
    with pytest.raises(ChannelTimeoutError):
        phase.users[0].recv(0.0)


def test_pulses_go_on_from_one_lease_to_the_next_and_begin_anew_after_a_failure() -> None:
    phase = Phase(n_frames=0)
    launching = phase.relay._launching
    phase.say(StationIn(), Finished())
    phase.hear(LightOn)
    phase.hear(LightOff)
    phase.end()
    launching.open(PLAN)
    assert phase.bench.log.count("carve") == 1
    phase.bench.null_held = False
    launching.close()
    launching.open(PLAN)
    assert phase.bench.log.count("carve") == 2
    launching.close()
