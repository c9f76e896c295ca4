"""What looking costs: python tests/benchmarks/bench_dashboard.py.

The dashboard's own server in a process of its own, with the board of a ring of four users that changes ten times a second
(the ring's phase, light of the pair on the ring, a reading), and browsers that stream all of it.

``value``: processor time of the server over that of ten updates a second; by ``getrusage``, so it does not matter what else
the machine does.  ``bytes_per_s``: what one browser receives.  ``page_bytes``: the heaviest page with all that it loads and
the first message.  ``first_paint_s`` and ``drawn_s``: from asking for the wall page to its first text and to its values, in a
Chromium that has nothing of it kept, the median of :data:`LOADS` loads; None where there is no Chromium.
"""

from __future__ import annotations

import importlib.util
import json
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
from measuring import Figure

from lab.dashboard.application import PAGES, Application
from lab.dashboard.board import Board
from lab.dashboard.door import Tokens
from lab.dashboard.serving import listen_at, web_server
from lab.runs.testbeds.folder import create_folder, template_path
from lab.runs.testbeds.machine import Machine
from orchestrator.events.status import LaneStock, PairStatus, PeerStatus, RingStatus, Stock

BROWSERS = 20
UPDATES_PER_S = 10
SECONDS = 10.0
MOST_SHARE = 0.1
MOST_PAGE_BYTES = 300_000
LOADS = 7
MOST_PAINT_S = 1.0
HELPERS = Path(__file__).parents[1] / "helpers"
LOADED = re.compile(r"""(?:from|src=|href=|import\(|SharedWorker\()\s*["'](/static/[^"'`]+)["']""")


def filled(board: Board, machine: Machine) -> None:
    """What is on the board of a ring at work."""
    testbed = machine.testbed
    users = testbed.user_names()
    for user in users:
        board.put(f"item/orchestrator/PeerStatus/{user}", msgspec.to_builtins(PeerStatus(user, True, True)))
        lanes = [LaneStock(other, lane, 10**5, 10**4) for other in users for lane in ("auth_ab", "fl", "app")]
        board.put(f"item/{user}/Stock", msgspec.to_builtins(Stock(lanes)))
    for first, second in testbed.pairs():
        status = PairStatus(first, second, 10**5, 10**6, 10**4, 4908.720449393101, True, True)
        board.put(f"item/orchestrator/PairStatus/{first}/{second}", msgspec.to_builtins(status))
    for number in range(300):
        text = f"alice-bob: block {number} stored, 42,778 bits, QBER 0.73 %"
        board.put(f"log/{number:09d}", {"kind": "BlockReport", "role": "alice", "text": text, "clock": 1.8e9})


def update(board: Board, number: int) -> None:
    """A tenth of a second later."""
    ring = RingStatus("granted", number / UPDATES_PER_S, "alice", "bob", number)
    board.put("item/orchestrator/RingStatus", msgspec.to_builtins(ring))
    light = {
        "first": "alice",
        "second": "bob",
        "pulses": number * 10**6,
        "d1_cps": 1e5 + number,
        "d2_cps": 1e5,
    }
    board.put("item/relay/LightNow", light)
    board.put(
        "item/relay/Readings/laser/power_mw",
        {"value": 1.0 + number * 1e-4, "unit": "mW", "limits": [0.0, 10.0]},
    )


