"""ID Quantique ID900 / ID1000 time controller: one record of time tags per frame.

Three links: SCPI text over ZeroMQ REQ (HOST:5555), the vendor's DataLinkTarget (DLT) service over ZeroMQ
REQ (port 6060, usually on the same machine as we are), and one PAIR stream per channel that the DLT binds.
A *record* is one run of the record generator: it triggers the modulators and gates the time tags.  A frame
is: ``play_record``, wait until ``record_playing`` is false, ``read_tags`` of every channel.

Whoever used it last, the instrument is brought to a known state on ``connect`` and after every possible restart
(:mod:`drivers.timetaggers.id900_state`); streams then have to be started again.

Sources: ID Quantique, Time Controller Series User Manual; IDQ Python examples ``utils/common.py``,
``utils/acquisitions.py``, ``StreamClient``; MSLNZ/pr-single-photons ``photons/equipment/idq_time_controller.py``.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from qcodes.validators import Strings

from drivers.base import Identity, LabInstrument
from drivers.links.addresses import split_address
from drivers.links.errors import (
    InstrumentRefusedError,
    LinkError,
    MalformedReplyError,
    NotReadyError,
    WrongInstrumentError,
)
from drivers.links.limits import Within, Words, plain
from drivers.links.link import Link
from drivers.links.scpi_replies import parse_identity
from drivers.links.zmq_reqrep import RequestLink
from drivers.settings import Quantity
from drivers.timetaggers.data_link_target import DataLinkTargetClient
from drivers.timetaggers.id900_arguments import block_of, inputs_of, whole_duration_ps
from drivers.timetaggers.id900_histogram import Histogram
from drivers.timetaggers.id900_record import (
    RUNNING,
    STANDARDS,
    Records,
    TriggerStandard,
    trigger_settings,
)
from drivers.timetaggers.id900_scpi import ID900Questions
from drivers.timetaggers.id900_state import (
    CHANNELS,
    CLOCKS,
    RESOLUTIONS,
    START,
    THRESHOLD_RESOLUTION_V,
    Known,
    block,
    bring_to,
    if_offered,
    input_settings,
    known_state,
    threshold,
)
from drivers.timetaggers.id900_streams import TagStreams

log = logging.getLogger(__name__)

SCPI_PORT = 5555
DLT_PORT = 6060
STREAM_PORT = 4241  # a stream's port is this plus its channel (IDQ examples)
THRESHOLD_LIMIT_V = 2.0  # no source gives the range: check it against the data sheet of the unit
MAX_INTEGRATION_MS = 65535.0  # MSL driver
HIRES_ERRORS = {
    0: "none",
    1: "recalibrate",
    2: "rate above 25 MHz",
    3: "events too close",
    4: "events too close",
    5: "input disabled",
    1001: "reduce the rate",
    1002: "reduce the rate",
    1003: "reduce the rate",
}


class ID900(LabInstrument):
    """The time tagger at ``"host"`` or ``"host:port"``.

    ``dlt_address`` is where the DLT service runs (default: the instrument's host, port 6060); the streams
    come from that host on ``stream_port + channel``.  ``sole_user`` says that nobody else uses the service, so that
    acquisitions found there were left by us and may be stopped.  ``clock_source`` ("external": the reference of 10 MHz
    that all instruments share, "internal") and ``resolution`` ("high", "low") are what the instrument is brought to;
    ``trigger_standard`` ("TTL", "NIM") is what its output 1 gives to the trigger line.

    ``timestamp_unit_ps`` and ``counter_unit_ms`` are the units of time stamps and of integration times: the user manual
    has ps and all known ID900 clients ms, an ID1000 client writes integration times in ns (1e-6).

    ``timeout_s`` bounds one request and ``transfer_timeout_s`` the time that tags may take from the end of a record to
    us.
    """

    inputs = CHANNELS
    threshold_limits_v = (-THRESHOLD_LIMIT_V, THRESHOLD_LIMIT_V)

    def __init__(
        self,
        name: str,
        address: str,
        *,
        dlt_address: str | None = None,
        stream_port: int = STREAM_PORT,
        sole_user: bool = False,
        clock_source: Literal["internal", "external"] = "external",
        trigger_standard: TriggerStandard = "TTL",
        resolution: Literal["high", "low"] = "high",
        timestamp_unit_ps: int = 1,
        counter_unit_ms: float = 1.0,
        integration_ms: float = 100.0,
        timeout_s: float = 2.0,
        transfer_timeout_s: float = 10.0,
        poll_interval_s: float = 0.002,
        pause: Callable[[float], None] = time.sleep,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        host, port = split_address(address, SCPI_PORT)
        dlt_host, dlt_port = split_address(dlt_address or host, DLT_PORT)
        self._pause = pause
        self._unit_ps = timestamp_unit_ps
        self._counter_unit_ms = counter_unit_ms
        self.link = RequestLink(host, port, instrument=name, timeout_s=timeout_s, bring_up=self.bring_up)
        self._scpi = ID900Questions(self.link)
        self.dlt = DataLinkTargetClient(
            RequestLink(
                dlt_host,
                dlt_port,
                instrument=name,
                timeout_s=timeout_s,
                bring_up=lambda: self._streams.fail_after_restart("the DataLinkTarget service"),
            ),
            instrument=name,
        )
        self.links = (self.link, self.dlt.link)
        self._streams = TagStreams(
            self.dlt,
            self._scpi.ask,
            self._scpi.count,
            instrument=name,
            instrument_host=host,
            stream_port=stream_port,
            sole_user=sole_user,
            transfer_timeout_s=transfer_timeout_s,
            poll_interval_s=poll_interval_s,
            pause=pause,
        )
        self._trigger_standard = trigger_standard
        self.trigger_edge_v = (
            0.0,
            STANDARDS[trigger_standard].pulse_v,
        )  # before and after the edge, into 50 ohm
        self._records = Records(
            self.link,
            self._streams,
            standard=trigger_standard,
            check_clock=self._check_clock,
            poll_interval_s=poll_interval_s,
            pause=pause,
        )
        self._lock = threading.RLock()
        self._configured = False
        self._wanted = {
            each.header: each
            for each in known_state(clock_source, resolution, integration_ms / counter_unit_ms)
        }
        self._add_device_parameters()
        for channel in (START, *CHANNELS):
            self._add_input_parameters(channel)
        self.histograms = tuple(
            Histogram(
                self,
                number,
                ask=self._scpi.ask,
                count=self._scpi.count,
                hold=lambda known: self._hold([known]),
                resolution_ps=self._read_time_base,
                error=self.error,
            )
            for number in CHANNELS
        )

    def _add_device_parameters(self) -> None:
        self.add_reading(
            "time_base_ps",
            label="Grid of the time stamps",
            unit="ps",
            get=self._read_time_base,
            resolution=1.0,
        )
        self.clock_source: Quantity = self.add_setting(
            "clock_source",
            label="Clock",
            get=lambda: self._scpi.word("DEVIce:SYNC?", CLOCKS),
            put=lambda source: self._hold([Known("DEVIce:SYNC", CLOCKS[source])]),
            limits=Words(CLOCKS),
        )
        self.resolution: Quantity = self.add_setting(
            "resolution",
            label="Resolution mode",
            get=lambda: self._scpi.word("DEVIce:RESolution?", RESOLUTIONS),
            put=lambda mode: self._hold([Known("DEVIce:RESolution", RESOLUTIONS[mode])]),
            limits=Words(RESOLUTIONS),
            docstring="High resolution and low speed, or low resolution (100 ps) and high speed.",
        )
        self.add_reading("record_stage", label="Record generator", get=self._records.stage, vals=Strings())
        self.integration_time_ms: Quantity = self.add_setting(
            "integration_time_ms",
            label="Counting time of the inputs",
            unit="ms",
            get=lambda: self._scpi.count(f"{block(1)}:COUNter:INTEgrationtime?") * self._counter_unit_ms,
            put=self._put_integration_time,
            limits=Within(1.0, MAX_INTEGRATION_MS, "ms"),
            resolution=1e-6,
        )

    def _add_input_parameters(self, channel: int) -> None:
        suffix = str(channel) if channel else "start"
        header = block(channel)
        self.add_setting(
            f"threshold_{suffix}_v",
            label=f"Threshold of {header}",
            unit="V",
            get=lambda: self._scpi.volts(f"{header}:THREshold?"),
            put=lambda volts: self._hold([threshold(channel, volts)]),
            limits=Within(*self.threshold_limits_v, "V"),
            resolution=THRESHOLD_RESOLUTION_V,
        )
        self.add_reading(
            f"counts_{suffix}",
            label=f"Counter of {header}",
            unit="counts",
            get=partial(self.counts, channel),
            snapshot_value=False,
        )
        self.add_reading(
            f"count_rate_{suffix}",
            label=f"Count rate of {header}",
            unit="1/s",
            get=partial(self.count_rate, channel),
            snapshot_get=False,  # it takes as long as it counts
        )

    def every_link(self) -> dict[str, Link]:
        """The instrument and the service; tags, which are key, are in no transcript."""
        return {"": self.link, "dlt_address": self.dlt.link}

    # Identity, known state and safe state

    def connect(self) -> Identity:
        """Open both services, identify the instrument, bring it to its known state and to what was configured.

        The streams end; see :meth:`start_streams`.
        """
        self._streams.drop()
        return super().connect()

    def identify(self) -> Identity:
        """``*IDN?``; WrongInstrumentError unless it names an ID900 or ID1000."""
        reply = self._scpi.ask("*IDN?")
        found = re.search(r"\bID(900|1000)\b", reply)
        if found is None:
            raise self.error(
                WrongInstrumentError,
                f"answers as {reply[:80]!r}, not as an ID900 or ID1000; correct the address or the model",
            )
        serial, firmware = "", ""
        with suppress(ValueError):  # it names itself, and nothing else
            said = parse_identity(reply)
            if said.firmware:  # of three fields the last may be either
                serial, firmware = said.serial_number, said.firmware
        return Identity("ID Quantique", found[0], serial, firmware)

    def know_state(self) -> None:
        """Stop a record that somebody left running, log old errors, and hold what is known or was configured."""
        self._read_time_base()
        self._records.forget()
        stage = self._records.stage()
        if stage in RUNNING:
            log.warning("%s at %s: found a record at stage %s; stopping it", self.name, self.address, stage)
            self._records.stop()
        for channel in CHANNELS:
            if_offered(partial(self._clear_errors, channel), f"{self.name}: errors of input {channel}")
        self._hold(self._wanted.values())
        if self.identity is None:
            for histogram in self.histograms:
                if_offered(histogram.reset, f"{self.name}: a histogram")

    def _clear_errors(self, channel: int) -> None:
        lost = self._scpi.count(f"RAW{channel}:ERRORS?")
        self._scpi.ask(f"RAW{channel}:ERRORS:CLEAR")
        code, meaning = self.input_error(channel)
        if lost or code not in (0, 5):
            log.warning(
                "%s at %s: input %d had %d lost time stamps and error %d (%s) from before; cleared",
                *(self.name, self.address, channel, lost, code, meaning),
            )

    def restore_passive(self) -> None:
        """What was configured stands already; the streams have to be started again."""
        self._streams.fail_after_restart("the instrument")

    def safe_state(self) -> None:
        """Stop the record generator (no trigger leaves the instrument), then the streams."""
        self.link.urgently(self._records.stop)
        self._streams.give_up()

    def disconnect(self) -> None:
        """End the streams and close every link."""
        try:
            if self._streams.acquisitions and self.dlt.link.is_open:
                self._streams.stop()
        except (LinkError, InstrumentRefusedError) as error:
            log.warning("%s: the streams were not stopped: %s", self.name, error)
        self._streams.drop()
        super().disconnect()

    # Requests

    def ask_raw(self, cmd: str) -> str:
        """One SCPI request and its reply; InstrumentRefusedError when the reply is an error."""
        return self._scpi.ask(cmd)

    def write_raw(self, cmd: str) -> None:
        """A command whose reply matters only if it is an error."""
        self._scpi.ask(cmd)

    def _read_time_base(self) -> int:
        time_base_ps = self._scpi.count("DEVI:RES:BWID?")
        if time_base_ps < 1:
            raise self.error(MalformedReplyError, "the time base is zero")
        return time_base_ps

    def _check_clock(self) -> None:
        """NotReadyError unless the instrument runs by the clock that it was told to run by."""
        held = self._wanted["DEVIce:SYNC"]
        if not held.is_held(found := self._scpi.ask(f"{held.header}?").strip()[:40]):
            raise self.error(
                NotReadyError,
                f"its clock is {found} instead of {held.text}; check the cable that brings the reference of 10 MHz",
            )

    def _hold(self, settings: Iterable[Known]) -> None:
        """Set and read back; what is held comes back after a restart."""
        chosen = list(settings)
        bring_to(self._scpi.ask, chosen, instrument=self.name, address=self.address)
        self._wanted.update({each.header: each for each in chosen})

    # Inputs and histograms

    def configure(self, channels: Sequence[int], threshold_v: float) -> None:
        """Enable ``channels`` (rising edges, DC) at ``threshold_v``, and set up single records with one trigger each.

        START hears the trigger, the other inputs are disabled.  Holds after a restart too.
        """
        chosen, threshold_v = inputs_of(channels, self.error), plain(threshold_v)
        self.parameters["threshold_start_v"].validate(threshold_v)
        with self._lock:
            self._records.stop()
            for channel in CHANNELS:
                enabled = channel in chosen
                self._hold(
                    input_settings(channel, enabled=enabled, threshold_v=float(threshold_v), mode="ACCUm")
                )
            self._hold(trigger_settings(self._trigger_standard))
            self._hold([Known("RECord:ENABle", "ON")])
            self._configured = True

    def counts(self, channel: int) -> int:
        """The input counter of ``channel`` (0 is START)."""
        return self._scpi.count(f"{block_of(channel, self.error)}:COUNter?")

    def reset_counts(self, channel: int) -> None:
        """Set the input counter of ``channel`` (0 is START) to zero."""
        self._scpi.ask(f"{block_of(channel, self.error)}:COUNter:RESEt")

    def count_rate(self, channel: int) -> float:
        """Counts per second on an input (0 is START), counted for an integration time that began after the call.

        A counter that cycles shows its last whole integration time, by the instrument's clock; one that accumulates,
        as after ``configure``, is read twice, by ours.  A disabled input counts nothing.
        """
        header = block_of(channel, self.error)
        period_s = self._scpi.count(f"{header}:COUNter:INTEgrationtime?") * self._counter_unit_ms / 1000
        modes = {"cycle": "CYCLe", "accumulate": "ACCUm"}
        if self._scpi.word(f"{header}:COUNter:MODE?", modes) == "cycle":
            self._wait(2 * period_s)
            return self.counts(channel) / period_s
        before, begun = self.counts(channel), self.link.now()
        self._wait(period_s)
        after, ended = self.counts(channel), self.link.now()
        if after < before:
            raise self.error(NotReadyError, f"the counter of {header} was reset while it was read")
        return (after - before) / (ended - begun)

    def _wait(self, duration_s: float) -> None:
        end = self.link.now() + duration_s
        self.link.wait_until(
            lambda: self.link.now() >= end, 2 * duration_s + 1.0, "counting", poll_s=5e-3, pause=self._pause
        )

    def _put_integration_time(self, time_ms: float) -> None:
        units = round(time_ms / self._counter_unit_ms)
        self._hold(
            Known(f"{block(channel)}:COUNter:INTEgrationtime", float(units)) for channel in (START, *CHANNELS)
        )

    def input_error(self, channel: int) -> tuple[int, str]:
        """The high-resolution error of an input as (code, meaning), and clear it."""
        header = block_of(channel, self.error)
        code = self._scpi.count(f"{header}:HIRES:ERROR?")
        self._scpi.ask(f"{header}:HIRES:ERROR:CLEAR")
        return code, HIRES_ERRORS.get(code, "unknown")

    def flush_histogram(self, number: int) -> None:
        """Forget the counts of histogram ``number``, 1 to 4."""
        (number,) = inputs_of([number], self.error)
        self.histograms[number - 1].flush()

    # Records and tags

    def start_streams(self, channels: Sequence[int]) -> None:
        """Have the DLT stream the tags of ``channels`` to us, instead of what it streamed to us before.

        InstrumentRefusedError names what else runs when a channel or port is taken.
        """
        chosen = inputs_of(channels, self.error)
        self.must_end_dark()
        with self._lock:
            self._streams.start(chosen)

    def restart_streams(self) -> None:
        """Stop any record, forget every tag not read yet, and stream the same channels anew.

        To be called after an aborted frame: the next ``read_tags`` would return its tags too.
        """
        with self._lock:
            channels = tuple(self._streams.by_channel)
            self._records.stop()
            self._streams.start(channels)

    def stop_streams(self) -> None:
        """Stop the transfer of tags; what was not read is dropped."""
        self._streams.stop()

    def play_record(self, duration_ps: int) -> None:
        """Start one record of ``duration_ps``; returns at once.  NotReadyError while one is running."""
        duration_ps = whole_duration_ps(duration_ps, self.error)
        self.must_end_dark()
        with self._lock:
            if not self._configured:
                raise self.error(NotReadyError, "call configure() first")
            self._records.play(duration_ps)

    def record_playing(self) -> bool:
        """Whether the record generator runs.

        NotReadyError when a record ended by itself in which START heard no trigger, or more than its one, or in which
        the instrument ran without the reference: its tags count from something else, and the streams have failed.
        """
        return self._records.playing()

    def read_tags(self, channel: int) -> npt.NDArray[np.uint64]:
        """Every tag of ``channel`` since the last call, once the records played since then have arrived.

        uint64 of shape (n, 2), C-contiguous: timestamp in ps since the reference pulse, and the index of that pulse in
        the stream.  All or nothing: LinkTimeoutError when tags are missing, InstrumentRefusedError when the
        instrument or the DLT reports that it lost some; the streams must then be started again.
        """
        tags = self._streams.read(channel)
        self._records.confirm()
        if self._unit_ps != 1:
            tags[:, 0] *= np.uint64(self._unit_ps)
        return tags
