"""``report.html`` of a training run: one self-contained page from ``results.json`` and nothing else."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec

from fl.experiments.results import Arm, Results
from fl.keys.budget import counted, duration, quantity
from lab.runs.pages.curves import (
    PHASES,
    Line,
    accuracy_and_bytes,
    accuracy_and_loss,
    key_and_time,
    mean_seconds,
)
from lab.runs.pages.page import image, page, table
from lab.runs.shown import html_text
from lab.runs.training.words import against_float32
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
    return page(
        f"qunetlab: {results.title}",
        [
            *(f"<p class='alarm'>{html_text(warning)}</p>" for warning in results.warnings),
            f"<h1>{html_text(results.title)}</h1>",
            f"<p class='lead'>{_lead(results)}</p>",
            *(f"<p class='warn'>{html_text(note)}</p>" for note in results.notes),
            f"<p class='note'>{_label(results)}</p>",
            _arms(lines),
            _comparisons(results),
            "<h2>Training</h2>",
            image(accuracy_and_loss(lines), "Accuracy and loss per round"),
            f"<p class='lead'>{_spread(results)}</p>",
            "<h2>Communication</h2>",
            _communication(results),
            image(accuracy_and_bytes(lines), "Upload size, and accuracy per byte sent"),
            "<h2>Key and time</h2>",
            image(key_and_time(lines), "Key used, and time of a round by phase"),
            _times(lines),
            _key_budget(results),
            _stalls(results),
            "<h2>Rounds</h2>",
            _rounds(results),
            "<h2>Configuration</h2>",
            _configuration(results),
            "<h2>Data and software</h2>",
            _provenance(results),
        ],
    )


def _lead(results: Results) -> str:
    text = (
        f"Task {results.task}, model {results.model}, split {results.split}; {results.clients} clients, "
        f"{counted(len(results.rounds), 'round')}, {counted(results.final.seeds, 'seed')}; "
        f"took {duration(round(results.wall_s))}"
    )
    return html_text(f"{text}; started {results.started_at}" if results.started_at else text)


def _label(results: Results) -> str:
    exact = {row.exact for row in results.rounds}
    verdict = (
        '<span class="bad">does NOT equal the plain sum</span>'
        if False in exact
        else "was not compared with the plain sum"
        if None in exact
        else '<span class="good">equals the plain sum exactly in every round</span>'
    )
    where = f" on testbed {html_text(results.testbed)}" if results.testbed else ""
    supply = (
        f"No key is needed{where}"
        if results.mode == "plain"
        else f"Key supply <b>{results.key_supply}</b>{where} ({SUPPLY[results.key_supply]})"
    )
    return (
        f"Aggregation mode <b>{html_text(results.mode)}</b>: security <b>{results.security}</b>. "
        f"{supply}. The aggregate {verdict}."
    )


def _arms(lines: list[Line]) -> str:
    rows = [
        [
            html_text(line.label),
            line.arm.security,
            f"{100 * line.arm.final.accuracy_mean:.2f}",
            _interval(line.arm.final.accuracy_ci95),
            str(line.arm.final.seeds),
            f"{line.arm.rounds[-1].upload_bytes_per_client:,.0f}" if line.has_rounds else "-",
        ]
        for line in lines
    ]
    head = ["", "security", "accuracy, %", "95 % interval", "seeds", "upload per client and round, bytes"]
    return table(head, rows, "wide")


def _interval(interval: tuple[float, float] | None, sign: str = "") -> str:
    if interval is None:
        return "- (one seed)"
    return f"{100 * interval[0]:{sign}.2f} to {100 * interval[1]:{sign}.2f}"


def _comparisons(results: Results) -> str:
    if not results.comparisons:
        return ""
    rows = [
        [
            html_text(each.title),
            f"{100 * each.difference_mean:+.2f}",
            _interval(each.difference_ci95, "+"),
            ", ".join(f"{100 * value:+.2f}" for value in each.per_seed),
        ]
        for each in results.comparisons.values()
    ]
    return table(["paired by seed", "difference, points", "95 % interval", "each seed, points"], rows, "wide")


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
        if results.mode == "lightsecagg"
        else f"A client sends {each.upload_bytes_per_client:,.0f} bytes"
    )
    return (
        f"<p>{each.values_per_round:,} of {each.n_parameters:,} parameters travel per round, each "
        f"{each.ring_width} bits wide on the wire ({each.levels} levels on either side of zero"
        f"{', error feedback' if each.error_feedback else ''}): {update_bytes:,} bytes. {shares}, "
        f"<b>{against_float32(each.saving_vs_float32)}</b> than the {each.float32_bytes:,} of its parameters as "
        "float32.</p>"
    )


def _times(lines: list[Line]) -> str:
    """The numbers behind the bars: phases too short to be seen there count as well."""
    timed = [line for line in lines if line.is_timed]
    phases = [(phase, text) for phase, text in PHASES if any(mean_seconds(line.arm, phase) for line in timed)]
    rows = [
        [
            html_text(line.label),
            *(f"{s:.3g}" if (s := mean_seconds(line.arm, phase)) else "-" for phase, _ in phases),
        ]
        for line in timed
    ]
    return table(["mean time of a round, s", *(text for _, text in phases)], rows, "wide") if rows else ""


def _key_budget(results: Results) -> str:
    budget, parts = results.key_budget, []
    if budget.forecast is not None:
        parts.append(f"<p>Forecast before training: {html_text(budget.forecast.text)}.</p>")
        if budget.forecast.pairs:
            rows = [
                [
                    pair_name(pair.pair),
                    f"{pair.needed_bits:,}",
                    f"{pair.stock_bits:,}",
                    f"{pair.missing_bits:,}",
                    f"{pair.rate_bps / 1e3:.1f} ({pair.source})" if pair.rate_bps else "-",
                    "-" if pair.ring_s is None else f"{pair.ring_s:.1f}",
                ]
                for pair in budget.forecast.pairs
            ]
            head = ["pair", "needed, bits", "in stock", "missing", "kbit per second of light", "ring time, s"]
            parts.append(table(head, rows))
    if budget.record is not None and (budget.record.used_bits or budget.record.burnt_bits):
        parts.append(
            f"<p>Used: {quantity(budget.record.used_bits)} over all pairs"
            f"{f' (seed {results.runs[0].seed}; each seed is a run of its own)' if len(results.runs) > 1 else ''}; "
            f"burnt in aborted rounds: {quantity(budget.record.burnt_bits)}. Every round is in the table below.</p>"
        )
        if budget.record.ledgers:
            rows = [
                [pair_name(row.pair)]
                + [f"{v:,}" for v in (row.produced, row.delivered, row.authentication, row.burnt, row.stored)]
                for row in budget.record.ledgers
            ]
            head = [
                "pair's key store, bits",
                "produced",
                "used as pads",
                "authentication",
                "burnt",
                "in stock",
            ]
            parts.append(table(head, rows))
    return "\n".join(parts)


def _stalls(results: Results) -> str:
    if not results.stalls:
        return ""
    rows = [
        [
            html_text(stall.cause),
            f"{stall.seconds:.1f}",
            html_text(", ".join(f"{pair_name(part.names)} {part.seconds:.1f}" for part in stall.parts)),
        ]
        for stall in results.stalls
    ]
    head = ["training stood still", "seconds", "because of (several at once count for each)"]
    return "<h2>Stalls</h2>" + table(head, rows, "wide")


def _rounds(results: Results) -> str:
    burnt = {row.round: row for run in results.runs for row in run.aborted}
    tried = [
        [
            str(number),
            "aborted",
            "-",
            "-",
            f"{row.key_bits_burnt:,} burnt",
            "-",
            html_text(row.reason),
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
            {True: "yes", False: "<span class='bad'>NO</span>", None: "not checked"}[row.exact],
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
    text = table(head, rows)
    return text if len(rows) <= 20 else f"<details><summary>{len(rows)} rounds</summary>{text}</details>"


def _configuration(results: Results) -> str:
    if results.configuration is None:
        return ""
    federated = msgspec.to_builtins(results.configuration.federated)
    clients = federated.pop("clients")
    federated["clients"] = ", ".join(clients) if len(clients) <= 8 else f"{len(clients)}: {clients[0]} ..."
    options = {
        f"asked for: {key}": value
        for key, value in msgspec.to_builtins(results.configuration.options).items()
        if value is not None
    }
    rows = [
        [html_text(str(key)), html_text(str(value))]
        for key, value in {**federated, **options, "workers": results.configuration.workers}.items()
        if key != "type"
    ]
    return f"<details><summary>{len(rows)} settings</summary>{table(['setting', 'value'], rows, 'text')}</details>"


def _provenance(results: Results) -> str:
    parts = []
    if results.data:
        told = any(file.source or file.licence for file in results.data)
        rows = [
            [
                html_text(file.name),
                f"<code>{html_text(file.sha256)}</code>",
                *([html_text(file.source), html_text(file.licence)] if told else []),
            ]
            for file in results.data
        ]
        parts.append(table(["data", "SHA-256", *(["source", "licence"] if told else [])], rows, "text"))
    parts.append(
        table(
            ["software", "version"],
            [[html_text(key), html_text(value)] for key, value in results.versions.items()],
            "text",
        )
    )
    return "\n".join(parts)
