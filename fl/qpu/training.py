"""A few steps of training on the QPU itself: parameter-shift gradients of a handful of the circuit's weights.

For a weight in one rotation ``exp(-i w P / 2)`` expectation values obey

    d<O>/dw = (<O>(w + pi/2) - <O>(w - pi/2)) / 2

exactly (Mitarai et al., Phys. Rev. A 98, 032309 (2018), eq. 15-17; Schuld et al., Phys. Rev. A 99, 032331
(2019), sec. III), so gradients are measured like anything else: with J weights and a batch of M examples one
step takes M (2 J + 1) parameter sets.  Everything but the circuit stays classical: the loss is the
cross-entropy of the read-out, its derivative by the expectation values is taken here.

Every step is a run of its own in ``step-00001``, resumable like any run; ``training.json`` and the model
after each step are durable before the next one is submitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fl.qpu.backends import Device
from fl.qpu.cost import CostEstimate
from fl.qpu.errors import ModelError, QpuFolderError, UnconfirmedCostError
from fl.qpu.evaluate import cost_of, measure
from fl.qpu.export import SHIFT_RULE_GATES, ExportedCircuit, export
from fl.qpu.extrapolate import Floats
from fl.qpu.journal import QpuFolder
from fl.qpu.model import CircuitModel, Labels
from fl.qpu.options import RunOptions, TrainingPlan
from fl.qpu.prepare import Prepared, prepare
from fl.qpu.runner import Measured, Report
from orchestrator.decoding import from_json
from orchestrator.durable import replace_file, write_kept

TRAINING_FILE = "training.json"
SHIFT = np.pi / 2
_STEP = 1e-3


class StepRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step: loss of its batch before the step, gradient with its standard error from shot noise, weights
    after."""

    step: int
    loss: float
    exact_loss: float
    gradient: tuple[float, ...]
    gradient_error: tuple[float, ...]
    exact_gradient: tuple[float, ...]
    weights: tuple[float, ...]


