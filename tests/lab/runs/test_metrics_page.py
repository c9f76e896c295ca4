"""The page of a process: metrics, life and readiness, and readers that are in nobody's way."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from lab.runs.addresses import ListenError, host_and_port
from lab.runs.watched.page import READERS, MetricsPage
from lab.runs.watched.process import page_of
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
    assert get(page, "/healthz") == (200, b'{"alive": true}\n')
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
    host, port = host_and_port(page.url.removeprefix("http://").removesuffix("/metrics"), "", "")
    slow = [socket.create_connection((host, port), timeout=10) for _ in range(READERS)]
    try:
        for each in slow:
            each.sendall(b"GET /metr")  # and nothing more
        with socket.create_connection((host, port), timeout=10) as late:
            assert late.recv(1) == b"", "the ninth is turned away at once"
        slow.pop().close()
        assert any(get(page, "/healthz")[0] == 200 for _ in range(200) if not refused(page))
    finally:
        for each in slow:
            each.close()


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
