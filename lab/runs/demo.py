"""``qunetlab demo``: the whole testbed on one machine, supervised from the first process to the report.

The processes are those of :mod:`lab.runs.supervising.supervised`; this is what happens with them: key for every pair,
ten rounds of training, a check of the sums, a reference training, a report.
"""

from __future__ import annotations

import importlib.metadata
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fl.rounds.clipping import clip_warnings
from lab.runs.following.progress import Display, PairProgress, RunProgress
from lab.runs.pages.demo_report import render_report
from lab.runs.shown import echo, shown
from lab.runs.supervising.kernels import compile_all
from lab.runs.supervising.supervised import Run, supervised_run
from lab.runs.supervising.supervisor import ChildError, Event
from lab.runs.testbeds.folder import source_path
from lab.runs.testbeds.ring_size import check_every_pair_makes_key
from lab.testbed import load_testbed
from orchestrator.durable import replace_file
from orchestrator.events.learning import Clipping
from orchestrator.randomness import random_hex

if TYPE_CHECKING:
    from fl.rounds.config import FLConfig
    from fl.workloads.base import Task

STALL_TIMEOUT_S = 120.0
"""Without a single event from any process for this long, the run is given up."""

PACKAGES = ("qunetlab", "qcodes", "pyvisa-py", "pyserial", "pyzmq", "numpy", "numba", "gmpy2", "torch")


