"""Alert rules and dashboard: as written from their tables, of metrics that there are, and readable by those who take them."""

from __future__ import annotations

import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import promql_parser
import pytest

from lab.alarms.table import TABLE as ALARMS
from lab.monitoring.alerts import PROCESSES, SILENT_S, Rule, alarm_rules
from lab.monitoring.dashboard import dashboard
from orchestrator.events.learning import (
    AbortRecord,
    ClientState,
    RoundAborted,
    RoundCompleted,
    RoundRecord,
    RoundStarted,
)
from orchestrator.hub.events import HubLimits
from orchestrator.metrics.book import Metrics
from orchestrator.metrics.learning import LEARNING
from orchestrator.metrics.rows import Names
from orchestrator.metrics.table import TABLE

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "lab" / "monitoring"
SCRIPT = runpy.run_path(str(ROOT / "docs" / "scripts" / "monitoring.py"))
OF_OTHERS = {
    *("up", "process_open_fds", "process_max_fds", "process_cpu_seconds_total"),
    *("process_resident_memory_bytes", "qunetlab_build_info", "qunetlab_metrics_failures_total"),
}
"""What Prometheus and prometheus-client tell, and the book of itself."""
PLACE = {"$pair": ".*", "$role": ".*", "$__rate_interval": "1m"}
LABELS = {"job", "instance", "role", "version", *(label for row in TABLE for label in row.labels)}
GRAFANA = {
    "type": "object",
    "required": ["title", "uid", "schemaVersion", "panels", "templating", "time"],
    "properties": {
        "schemaVersion": {"const": 39},
        "templating": {"type": "object", "required": ["list"]},
        "panels": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "type", "title", "gridPos"],
                "properties": {
                    "id": {"type": "integer", "minimum": 1},
                    "type": {"enum": ["row", "timeseries", "stat"]},
                    "gridPos": {
                        "type": "object",
                        "required": ["h", "w", "x", "y"],
                        "additionalProperties": {"type": "integer", "minimum": 0},
                    },
                    "targets": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["refId", "expr", "datasource"],
                            "properties": {"refId": {"type": "string"}, "expr": {"type": "string"}},
                        },
                    },
                },
                "if": {"properties": {"type": {"not": {"const": "row"}}}},
                "then": {"required": ["targets", "datasource", "fieldConfig", "options"]},
            },
        },
    },
}
"""The parts of Grafana's dashboard model that this dashboard uses."""


def rules() -> list[Rule]:
    return [*alarm_rules(), *PROCESSES]


def expressions() -> Iterator[str]:
    yield from (rule.expr for rule in rules())
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"]
            for variable, value in PLACE.items():
                expr = expr.replace(variable, value)
            yield expr


def selectors(expr: str) -> Iterator[tuple[str, list[str]]]:
    """(metric, labels that it is chosen by) everywhere in an expression."""
    todo: list[Any] = [promql_parser.parse(expr)]
    while todo:
        node = todo.pop()
        if isinstance(node, promql_parser.VectorSelector):
            yield node.name, [each.name for each in node.matchers.matchers]
        for part in ("expr", "lhs", "rhs", "vector_selector", "param"):
            if (below := getattr(node, part, None)) is not None and not isinstance(below, str | float):
                todo.append(below)
        todo += list(getattr(node, "args", ()) or ())


