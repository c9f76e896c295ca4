"""Key files, the gate, and sockets that admit only whom it knows."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq
from zmq.utils import z85

from orchestrator.secret import SecretLeakError
from orchestrator.wire.curve import (
    CurveError,
    CurveKeys,
    KeyFileError,
    check_public,
    generate_keys,
    load_keys,
    server_socket,
    write_keys,
)
from orchestrator.wire.links import Link, LinkBrokenError, LinkState, Target, Waiter
from orchestrator.wire.revoked import RevokedError, RevokedKeys
from orchestrator.wire.zeromq import ZapGate, ZeroMQ, next_state

WAIT_MS = 5000
SILENCE_MS = 300


class Service:
    """One context with a ROUTER, and clients of it."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.keys = generate_keys()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        stack.callback(self.context.destroy, linger=0)
        self.socket, self.endpoint = server_socket(self.context, self.keys, "auto")

    def admit(self, allowed: dict[str, str]) -> ZapGate:
        return self.stack.enter_context(ZapGate(self.context, allowed))

    def connect(
        self, keys: CurveKeys, public: str | None = None, *, reconnect: bool = True
    ) -> tuple[Link, Waiter]:
        """A link, and its waiter, once something is known of it."""
        transport = ZeroMQ()
        self.stack.callback(transport.context.destroy, linger=0)
        waiter = transport.waiter()
        target = Target(self.endpoint, public or self.keys.public, reconnect=reconnect)
        link = transport.connect(waiter, keys, target)
        end_s = time.monotonic() + WAIT_MS / 1000
        while link.state is LinkState.CONNECTING and time.monotonic() < end_s:
            waiter.wait(end_s - time.monotonic())
        return link, waiter

    def client(self, keys: CurveKeys, server_public: str | None = None) -> tuple[Link, LinkState]:
        link, _ = self.connect(keys, server_public, reconnect=False)
        return link, link.state


@pytest.fixture
def service() -> Iterator[Service]:
    with ExitStack() as stack:
        yield Service(stack)


# -- key files ---------------------------------------------------------------------------------------


def test_keys_written_are_the_keys_read(tmp_path: Path) -> None:
    written = write_keys(tmp_path / "alice")
    read = load_keys(tmp_path / "alice")
    assert read.public == written.public
    assert read.secret.same_as(written.secret)
    assert (tmp_path / "alice" / "curve.secret").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "alice").stat().st_mode & 0o777 == 0o700


def test_existing_keys_are_not_overwritten(tmp_path: Path) -> None:
    first = write_keys(tmp_path)
    with pytest.raises(KeyFileError, match="exists already"):
        write_keys(tmp_path)
    assert load_keys(tmp_path).public == first.public


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o666])
def test_a_secret_that_others_can_read_is_refused_with_advice(tmp_path: Path, mode: int) -> None:
    write_keys(tmp_path)
    (tmp_path / "curve.secret").chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        load_keys(tmp_path)


