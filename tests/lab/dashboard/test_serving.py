"""The server as a browser, a stranger's page and a careless operator meet it: through sockets."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from served_dashboard import LIMIT_S, Served

from drivers.catalogue import SafeOrder
from drivers.safely import SafeJob
from lab.dashboard import application, presence, serving
from lab.dashboard.application import LARGEST_BYTES
from lab.dashboard.door import WRONG_KEPT, WRONG_S, host_name
from lab.dashboard.presence import FILE, FOLDER
from lab.interlock.interlock import interlocked
from lab.interlock.latch import kept_causes
from lab.runs.addresses import ListenError
from lab.runs.testbeds.folder import FolderError
from lab.runs.testbeds.machine import Machine

Serve = Callable[..., Served]


@contextmanager
def events(served: Served, path: str = "/events", **headers: str) -> Iterator[HTTPResponse]:
    """A stream, as a browser opens it."""
    connection = HTTPConnection(served.host, timeout=LIMIT_S)
    try:
        connection.request("GET", path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        yield connection.getresponse()
    finally:
        connection.close()


def message(stream: HTTPResponse) -> tuple[str, dict[str, Any]]:
    """The next one: its id and what it says."""
    lines = [stream.readline().decode().rstrip("\n") for _ in range(3)]
    assert lines[0].startswith("id: ")
    assert lines[2] == ""
    return lines[0].removeprefix("id: "), json.loads(lines[1].removeprefix("data: "))


def until(stream: HTTPResponse, key: str) -> tuple[str, dict[str, Any]]:
    """The message that has ``key``."""
    while True:
        number, told = message(stream)
        if key in told["set"]:
            return number, told


def test_a_browser_that_comes_back_is_told_what_it_missed_and_no_more(machine: Machine, serve: Serve) -> None:
    served = serve(machine)
    served.board.put("one", 1)
    with events(served) as stream:
        assert stream.status == 200
        seen, told = message(stream)
        assert told["whole"] is True
        assert told["set"]["one"][1] == 1
        served.board.put("two", 2)
        seen, told = until(stream, "two")
        assert told["whole"] is False
        assert "one" not in told["set"]
    served.board.put("three", 3)
    served.board.drop("one")
    with events(served, Last_Event_ID=seen) as stream:
        _, told = message(stream)
        assert told["whole"] is False
        assert told["set"]["three"][1] == 3
        assert told["gone"] == ["one"]
        assert not {"one", "two"} & set(told["set"])
    with events(served, f"/events?from={'0' * 16}:{seen.partition(':')[2]}") as stream:
        assert message(stream)[1]["whole"] is True, "another board's number says nothing of this one"


@pytest.mark.parametrize("query", ["1", "x:1", "x:-1", "x:1.5", "x:²", "a" * 99 + ":1", ":"])
def test_a_malformed_place_in_the_stream_is_refused_or_counts_as_none(
    machine: Machine, serve: Serve, query: str
) -> None:
    served = serve(machine)
    with events(served, f"/events?from={quote(query)}") as stream:
        if stream.status != 400:
            assert message(stream)[1]["whole"] is True
        else:
            assert b"INSTANCE:NUMBER" in stream.read()


def test_a_stranger_s_page_reads_nothing_and_stops_nothing(machine: Machine, serve: Serve) -> None:
    served = serve(machine)
    machine.folder("relay").mkdir(parents=True)
    status, headers, _ = served.ask("GET", "/")
    assert status == 200
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "access-control-allow-origin" not in headers
    assert headers["x-content-type-options"] == "nosniff"
    assert served.ask("GET", "/api/board", Host="evil.example")[0] == 421
    assert served.ask("GET", "/api/board", Host=f"localhost:{served.host.partition(':')[2]}")[0] == 200
    for given in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ):
        assert served.ask("POST", "/api/stop", None, **given)[0] == 403, given
        assert served.ask("POST", "/api/act/acknowledge", b"{}", **given)[0] == 403, given
    assert served.ask("GET", "/api/stop")[0] == 405
    assert kept_causes(machine.folder("relay")) == ()
    assert (
        served.ask("POST", "/api/stop", Origin=f"http://{served.host}", Sec_Fetch_Site="same-origin")[0]
        == 200
    )
    assert kept_causes(machine.folder("relay")) != ()


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST:80", "localhost"),
        ("[::1]:80", "::1"),
        ("[::1", "::1"),
        ("", ""),
    ],
)
def test_the_name_of_a_host(host: str, name: str) -> None:
    assert host_name(host) == name


def test_wrong_tokens_are_refused_and_soon_not_looked_at(machine: Machine, serve: Serve) -> None:
    served = serve(machine)
    assert served.act("acknowledge", {})[0] == 200
    for wrong in ("", "x", served.token[:-1], served.token + "0", served.token.upper() + " ")[:WRONG_KEPT]:
        status, told = served.act("acknowledge", {}, wrong)
        assert status == 403
        assert "dashboard/token" in told["error"]
        assert served.token not in told["error"]
    status, told = served.act("acknowledge", {})
    assert status == 429
    assert f"wait for {WRONG_S:.0f} s" in told["error"]
    assert served.ask("POST", "/api/stop")[0] == 200, "stopping needs no token"


@pytest.mark.parametrize(
    ("name", "body", "status", "words"),
    [
        ("explode", b"{}", 400, "there are acknowledge, alarm-acknowledge"),
        ("acknowledge", b"{", 400, "no JSON"),
        ("acknowledge", b"[" * 10_000, 400, "no JSON"),
        ("acknowledge", b"[]", 400, "object"),
        ("acknowledge", b'{"rule": "relay"}', 400, "rule"),
        ("acknowledge", b'{"role": "eve"}', 400, "'eve' owns no instrument"),
        ("acknowledge", b'"' + b"x" * LARGEST_BYTES + b'"', 413, "longer than"),
        ("acknowledge", b"\xff\xfe", 400, "no JSON"),
        ("queue-hold", b'{"number": -1}', 400, "number"),
        ("queue-hold", b"{}", 503, "no process listens"),
        ("queue-resume", b'{"number": 1, "pair": "alice-bob"}', 400, "not both"),
        ("queue-resume", b'{"pair": "alice-eve"}', 400, "is no pair"),
        ("queue-abort", b"{}", 400, "number"),
        ("queue-move", b'{"number": 1, "due_in_s": 1e999}', 400, "due_in_s"),
        ("calibrate", b'{"pair": "alice-bob", "steps": ["intensity"]}', 400, "with `qunetlab calibrate`"),
        ("calibrate", b'{"pair": "alice-bob", "steps": []}', 400, "steps"),
        ("order-key", b'{"pair": "alice-bob", "bits": 0}', 400, "bits"),
        ("alarm-acknowledge", b'{"id": "eve/low-water"}', 400, "'eve' owns no instrument"),
        ("alarm-shelve", b'{"id": "alice/low-water", "for_s": 1e9}', 400, "for_s"),
        ("alarm-acknowledge", b'{"id": "alice/low-water/bob"}', 503, "no process listens"),
    ],
)
def test_requests_that_nobody_can_do(
    machine: Machine, serve: Serve, name: str, body: bytes, status: int, words: str
) -> None:
    served = serve(machine)
    found, _, answer = served.ask("POST", f"/api/act/{name}", body, Authorization=f"Bearer {served.token}")
    told = json.loads(answer)
    assert (found, told["ok"]) == (status, False)
    assert told["error"]
    assert words in told["error"]


def test_what_is_no_request_is_a_line_of_our_log(
    machine: Machine, serve: Serve, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    shown = serve(machine)
    host, port = shown.host.split(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT_S) as stranger:
        stranger.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")
        assert b"400" in stranger.recv(1000)
    assert "Invalid HTTP request" in caplog.text
    assert capfd.readouterr().err == "", "uvicorn has no words of its own"


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/pair", 404, "Pages are /, /ring, /pairs"),
        ("/static/gone.js", 404, "Pages are"),
        ("/api/finding/relay/none", 404, "steps are reference, carver"),
        ("/api/finding/eve/delays", 404, "owners are relay, alice"),
        ("/api/finding/..%2f..%2fsecrets/delays", 404, "Pages are"),
        ("/api/finding/relay/delays", 404, "nothing was found by delays of relay yet"),
        ("/pages/calibration", 404, "No calibration has written a page yet"),
        ("/pages/audit", 404, "No audit was asked for at a page yet"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(
    machine: Machine, serve: Serve, path: str, status: int, words: str
) -> None:
    found, _, answer = serve(machine).ask("GET", path)
    assert found == status
    assert words in answer.decode()


def test_the_page_of_an_audit_is_served_and_nothing_of_it_runs(machine: Machine, serve: Serve) -> None:
    served = serve(machine)
    (machine.folder("dashboard") / "audit.html").write_text("<h1>Audit</h1>", encoding="utf-8")
    status, headers, content = served.ask("GET", "/pages/audit")
    assert (status, content) == (200, b"<h1>Audit</h1>")
    assert headers["content-security-policy"].startswith("sandbox; default-src 'none'")


class Laser:
    """A station of one laser."""

    owner = "relay"
    permit = None

    def __init__(self, error: Exception | None = None) -> None:
        self.on, self.error = True, error

    def safe_jobs(self) -> tuple[SafeJob, ...]:
        return (SafeJob(SafeOrder.LIGHT, "laser", self.off),)

    def off(self) -> None:
        if self.error is not None:
            raise self.error
        self.on = False


def test_stopping_says_what_was_read_back_and_when_and_what_nobody_did(
    machine: Machine, serve: Serve
) -> None:
    served = serve(machine)
    for role in ("relay", "alice"):
        machine.folder(role).mkdir(parents=True)
    laser: Any = Laser()
    with interlocked(laser, machine.folder("relay")):
        told = json.loads(served.ask("POST", "/api/stop")[2])
        assert not laser.on
        assert served.act("acknowledge", {"role": "relay"})[1]["answer"]["text"].startswith("relay: released")
    rows = {row["role"]: row for row in told["roles"]}
    assert told["ok"] is False, "bob's station is elsewhere"
    assert told["verified"] is False
    relay, alice, bob = rows["relay"], rows["alice"], rows["bob"]
    assert relay["ok"] is True
    assert "emission off" in relay["dark"].values()
    assert f"verified {relay['verified'][11:19]} UTC" in relay["text"]
    assert (alice["ok"], alice["verified"], alice["dark"]) == (True, "", {})
    assert "nobody read back that it is dark" in alice["text"]
    assert bob["ok"] is False
    assert "no state folder here" in bob["text"]


def test_a_light_that_stays_on_is_said_to(machine: Machine, serve: Serve) -> None:
    served = serve(machine)
    machine.folder("relay").mkdir(parents=True)
    stuck: Any = Laser(OSError("the key switch is off"))
    with interlocked(stuck, machine.folder("relay")):
        told = json.loads(served.ask("POST", "/api/stop")[2])
    (relay,) = [row for row in told["roles"] if row["role"] == "relay"]
    assert (relay["ok"], relay["verified"], relay["dark"]) == (False, "", {})
    assert "COULD NOT BE MADE SAFE" in relay["text"]
    assert "the key switch is off" in relay["unsafe"]["laser"]


def test_a_role_that_stands_still_as_a_whole_is_ended_and_nobody_claims_to_have_seen_it_dark(
    machine: Machine, serve: Serve
) -> None:
    served = serve(machine)
    folder = machine.folder("relay")
    folder.mkdir(parents=True)
    silent = subprocess.Popen(
        [sys.executable, "-c", SILENT, str(folder / "interlock")], stdout=subprocess.PIPE
    )
    assert silent.stdout is not None
    silent.stdout.readline()
    told = json.loads(served.ask("POST", "/api/stop")[2])
    assert silent.wait(LIMIT_S) == -signal.SIGKILL
    silent.stdout.close()
    (relay,) = [row for row in told["roles"] if row["role"] == "relay"]
    assert (relay["ok"], relay["verified"], relay["dark"]) == (True, "", {})
    assert "was ended and its guard makes its instruments safe" in relay["text"]
    assert "nobody read back that it is dark" in relay["text"]
    assert kept_causes(folder)


SILENT = """
import signal, socket, sys
there = socket.socket(socket.AF_UNIX)
there.bind(sys.argv[1])
there.listen(8)
print("listens", flush=True)
signal.pause()
"""


def test_a_folder_that_cannot_be_written_shows_everything_and_stops_and_does_nothing_else(
    machine: Machine, serve: Serve
) -> None:
    machine.state.mkdir()
    (machine.state / FOLDER).write_text("in the way")  # nobody writes below it, root neither
    served = serve(machine)
    assert "no action but stopping is possible" in served.text
    assert served.ask("GET", "/")[0] == 200
    for token in ("", "x"):
        status, told = served.act("acknowledge", {}, token)
        assert status == 503
        assert "the dashboard's token cannot be kept" in told["error"]
    assert served.ask("POST", "/api/stop")[0] == 200


def test_a_token_file_that_holds_none_allows_nothing(machine: Machine, serve: Serve) -> None:
    machine.folder(FOLDER).mkdir(parents=True)
    (machine.folder(FOLDER) / "token").write_text("")
    served = serve(machine)
    status, told = served.act("acknowledge", {}, "")
    assert status == 503
    assert "holds no token" in told["error"]


def test_whoever_comes_second_is_told_where_the_first_is(
    machine: Machine, serve: Serve, tmp_path: Path, made_ring: Path
) -> None:
    served = serve(machine)
    with pytest.raises(ListenError) as refused:
        serving.listen_at(served.host, machine)
    assert f"serves at {served.url} (process {os.getpid()})" in str(refused.value)
    shutil.copytree(made_ring, tmp_path / "other")
    with pytest.raises(ListenError, match=r"the dashboard of .* is there; choose another address"):
        serving.listen_at(served.host, Machine(tmp_path / "other", None))
    another = serve(machine)
    assert f"serves at {served.url}" in another.text
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ListenError, match="choose another address with --listen"):
            serving.listen_at(f"127.0.0.1:{silent.getsockname()[1]}", machine)


def test_the_file_of_a_dashboard_that_was_killed_says_nothing(machine: Machine, serve: Serve) -> None:
    folder = machine.folder(FOLDER)
    folder.mkdir(parents=True)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(machine.path)], stdout=subprocess.PIPE, check=False, timeout=120
    )
    assert killed.returncode == -9
    assert b"http://127.0.0.1:1/" in (folder / FILE).read_bytes()
    assert presence.serving(machine) is None
    served = serve(machine)
    assert "127.0.0.1:1/" not in served.text
    assert served.url.encode() in (folder / FILE).read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
from lab.dashboard.presence import announced
from lab.runs.testbeds.machine import Machine
with announced(Machine(Path(sys.argv[1]), None), "http://127.0.0.1:1/"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    "listen", ["8642", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:99999", ":80", "127.0.0.1:²"]
)
def test_what_is_no_address_is_refused(machine: Machine, listen: str) -> None:
    with pytest.raises(ValueError, match="is no HOST:PORT"):
        serving.listen_at(listen, machine)


def test_an_installation_without_pages_says_so(
    machine: Machine, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = serve(machine)
    assert served.ask("GET", "/static/no-such.js")[0] == 404
    assert served.ask("GET", "/static/../serving.py")[0] == 404
    monkeypatch.setattr(application, "INDEX", Path("gone"))
    status, _, body = served.ask("GET", "/ring")
    assert status == 500
    assert b"this installation is not whole" in body
    monkeypatch.setattr(serving, "INDEX", Path("gone"))
    with pytest.raises(FolderError, match="not whole"):
        serve_again(machine)


def serve_again(machine: Machine) -> int:
    return serving.serve(machine, None, "127.0.0.1:0", threading.Event(), lambda *_: None)
