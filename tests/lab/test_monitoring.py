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
from lab.monitoring.panels import dashboard
from orchestrator.hub.events import HubLimits
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


WHEN = """
rule_files: [{rules}]
evaluation_interval: 10s
tests:
- interval: 10s
  input_series:
  - series: 'qunetlab_alarms{{role="relay", alarm="qber", severity="major", state="standing"}}'
    values: '0x5 1x20'
  - series: 'up{{job="qunetlab", instance="a:1"}}'
    values: '1x5 0x20'
  - series: 'qunetlab_blocks_total{{role="alice", pair="alice-bob", outcome="stored"}}'
    values: '0+1x40'
  - series: 'qunetlab_blocks_total{{role="alice", pair="alice-bob", outcome="verification"}}'
    values: '0+3x40'
  alert_rule_test:
  - {{eval_time: 40s, alertname: QunetlabQber, exp_alerts: []}}
  - eval_time: 70s
    alertname: QunetlabQber
    exp_alerts:
    - exp_labels: {{role: relay, alarm: qber, severity: major}}
      exp_annotations: {{summary: "relay: errors of the latest block", description: "{qber}"}}
  - {{eval_time: 90s, alertname: QunetlabProcessGone, exp_alerts: []}}
  - eval_time: 150s
    alertname: QunetlabProcessGone
    exp_alerts:
    - exp_labels: {{job: qunetlab, instance: "a:1", severity: major}}
      exp_annotations:
        summary: "a:1 does not answer"
        description: "{gone}"
  - eval_time: 150s
    alertname: QunetlabBlocksGiveNoKey
    exp_alerts:
    - exp_labels: {{pair: alice-bob, severity: major}}
      exp_annotations:
        summary: "more than half of the blocks of alice-bob gave no key within ten minutes"
        description: "{blocks}"
"""


def test_rules_fire_when_they_should_and_not_before(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here (Debian's package `prometheus` has it): no rule was tried")
    said = {rule.alert: rule.what_to_do for rule in rules()}
    text = WHEN.format(
        rules=FOLDER / "alerts.yml",
        qber=said["QunetlabQber"],
        gone=said["QunetlabProcessGone"],
        blocks=said["QunetlabBlocksGiveNoKey"],
    )
    (tmp_path / "when.yml").write_text(text, encoding="utf-8")
    tried = subprocess.run(
        [promtool, "test", "rules", "when.yml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert tried.returncode == 0, tried.stdout + tried.stderr
