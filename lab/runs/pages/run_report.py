"""``report.html`` of a training run: one self-contained page from ``results.json`` and nothing else."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from fl.experiments.results import Arm, Results, all_exact
from fl.keys.budget import KeyForecast, KeyRecord, counted, duration, quantity
from fl.modes.table import MODES
from lab.runs.pages.curves import (
    PHASES,
    Line,
    accuracy_and_bytes,
    accuracy_and_loss,
    key_and_time,
    mean_seconds,
)
from lab.runs.pages.page import Table, render
from lab.runs.pages.ring_plots import ring_plots
from lab.runs.training.words import against_float32, range_text
from orchestrator.durable import replace_file
from orchestrator.events.status import pair_name

SUPPLY = {
    "live": "made on the ring during the run",
    "store": "taken from key stores filled before the run",
    "simulated": "simulated: made up by a generator, no quantum key was used",
}


def write_report(results: Results, path: Path) -> None:
    """The page of ``results`` at ``path``."""
    replace_file(path, render_run(results).encode())


def main_arm(results: Results) -> Arm:
    """The run that was asked for, in the form of its baselines."""
    return Arm(
        main_title(results),
        "federated",
        results.task,
        results.clients,
        results.mode,
        results.security,
        results.final,
        results.rounds,
        results.runs,
    )


def main_title(results: Results) -> str:
    """What the run is called in tables and figures."""
    return f"{results.clients} clients, {results.mode}"


def lines_of(results: Results) -> list[Line]:
    """The run and what it is compared with."""
    arms = [main_arm(results), *results.baselines.values()]
    return [Line(arm.title, arm) for arm in arms]


def render_run(results: Results) -> str:
    """The whole page as HTML text."""
    lines = lines_of(results)
    budget = results.key_budget
    return render(
        "training.html",
        needs_key=MODES[results.mode].cipher is not None,
        warnings=results.warnings,
        results=results,
        lead=_lead(results),
        supply=SUPPLY[results.key_supply],
        exact=all_exact(results.rounds),
        arms=_arms(lines),
        comparisons=_comparisons(results),
        learning_plots=accuracy_and_loss(lines),
        spread=_spread(results),
        communication=_communication(results),
        bytes_plots=accuracy_and_bytes(lines),
        key_plots=key_and_time(lines),
        ring_plots=ring_plots(results.ring) if results.ring else [],
        times=_times(lines),
        forecast=budget.forecast.text if budget.forecast else "",
        forecast_pairs=_forecast(budget.forecast),
        used=_used(results),
        ledgers=_ledgers(budget.record),
        stalls=_stalls(results),
        rounds=_rounds(results),
        configuration=_configuration(results),
        data=_data(results),
        software=Table(["software", "version"], [list(row) for row in results.versions.items()], "text"),
    )


def _lead(results: Results) -> str:
    text = (
        f"Task {results.task}, model {results.model}, split {results.split}; {results.clients} clients, "
        f"{counted(len(results.rounds), 'round')}, {counted(results.final.seeds, 'seed')}; "
        f"took {duration(round(results.wall_s))}"
    )
    return f"{text}; started {results.started_at}" if results.started_at else text


def _arms(lines: list[Line]) -> Table:
    rows = [
        [
            line.label,
            line.arm.security,
            f"{100 * line.arm.final.accuracy_mean:.2f}",
            range_text(line.arm.final.accuracy_ci95),
            str(line.arm.final.seeds),
            f"{line.arm.rounds[-1].upload_bytes_per_client:,.0f}" if line.has_rounds else "-",
        ]
        for line in lines
    ]
    head = ["", "security", "accuracy, %", "95 % interval", "seeds", "upload per client and round, bytes"]
    return Table(head, rows, "wide")


def _comparisons(results: Results) -> Table:
    rows = [
        [
            each.title,
            f"{100 * each.difference_mean:+.2f}",
            range_text(each.difference_ci95, "+"),
            ", ".join(f"{100 * value:+.2f}" for value in each.per_seed),
        ]
        for each in results.comparisons.values()
    ]
    return Table(["paired by seed", "difference, points", "95 % interval", "each seed, points"], rows, "wide")


def _spread(results: Results) -> str:
    if results.final.seeds < 2:
        return "One seed: no spread can be shown."
    return "Lines are means over the seeds; shading reaches from the lowest to the highest seed."


def _communication(results: Results) -> str:
    each = results.compression
    update_bytes = math.ceil(each.values_per_round * each.ring_width / 8)
    besides = each.upload_bytes_per_client - update_bytes
    shares = (
        f"With shares and answers ({besides:,.0f} bytes) a client sends {each.upload_bytes_per_client:,.0f} bytes"
        if MODES[results.mode].thresholds
        else f"A client sends {each.upload_bytes_per_client:,.0f} bytes"
    )
    return (
        f"{each.values_per_round:,} of {each.n_parameters:,} parameters travel per round, each "
        f"{each.ring_width} bits wide on the wire ({each.levels} levels on either side of zero"
        f"{', error feedback' if each.error_feedback else ''}): {update_bytes:,} bytes. {shares}, "
        f"{against_float32(each.saving_vs_float32)} than the {each.float32_bytes:,} of its parameters as "
        "float32."
    )


def _times(lines: list[Line]) -> Table:
    """The numbers behind the bars: phases too short to be seen there count as well."""
    timed = [line for line in lines if line.is_timed]
    phases = [(phase, text) for phase, text in PHASES if any(mean_seconds(line.arm, phase) for line in timed)]
    rows = [
        [
            line.label,
            *(f"{s:.3g}" if (s := mean_seconds(line.arm, phase)) else "-" for phase, _ in phases),
        ]
        for line in timed
    ]
    return Table(["mean time of a round, s", *(text for _, text in phases)], rows, "wide")


def _forecast(forecast: KeyForecast | None) -> Table:
    head = ["pair", "needed, bits", "in stock", "missing", "kbit per second of light", "ring time, s"]
    rows = [
        [
            pair_name(pair.pair),
            f"{pair.needed_bits:,}",
            f"{pair.stock_bits:,}",
            f"{pair.missing_bits:,}",
            f"{pair.rate_bps / 1e3:.1f} ({pair.source})" if pair.rate_bps else "-",
            "-" if pair.ring_s is None else f"{pair.ring_s:.1f}",
        ]
        for pair in (forecast.pairs if forecast else ())
    ]
    return Table(head, rows)


def _used(results: Results) -> str:
    record = results.key_budget.record
    if record is None or not (record.used_bits or record.burnt_bits):
        return ""
    seed = f" (seed {results.runs[0].seed}; each seed is a run of its own)" if len(results.runs) > 1 else ""
    return (
        f"Used: {quantity(record.used_bits)} over all pairs{seed}; burnt in aborted rounds: "
        f"{quantity(record.burnt_bits)}. Every round is in the table below."
    )


def _ledgers(record: KeyRecord | None) -> Table:
    head = ["pair's key store, bits", "produced", "used as pads", "authentication", "burnt", "in stock"]
    rows = [
        [pair_name(row.pair)]
        + [f"{v:,}" for v in (row.produced, row.delivered, row.authentication, row.burnt, row.stored)]
        for row in (record.ledgers if record else ())
    ]
    return Table(head, rows)


def _stalls(results: Results) -> Table:
    rows = [
        [
            stall.cause,
            f"{stall.seconds:.1f}",
            ", ".join(f"{pair_name(part.names)} {part.seconds:.1f}" for part in stall.parts),
        ]
        for stall in results.stalls
    ]
    head = ["training stood still", "seconds", "because of (several at once count for each)"]
    return Table(head, rows, "wide")


def _rounds(results: Results) -> Table:
    burnt = {row.round: row for run in results.runs for row in run.aborted}
    tried = [
        [
            str(number),
            "aborted",
            "-",
            "-",
            f"{row.key_bits_burnt:,} burnt",
            "-",
            row.reason,
        ]
        for number, row in burnt.items()
    ]
    summed = [
        [
            str(row.round),
            f"{100 * row.accuracy:.2f}",
            "-" if row.loss is None else f"{row.loss:.4f}",
            f"{row.upload_bytes_per_client:,.0f}",
            f"{row.key_bits:,}",
            str(row.dropped),
            {True: "yes", False: "NO", None: "not checked"}[row.exact],
        ]
        for row in results.rounds
    ]
    rows = sorted([*tried, *summed], key=lambda row: int(row[0]))
    head = [
        "round",
        "accuracy, %",
        "loss, nats",
        "upload per client, bytes",
        "key, bits",
        "dropped",
        "sum exact",
    ]
    return Table(head, rows)


def _configuration(results: Results) -> Table:
    if results.configuration is None:
        return Table((), ())
    federated = msgspec.to_builtins(results.configuration.federated)
    clients = federated.pop("clients")
    federated["clients"] = ", ".join(clients) if len(clients) <= 8 else f"{len(clients)}: {clients[0]} ..."
    options = {
        f"asked for: {key}": value
        for key, value in msgspec.to_builtins(results.configuration.options).items()
        if value is not None
    }
    rows = [
        [str(key), str(value)]
        for key, value in {**federated, **options, "workers": results.configuration.workers}.items()
        if key != "type"
    ]
    return Table(["setting", "value"], rows, "text")


def _data(results: Results) -> Table:
    told = any(file.source or file.licence for file in results.data)
    head = ["data", "SHA-256", *(["source", "licence"] if told else [])]
    rows = [[file.name, file.sha256, *([file.source, file.licence] if told else [])] for file in results.data]
    return Table(head, rows, "text")