@pytest.mark.parametrize("name", SCRIPT["FILES"])
def test_the_files_are_what_the_tables_say(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == SCRIPT["FILES"][name](), "python docs/scripts/monitoring.py writes it anew"


def test_every_expression_is_promql_of_metrics_that_there_are() -> None:
    known = {row.name: {"role", *row.labels} for row in TABLE}
    seen = set()
    for expr in expressions():
        found = list(selectors(expr))
        assert found or expr == "vector(0)", expr
        for metric, labels in found:
            seen.add(metric)
            assert metric in known or metric in OF_OTHERS, f"{metric} in {expr}"
            assert set(labels) <= known.get(metric, LABELS) | {"job"}, f"{labels} in {expr}"
    assert len(seen) > 40
    with pytest.raises(ValueError, match=r"."):
        promql_parser.parse("sum by (pair (qunetlab_stock_bits)")


def test_there_is_a_rule_for_every_alarm_and_what_it_says_to_do() -> None:
    found = {
        match.group(1): rule for rule in alarm_rules() if (match := re.search(r'alarm="([^"]+)"', rule.expr))
    }
    assert set(found) == set(ALARMS)
    assert all(found[name].what_to_do == row.what_to_do for name, row in ALARMS.items())
    names = [rule.alert for rule in rules()]
    assert len(names) == len(set(names))


def test_a_peer_is_silent_when_the_hub_takes_it_for_lost() -> None:
    assert HubLimits().lost_after_s == SILENT_S


def test_the_dashboard_is_as_grafana_takes_it_and_no_panel_lies_on_another() -> None:
    read = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(GRAFANA).validate(read)
    numbers = [panel["id"] for panel in read["panels"]]
    assert len(numbers) == len(set(numbers))
    cells: set[tuple[int, int]] = set()
    for panel in read["panels"]:
        place = panel["gridPos"]
        covered = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not covered & cells, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells |= covered


def test_prometheus_itself_takes_the_rules() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip(
            "promtool is not here (Debian's package `prometheus` has it): the parser above took the expressions"
        )
    checked = subprocess.run(
        [promtool, "check", "rules", str(FOLDER / "alerts.yml")], capture_output=True, text=True, timeout=60
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules())} rules found" in checked.stdout


UNITS = {
    ("bits", False): {"decbits"},
    ("bits", True): {"bps", "decbits"},
    ("bytes", False): {"bytes"},
    ("bytes", True): {"Bps", "bytes"},
    ("seconds", False): {"s"},
    ("seconds", True): {"s", "percentunit", "bps"},
    ("ratio", False): {"percentunit", "sci"},
    ("hertz", False): {"hertz"},
    ("bits per second", False): {"bps"},
    ("", False): {"short"},
    ("", True): {"short", "ops", "reqps", "cps"},
}
"""Grafana's units that fit a metric's unit, by whether it is a counter (whose rate may be shown): decimal prefixes for bits."""
UNIT_OF = {row.name: (row.unit, row.is_counter) for row in TABLE} | {
    "process_resident_memory_bytes": ("bytes", False),
    "process_cpu_seconds_total": ("seconds", True),
}


def test_panels_are_in_the_units_of_what_they_show() -> None:
    shown = 0
    for panel in dashboard()["panels"]:
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit")
        for target in panel.get("targets", ()):
            expr = target["expr"]
            for variable, value in PLACE.items():
                expr = expr.replace(variable, value)
            metrics = [name for name, _ in selectors(expr) if name in UNIT_OF]
            for metric in metrics:
                assert unit in UNITS[UNIT_OF[metric]], f"{panel['title']}: {metric} in {unit}"
                is_rate = "rate(" in expr
                assert is_rate or unit not in ("bps", "Bps", "ops", "reqps", "cps"), panel["title"]
                shown += 1
    assert shown > 40


def test_the_legend_of_every_line_is_of_labels_that_the_line_has() -> None:
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            grouped = re.match(r"(?:sum|min|max|count|avg) by \(([^)]*)\)", target["expr"])
            if grouped:
                kept = {each.strip() for each in grouped.group(1).split(",")}
                assert named == kept, f"{panel['title']}: {target['expr']}"
            assert target["legendFormat"], panel["title"]


def test_panels_of_learning_show_what_a_round_tells() -> None:
    server, client = Metrics("fl-server"), Metrics("fl-alice", Names(("alice", "bob")))
    server.tell(RoundStarted(1, ("alice", "bob")))
    server.tell(RoundCompleted(RoundRecord(1, 0.5, 0.6, 0, 0, (), "", 2.0, 0.5)))
    server.tell(RoundAborted(AbortRecord(2, "no key", 0, ())))
    client.tell(ClientState("alice", 2, "waiting for keys", missing_bits={"bob": 256}))
    told = {metric.name: metric for book in (server, client) for metric, _ in book.samples()}
    learnt = {row.name for row in LEARNING}
    shown = 0
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            for metric, _ in selectors(target["expr"].replace("$__rate_interval", "1m")):
                if metric in learnt:
                    assert metric in told, panel["title"]
                    shown += 1
    assert shown >= 8
