"""From the finished cells of a plan to its results: pure, so that a report can be made again at any time."""

from __future__ import annotations

from dataclasses import dataclass, field

from fl.experiments.base import Cell, Plan
from fl.experiments.options import option_of
from fl.experiments.results import (
    Arm,
    Comparison,
    CompressionSummary,
    Configuration,
    KeyBudget,
    KeySupply,
    Results,
    SeedRun,
    Stall,
    compare,
    final_of,
    mean_rounds,
)
from fl.experiments.ring_run import RingRun
from fl.experiments.runner import Outcome
from fl.keys.budget import KeyForecast, PairLedger, record
from fl.rounds.clipping import clip_warnings
from fl.workloads import parse_task
from fl.workloads.data import DataSource


@dataclass(frozen=True)
class Surroundings:
    """What the results say about the run besides its numbers."""

    n_parameters: int
    values_per_round: int
    wire_bits: int
    key_supply: KeySupply
    forecast: KeyForecast | None = None
    workers: int = 1
    data: tuple[DataSource, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    started_at: str = ""
    wall_s: float = 0.0
    notes: tuple[str, ...] = ()
    stalls: tuple[Stall, ...] = ()
    testbed: str = ""
    ledgers: tuple[PairLedger, ...] = ()
    ring: RingRun | None = None


def arm_of(cell: Cell, runs: tuple[SeedRun, ...]) -> Arm:
    """One cell with the seeds that are finished; at least one."""
    return Arm(
        cell.title,
        cell.kind,
        cell.config.task,
        cell.config.n_clients,
        cell.mode,
        cell.security,
        final_of(runs),
        mean_rounds(runs),
        runs,
    )


def results_of(plan: Plan, outcome: Outcome, about: Surroundings) -> Results:
    """The results of what is finished; raises ValueError while the run itself has no finished seed."""
    arms = {
        cell.name: arm_of(
            cell, tuple(outcome[cell.name][seed] for seed in plan.seeds if seed in outcome[cell.name])
        )
        for cell in plan.cells
        if outcome[cell.name]
    }
    primary, main = plan.primary, arms.pop(plan.primary.name, None)
    if main is None:
        raise ValueError(f"no seed of {primary.title} is finished yet")
    comparisons: dict[str, Comparison] = {}
    for versus in plan.comparisons:
        found = compare(
            versus.title, tuple(outcome[versus.first].values()), tuple(outcome[versus.second].values())
        )
        if found is not None:
            comparisons[versus.name] = found
    spec = parse_task(primary.config.task)
    complete = all(len(outcome[cell.name]) == len(plan.seeds) for cell in plan.cells)
    unfinished = () if complete else ("unfinished: some seeds or baselines are missing",)
    return Results(
        task=spec.task,
        mode=primary.config.mode,
        split=spec.split,
        clients=primary.config.n_clients,
        rounds=main.rounds,
        final=main.final,
        baselines=arms,
        compression=compression_of(primary, main, about),
        key_supply=about.key_supply,
        security=primary.security,
        model=spec.model,
        title=plan.title,
        quick=plan.options.quick,
        complete=complete,
        notes=(*plan.notes, *about.notes, *unfinished),
        warnings=warnings_of(primary, main),
        runs=main.runs,
        comparisons=comparisons,
        configuration=Configuration(plan.options, primary.seeded(plan.seeds[0]), about.workers),
        key_budget=KeyBudget(
            about.forecast,
            record(
                [(row.round, row.key_bits) for row in main.runs[0].rounds],
                [(row.round, row.key_bits_burnt) for row in main.runs[0].aborted],
                about.ledgers,
            ),
        ),
        stalls=about.stalls,
        ring=about.ring,
        testbed=about.testbed,
        data=about.data,
        versions=about.versions,
        started_at=about.started_at,
        wall_s=about.wall_s,
    )


def warnings_of(primary: Cell, main: Arm) -> tuple[str, ...]:
    """Warnings about settings that have probably spoilt the run, naming their options."""
    config = primary.config
    return clip_warnings([row.clipping for row in main.rounds], config.clip, config.levels, option_of)


def compression_of(primary: Cell, main: Arm, about: Surroundings) -> CompressionSummary:
    """Bytes of an upload against the same parameters as float32, ring width and packing included."""
    config = primary.config
    upload = main.rounds[-1].upload_bytes_per_client
    float32 = 4 * about.n_parameters
    return CompressionSummary(
        ring_width=about.wire_bits,
        saving_vs_float32=1 - upload / float32,
        n_parameters=about.n_parameters,
        values_per_round=about.values_per_round,
        levels=config.levels,
        keep=config.keep,
        error_feedback=config.error_feedback,
        upload_bytes_per_client=upload,
        float32_bytes=float32,
    )
