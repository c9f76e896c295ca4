"""``train sentiment``: a hybrid head beside a classical one of the same size.

Whatever the circuit gives must be more than what a classical layer of its size gives, so the classical
control runs with the same clients, seeds and protection.  Beside both stands the hybrid model trained in
one place, and in the full experiment low-rank adapters in the encoder.

Settings are chosen with ``--split validation``, which touches no test review, and seeds that are reported
nowhere: ``--seed 11``.
"""

from __future__ import annotations

from pathlib import Path

from fl.experiments.base import Beside, Cell, Versus, federated_config
from fl.experiments.options import TrainOptions
from fl.workloads import open_task, parse_task, workload
from fl.workloads.record import TaskSpec

CONTROL = {"hybrid": "classical", "hybrid-lora": "classical-lora"}
ADAPTERS = {"hybrid": "hybrid-lora"}

VALIDATION_NOTE = (
    "split validation: trained on four fifths of the training reviews, accuracy on the last fifth of them; "
    "for choosing settings, these are not figures of the test set"
)
LEFT_OUT_NOTE = "the full experiment includes adapters in the encoder"
CUT_NOTE = "of IMDB's reviews the encoder reads the first 128 tokens; nine of ten reviews are longer"
NO_ADAPTERS_NOTE = (
    "no adapters on IMDB: with 124 tokens a review instead of 27 they would take about an hour of CPU time per "
    "seed and 2.4 GB of cached token states"
)


def beside(options: TrainOptions, primary: Cell, data_folder: Path | None) -> Beside:
    """The same model in one place, its classical control, and in the full experiment the adapters."""
    spec = parse_task(options.task)
    if not options.baselines:
        return Beside(notes=_notes(options, spec))
    cells = [Cell("centralised", f"{spec.model}, all data in one place", "centralised", primary.config)]
    comparisons = [Versus("federated-centralised", "federated minus centralised", "federated", "centralised")]
    if (control := CONTROL.get(spec.model)) is not None:
        cells.append(_model(options, "control", control, data_folder))
        comparisons.append(Versus("hybrid-control", f"{spec.model} minus {control}", "federated", "control"))
    if (adapters := _adapters(spec)) is not None and not options.quick:
        cells.append(_model(options, "adapters", adapters, data_folder))
        comparisons.append(Versus("adapters-head", f"{adapters} minus {spec.model}", "adapters", "federated"))
    return Beside(tuple(cells), tuple(comparisons), _notes(options, spec))


def _adapters(spec: TaskSpec) -> str | None:
    """The model with adapters that is shown beside the one asked for."""
    model = ADAPTERS.get(spec.model)
    return model if model in workload(spec.task).models else None


def _notes(options: TrainOptions, spec: TaskSpec) -> tuple[str, ...]:
    notes = []
    if options.quick and options.baselines and _adapters(spec):
        notes.append(LEFT_OUT_NOTE)
    if spec.split == "validation":
        notes.append(VALIDATION_NOTE)
    if spec.task == "sentiment-imdb":
        notes.append(CUT_NOTE)
    if options.baselines and spec.model in ADAPTERS and _adapters(spec) is None:
        notes.append(NO_ADAPTERS_NOTE)
    return tuple(notes)


def _model(options: TrainOptions, name: str, model: str, data_folder: Path | None) -> Cell:
    """The same clients with another model, which has its own number of rounds."""
    spec = parse_task(options.task)
    record = workload(spec.task)
    task_name = str(record.spec(model, spec.split))
    config = federated_config(open_task(task_name, data_folder), task_name, options, record.experiment)
    return Cell(name, f"{config.title}, {model}", "federated", config)
