"""The player inside the simulated AWG: which trigger plays what, and where a sequence goes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.links.ieee488 import ProgramMessage
from sim_backends.modulators.sequencer import (
    AwgChannel,
    Memory,
    Sequence,
    Step,
    Waveform,
    levels,
    start,
    stop,
    trigger,
)
from sim_backends.modulators.tektronix_awg70002a import AWG70002ATwin


def memory(*steps: Step) -> Memory:
    waveforms = {name: Waveform(np.full(3, level, np.float32)) for name, level in (("a", 0.1), ("b", 0.2))}
    return Memory(waveforms, {"s": Sequence(list(steps), 1)})


def step(name: str, wait: str = "ATR", goto: str = "NEXT", repeat: int = 1) -> Step:
    return Step({1: name}, wait, repeat, goto)


def play(channel: AwgChannel, store: Memory, sources: str) -> list[float | None]:
    heard = []
    for source in sources:
        waveform = trigger(channel, store, "ATR" if source == "A" else "BTR")
        heard.append(None if waveform is None else round(float(waveform.samples[0]), 3))
    return heard


def test_a_step_waits_for_its_own_input() -> None:
    store = memory(step("a", "ATR"), step("b", "BTR"))
    channel = AwgChannel(asset="s", track=1)
    start(channel, store)
    assert play(channel, store, "BBABA") == [None, None, 0.1, 0.2, None]
    assert (channel.state, channel.step) == ("playing", None)


@pytest.mark.parametrize(
    ("goto", "heard"),
    [
        ("NEXT", [0.1, 0.2, None, None]),
        ("END", [0.1, None, None, None]),
        ("FIRS", [0.1, 0.1, 0.1, 0.1]),
        ("LAST", [0.1, 0.2, None, None]),
        ("2", [0.1, 0.2, None, None]),
    ],
)
def test_goto(goto: str, heard: list[float | None]) -> None:
    store = memory(step("a", goto=goto), step("b"))
    channel = AwgChannel(asset="s", track=1)
    start(channel, store)
    assert play(channel, store, "AAAA") == heard


def test_a_step_that_waits_for_nothing_plays_until_stopped() -> None:
    store = memory(step("a", "OFF"))
    channel = AwgChannel(asset="s", track=1)
    start(channel, store)
    assert channel.state == "playing"
    assert play(channel, store, "AA") == [None, None]
    stop(channel)
    assert (channel.state, channel.step) == ("stopped", None)


def test_repeats_play_in_a_row_and_an_endless_step_never_ends() -> None:
    store = memory(step("a", repeat=3), step("b", repeat=0))
    channel = AwgChannel(asset="s", track=1)
    start(channel, store)
    waveform = trigger(channel, store, "ATR")
    assert waveform is not None
    assert waveform.samples.size == 9
    assert play(channel, store, "AA") == [0.2, None]
    assert channel.state == "playing"


@pytest.mark.parametrize(
    ("mode", "heard"),
    [("TRIG", [None, 0.1, 0.1]), ("TCON", [None, 0.1, 0.1]), ("CONT", [0.1, 0.1, 0.1])],
)
def test_run_modes_of_a_single_waveform(mode: str, heard: list[float | None]) -> None:
    store = memory()
    channel = AwgChannel(asset="a", run_mode=mode)
    start(channel, store)
    assert play(channel, store, "BAA") == heard


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-2, 2, width=32) | st.just(float("nan")), min_size=1, max_size=20))
def test_a_write_outside_the_range_clears_the_waveform(values: list[float]) -> None:
    waveform = Waveform(np.array(values, np.float32))
    good = all(-1 <= value <= 1 for value in values)
    assert waveform.check() is good
    if good:
        assert waveform.samples.tolist() == values
        assert waveform.silent is (not any(values))
    else:
        assert not waveform.samples.any()
        assert waveform.silent


def test_levels_across_chunks() -> None:
    samples = np.zeros(600_000, np.float32)
    assert levels(samples) == (0.0, 0.0)
    samples[599_999], samples[300_000] = -0.5, 0.75
    assert levels(samples) == (-0.5, 0.75)
    samples[400_000] = np.nan
    assert np.isnan(levels(samples)[0])


def run(twin: AWG70002ATwin, *commands: str) -> list[int]:
    """Execute commands, then read all error codes."""
    for command in commands:
        twin._device.execute(ProgramMessage(command.encode()))
    codes = []
    while (error := twin._device.errors.pop()) is not None:
        codes.append(error.code)
    return codes


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ('WLISt:WAVeform:NEW "x",2399', -222),
        ('WLISt:WAVeform:NEW "a",2400', -224),
        ('WLISt:WAVeform:DELete "x"', -224),
        ('SLISt:SEQuence:NEW "s",1', -224),
        ('SLISt:SEQuence:NEW "t",0', -222),
        ('SLISt:SEQuence:STEP3:WINPut "s",ATR', -222),
        ('SLISt:SEQuence:STEP1:WINPut "s",CTR', -224),
        ('SLISt:SEQuence:STEP1:GOTO "s",3', -222),
        ('SLISt:SEQuence:STEP1:TASSet2:WAVeform "s","a"', -222),
        ('SLISt:SEQuence:STEP1:TASSet1:WAVeform "s","x"', -224),
        ('SLISt:SEQuence:STEP1:RCOunt "s",0', -222),
        ('SOURce1:CASSet:SEQuence "x",1', -224),
        ('SOURce1:CASSet:SEQuence "s",1', -221),
        ('SOURce3:CASSet:WAVeform "a"', -114),
        ("AWGControl:RUN", -221),
        ("SOURce1:VOLTage 0.6", -222),
        ("SOURce1:DAC:RESolution 7", -224),
        ('MMEMory:OPEN "C:\\none.wfmx"', -256),
    ],
)
def test_the_generator_refuses(command: str, code: int) -> None:
    twin = AWG70002ATwin()
    assert run(twin, 'WLISt:WAVeform:NEW "a",2400', 'SLISt:SEQuence:NEW "s",2,1') == []
    assert run(twin, command) == [code]


def test_deleting_a_loaded_waveform_stops_the_run_and_the_channel() -> None:
    twin = AWG70002ATwin()
    codes = run(
        twin,
        'WLISt:WAVeform:NEW "a",2400;NEW "b",2400',
        'SOURce1:CASSet:WAVeform "a";:SOURce1:RMODe TRIG;:OUTPut1 1;:AWGControl:RUN',
    )
    assert codes == []
    assert twin.state()["run_state"] == 1
    assert run(twin, 'WLISt:WAVeform:DELete "b"') == []
    assert twin.state()["run_state"] == 1
    assert run(twin, 'WLISt:WAVeform:DELete "a"') == []
    assert (twin.state()["run_state"], twin.state()["outputs"]) == (0, {1: False, 2: False})


def test_all_outputs_off_overrides_the_channels() -> None:
    twin = AWG70002ATwin()
    assert run(twin, "OUTPut1 ON;:OUTPut:OFF 1") == []
    assert twin.state()["outputs"] == {1: False, 2: False}
    assert run(twin, "OUTPut:OFF 0") == []
    assert twin.state()["outputs"] == {1: True, 2: False}


def test_a_block_of_the_wrong_size_changes_nothing() -> None:
    twin = AWG70002ATwin()
    run(twin, 'WLISt:WAVeform:NEW "a",2400')
    prefix = b'WLISt:WAVeform:DATA "a",0,2400,'
    assert twin._device.block_sink(prefix, 9596) is None
    twin._device.execute(ProgramMessage(prefix, None, 9596))
    assert run(twin) == [-161]
    assert twin._device.block_sink(b'WLISt:WAVeform:DATA "b",0,2400,', 9600) is None
    assert twin._device.block_sink(b'WLISt:WAVeform:DATA "a",1,2400,', 9600) is None
    target = twin._device.block_sink(b'wlis:wav:data "a",2300,100,', 400)
    assert target is not None
    assert len(target) == 400
