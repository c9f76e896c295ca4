"""One connection of an application: requests in, one at a time, answers out, with a deadline on every step.

h11 reads and writes HTTP/1.1 without touching a socket; this module feeds it, and is driven by the loop alone.  What it is
waiting for is always one of these, and each has its deadline:

=============  ===============================================================  ==========================================
waiting for    ends with                                                        past its deadline
=============  ===============================================================  ==========================================
a request      its first byte; at first the whole header                        closed without a word
its header     the header, whole                                                408 and closed
its body       the body, whole                                                  408 and closed
the desk       the desk's future                                                503; the future is cancelled
the caller     to have taken its answer                                         cut off
=============  ===============================================================  ==========================================

Requests that come before the answer to the last one (pipelined) wait in h11; past a bound nothing more is read.  A caller
that goes away cancels what it had asked the desk for, and keys that come all the same are wiped.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import h11

from orchestrator import runtime
from orchestrator.delivery.certificates import CertificateError
from orchestrator.delivery.http.answers import error_answer, keys_answer, status_answer, wipe, wipe_keys
from orchestrator.delivery.http.asks import (
    Ask,
    KeyRequestRefusedError,
    KeysAskedAsMaster,
    Place,
    StatusAsked,
    ask_of,
    place_of,
)
from orchestrator.delivery.http.callers import Register
from orchestrator.delivery.http.limits import Limits
from orchestrator.delivery.http.proving import Caller, Proving
from orchestrator.delivery.key_desk import (
    BadKeyRequestError,
    DeliveredKey,
    KeyDesk,
    KeyDeskError,
    WrongCallerError,
)
from orchestrator.events.delivery import (
    DeliveryEvent,
    Fault,
    KeyCallerTurnedAway,
    KeyRequestAnswered,
    KeyServerFault,
    TurnedAway,
)
from orchestrator.wire.fields import REASON_LIMIT

KeysFuture: TypeAlias = runtime.Future[list[DeliveredKey]]
SERVER_FAILED = "the server failed; its log says more"
HEADER_TOO_LARGE = "the header is too large"
METHOD_CHARACTERS = 16
VERSIONS = (b"1.0", b"1.1")
LINGER_BYTES = 1 << 20
WRITE_AHEAD_BYTES = 65536
"""Encrypted answers that a caller has not taken; beyond it, its next request waits."""


@dataclass
class House:
    """What the connections of one server share; used by its loop alone."""

    desk: KeyDesk
    limits: Limits
    register: Register
    known: Callable[[str], bool]
    proving: Proving
    tell: Callable[[DeliveryEvent], None]
    connections: set[Connection] = field(default_factory=set)


class Connection(asyncio.Protocol):
    """See the module's docstring."""

    def __init__(self, house: House, address: str) -> None:
        self._house = house
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=house.limits.header_bytes)
        self._timer: asyncio.TimerHandle | None = None
        self._caller: Caller | None = None
        self._turned_away: KeyRequestRefusedError | None = None
        self._future: KeysFuture | None = None
        self._unwiped: list[bytearray] = []
        self._busy = self._blocked = self._last = self._closed = False
        self._ahead_bytes = 0
        self._forget_request()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(WRITE_AHEAD_BYTES, 0)
        self._house.connections.add(self)
        encoded = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        try:
            self._caller = self._house.proving.caller(encoded)
        except CertificateError as error:
            self._turn_away("certificate refused", 401, str(error))
        else:
            why = self._house.register.enter(self, self._caller, self._address)
            if why is not None:
                self._turn_away(why, 503 if why.startswith("too many") else 401)
        if self._turned_away is not None and not self._house.register.is_told(self):
            self.abort()
            return
        self._by(self._house.limits.header_s, self._close)

    def data_received(self, data: bytes) -> None:
        if self._closed:
            self._ahead_bytes += len(data)
            if self._ahead_bytes > LINGER_BYTES:
                self._transport.close()
            return
        self._http.receive_data(data)
        if self._busy or self._blocked:
            self._ahead_bytes += len(data)
            if self._ahead_bytes > self._house.limits.pipelined_bytes:
                self._transport.pause_reading()
        else:
            self._ahead_bytes = 0
            self._read_on()

    def eof_received(self) -> bool:
        self._gone()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        self._house.connections.discard(self)
        self._house.register.leave(self, self._caller)
        self._wipe_sent()

    def pause_writing(self) -> None:
        self._blocked = True
        self._by(self._house.limits.send_s, self._cut_off)

    def resume_writing(self) -> None:
        self._blocked = False
        self._wipe_sent()
        if not (self._busy or self._closed):
            self._next_request()

    # What the server calls.

    def finish(self) -> None:
        """Close after the answer that is being prepared, at once where there is none."""
        self._last = True
        if not (self._busy or self._blocked):
            self._close()

    def cut_off_revoked(self) -> None:
        """Where the certificate was revoked or has expired, nothing more is answered."""
        if self._caller is not None and (why := self._house.proving.objection(self._caller)):
            self._tell_turned_away("certificate refused", why)
            self.abort()

    @property
    def is_answering(self) -> bool:
        """Whether a request waits for the desk."""
        return self._future is not None

    def abort(self) -> None:
        """End at once, answered or not; what is written still reaches the caller."""
        self._gone()
        self._transport.abort()

    # Reading.

    def _forget_request(self) -> None:
        self._request: h11.Request | None = None
        self._place: Place | None = None
        self._body = bytearray()
        self._n_chunks = 0
        self._asked_s = 0.0
        self._in_header = False

    def _read_on(self) -> None:
        limits = self._house.limits
        if not self._in_header:
            self._in_header = True
            self._asked_s = self._loop.time()
            self._by(limits.header_s, self._too_slow)
        try:
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    self._request = event
                    self._check_header(event)
                    self._by(limits.body_s, self._too_slow)
                elif isinstance(event, h11.Data):
                    self._body += event.data
                    self._check_body(len(self._body))
                    self._count_chunk(event)
                elif isinstance(event, h11.EndOfMessage):
                    self._busy = True
                    self._ahead_bytes = len(self._http.trailing_data[0])
                    self._answer()
                    return
                else:
                    break
        except h11.RemoteProtocolError as error:
            message = {431: HEADER_TOO_LARGE}.get(error.error_status_hint, "this is not HTTP/1.1")
            self._refuse(KeyRequestRefusedError(error.error_status_hint, message), last=True)
        except KeyRequestRefusedError as refused:
            self._refuse(refused, last=True)
        else:
            if event is h11.NEED_DATA and self._http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                self._transport.write(self._http.send(go_on) or b"")

    def _check_header(self, request: h11.Request) -> None:
        """Refuse what is too much before its body is read; h11 bounds only a header that is not yet whole."""
        limits = self._house.limits
        if request.http_version not in VERSIONS:
            raise KeyRequestRefusedError(505, "this server speaks HTTP/1.1")
        if len(request.headers) > limits.header_lines:
            raise KeyRequestRefusedError(431, f"a header has at most {limits.header_lines} lines")
        if (
            len(request.target) + sum(len(name) + len(text) for name, text in request.headers)
            > limits.header_bytes
        ):
            raise KeyRequestRefusedError(431, HEADER_TOO_LARGE)
        length = self._header(b"content-length")
        if length is not None:
            if self._header(b"transfer-encoding") is not None:
                raise KeyRequestRefusedError(400, "Content-Length and Transfer-Encoding exclude each other")
            self._check_body(int(length))

    def _check_body(self, n_bytes: int) -> None:
        if n_bytes > self._house.limits.body_bytes:
            raise KeyRequestRefusedError(413, f"a body has at most {self._house.limits.body_bytes} bytes")

    def _count_chunk(self, data: h11.Data) -> None:
        self._n_chunks += data.chunk_start
        if self._n_chunks > self._house.limits.body_chunks:
            raise KeyRequestRefusedError(413, f"a body has at most {self._house.limits.body_chunks} chunks")

    def _header(self, name: bytes) -> str | None:
        """The first header of that name, None where there is none."""
        assert self._request is not None
        found: bytes | None = next((text for each, text in self._request.headers if each == name), None)
        return None if found is None else found.decode("latin-1")

    # Answering.

    def _answer(self) -> None:
        assert self._request is not None
        method, target = self._request.method.decode(), self._request.target.decode("latin-1")
        try:
            caller = self._proved()
            self._place = place_of(method, target)
            body = bytes(self._body)
            self._put(caller.sae_id, ask_of(method, self._place, self._header(b"content-type"), body))
        except KeyRequestRefusedError as refused:
            self._refuse(refused)
        except Exception as error:  # noqa: BLE001 - the caller gets an answer, and the error's text might hold key
            self._fail("a request", error)

    def _proved(self) -> Caller:
        """The caller, allowed in here and now; raises KeyRequestRefusedError."""
        if self._turned_away is not None:
            self._last = True
            raise self._turned_away
        assert self._caller is not None
        if why := self._house.proving.objection(self._caller):
            raise self._turn_away("certificate refused", 401, why)
        if not self._house.known(self._caller.sae_id):
            raise KeyRequestRefusedError(401, "the certificate's common name is no SAE of this testbed")
        return self._caller

    def _put(self, sae: str, ask: Ask) -> None:
        """Put ``ask`` to the desk; raises KeyRequestRefusedError."""
        desk = self._house.desk
        try:
            if isinstance(ask, StatusAsked):
                return self._send(200, status_answer(desk.status(sae, ask.slave)))
            if isinstance(ask, KeysAskedAsMaster):
                self._future = desk.enc_keys(
                    sae, ask.slave, ask.number, ask.size_bits, may_be_relayed=ask.may_be_relayed
                )
            else:
                self._future = desk.dec_keys(sae, ask.master, ask.key_ids)
        except KeyDeskError as error:
            raise refusal_of(error) from None
        self._by(self._house.limits.answer_s, self._desk_too_slow)
        self._future.add_done_callback(self._keys_came)
        return None

    def _keys_came(self, future: KeysFuture) -> None:
        """In whatever thread the desk is done with ``future``."""
        try:
            self._loop.call_soon_threadsafe(self._deliver, future)
        except RuntimeError:  # the server has ended
            discard(future)

    def _deliver(self, future: KeysFuture) -> None:
        if future is not self._future:
            discard(future)
            return
        self._future = None
        try:
            keys = future.result()
            n_keys = len(keys)
            answer = keys_answer(keys)
        except KeyDeskError as error:
            self._refuse(refusal_of(error))
        except Exception as error:  # noqa: BLE001 - the caller gets an answer, and the error's text might hold key
            self._fail("the desk", error)
        else:
            self._send(200, answer, n_keys=n_keys)

    def _fail(self, what: Fault, error: Exception) -> None:
        self._house.tell(KeyServerFault(what, type(error).__name__))
        self._refuse(KeyRequestRefusedError(503, SERVER_FAILED))

    def _desk_too_slow(self) -> None:
        self._cancel()
        self._refuse(KeyRequestRefusedError(503, "no answer in time; nothing was delivered"))

    def _refuse(self, refused: KeyRequestRefusedError, *, last: bool = False) -> None:
        self._last = self._last or last
        self._busy = True
        self._send(refused.status, error_answer(refused.message, refused.details), refused.headers)

    def _send(
        self,
        status: int,
        body: bytes | bytearray,
        headers: Sequence[tuple[str, str]] = (),
        n_keys: int = 0,
    ) -> None:
        """Send an answer, wipe it, and go on to the next request or close."""
        sent = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("Cache-Control", "no-store"),
            *headers,
            *([("Connection", "close")] if self._last else []),
        ]
        head = self._http.send(h11.Response(status_code=status, headers=sent, reason=b"")) or b""
        whole = bytearray(head)
        if self._request is None or self._request.method != b"HEAD":
            self._http.send_with_data_passthrough(h11.Data(data=body))  # type: ignore[arg-type]  # bytes-like
            whole += body
        self._http.send(h11.EndOfMessage())
        if isinstance(body, bytearray):
            wipe(body)
        self._by(self._house.limits.send_s, self._cut_off)
        self._transport.write(whole)
        self._unwiped.append(whole)
        if (
            not self._transport.get_write_buffer_size()
        ):  # else it may wait for its encryption: zeros would be sent
            self._wipe_sent()
        self._tell_answered(status, n_keys)
        if self._http.their_state in (h11.IDLE, h11.SEND_BODY, h11.ERROR):
            self._linger()
        elif self._last or self._http.our_state is not h11.DONE:
            self._close()
        else:
            self._http.start_next_cycle()
            self._forget_request()
            self._busy = False
            if not self._blocked:
                self._next_request()

    def _wipe_sent(self) -> None:
        for each in self._unwiped:
            wipe(each)
        self._unwiped.clear()

    def _next_request(self) -> None:
        self._by(self._house.limits.idle_s, self._close)
        if (
            self._ahead_bytes
        ):  # not from here: a thousand pipelined requests are no reason to nest a thousand calls
            self._loop.call_soon(self._read_ahead)
        self._transport.resume_reading()

    def _read_ahead(self) -> None:
        if self._ahead_bytes and not (self._busy or self._blocked or self._closed):
            self._ahead_bytes = 0
            self._read_on()

    # Ending.

    def _by(self, seconds: float, action: Callable[[], None]) -> None:
        """``action`` after so many seconds, unless something else is waited for by then."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, action)

    def _too_slow(self) -> None:
        self._tell_turned_away("too slow")
        self._refuse(KeyRequestRefusedError(408, "the request did not come in time"), last=True)

    def _cut_off(self) -> None:
        """End with one who takes nothing: the kernel forgets what it holds for them, and resets the connection."""
        self._tell_turned_away("too slow")
        with contextlib.suppress(OSError):  # it has ended already
            at_once = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.abort()

    def _linger(self) -> None:
        """Take what the caller is still sending, then close: it would be told of a broken connection, not read its answer."""
        self._closed = True
        self._ahead_bytes = 0
        self._by(self._house.limits.linger_s, self._close)
        self._transport.resume_reading()

    def _close(self) -> None:
        """Send what is written, and close; whoever does not take it is cut off."""
        self._closed = True
        self._by(self._house.limits.send_s, self._cut_off)
        self._transport.close()

    def _gone(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._cancel()

    def _cancel(self) -> None:
        future, self._future = self._future, None
        if future is not None:
            future.cancel()

    # Telling.

    def _turn_away(self, why: TurnedAway, status: int, detail: str = "") -> KeyRequestRefusedError:
        """What comes on this connection is refused with ``status``, and it is closed."""
        self._tell_turned_away(why, detail)
        self._turned_away = KeyRequestRefusedError(status, detail or why)
        self._last = True
        return self._turned_away

    def _tell_turned_away(self, why: TurnedAway, detail: str = "") -> None:
        sae = "" if self._caller is None else self._caller.sae_id
        used = "certificate in use at another address"
        other = self._house.register.address_of(self._caller) if self._caller and why == used else ""
        told = KeyCallerTurnedAway(self._address, why, sae, other, detail[:REASON_LIMIT])
        self._house.tell(told)

    def _tell_answered(self, status: int, n_keys: int) -> None:
        sae = "" if self._caller is None else self._caller.sae_id
        method = "" if self._request is None else self._request.method.decode()[:METHOD_CHARACTERS]
        endpoint, other = ("", "") if self._place is None else (self._place.endpoint, self._place.other)
        took_s = self._loop.time() - self._asked_s
        self._house.tell(KeyRequestAnswered(sae, method, endpoint, other, status, n_keys, took_s))


def refusal_of(error: KeyDeskError) -> KeyRequestRefusedError:
    """A desk's refusal by its status in the standard."""
    status = {BadKeyRequestError: 400, WrongCallerError: 401}.get(type(error), 503)
    return KeyRequestRefusedError(status, str(error), error.details)


def discard(future: KeysFuture) -> None:
    """Wipe what came after its caller had gone."""
    if future.done() and not future.cancelled() and future.exception() is None:
        wipe_keys(future.result())
