"""The simulated AWG as QCoDeS' own AWG70002A driver sees it: an independent client of the same model."""

from collections.abc import Iterator

import numpy as np
import pytest
from qcodes.instrument_drivers.tektronix import TektronixAWG70002A, TektronixAWG70002B

from sim_backends.modulators.tektronix_awg70002a import AWG70002ATwin

N = 3000


@pytest.fixture(params=[False, True], ids=["fresh", "left by someone"])
def twin(request: pytest.FixtureRequest) -> Iterator[AWG70002ATwin]:
    twin = AWG70002ATwin(serial=7, left_by_someone=request.param)
    yield twin
    twin.close()


@pytest.fixture
def awg(twin: AWG70002ATwin) -> Iterator[TektronixAWG70002A]:
    awg = TektronixAWG70002A("qcodes_awg", twin.serve("127.0.0.1", 0), visalib="@py", terminator="\n")
    awg.write("*RST")  # as users begin, whoever used it last
    awg.write("*CLS")
    yield awg
    awg.close()


def test_identity_and_settings(awg: TektronixAWG70002A, twin: AWG70002ATwin) -> None:
    assert awg.IDN() == {
        "vendor": "TEKTRONIX",
        "model": "AWG70002A",
        "serial": "SIM00007",
        "firmware": "FV:6.3.0080.0",
    }
    awg.sample_rate(5e9)
    awg.ch1.awg_amplitude(0.3)
    awg.ch2.state(1)
    awg.ch1.resolution(8)
    awg.ch1.marker1_high(1.2)
    awg.ch1.hold("FIRST")
    awg.clock_source("Internal, 10 MHZ ref.")
    assert awg.sample_rate() == 5e9
    assert awg.ch1.awg_amplitude() == pytest.approx(0.3)
    assert awg.ch2.state() == 1
    assert awg.ch1.resolution() == 8
    assert awg.ch1.marker1_high() == pytest.approx(1.2)
    assert awg.ch1.hold() == "FIRS"
    assert awg.clock_source() == "Internal, 10 MHZ ref."
    assert awg.run_state() == "Stopped"
    assert awg.mode() == "AWG"
    assert twin.state()["errors"] == 0
    assert twin.state()["sample_rate_hz"] == 5e9


@pytest.mark.parametrize("with_markers", [False, True])
def test_upload_through_a_wfmx_file_and_triggered_play(
    awg: TektronixAWG70002A, twin: AWG70002ATwin, with_markers: bool
) -> None:
    volts = np.random.default_rng(0).uniform(-0.25, 0.25, N)
    markers = np.random.default_rng(1).integers(0, 2, (2, N))
    data = np.vstack([volts, markers]) if with_markers else volts
    wfmx = awg.makeWFMXFile(data, 0.5)
    assert wfmx.count(b"\n") > 10
    awg.sendWFMXFile(wfmx, "ramp.wfmx")
    awg.loadWFMXFile("ramp.wfmx")
    assert awg.waveformList == ["ramp"]
    # QCoDeS deletes the file before sending it, which pushes -256, and reads that code back.
    assert awg.ask("SYSTem:ERRor?") == '0,"No error"'
    awg.write('SOURce1:CASSet:WAVeform "ramp"')
    awg.write("SOURce1:RMODe TRIGgered")
    awg.ch1.state(1)
    assert awg.ch1.assigned_asset() == "ramp"
    awg.play()
    assert awg.run_state() == "Waiting for trigger"
    for _ in range(2):
        played = twin.trigger()
        assert played is not None
        np.testing.assert_allclose(played[1].samples, volts / 0.25, atol=1e-6)
    awg.stop()
    assert awg.run_state() == "Stopped"
    assert twin.trigger() is None
    awg.clearWaveformList()
    assert awg.waveformList == [""]


