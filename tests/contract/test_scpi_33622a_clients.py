"""The simulated 33622A as independent clients see it: QCoDeS' driver of the model and pymeasure's of the 33500 series."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from pymeasure.instruments.agilent import Agilent33500
from qcodes.instrument_drivers.Keysight import Keysight33622A

from sim_backends.modulators.keysight_33622a import BUILT_IN, Keysight33622ATwin


@pytest.fixture(params=[False, True], ids=["fresh", "left by someone"])
def twin(request: pytest.FixtureRequest) -> Iterator[Keysight33622ATwin]:
    twin = Keysight33622ATwin(serial=7, left_by_someone=request.param)
    yield twin
    twin.close()


@pytest.fixture
def of_pymeasure(twin: Keysight33622ATwin) -> Iterator[Agilent33500]:
    generator = Agilent33500(
        twin.serve("127.0.0.1", 0), visa_library="@py", read_termination="\n", write_termination="\n"
    )
    generator.reset()
    generator.clear()
    yield generator
    generator.adapter.close()


def test_pymeasure_sets_and_reads_every_property_of_a_channel(
    of_pymeasure: Agilent33500, twin: Keysight33622ATwin
) -> None:
    assert "33622A" in of_pymeasure.id
    channel = of_pymeasure.ch_2
    for name, value in (
        ("shape", "PULS"),
        ("frequency", 2.5e6),
        ("amplitude", 0.4),
        ("offset", 0.1),
        ("voltage_high", 0.5),
        ("voltage_low", -0.5),
        ("phase", 30.0),
        ("square_dutycycle", 25.0),
        ("ramp_symmetry", 40.0),
        ("pulse_period", 1e-5),
        ("pulse_hold", "DCYC"),
        ("pulse_width", 1e-6),
        ("pulse_dutycycle", 20.0),
        ("pulse_transition", 1e-8),
        ("output_load", 75.0),
        ("burst_state", True),
        ("burst_mode", "GAT"),
        ("burst_period", 1e-3),
        ("burst_ncycles", 7),
        ("arb_advance", "TRIG"),
        ("arb_srate", 2e8),
        ("arb_filter", "OFF"),
        ("output", True),
    ):
        setattr(channel, name, value)
        assert getattr(channel, name) == (pytest.approx(value) if isinstance(value, float) else value), name
    channel.amplitude_unit = "VRMS"
    assert channel.amplitude == pytest.approx(1.0 / np.sqrt(8))
    of_pymeasure.trigger_source = "EXT"
    assert of_pymeasure.trigger_source == "EXT"
    of_pymeasure.ext_trig_out = False
    assert not of_pymeasure.ext_trig_out
    for silent in (of_pymeasure.beep, of_pymeasure.phase_sync, of_pymeasure.trigger):
        silent()
    assert of_pymeasure.check_errors() == []
    state = twin.state()
    assert (state["outputs"], state["errors"]) == ({1: False, 2: True}, 0)


@pytest.mark.parametrize(("data_format", "scale"), [("DAC", 1.0), ("float", 1 / 32767)])
def test_pymeasure_loads_waveforms_as_numbers(
    of_pymeasure: Agilent33500, twin: Keysight33622ATwin, data_format: str, scale: float
) -> None:
    of_pymeasure.data_volatile_clear()
    of_pymeasure.data_arb("ramp", [each * scale for each in range(0, 32000, 1000)], data_format=data_format)
    of_pymeasure.arb_file = "ramp"
    of_pymeasure.shape = "ARB"
    of_pymeasure.output = True
    assert of_pymeasure.arb_file.strip('"') == "ramp"
    assert of_pymeasure.check_errors() == []
    assert twin.state()["waveforms"] == {1: {"ramp": 32}, 2: twin.state()["waveforms"][2]}  # type: ignore[index]
    of_pymeasure.data_arb("ramp", [0] * 32)
    assert [code for code, _ in of_pymeasure.check_errors()] == [786]


@pytest.fixture
def of_qcodes(twin: Keysight33622ATwin) -> Iterator[Keysight33622A]:
    generator = Keysight33622A("qcodes_33622a", twin.serve("127.0.0.1", 0), visalib="@py", terminator="\n")
    generator.write("*RST")
    generator.write("*CLS")
    yield generator
    generator.close()


def test_qcodes_sets_and_reads_a_channel(of_qcodes: Keysight33622A, twin: Keysight33622ATwin) -> None:
    assert of_qcodes.IDN()["model"] == "33622A"
    channel = of_qcodes.ch1
    for name, value in (
        ("function_type", "ARB"),
        ("frequency", 3e6),
        ("phase", 15.0),
        ("amplitude_unit", "VPP"),
        ("amplitude", 0.25),
        ("offset", 0.05),
        ("ramp_symmetry", 60.0),
        ("pulse_width", 1e-6),
        ("trigger_source", "EXT"),
        ("trigger_slope", "NEG"),
        ("trigger_count", 3),
        ("trigger_delay", 2e-6),
        ("trigger_timer", 1e-3),
        ("output_polarity", "INV"),
        ("burst_state", "ON"),
        ("burst_mode", "N Cycle"),
        ("burst_ncycles", 4),
        ("burst_phase", 10.0),
        ("burst_polarity", "NORM"),
        ("burst_int_period", 1e-3),
        ("output", "ON"),
    ):
        parameter = getattr(channel, name)
        parameter.set(value)
        assert parameter.get() == (pytest.approx(value) if isinstance(value, float) else value), name
    of_qcodes.sync.output("ON")
    of_qcodes.sync.source(2)
    assert (of_qcodes.sync.output(), of_qcodes.sync.source()) == ("ON", 2)
    assert of_qcodes.error() == (0, "No error")
    assert twin.state()["outputs"] == {1: True, 2: False}
    assert BUILT_IN in of_qcodes.ask("SOURce1:FUNCtion:ARBitrary?")
