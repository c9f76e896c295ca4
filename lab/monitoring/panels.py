"""The panels of the dashboard, in rows: each with its expressions, their legends and one of Grafana's units.

A panel shows something at every moment: where only what is wrong has a line, a sum stands beside it, which is 0 while all is well.
"""

from __future__ import annotations

from dataclasses import dataclass

PAIR, ROLE = 'pair=~"$pair"', 'role=~"$role"'
LEARNT = "Has numbers once a training run has had a round."


@dataclass(frozen=True)
class Panel:
    """One panel: ``of`` pairs an expression with the words of its legend; ``unit`` is one of Grafana's."""

    title: str
    of: tuple[tuple[str, str], ...]
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"
    what: str = ""
    low: float | None = 0
    log: bool = False


def by_role(expr: str) -> str:
    """What a process tells of itself without a role, with the role that it is."""
    return f"{expr} * on (job, instance) group_left (role) qunetlab_build_info{{{ROLE}}}"


def rate(metric: str, by: str, where: str = "") -> str:
    """Per second, over what Grafana finds fit for its resolution."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "At a glance",
        (
            Panel(
                "Processes that answer",
                (('sum(up{job="qunetlab"})', "answer"), ('count(up{job="qunetlab"})', "of")),
                kind="stat",
                width=4,
            ),
            Panel(
                "Roles ready",
                (("sum(qunetlab_ready)", "ready"), ("count(qunetlab_ready)", "of")),
                kind="stat",
                width=4,
                what="Relay and nodes that can take a lease.",
            ),
            Panel(
                "Alarms that stand",
                (('sum(qunetlab_alarms{state="standing"}) or vector(0)', "standing"),),
                kind="stat",
                width=4,
            ),
            Panel(
                "Secret key",
                (("sum(rate(qunetlab_secret_bits_total[5m]))", "all pairs"),),
                "bps",
                kind="stat",
                width=4,
            ),
            Panel(
                "Worst QBER",
                (("max(qunetlab_block_qber_ratio)", "of all pairs"),),
                "percentunit",
                kind="stat",
                width=4,
                what="Of the latest block of each pair.",
            ),
            Panel("Round", (("max(qunetlab_round)", "round"),), kind="stat", width=4, what=LEARNT),
            Panel(
                "Alarms",
                (
                    ('sum(qunetlab_alarms{state="standing"}) or vector(0)', "standing"),
                    (
                        "sum by (role, alarm, severity, state) (qunetlab_alarms) > 0",
                        "{{role}} {{alarm}} {{severity}} {{state}}",
                    ),
                ),
                width=12,
            ),
            Panel("Ring", (("qunetlab_ring_phase == 1", "{{phase}}"),), width=6),
            Panel("Queue", (("qunetlab_queue_entries", "{{state}}"),), width=6),
        ),
    ),
    (
        "Key",
        (
            Panel(
                "Stock of one-time pads and masks",
                (
                    (
                        f'min by (pair, lane) (qunetlab_stock_bits{{{PAIR}, lane!~"auth.*"}})',
                        "{{pair}} {{lane}}",
                    ),
                ),
                "decbits",
            ),
            Panel(
                "Authentication lanes",
                (
                    (
                        f'min by (pair, lane) (qunetlab_stock_bits{{{PAIR}, lane=~"auth.*"}})',
                        "{{pair}} {{lane}}",
                    ),
                    (f"min(qunetlab_stock_low_water_bits{{{PAIR}}})", "low water"),
                ),
                "decbits",
                what="Below low water a pair cannot be sure of its own messages: make key, or renew it.",
            ),
            Panel(
                "Secret bits per second",
                ((rate("qunetlab_secret_bits_total", "pair", PAIR), "{{pair}}"),),
                "bps",
                what="Over wall time, switching and waiting included.",
            ),
            Panel(
                "Secret bits per second of light",
                (
                    (
                        f"{rate('qunetlab_secret_bits_total', 'pair', PAIR)} / {rate('qunetlab_light_seconds_total', 'pair', PAIR)}",
                        "{{pair}}",
                    ),
                ),
                "bps",
            ),
            Panel(
                "QBER of the latest block",
                ((f"max by (pair) (qunetlab_block_qber_ratio{{{PAIR}}})", "{{pair}}"),),
                "percentunit",
            ),
            Panel(
                "Phase error, upper bound",
                ((f"max by (pair) (qunetlab_block_phase_error_ratio{{{PAIR}}})", "{{pair}}"),),
                "percentunit",
            ),
            Panel(
                "Blocks by what became of them",
                (
                    (
                        f'sum by (outcome) (increase(qunetlab_blocks_total{{{PAIR}, outcome="stored"}}[$__rate_interval]))',
                        "{{outcome}}",
                    ),
                    (
                        f'sum by (outcome) (increase(qunetlab_blocks_total{{{PAIR}, outcome!="stored"}}[$__rate_interval]))'
                        " > 0",
                        "{{outcome}}",
                    ),
                ),
                what="Stored, or the stage in which they were given up.",
            ),
            Panel(
                "Sifted and disclosed bits",
                (
                    (rate("qunetlab_sifted_bits_total", "pair", PAIR), "{{pair}} sifted"),
                    (rate("qunetlab_disclosed_bits_total", "pair", PAIR), "{{pair}} disclosed"),
                ),
                "bps",
            ),
            Panel(
                "From light to report",
                ((f"max by (pair) (qunetlab_block_processing_seconds{{{PAIR}}})", "{{pair}}"),),
                "s",
            ),
            Panel(
                "Ledger: spent",
                (
                    (f"max by (pair) (qunetlab_ledger_delivered_bits_total{{{PAIR}}})", "{{pair}} delivered"),
                    (
                        f"max by (pair) (qunetlab_ledger_authentication_bits_total{{{PAIR}}})",
                        "{{pair}} authentication",
                    ),
                    (f"max by (pair) (qunetlab_ledger_burnt_bits_total{{{PAIR}}})", "{{pair}} burnt"),
                ),
                "decbits",
            ),
            Panel(
                "Epsilons, added up",
                ((f"sum by (pair, role) (qunetlab_epsilon_ratio{{{PAIR}}})", "{{pair}} at {{role}}"),),
                "sci",
                log=True,
                low=None,
            ),
            Panel(
                "Refused messages between nodes",
                ((rate("qunetlab_tag_failures_total", "pair", PAIR), "{{pair}}"),),
                "ops",
            ),
        ),
    ),
    (
        "Applications",
        (
            Panel(
                "Keys delivered",
                ((rate("qunetlab_keys_delivered_total", "sae, side"), "{{sae}} as {{side}}"),),
                "ops",
            ),
            Panel(
                "Key delivered",
                ((rate("qunetlab_keys_delivered_bits_total", "sae, side"), "{{sae}} as {{side}}"),),
                "bps",
            ),
            Panel(
                "Key delivered within a day",
                (
                    (
                        "sum by (sae, side) (increase(qunetlab_keys_delivered_bits_total[1d]))",
                        "{{sae}} as {{side}}",
                    ),
                ),
                "decbits",
            ),
            Panel(
                "Requests over HTTPS",
                (
                    ("sum(rate(qunetlab_key_https_requests_total[$__rate_interval]))", "all"),
                    (
                        f"{rate('qunetlab_key_https_requests_total', 'endpoint, status')} > 0",
                        "{{endpoint}} {{status}}",
                    ),
                ),
                "reqps",
            ),
            Panel(
                "Requests not granted",
                (
                    ("sum(rate(qunetlab_key_requests_refused_total[$__rate_interval]))", "all"),
                    (
                        f"{rate('qunetlab_key_requests_refused_total', 'sae, reason')} > 0",
                        "{{sae}}: {{reason}}",
                    ),
                ),
                "reqps",
            ),
            Panel(
                "Connections turned away, failures",
                (
                    ("sum(rate(qunetlab_key_callers_turned_away_total[$__rate_interval]))", "turned away"),
                    ("sum(rate(qunetlab_key_server_faults_total[$__rate_interval]))", "failures"),
                    (
                        f"{rate('qunetlab_key_callers_turned_away_total', 'role, why')} > 0",
                        "{{role}}: {{why}}",
                    ),
                    (
                        f"{rate('qunetlab_key_server_faults_total', 'role, what')} > 0",
                        "{{role}} failed: {{what}}",
                    ),
                ),
                "ops",
            ),
        ),
    ),
    (
        "Ring",
        (
            Panel(
                "Leases",
                (
                    (
                        f"sum by (outcome) (increase(qunetlab_leases_total{{{PAIR}}}[$__rate_interval]))",
                        "{{outcome}}",
                    ),
                ),
            ),
            Panel("Clicks of the detectors", (("qunetlab_detector_rate_hertz", "{{detector}}"),), "hertz"),
            Panel("Lost frames", ((rate("qunetlab_lost_frames_total", "pair", PAIR), "{{pair}}"),), "ops"),
            Panel(
                "Instruments that do not answer",
                (
                    (f"sum by (role) (1 - qunetlab_instrument_reachable{{{ROLE}}})", "{{role}}"),
                    (
                        f"1 - (qunetlab_instrument_reachable{{{ROLE}}} == 0)",
                        "{{role}} {{instrument}}",
                    ),
                ),
            ),
            Panel(
                "Age of instruments' values",
                ((f"qunetlab_instrument_age_seconds{{{ROLE}}}", "{{role}} {{instrument}}"),),
                "s",
            ),
            Panel(
                "Calibrations",
                (
                    ("sum by (result) (qunetlab_calibrations_total)", "{{result}}"),
                    ("sum by (step, result) (qunetlab_calibrations_total) > 0", "{{step}} {{result}}"),
                ),
                what="Since the roles were started.",
            ),
        ),
    ),
    (
        "Learning",
        (
            Panel(
                "Accuracy", (("qunetlab_model_accuracy_ratio", "global model"),), "percentunit", what=LEARNT
            ),
            Panel(
                "A round takes",
                (
                    ("qunetlab_round_duration_seconds", "round"),
                    ("qunetlab_round_key_wait_seconds", "waiting for key"),
                ),
                "s",
            ),
            Panel("Bytes a round", (("qunetlab_round_upload_bytes", "uploads"),), "bytes"),
            Panel(
                "Rounds",
                (
                    ("qunetlab_rounds_completed_total", "with a sum"),
                    ("qunetlab_rounds_aborted_total", "without"),
                ),
            ),
            Panel("Clients", (("qunetlab_client_phase == 1", "{{role}} {{phase}}"),)),
            Panel(
                "Key that clients wait for",
                (("qunetlab_client_missing_bits", "{{role}} {{pair}}"),),
                "decbits",
            ),
        ),
    ),
    (
        "Processes",
        (
            Panel(
                "Links to the hub that are not up",
                (
                    (f'1 - qunetlab_hub_link{{{ROLE}, state="up"}}', "{{role}}"),
                    (f'qunetlab_hub_link{{{ROLE}, state!="up"}} == 1', "{{role}} {{state}}"),
                ),
            ),
            Panel(
                "Since a peer was heard",
                ((f"qunetlab_heartbeat_age_seconds{{{ROLE}}}", "{{role}} of {{peer}}"),),
                "s",
            ),
            Panel(
                "Turned away",
                (
                    ("sum(rate(qunetlab_connections_refused_total[$__rate_interval]))", "connections"),
                    (
                        "sum(rate(qunetlab_hub_messages_refused_total[$__rate_interval]))",
                        "messages at the hub",
                    ),
                    (
                        f"{rate('qunetlab_connections_refused_total', 'role, door, reason')} > 0",
                        "{{role}} {{door}} {{reason}}",
                    ),
                    (f"{rate('qunetlab_hub_messages_refused_total', 'reason')} > 0", "hub {{reason}}"),
                ),
                "ops",
            ),
            Panel(
                "CPU",
                ((by_role('rate(process_cpu_seconds_total{job="qunetlab"}[$__rate_interval])'), "{{role}}"),),
                "percentunit",
            ),
            Panel(
                "Memory",
                ((by_role('process_resident_memory_bytes{job="qunetlab"}'), "{{role}}"),),
                "bytes",
            ),
            Panel("Descriptors", ((by_role('process_open_fds{job="qunetlab"}'), "{{role}}"),)),
            Panel(
                "Since the control loop has turned",
                ((f"qunetlab_loop_age_seconds{{{ROLE}}}", "{{role}}"),),
                "s",
            ),
            Panel("Room on disks", ((f"qunetlab_disk_free_bytes{{{ROLE}}}", "{{role}}"),), "bytes"),
            Panel("Carried by the hub", ((rate("qunetlab_hub_bytes_total", "role"), "{{role}}"),), "Bps"),
            Panel("Versions", (("count by (version) (qunetlab_build_info)", "{{version}}"),), kind="stat"),
        ),
    ),
)
