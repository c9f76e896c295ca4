"""33622A: one frame per arming, extra triggers that are seen, memory that is counted, and waveforms that stay secret."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.links.errors import InstrumentRefusedError, LimitError, LinkError, NotReadyError
from drivers.modulators.keysight_33622a import OVERSAMPLING, Keysight33622A, loaded, parse_registers
from sim_backends.lines import Edge
from sim_backends.modulators.cabled import Alone
from sim_backends.modulators.keysight_33622a import BUILT_IN, EDGE_PS, Keysight33622ATwin
from sim_backends.modulators.trueform_settings import SOURCE

N = 4096
LSB = 1 / 32767
Bench = Callable[..., tuple[Keysight33622ATwin, Keysight33622A]]


def frame(seed: int, n: int = N) -> Any:
    return np.random.default_rng(seed).uniform(-1, 1, n).astype(np.float32)


class Cabling(Alone):
    """A reference that can be pulled."""

    reference = True

    def has_reference(self) -> bool:
        return self.reference


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Builds connected pairs, ready for frames of N samples at 50 MSa/s, and closes them."""
    opened: list[Any] = []

    def build(*, ready: bool = True, of_twin: dict[str, Any] | None = None, **options: Any) -> Any:
        twin = Keysight33622ATwin(**of_twin or {})
        driver = Keysight33622A(
            f"gen{len(opened)}",
            twin.serve("127.0.0.1", 0),
            **{"settle_s": 0.1, "arm_timeout_s": 0.1, **options},
        )
        opened.extend((driver, twin))
        driver.connect()
        if ready:
            driver.configure(50e6, 0.5)
            driver.prepare(N // 2, 2)
        return twin, driver

    yield build
    for each in opened:
        each.close()


def put(twin: Any, header: str, value: float | str | bool) -> None:
    twin._device.settings.put(header, 1, value)


def test_a_frame_plays_once_and_an_extra_trigger_gives_nothing_and_is_seen(bench: Bench) -> None:
    twin, generator = bench()
    for seed in range(3):
        samples = frame(seed)
        generator.upload(0, samples)
        generator.arm(0)
        assert generator.waiting()
        assert generator.output()
        played = twin.trigger()
        assert played is not None
        drive = played[1]
        np.testing.assert_allclose(drive.samples, np.repeat(samples, OVERSAMPLING), atol=LSB)
        assert drive.sample_ps == pytest.approx(4000.0)
        assert drive.amplitude_vpp == pytest.approx(0.5)
        assert drive.rise_ps == EDGE_PS
        assert not generator.extra_trigger_seen()
        assert twin.trigger() is None
        assert generator.extra_trigger_seen()
        assert twin.trigger() is None


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(0, 3)), min_size=1, max_size=5))
def test_whatever_the_triggers_each_upload_plays_at_most_once(
    bench: Bench, plan: list[tuple[Any, int]]
) -> None:
    twin, generator = bench(settle_s=0.0)
    for seed, (buffer, triggers) in enumerate(plan):
        generator.upload(buffer, frame(seed))
        generator.arm(buffer)
        played = [drives for _ in range(triggers) if (drives := twin.trigger())]
        assert len(played) == min(triggers, 1)
        if triggers:
            np.testing.assert_allclose(played[0][1].samples[::OVERSAMPLING], frame(seed), atol=LSB)
            assert generator.extra_trigger_seen() == (triggers > 1)
        else:
            with pytest.raises(NotReadyError, match="no trigger came"):
                generator.extra_trigger_seen()


def test_the_next_frame_is_taken_while_one_waits(bench: Bench) -> None:
    twin, generator = bench()
    generator.upload(0, frame(1))
    generator.arm(0)
    generator.upload(1, frame(2))
    for seed, buffer in ((1, 1), (2, 0)):
        played = twin.trigger()
        assert played is not None
        np.testing.assert_allclose(played[1].samples[::OVERSAMPLING], frame(seed), atol=LSB)
        if buffer:
            generator.arm(1)
    assert twin.state()["waveforms"] == {1: {"idle": 32, "frame": N * OVERSAMPLING}, 2: {}}


