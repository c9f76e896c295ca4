"""The request sequences of ID Quantique's own Python examples, written down as data and sent with plain ZeroMQ.

What the examples do with a reply is what is checked: most look at no reply of a setter, so that it must only be no error;
counters and stages are parsed, histograms are evaluated as a list.  ``{...}`` are the examples' own arguments.  Sources
are the vendor's folder ``Examples/Python`` of the Time Controller: ``utils/common.py``,
``utils/acquisitions/histograms.py``, ``utils/acquisitions/timestamps.py``, ``utils/acquisitions/counts_over_time.py``,
``Histogram_acquisition_filtred`` with its demonstration signals, ``Counters``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import zmq

from sim_backends.timetaggers.id900 import ID900Twin

CLICKS = {
    1: np.arange(0, 1_000_000, 10_000, dtype=np.uint64),
    2: np.arange(2_600, 1_000_000, 10_000, dtype=np.uint64),
}
"""Every 10 ns on input 1, and 2.6 ns later on input 2, for 1 us."""

RECORD = (
    "REC:TRIG:ARM:MODE MANUal",
    "REC:ENABle ON",
    "REC:STOP",
    "REC:NUM 1",
    "REC:DURation {duration_ps}",
)
HISTOGRAM = ("HIST{channel}:BCOUnt {bins}", "HIST{channel}:BWID {width_ps}", "HIST{channel}:FLUSh")
INPUT = (
    "INPU{channel}:ENAB ON;THRE -0.4V;COUP DC;EDGE FALLING;SELE UNSHAPED",
    "DELA{channel}:VALUe 0;LINK INPU{channel}",
)
UNFILTERED = (
    "TSCO{combiner}:WIND:ENAB OFF;:TSCO{combiner}:FIR:LINK DELA{channel};:TSCO{combiner}:OPOUt ONLYFIR"
)
FILTER = (
    "TSCO7:WIND:ENAB ON;:TSCO7:FIR:LINK DELA2",
    "TSCO7:WIND:BEGI:LINK DELA3;DELAY 100000;EDGE RISING",
    "TSCO7:WIND:END:LINK DELA3;DELAY 600000;EDGE RISING",
    "TSCO7:OPIN ONLYFIR;:TSCO7:OPOUt MUTE",
)
COUNTS_OVER_TIME = (
    "DEVIce:CONF:LOAD HISTO",
    "TSCO1:FIR:LINK REC",
    "TSCO1:OPIN ONLYFIR;OPOUt ONLYFIR;WIND:ENAB OFF",
    "HIST1:REF:LINK TSCO1",
    "TSCO5:OPIN ONLYFIR;OPOUt ONLYFIR;WIND:ENAB OFF",
    "HIST1:STOP:LINK TSCO5",
)
SIGNALS = (
    "GEN1:ENAB OFF",
    "GEN1:PPER 4000000;PWID 4000;PNUM INF;TRIG:ARM:MODE MANUal",
    "GEN1:ENAB ON;PLAY",
    "TSCO1:WIND:ENAB OFF;:TSCO1:FIR:LINK GEN1;:TSCO1:OPOUt ONLYFIR",
    "OUTP1:ENAB ON;MODE NIM;LINK TSCO1",
    "GEN2:ENAB OFF",
    "GEN2:PPER 4000100;PWID 4000;PNUM INF;TRIG:ARM:MODE MANUal",
    "GEN2:ENAB ON;PLAY",
    "TSCO2:WIND:ENAB OFF;:TSCO2:FIR:LINK GEN2;:TSCO2:OPOUt ONLYFIR",
    "OUTP2:ENAB ON;MODE NIM;LINK TSCO2",
    "OUTP3:ENAB ON;MODE NIM;LINK TSCO1",
    "INPU1:SELE OUTP",
    "INPU2:SELE OUTP",
    "INPU3:SELE OUTP",
)
"""Two trains of pulses whose distance grows by 100 ps from one to the next, heard by the inputs themselves."""
DUMMY_TIMESTAMPS = (
    "GEN{channel}:ENAB ON;PPER 10000000;PWID 20000;PNUM INF;PLAY;TRIG:LINK NONE",
    "TSCO{channel}:FIR:LINK GEN{channel}",
    "TSCO{channel}:OPIN ONLYFIR;OPOU ONLYFIR;WIND:ENAB OFF",
    "TSCO{channel}:WIND:BEGI:LINK NONE;:TSCO{channel}:WIND:END:LINK NONE",
)
COUNTER = (
    "INPUt4:COUP DC",
    "INPUt4:EDGE FALLING",
    "INPUt4:THRE 1V",
    "INPUt4:SELE UNSHAPED",
    "INPUt4:ENAB ON",
    "INPUt4:Counter:MODE CYCLE",
    "INPUt4:Counter:INTEgrationtime 100",
)

Say = Callable[..., str]


@pytest.fixture(params=[False, True], ids=["fresh", "left by someone"])
def twin(request: pytest.FixtureRequest) -> Iterator[ID900Twin]:
    served = ID900Twin(
        on_record=lambda duration_ps, index: CLICKS,
        left_by_someone=request.param,
        scpi_port=0,
        dlt_port=0,
    )
    served.address = served.serve("127.0.0.1")  # type: ignore[attr-defined]
    yield served
    served.close()


@pytest.fixture
def services(twin: ID900Twin) -> Iterator[tuple[Say, Say]]:
    """``say`` to the instrument, which fails for an error in the reply, and to the service."""
    with zmq.Context() as context:
        sockets = []
        for address in (twin.address, twin.dlt_address):  # type: ignore[attr-defined]
            socket = context.socket(zmq.REQ)
            socket.setsockopt(zmq.LINGER, 0)
            socket.rcvtimeo = 5000
            socket.connect(f"tcp://{address}")
            sockets.append(socket)

        def say(request: str, **words: object) -> str:
            sockets[0].send_string(request.format(**words))
            reply: str = sockets[0].recv().decode()
            assert not re.search(r"SCPI_ERR_\w+\s*$", reply), f"{request} {words}: {reply}"
            return reply

        def tell(command: str) -> str:
            sockets[1].send_string(command)
            return str(sockets[1].recv().decode())

        yield say, tell
        for socket in sockets:
            socket.close()


def play(say: Say) -> None:
    say("REC:PLAY")
    while say("REC:STAGe?").upper() == "PLAYING":
        pass


def histograms(
    say: Say, channels: tuple[int, ...], bins: int, width_ps: int, duration_ps: float = 1e6
) -> dict[int, list[int]]:
    """``acquire_histograms``."""
    for request in RECORD:
        say(request, duration_ps=duration_ps)
    for channel in channels:
        for request in HISTOGRAM:
            say(request, channel=channel, bins=bins, width_ps=width_ps)
    play(say)
    return {channel: json.loads(say("HIST{channel}:DATA?", channel=channel)) for channel in channels}


def test_filtered_histograms(services: tuple[Say, Say]) -> None:
    say, _ = services
    for channel in (1, 2, 3):
        for request in INPUT:
            say(request, channel=channel)
    for combiner, channel in ((5, 1), (6, 2)):
        say(UNFILTERED, combiner=combiner, channel=channel)
    say("TSCO5:OPIN ONLYFIR;:TSCO6:OPIN ONLYFIR")  # the example starts from the vendor's defaults
    for request in FILTER:
        say(request)
    say("HIST1:REF:LINK TSCO5;:HIST1:STOP:LINK TSCO6")
    say("HIST2:REF:LINK TSCO5;:HIST2:STOP:LINK TSCO7")
    say("HIST1:MIN 0;ENAB:LINK REC;:HIST1:STOP:FILT RISING;:HIST1:REF:FILT RISING")
    resolution_ps = int(say("DEVI:RES:BWID?"))
    width_ps = (
        100 if 100 % resolution_ps == 0 else (100 // resolution_ps + 1) * resolution_ps
    )  # adjust_bin_width
    found = histograms(say, (1, 2), 100, width_ps)
    assert [len(counts) for counts in found.values()] == [100, 100]
    assert sum(found[1]) == len(CLICKS[2])
    assert {bin * width_ps // 100 for bin, count in enumerate(found[1]) if count} <= {25, 26}
    assert sum(found[2]) == 0  # nothing opens the window: input 3 is dark


def test_demonstration_signals(services: tuple[Say, Say], twin: ID900Twin) -> None:
    say, _ = services
    for channel in (1, 2, 3):
        for command in INPUT:
            say(command, channel=channel)
        say(UNFILTERED, channel=channel, combiner=channel + 4)
        say("TSCO{combiner}:OPIN ONLYFIR", combiner=channel + 4)
    for command in SIGNALS:
        say(command)
    say("HIST1:REF:LINK TSCO5;:HIST1:STOP:LINK TSCO6;:HIST1:MIN 0;ENAB:LINK REC")
    pulses = 50  # of 4 us, each 100 ps later than the one before
    found = histograms(say, (1,), bins=100, width_ps=100, duration_ps=pulses * 4e6)[1]
    assert sum(found) == pulses
    assert max(bin for bin, count in enumerate(found) if count) == pytest.approx(pulses, abs=3)
    assert not twin.is_safe()
    say("GEN1:ENAB OFF")
    say("GEN2:ENAB OFF")
    assert twin.is_safe()


def test_dummy_timestamps(services: tuple[Say, Say]) -> None:
    say, _ = services
    for channel in (1, 2, 3, 4):
        for command in DUMMY_TIMESTAMPS:
            say(command, channel=channel)


def test_histograms_are_flushed_and_add_up(services: tuple[Say, Say]) -> None:
    say, _ = services
    say("DEVIce:CONF:LOAD HISTO")
    for channel in (1, 2):
        say("INPU{channel}:ENAB ON;SELE UNSHAPED", channel=channel)
    say("HIST2:REF:LINK TSCO5;:HIST2:STOP:LINK TSCO6")
    once = histograms(say, (2,), 1000, 104)[2]
    play(say)
    assert sum(json.loads(say("HIST2:DATA?"))) == 2 * sum(once) > 0
    assert say("HIST2:FLUSh") == "Flushed Histogram!"
    assert not any(json.loads(say("HIST2:DATA?")))


def test_counts_over_time(services: tuple[Say, Say]) -> None:
    say, _ = services
    for request in COUNTS_OVER_TIME:
        say(request)
    say("INPU1:ENAB ON;SELE UNSHAPED")
    counts = histograms(say, (1,), 10, 104_000)[1]
    assert len(counts) == 10
    assert sum(counts) == len(CLICKS[1])


def test_counters_are_read_as_numbers(services: tuple[Say, Say]) -> None:
    say, _ = services
    for request in COUNTER:
        say(request)
    assert np.float64(say("INPUt4:COUNter?")) == 0


@pytest.mark.parametrize("with_ref_index", [False, True])
@pytest.mark.parametrize("kind", ["bin", "ascii"])
def test_saved_timestamps(
    services: tuple[Say, Say], twin: ID900Twin, tmp_path: Path, kind: str, with_ref_index: bool
) -> None:
    """``acquire_timestamps``; the service writes a file, ``bin`` of 64-bit words or a line per timestamp."""
    say, tell = services
    for running in json.loads(tell("list")):  # close_active_acquisitions
        tell(f"stop --id {running}")
    say("DEVIce:CONF:LOAD HISTO")
    say("INPU1:ENAB ON;SELE UNSHAPED")
    for request in RECORD:
        say(request, duration_ps=1e6)
    say("RAW1:ERRORS:CLEAR")
    path = tmp_path / f"timestamps_C1.{'bin' if kind == 'bin' else 'txt'}"
    host = twin.address.split(":")[0]  # type: ignore[attr-defined]
    flag = " --with-ref-index" if with_ref_index else ""
    started = json.loads(
        tell(f'start-save --address {host} --channel 1 --filename "{path}" --format {kind}{flag}')
    )
    say("RAW1:SEND ON")
    play(say)
    assert int(say("REC:NUMber?")) == 1
    status = json.loads(tell(f"status --id {started['id']}"))
    assert status["acquisitions_count"] >= 1
    assert not status.get("error")
    stopped = json.loads(tell(f"stop --id {started['id']}"))["status"]
    assert stopped["timestamps_count"] == len(CLICKS[1])
    assert stopped["errors"] == []
    say("RAW1:SEND OFF")
    assert int(say("RAW1:ERRORS?")) == 0
    if kind == "bin":
        rows = np.fromfile(path, "<u8").reshape(-1, 2 if with_ref_index else 1)
    else:
        rows = np.loadtxt(path, delimiter=";", dtype=np.uint64, ndmin=2)
    assert rows.shape == (len(CLICKS[1]), 2 if with_ref_index else 1)


def test_a_file_that_is_there_or_cannot_be_is_an_error(
    services: tuple[Say, Say], twin: ID900Twin, tmp_path: Path
) -> None:
    _, tell = services
    host = twin.address.split(":")[0]  # type: ignore[attr-defined]
    (tmp_path / "kept.bin").write_bytes(b"kept")
    running = tell("list")
    for name in ("kept.bin", "no/such/folder.bin"):
        answer = json.loads(tell(f'start-save --address {host} --channel 2 --filename "{tmp_path / name}"'))
        assert answer["error"]["description"]
    assert (tmp_path / "kept.bin").read_bytes() == b"kept"
    assert tell("list") == running
