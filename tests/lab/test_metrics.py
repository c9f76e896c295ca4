"""``/metrics``: every number of every item, alarms with what was done about them, in a form that Prometheus reads."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from types import SimpleNamespace
from typing import Any

import pytest

from lab.cli.metrics import serve_metrics
from lab.runs.following.metrics import CONTENT_TYPE, MetricsPage, samples, text_of
from lab.runs.following.observer import Observer
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed
from orchestrator.events.status import Alarm, BlockReport, PeerStatus, RingStatus, Served
from orchestrator.hub.agent import LinkUp
from orchestrator.wire.links import LinkState
from orchestrator.wire.messages import SnapshotEnd, TelemetryItem

LINE = re.compile(
    r'^[a-z_]+(\{[a-z]+="(\\.|[^"\\\n])*"(,[a-z]+="(\\.|[^"\\\n])*")*\})? -?[0-9.e+-]+(inf|nan)?$'
)


@pytest.fixture
def observer() -> Observer:
    said: list[tuple[str, Any]] = [
        ("orchestrator", RingStatus("free", 12.0)),
        *(("orchestrator", PeerStatus(role, True)) for role in ("relay", "alice", "bob", "carol", "dave")),
        ("relay", Served(7, 1, 12.5)),
        ("alice", BlockReport(1, 7, "alice", "bob", True, secret_bits=5000, qber=0.0213)),
        ("relay", Alarm("temperature", 'a "hot\\\nlaser', part="laser", severity="major", shelved_s=60.0)),
        ("bob", Alarm("store", 'say "x"\n', acknowledged=True)),
    ]
    events: list[Any] = [
        LinkUp(1),
        *(TelemetryItem.of(role, n, 1.0, item) for n, (role, item) in enumerate(said)),
        SnapshotEnd(len(said)),
    ]
    agent: Any = SimpleNamespace(
        link_state=LinkState.UP,
        link_reason="",
        control_send=lambda message: None,
        control_recv=lambda timeout_s: events.pop(0) if events else None,
    )
    made = Observer(load_testbed(template_path("simulated-four-node")), agent)
    made.poll()
    return made


def test_every_number_and_every_alarm_is_a_sample(observer: Observer) -> None:
    page = text_of(samples(observer))
    lines = page.splitlines()
    assert "qunetlab_up 1.0" in lines
    assert 'qunetlab_state{state="degraded"} 1.0' in lines
    assert 'qunetlab_served_light_s{role="relay"} 12.5' in lines
    assert 'qunetlab_block_report_secret_bits{role="alice",first="alice",second="bob"} 5000.0' in lines
    assert 'qunetlab_block_report_qber{role="alice",first="alice",second="bob"} 0.0213' in lines
    assert (
        'qunetlab_alarm{id="relay/temperature/laser",role="relay",name="temperature",severity="major",'
        'active="true",acknowledged="false",shelved="true"} 1.0'
    ) in lines
    for line in lines:
        assert line.startswith("# TYPE qunetlab_") or LINE.match(line), line
    types = [line.split()[2] for line in lines if line.startswith("#")]
    assert len(types) == len(set(types)), "samples of one name stand together"


def test_the_texts_of_others_stay_within_their_label() -> None:
    page = text_of(iter([("x", {"id": 'a"b\\c\nd'}, 1.0)]))
    assert page == '# TYPE x gauge\nx{id="a\\"b\\\\c\\nd"} 1.0\n'


def test_it_is_served_at_metrics_and_nowhere_else(observer: Observer) -> None:
    with MetricsPage(observer, "127.0.0.1", 0) as page:
        page.poll()
        with urllib.request.urlopen(page.url, timeout=10) as answer:
            assert answer.headers["Content-Type"] == CONTENT_TYPE
            assert b"qunetlab_up 1.0\n" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(page.url.replace("/metrics", "/"), timeout=10)


@pytest.mark.parametrize("listen", ["9464", "here:", "127.0.0.1:99999", ""])
def test_an_address_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(ValueError, match="is no HOST:PORT"):
        serve_metrics(template_path("simulated-four-node"), None, listen)