@pytest.mark.parametrize(
    "edge",
    [Edge(0.0, 0.0, -0.8), Edge(0.0, 0.0, 1.2), Edge(0.0, 2.5, 0.0)],
    ids=["NIM", "below the level", "falling"],
)
def test_an_edge_that_does_not_cross_the_level_on_the_slope_starts_nothing(bench: Bench, edge: Edge) -> None:
    twin, generator = bench()
    generator.upload(0, frame(3))
    generator.arm(0)
    assert twin.trigger(edge) is None
    with pytest.raises(NotReadyError, match="no trigger came; check the trigger cable"):
        generator.extra_trigger_seen()


def test_each_upload_is_armed_once(bench: Bench) -> None:
    twin, generator = bench()
    with pytest.raises(NotReadyError, match="buffer 0 holds no fresh frame"):
        generator.arm(0)
    generator.upload(0, frame(4))
    generator.arm(0)
    with pytest.raises(NotReadyError, match="buffer 0 holds no fresh frame"):
        generator.arm(0)
    generator.upload(1, frame(5))
    generator.erase_all()
    assert twin.is_safe()
    with pytest.raises(NotReadyError, match="no frames are prepared"):
        generator.arm(1)


@pytest.mark.parametrize(
    ("options", "slots", "why"),
    [
        ({}, 399_968, ""),
        ({}, 399_969, r"a frame of 799938 samples is outside 32\.\.799936 samples"),
        ({}, 15, r"a frame of 30 samples is outside 32\.\.799936 samples"),
        ({"memory_msa": 64}, 399_969, "needs 3999727 of memory and 4000000 are free"),
        (
            {"memory_msa": 64},
            1 << 22,
            "needs 41943077 of memory and 4000000 are free; is option MEM installed",
        ),
    ],
)
def test_a_frame_must_fit_the_memory_there_is(
    bench: Bench, options: dict[str, Any], slots: int, why: str
) -> None:
    _, generator = bench(ready=False, **options)
    if not why or "3999727" in why:
        generator.prepare(slots, 2)
        return
    with pytest.raises(LimitError, match=why):
        generator.prepare(slots, 2)


def test_option_mem_holds_frames_of_four_million_slots(bench: Bench) -> None:
    twin, generator = bench(ready=False, memory_msa=64, of_twin={"memory_msa": 64})
    generator.configure(50e6, 0.5)
    generator.prepare(1 << 22, 2)
    samples = frame(7, 1 << 23)
    generator.upload(0, samples)
    generator.arm(0)
    played = twin.trigger()
    assert played is not None
    np.testing.assert_allclose(played[1].samples[::OVERSAMPLING], samples, atol=LSB)


@pytest.mark.parametrize(
    ("rate_hz", "amplitude_vpp", "delay_ps", "why"),
    [
        (2e8, 0.5, 0.0, "sample_rate_hz"),
        (0.5, 0.5, 0.0, "sample_rate_hz"),
        (50e6, 4.1, 0.0, "amplitude_vpp"),
        (50e6, 0.5, 20_000.0, "not less than a sample"),
        (50e6, 0.5, -3_000.0, "before the trigger"),
    ],
)
def test_limits_of_clock_level_and_delay(
    bench: Bench, rate_hz: float, amplitude_vpp: float, delay_ps: float, why: str
) -> None:
    _, generator = bench(max_amplitude_vpp=4.0)
    with pytest.raises(LimitError, match=why):
        generator.configure(rate_hz, amplitude_vpp, delay_ps)
    assert generator.sample_rate_hz() == 50e6


@pytest.mark.parametrize(("delay_ps", "steps"), [(0.0, 0), (1_999.0, 0), (2_001.0, 1), (17_000.0, 4)])
def test_a_fine_delay_is_made_to_a_tenth_of_a_sample(bench: Bench, delay_ps: float, steps: int) -> None:
    twin, generator = bench()
    generator.configure(50e6, 0.5, delay_ps)
    generator.upload(0, np.ones(N, np.float32))
    generator.arm(0)
    played = twin.trigger()
    assert played is not None
    assert played[1].samples.size == steps + N * OVERSAMPLING
    assert not played[1].samples[:steps].any()
    assert played[1].samples[steps:].all()


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        (frame(0, N - 1), "a frame has 4096 samples, not 4095"),
        (frame(0).astype(np.float64), "float32"),
        (np.repeat(frame(0), 2)[::2], "contiguous"),
        (np.full(N, 1.01, np.float32), "outside -1..1"),
        (np.full(N, np.nan, np.float32), "outside -1..1"),
    ],
)
def test_wrong_samples_are_refused_before_anything_is_sent(bench: Bench, samples: Any, why: str) -> None:
    twin, generator = bench()
    with pytest.raises(LimitError, match=why):
        generator.upload(0, samples)
    assert twin.state()["waveforms"] == {1: {}, 2: {}}


