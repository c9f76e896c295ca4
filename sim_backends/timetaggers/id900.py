"""A simulated ID Quantique ID900 together with its DataLinkTarget service, behind real ZeroMQ sockets.

SCPI answers on port 5555 and the DataLinkTarget (DLT) on port 6060 of one host; ``start-stream`` binds a
PAIR socket on the port that the client names.  One thread owns every socket.  ``REC:PLAY`` starts a worker
thread that asks the light model (``on_record``) for the clicks of the record, while ``REC:STAGe?`` answers
PLAYING; when it is done the tags leave in messages of N x (uint64 timestamp in ps, uint64 index of
the reference pulse), little endian, and the DLT counts one more acquisition.  Sources: IDQ Python examples
(``utils/acquisitions.py``, ``StreamClient``); Time Controller Series User Manual, section 6.3.4, which has timestamps
in picoseconds.

The services answer through ROUTER sockets, which look like REP to a client but may also stay silent, as a
hung instrument does.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import zmq

from sim_backends.faults import FaultInjector
from sim_backends.lines import Edge
from sim_backends.site import Options, Simulated, Site, Tags
from sim_backends.timetaggers.id900_blocks import binned, events, intervals
from sim_backends.timetaggers.id900_dlt import Acquisition, DataLinkTarget
from sim_backends.timetaggers.id900_scpi import STOPPED, ID900Scpi
from sim_backends.timetaggers.id900_settings import INPUTS, LEFT_BY_SOMEONE

log = logging.getLogger(__name__)

OnRecord = Callable[[int, int], Mapping[int, Tags]]
Socket: TypeAlias = "zmq.Socket[bytes]"

STREAM_PORTS = 5  # one port a channel above the first, by the vendor's convention
MESSAGE_PAIRS = 8192
FLUSH_MS = 250  # how long a stream that is stopped waits for its client
TRIGGER_OUTPUT = 1
MAX_RATE_HZ = 25e6  # above it the high-resolution inputs report error 2


def no_clicks(duration_ps: int, record_index: int) -> dict[int, Tags]:
    """A record in the dark."""
    return {}


@dataclass
class _Stream:
    """The PAIR socket of one acquisition and what it still has to send."""

    socket: Socket
    waiting: deque[bytes] = field(default_factory=deque)


@dataclass(frozen=True)
class _Record:
    """One finished record: sorted times (ps) per channel, or None when the light model failed."""

    number: int
    duration_ps: int
    clicks: Mapping[int, Tags] | None


def build(site: Site) -> Simulated:
    """The tagger that fires the ring's trigger line and hears its detectors."""
    scpi, dlt = site.ports
    identity = f"ID Quantique,ID900,{site.serial},2.2.0"
    twin = ID900Twin(
        on_record=lambda duration_ps, index: site.record(
            duration_ps, index, clock_error=site.clock_error(external=twin.external)
        ),
        on_edge=site.fire,
        input_rates=site.input_rates,
        has_reference=site.has_reference,
        identity=identity,
        scpi_port=scpi,
        dlt_port=dlt,
    )
    site.on_trigger(twin.edge)

    def options() -> Options:
        alone: Options = {"sole_user": True}  # the simulated service has no other clients
        if dlt:
            return alone
        return {**alone, "dlt_address": twin.dlt_address, "stream_port": site.free_ports(STREAM_PORTS)}

    return Simulated(twin, lambda: twin.serve(site.host), options)


