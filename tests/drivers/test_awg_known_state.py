"""AWG70002A: known state whoever used it before, limits of the set-up, slow clocks, dark at once."""

import threading
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.links import scpi_visa
from drivers.links.errors import (
    InstrumentError,
    InstrumentRefusedError,
    LimitError,
    NotReadyError,
    PreemptedError,
)
from drivers.modulators.tektronix_awg70002a import AWG70002A, parse_progress
from sim_backends.modulators.tektronix_awg70002a import AWG70002ATwin

pytestmark = pytest.mark.early

N = 4096


def frame(seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 1, N).astype(np.float32)


@pytest.fixture
def twin() -> Iterator[AWG70002ATwin]:
    twin = AWG70002ATwin()
    yield twin
    twin.close()


def test_known_state_whoever_used_it_before() -> None:
    twin = AWG70002ATwin(left_by_someone=True)
    awg = AWG70002A("awg", twin.serve("127.0.0.1", 0), settle_s=0.05)
    awg.connect()
    state = twin.state()
    assert (state["mode"], state["clock_source"], state["errors"]) == ("AWG", "EFIX", 0)
    assert (state["hold"], state["offset_v"]) == ({1: "ZERO", 2: "FIRS"}, {1: 0.0, 2: 0.2})
    assert state["outputs"] == {1: False, 2: False}
    awg.configure(np.int64(2_500_000_000), np.float32(0.5))
    awg.prepare(np.int32(N))
    samples = frame(30)
    awg.upload(0, samples)
    awg.arm(0)
    played = twin.trigger()
    assert played is not None
    assert np.array_equal(played[1].samples, samples)
    assert awg.extra_trigger_seen() is False
    awg.close()
    twin.close()


@pytest.mark.parametrize("model", ["AWG70002A", "AWG70002B"])
def test_both_series(model: str) -> None:
    twin = AWG70002ATwin(model=model)
    awg = AWG70002A("awg", twin.serve("127.0.0.1", 0))
    assert awg.connect().model == model
    awg.close()
    twin.close()


def test_a_stored_level_above_the_limit_does_not_play(twin: AWG70002ATwin) -> None:
    awg = AWG70002A("awg", twin.serve("127.0.0.1", 0), max_amplitude_vpp=0.3)
    awg.connect()
    awg.prepare(N)
    awg.upload(0, frame(31))
    with pytest.raises(LimitError, match=r"holds an amplitude of 0.5 Vpp, above the limit of 0.3 Vpp"):
        awg.arm(0)
    with pytest.raises(LimitError):
        awg.amplitude_vpp.set(0.31)
    assert twin.state()["outputs"] == {1: False, 2: False}
    awg.amplitude_vpp.set(0.3)
    awg.arm(0)
    awg.close()


def test_a_state_that_stays_is_said_and_nothing_plays(twin: AWG70002ATwin) -> None:
    twin._device.add("SOURce#:SKEW?", lambda call: "5.0E-11")
    twin._device._commands.insert(0, twin._device._commands.pop())
    awg = AWG70002A("awg", twin.serve("127.0.0.1", 0))
    awg.connect()
    awg.prepare(N)
    awg.upload(0, frame(32))
    for use in (lambda: awg.configure(2.5e9, 0.5), lambda: awg.arm(0)):
        with pytest.raises(InstrumentRefusedError, match=r"SOURce1:SKEW reads back '5.0E-11', not 0"):
            use()
    assert twin.state()["outputs"] == {1: False, 2: False}
    awg.close()


def test_a_generator_without_sequencing_says_so() -> None:
    twin = AWG70002ATwin(options="01,225")
    awg = AWG70002A("awg", twin.serve("127.0.0.1", 0))
    awg.connect()
    with pytest.raises(InstrumentRefusedError, match=r"'01,225': sequencing \(option 03\)"):
        awg.prepare(N)
    awg.close()
    twin.close()


def test_a_clock_that_changes_slowly_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    twin = AWG70002ATwin(clock_change_s=0.4)
    awg = AWG70002A("awg", twin.serve("127.0.0.1", 0), timeout_s=0.2)
    awg.connect()
    awg.configure(2e8, 0.4)
    assert twin.state()["sample_rate_hz"] == 2e8
    assert awg.link.renewed == 1
    awg.close()
    twin.close()


@pytest.mark.parametrize("doing", ["clock", "upload"])
def test_dark_within_a_second_while_another_thread_waits(doing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """5 s for the clock, or for an instrument that takes in a frame slowly."""
    twin = AWG70002ATwin(clock_change_s=5.0 if doing == "clock" else 0.0)
    awg = AWG70002A("awg", twin.serve("127.0.0.1", 0))
    awg.connect()
    started, ends = threading.Event(), []
    if doing == "upload":
        awg.prepare(4_000_000)
        monkeypatch.setattr(
            scpi_visa._SocketTransport,
            "_send_all",
            lambda transport, view, deadline: (
                started.set() or [time.sleep(s) for s in transport._slices(deadline)]
            ),
        )
    else:
        change = twin._device.clock._change
        monkeypatch.setattr(twin._device.clock, "_change", lambda: (started.set(), change()))

    def work() -> None:
        try:
            if doing == "clock":
                awg.sample_rate_hz.set(2e8)
            else:
                awg.upload(0, np.zeros(4_000_000, np.float32))
        except InstrumentError as error:
            ends.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(5)
    monkeypatch.undo()
    begun = time.monotonic()
    awg.safe_state()
    assert time.monotonic() - begun < 1.0
    thread.join(timeout=2.0)
    assert not thread.is_alive()
    assert isinstance(ends[0], PreemptedError)
    assert twin.is_safe()
    with pytest.raises(NotReadyError):
        awg.arm(0)
    awg.close()
    twin.close()


def test_safe_before_connecting_with_old_errors_queued() -> None:
    twin = AWG70002ATwin(left_by_someone=True)
    awg = AWG70002A("awg", twin.serve("127.0.0.1", 0))
    awg.safe_state()
    assert twin.is_safe()
    awg.close()
    twin.close()


@given(text=st.text(max_size=20))
def test_only_a_run_state_and_a_step_are_progress(text: str) -> None:
    try:
        state, _ = parse_progress(text)
    except ValueError:
        return
    assert text.strip()[0] in "012"
    assert ";" in text
    assert state in ("stopped", "waiting for trigger", "running")
