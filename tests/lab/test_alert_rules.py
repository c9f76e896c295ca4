"""Every alert rule fires when it should, not before, and not for what looks alike: tried by promtool, Prometheus's own."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab.alarms.table import TABLE as ALARMS
from lab.monitoring.alerts import PROCESSES, Rule, alarm_rules

RULES = Path(__file__).resolve().parents[2] / "lab" / "monitoring" / "alerts.yml"
STEP_S = 10
"""Between readings, and between looks at the rules."""
Series = Mapping[str, str]
"""Values by series, in promtool's words: ``0x5 1x9`` is six times 0, then ten times 1, one every STEP_S."""


@dataclass(frozen=True)
class Case:
    """When a rule fires: with ``fires`` at ``at_s`` and not a step before, with these ``labels``; with ``quiet`` never.

    ``value`` is how Prometheus writes the number, where the words of the rule have it.
    """

    fires: Series
    quiet: tuple[Series, ...]
    at_s: int
    labels: Mapping[str, str]
    value: str = ""


ALICE, BOB, RELAY = {"role": "alice"}, {"role": "bob"}, {"role": "relay"}
GONE = 'up{job="qunetlab", instance="a:1"}'
AGE, LIMIT = 'qunetlab_loop_age_seconds{role="relay"}', 'qunetlab_loop_limit_seconds{role="relay"}'
READY = 'qunetlab_ready{role="relay"}'
LINK = 'qunetlab_hub_link{role="alice", state="%s"}'
HEARD = 'qunetlab_heartbeat_age_seconds{role="orchestrator", peer="relay"}'
PAIR = 'qunetlab_pair_%s{role="orchestrator", pair="alice-bob"}'
BLOCKS = 'qunetlab_blocks_total{role="alice", pair="alice-bob", outcome="%s"}'
REFUSED = 'qunetlab_connections_refused_total{role="bob", door="delivery", reason="key"}'
KEYS = 'qunetlab_key_requests_refused_total{role="alice", sae="app1", reason="%s", side="master"}'
ELSEWHERE = 'qunetlab_key_callers_turned_away_total{role="alice", why="%s"}'
TWICE = "certificate in use at another address"
FAULTS = 'qunetlab_key_server_faults_total{role="alice", what="%s"}'
EPSILON = 'qunetlab_epsilon_ratio{role="alice", pair="alice-bob", epsilon="%s"}'
FREE, SIZE = 'qunetlab_disk_free_bytes{role="bob"}', 'qunetlab_disk_size_bytes{role="bob"}'
OPEN, MOST = (f'process_{kind}_fds{{job="qunetlab", instance="a:1"}}' for kind in ("open", "max"))
FAILURES = 'qunetlab_metrics_failures_total{role="alice"}'
WANTED = {PAIR % "demand_bits": "5000x80", PAIR % "stock_bits": "100x80", PAIR % "in_work_bits": "200x80"}

CASES = {
    "QunetlabProcessGone": Case(
        {GONE: "1x5 0x20"}, ({GONE: "1x5 0x4 1x20"},), 120, {"job": "qunetlab", "instance": "a:1"}
    ),
    "QunetlabLoopHangs": Case(
        {AGE: "0x5 25x20", LIMIT: "20x30"}, ({AGE: "19x30", LIMIT: "20x30"},), 60, RELAY, "25s"
    ),
    "QunetlabNotReady": Case({READY: "1x5 0x20"}, ({READY: "1x5 0x4 1x20"},), 120, RELAY),
    "QunetlabNoHub": Case(
        {LINK % "up": "1x5 0x20", LINK % "unreachable": "0x5 1x20"},
        ({LINK % "up": "1x30", LINK % "unreachable": "0x30"}, {LINK % "up": "1x5 0x1 1x20"}),
        90,
        {**ALICE, "state": "up"},
    ),
    "QunetlabPeerSilent": Case(
        {HEARD: "0x5 9x20"}, ({HEARD: "3.9x30"},), 80, {"role": "orchestrator", "peer": "relay"}, "9s"
    ),
    "QunetlabPairUnserved": Case(
        {**WANTED, PAIR % "available": "1x5 0x80"},
        (
            {**WANTED, PAIR % "available": "1x80"},
            {**WANTED, PAIR % "demand_bits": "250x80", PAIR % "available": "0x80"},
        ),
        360,
        {"role": "orchestrator", "pair": "alice-bob"},
    ),
    "QunetlabBlocksGiveNoKey": Case(
        {BLOCKS % "stored": "0x5 1x40", BLOCKS % "verification": "0x5 2x40"},
        (
            {BLOCKS % "stored": "0+3x60", BLOCKS % "verification": "0+1x60"},
            {BLOCKS % "stored": "0x60", BLOCKS % "verification": "0x60"},
            {BLOCKS % "stored": "5x60", BLOCKS % "verification": "80x60"},
        ),
        60,
        {"pair": "alice-bob"},
    ),
    "QunetlabStrangers": Case(
        {REFUSED: "0x5 1x20"}, ({REFUSED: "7x60"},), 60, {**BOB, "door": "delivery", "reason": "key"}
    ),
    "QunetlabKeysRefused": Case(
        {KEYS % "quota": "0+1x80"},
        ({KEYS % "quota": "0x5 1x80"}, {KEYS % "request": "0+1x80"}, {KEYS % "caller": "0+1x80"}),
        310,
        {**ALICE, "sae": "app1", "reason": "quota"},
    ),
    "QunetlabCertificateElsewhere": Case(
        {ELSEWHERE % TWICE: "0x5 1x20"},
        ({ELSEWHERE % TWICE: "3x30"}, {ELSEWHERE % "too slow": "0+1x30"}),
        60,
        {**ALICE, "why": TWICE},
    ),
    "QunetlabKeyServerFails": Case(
        {FAULTS % "starting": "0x5 1x20"},
        ({FAULTS % "starting": "0x30", FAULTS % "the desk": "4x30"},),
        60,
        {**ALICE, "what": "starting"},
    ),
    "QunetlabEpsilons": Case(
        {EPSILON % "sec": "5e-7x5 9e-7x20", EPSILON % "cor": "5e-7x30"},
        ({EPSILON % "sec": "5e-7x30", EPSILON % "cor": "4e-7x30"},),
        60,
        {**ALICE, "pair": "alice-bob"},
        "1.4e-06",
    ),
    "QunetlabDiskFills": Case(
        {FREE: "50x5 4x80", SIZE: "100x80"}, ({FREE: "5x80", SIZE: "100x80"},), 360, BOB
    ),
    "QunetlabDescriptors": Case(
        {OPEN: "100x5 900x80", MOST: "1000x80"},
        ({OPEN: "800x80", MOST: "1000x80"},),
        360,
        {"job": "qunetlab", "instance": "a:1"},
    ),
    "QunetlabMetricsFail": Case({FAILURES: "0x5 1x20"}, ({FAILURES: "2x30"},), 60, ALICE),
}


