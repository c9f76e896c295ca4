"""A demonstration: the whole testbed on one machine, supervised from the first process to the report.

The processes are those of :mod:`lab.runs.supervising.supervised`; this is what happens with them: key for every pair,
ten rounds of training, a check of the sums, a reference training, a report.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fl.keys.budget import counted
from fl.rounds.clipping import clip_warnings
from lab.light_of import pair_light
from lab.runs.demo_told import DemoPair, DemoReport, DemoRound, EpsilonSum
from lab.runs.following.document import Said
from lab.runs.following.observer import verdict_on
from lab.runs.following.progress import Display, PairProgress, RunProgress, show_event
from lab.runs.light_notes import light_notes
from lab.runs.pages.demo_report import render_report
from lab.runs.records.ending import on_record
from lab.runs.records.ring_run import ring_run
from lab.runs.shown import shown
from lab.runs.software import versions
from lab.runs.supervising.beside import Tell, dashboard_beside
from lab.runs.supervising.kernels import compile_all
from lab.runs.supervising.supervised import STALL_TIMEOUT_S, Run, supervised_run
from lab.runs.supervising.supervisor import ChildError
from lab.runs.testbeds.folder import source_path
from lab.runs.testbeds.ring_size import check_every_pair_makes_key
from lab.testbed import load_testbed
from orchestrator.durable import replace_file
from orchestrator.events.common import Unknown
from orchestrator.events.learning import ClientState, RoundRecord, WaitingForKeys
from orchestrator.events.process import PeerLedger, ProcessEvent
from orchestrator.events.status import BlockReport, Pair
from orchestrator.randomness import random_hex

if TYPE_CHECKING:
    from fl.rounds.config import FLConfig
    from fl.workloads.base import Task

PACKAGES = ("qunetlab", "qcodes", "pyvisa-py", "pyserial", "pyzmq", "numpy", "numba", "gmpy2", "torch")


def run_demo(
    *,
    out: Path,
    rounds: int,
    task: str,
    data: Path | None,
    seed: int,
    source: str,
    dashboard: Tell | None = None,
) -> DemoReport:
    """Run it, and leave the report in ``out``; returns what ``report.json`` says.

    ``dashboard`` is told of a dashboard that serves as long as the ring runs; without it there is none.
    """
    from fl.experiments.options import option_of
    from fl.rounds.config import FLConfig
    from fl.workloads import open_task
    from fl.workloads.provenance import check_data

    started = time.monotonic()
    testbed = load_testbed(source_path(source))
    check_every_pair_makes_key(testbed)
    learning = open_task(task, data)
    check_data(task, learning, data, len(testbed.users), seed)  # told before a dozen processes start
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
    about = f"{task} on {testbed.name}, {counted(rounds, 'round')}"
    with on_record(out, "demo", about) as ending:
        report = _demonstrated(out, source, config, learning, data, dashboard, started)
        write_report(report, out)
        if not healthy(report):
            ending.failed("the report says what was not well")
    return report


def _demonstrated(
    out: Path,
    source: str,
    config: FLConfig,
    learning: Task,
    data: Path | None,
    dashboard: Tell | None,
    started: float,
) -> DemoReport:
    """What the report says of a run from its first process to its last, and of the reference."""
    from fl.rounds.aggregation import aggregation_for

    seed, rounds = config.seed, config.rounds
    with supervised_run(source, {"simulation": {"seed": seed}}, records=out, instead=True) as run:
        demand = aggregation_for(config, learning.n_parameters).key_bits_per_pair * rounds
        progress = RunProgress(rounds=rounds, phase="starting instruments, relay and nodes")
        progress.pairs = {pair: PairProgress(demand_bits=demand) for pair in run.testbed.pairs()}
        with Display(progress) as display:
            display.update(force=True)
            compile_all()
            run.start_ring()
            with dashboard_beside(run, dashboard):
                progress.phase = "keys and training"
                display.update(force=True)
                run.start_learning(config, data)
                follow(run, progress, display)
                said = verdict_on(run.testbed, run.secrets)
                progress.phase = "stopping"
                display.update(force=True)
                run.stop()
        progress.phase = "reference training without masking"
        return build_report(run, learning, config, demand, Said.of(said), started)


def follow(run: Run, progress: RunProgress, display: Display) -> None:
    """Show events until training is finished; raises ChildError when a process dies or nothing moves."""

    def take(name: str, event: ProcessEvent) -> None:
        run.note(name, event)
        show_event(progress, name, event)
        display.update()

    while run.finished is None:
        run.supervisor.wait_for(
            lambda name, event: not isinstance(event, WaitingForKeys | ClientState),
            STALL_TIMEOUT_S,
            "keys and training",
            take,
        )
    if run.finished.reason:
        raise ChildError(f"training ended early: {shown(run.finished.reason)}")


def build_report(
    run: Run, learning: Task, config: FLConfig, demand_bits: int, said: Said, started: float
) -> DemoReport:
    """Everything that ``report.json`` says; ``started`` on the monotonic clock."""
    from fl.experiments.notes import consent_notes, notes_for
    from fl.experiments.reference import train_reference
    from fl.rounds.config import listed

    testbed = run.testbed
    clippings = [record.clipping for record in run.rounds]
    reference = train_reference(learning, config.n_clients, config.rounds, config.seed)
    return {
        "testbed": {"name": testbed.name, "description": testbed.description},
        "simulated": True,
        "notes": [
            *notes_for(config),
            *light_notes(testbed),
            *consent_notes(run.consented),
            f"data: {listed(config.sources)}",
            *over_alarms(run),
        ],
        "task": config.task,
        "seed": config.seed,
        "epsilon": {"sec": testbed.protocol.eps_sec, "cor": testbed.protocol.eps_cor},
        "pairs": [pair_row(run, pair) for pair in testbed.pairs()],
        "ring": ring_run([run.state], testbed),
        "rounds": [_round_row(record) for record in run.rounds],
        "aborted_rounds": run.aborted_rounds,
        "warnings": [*clip_warnings(clippings, config.clip, config.levels), *event_warnings(run)],
        "aggregation": {
            "mode": config.mode,
            "ring_width": config.ring_width,
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
        "versions": versions(PACKAGES),
        "verdict": said,
        "wall_s": time.monotonic() - started,
    }


def _round_row(record: RoundRecord) -> DemoRound:
    return {
        "round": record.round,
        "accuracy": record.accuracy,
        "loss": record.loss,
        "upload_bytes": record.upload_bytes,
        "key_bits_used": record.key_bits_used,
    }


def over_alarms(run: Run) -> list[str]:
    """The alarms that came up during the run and were over when it ended."""
    return [
        f"over before the end: {alarm.told_by(role)}"
        for (role, _), alarm in run.alarms.items()
        if not alarm.on and alarm.text
    ]


def event_warnings(run: Run) -> list[str]:
    """The alarms that were on when the run ended, and events that were not understood."""
    alarms = [alarm.told_by(role) for (role, _), alarm in run.alarms.items() if alarm.on]
    return alarms + [f"{Unknown(kind).told_by(role)}: came {n}x" for (role, kind), n in run.unknown.items()]


def pair_epsilon(run: Run, pair: Pair) -> EpsilonSum:
    """What may have gone wrong with a pair: each end booked the tags that it checked, both the same blocks."""
    ends = [end for names in (pair, pair[::-1]) if (end := run.epsilons.get(names)) is not None]
    sec, cor = max((end.sec for end in ends), default=0.0), max((end.cor for end in ends), default=0.0)
    auth = sum(end.auth for end in ends)
    return {"sec": sec, "cor": cor, "auth": auth, "total": sec + cor + auth}


def pair_row(run: Run, pair: Pair) -> DemoPair:
    """Totals of one pair; QBER and f are weighted by sifted bits."""
    from orchestrator.protocols.block_planning import plan_for

    plan = plan_for(run.testbed, *pair)
    blocks = [block for block in run.blocks if block.pair == pair]
    stored = [block for block in blocks if block.stored]
    sifted = sum(block.sifted_bits for block in stored)
    ring_s = sum(block.light_s for block in blocks)
    wall_s = sum(block.light_wall_s for block in blocks)
    secret = sum(block.secret_bits for block in stored)
    predicted = sum(block.predicted_bits for block in stored)

    def mean(value: Callable[[BlockReport], float]) -> float:
        return sum(value(block) * block.sifted_bits for block in stored) / sifted if sifted else 0.0

    ledger = run.ledgers.get(pair, PeerLedger(pair[1], 0, 0, 0, 0, 0))
    return {
        "pair": list(pair),
        "loss_db": sum(pair_light(run.testbed, *pair).arms_db),
        "pulses": sum(block.pulses for block in blocks),
        "lost_frames": sum(block.lost_frames for block in blocks),
        "sifted_bits": sifted,
        "qber": mean(lambda block: block.qber or 0.0),
        "planned_qber": plan.qber,
        "f_ec": mean(lambda block: block.f_ec or 0.0),
        "secret_bits": secret,
        "predicted_bits": predicted,
        "ring_s": ring_s,
        "secret_bits_per_ring_second": secret / ring_s if ring_s else 0.0,
        "secret_bits_per_wall_second": secret / wall_s if wall_s else 0.0,
        "predicted_bits_per_ring_second": predicted / ring_s if ring_s else 0.0,
        "planned_bits_per_ring_second": plan.key_rate_per_pulse * run.testbed.protocol.clock_hz,
        "aborted_blocks": len(blocks) - len(stored),
        "abort_reasons": [block.reason for block in blocks if not block.stored],
        "consumed_bits": ledger.delivered_bits,
        "stored_bits": ledger.stored_bits,
        "authentication_bits": ledger.authentication_bits,
        "burnt_bits": ledger.burnt_bits,
        "epsilon": pair_epsilon(run, pair),
    }


def self_check(run: Run, config: FLConfig) -> bool:
    """Whether the server's aggregate of every round is exactly the sum of the clients' private updates."""
    from fl.rounds.selfcheck import check_run

    checks = check_run(run.state / "fl-server" / config.run_id, run.self_check)
    return len(checks) == config.rounds and all(check.exact for check in checks)


def healthy(report: DemoReport) -> bool:
    """All pairs keyed, the sum exact, every instrument safe."""
    return (
        report["aggregation"]["exact"] is True
        and all(row["secret_bits"] > 0 for row in report["pairs"])
        and report["instruments"]["safe"] is True
    )


def write_report(report: DemoReport, out: Path) -> None:
    """``report.json`` and ``report.html`` in ``out``."""
    replace_file(out / "report.json", msgspec.json.format(msgspec.json.encode(report), indent=1))
    replace_file(out / "report.html", render_report(report).encode())


def summary(report: DemoReport, out: Path) -> str:
    """The run in a few lines."""
    rates = [row["secret_bits_per_ring_second"] for row in report["pairs"]]
    last, reference = report["rounds"][-1], report["reference"][-1]
    return "\n".join(
        [
            *report["warnings"],
            shown(f"ring at the end of training: {report['verdict'].line}"),
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
