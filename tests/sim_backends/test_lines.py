"""Reference and trigger line between tagger and generators, through their drivers; no light is needed for that."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from drivers.links.errors import InstrumentRefusedError, NotReadyError
from drivers.modulators.tektronix_awg70002a import AWG70002A
from drivers.timetaggers.id900 import ID900
from drivers.timetaggers.id900_record import TRIGGER_WIDTH_PS
from lab.needs import CARVER, MODULATOR, TAGGER
from sim_backends.lines import Edge, ReferenceLine, TriggerLine, crosses
from sim_backends.modulators import tektronix_awg70002a as generator
from sim_backends.optics_parts import Drive
from sim_backends.site import Site, Surroundings
from sim_backends.timetaggers import id900 as tagger_twin

SAMPLES = 2400
RATE_HZ = 200e6
SAMPLE_PS = 5000.0
FRAME_PS = int(SAMPLES * SAMPLE_PS)
CABLE_PS = {"tagger": 7_000.0, "awg_relay": 11_000.0, "awg_alice": 12_345.0, "awg_bob": 31_000.0}
LATENCY_PS = {"awg_relay": 40_000.0, "awg_alice": 50_000.0, "awg_bob": 61_000.0}
PPM = {"tagger": -1.5, "awg_relay": 0.5, "awg_alice": 1.7, "awg_bob": -0.9}
GRID_PS = 13
PATTERN = np.resize(np.array([1.0, 0.0], np.float32), SAMPLES)


class NoLight:
    """A ring in which clicks come at told times, and which keeps what drives its modulators and its carver."""

    def __init__(self) -> None:
        self.clicks_ps: list[int] = []
        self.drives: list[dict[str, Drive]] = []
        self.shifts_ps: list[float] = []
        self.carver: list[Drive | None] = []

    def set_carver_drive(self, drive: Drive | None) -> None:
        self.carver.append(drive)

    def expose(
        self, drives: Mapping[str, Drive], duration_ps: int, *, seed: int, carver_shift_ps: float
    ) -> NoLight:
        self.drives.append(dict(drives))
        self.shifts_ps.append(carver_shift_ps)
        return self

    def of(self, detector: int) -> npt.NDArray[np.int64]:
        return np.array(self.clicks_ps if detector == 0 else [], np.int64)

    def detector_count_rates(self) -> tuple[float, float]:
        return 0.0, 0.0


class LineBench:
    """A tagger and generators on one trigger line and one reference; drivers are closed at the end."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.light = NoLight()
        self.trigger = TriggerLine("tagger", dict(CABLE_PS))
        self.reference = ReferenceLine(set(CABLE_PS), PPM)
        self.now_s = 0.0
        self.twins: dict[str, Any] = {}
        self._around = Surroundings(
            ring=cast(Any, self.light),
            trigger=self.trigger,
            reference=self.reference,
            latency_ps=LATENCY_PS,
            seed=1,
            tag_channels=(1, 2),
            clock=lambda: self.now_s,
            free_ports=lambda count: 43_000,
        )

    def _site(self, name: str, owner: str, need: str, ports: int) -> Site:
        number = len(self.twins) + 1
        host = f"127.77.{time.monotonic_ns() % 250}.{number}"
        return Site(name, owner, {need: ""}, {}, number, host, (0,) * ports, 1550.12, self._around)

    def _opened(self, driver: Any, twin: Any) -> Any:
        self.twins[driver.name] = twin
        self._stack.callback(twin.close)
        self._stack.callback(driver.close)
        return driver

    def tagger(self, *, connect: bool = True, **options: Any) -> ID900:
        built = tagger_twin.build(self._site("tagger", "relay", TAGGER.name, 2))
        tagger = self._opened(ID900("tagger", built.serve(), **{**built.options(), **options}), built.twin)
        if connect:
            tagger.connect()
            tagger.configure([1, 2], 0.1)
            tagger.start_streams([1, 2])
        return cast(ID900, tagger)

    def generator(self, user: str, *, need: str = MODULATOR.name, **options: Any) -> AWG70002A:
        built = generator.build(self._site(f"awg_{user}", user, need, 1))
        awg = AWG70002A(f"awg_{user}", built.serve(), settle_s=0.05, **options)
        self._opened(awg, built.twin)
        awg.connect()
        return awg

    def armed(self, user: str, *, fine_delay_ps: float = 0.0, **options: Any) -> AWG70002A:
        awg = self.generator(user, **options)
        awg.configure(RATE_HZ, 0.5, fine_delay_ps)
        awg.prepare(SAMPLES)
        arm(awg)
        return awg


