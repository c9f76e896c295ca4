"""AWG70002A: exact bytes, one frame per arming, and waveforms that stay secret."""

import json
import logging
import socket
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_transport import FakeTransport

from drivers.links import scpi_visa
from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    LinkBrokenError,
    LinkError,
    NotReadyError,
)
from drivers.modulators.awg_state import Trigger, required, required_trigger
from drivers.modulators.tektronix_awg70002a import AWG70002A
from sim_backends.modulators.tektronix_awg70002a import AWG70002ATwin

N = 4096
Samples = npt.NDArray[np.float32]


def frame(seed: int, n: int = N) -> Samples:
    return np.random.default_rng(seed).uniform(-1, 1, n).astype(np.float32)


ROWS = required(1, "EFIXed", 6.25e9, 240.0)
TRIGGER_ROWS = required_trigger(Trigger())
KNOWN = {
    b"*IDN?": "TEKTRONIX,AWG70002A,B1,FV:1",
    b"*OPT?": "01,03",
    b"OUTPut:OFF?": "0",
    **{each.query.encode(): each.value for each in (*ROWS, *TRIGGER_ROWS)},
}
"""What a generator in its known state answers."""
HELD = [
    command.encode() + b"\n"
    for each in ROWS
    for command in ([each.command, each.query] if each.if_there else [each.query])
]
"""What is sent to one in its known state."""


