"""The local control socket: asked by its own user it answers, by anybody else nothing happens."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.wire import control_socket
from orchestrator.wire.codec import Message, encode
from orchestrator.wire.control_socket import (
    SOCKET_FILE,
    Ask,
    ControlError,
    ControlRefusedError,
    ControlSocket,
    Done,
    MeetNow,
    Reply,
    Request,
    Revoke,
    ShowKeys,
    ask,
    listener,
    listens,
)


class Process:
    """What is asked of it, and an answer that names it."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def __call__(self, request: Request) -> Reply:
        self.asked.append(request)
        if isinstance(request, MeetNow):
            raise ValueError(f"no peer {request.peer!r}")
        if isinstance(request, ShowKeys):
            raise RuntimeError("planted")
        return Done(f"done {type(request).__name__}")


def test_a_request_is_answered_and_an_error_is_told(tmp_path: Path) -> None:
    process = Process()
    with ControlSocket(tmp_path, process):
        assert stat.S_IMODE((tmp_path / SOCKET_FILE).stat().st_mode) == 0o600
        assert listens(tmp_path)
        assert ask(tmp_path, Revoke("bob")) == Done("done Revoke")
        with pytest.raises(ControlRefusedError, match="no peer 'eve'"):
            ask(tmp_path, MeetNow("eve"))
        with pytest.raises(ControlRefusedError, match="internal error"):
            ask(tmp_path, ShowKeys())
    assert process.asked == [Revoke("bob"), MeetNow("eve"), ShowKeys()]
    assert not listens(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ControlError, match=r"no process listens at .*control; is the role running"):
        ask(tmp_path, ShowKeys())


def test_another_user_of_the_machine_is_refused_and_nothing_happens(tmp_path: Path) -> None:
    """The kernel names the user at the other end; here the socket expects another one than ours."""
    process = Process()
    with ControlSocket(tmp_path, process, user=os.getuid() + 1) as control:
        with pytest.raises(ControlRefusedError, match=f"user {os.getuid()} may not control this process"):
            ask(tmp_path, Revoke("bob"))
        assert control.refused == 1
    assert process.asked == []


ASKER = """
import os, sys
from pathlib import Path
from orchestrator.wire.control_socket import ControlError, ControlRefusedError, Revoke, ask
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
try:
    ask(Path(sys.argv[1]), Revoke("bob"))
except (ControlError, ControlRefusedError) as error:
    print(error)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can ask as another user")
@pytest.mark.parametrize(
    ("folder_mode", "socket_mode", "told"),
    [
        (0o700, 0o600, "this user may not control"),
        (0o711, 0o666, "user 65534 may not control this process, only its own user"),
    ],
)
def test_a_process_of_another_user_is_refused(
    tmp_path: Path, folder_mode: int, socket_mode: int, told: str
) -> None:
    for parent in tmp_path.parents[:4]:
        if parent.name.startswith(("pytest", "popen")):
            parent.chmod(0o711)
    state = tmp_path / "state"
    state.mkdir()
    tmp_path.chmod(0o711)
    process = Process()
    with ControlSocket(state, process):
        state.chmod(folder_mode)
        (state / SOCKET_FILE).chmod(socket_mode)
        done = subprocess.run(
            [sys.executable, "-c", ASKER, str(state)], capture_output=True, text=True, timeout=30, check=True
        )
        assert told in done.stdout
    assert process.asked == []


def test_a_path_too_long_for_an_address_works_as_well(tmp_path: Path) -> None:
    folder = tmp_path / ("f" * 100) / ("g" * 100)
    folder.mkdir(parents=True)
    with ControlSocket(folder, Process()):
        assert listens(folder)
        assert ask(folder, Revoke("bob")) == Done("done Revoke")
    assert not listens(folder)


def test_a_place_where_no_socket_can_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"cannot make the control socket {tmp_path / 'missing' / SOCKET_FILE}"):
        ControlSocket(tmp_path / "missing", Process()).start()


def test_one_process_per_folder_and_what_a_killed_one_left_is_replaced(tmp_path: Path) -> None:
    with ControlSocket(tmp_path, Process()), pytest.raises(ControlError, match="another process listens"):
        ControlSocket(tmp_path, Process()).start()
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / SOCKET_FILE))
    left.close()
    with ControlSocket(tmp_path, Process()):
        assert ask(tmp_path, Revoke("bob")) == Done("done Revoke")


def test_a_process_that_stands_still_holds_nobody_up_who_asks_whether_it_listens(tmp_path: Path) -> None:
    """Its queue is full: connect(2) of a blocking socket would wait until it goes on."""
    with socket.socket(socket.AF_UNIX) as stopped, contextlib.ExitStack() as waiting:
        stopped.bind(str(tmp_path / SOCKET_FILE))
        stopped.listen(0)
        for _ in range(8):
            one = waiting.enter_context(socket.socket(socket.AF_UNIX))
            one.setblocking(False)
            if one.connect_ex(str(tmp_path / SOCKET_FILE)) == errno.EAGAIN:
                break
        else:
            pytest.fail("the queue is not full")
        answers: queue.SimpleQueue[bool] = queue.SimpleQueue()
        asker = threading.Thread(target=lambda: answers.put(listens(tmp_path)), daemon=True)
        asker.start()
        assert answers.get(timeout=5)


def test_who_only_looks_whether_somebody_listens_leaves_no_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", control_socket.logger.name)
    with ControlSocket(tmp_path, Process()):
        assert listens(tmp_path)
        assert listener(tmp_path) == os.getpid()
        assert ask(tmp_path, Revoke("bob")) == Done("done Revoke"), "requests come one after the other"
        assert caplog.records == []
        raw(tmp_path, b"\0")
        ask(tmp_path, Revoke("bob"))
        assert [record.levelname for record in caplog.records] == ["INFO"], "half a request is worth a line"


def raw(folder: Path, data: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(folder / SOCKET_FILE))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        try:
            return connection.recv(1 << 16)
        except ConnectionResetError:  # closed with bytes unread
            return b""


def framed(message: Message) -> bytes:
    data = encode(message)
    return len(data).to_bytes(4, "big") + data


def test_garbage_and_other_versions_do_nothing(tmp_path: Path) -> None:
    process = Process()
    with ControlSocket(tmp_path, process):
        for data in (b"", b"\0", b"\xff" * 8, b"\0\0\0\x05hello", framed(Ask(1, Revoke("bob")))[:-1]):
            assert raw(tmp_path, data) == b""
        assert b"speaks version 1" in raw(tmp_path, framed(Ask(2, Revoke("bob"))))
        assert process.asked == []
        assert ask(tmp_path, Revoke("bob")) == Done("done Revoke")


@given(st.binary(max_size=200))
def test_no_bytes_but_a_request_are_read_as_one(data: bytes) -> None:
    class Connection:
        def __init__(self) -> None:
            self.left = len(data).to_bytes(4, "big") + data

        def recv(self, count: int) -> bytes:
            part, self.left = self.left[:count], self.left[count:]
            return part

    read: Callable[..., object] = control_socket._receive
    with pytest.raises(ValueError, match=r"malformed|middle"):
        read(Connection(), Ask)