def arm(awg: AWG70002A) -> None:
    awg.upload(0, np.full(SAMPLES, 0.25, np.float32))
    awg.arm(0)


@pytest.fixture
def lines() -> Iterator[LineBench]:
    with contextlib.ExitStack() as stack:
        yield LineBench(stack)


def ended(tagger: ID900) -> None:
    while tagger.record_playing():
        pass


def record(tagger: ID900) -> None:
    tagger.play_record(2 * FRAME_PS)
    ended(tagger)


# Edges


@pytest.mark.parametrize(
    ("edge", "level_v", "rising", "seen"),
    [
        (Edge(0.0, 0.0, 2.5), 1.4, True, True),
        (Edge(0.0, 2.5, 0.0), 1.4, True, False),
        (Edge(0.0, 2.5, 0.0), 1.4, False, True),
        (Edge(0.0, 0.0, -0.8), 1.4, True, False),
        (Edge(0.0, 0.0, -0.8), -0.4, False, True),
        (Edge(0.0, 0.0, 2.5), 2.5, True, False),
    ],
)
def test_an_edge_is_seen_that_passes_the_level_in_the_right_direction(
    edge: Edge, level_v: float, rising: bool, seen: bool
) -> None:
    assert crosses(edge, level_v, rising=rising) is seen


# Delays


def test_cable_latency_and_fine_delay_are_when_samples_begin(lines: LineBench) -> None:
    tagger, alice, bob = lines.tagger(), lines.armed("alice"), lines.armed("bob", fine_delay_ps=1250.0)
    record(tagger)
    (drives,) = lines.light.drives
    assert drives["alice"].start_ps == CABLE_PS["awg_alice"] + LATENCY_PS["awg_alice"]
    assert drives["bob"].start_ps == pytest.approx(CABLE_PS["awg_bob"] + LATENCY_PS["awg_bob"] + 1250.0)
    assert drives["alice"].sample_ps == drives["bob"].sample_ps == SAMPLE_PS
    assert not alice.extra_trigger_seen()
    assert not bob.extra_trigger_seen()


def test_tags_count_from_the_edge_at_start(lines: LineBench) -> None:
    tagger = lines.tagger()
    lines.light.clicks_ps = [20_000, 9_000_000]
    record(tagger)
    times = tagger.read_tags(1)[:, 0].astype(np.int64)
    assert np.abs(times - (np.array(lines.light.clicks_ps) - CABLE_PS["tagger"])).max() <= GRID_PS


# Levels


def test_a_generator_set_to_a_level_that_the_edge_does_not_reach_plays_nothing(lines: LineBench) -> None:
    tagger, alice = lines.tagger(), lines.armed("alice", trigger_level_v=3.0)
    bob = lines.armed("bob")
    record(tagger)
    assert list(lines.light.drives[0]) == ["bob"]
    with pytest.raises(NotReadyError, match=r"no trigger came.*check the trigger cable"):
        alice.extra_trigger_seen()
    assert not bob.extra_trigger_seen()


@pytest.mark.parametrize("level_v", [-1.0, 0.0])
def test_start_at_a_level_that_the_edge_does_not_cross_gives_no_tags(
    lines: LineBench, level_v: float
) -> None:
    tagger = lines.tagger()
    tagger.parameters["threshold_start_v"](level_v)
    lines.light.clicks_ps = [20_000]
    with pytest.raises(NotReadyError, match=r"START heard 0 triggers.*cable from output 1 to START.*TTL"):
        record(tagger)
    with pytest.raises(NotReadyError, match="start the streams again"):
        tagger.read_tags(1)
    tagger.parameters["threshold_start_v"](1.0)
    tagger.start_streams([1, 2])
    record(tagger)
    assert len(tagger.read_tags(1)) == 1


def test_tags_of_a_record_without_its_trigger_are_refused_to_who_never_asked_whether_it_plays(
    lines: LineBench,
) -> None:
    tagger = lines.tagger()
    tagger.parameters["threshold_start_v"](-1.0)
    lines.light.clicks_ps = [20_000]
    tagger.play_record(2 * FRAME_PS)
    with pytest.raises(NotReadyError, match="START heard 0"):
        tagger.read_tags(1)


