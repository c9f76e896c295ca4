"""Nodes and hub are killed while applications draw keys: no key leaves twice, and keys flow again within ten seconds."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from orchestrator.keystore.public_books import read_books
from tests.helpers.key_client import Application
from tests.helpers.key_nodes import KeyNodes, make, state

RECOVERY_S = 10.0


class Callers:
    """Threads that draw keys at alice and fetch them at bob, whatever happens to the nodes."""

    def __init__(self, nodes: KeyNodes, number: int) -> None:
        self._nodes = nodes
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.given: Counter[str] = Counter()
        self.fetched: Counter[str] = Counter()
        self.differ: list[str] = []
        self.last_s = 0.0
        """When a key last reached both ends."""
        self._threads = [threading.Thread(target=self._draw) for _ in range(number)]
        for thread in self._threads:
            thread.start()

    def _draw(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(URLError, OSError, HTTPError):
                first = Application(self._nodes.folder, "app1", self._nodes.urls["alice"])
                second = Application(self._nodes.folder, "app2", self._nodes.urls["bob"])
                while not self._stop.is_set():
                    self._pass_on(first, second)

    def _pass_on(self, first: Application, second: Application) -> None:
        keys = first.ask("app2/enc_keys?number=2")
        with self._lock:
            self.given.update(list(keys))
        for key_id, key in keys.items():
            got = second.ask(f"app1/dec_keys?key_ID={key_id}")
            with self._lock:
                self.fetched.update(list(got))
                self.differ += [key_id for each in got.values() if each != key]
                if got:
                    self.last_s = time.monotonic()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("victim", ["alice", "bob", "hub"])
def test_keys_flow_again_after_a_kill(tmp_path: Path, victim: str) -> None:
    make(tmp_path, blocks=8)
    took: list[float] = []
    with KeyNodes(tmp_path) as nodes:
        callers = Callers(nodes, 4)
        try:
            for _ in range(3):
                wait_for_key(callers, time.monotonic())
                nodes.kill(victim)
                nodes.again(victim)
                back_s = time.monotonic()
                took.append(wait_for_key(callers, back_s) - back_s)
        finally:
            callers.stop()
    assert callers.differ == []
    assert set(callers.given.values()) == set(callers.fetched.values()) == {1}
    assert callers.fetched.keys() <= callers.given.keys()
    for name in ("alice", "bob"):
        books = read_books(state(tmp_path, name) / "keys.sqlite")
        for lane in books.lanes:
            assert lane.produced == lane.stored + lane.delivered + lane.authentication + lane.burnt
    print(f"{victim}: {len(callers.given)} keys, flowing again after {[round(each, 1) for each in took]} s")
    assert max(took) <= RECOVERY_S


def wait_for_key(callers: Callers, since_s: float) -> float:
    """When a key first reached both ends after ``since_s``."""
    pause = threading.Event()
    for _ in range(6000):
        if callers.last_s > since_s:
            return callers.last_s
        pause.wait(0.01)
    raise AssertionError("no key within a minute")
