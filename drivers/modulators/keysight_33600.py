"""What must be so in a Keysight 33600A before it plays frames, and how its memory is laid out.

Commands and words: github charkster/keysight_33600a ``keysight_33600a.py``, qcodes
``instrument_drivers/Keysight/KeysightAgilent_33XXX.py`` and pymeasure ``instruments/agilent/agilent33500.py``; binary
``DATA:ARBitrary:DAC``: github JovanMarkov96/keysight-33600a-control ``docs/COMMAND_COVERAGE.md``; ``DATA:SEQuence``: github
aquirdTurtle/Chimera-Control ``Camerawg/myAgilent.cpp``; limits of the sample rate by filter: Keysight's help pages of the
33500 and 33600 series (RATE subsystem: filter off 250 MSa/s, else 1 GSa/s; tutorial: at least 32 points).

A sequence waits at a segment marked ``onceWaitTrig`` and goes on with the next edge; behind its last segment it begins
anew.  Bursts cannot play sequences (-221), and a waveform whose name is in memory cannot be loaded again (+786): both are
findings of people with a 33600A.

Unverified: that the level of the trigger input is 0.9 to 3.8 V (a data sheet's figures from memory), and that it can be
set from a computer, of which qcodes' driver says that it does not work; where it cannot, the driver refuses to go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drivers.scpi_state import Required

CHANNELS = (1, 2)
AMPLITUDE_LIMITS_VPP = (1e-3, 10.0)
"""Into 50 ohm."""
MOST_UNFILTERED_HZ = 250e6
MIN_SAMPLES = 32
TRIGGER_LEVEL_LIMITS_V = (0.9, 3.8)
MODULATIONS = ("AM", "FM", "PM", "FSKey", "BPSK", "PWM", "SUM", "SWEep", "BURSt")
IDLE, FRAME, ONCE = "idle", "frame", "once"
WAITING = 1 << 5
"""Of the operation register: waiting for a trigger (user's guide of the 33500 series, STATus subsystem).  Unverified that it
is set while a sequence waits, as it is while a burst does."""

ClockSource = Literal["INTernal", "EXTernal"]
Slope = Literal["POSitive", "NEGative"]


@dataclass(frozen=True)
class Trigger:
    """The trigger input; the defaults are for TTL."""

    level_v: float = 1.4
    slope: Slope = "POSitive"


def required(channel: int, clock_source: ClockSource) -> list[Required]:
    """The known state of one channel and of what it shares with the other."""
    source, output = f"SOURce{channel}", f"OUTPut{channel}"
    return [
        Required("ROSCillator:SOURce:AUTO", "OFF", if_there=True),
        Required("ROSCillator:SOURce", clock_source),
        *(Required(f"{source}:{each}:STATe", "0", if_there=True) for each in MODULATIONS),
        Required(f"{source}:COMBine:FEED", "NONE", if_there=True),
        Required(f"{source}:TRACk", "OFF", if_there=True),
        Required(f"{output}:LOAD", "50"),
        Required(f"{output}:POLarity", "NORMal"),
        Required(f"{output}:MODE", "NORMal", if_there=True),
        Required(f"{source}:VOLTage:UNIT", "VPP"),
        Required(f"{source}:VOLTage:OFFSet", "0"),
        Required("FORMat:BORDer", "SWAPped"),
    ]


def required_trigger(channel: int, trigger: Trigger) -> list[Required]:
    """The trigger input, on which every frame waits; the connector is an output too."""
    return [
        Required("OUTPut:TRIGger", "0"),
        Required(f"TRIGger{channel}:SOURce", "EXTernal"),
        Required(f"TRIGger{channel}:LEVel", f"{trigger.level_v:.6g}"),
        Required(f"TRIGger{channel}:SLOPe", trigger.slope),
        Required(f"TRIGger{channel}:DELay", "0"),
        Required(f"TRIGger{channel}:COUNt", "1"),
        Required(f"INITiate{channel}:CONTinuous", "1"),
    ]


def sequence_command(channel: int) -> str:
    """0 V until a trigger, the frame, 0 V until another trigger, 0 V for good."""
    segments = (
        (IDLE, "onceWaitTrig"),
        (FRAME, "once"),
        (IDLE, "onceWaitTrig"),
        (IDLE, "repeatInf"),
    )
    text = f'"{ONCE}"' + "".join(f',"{name}",0,{play},maintain,4' for name, play in segments)
    length = str(len(text))
    return f"SOURce{channel}:DATA:SEQuence #{len(length)}{length}{text}"