def test_an_edge_of_nim_is_none_for_an_input_of_ttl(lines: LineBench) -> None:
    tagger = lines.tagger(trigger_standard="NIM")
    alice = lines.armed("alice")
    bob = lines.armed("bob", trigger_level_v=-0.4, trigger_slope="NEGative")
    record(tagger)  # START is set to the standard of the output
    assert list(lines.light.drives[0]) == ["bob"]
    with pytest.raises(NotReadyError, match="no trigger came"):
        alice.extra_trigger_seen()
    assert not bob.extra_trigger_seen()


def test_the_wrong_slope_fires_on_the_end_of_the_pulse(lines: LineBench) -> None:
    tagger, alice = lines.tagger(), lines.armed("alice", trigger_slope="NEGative")
    record(tagger)
    begun = CABLE_PS["awg_alice"] + LATENCY_PS["awg_alice"]
    assert lines.light.drives[0]["alice"].start_ps == begun + TRIGGER_WIDTH_PS
    assert not alice.extra_trigger_seen()


# Cables


def test_a_trigger_cable_that_leads_elsewhere(lines: LineBench) -> None:
    lines.trigger.delays_ps = {"tagger": 7_000.0, "awg_bob": 31_000.0}
    tagger, alice, bob = lines.tagger(), lines.armed("alice"), lines.armed("bob")
    record(tagger)
    assert list(lines.light.drives[0]) == ["bob"]
    with pytest.raises(NotReadyError, match="no trigger came"):
        alice.extra_trigger_seen()
    assert not bob.extra_trigger_seen()


def test_a_trigger_cable_on_input_b_of_a_generator(lines: LineBench) -> None:
    tagger, alice = lines.tagger(), lines.armed("alice")
    lines.trigger.listen("awg_alice", lambda edge: lines.twins["awg_alice"].trigger("BTR", edge))
    record(tagger)
    with pytest.raises(NotReadyError, match="no trigger came"):
        alice.extra_trigger_seen()


@pytest.mark.parametrize("what", ["no cable to START", "cable on another output"])
def test_a_tagger_that_does_not_hear_itself(lines: LineBench, what: str) -> None:
    if what == "no cable to START":
        del cast(dict[str, float], lines.trigger.delays_ps)["tagger"]
    tagger = lines.tagger()
    if what == "cable on another output":
        tagger.ask("OUTP2:ENAB ON;MODE TTL;LINK TSCO1;:OUTP1:ENAB OFF")
    with pytest.raises(NotReadyError, match="START heard 0 triggers"):
        record(tagger)


# Extra triggers


def test_a_second_pulse_in_a_record_is_told_at_both_ends(lines: LineBench) -> None:
    tagger, alice = lines.tagger(), lines.armed("alice")
    tagger.ask("GEN1:PNUM 2")
    with pytest.raises(NotReadyError, match="START heard 2 triggers in a record instead of one"):
        record(tagger)
    assert alice.extra_trigger_seen()
    with pytest.raises(NotReadyError, match="start the streams again"):
        tagger.read_tags(1)


def test_a_pulse_generator_that_somebody_left_running_is_stopped(lines: LineBench) -> None:
    tagger = lines.tagger()
    tagger.ask("GEN1:PNUM INF;:GEN1:ENAB ON;PLAY")
    assert not lines.twins["tagger"].is_safe()
    with pytest.raises(NotReadyError, match=r"START heard \d+ triggers"):
        record(tagger)
    tagger.configure([1, 2], 0.1)
    assert lines.twins["tagger"].is_safe()
    tagger.start_streams([1, 2])
    record(tagger)
    assert len(tagger.read_tags(1)) == 0
    tagger.ask("GEN1:PNUM INF;:GEN1:ENAB ON;PLAY")
    tagger.safe_state()
    assert lines.twins["tagger"].is_safe()


# Reference


def test_a_generator_is_not_set_up_without_its_reference(lines: LineBench) -> None:
    lines.reference.pull("awg_alice")
    alice = lines.generator("alice")
    for use in (
        lambda: alice.configure(RATE_HZ, 0.5),
        lambda: alice.carve(PATTERN, RATE_HZ, 0.5),
    ):
        with pytest.raises(InstrumentRefusedError, match="Reference clock is not present"):
            use()
    lines.reference.plug("awg_alice")
    alice.configure(RATE_HZ, 0.5)
    assert lines.twins["awg_alice"].state()["clock_source"] == "EFIX"


def test_a_tagger_does_not_connect_without_its_reference(lines: LineBench) -> None:
    lines.reference.pull("tagger")
    tagger = lines.tagger(connect=False)
    with pytest.raises(InstrumentRefusedError, match="DEVIce:SYNC was set to EXTErnal and holds INTERNAL"):
        tagger.connect()
    lines.reference.plug("tagger")
    tagger.connect()
    assert tagger.clock_source() == "external"


