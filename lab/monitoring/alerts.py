"""Alert rules of Prometheus: one for every row of the table of alarms, and those about processes, which no role can raise itself.

Format: Prometheus documentation, "Alerting rules".  Limits of alarms stand in the testbed file and with the roles; a rule only
passes an alarm on, with its severity, for as long as it stands and nobody has acknowledged or shelved it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from lab.alarms.table import TABLE

SILENT_S = 4
"""After this long the hub takes a peer for lost; a test holds it against the hub's own limit."""
JOB = "qunetlab"
"""Of the scrape configuration; see docs/monitoring.md."""


@dataclass(frozen=True)
class Rule:
    """One rule; ``for_s`` is how long the expression has to hold, and ``severity`` may be a label's, ``{{ $labels.X }}``."""

    alert: str
    expr: str
    severity: str
    summary: str
    what_to_do: str
    for_s: int = 0


def alarm_rules() -> Iterator[Rule]:
    """The alarms, by their table."""
    for name, row in TABLE.items():
        yield Rule(
            "Qunetlab" + "".join(part.capitalize() for part in name.split("-")),
            f'sum by (role, alarm, severity) (qunetlab_alarms{{alarm="{name}", state="standing"}}) > 0',
            "{{ $labels.severity }}",
            f"{{{{ $labels.role }}}}: {row.what}",
            row.what_to_do,
        )


PROCESSES = (
    Rule(
        "QunetlabProcessGone",
        f'up{{job="{JOB}"}} == 0',
        "major",
        "{{ $labels.instance }} does not answer",
        "see with `qunetlab status` what the hub knows of it; start the role again",
        60,
    ),
    Rule(
        "QunetlabLoopHangs",
        "qunetlab_loop_age_seconds > qunetlab_loop_limit_seconds",
        "major",
        "the control loop of {{ $labels.role }} has not turned for {{ $value | humanizeDuration }}",
        "its /healthz says so, too: keep its log, end the process and start the role again; a service manager does both",
    ),
    Rule(
        "QunetlabNotReady",
        "qunetlab_ready == 0",
        "major",
        "{{ $labels.role }} can take no lease",
        "its /readyz and `qunetlab status` say why",
        60,
    ),
    Rule(
        "QunetlabNoHub",
        'qunetlab_hub_link{state="up"} == 0',
        "major",
        "{{ $labels.role }} has no link to the hub",
        "look at the orchestrator, at the network between the two, and at /readyz, which names the reason",
        30,
    ),
    Rule(
        "QunetlabPeerSilent",
        f"qunetlab_heartbeat_age_seconds > {SILENT_S}",
        "minor",
        "{{ $labels.role }} has not heard {{ $labels.peer }} for {{ $value | humanizeDuration }}",
        "look at the network and at the load of both machines",
        15,
    ),
    Rule(
        "QunetlabPairUnserved",
        "(qunetlab_pair_demand_bits > qunetlab_pair_stock_bits + qunetlab_pair_in_work_bits)"
        " and on (pair) (qunetlab_pair_available == 0)",
        "major",
        "{{ $labels.pair }} wants key and the ring cannot serve it",
        "`qunetlab status` names the role or the calibration that is missing",
        300,
    ),
    Rule(
        "QunetlabBlocksGiveNoKey",
        'sum by (pair) (increase(qunetlab_blocks_total{outcome!="stored"}[10m]))'
        " > sum by (pair) (increase(qunetlab_blocks_total[10m])) / 2",
        "major",
        "more than half of the blocks of {{ $labels.pair }} gave no key within ten minutes",
        "`qunetlab status` has the reason of the latest; many of one kind stand in qunetlab_blocks_total by outcome",
    ),
    Rule(
        "QunetlabStrangers",
        "increase(qunetlab_connections_refused_total[10m]) > 0",
        "minor",
        "{{ $labels.role }} turned connections away at its {{ $labels.door }}: {{ $labels.reason }}",
        "a role with an old key, or somebody who has none: the log names the key",
    ),
    Rule(
        "QunetlabKeysRefused",
        'sum by (role, sae, reason) (increase(qunetlab_key_requests_refused_total{reason=~"short|quota|peer|store"}[5m])) > 0',
        "minor",
        "{{ $labels.role }} could not give {{ $labels.sae }} keys: {{ $labels.reason }}",
        "`qunetlab keys` shows stock and quotas; a peer that is away is named by `qunetlab status`",
        300,
    ),
    Rule(
        "QunetlabCertificateElsewhere",
        'increase(qunetlab_key_callers_turned_away_total{why="certificate in use at another address"}[10m]) > 0',
        "major",
        "an application's certificate is in use from two addresses at once at {{ $labels.role }}",
        "a stolen certificate, or one that was copied: the log names it and both addresses; revoke it (`qunetlab sae revoke`)",
    ),
    Rule(
        "QunetlabKeyServerFails",
        'qunetlab_key_server_faults_total{what="starting"} > 0 or increase(qunetlab_key_server_faults_total[10m]) > 0',
        "major",
        "applications of {{ $labels.role }} are not served: {{ $labels.what }} failed",
        "its log names the reason; certificates that cannot be used are told by `qunetlab check`",
    ),
    Rule(
        "QunetlabEpsilons",
        "sum by (role, pair) (qunetlab_epsilon_ratio) > 1e-6",
        "minor",
        "what may have gone wrong with {{ $labels.pair }} adds up to {{ $value }}",
        "renew the pair: `qunetlab keys reseed PAIR --new`",
    ),
    Rule(
        "QunetlabDiskFills",
        "qunetlab_disk_free_bytes < qunetlab_disk_size_bytes / 20",
        "major",
        "less than a twentieth of the disk of {{ $labels.role }} is free",
        "make room: a full disk ends no role, but nothing is released until there is some",
        300,
    ),
    Rule(
        "QunetlabDescriptors",
        f'process_open_fds{{job="{JOB}"}} > 0.8 * process_max_fds',
        "minor",
        "{{ $labels.instance }} has opened four fifths of what it may",
        "look at what it holds open (`ls /proc/PID/fd`), and report it: their number is constant in a role that is well",
        300,
    ),
    Rule(
        "QunetlabMetricsFail",
        "increase(qunetlab_metrics_failures_total[10m]) > 0",
        "minor",
        "numbers of {{ $labels.role }} are missing",
        "its log says which source failed",
    ),
)


def rules_text() -> str:
    """The file of rules, as YAML."""
    groups = (("qunetlab-alarms", tuple(alarm_rules())), ("qunetlab-processes", PROCESSES))
    lines = [
        "# Written by docs/scripts/monitoring.py from the table of alarms (lab/alarms/table.py) and lab/monitoring/alerts.py.",
        "groups:",
    ]
    for name, rules in groups:
        lines += [f"- name: {name}", "  rules:"]
        for rule in rules:
            lines += _rule_lines(rule)
    return "\n".join(lines) + "\n"


def _rule_lines(rule: Rule) -> Iterator[str]:
    yield f"  - alert: {rule.alert}"
    yield f"    expr: {_quoted(rule.expr)}"
    if rule.for_s:
        yield f"    for: {rule.for_s}s"
    yield "    labels:"
    yield f"      severity: {_quoted(rule.severity)}"
    yield "    annotations:"
    yield f"      summary: {_quoted(rule.summary)}"
    yield f"      description: {_quoted(rule.what_to_do)}"


def _quoted(text: str) -> str:
    """A string of JSON is one of YAML."""
    return json.dumps(text, ensure_ascii=False)