def test_missing_keys_name_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="qunetlab init"):
        load_keys(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("curve.public", b""),
        ("curve.public", b"x" * 40),
        ("curve.public", b"\xff" * 40),
        ("curve.secret", b""),
        ("curve.secret", b"short"),
        ("curve.secret", b"\x00" * 40),
        ("curve.secret", b"~" * 40),
    ],
)
def test_damaged_key_files_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    write_keys(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(KeyFileError, match="damaged"):
        load_keys(tmp_path)


def test_files_of_two_pairs_do_not_pass_as_one(tmp_path: Path) -> None:
    write_keys(tmp_path / "a")
    write_keys(tmp_path / "b")
    (tmp_path / "a" / "curve.public").write_bytes((tmp_path / "b" / "curve.public").read_bytes())
    with pytest.raises(KeyFileError, match="not a pair"):
        load_keys(tmp_path / "a")


def test_the_secret_is_never_shown() -> None:
    keys = generate_keys()
    secret = keys.secret.reveal_bytes().decode()
    assert secret not in repr(keys)
    with pytest.raises(SecretLeakError):
        pickle.dumps(keys)


# -- the gate ----------------------------------------------------------------------------------------


def test_an_admitted_client_is_known_by_its_key(service: Service) -> None:
    alice = generate_keys()
    gate = service.admit({alice.public: "alice"})
    socket, state = service.client(alice)
    assert state is LinkState.UP
    socket.send(b"I am bob")
    assert service.socket.poll(WAIT_MS)
    frames = service.socket.recv_multipart(copy=False)
    assert gate.role_of(frames[1]) == "alice"


def test_an_unknown_key_is_refused_and_counted(service: Service) -> None:
    gate = service.admit({generate_keys().public: "alice"})
    stranger = generate_keys()
    _, state = service.client(stranger)
    assert state is LinkState.REFUSED
    assert gate.refused == 1
    assert gate.refusals[0].public == stranger.public


def test_without_a_gate_nobody_gets_in(service: Service) -> None:
    _, state = service.client(generate_keys())
    assert state is LinkState.WRONG_SERVER_KEY


def test_after_the_gate_closed_nobody_gets_in(service: Service) -> None:
    alice = generate_keys()
    service.admit({alice.public: "alice"}).close()
    assert service.client(alice)[1] is not LinkState.UP


def test_a_server_with_another_key_is_not_spoken_to(service: Service) -> None:
    alice = generate_keys()
    service.admit({alice.public: "alice"})
    socket, state = service.client(alice, server_public=generate_keys().public)
    assert state is LinkState.WRONG_SERVER_KEY
    with pytest.raises(LinkBrokenError):
        socket.send(b"for the real hub only")
    assert not service.socket.poll(SILENCE_MS)


def test_the_gate_refuses_every_mechanism_but_curve(service: Service) -> None:
    alice = generate_keys()
    service.admit({alice.public: "alice"})
    asking = service.context.socket(zmq.REQ)
    asking.connect("inproc://zeromq.zap.01")
    answers = {}
    for mechanism, credentials in (
        (b"NULL", []),
        (b"PLAIN", [b"alice", b"password"]),
        (b"GSSAPI", [b"alice"]),
        (b"CURVE", [z85.decode(alice.public)]),
    ):
        asking.send_multipart([b"1.0", b"1", b"qunetlab", b"127.0.0.1", b"", mechanism, *credentials])
        assert asking.poll(WAIT_MS)
        answers[mechanism] = asking.recv_multipart()[2]
    assert answers == {b"NULL": b"400", b"PLAIN": b"400", b"GSSAPI": b"400", b"CURVE": b"200"}


def test_two_services_in_one_process_keep_their_lists_apart(service: Service) -> None:
    alice = generate_keys()
    service.admit({alice.public: "alice"})
    other = Service(service.stack)
    other.admit({generate_keys().public: "bob"})
    assert service.client(alice)[1] is LinkState.UP
    assert other.client(alice)[1] is LinkState.REFUSED


def test_a_revoked_key_loses_its_voice_on_a_standing_connection(service: Service) -> None:
    alice = generate_keys()
    gate = service.admit({alice.public: "alice"})
    socket, _ = service.client(alice)
    socket.send(b"on its way already")
    assert service.socket.poll(WAIT_MS)
    gate.revoke("alice")
    assert gate.role_of(service.socket.recv_multipart(copy=False)[1]) is None


@pytest.mark.parametrize("spoke", [True, False])
def test_open_connections_of_a_revoked_key_are_ended_within_two_seconds_and_others_stay(
    service: Service, spoke: bool
) -> None:
    alice, bob = generate_keys(), generate_keys()
    gate = service.admit({alice.public: "alice", bob.public: "bob"})
    gate.connections.serve(service.endpoint)
    clients = [service.connect(keys) for keys in (alice, bob)]
    for (socket, _), name in zip(clients, ("alice", "bob"), strict=True):
        if spoke or name == "bob":
            socket.send(b"here")
            assert service.socket.poll(WAIT_MS)
            assert gate.role_of(service.socket.recv_multipart(copy=False)[1]) == name
    gate.revoke("alice")
    (revoked, waiter), (other, other_waits) = clients
    started = time.monotonic()
    while revoked.state is not LinkState.REFUSED:
        waiter.wait(2.0)
    assert time.monotonic() - started < 2.0
    assert gate.revoked == ["alice"]
    other_waits.wait(0.0)
    assert other.state is LinkState.UP
    other.send(b"still here")
    assert service.socket.poll(WAIT_MS)


def test_a_revoked_key_stays_out_over_restarts_and_a_new_key_of_the_role_comes_in(
    service: Service, tmp_path: Path
) -> None:
    old, new = generate_keys(), generate_keys()
    first = ZapGate(service.context, {old.public: "alice"}, revoked=RevokedKeys(tmp_path))
    with pytest.raises(RevokedError, match="no role 'eve' is served here; there are alice"):
        first.revoke("eve")
    first.revoke("alice")
    first.revoke("alice")
    first.close()
    again = service.stack.enter_context(
        ZapGate(service.context, {old.public: "alice"}, revoked=RevokedKeys(tmp_path))
    )
    assert again.revoked == ["alice"]
    assert service.client(old)[1] is LinkState.REFUSED
    again.set_allowed({new.public: "alice"})
    assert again.revoked == []
    assert service.client(new)[1] is LinkState.UP


def test_what_another_process_put_on_the_list_meanwhile_stays_on_it(tmp_path: Path) -> None:
    """`keys revoke` writes the list of a process that does not listen yet; the process has read it before."""
    starting, command = RevokedKeys(tmp_path), RevokedKeys(tmp_path)
    allowed = {"a" * 40: "alice", "b" * 40: "bob"}
    command.add("alice", allowed)
    starting.add("bob", allowed)
    assert RevokedKeys(tmp_path).roles == ["alice", "bob"]
    assert starting.without(allowed) == {}


def test_a_list_of_revoked_keys_that_cannot_be_read_lets_nobody_start(tmp_path: Path) -> None:
    (tmp_path / "revoked").write_bytes(b"garbage")
    with pytest.raises(RevokedError, match="who is revoked is unknown"):
        RevokedKeys(tmp_path)


def test_a_key_that_cannot_be_put_on_the_list_is_not_revoked_silently(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path))

    alice = generate_keys()
    gate = service.stack.enter_context(
        ZapGate(service.context, {alice.public: "alice"}, revoked=RevokedKeys(tmp_path))
    )
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.wire.revoked.replace_file", full)
        with pytest.raises(OSError, match="No space left"):
            gate.revoke("alice")
    assert gate.revoked == []