def run_demo(
    *, out: Path, rounds: int, task: str, data: Path | None, seed: int, source: str, as_json: bool
) -> int:
    """The demo command; returns the exit code."""
    from fl.experiments.options import option_of
    from fl.modes import aggregation_for
    from fl.rounds.config import FLConfig
    from fl.workloads import open_task

    started = time.monotonic()
    testbed = load_testbed(source_path(source))
    check_every_pair_makes_key(testbed)
    learning = open_task(task, data)
    learning.client_data(0, 1, seed)  # missing data must be told before a dozen processes start
    config = FLConfig.for_task(
        learning,
        testbed.user_names(),
        run_id=f"demo-{random_hex(4)}",
        name=task,
        named=option_of,
        rounds=rounds,
        seed=seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    with supervised_run(source, {"simulation": {"seed": seed}}) as run:
        demand = aggregation_for(config, learning.n_parameters).key_bits_per_pair * rounds
        progress = RunProgress(rounds=rounds, phase="starting instruments, relay and nodes")
        progress.pairs = {pair: PairProgress(demand_bits=demand) for pair in run.testbed.pairs()}
        with Display(progress) as display:
            display.update(force=True)
            compile_all()
            run.start_ring()
            progress.phase = "keys and training"
            display.update(force=True)
            run.start_learning(config, data)
            follow(run, progress, display)
            progress.phase = "stopping"
            display.update(force=True)
            run.stop()
        progress.phase = "reference training without masking"
        report = build_report(run, learning, config, demand)
        report["wall_s"] = time.monotonic() - started
        write_report(report, out)
    if as_json:
        echo(json.dumps(report))
    else:
        echo(summary(report, out))
    return 0 if healthy(report) else 1


def follow(run: Run, progress: RunProgress, display: Display) -> None:
    """Show events until training is finished; raises ChildError when a process dies or nothing moves."""

    def take(name: str, event: Event) -> None:
        run.note(name, event)
        show_event(progress, event)
        display.update()

    while not run.finished:
        run.supervisor.wait_for(
            lambda name, event: event.get("type") not in ("WaitingForKeys", "ClientState"),
            STALL_TIMEOUT_S,
            "keys and training",
            take,
        )
    if run.finished["reason"]:
        raise ChildError(f"training ended early: {shown(run.finished['reason'])}")


def show_event(progress: RunProgress, event: Event) -> None:
    """Carry one event over into what the display shows."""
    if event.get("event") == "light":
        progress.lit = progress.lit or time.monotonic()
        for pair, row in progress.pairs.items():
            row.on_ring = pair == tuple(event["pair"]) and event["pulses"] < event["of"]
    elif event.get("event") == "block" and event["counted"]:
        row = progress.pairs[event["pair"][0], event["pair"][1]]
        row.pulses += event["pulses"]
        if event["stored"]:
            row.blocks += 1
            row.secret_bits += event["secret_bits"]
            row.qber = event["qber"]
        else:
            row.aborted += 1
    elif event.get("type") == "RoundCompleted":
        progress.round = event["record"]["round"]
        progress.accuracy = event["record"]["accuracy"]
        progress.waiting = ""
        clipping = event["record"].get("clipping") or {}
        if clipping.get("clipped_clients") or clipping.get("vanished_clients"):
            progress.warning = "WARNING: clip or levels do not fit, updates are lost; see the report"
    elif event.get("type") == "RoundStarted":
        progress.waiting = ""
    elif event.get("type") == "WaitingForClients":
        progress.waiting = event["reason"] or f"waiting for {', '.join(event['missing'])}"
    elif event.get("type") == "WaitingForKeys":
        progress.waiting = f"waiting for keys: {event['detail']}"


def build_report(run: Run, learning: Task, config: FLConfig, demand_bits: int) -> dict[str, Any]:
    """Everything that ``report.json`` says."""
    from fl.experiments.notes import consent_notes, notes_for
    from fl.experiments.reference import train_reference

    testbed = run.testbed
    reference = train_reference(learning, config.n_clients, config.rounds, config.seed)
    return {
        "testbed": {"name": testbed.name, "description": testbed.description},
        "simulated": True,
        "notes": [*notes_for(config), *consent_notes(run.consented)],
        "task": config.task,
        "seed": config.seed,
        "epsilon": {"sec": testbed.protocol.eps_sec, "cor": testbed.protocol.eps_cor},
        "pairs": [pair_row(run, pair) for pair in testbed.pairs()],
        "rounds": [
            {
                "round": record["round"],
                "accuracy": record["accuracy"],
                "loss": record["loss"],
                "upload_bytes": record["upload_bytes"],
                "key_bits_used": record["key_bits_used"],
            }
            for record in run.rounds
        ],
        "aborted_rounds": run.aborted_rounds,
        "warnings": [*clip_warnings(clippings_of(run), config.clip, config.levels), *alarm_warnings(run)],
        "aggregation": {
            "mode": config.mode,
            "ring_bits": config.ring_bits,
            "levels": config.levels,
            "exact": self_check(run, config),
            "parameters": learning.n_parameters,
        },
        "reference": [
            {"round": number, "accuracy": evaluation.accuracy}
            for number, evaluation in enumerate(reference.rounds, start=1)
        ],
        "key_demand_bits_per_pair": demand_bits,
        "instruments": {"safe": run.unsafe == [], "unsafe": run.unsafe, "states": run.instrument_states},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def alarm_warnings(run: Run) -> list[str]:
    """The alarms that were on when the run ended."""
    return [
        f"ALARM of {role}{f' with {peer}' if peer else ''}: {name}: {alarm['text']}"
        for (role, name, peer), alarm in run.alarms.items()
        if alarm["on"]
    ]


def clippings_of(run: Run) -> list[Clipping | None]:
    """What clip and rounding took in every round of the run."""
    return [msgspec.convert(record.get("clipping"), Clipping | None) for record in run.rounds]


def pair_epsilon(run: Run, pair: tuple[str, str]) -> dict[str, float]:
    """What may have gone wrong with a pair: each end booked the tags that it checked, both the same blocks."""
    first = run.epsilons.get(pair[0], {}).get(pair[1], {})
    second = run.epsilons.get(pair[1], {}).get(pair[0], {})
    sec, cor = (max(end.get(kind, 0.0) for end in (first, second)) for kind in ("sec", "cor"))
    auth = first.get("auth", 0.0) + second.get("auth", 0.0)
    return {"sec": sec, "cor": cor, "auth": auth, "total": sec + cor + auth}


def pair_row(run: Run, pair: tuple[str, str]) -> dict[str, Any]:
    """Totals of one pair; QBER and f are weighted by sifted bits."""
    from orchestrator.protocols.block_planning import plan_for

    plan = plan_for(run.testbed, *pair)
    arms = run.testbed.arms(*pair)
    blocks = [event for event in run.blocks if tuple(event["pair"]) == pair and event["counted"]]
    stored = [event for event in blocks if event["stored"]]
    sifted = sum(event["sifted_bits"] for event in stored)
    ring_s = sum(event["light_s"] for event in blocks)
    wall_s = sum(event["light_wall_s"] for event in blocks)
    secret = sum(event["secret_bits"] for event in stored)

    def mean(key: str) -> float:
        return sum(event[key] * event["sifted_bits"] for event in stored) / sifted if sifted else 0.0

    ledger = run.ledgers.get(pair[0], {}).get(pair[1], {})
    return {
        "pair": list(pair),
        "loss_db": arms.loss_a_db + arms.loss_b_db,
        "pulses": sum(event["pulses"] for event in blocks),
        "sifted_bits": sifted,
        "qber": mean("qber"),
        "planned_qber": plan.qber,
        "f_ec": mean("f_ec"),
        "secret_bits": secret,
        "ring_s": ring_s,
        "secret_bits_per_ring_second": secret / ring_s if ring_s else 0.0,
        "secret_bits_per_wall_second": secret / wall_s if wall_s else 0.0,
        "planned_bits_per_ring_second": plan.key_rate_per_pulse * run.testbed.protocol.clock_hz,
        "aborted_blocks": len(blocks) - len(stored),
        "abort_reasons": [event["reason"] for event in blocks if not event["stored"]],
        "consumed_bits": ledger.get("delivered", 0),
        "stored_bits": ledger.get("stored", 0),
        "authentication_bits": ledger.get("authentication", 0),
        "burnt_bits": ledger.get("burnt", 0),
        "epsilon": pair_epsilon(run, pair),
    }


def self_check(run: Run, config: FLConfig) -> bool:
    """Whether the server's aggregate of every round is exactly the sum of the clients' private updates."""
    from fl.rounds.selfcheck import check_run

    checks = check_run(run.state / "fl-server" / config.run_id, run.self_check)
    return len(checks) == config.rounds and all(check.exact for check in checks)


def healthy(report: dict[str, Any]) -> bool:
    """All pairs keyed, the sum exact, every instrument safe."""
    return (
        report["aggregation"]["exact"] is True
        and all(row["secret_bits"] > 0 for row in report["pairs"])
        and report["instruments"]["safe"] is True
    )


def write_report(report: dict[str, Any], out: Path) -> None:
    """``report.json`` and ``report.html`` in ``out``."""
    replace_file(out / "report.json", json.dumps(report, indent=1).encode())
    replace_file(out / "report.html", render_report(report).encode())


def summary(report: dict[str, Any], out: Path) -> str:
    """The run in a few lines."""
    rates = [row["secret_bits_per_ring_second"] for row in report["pairs"]]
    last, reference = report["rounds"][-1], report["reference"][-1]
    return "\n".join(
        [
            *report["warnings"],
            f"{len(rates)} pairs keyed on simulated instruments: {min(rates) / 1e3:.1f} to "
            f"{max(rates) / 1e3:.1f} kbit per second of light",
            f"accuracy {100 * last['accuracy']:.2f} % after {last['round']} rounds; "
            f"{100 * reference['accuracy']:.2f} % without masking and quantisation",
            f"aggregate equals the plain sum: {'yes, in every round' if report['aggregation']['exact'] else 'NO'}; "
            f"instruments safe: {'yes' if report['instruments']['safe'] else 'NO'}",
            *(f"note: {note}" for note in report["notes"]),
            f"{report['wall_s']:.0f} s; report in {out / 'report.html'}",
        ]
    )