class TrainingState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of ``training.json``; ``trained`` are the indices of the weights that change."""

    plan: TrainingPlan
    backend: str
    options: RunOptions
    trained: tuple[int, ...]
    start: tuple[float, ...]
    steps: tuple[StepRecord, ...] = ()


@dataclass(frozen=True)
class Trained:
    """The outcome: ``weights`` (n_weights,) after the last step, and the record of all."""

    weights: Floats
    state: TrainingState


def training_cost(
    model: CircuitModel, device: Device, options: RunOptions, plan: TrainingPlan
) -> CostEstimate:
    """The cost of all steps together."""
    one = cost_of(_widened(prepare(model, device, options), plan), device, options)
    return msgspec.structs.replace(
        one,
        parameter_sets=one.parameter_sets * plan.steps,
        jobs=one.jobs * plan.steps,
        circuits=one.circuits * plan.steps,
        executions=one.executions * plan.steps,
        qpu_s=one.qpu_s * plan.steps,
    )


def train(
    model: CircuitModel,
    device: Device,
    options: RunOptions,
    plan: TrainingPlan,
    folder: Path,
    *,
    agree: Callable[[CostEstimate], bool],
    retry_failed: bool = False,
    report: Report = lambda event: None,
    on_step: Callable[[StepRecord], None] = lambda record: None,
    **runner_options: Any,
) -> Trained:
    """Train ``model``, whose examples are training examples, or go on with the training in ``folder``.

    Raises UnconfirmedCostError, ModelError, QpuFolderError, JobFailedError, ServiceError.
    """
    if plan.batch > len(model.inputs):
        raise ModelError(f"a batch of {plan.batch} examples cannot be drawn from {len(model.inputs)}")
    exported = _exported(model)
    trained = steepest_weights(model, exported, plan.n_weights)
    state = TrainingState(plan, device.name, options, trained, tuple(map(float, model.weights)))
    kept = _kept(folder)
    if kept is not None:
        if msgspec.structs.replace(kept, steps=()) != state:
            raise QpuFolderError(f"{folder} holds a training of another model or with other settings")
        state = kept
    cost = training_cost(model, device, options, plan)
    if not agree(cost):
        raise UnconfirmedCostError(f"training was not allowed: {cost.text()}; allow it with --allow-training")
    if kept is None:
        _save(folder, state)
    circuit = None
    for number in range(len(state.steps) + 1, plan.steps + 1):
        current = model.with_weights(np.array(state.steps[-1].weights if state.steps else state.start))
        with QpuFolder(folder / f"step-{number:05d}") as step_folder:
            circuit = step_folder.circuit() if step_folder.started else circuit
            prepared = prepare(current, device, options, circuit)
            circuit = prepared.circuit
            record = _step(
                number,
                current,
                prepared,
                plan,
                trained,
                partial(
                    measure,
                    device=device,
                    options=options,
                    folder=step_folder,
                    retry_failed=retry_failed,
                    report=report,
                    **runner_options,
                ),
                options.seed,
            )
        state = msgspec.structs.replace(state, steps=(*state.steps, record))
        _save(folder, state)
        on_step(record)
    return Trained(np.array(state.steps[-1].weights), state)


def steepest_weights(model: CircuitModel, exported: ExportedCircuit, count: int) -> tuple[int, ...]:
    """Indices of the ``count`` weights with the largest exact gradient over all examples of ``model``, in order.

    Only weights for which the shift rule holds; raises ModelError if there are too few.
    """
    usable = [
        index
        for index, gates in enumerate(exported.weight_gates)
        if len(gates) == 1 and gates[0] in SHIFT_RULE_GATES
    ]
    if count > len(usable):
        raise ModelError(
            f"{count} weights were to be trained; {len(usable)} of {len(model.weights)} are in exactly one rotation, "
            "as the shift rule asks"
        )
    gradient = np.abs(exact_gradient(model, tuple(usable)))
    order = np.argsort(-gradient, kind="stable")[:count]
    return tuple(sorted(usable[position] for position in order))


def exact_gradient(model: CircuitModel, trained: tuple[int, ...]) -> Floats:
    """The loss's exact gradient by the weights ``trained``, shape (trained,), by the shift rule in exact simulation."""
    slopes = loss_slopes(model, model.exact(), model.labels)
    return np.array([np.sum(slopes * _exact_shift(model, index)) for index in trained])


def _exact_shift(model: CircuitModel, index: int) -> Floats:
    shift = np.zeros_like(model.weights)
    shift[index] = SHIFT
    up, down = (model.with_weights(model.weights + sign * shift).exact() for sign in (1, -1))
    return (up - down) / 2


def loss_of(model: CircuitModel, expectations: Floats, labels: Labels) -> float:
    """Mean cross-entropy in nats for expectation values of shape (n, observables)."""
    return float(np.mean(_losses(model, expectations, labels)))


def loss_slopes(model: CircuitModel, expectations: Floats, labels: Labels) -> Floats:
    """Derivatives of the mean loss by every expectation value, (n, observables), by central differences."""
    slopes = np.empty_like(expectations)
    for column in range(expectations.shape[1]):
        step = np.zeros(expectations.shape[1])
        step[column] = _STEP
        slopes[:, column] = _losses(model, expectations + step, labels) - _losses(
            model, expectations - step, labels
        )
    return slopes / (2 * _STEP) / len(expectations)


def _variance_of_slopes(
    model: CircuitModel, expectations: Floats, standard_errors: Floats, differences: Floats
) -> Floats:
    """Variance of every gradient component because the slopes are taken at measured, not exact, values.

    ``differences`` (weights, n, observables) are what the slopes are multiplied with; first-order propagation.
    """
    variance = np.zeros(len(differences))
    for column in range(expectations.shape[1]):
        step = np.zeros(expectations.shape[1])
        step[column] = _STEP
        up, down = (loss_slopes(model, expectations + sign * step, model.labels) for sign in (1, -1))
        curvature = (up - down) / (2 * _STEP)
        variance += np.sum(
            (np.sum(curvature * differences, axis=2) * standard_errors[:, column]) ** 2, axis=1
        )
    return variance