def test_a_message_without_curve_has_no_identity(service: Service) -> None:
    gate = service.admit({generate_keys().public: "alice"})
    assert gate.role_of(zmq.Frame(b"made here")) is None


def test_one_role_has_one_key(service: Service) -> None:
    with pytest.raises(CurveError, match="exactly one key"):
        service.admit({generate_keys().public: "alice", generate_keys().public: "alice"})
    with pytest.raises(CurveError, match="bob"):
        service.admit({"not a key": "bob"})


def test_one_context_has_one_gate_at_a_time(service: Service) -> None:
    alice = generate_keys()
    first = service.admit({})
    with pytest.raises(CurveError, match="one context, one gate"):
        service.admit({})
    first.close()
    service.admit({alice.public: "alice"})
    assert service.client(alice)[1] is LinkState.UP


@pytest.mark.parametrize("text", ["", "x y" * 13 + "x", "é" * 40, "0" * 39, "~" * 40])
def test_only_z85_of_32_bytes_is_a_public_key(text: str) -> None:
    with pytest.raises(ValueError, match="Z85"):
        check_public(text)


def test_an_address_in_use_is_an_error_that_says_so(service: Service) -> None:
    with pytest.raises(OSError, match="another instance"):
        server_socket(service.context, service.keys, service.endpoint)


# -- link states -------------------------------------------------------------------------------------

E = zmq.Event


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([E.CONNECT_DELAYED, E.CONNECTED], LinkState.CONNECTING),
        ([E.CONNECT_DELAYED, E.CONNECTED, E.HANDSHAKE_SUCCEEDED], LinkState.UP),
        ([E.CONNECT_DELAYED, E.CLOSED], LinkState.UNREACHABLE),
        ([E.CONNECTED, E.HANDSHAKE_FAILED_AUTH, E.DISCONNECTED], LinkState.REFUSED),
        ([E.CONNECTED, E.HANDSHAKE_FAILED_NO_DETAIL, E.DISCONNECTED], LinkState.WRONG_SERVER_KEY),
        ([E.CONNECTED, E.HANDSHAKE_SUCCEEDED, E.DISCONNECTED], LinkState.LOST),
        ([E.HANDSHAKE_SUCCEEDED, E.DISCONNECTED, E.CONNECT_RETRIED, E.CLOSED], LinkState.UNREACHABLE),
        ([E.HANDSHAKE_FAILED_AUTH, E.DISCONNECTED, E.CONNECT_RETRIED], LinkState.REFUSED),
        ([E.HANDSHAKE_FAILED_AUTH, E.DISCONNECTED, E.HANDSHAKE_SUCCEEDED], LinkState.UP),
    ],
)
def test_monitor_events_become_states(events: list[zmq.Event], state: LinkState) -> None:
    reached = LinkState.CONNECTING
    for event in events:
        reached = next_state(reached, event)
    assert reached is state