def test_an_amplitude_that_somebody_raised_plays_nothing_and_the_frame_is_wiped(bench: Bench) -> None:
    twin, generator = bench(max_amplitude_vpp=1.0)
    generator.upload(0, frame(8))
    held = generator._frames[0]
    assert held is not None
    assert held.any()
    with twin._device.lock:
        twin._device.outputs[1].volts = 6.0
    with pytest.raises(LimitError, match="holds an amplitude of 6 Vpp, above the limit of 1 Vpp"):
        generator.arm(0)
    assert not held.any()
    assert twin.state()["outputs"] == {1: False, 2: False}
    with pytest.raises(NotReadyError, match="no fresh frame"):
        generator.arm(0)


def test_without_its_reference_nothing_is_configured_and_a_pulled_one_is_told(bench: Bench) -> None:
    cabling = Cabling()
    twin, generator = bench(of_twin={"around": cabling})
    generator.upload(0, frame(9))
    generator.arm(0)
    cabling.reference = False
    assert twin.trigger() is not None
    with pytest.raises(InstrumentRefusedError, match="580"):
        generator.extra_trigger_seen()
    with pytest.raises(InstrumentRefusedError, match="580"):
        bench(of_twin={"around": cabling})


def test_a_display_that_reckons_with_another_load_is_put_right(bench: Bench) -> None:
    """Else twice the volts would come out."""
    twin, generator = bench(of_twin={"left_by_someone": True})
    generator.upload(0, np.ones(N, np.float32))
    generator.arm(0)
    played = twin.trigger()
    assert played is not None
    assert played[1].amplitude_vpp == pytest.approx(0.5)
    assert played[1].samples[-1] == 1.0
    put(twin, "OUTPut#:LOAD", 9.9e37)
    generator.configure(50e6, 0.5)
    generator.upload(0, np.ones(N, np.float32))
    generator.arm(0)
    again = twin.trigger()
    assert again is not None
    assert again[1].amplitude_vpp == pytest.approx(0.5)


def test_samples_appear_in_no_log_snapshot_repr_error_or_state(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    twin, generator = bench()
    samples = frame(19)
    with caplog.at_level(logging.DEBUG):
        generator.upload(0, samples)
        generator.arm(0)
        snapshot = generator.snapshot(update=True)
        texts = [repr(generator), repr(twin), repr(twin.state()), repr(twin.trigger())]
        generator.upload(0, samples)
        twin.faults.disconnect()
        with pytest.raises(LinkError) as caught:
            generator.arm(0)
        texts.append(repr(caught.value) + str(caught.value.__cause__))
    texts += [json.dumps(snapshot, default=repr), caplog.text]
    assert "DATA:ARBitrary:DAC frame" in caplog.text
    levels = np.rint(samples * 32767).astype("<i2")
    for text in texts:
        assert not any(repr(levels[k : k + 4].tobytes())[2:-1] in text for k in range(64))
        assert not any(f"{abs(value):.5f}"[1:] in text for value in samples[:64])


def test_what_was_someones_is_cleared_and_the_built_in_waveform_is_not_played(bench: Bench) -> None:
    twin, _ = bench(ready=False, of_twin={"left_by_someone": True})
    assert not twin.is_safe()
    twin, generator = bench(of_twin={"left_by_someone": True})
    generator.safe_state()
    assert twin.is_safe()
    put(twin, f"{SOURCE}AM:STATe", False)
    assert twin.trigger() is None


def test_replies_of_the_registers_and_of_the_catalogue() -> None:
    assert parse_registers("+32;+0") == (32, 0)
    assert loaded(f'"{BUILT_IN}"') == []
    assert loaded(f'"{BUILT_IN}","idle","frame"') == ["idle", "frame"]
    for wrong in ("+32", "", "on;off"):
        with pytest.raises(ValueError, match=r".*"):
            parse_registers(wrong)