def _losses(model: CircuitModel, expectations: Floats, labels: Labels) -> Floats:
    logits = model.logits(expectations)
    logits = logits - logits.max(axis=1, keepdims=True)
    losses: Floats = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return losses


def shifted_values(prepared: Prepared, batch: npt.NDArray[np.int64], columns: list[int]) -> Floats:
    """Parameter sets of one step, shape (sets, parameters), for ``batch`` (1-d int64): the batch as it is, then for every trained weight shifted up and down."""
    base = prepared.values[batch]
    blocks = [base]
    for column in columns:
        for sign in (1, -1):
            block = base.copy()
            block[:, column] += sign * SHIFT
            blocks.append(block)
    return np.concatenate(blocks)


def _step(
    number: int,
    model: CircuitModel,
    prepared: Prepared,
    plan: TrainingPlan,
    trained: tuple[int, ...],
    run: Callable[[Prepared], Measured],
    seed: int,
) -> StepRecord:
    batch = np.random.default_rng([seed, number, 0x57E9]).permutation(len(model.inputs))[: plan.batch]
    names = [parameter.name for parameter in prepared.circuit.parameters]
    columns = [names.index(f"weights[{index}]") for index in trained]
    measured = run(replace(prepared, values=shifted_values(prepared, batch, columns)))
    shape = (1 + 2 * len(trained), plan.batch, -1)
    values = measured.expectations.reshape(shape)
    errors = measured.standard_errors.reshape(shape)
    few = replace(model, inputs=model.inputs[batch], labels=model.labels[batch])
    differences = (values[1::2] - values[2::2]) / 2
    slopes = loss_slopes(few, values[0], few.labels)
    gradient = np.sum(slopes * differences, axis=(1, 2))
    variance = np.sum(slopes**2 * (errors[1::2] ** 2 + errors[2::2] ** 2) / 4, axis=(1, 2))
    variance += _variance_of_slopes(few, values[0], errors[0], differences)
    weights = model.weights.copy()
    weights[list(trained)] -= plan.learning_rate * gradient
    return StepRecord(
        step=number,
        loss=loss_of(few, values[0], few.labels),
        exact_loss=loss_of(few, few.exact(), few.labels),
        gradient=tuple(map(float, gradient)),
        gradient_error=tuple(map(float, np.sqrt(variance))),
        exact_gradient=tuple(map(float, exact_gradient(few, trained))),
        weights=tuple(map(float, weights)),
    )


def _widened(prepared: Prepared, plan: TrainingPlan) -> Prepared:
    """``prepared`` with as many parameter sets as one step has."""
    return replace(prepared, values=np.zeros((plan.sets_per_step, prepared.values.shape[1])))


def _exported(model: CircuitModel) -> ExportedCircuit:
    return export(
        model.quantum_function,
        n_wires=model.n_wires,
        n_inputs=model.inputs.shape[1],
        n_weights=len(model.weights),
        observables=model.observables,
    )


def _kept(folder: Path) -> TrainingState | None:
    path = folder / TRAINING_FILE
    if not path.exists():
        return None
    try:
        return from_json(path.read_bytes(), TrainingState)
    except (OSError, ValueError, RecursionError) as error:
        raise QpuFolderError(f"cannot read {path}: {error}") from error


def _save(folder: Path, state: TrainingState) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_kept(folder / TRAINING_FILE, state)


def save_model(folder: Path, parameters: npt.NDArray[np.float32]) -> Path:
    """Keep trained parameters (1-d float32) as ``trained.npy``; returns the path."""
    buffer = BytesIO()
    np.save(buffer, parameters, allow_pickle=False)
    replace_file(folder / "trained.npy", buffer.getvalue())
    return folder / "trained.npy"
