"""What must be so in a Tektronix AWG70000 before it plays frames, and the commands that lay out its memory.

Commands, words and values after ``*RST``: github tektronix/tm_devices ``commands/gen_chhuo_awg/{clock,trigger,output,
source,instrument}.py`` and ``gen_btm6t_awg/{slist,output}.py``.  Path and offset exist with a DC amplifier only
(``output.py``, ``source.py``): a generator without one refuses them.  Its filters belong to option AC of the
one-channel model.  A sequence brings its own waits, so that the run mode of the channel does not matter to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drivers.scpi_state import Required

FrameBuffer = Literal[0, 1]
ClockSource = Literal["INTernal", "EFIXed", "EVARiable", "EXTernal"]
"""Own 10 MHz, a reference of 10 MHz, one of another frequency, or an external clock."""
SEQUENCING_OPTION = "03"
"""In the answer to ``*OPT?`` (Ulm-IQO/qudi-iqo-modules ``tektronix_awg70k.py``)."""
ZEROS = "zeros"
CARVER_PATTERN = "carver"


@dataclass(frozen=True)
class Trigger:
    """Trigger input A; the defaults are those after ``*RST``."""

    level_v: float = 1.4
    slope: Literal["POSitive", "NEGative"] = "POSitive"
    impedance_ohm: Literal[50, 1000] = 50
    mode: Literal["SYNChronous", "ASYNchronous"] = "ASYNchronous"


def required(
    channel: int,
    clock_source: ClockSource,
    external_clock_hz: float,
    clock_timeout_s: float,
) -> list[Required]:
    """The known state of one channel; what concerns the clock may take ``clock_timeout_s``."""
    external = clock_source == "EXTernal"
    clock = [Required("CLOCk:ECLock:FREQuency", f"{external_clock_hz:.12g}", timeout_s=clock_timeout_s)]
    return [
        Required("INSTrument:MODE", "AWG"),
        *(clock if external else []),
        Required("CLOCk:SOURce", clock_source, timeout_s=clock_timeout_s),
        Required("CLOCk:JITTer", "0", if_there=True),
        Required("OUTPut:OFF", "0"),
        # Refused unless the path is the one with an offset, so before the path; the direct path has none.
        Required(f"SOURce{channel}:VOLTage:LEVel:IMMediate:OFFSet", "0", if_there=True),
        Required(f"OUTPut{channel}:PATH", "DIRect", if_there=True),
        Required(f"SOURce{channel}:SKEW", "0"),
        # 10 bits: no markers, full resolution.  ZERO: never hold the first symbol while waiting.
        Required(f"SOURce{channel}:DAC:RESolution", "10"),
        Required(f"OUTPut{channel}:WVALue:ANALog:STATe", "ZERO"),
        Required(f"SOURce{channel}:RMODe", "CONTinuous"),
    ]


def required_trigger(trigger: Trigger) -> list[Required]:
    """Trigger input A, on which every frame waits."""
    return [
        Required("TRIGger:SOURce", "EXTernal"),
        Required("TRIGger:LEVel", f"{trigger.level_v:.6g}", argument="ATRigger"),
        Required("TRIGger:SLOPe", trigger.slope, argument="ATRigger"),
        Required("TRIGger:IMPedance", str(trigger.impedance_ohm), argument="ATRigger"),
        Required("TRIGger:MODE", trigger.mode, argument="ATRigger"),
    ]


def frame_name(buffer: FrameBuffer) -> str:
    """Waveform of ``buffer``."""
    return f"frame{buffer}"


def sequence_name(buffer: FrameBuffer) -> str:
    """Sequence of ``buffer``."""
    return f"once{buffer}"


def sequence_commands(buffer: FrameBuffer) -> list[str]:
    """The commands that build the two-step sequence of ``buffer`` from existing waveforms."""
    name = sequence_name(buffer)
    commands = [f'SLISt:SEQuence:NEW "{name}",2,1']
    for step, waveform, goto in ((1, frame_name(buffer), "NEXT"), (2, ZEROS, "END")):
        head = f"SLISt:SEQuence:STEP{step}"
        commands += [
            f'{head}:TASSet1:WAVeform "{name}","{waveform}"',
            f'{head}:WINPut "{name}",ATRigger',
            f'{head}:RCOunt "{name}",ONCE',
            f'{head}:GOTO "{name}",{goto}',
        ]
    return commands


def carving_commands(channel: int) -> list[str]:
    """The commands that wait for trigger A and then repeat the carver's pattern without end."""
    return [
        f'SOURce{channel}:CASSet:WAVeform "{CARVER_PATTERN}"',
        f"SOURce{channel}:TINPut ATRigger",
        f"SOURce{channel}:RMODe TCONtinuous",
        f"OUTPut{channel}:STATe 1",
        "AWGControl:RUN",
    ]
