"""The page of a process: metrics, life and readiness, and readers that are in nobody's way."""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from lab.runs.addresses import LOOPBACK, ListenError, host_and_port
from lab.runs.watched import page as page_module
from lab.runs.watched.page import READERS, MetricsPage
from lab.runs.watched.process import page_of
from orchestrator.events.common import Serving
from orchestrator.events.inside import Loop
from orchestrator.metrics.book import Metrics

REASONS: list[str] = []


@pytest.fixture
def page() -> Iterator[MetricsPage]:
    with MetricsPage(lambda accept: ("text/plain", b"x 1\n"), lambda: REASONS, "127.0.0.1", 0) as page:
        yield page


def get(page: MetricsPage, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(page.url.replace("/metrics", path), timeout=10) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_three_pages_and_no_other(page: MetricsPage) -> None:
    assert get(page, "/metrics?now") == (200, b"x 1\n")
    assert get(page, "/healthz") == (200, b'{"alive": true, "reasons": []}\n')
    assert get(page, "/secrets")[0] == 404


def test_readiness_is_503_with_its_reasons(page: MetricsPage) -> None:
    assert get(page, "/readyz") == (200, b'{"ready": true, "reasons": []}\n')
    REASONS.append("the laser is gone")
    try:
        status, text = get(page, "/readyz")
    finally:
        REASONS.clear()
    assert (status, json.loads(text)) == (503, {"ready": False, "reasons": ["the laser is gone"]})


def test_slow_readers_take_no_more_than_their_places(page: MetricsPage) -> None:
    slow = [socket.create_connection(place_of(page), timeout=10) for _ in range(READERS)]
    try:
        for each in slow:
            each.sendall(b"GET /metr")  # and nothing more
        with socket.create_connection(place_of(page), timeout=10) as late:
            assert late.recv(1) == b"", "the ninth is turned away at once"
        slow.pop().close()
        assert not all(refused(page) for _ in range(200))
    finally:
        for each in slow:
            each.close()


def test_who_dribbles_loses_the_place_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "PATIENCE_S", 0.4)
    monkeypatch.setattr(page_module, "LOOK_S", 0.05)
    with (
        MetricsPage(lambda accept: ("text/plain", b"x 1\n"), lambda: REASONS, "127.0.0.1", 0) as page,
        socket.create_connection(place_of(page), timeout=10) as slow,
    ):
        sent = 0
        while (
            sent < 100 and not select.select([slow], [], [], 0.05)[0]
        ):  # each byte comes long before its own time-out
            slow.sendall(b"G")
            sent += 1
        assert 1 < sent < 100
        assert slow.recv(1) == b""


def test_a_thousand_at_once_leave_nothing_behind_and_stop_nobody(page: MetricsPage) -> None:
    before = len(os.listdir("/proc/self/fd"))
    turns, ending = 0, threading.Event()

    def work() -> None:
        nonlocal turns
        while not ending.wait(0.001):
            turns += 1

    working = threading.Thread(target=work)
    working.start()
    crowd = []
    for _ in range(1000):
        each = socket.socket()
        each.setblocking(False)
        each.connect_ex(place_of(page))
        crowd.append(each)
    for each in crowd:
        each.close()
    while refused(page):
        pass
    assert get(page, "/metrics") == (200, b"x 1\n")
    ending.set()
    working.join()
    assert turns > 10
    while len(os.listdir("/proc/self/fd")) > before + 2:
        pass  # the last readers are noticed to have gone a moment later


def test_a_process_whose_loop_hangs_does_not_live_once_it_serves() -> None:
    metrics, age_s = Metrics("relay"), 30.0
    page = page_of(metrics, "127.0.0.1:0", lambda: Loop(age_s, 20.0))
    assert page is not None
    with page:
        assert get(page, "/healthz")[0] == 200, "it starts, which may take longer"
        metrics.tell(Serving())
        status, text = get(page, "/healthz")
        assert (status, json.loads(text)["reasons"]) == (503, ["its control loop has not turned for 30 s"])
        assert b'qunetlab_loop_age_seconds{role="relay"} 30.0\n' in get(page, "/metrics")[1]
        age_s = 0.1
        assert get(page, "/healthz")[0] == 200


def test_nobody_reaches_it_from_elsewhere_unless_told_so() -> None:
    page = page_of(Metrics("alice"), LOOPBACK)
    assert page is not None
    with page:
        host, port = place_of(page)
        assert host == "127.0.0.1"
        with socket.create_connection((host, port), timeout=10):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=10)


def place_of(page: MetricsPage) -> tuple[str, int]:
    return host_and_port(page.url.removeprefix("http://").removesuffix("/metrics"), "", "")


def refused(page: MetricsPage) -> bool:
    """Whether nobody has left yet; who closed a connection is noticed a moment later."""
    try:
        return get(page, "/healthz")[0] != 200
    except OSError:
        return True


def test_an_address_that_is_taken_is_told_with_what_to_do(page: MetricsPage) -> None:
    taken = page.url.removeprefix("http://").removesuffix("/metrics")
    with pytest.raises(ListenError, match=rf"cannot listen at {taken}.*--metrics HOST:PORT"):
        page_of(Metrics("alice"), taken)


@pytest.mark.parametrize("listen", ["9464", "here:", "127.0.0.1:99999", ""])
def test_an_address_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(ValueError, match=r"--metrics .* is no HOST:PORT"):
        page_of(Metrics("alice"), listen)


def test_it_can_be_left_out() -> None:
    assert page_of(Metrics("alice"), "off") is None