def test_clocks_that_follow_nothing_run_off(lines: LineBench) -> None:
    tagger = lines.tagger(clock_source="internal")
    lines.armed("alice", clock_source="INTernal")
    lines.armed("bob")
    relay = lines.generator("relay", need=CARVER.name, clock_source="INTernal")
    relay.carve(PATTERN, RATE_HZ, 0.5)
    lines.light.clicks_ps = [1_000_000_000_000]
    record(tagger)
    drives = lines.light.drives[0]
    assert drives["alice"].sample_ps == pytest.approx(SAMPLE_PS / (1 + 1.7e-6), rel=1e-12)
    assert drives["bob"].sample_ps == SAMPLE_PS
    times = tagger.read_tags(1)[:, 0].astype(np.int64)
    assert times[0] == pytest.approx(1e12 - 1.5e6 - CABLE_PS["tagger"], abs=2 * GRID_PS)
    lines.now_s = 1.0
    record(tagger)
    assert lines.light.shifts_ps == pytest.approx([0.0, (0.5e-6 + 1.5e-6) * 1e12])


def test_a_reference_that_is_pulled_while_a_frame_waits_or_plays(lines: LineBench) -> None:
    tagger, alice, bob = lines.tagger(), lines.armed("alice"), lines.armed("bob")
    lines.reference.pull("awg_alice")
    record(tagger)
    assert lines.light.drives[0]["alice"].sample_ps != SAMPLE_PS
    with pytest.raises(
        InstrumentRefusedError, match=r"playing a frame: -300 .*Reference clock is not present"
    ):
        alice.extra_trigger_seen()
    assert not bob.extra_trigger_seen()
    lines.reference.pull("awg_bob")  # after its trigger: the next frame is not armed
    with pytest.raises(InstrumentRefusedError, match="Reference clock is not present"):
        arm(bob)


def test_a_reference_that_is_pulled_during_a_record(lines: LineBench) -> None:
    tagger = lines.tagger()
    tagger.play_record(2 * FRAME_PS)
    lines.reference.pull("tagger")
    with pytest.raises(NotReadyError, match="clock is INTERNAL instead of EXTErnal; check the cable"):
        ended(tagger)
    with pytest.raises(NotReadyError, match="start the streams again"):
        tagger.read_tags(1)


# Carver


def test_a_carvers_pattern_begins_at_the_first_trigger_and_goes_on_through_later_ones(
    lines: LineBench,
) -> None:
    tagger = lines.tagger()
    relay = lines.generator("relay", need=CARVER.name)
    relay.carve(PATTERN, RATE_HZ, 0.5)
    assert lines.light.carver == []
    with pytest.raises(NotReadyError, match="waiting for trigger"):
        relay.check_carving()
    for _ in range(3):
        record(tagger)
    (drive,) = lines.light.carver
    assert drive is not None
    assert drive.start_ps == CABLE_PS["awg_relay"] + LATENCY_PS["awg_relay"]
    assert np.array_equal(drive.samples, PATTERN)
    relay.check_carving()
    assert all(not drives for drives in lines.light.drives)
    relay.stop()
    assert lines.light.carver[1:] == [None]
    record(tagger)
    assert len(lines.light.carver) == 2


def test_safe_state_ends_a_carvers_pattern(lines: LineBench) -> None:
    tagger = lines.tagger()
    relay = lines.generator("relay", need=CARVER.name)
    relay.carve(PATTERN, RATE_HZ, 0.5)
    record(tagger)
    assert not lines.twins["awg_relay"].is_safe()
    relay.safe_state()
    assert lines.twins["awg_relay"].is_safe()
    assert lines.light.carver[-1] is None


def test_a_carver_that_loses_its_reference_runs_off_and_says_so(lines: LineBench) -> None:
    tagger = lines.tagger()
    relay = lines.generator("relay", need=CARVER.name)
    relay.carve(PATTERN, RATE_HZ, 0.5)
    record(tagger)
    lines.reference.pull("awg_relay")
    lines.now_s = 1.0
    record(tagger)
    assert lines.light.shifts_ps == pytest.approx([0.0, 0.5e6])
    with pytest.raises(
        InstrumentRefusedError, match=r"carver's pattern: -300 .*Reference clock is not present"
    ):
        relay.check_carving()
