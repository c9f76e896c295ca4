"""ID Quantique ID900 / ID1000 time controller: one record of time tags per frame.

Three links: SCPI text over ZeroMQ REQ (HOST:5555), the vendor's DataLinkTarget (DLT) service over ZeroMQ
REQ (port 6060, usually on the same machine as we are), and one PAIR stream per channel that the DLT binds.
A *record* is one run of the record generator: it triggers the modulators and gates the time tags.  A frame
is: ``play_record``, wait until ``record_playing`` is false, ``read_tags`` of every channel.

Sources: IDQ Python examples ``utils/common.py``, ``utils/acquisitions.py``, ``StreamClient``;
MSLNZ/pr-single-photons ``photons/equipment/idq_time_controller.py``.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import zmq
from qcodes.validators import Strings

from drivers.base import Identity, LabInstrument
from drivers.links.errors import (
    InstrumentRefusedError,
    LimitError,
    LinkError,
    LinkTimeoutError,
    MalformedReplyError,
    NotReadyError,
    WrongInstrumentError,
)
from drivers.links.limits import Within
from drivers.links.zmq_reqrep import RequestLink, split_address
from drivers.timetaggers.data_link_target import DataLinkTargetClient
from drivers.timetaggers.tag_stream import TagStream

SCPI_PORT = 5555
DLT_PORT = 6060
STREAM_PORT = 4241  # a stream's port is this plus its channel (IDQ examples)
CHANNELS = (1, 2, 3, 4)
THRESHOLD_LIMIT_V = 2.0  # no source gives the range: check it against the data sheet of the unit
MAX_DURATION_PS = 10**15
# Reading of the vendor's format, to be checked on hardware: with RAWn:REF:LINK set to this block and
# ``--with-ref-index`` a timestamp counts from the last pulse of that block, and the index counts its pulses.
REFERENCE = "STAR"
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
    come from that host on ``stream_port + channel``.  ``timeout_s`` bounds one request and
    ``transfer_timeout_s`` the time that tags may take from the end of a record to us.
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
        timeout_s: float = 2.0,
        transfer_timeout_s: float = 10.0,
        poll_interval_s: float = 0.002,
        pause: Callable[[float], None] = time.sleep,
        **kwargs: Any,
    ) -> None:
        super().__init__(name, address, **kwargs)
        self._host, port = split_address(address, SCPI_PORT)
        dlt_host, dlt_port = split_address(dlt_address or self._host, DLT_PORT)
        self._stream_port = stream_port
        self._transfer_timeout_s = transfer_timeout_s
        self._poll_interval_s = poll_interval_s
        self._pause = pause
        self._scpi = RequestLink(
            self._host, port, instrument=name, timeout_s=timeout_s, bring_up=self.bring_up
        )
        self._dlt = DataLinkTargetClient(
            RequestLink(dlt_host, dlt_port, instrument=name, timeout_s=timeout_s), instrument=name
        )
        self.links = (self._scpi, self._dlt.link)
        self._lock = threading.RLock()
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._streams: dict[int, TagStream] = {}
        self._configured: tuple[tuple[int, ...], float] | None = None
        self._passive: dict[str, str] = {}
        self._time_base_ps = 0
        self.add_parameter(
            "time_base_ps", label="Time base", unit="ps", get_cmd=self._read_time_base, snapshot_value=True
        )
        self.add_parameter(
            "clock_source",
            label="Clock",
            get_cmd="DEVIce:SYNC?",
            set_cmd=lambda source: self._set_passive("DEVIce:SYNC", source),
            val_mapping={"internal": "INTERNAL", "external": "EXTERNAL"},
        )
        self.add_parameter(
            "resolution",
            label="Resolution mode",
            get_cmd="DEVIce:RESolution?",
            set_cmd=self._set_resolution,
            val_mapping={"high": "HIRES", "low": "LOWRES"},
            docstring="High resolution and low speed, or low resolution (100 ps) and high speed.",
        )
        self.add_parameter("record_stage", label="Record generator", get_cmd="REC:STAGe?", vals=Strings())
        for channel in (0, *CHANNELS):
            self.add_parameter(
                f"counts_{channel}" if channel else "counts_start",
                label=f"Counter of {_block(channel)}",
                unit="counts",
                get_cmd=lambda channel=channel: self.counts(channel),
                snapshot_value=False,
            )
        self._threshold_limits = Within(*self.threshold_limits_v, "V")
        self._duration_limits = Within(1, MAX_DURATION_PS, "ps")

    # Link and identity

    def restore_passive(self) -> None:
        """Drop the streams, bring back what was configured."""
        self._drop_streams()
        for header, value in self._passive.items():
            self.ask(f"{header} {value}")
        if self._configured is not None:
            self.configure(*self._configured)

    def know_state(self) -> None:
        """Read the time base."""
        self._time_base_ps = self._read_time_base()

    def identify(self) -> Identity:
        """``*IDN?``; WrongInstrumentError unless it names an ID900 or ID1000."""
        reply = self.ask("*IDN?")
        found = re.search(r"ID(900|1000)", reply)
        if found is None:
            raise WrongInstrumentError(
                f"expected an ID900 or ID1000, *IDN? says {reply[:80]!r}",
                instrument=self.name,
                address=self.address,
            )
        fields = [part.strip() for part in reply.split(",")]
        serial, firmware = (fields[2], fields[3]) if len(fields) >= 4 else ("", "")
        return Identity("ID Quantique", found[0], serial, firmware)

    def safe_state(self) -> None:
        """Stop the record generator (no trigger leaves the instrument) and the streams."""
        self.ask("REC:STOP")  # without waiting for a read_tags that holds the driver's lock
        self.stop_streams()

    def disconnect(self) -> None:
        """Close every link."""
        with self._lock:
            self._drop_streams()
            super().disconnect()

    # SCPI and DLT requests

    def ask_raw(self, cmd: str) -> str:
        """One SCPI request and its reply; InstrumentRefusedError when the reply is an error."""
        reply = self._scpi.request(cmd)
        if re.search(r"SCPI_ERR_\w+\s*$", reply) or reply.startswith("No connection"):
            raise InstrumentRefusedError(
                f"{cmd!r} was refused: {reply[-120:]}", instrument=self.name, address=self.address
            )
        return reply

    def write_raw(self, cmd: str) -> None:
        """A command whose reply matters only if it is an error."""
        self.ask_raw(cmd)

    def _ask_int(self, command: str) -> int:
        reply = self.ask(command).strip().removesuffix("TB")
        if not re.fullmatch(r"\d+", reply):
            raise self._malformed(f"{command!r} was answered by {reply[:60]!r}, not by a count")
        return int(reply)

    def _read_time_base(self) -> int:
        time_base_ps = self._ask_int("DEVI:RES:BWID?")
        if time_base_ps < 1:
            raise self._malformed("the time base is zero")
        return time_base_ps

    def _set_passive(self, header: str, value: str) -> None:
        self.ask(f"{header} {value}")
        self._passive[header] = value

    def _set_resolution(self, mode: str) -> None:
        self._set_passive("DEVIce:RESolution", mode)
        self._time_base_ps = self._read_time_base()

    def _malformed(self, text: str) -> MalformedReplyError:
        return MalformedReplyError(text, instrument=self.name, address=self.address)

    # Inputs

    def configure(self, channels: Sequence[int], threshold_v: float) -> None:
        """Enable ``channels`` and START (rising edges, DC) at ``threshold_v`` and set up single records.

        The other inputs are disabled.  Applied again by ``connect`` after a lost link.
        """
        chosen = tuple(channels)
        self._check_channels(chosen)
        self._threshold_limits.validate(threshold_v, f"threshold of {self.name}")
        with self._lock:
            for channel in (0, *CHANNELS):
                enabled = "ON" if channel == 0 or channel in chosen else "OFF"
                self.ask(
                    f"{_block(channel)}:ENABle {enabled};COUPling DC;EDGE RISING;"
                    f"THREshold {threshold_v:g}V;SELEct UNSHAPED;COUNter:MODE ACCUM"
                )
            for channel in chosen:
                self.ask(f"RAW{channel}:REF:LINK {REFERENCE}")
            self.ask("REC:TRIG:ARM:MODE MANUal;:REC:ENABle ON;:REC:STOP;:REC:NUM 1")
            self._time_base_ps = self._read_time_base()
            self._configured = (chosen, threshold_v)

    def counts(self, channel: int) -> int:
        """The input counter of ``channel`` (0 is START)."""
        return self._ask_int(f"{_block(channel)}:COUNter?")

    def reset_counts(self, channel: int) -> None:
        """Set the input counter of ``channel`` (0 is START) to zero."""
        self.ask(f"{_block(channel)}:COUNter:RESEt")

    def input_error(self, channel: int) -> tuple[int, str]:
        """The high-resolution error of an input as (code, meaning), and clear it."""
        code = self._ask_int(f"{_block(channel)}:HIRES:ERROR?")
        self.ask(f"{_block(channel)}:HIRES:ERROR:CLEAR")
        return code, HIRES_ERRORS.get(code, "unknown")

    # Records and tags

    def start_streams(self, channels: Sequence[int]) -> None:
        """Have the DLT stream the tags of ``channels`` to us.

        Acquisitions that the DLT still runs, left by a process that died, are stopped first: they hold the
        channels and ports (as IDQ's ``close_active_acquisitions`` does).
        """
        self._check_channels(channels)
        self.must_end_dark()
        with self._lock:
            self._drop_streams()
            for leftover in self._dlt.acquisitions():
                self._dlt.stop(leftover)
            self._context = zmq.Context()
            try:
                for channel in channels:
                    self._streams[channel] = self._start_stream(self._context, channel)
            except BaseException:
                self._drop_streams()
                raise

    def _start_stream(self, context: zmq.Context[zmq.Socket[bytes]], channel: int) -> TagStream:
        self.ask(f"RAW{channel}:ERRORS:CLEAR")
        port = self._stream_port + channel
        acquisition = self._dlt.start_stream(self._host, channel, port)
        pair = context.socket(zmq.PAIR)
        pair.setsockopt(zmq.LINGER, 0)
        pair.setsockopt(zmq.RCVHWM, 0)
        address = f"{self._dlt.link.host}:{port}"
        pair.connect(f"tcp://{address}")
        stream = TagStream(channel, acquisition, pair, address, self.name)
        self.ask(f"RAW{channel}:SEND ON")
        return stream

    def restart_streams(self) -> None:
        """Stop any record, forget every tag not read yet, and stream the same channels anew.

        To be called after an aborted frame: the next ``read_tags`` would return its tags too.
        """
        with self._lock:
            channels = tuple(self._streams)
            self.ask("REC:STOP")
            for channel in channels:
                self.ask(f"RAW{channel}:SEND OFF")
            self.start_streams(channels)

    def stop_streams(self) -> None:
        """Stop the transfer of tags; what was not read is dropped."""
        with self._lock:
            try:
                for channel, stream in self._streams.items():
                    self.ask(f"RAW{channel}:SEND OFF")
                    self._dlt.stop(stream.acquisition)
            finally:
                self._drop_streams()

    def _drop_streams(self) -> None:
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None

    def play_record(self, duration_ps: int) -> None:
        """Start one record of ``duration_ps``; returns at once.  NotReadyError while one is running."""
        self._duration_limits.validate(duration_ps, f"duration of a record of {self.name}")
        self.must_end_dark()
        with self._lock:
            if self._configured is None:
                raise NotReadyError("call configure() first", instrument=self.name, address=self.address)
            if self.record_playing():
                raise NotReadyError("a record is still running", instrument=self.name, address=self.address)
            try:
                self.ask(f"REC:DURation {int(duration_ps)};:REC:PLAY")
            except LinkError as error:
                for stream in self._streams.values():  # whether the record ran is unknown
                    stream.failure = error
                raise
            for stream in self._streams.values():
                stream.records_expected += 1

    def record_playing(self) -> bool:
        """Whether the record generator runs."""
        return self.ask("REC:STAGe?").strip().upper() == "PLAYING"

    def read_tags(self, channel: int) -> npt.NDArray[np.uint64]:
        """Every tag of ``channel`` since the last call, once the records played since then have arrived.

        uint64 of shape (n, 2), C-contiguous: timestamp in ps since the reference pulse, and the index of that pulse in
        the stream.  All or nothing: LinkTimeoutError when tags are missing, InstrumentRefusedError when the
        instrument or the DLT reports that it lost some; the streams must then be started again.
        """
        with self._lock:
            stream = self._streams.get(channel)
            if stream is None:
                raise NotReadyError(
                    f"channel {channel} is not streamed; call start_streams()",
                    instrument=self.name,
                    address=self.address,
                )
            stream.require_sound()
            total = self._acquired(stream)
            lost = self._ask_int(f"RAW{channel}:ERRORS?")
            if lost:
                raise self._fail(
                    stream,
                    InstrumentRefusedError,
                    f"the instrument reports {lost} timestamp errors; start the streams again",
                )
            tags = stream.take(
                total, self._transfer_timeout_s
            )  # last: what it returns is gone from the stream
            tags[:, 0] *= np.uint64(self._time_base_ps)
            return tags

    def _acquired(self, stream: TagStream) -> int:
        """The total of tags that the DLT received, once it has registered the end of every record played."""
        deadline = time.monotonic() + self._transfer_timeout_s
        while True:
            status = self._dlt.status(stream.acquisition)
            if status.losses:
                raise self._fail(
                    stream, InstrumentRefusedError, f"the DLT service lost tags: {status.losses}"
                )
            if status.records > stream.records_expected:
                raise self._fail(
                    stream, NotReadyError, "somebody else started records; they cannot be told apart"
                )
            if status.tags < stream.taken:
                raise self._fail(stream, MalformedReplyError, "the DLT service counts backwards")
            if status.records == stream.records_expected:
                return status.tags
            if time.monotonic() > deadline:
                raise self._fail(
                    stream,
                    LinkTimeoutError,
                    f"{status.records} of {stream.records_expected} records reached the DLT service "
                    f"within {self._transfer_timeout_s:g} s",
                )
            self._pause(self._poll_interval_s)

    def _fail(self, stream: TagStream, kind: type[Any], text: str) -> Any:
        stream.failure = kind(
            f"channel {stream.channel}: {text}", instrument=self.name, address=stream.address
        )
        return stream.failure

    def _check_channels(self, channels: Sequence[int]) -> None:
        for channel in channels:
            if channel not in CHANNELS:
                raise LimitError(
                    f"channel {channel} is none of {CHANNELS}", instrument=self.name, address=self.address
                )


def _block(channel: int) -> str:
    return f"INPU{channel}" if channel else "STARt"