def test_a_sequence_steps_through_triggers(awg: TektronixAWG70002A, twin: AWG70002ATwin) -> None:
    for name, level in (("high", 0.2), ("low", -0.2)):
        awg.sendWFMXFile(awg.makeWFMXFile(np.full(N, level), 0.5), f"{name}.wfmx")
        awg.loadWFMXFile(f"{name}.wfmx")
    awg.write('SLISt:SEQuence:NEW "both",2,1')
    for step, name in ((1, "high"), (2, "low")):
        awg.write(f'SLISt:SEQuence:STEP{step}:TASSet1:WAVeform "both","{name}"')
        awg.write(f'SLISt:SEQuence:STEP{step}:WINPut "both",ATRigger')
    awg.write('SLISt:SEQuence:STEP2:GOTO "both",FIRSt')
    assert awg.sequenceList == ["both"]
    awg.write('SOURce1:CASSet:SEQuence "both",1')
    awg.ch1.state(1)
    awg.play()
    levels = []
    for _ in range(4):
        played = twin.trigger()
        assert played is not None
        levels.append(round(float(played[1].samples[0]), 3))
    assert levels == [0.8, -0.8, 0.8, -0.8]
    awg.force_triggerA()
    assert awg.ask("SOURce1:SCSTep?") == '"2"'
    awg.delete_sequence_from_list("both")
    assert awg.run_state() == "Stopped"
    assert awg.ch1.state() == 0
    assert awg.ask("SYSTem:ERRor?") == '0,"No error"'


def test_refusals_go_to_the_error_queue(awg: TektronixAWG70002A) -> None:
    awg.write("CLOCk:SRATe 26E9")
    awg.write("NO:SUCH:COMMand 1")
    awg.write('SOURce1:CASSet:WAVeform "missing"')
    awg.write("AWGControl:RUN")
    codes = [awg.ask("SYSTem:ERRor?").partition(",")[0] for _ in range(5)]
    assert codes == ["-222", "-113", "-224", "-221", "0"]


def test_every_parameter_of_qcodes_is_answered(awg: TektronixAWG70002A, twin: AWG70002ATwin) -> None:
    """QCoDeS asks for all of them, the function generator's too, whenever somebody takes a snapshot."""
    awg.ch2.fgen_type("TRIANGLE")
    awg.ch2.fgen_frequency(2e6)
    awg.ch1.fgen_signalpath("DCamplified")
    awg.ch1.marker2_waitvalue("HIGH")
    awg.ch2.marker1_stoppedvalue("LOW")
    shown = awg.snapshot(update=True)["submodules"]
    first, second = (shown[name]["parameters"] for name in ("ch1", "ch2"))
    assert second["fgen_type"]["value"] == "TRIANGLE"
    assert first["fgen_frequency"]["value"] == second["fgen_frequency"]["value"] == 2e6
    assert first["fgen_period"]["value"] == pytest.approx(0.5e-6)
    assert [each["fgen_signalpath"]["value"] for each in (first, second)] == ["DCamplified", "direct"]
    assert [first[f"marker{n}_waitvalue"]["value"] for n in (1, 2)] == ["FIRS", "HIGH"]
    assert [each["marker1_stoppedvalue"]["value"] for each in (first, second)] == ["OFF", "LOW"]
    assert twin.state()["errors"] == 0


def test_reset_brings_the_function_generator_back(awg: TektronixAWG70002A) -> None:
    awg.ch1.fgen_amplitude(0.1)
    awg.write("*RST")
    assert awg.ch1.fgen_amplitude() == 0.5
    awg.write("FGEN:CHANnel3:AMPLitude 0.1")
    awg.write("FGEN:CHANnel1:AMPLitude 0.6")
    assert [awg.ask("SYSTem:ERRor?").partition(",")[0] for _ in range(3)] == ["-114", "-222", "0"]


def test_a_generator_of_the_b_series() -> None:
    other = AWG70002ATwin(model="AWG70002B")
    awg = TektronixAWG70002B("qcodes_b", other.serve("127.0.0.1", 0), visalib="@py", terminator="\n")
    assert awg.IDN()["model"] == "AWG70002B"
    assert awg.model == "70002B"
    awg.close()
    other.close()