def serve(folder: Path) -> None:
    """The server: says where, waits for a line, has the board change, and says what that took."""
    machine, board = Machine(folder, None), Board(time.monotonic)
    filled(board, machine)
    ending = threading.Event()
    application = Application(board, machine, Tokens("0" * 32), ending.is_set, alone=True)
    bound = listen_at("127.0.0.1:0", machine)
    with web_server(application, bound):
        print(bound.getsockname()[1], flush=True)
        seconds = float(sys.stdin.readline())
        began_s, number = _cpu_s(), 0
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            number += 1
            update(board, number)
            time.sleep(1 / UPDATES_PER_S)
        print(json.dumps({"cpu_s": _cpu_s() - began_s, "updates": number}), flush=True)
        sys.stdin.readline()
        ending.set()


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Browser:
    """Reads a stream in a thread and counts."""

    def __init__(self, port: int) -> None:
        self.bytes = self.messages = 0
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.sendall(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while part := self._socket.recv(1 << 16):
            self.bytes += len(part)
            self.messages += part.count(b"\ndata: ")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


def page_bytes(port: int) -> dict[str, int]:
    """What a browser loads for each page, the first message with it."""
    first = len(_get(port, "/api/board"))
    sizes = {}
    for page in PAGES:
        module = f"/static/pages/{page or 'wall'}.js"
        loaded: dict[str, int] = {}
        wanted = [f"/{page}", module]
        while wanted:
            path = wanted.pop()
            if path not in loaded:
                content = _get(port, path)
                loaded[path] = len(content)
                wanted += LOADED.findall(content.decode(errors="replace"))
        sizes[page or "wall"] = sum(loaded.values()) + first
    return sizes


def _get(port: int, path: str) -> bytes:
    """What stands there; nothing for a page that is not made yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            found: bytes = answer.read()
            return found
    except urllib.error.HTTPError:
        return b""


def painted(port: int, loads: int) -> tuple[float | None, float | None]:
    """Seconds to the first text of the wall page, and to its values."""
    if importlib.util.find_spec("selenium") is None or not shutil.which("chromium"):
        return None, None
    if str(HELPERS) not in sys.path:
        sys.path.append(str(HELPERS))
    from browser import Browser as Chromium

    chromium = Chromium()
    paints, drawn = [], []
    try:
        chromium.driver.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
        for _ in range(loads):
            chromium.driver.get(f"http://127.0.0.1:{port}/")
            chromium.wait(lambda: chromium.js("return document.querySelector('main').dataset.drawn"), "drawn")
            first = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
            chromium.wait(lambda first=first: chromium.js(first), "the first paint")
            paints.append(chromium.js(first) / 1000)
            drawn.append(float(chromium.js("return document.querySelector('main').dataset.drawn")) / 1000)
    finally:
        chromium.close()
    return median(paints), median(drawn)


def dashboard(browsers: int = BROWSERS, seconds: float = SECONDS, loads: int = LOADS) -> dict[str, Figure]:
    """The figure of ``qunetlab bench``."""
    with tempfile.TemporaryDirectory() as folder:
        home = create_folder(Path(folder) / "bench", template_path("simulated-four-node")).parent
        with subprocess.Popen(
            [sys.executable, __file__, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            port = int(server.stdout.readline())
            pages = page_bytes(port)
            readers = [Browser(port) for _ in range(browsers)]
            while not all(each.messages for each in readers):
                time.sleep(0.01)
            before = sum(each.bytes for each in readers)
            messages = sum(each.messages for each in readers)
            server.stdin.write(f"{seconds}\n")
            server.stdin.flush()
            told: dict[str, Any] = json.loads(server.stdout.readline())
            received = sum(each.bytes for each in readers) - before
            messages = sum(each.messages for each in readers) - messages
            for each in readers:
                each.close()
            first_paint_s, drawn_s = painted(port, loads)
            server.stdin.write("end\n")
            server.stdin.flush()
    modelled_s = told["updates"] / UPDATES_PER_S
    share, heaviest = told["cpu_s"] / modelled_s, max(pages.values())
    figure: Figure = {
        "value": share,
        "unit": "of a processor",
        "browsers": browsers,
        "updates_per_s": UPDATES_PER_S,
        "messages_per_update": messages / told["updates"] / browsers,
        "bytes_per_s": received / browsers / modelled_s,
        "page_bytes": heaviest,
        "heaviest_page": max(pages, key=pages.__getitem__),
        "first_paint_s": first_paint_s,
        "drawn_s": drawn_s,
        "checks_passed": share < MOST_SHARE
        and heaviest < MOST_PAGE_BYTES
        and (first_paint_s or 0.0) < MOST_PAINT_S,
    }
    return {"dashboard_share": figure}


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(Path(sys.argv[1]))
    else:
        print(json.dumps(dashboard()))