class FakeClock:
    """A clock that advances only while somebody pauses."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., tuple[AWG70002A, FakeTransport]]]:
    opened: list[AWG70002A] = []

    def build(*replies: str) -> tuple[AWG70002A, FakeTransport]:
        known = {**KNOWN, b"SOURce1:VOLTage?": "0.5"}
        fake, clock = FakeTransport(known, replies, no_error='0,"No error"'), FakeClock()
        monkeypatch.setattr(scpi_visa, "_open_transport", lambda *_: fake)
        awg = AWG70002A("awg", "TCPIP::h::4000::SOCKET", pause=clock.pause, clock=clock)
        opened.append(awg)
        awg.connect()
        fake.sent.clear()
        del fake.answers[b"SOURce1:VOLTage?"]
        return awg, fake

    yield build
    for awg in opened:
        awg.close()


@pytest.fixture
def twin() -> Iterator[AWG70002ATwin]:
    twin = AWG70002ATwin()
    yield twin
    twin.close()


@pytest.fixture
def awg(twin: AWG70002ATwin) -> Iterator[AWG70002A]:
    awg = AWG70002A("awg", twin.serve("127.0.0.1", 0), settle_s=0.05)
    awg.connect()
    awg.configure(2.5e9, 0.5)
    awg.prepare(N // 2, 2)
    yield awg
    awg.close()


E = b"\n"


def test_configure_bytes(scripted: Callable[..., tuple[AWG70002A, FakeTransport]]) -> None:
    awg, fake = scripted("1", "1.2500000000E+09", "350E-3", "5.0E-10")
    awg.configure(1.25e9, 0.35, 500.0)
    assert fake.sent == [
        b"AWGControl:STOP\n",
        *HELD,
        b"CLOCk:SRATe 1250000000\n",
        b"*OPC?\n",
        b"CLOCk:SRATe?\n",
        b"SOURce1:VOLTage 0.35\n",
        b"SOURce1:VOLTage?\n",
        b"CLOCk:PHASe:ADJust:TIMe 5e-10\n",
        b"CLOCk:PHASe:ADJust:TIMe?\n",
    ]


def test_prepare_bytes_follow_the_manual_and_are_sent_once(
    scripted: Callable[..., tuple[AWG70002A, FakeTransport]],
) -> None:
    awg, fake = scripted()
    awg.prepare(2048, 2)
    expected = [
        b"AWGControl:STOP",
        b"SLISt:SEQuence:DELete ALL",
        b"WLISt:WAVeform:DELete ALL",
        *(each.query.encode() for each in TRIGGER_ROWS),
        b'WLISt:WAVeform:NEW "zeros",2400',
    ]
    for k in (b"0", b"1"):
        expected += [
            b'WLISt:WAVeform:NEW "frame' + k + b'",4096',
            b'SLISt:SEQuence:NEW "once' + k + b'",2,1',
            b'SLISt:SEQuence:STEP1:TASSet1:WAVeform "once' + k + b'","frame' + k + b'"',
            b'SLISt:SEQuence:STEP1:WINPut "once' + k + b'",ATRigger',
            b'SLISt:SEQuence:STEP1:RCOunt "once' + k + b'",ONCE',
            b'SLISt:SEQuence:STEP1:GOTO "once' + k + b'",NEXT',
            b'SLISt:SEQuence:STEP2:TASSet1:WAVeform "once' + k + b'","zeros"',
            b'SLISt:SEQuence:STEP2:WINPut "once' + k + b'",ATRigger',
            b'SLISt:SEQuence:STEP2:RCOunt "once' + k + b'",ONCE',
            b'SLISt:SEQuence:STEP2:GOTO "once' + k + b'",END',
        ]
    assert fake.sent == [command + E for command in expected]
    awg.prepare(2048, 2)
    assert len(fake.sent) == len(expected)


def test_upload_and_arm_bytes(scripted: Callable[..., tuple[AWG70002A, FakeTransport]]) -> None:
    awg, fake = scripted("0.5", "1", "1")
    awg.prepare(N)
    fake.sent.clear()
    samples = frame(1)
    awg.upload(1, samples)
    awg.arm(1)
    assert fake.sent == [
        b'WLISt:WAVeform:DATA "frame1",0,4096,#516384' + samples.astype("<f4").tobytes() + b"\n",
        b"SOURce1:VOLTage?\n",
        b'AWGControl:STOP;:SOURce1:CASSet:SEQuence "once1",1;:OUTPut1:STATe 1;:AWGControl:RUN' + E,
        b"AWGControl:RSTATe?\n",
        b"OUTPut1:STATe?\n",
    ]


SAFE = [
    b"AWGControl:STOP\n",
    b"OUTPut1:STATe 0\n",
    b"OUTPut2:STATe 0\n",
    b"OUTPut1:STATe?\n",
    b"OUTPut2:STATe?\n",
    b"SLISt:SEQuence:DELete ALL\n",
    b"WLISt:WAVeform:DELete ALL\n",
    b"AWGControl:RSTATe?\n",
    b"WLISt:SIZE?\n",
    b"SLISt:SIZE?\n",
]


def test_safe_state_stops_first_and_reads_everything_back(
    scripted: Callable[..., tuple[AWG70002A, FakeTransport]],
) -> None:
    awg, fake = scripted("0", "0", "0", "0", "0")
    awg.safe_state()
    assert fake.sent == SAFE


def test_safe_state_says_what_stayed(scripted: Callable[..., tuple[AWG70002A, FakeTransport]]) -> None:
    awg, fake = scripted("0", "1", "2", "3", "0")
    with pytest.raises(NotReadyError, match=r"output 2 is on, run state is 2, WLISt:SIZE\? is 3 after"):
        awg.safe_state()
    assert fake.sent == SAFE


def test_arm_gives_up_when_the_generator_does_not_wait(
    scripted: Callable[..., tuple[AWG70002A, FakeTransport]],
) -> None:
    awg, _ = scripted("0.5", *["0"] * 20000)
    awg.prepare(N)
    awg.upload(0, frame(0))
    with pytest.raises(NotReadyError, match=r"arming: waiting for trigger .* not done after 30.0 s"):
        awg.arm(0)


def test_a_reading_back_that_differs_is_refused(
    scripted: Callable[..., tuple[AWG70002A, FakeTransport]],
) -> None:
    awg, _ = scripted("1", "2.4E9", "0.5")
    with pytest.raises(
        InstrumentRefusedError, match=r"2500000000 Hz was asked for, 2400000000 Hz is what it holds"
    ):
        awg.configure(2.5e9, 0.5)


@pytest.mark.parametrize(
    ("replies", "seen"),
    [
        (['1;"2"'], False),
        (['2;"1"', '2;"2"', '1;"2"'], False),
        (["2;END"], True),
        (['0;""'], True),
        (['2;"2"'] * 2000, True),
    ],
)
def test_extra_trigger_is_read_from_run_state_and_step(
    scripted: Callable[..., tuple[AWG70002A, FakeTransport]], replies: list[str], seen: bool
) -> None:
    awg, _ = scripted(*replies)
    assert awg.extra_trigger_seen() is seen


def test_a_missing_trigger_is_an_error(scripted: Callable[..., tuple[AWG70002A, FakeTransport]]) -> None:
    awg, _ = scripted(*['1;"1"'] * 2000)
    with pytest.raises(NotReadyError, match="no trigger came"):
        awg.extra_trigger_seen()


def test_a_frame_plays_once_and_an_extra_trigger_gives_nothing_and_is_seen(
    awg: AWG70002A, twin: AWG70002ATwin
) -> None:
    samples = frame(3)
    awg.upload(0, samples)
    awg.arm(0)
    played = twin.trigger()
    assert played is not None
    assert np.array_equal(played[1].samples, samples)
    assert (played[1].sample_ps, played[1].amplitude_vpp) == (400.0, 0.5)
    assert not played[1].samples.flags.writeable
    assert awg.extra_trigger_seen() is False
    assert twin.trigger() is None
    assert awg.extra_trigger_seen() is True
    assert twin.trigger() is None


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=st.lists(st.tuples(st.sampled_from([0, 1]), st.integers(0, 3)), min_size=1, max_size=5))
def test_whatever_the_triggers_each_upload_plays_at_most_once(
    awg: AWG70002A, twin: AWG70002ATwin, plan: list[tuple[int, int]]
) -> None:
    for seed, (buffer, triggers) in enumerate(plan):
        assert buffer in (0, 1)
        samples = frame(seed)
        awg.upload(0 if buffer == 0 else 1, samples)
        awg.arm(0 if buffer == 0 else 1)
        played = [twin.trigger() for _ in range(triggers)]
        assert [p is not None for p in played] == [True, False, False][:triggers]
        if played:
            assert played[0] is not None
            assert np.array_equal(played[0][1].samples, samples)
            assert awg.extra_trigger_seen() is (triggers > 1)


def test_no_trigger_is_an_error_with_the_twin_too(awg: AWG70002A) -> None:
    awg.upload(0, frame(4))
    awg.arm(0)
    with pytest.raises(NotReadyError, match="no trigger came"):
        awg.extra_trigger_seen()


def test_double_buffering_loads_one_frame_while_the_other_waits(awg: AWG70002A, twin: AWG70002ATwin) -> None:
    first, second = frame(5), frame(6)
    awg.upload(0, first)
    awg.arm(0)
    awg.upload(1, second)
    played = twin.trigger()
    assert played is not None
    assert np.array_equal(played[1].samples, first)
    assert awg.extra_trigger_seen() is False
    awg.arm(1)
    played = twin.trigger()
    assert played is not None
    assert np.array_equal(played[1].samples, second)


def test_a_buffer_is_armed_once_per_upload(awg: AWG70002A) -> None:
    with pytest.raises(NotReadyError, match="no fresh frame"):
        awg.arm(0)
    awg.upload(0, frame(7))
    awg.arm(0)
    with pytest.raises(NotReadyError, match="armed once"):
        awg.arm(0)


def test_upload_needs_prepare(twin: AWG70002ATwin) -> None:
    awg = AWG70002A("bare", twin.serve("127.0.0.1", 0))
    awg.connect()
    with pytest.raises(NotReadyError, match=r"prepare\(\)"):
        awg.upload(0, frame(0))
    awg.close()


BAD_SAMPLES = [
    (np.zeros(N, np.float64), "float32"),
    (np.zeros(2 * N, np.float32)[::2], "contiguous"),
    (np.zeros((N, 1), np.float32), "one-dimensional"),
    (np.zeros(N - 1, np.float32), f"{N} samples, not {N - 1}"),
    (np.full(N, 1.0001, np.float32), "outside -1..1"),
    (np.full(N, -1.0001, np.float32), "outside -1..1"),
    (np.full(N, np.nan, np.float32), "not a number"),
]


@pytest.mark.parametrize(("samples", "why"), BAD_SAMPLES)
def test_wrong_samples_are_refused_before_anything_is_sent(
    awg: AWG70002A, twin: AWG70002ATwin, samples: Samples, why: str
) -> None:
    with pytest.raises(LimitError, match=why):
        awg.upload(0, samples)
    assert twin.state()["silent"] == {"zeros": True, "frame0": True, "frame1": True}
    with pytest.raises(NotReadyError):
        awg.arm(0)


def test_one_bad_sample_anywhere_is_found(awg: AWG70002A) -> None:
    for position in (0, N // 2, N - 1):
        for value in (1.5, -1.5, np.nan, np.inf):
            samples = frame(8)
            samples[position] = value
            with pytest.raises(LimitError):
                awg.upload(0, samples)


@pytest.mark.parametrize(
    ("rate_hz", "amplitude_vpp"), [(1.48e3, 0.5), (25.1e9, 0.5), (2.5e9, 0.24), (2.5e9, 0.51), (np.nan, 0.5)]
)
def test_limits_of_clock_and_level(
    awg: AWG70002A, twin: AWG70002ATwin, rate_hz: float, amplitude_vpp: float
) -> None:
    before = twin.state()
    with pytest.raises(LimitError):
        awg.configure(rate_hz, amplitude_vpp)
    assert twin.state() == before


@pytest.mark.parametrize("slots", [0, 2399, 250_000_000])
def test_frame_length_limits(awg: AWG70002A, slots: int) -> None:
    with pytest.raises(LimitError, match="samples is outside"):
        awg.prepare(slots)


def test_erase_overwrites_and_the_buffer_cannot_be_armed(awg: AWG70002A, twin: AWG70002ATwin) -> None:
    awg.upload(0, frame(9))
    awg.upload(1, frame(10))
    awg.erase(0)
    assert twin.state()["silent"] == {"zeros": True, "frame0": True, "frame1": False}
    with pytest.raises(NotReadyError):
        awg.arm(0)
    awg.erase_all()
    assert twin.state()["waveforms"] == {}
    assert twin.state()["sequences"] == []


def test_erased_after_arming_plays_nothing(awg: AWG70002A, twin: AWG70002ATwin) -> None:
    awg.upload(0, frame(11))
    awg.arm(0)
    awg.erase(0)
    assert twin.trigger() is None


def test_safe_state_stops_and_deletes_also_while_armed_and_twice(awg: AWG70002A, twin: AWG70002ATwin) -> None:
    awg.upload(0, frame(12))
    awg.arm(0)
    assert awg.output.get() is True
    assert awg.run_state.get() == "waiting for trigger"
    for _ in range(2):
        awg.safe_state()
        state = twin.state()
        assert (state["run_state"], state["outputs"], state["waveforms"]) == (0, {1: False, 2: False}, {})
    assert twin.trigger() is None
    with pytest.raises(NotReadyError):
        awg.arm(0)


def test_a_lost_link_leaves_outputs_off_and_settings_restored(awg: AWG70002A, twin: AWG70002ATwin) -> None:
    awg.configure(1.25e9, 0.4)
    awg.prepare(N)
    awg.upload(0, frame(13))
    awg.arm(0)
    twin.faults.disconnect()
    with pytest.raises(LinkBrokenError):
        awg.extra_trigger_seen()
    assert awg.identify().model == "AWG70002A"
    state = twin.state()
    assert (state["run_state"], state["outputs"], state["waveforms"]) == (0, {1: False, 2: False}, {})
    with pytest.raises(NotReadyError, match="reopened"):
        awg.arm(0)
    awg.prepare(N)
    awg.upload(0, frame(14))
    awg.arm(0)
    assert twin.trigger() is not None


def test_after_a_power_cycle_clock_and_level_come_back(awg: AWG70002A, twin: AWG70002ATwin) -> None:
    port = int(awg.address.split("::")[2])
    awg.configure(1.25e9, 0.4)
    twin.close()
    with pytest.raises(LinkError):
        awg.identify()
    fresh = AWG70002ATwin()
    fresh.serve("127.0.0.1", port)
    awg.identify()
    assert fresh.state()["sample_rate_hz"] == 1.25e9
    assert fresh.state()["amplitude_vpp"] == {1: 0.4, 2: 0.5}
    fresh.close()


def test_the_generator_checks_levels_itself_and_clears_a_bad_waveform(
    awg: AWG70002A, twin: AWG70002ATwin
) -> None:
    awg.upload(0, frame(15))
    for value in (1.5, np.nan):
        bad = frame(16)
        bad[N // 3] = value
        with pytest.raises(InstrumentRefusedError) as caught:
            awg.link.write_block(f'WLISt:WAVeform:DATA "frame0",0,{N},', bad.data, timeout_s=5.0)
        assert caught.value.code == -222
        assert twin.state()["silent"] == {"zeros": True, "frame0": True, "frame1": True}


def test_a_connection_that_dies_inside_a_block_leaves_no_half_frame(
    awg: AWG70002A, twin: AWG70002ATwin
) -> None:
    awg.upload(0, frame(17))
    with socket.create_connection(("127.0.0.1", int(awg.address.split("::")[2]))) as client:
        half = frame(18).tobytes()[: 2 * N]
        client.sendall(b'WLISt:WAVeform:DATA "frame0",0,4096,#516384' + half)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert twin.state()["silent"] == {"zeros": True, "frame0": True, "frame1": True}


def mentions(text: str, samples: Samples) -> bool:
    """Whether samples show up in a text: one as a number with five decimals, or two as raw bytes."""
    numbers = any(f"{abs(value):.5f}"[1:] in text for value in samples[:64])
    return numbers or any(repr(samples[k : k + 2].tobytes())[2:-1] in text for k in range(64))


def test_samples_appear_in_no_log_snapshot_repr_error_or_state(
    awg: AWG70002A, twin: AWG70002ATwin, caplog: pytest.LogCaptureFixture
) -> None:
    samples = frame(19)
    with caplog.at_level(logging.DEBUG):
        awg.upload(0, samples)
        awg.arm(0)
        snapshot = awg.snapshot(update=True)
        twin.faults.drop_replies(1)
        awg.link.timeout_s = 0.05
        bad = samples.copy()
        bad[0] = 7.0
        texts = [repr(awg), str(awg), repr(twin), repr(twin.state()), repr(twin.trigger())]
        for action in (lambda: awg.upload(1, bad), awg.identify):
            with pytest.raises((LimitError, LinkError)) as caught:
                action()
            texts.append(repr(caught.value) + str(caught.value.__cause__))
    text = json.dumps(snapshot, default=repr)
    assert len(text) < 10_000
    assert "frame0" in caplog.text
    for part in (*texts, text, caplog.text):
        assert not mentions(part, samples)
    assert mentions(str(samples[:8].tolist()), samples)
    assert mentions(repr(samples.tobytes()), samples)


def test_no_file_is_written_on_the_generator(
    awg: AWG70002A, twin: AWG70002ATwin, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="drivers"):
        awg.upload(0, frame(20))
        awg.arm(0)
        awg.safe_state()
    assert "WLISt:WAVeform:DATA" in caplog.text
    assert "MMEM" not in caplog.text.upper()
