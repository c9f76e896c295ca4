"""``qunetlab metrics``: what the hub tells of the whole testbed, as metrics of the one table."""

from __future__ import annotations

import urllib.request
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from lab.cli.metrics import serve_metrics
from lab.runs.following.metrics import WholeTestbed
from lab.runs.following.observer import Observer
from lab.runs.testbeds.folder import template_path
from lab.testbed import load_testbed
from orchestrator.events.status import Alarm, BlockReport, PeerStatus, RingStatus, Served
from orchestrator.hub.agent import LinkUp
from orchestrator.wire.links import LinkState
from orchestrator.wire.messages import SnapshotEnd, TelemetryItem


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
    return Observer(load_testbed(template_path("simulated-four-node")), agent)


def page_of(observer: Observer) -> str:
    with WholeTestbed(observer, "127.0.0.1", 0) as served:
        served.poll()
        with urllib.request.urlopen(served.url, timeout=10) as answer:
            return str(answer.read().decode())


def test_what_every_role_told_the_hub_is_there_under_the_names_of_its_own_page(observer: Observer) -> None:
    lines = page_of(observer).splitlines()
    assert 'qunetlab_up{role="observer"} 1.0' in lines
    assert f'qunetlab_build_info{{role="observer",version="{version("qunetlab")}"}} 1.0' in lines
    assert 'qunetlab_state{role="observer",state="degraded"} 1.0' in lines
    assert 'qunetlab_served_light_seconds_total{role="relay"} 12.5' in lines
    assert 'qunetlab_secret_bits_total{pair="alice-bob",role="alice"} 5000.0' in lines
    assert 'qunetlab_block_qber_ratio{pair="alice-bob",role="alice"} 0.0213' in lines
    assert 'qunetlab_alarms{alarm="temperature",role="relay",severity="major",state="shelved"} 1.0' in lines
    assert 'qunetlab_alarms{alarm="store",role="bob",severity="minor",state="acknowledged"} 1.0' in lines


def test_the_texts_of_others_are_not_on_the_page(observer: Observer) -> None:
    page = page_of(observer)
    assert "hot" not in page
    assert "say " not in page
    assert list(text_string_to_metric_families(page))


@pytest.mark.parametrize("listen", ["9464", "here:", "127.0.0.1:99999", ""])
def test_an_address_that_is_none_is_refused(listen: str) -> None:
    with pytest.raises(ValueError, match="is no HOST:PORT"):
        serve_metrics(template_path("simulated-four-node"), None, listen)
