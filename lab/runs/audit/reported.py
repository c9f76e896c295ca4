"""Whether results and reports say what the rounds and blocks on record came to, and the final model does what they claim."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from fl.rounds.config import FLConfig
from fl.rounds.run_state import RunStateError, load_array
from fl.workloads import open_task
from fl.workloads.data import DataError
from lab.runs.audit.case import Case, Ring
from lab.runs.audit.findings import Asking, Check
from lab.runs.audit.leases import blocks_of

RESULTS = "results.json"
REPORT = "report.json"
FILLED_IN = ("run_id", "task_fingerprint", "sources")
"""Settings that a run on a testbed gets when it begins."""


def check_results(case: Case) -> Check:
    """``results.json`` and ``report.json`` against the rounds and blocks that are on record."""
    ask = Asking("reported figures")
    if case.results is not None:
        _results(ask, case)
    report = case.folder / REPORT
    if report.exists():
        _report(ask, case, report)
    if case.results is None and not report.exists():
        ask.note("this folder holds neither results nor a report")
    return ask.done()


def _results(ask: Asking, case: Case) -> None:
    results = case.results
    assert results is not None
    last = [run.rounds[-1].accuracy for run in results.runs]
    if last:
        mean = math.fsum(last) / len(last)
        ask.that(
            math.isclose(results.final.accuracy_mean, mean, rel_tol=1e-12),
            f"the final accuracy is told as {results.final.accuracy_mean}; the last rounds of all seeds have {mean}",
            RESULTS,
            "the headline figure was edited",
        )
    if results.configuration is None or results.key_supply == "simulated":
        ask.note("keys were simulated: there are no blocks and no server behind these figures")
        return
    if len(case.learning) != 1:
        ask.note(f"there are {len(case.learning)} server's states beside the results, not one")
        return
    (server,) = case.learning
    for name in FLConfig.__struct_fields__:
        if name not in FILLED_IN:
            ask.same(
                f"the setting {name}",
                {
                    "the results": getattr(results.configuration.federated, name),
                    "the server": getattr(server.state.config, name),
                },
                RESULTS,
                "the results are those of another run, or their settings were edited",
            )
    told = {row.round: row for row in results.rounds}
    rounds = {record.round for record in server.state.rounds}
    ask.that(
        told.keys() <= rounds and all(run.rounds == results.rounds for run in results.runs),
        f"rounds {sorted(told)} make the curve; the server completed {sorted(rounds)}, and the runs have "
        f"{[[row.round for row in run.rounds] for run in results.runs]}",
        RESULTS,
        "rounds were put into the results, or left out, or edited in one of two places",
    )
    for record in server.state.rounds:
        row = told.get(record.round)
        if row is None:
            ask.that(
                False, f"round {record.round} is missing", RESULTS, "a round was left out of the results"
            )
            continue
        ask.same_figures(
            ("the results", "the server"),
            {
                "accuracy": (row.accuracy, record.accuracy),
                "loss": (row.loss, record.loss),
                "key bits": (row.key_bits, record.key_bits_used),
            },
            f"of round {record.round}",
            f"{RESULTS}, {case.place(server.folder)}/run.json",
            "a figure of the results was edited",
        )
        ask.that(
            row.exact is not False,
            f"the sum of round {record.round} was not the plain sum",
            RESULTS,
            "masks did not cancel: what the model learnt from this round is no sum of updates",
        )


def _report(ask: Asking, case: Case, path: Path) -> None:
    try:
        report = json.loads(path.read_bytes())
        _report_rows(ask, case, report["pairs"], report["rounds"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        means = "the report was damaged, or is of another version"
        ask.that(False, f"{REPORT} cannot be read: {type(error).__name__}: {error}", REPORT, means)


def _report_rows(ask: Asking, case: Case, rows: list[Any], rounds: list[Any]) -> None:
    rings = [ring for ring in case.rings if any(blocks_of(ring, user) for user in ring.roles)]
    for row in rows if len(rings) == 1 else ():
        _pair_row(ask, rings[0], row)
    for learning in case.learning:
        for record in learning.state.rounds:
            row = next((each for each in rounds if each["round"] == record.round), None)
            ask.same(
                f"accuracy and key of round {record.round}",
                {
                    "the report": None if row is None else (row["accuracy"], row["key_bits_used"]),
                    "the server": (record.accuracy, record.key_bits_used),
                },
                f"{REPORT}, {case.place(learning.folder)}/run.json",
                "a figure of the report was edited",
            )


def _pair_row(ask: Asking, ring: Ring, row: dict[str, Any]) -> None:
    first, second = row["pair"]
    if first not in ring.roles:
        ask.note(f"the records of {first} are not here")
        return
    blocks = [block for block, _ in blocks_of(ring, first).values() if block.peer == second]
    stored = [block for block in blocks if block.stored and block.counts is not None]
    sifted = sum(block.counts.n_key for block in stored if block.counts is not None)
    qber = sum((block.qber or 0.0) * block.counts.n_key for block in stored if block.counts is not None)
    # A block that the end of the run interrupted is on record, and in no report.
    pulses = sum(block.pulses for block in blocks if not block.interrupted)
    ask.same_figures(
        ("the report", f"{first}'s records"),
        {
            "secret bits": (row["secret_bits"], sum(block.secret_bits for block in stored)),
            "sifted bits": (row["sifted_bits"], sifted),
            "pulses": (row["pulses"], pulses),
        },
        f"of {first}-{second}",
        f"{REPORT}, {ring.name}/{first}",
        "a figure of the report was edited, or a block was",
    )
    ask.that(
        math.isclose(row["qber"], qber / sifted if sifted else 0.0, rel_tol=1e-9, abs_tol=1e-15),
        f"QBER of {first}-{second} is told as {row['qber']:.6g}; its blocks have {qber / sifted if sifted else 0.0:.6g}",
        REPORT,
        "a figure of the report was edited, or a block was",
    )


def check_final_model(case: Case, data: Path | None = None) -> Check:
    """The final model of each training, evaluated again on the task's test data."""
    ask = Asking("accuracy of the final model")
    for learning in case.learning:
        if not learning.state.rounds:
            ask.note(f"{case.place(learning.folder)}: no round was completed")
            continue
        last, config = learning.state.rounds[-1], learning.state.config
        file = f"{case.place(learning.folder)}/model-{last.round:05d}.npy"
        try:
            task = open_task(config.task, data)
            model = load_array(learning.folder, "model", last.round).astype(np.float32)
            if config.task_fingerprint not in ("", task.fingerprint):
                ask.note(
                    f"{file}: the task {config.task} is another here, so that its accuracy cannot be compared"
                )
                continue
            evaluation = task.evaluate(model)
        except (DataError, RunStateError, ValueError, OSError, ImportError) as error:
            ask.note(f"{file} cannot be evaluated here: {error}")
            continue
        ask.that(
            math.isclose(evaluation.accuracy, last.accuracy, abs_tol=2e-3),
            f"the final model reaches {evaluation.accuracy:.4f}, reported are {last.accuracy:.4f}",
            file,
            "the model was swapped, or the accuracy was made up",
        )
    if not case.learning:
        ask.note("no training is in this folder")
    return ask.done()