class ID900Twin:
    """The instrument and the DLT service on one host; ``serve`` returns the address a driver opens."""

    def __init__(
        self,
        *,
        on_record: OnRecord = no_clicks,
        on_edge: Callable[[Edge], None] | None = None,
        input_rates: Callable[[], Mapping[int, float]] | None = None,
        has_reference: Callable[[], bool] = lambda: True,
        left_by_someone: bool = False,
        identity: str = "ID Quantique,ID900,SIM0001,2.2.0",
        scpi_port: int = 5555,
        dlt_port: int = 6060,
        faults: FaultInjector | None = None,
    ) -> None:
        self.faults = faults or FaultInjector()
        self.lose_messages = 0  # fault: stream messages that get lost although the DLT counted their tags
        self.dlt_address = ""
        self._on_record = on_record
        self._on_edge = on_edge or self.edge  # alone: a cable from its output 1 to its START
        self._heard: dict[int, list[float]] = {channel: [] for channel in INPUTS}
        self._ports = (scpi_port, dlt_port)
        self._left_by_someone = left_by_someone
        self._scpi = ID900Scpi(
            identity,
            self._play,
            self._stop,
            on_edge=self._send_edge,
            input_rate=(lambda channel: input_rates().get(channel, 0.0)) if input_rates else None,
            has_reference=has_reference,
        )
        self._dlt = DataLinkTarget(self._open_stream, self._close_stream)
        self._streams: dict[str, _Stream] = {}
        self._finished: queue.Queue[_Record] = queue.Queue()
        self._record_number = 0
        self._begun = False
        self._playing: int | None = None  # number of the record whose tags are still wanted
        self._lock = threading.Lock()
        self._context: zmq.Context[Socket] | None = None
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._restart: Literal["scpi", "dlt"] | None = None
        self._restarted = threading.Event()
        self._host = ""
        self._endpoints: dict[str, str] = {}

    def serve(self, host: str) -> str:
        """Bind both services on ``host`` and answer in a thread; port 0 takes any free port."""
        self._host = host
        self._context = context = zmq.Context()
        wake = context.socket(zmq.PULL)
        wake.bind("inproc://record-done")
        services = {
            name: self._bind(name, port) for name, port in zip(("scpi", "dlt"), self._ports, strict=True)
        }
        self.dlt_address = self._endpoints["dlt"].removeprefix("tcp://")
        if self._left_by_someone:
            self._leave()
        self._thread = threading.Thread(
            target=self._run, args=(services, wake), name="id900-twin", daemon=True
        )
        self._thread.start()
        return self._endpoints["scpi"].removeprefix("tcp://")

    def close(self) -> None:
        """Stop the thread and close every socket; closing twice does no harm."""
        self._closing.set()
        context, self._context = self._context, None
        if context is None:
            return
        self._ring(context)
        if self._thread is not None:
            self._thread.join()
        context.destroy(linger=0)

    def state(self) -> dict[str, object]:
        """What an observer may see: settings and counts, never times."""
        with self._lock:
            return {
                "stage": self._scpi.stage,
                "resolution_ps": self._scpi.resolution_ps,
                "records": self._record_number,
                "counters": dict(self._scpi.counters),
                "enabled": {c: self._scpi.input_value("ENABle", c) == "ON" for c in self._scpi.counters},
                "thresholds_v": {c: self._scpi.input_value("THREshold", c) for c in self._scpi.counters},
                "raw_errors": dict(self._scpi.raw_errors),
                "acquisitions": {a.identifier: a.timestamps_count for a in self._dlt.acquisitions.values()},
            }

    def is_safe(self) -> bool:
        """No record runs, nor will one at the next pulse on START, and no trigger leaves."""
        with self._lock:
            return self._scpi.stage == STOPPED and not self._scpi.pulsing

    @property
    def external(self) -> bool:
        """Whether its clock follows the reference."""
        return self._scpi.value("DEVIce:SYNC") == "EXTERNAL"

    def edge(self, edge: Edge) -> None:
        """An edge arrives at START."""
        if self._scpi.hears(0, edge):
            self._scpi.counters[0] += 1
            self._heard[0].append(edge.at_ps)

    def plant_raw_errors(self, channel: int, count: int) -> None:
        """Fault: the instrument lost ``count`` timestamps of ``channel`` before they left it."""
        with self._lock:
            self._scpi.raw_errors[channel] = count

    def value(self, header: str, channel: int = 0) -> str | float:
        """A setting by its header in :mod:`sim_backends.timetaggers.id900_settings`."""
        with self._lock:
            return self._scpi.value(header, channel)

    def ask(self, request: str) -> str:
        """What the instrument answers to another client."""
        with self._lock:
            reply = self._scpi.execute(request)
            self._begin()
            return reply

    def acquire_elsewhere(self, channel: int, address: str = "") -> str:
        """Another client of the DLT service saves a channel, of this instrument unless told; returns its identifier."""
        with self._lock:
            return self._dlt.adopt(address or self._host, channel)

    def restart(self, service: Literal["scpi", "dlt"]) -> None:
        """The instrument or the service restarts: its clients' connections end and are made again by ZeroMQ.

        Returns when it answers again.  A service that restarts has forgotten its acquisitions.
        """
        self._restarted.clear()
        self._restart = service
        self._ring()
        self._restarted.wait(5.0)

    def _leave(self) -> None:
        """As the vendor's interface and its examples may leave it."""
        for request in LEFT_BY_SOMEONE:
            reply = self._scpi.execute(request)
            assert "SCPI_ERR" not in reply, reply
        self._scpi.raw_errors.update({1: 7, 2: 7})
        self._scpi.hires_errors.update({1: 2, 2: 3})
        self._scpi.histograms[1] = [5] * 40
        self.acquire_elsewhere(4)
        self.acquire_elsewhere(1, "169.254.99.107")

    def _bind(self, name: str, port: int) -> Socket:
        assert self._context is not None
        service = self._context.socket(zmq.ROUTER)
        service.setsockopt(zmq.LINGER, 0)
        self._bind_patiently(service, self._endpoints.get(name) or f"tcp://{self._host}:{port or '*'}")
        self._endpoints[name] = service.getsockopt_string(zmq.LAST_ENDPOINT)
        return service

    def _bind_patiently(self, service: Socket, endpoint: str) -> None:
        """Bind, allowing ZeroMQ a moment to finish closing an earlier socket on the same port."""
        for _ in range(100):
            try:
                service.bind(endpoint)
                return
            except zmq.ZMQError as error:
                if error.errno != zmq.EADDRINUSE or self._closing.wait(0.01):
                    raise
        service.bind(endpoint)

    def _run(self, services: dict[str, Socket], wake: Socket) -> None:
        while not self._closing.is_set():
            poller = zmq.Poller()
            for service in (*services.values(), wake):
                poller.register(service, zmq.POLLIN)
            for stream in self._streams.values():
                if stream.waiting:
                    poller.register(stream.socket, zmq.POLLOUT)
            ready = dict(poller.poll())
            if wake in ready:
                wake.recv()
                self._deliver_finished()
                self._restart_if_wanted(services)
            for name in list(services):
                if services[name] in ready:
                    self._answer(services, name)
            for stream in self._streams.values():
                if stream.socket in ready:
                    _send_waiting(stream)

    def _restart_if_wanted(self, services: dict[str, Socket]) -> None:
        name, self._restart = self._restart, None
        if name is None:
            return
        services[name].close(linger=0)
        if name == "dlt":
            for acquisition in list(self._dlt.acquisitions.values()):
                self._close_stream(acquisition)
            self._dlt.acquisitions.clear()
        services[name] = self._bind(name, 0)
        self._restarted.set()

    def _answer(self, services: dict[str, Socket], name: str) -> None:
        frames = services[name].recv_multipart()
        if self.faults.take_disconnect():
            services[name].close(linger=0)
            services[name] = self._bind(name, 0)
            return
        request = frames[-1].decode("utf-8", "replace")
        with self._lock:
            reply = self._scpi.execute(request) if name == "scpi" else json.dumps(self._dlt.execute(request))
            self._begin()
        if self.faults.latched_error is not None:
            reply = self.faults.latched_error
        outgoing = self.faults.reply(reply.encode())
        if outgoing is not None:
            services[name].send_multipart([*frames[:-1], outgoing])

    def _send_edge(self, output: int, edge: Edge) -> None:
        """An edge leaves one of the outputs: a cable leads from the first, and an input may hear its own."""
        if output == TRIGGER_OUTPUT:
            self._on_edge(edge)
        if self._scpi.loops_back(output) and edge.from_v == 0.0:
            self._heard[output].append(edge.at_ps)

    def _play(self) -> None:
        self._playing, self._record_number = self._record_number, self._record_number + 1
        for heard in self._heard.values():
            heard.clear()
        self._begun = True

    def _begin(self) -> None:
        """Start the record that a request asked for, once all of the request is done: it lasts longer than that."""
        if not self._begun:
            return
        self._begun = False
        duration_ps = int(float(self._scpi.value("RECord:DURation")))
        heard = {
            channel: np.array(sorted(each for each in times if each < duration_ps), np.uint64)
            for channel, times in self._heard.items()
            if channel == 0 or self._scpi.loops_back(channel)
        }
        threading.Thread(
            target=self._work,
            args=(self._record_number - 1, duration_ps, heard),
            name="id900-record",
            daemon=True,
        ).start()

    def _stop(self) -> None:
        self._playing = None

    def _work(self, number: int, duration_ps: int, heard: Mapping[int, Tags]) -> None:
        clicks: Mapping[int, Tags] | None = None
        resolution_ps = self._scpi.resolution_ps
        try:
            found = {**self._on_record(duration_ps, number), **heard}
            clicks = {channel: _on_grid(times, resolution_ps) for channel, times in found.items()}
        except Exception:
            log.exception("the light model failed in record %d", number)
        self._finished.put(_Record(number, duration_ps, clicks))
        self._ring()

    def _ring(self, context: zmq.Context[Socket] | None = None) -> None:
        """Have the thread that owns the sockets look around."""
        context = context or self._context
        if context is None or context.closed:
            return
        try:
            with context.socket(zmq.PUSH) as bell:
                bell.connect("inproc://record-done")
                bell.send(b"", zmq.NOBLOCK)  # its thread may have ended meanwhile
        except zmq.ZMQError:
            log.debug("the twin closes")

    def _deliver_finished(self) -> None:
        while not self._finished.empty():
            record = self._finished.get()
            with self._lock:
                if record.number == self._playing:
                    self._deliver(record)
                    self._playing = None
                    self._scpi.record_ended()

    def _deliver(self, record: _Record) -> None:
        clicks = record.clicks if record.clicks is not None else {}
        for channel, times in clicks.items():
            if channel == 0 or self._scpi.input_value("ENABle", channel) != "ON":
                continue  # START counts its edges when it hears them
            self._scpi.counters[channel] += len(times)
            if len(times) > MAX_RATE_HZ * record.duration_ps * 1e-12 and len(times) > 1:
                self._scpi.hires_errors[channel] = 2
        for block, counts in self._scpi.histograms.items():
            added = binned(block, clicks, self._scpi.value).tolist()
            held = counts[: len(added)] + [0] * (len(added) - len(counts))
            self._scpi.histograms[block] = [a + b for a, b in zip(held, added, strict=True)]
        for acquisition in self._dlt.acquisitions.values():
            if (
                acquisition.address != self._host
                or self._scpi.value("RAW#:SEND", acquisition.channel) != "ON"
            ):
                continue
            if record.clicks is None:
                acquisition.errors.append("record lost")
            self._queue_tags(acquisition, clicks)

    def _queue_tags(self, acquisition: Acquisition, clicks: Mapping[int, Tags]) -> None:
        value, channel = self._scpi.value, acquisition.channel
        if value("RAW#:[INPOrt:]ENABle:LINK", channel) != "REC":
            return
        stop, reference = (
            events(str(value(f"RAW#:[INPOrt:]{port}:LINK", channel)), clicks, value)
            for port in ("STOP", "REF")
        )
        times, references = intervals(stop, reference)
        pairs = np.empty((len(times), 2), dtype="<u8")
        pairs[:, 0] = times
        pairs[:, 1] = acquisition.acquisitions_count + references
        payload = pairs if acquisition.with_ref_index else np.ascontiguousarray(pairs[:, :1])
        acquisition.save(payload)
        stream = self._streams.get(acquisition.identifier)
        for begin in range(0, len(payload) if stream else 0, MESSAGE_PAIRS):
            if self.lose_messages:
                self.lose_messages -= 1
            elif stream:
                stream.waiting.append(payload[begin : begin + MESSAGE_PAIRS].tobytes())
        acquisition.timestamps_count += len(times)
        acquisition.acquisitions_count += 1

    def _open_stream(self, acquisition: Acquisition) -> None:
        assert self._context is not None
        if acquisition.address != self._host:
            raise ConnectionError(f"no Time Controller at {acquisition.address}")
        if not acquisition.stream_port:
            return
        pair = self._context.socket(zmq.PAIR)
        pair.setsockopt(zmq.LINGER, 0)
        pair.setsockopt(zmq.SNDHWM, 0)
        try:
            self._bind_patiently(pair, f"tcp://{self._host}:{acquisition.stream_port}")
        except zmq.ZMQError as error:
            pair.close()
            raise ConnectionError(f"port {acquisition.stream_port}: {error}") from error
        self._streams[acquisition.identifier] = _Stream(pair)

    def _close_stream(self, acquisition: Acquisition) -> None:
        stream = self._streams.pop(acquisition.identifier, None)
        if stream is None:
            return
        stream.waiting.append(b"")
        while stream.waiting and stream.socket.poll(FLUSH_MS, zmq.POLLOUT):
            _send_waiting(stream)
        if stream.waiting:
            log.debug("nobody listened to %s", acquisition.identifier)
        stream.socket.close(linger=FLUSH_MS)


def _on_grid(times_ps: Tags, resolution_ps: int) -> Tags:
    step = np.uint64(resolution_ps)
    ticks = np.asarray(times_ps, dtype=np.uint64) // step
    ticks *= step
    if np.any(ticks[1:] < ticks[:-1]):
        ticks.sort()
    return ticks


def _send_waiting(stream: _Stream) -> None:
    try:
        while stream.waiting:
            stream.socket.send(stream.waiting[0], zmq.NOBLOCK)
            stream.waiting.popleft()
    except zmq.Again:
        return
