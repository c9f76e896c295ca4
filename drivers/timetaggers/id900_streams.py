"""The streams of tags of one ID900: what the DataLinkTarget (DLT) service acquires for us, and nothing of anybody else.

The service is shared.  Only acquisitions that this driver started are stopped; that one of a process that died is ours
cannot be told from its identifier, so it is left alone too unless the operator says that nobody else uses the service
(``sole_user``).  A channel or port that somebody else holds is an error that names what runs.

A stream knows how many records it has to deliver.  When the instrument or the service may have restarted, nothing is
known of the tags under way: every stream fails and says so until the streams are started again.
Sources: IDQ Python examples ``utils/acquisitions.py``, ``StreamClient``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import zmq

from drivers.links.errors import (
    InstrumentError,
    InstrumentRefusedError,
    LinkBrokenError,
    LinkTimeoutError,
    MalformedReplyError,
    NotReadyError,
    PreemptedError,
)
from drivers.timetaggers.data_link_target import DataLinkTargetClient
from drivers.timetaggers.tag_stream import TagStream

log = logging.getLogger(__name__)

START_AGAIN = "start the streams again"
HAND_OVER_S = 0.5
"""How long making safe waits for a thread that reads tags and was told to give up."""


class TagStreams:
    """Streams by channel.  ``ask`` asks the instrument, ``count`` its number at such a query."""

    def __init__(
        self,
        dlt: DataLinkTargetClient,
        ask: Callable[[str], str],
        count: Callable[[str], int],
        *,
        instrument: str,
        instrument_host: str,
        stream_port: int,
        sole_user: bool,
        transfer_timeout_s: float,
        poll_interval_s: float,
        pause: Callable[[float], None],
    ) -> None:
        self._dlt = dlt
        self._ask = ask
        self._count = count
        self._instrument = instrument
        self._instrument_host = instrument_host
        self._stream_port = stream_port
        self._sole_user = sole_user
        self._transfer_timeout_s = transfer_timeout_s
        self._poll_interval_s = poll_interval_s
        self._pause = pause
        self._lock = threading.RLock()
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self.by_channel: dict[int, TagStream] = {}
        self.acquisitions: dict[int, str] = {}
        """What we started at the service and have not stopped."""
        self._given_up = 0

    # Starting and stopping

    def start(self, channels: Sequence[int]) -> None:
        """Have the service stream ``channels`` to us, instead of what it streamed before."""
        with self._lock:
            self.stop()
            if self._sole_user:
                for leftover in self._dlt.acquisitions():
                    log.warning(
                        "%s: the DataLinkTarget still runs %s; stopping it", self._instrument, leftover
                    )
                    self._dlt.stop(leftover)
            self._context = zmq.Context()
            try:
                for channel in channels:
                    self.by_channel[channel] = self._start(self._context, channel)
            except BaseException:
                self.drop()
                raise

    def _start(self, context: zmq.Context[zmq.Socket[bytes]], channel: int) -> TagStream:
        self._ask(f"RAW{channel}:ERRORS:CLEAR")
        port = self._stream_port + channel
        try:
            acquisition = self._dlt.start_stream(self._instrument_host, channel, port)
        except InstrumentRefusedError as error:
            others = sorted(set(self._dlt.acquisitions()) - set(self.acquisitions.values()))
            raise InstrumentRefusedError(
                f"channel {channel} cannot be streamed to port {port}: {error}.  The service runs "
                f"{', '.join(others) or 'nothing'}, which this driver did not start: stop it where it was started, or "
                "give the driver the option sole_user = true where nobody else uses the service",
                instrument=self._instrument,
                address=self._dlt.link.address,
            ) from error
        self.acquisitions[channel] = acquisition
        pair = context.socket(zmq.PAIR)
        pair.setsockopt(zmq.LINGER, 0)
        pair.setsockopt(zmq.RCVHWM, 0)
        address = f"{self._dlt.link.host}:{port}"
        pair.connect(f"tcp://{address}")
        stream = TagStream(channel, acquisition, pair, address, self._instrument)
        self._ask(f"RAW{channel}:SEND ON")
        return stream

    def stop(self) -> None:
        """Stop what we started at the service; what was not read is dropped."""
        with self._lock:
            try:
                running = set(self._dlt.acquisitions()) if self.acquisitions else set()
                for channel, acquisition in list(self.acquisitions.items()):
                    self._ask(f"RAW{channel}:SEND OFF")
                    if acquisition in running:  # else the service has restarted meanwhile
                        self._dlt.stop(acquisition)
                    del self.acquisitions[channel]
            finally:
                self.drop()

    def drop(self) -> None:
        """Listen no more."""
        with self._lock:
            for stream in self.by_channel.values():
                stream.close()
            self.by_channel.clear()
            if self._context is not None:
                self._context.destroy(linger=0)
                self._context = None

    def give_up(self) -> None:
        """Have a thread that waits for tags give up, and stop everything, as far as the service answers."""
        self._given_up += 1
        if not self.acquisitions:
            return
        with self._dlt.link.urgent():  # ends a wait for the service's reply
            log.debug("%s: tags are given up", self._instrument)
        if not self._lock.acquire(timeout=HAND_OVER_S):
            log.warning("%s: a thread reads tags and does not end; its streams run on", self._instrument)
            return
        try:
            self._dlt.link.urgently(self._stop_acquisitions)
        except InstrumentError as error:
            log.warning("%s: streams are not stopped: %s", self._instrument, error)
        finally:
            self.drop()
            self._lock.release()

    def _stop_acquisitions(self) -> None:
        for channel, acquisition in list(self.acquisitions.items()):
            self._dlt.stop(acquisition)
            del self.acquisitions[channel]

    # Records

    def expect_record(self) -> None:
        """A record was started: every stream will deliver its tags."""
        for stream in self.by_channel.values():
            stream.records_expected += 1

    def fail(self, error: InstrumentError) -> None:
        """Nothing is known of the tags under way."""
        for stream in self.by_channel.values():
            stream.failure = stream.failure or error

    def fail_after_restart(self, who: str) -> None:
        """``who`` may have restarted."""
        if self.by_channel:
            log.warning("%s: %s may have restarted; %s", self._instrument, who, START_AGAIN)
        self.fail(
            LinkBrokenError(
                f"{who} may have restarted; {START_AGAIN}",
                instrument=self._instrument,
                address=self._dlt.link.address,
            )
        )

    def read(self, channel: int) -> npt.NDArray[np.uint64]:
        """Every tag of ``channel`` since the last call: uint64 of shape (n, 2), (timestamp, reference index).

        Raises NotReadyError without a stream, LinkTimeoutError when tags are missing, InstrumentRefusedError when the
        instrument or the service lost some, and PreemptedError when the instrument was made safe meanwhile.
        """
        with self._lock:
            begun = self._given_up
            stream = self.by_channel.get(channel)
            if stream is None:
                raise NotReadyError(
                    f"channel {channel} is not streamed; call start_streams()",
                    instrument=self._instrument,
                    address=self._dlt.link.address,
                )

            def go_on() -> None:
                if self._given_up != begun:
                    raise self._failed(
                        stream, PreemptedError, "given up, because the instrument was made safe"
                    )

            stream.require_sound()
            total = self._acquired(stream, go_on)
            lost = self._count(f"RAW{channel}:ERRORS?")
            if lost:
                raise self._failed(
                    stream,
                    InstrumentRefusedError,
                    f"the instrument reports {lost} timestamp errors; {START_AGAIN}",
                )
            return stream.take(total, self._transfer_timeout_s, go_on=go_on)

    def _acquired(self, stream: TagStream, go_on: Callable[[], None]) -> int:
        """The total of tags that the service received, once it has registered the end of every record played."""
        deadline = time.monotonic() + self._transfer_timeout_s
        while True:
            try:
                status = self._dlt.status(stream.acquisition)
            except InstrumentRefusedError as error:  # it does not know the acquisition any more
                stream.failure = stream.failure or error
                stream.require_sound()
                raise
            stream.require_sound()  # asking may have shown that the service restarted
            if status.losses:
                raise self._failed(
                    stream, InstrumentRefusedError, f"the DLT service lost tags: {status.losses}"
                )
            if status.records > stream.records_expected:
                raise self._failed(
                    stream, NotReadyError, "somebody else started records; they cannot be told apart"
                )
            if status.tags < stream.taken:
                raise self._failed(stream, MalformedReplyError, "the DLT service counts backwards")
            if status.records == stream.records_expected:
                return status.tags
            if time.monotonic() > deadline:
                raise self._failed(
                    stream,
                    LinkTimeoutError,
                    f"{status.records} of {stream.records_expected} records reached the DLT service "
                    f"within {self._transfer_timeout_s:g} s",
                )
            go_on()
            self._pause(self._poll_interval_s)

    def _failed(self, stream: TagStream, kind: type[InstrumentError], text: str) -> InstrumentError:
        stream.failure = kind(
            f"channel {stream.channel}: {text}", instrument=self._instrument, address=stream.address
        )
        return stream.failure