def alarm_case(name: str) -> Case:
    """An alarm that begins to stand, against one that somebody has seen."""
    series = f'qunetlab_alarms{{role="relay", alarm="{name}", severity="major", state="%s"}}'
    return Case(
        {series % "standing": "0x5 1x20"},
        (
            {series % "standing": "0x30", series % "acknowledged": "1x30"},
            {series % "shelved": "1x30"},
        ),
        60,
        {**RELAY, "alarm": name},
    )


def cases() -> Iterator[tuple[Rule, Case]]:
    """Every rule with its case."""
    for rule in alarm_rules():
        found = re.search(r'alarm="([^"]+)"', rule.expr)
        assert found
        yield rule, alarm_case(found.group(1))
    for rule in PROCESSES:
        yield rule, CASES[rule.alert]


def test_every_rule_has_a_case() -> None:
    assert {rule.alert for rule in PROCESSES} == set(CASES)
    assert len([*cases()]) == len(PROCESSES) + len(ALARMS)


def in_words(text: str, case: Case) -> str:
    """What Prometheus makes of the words of a rule."""
    text = re.sub(r"{{ \$labels\.(\w+) }}", lambda found: case.labels[found.group(1)], text)
    return re.sub(r"{{ \$value[^}]*}}", case.value, text)


def looks_at(rule: Rule, case: Case) -> Iterator[dict[str, Any]]:
    severity = "major" if rule.severity.startswith("{{") else rule.severity
    fired = {
        "exp_labels": {**case.labels, "severity": severity},
        "exp_annotations": {
            "summary": in_words(rule.summary, case),
            "description": in_words(rule.what_to_do, case),
        },
    }
    looked: list[dict[str, Any]] = [
        {"eval_time": f"{case.at_s - STEP_S}s", "alertname": rule.alert, "exp_alerts": []},
        {"eval_time": f"{case.at_s}s", "alertname": rule.alert, "exp_alerts": [fired]},
    ]
    yield one_test(case.fires, looked)
    for series in case.quiet:
        never = [
            {"eval_time": f"{at_s}s", "alertname": rule.alert, "exp_alerts": []}
            for at_s in range(0, 601, STEP_S)
        ]
        yield one_test(series, never)


def one_test(series: Series, looked: list[dict[str, Any]]) -> dict[str, Any]:
    given = [{"series": name, "values": values} for name, values in series.items()]
    return {"interval": f"{STEP_S}s", "input_series": given, "alert_rule_test": looked}


def tried(folder: Path, rules: Path, tests: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """JSON is YAML, too."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here (Debian's package `prometheus` has it): no rule was tried")
    written = {"rule_files": [str(rules)], "evaluation_interval": f"{STEP_S}s", "tests": tests}
    (folder / "when.yml").write_text(json.dumps(written), encoding="utf-8")
    return subprocess.run(
        [promtool, "test", "rules", "when.yml"], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_every_rule_fires_when_it_should_and_not_before_nor_for_what_looks_alike(tmp_path: Path) -> None:
    every = [each for rule, case in cases() for each in looks_at(rule, case)]
    said = tried(tmp_path, RULES, every)
    assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "alert"),
    [
        ('state=\\"standing\\"', 'state=\\"acknowledged\\"', "QunetlabQber"),
        ("qunetlab_ready == 0", "qunetlab_ready == 1", "QunetlabNotReady"),
        ("for: 300s", "for: 200s", "QunetlabKeysRefused"),
    ],
)
def test_a_rule_that_is_wrong_is_found(tmp_path: Path, right: str, wrong: str, alert: str) -> None:
    broken = tmp_path / "alerts.yml"
    broken.write_text(RULES.read_text(encoding="utf-8").replace(right, wrong), encoding="utf-8")
    said = tried(
        tmp_path,
        broken,
        [test for rule, case in cases() if rule.alert == alert for test in looks_at(rule, case)],
    )
    assert said.returncode != 0
    assert alert in said.stdout + said.stderr
