"""Trained models of federated tasks as circuits for a QPU.

A task with a circuit in it says what goes in (``circuit_inputs``), which angles were trained
(``circuit_weights``) and what becomes of the expectation values (``read_out``).  Test examples are drawn in a
seeded random order, so that the first n are a fair sample of the test set, whatever its own order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import numpy.typing as npt

from fl.qpu.errors import ModelError
from fl.qpu.export import pauli_words
from fl.qpu.model import CircuitModel
from fl.workloads import load_task, ours, parse_task
from fl.workloads.base import CircuitTask, Parameters, training_seed
from orchestrator.decoding import from_json

DEFAULT_TASK = "sentiment:hybrid"
DEFAULT_SENTENCES = 200
QUICK_ROUNDS = 3
_MODEL_FILE = re.compile(r"model-(\d+)\.npy")


def open_circuit_task(name: str, data_folder: Path | None = None) -> CircuitTask:
    """The task called ``name``; raises ModelError if it has no circuit that a QPU can run."""
    spec = parse_task(name)
    record = ours().get(spec.task)
    if record is None or spec.model not in record.circuit_models:
        having = [f"{each.name}:{model}" for each in ours().values() for model in each.circuit_models]
        raise ModelError(f"{spec} has no circuit for a QPU; {', '.join(having)} have one")
    return cast(CircuitTask, load_task(name, data_folder))


def circuit_model(task: CircuitTask, parameters: Parameters, n_examples: int, seed: int) -> CircuitModel:
    """``task``'s circuit with ``parameters`` and ``n_examples`` test examples in seeded order."""
    return _circuit_model(
        task, parameters, task.test_examples.inputs, task.test_examples.labels, n_examples, seed
    )


def training_model(task: CircuitTask, parameters: Parameters, at_most: int, seed: int) -> CircuitModel:
    """The same with up to ``at_most`` training examples, for steps of training on the QPU."""
    data = task.client_data(0, 1, seed)
    return _circuit_model(task, parameters, data.inputs, data.labels, min(at_most, len(data)), seed)


def _circuit_model(
    task: CircuitTask,
    parameters: Parameters,
    inputs: npt.NDArray[np.float32],
    labels: npt.NDArray[np.int64],
    n_examples: int,
    seed: int,
) -> CircuitModel:
    check_parameters(task, parameters, "the model")
    if not 1 <= n_examples <= len(labels):
        raise ModelError(f"{n_examples} examples were asked for; there are 1 to {len(labels)}")
    chosen = np.random.default_rng([seed, 0x51B1]).permutation(len(labels))[:n_examples]
    return CircuitModel(
        name=task.name,
        quantum_function=task.circuit.quantum_function,
        n_wires=task.circuit.n_wires,
        observables=pauli_words(task.circuit.observables, task.circuit.n_wires),
        inputs=task.circuit_inputs(parameters, inputs[chosen]),
        weights=task.circuit_weights(parameters),
        labels=labels[chosen],
        read_out=lambda expectations: task.read_out(parameters, expectations),
    )


def load_parameters(task: CircuitTask, path: Path) -> Parameters:
    """Trained parameters from a file or folder, as :func:`model_file` finds them."""
    file = model_file(path)
    _refuse_other_task(task, file)
    try:
        parameters = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModelError(f"{file} is not a file of trained parameters: {error}") from error
    check_parameters(task, parameters, str(file))
    return np.ascontiguousarray(parameters, np.float32)


def _refuse_other_task(task: CircuitTask, file: Path) -> None:
    """Raise ModelError if the run that left ``file`` says that it trained another model.

    The length cannot tell: the classical control has as many parameters as the hybrid, on purpose.
    """
    for state in (file.parent / "cohort.json", file.parent / "run.json"):
        try:
            trained = from_json(state.read_bytes(), _RunState).config.task
        except (OSError, msgspec.MsgspecError):
            continue
        if _without_split(trained) != _without_split(task.name):
            raise ModelError(f"{file} was trained as {trained}, which is not {task.name}")


class _Config(msgspec.Struct):
    task: str


class _RunState(msgspec.Struct):
    """The part that is read of a state file beside a model, of a cohort or of a learning server."""

    config: _Config


def _without_split(name: str) -> str:
    spec = parse_task(name)
    return f"{spec.task}:{spec.model}"


def model_file(path: Path) -> Path:
    """``path`` itself if it is a file, otherwise the model of the last round in the folder of a run."""
    return path if path.is_file() else latest_model(path)


def check_parameters(task: CircuitTask, parameters: npt.NDArray[np.generic], where: str) -> None:
    """Raise ModelError unless ``parameters`` are a finite 1-d float array (float32 or float64) of the task's length."""
    if parameters.shape != (task.n_parameters,) or parameters.dtype.kind != "f":
        raise ModelError(
            f"{where} holds {parameters.dtype} of shape {parameters.shape}; {task.name} has "
            f"{task.n_parameters} parameters"
        )
    if not np.isfinite(parameters).all():
        raise ModelError(f"{where} holds parameters that are not finite")


def latest_model(folder: Path) -> Path:
    """The model of the last round in the folder of a run.

    In the folder of an experiment that is the federated cell with the lowest seed.  Raises ModelError.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no file or folder {folder}")
    for place in (folder, *sorted(folder.glob("cells/federated-*")), folder / "state"):
        rounds = {
            int(match[1]): path
            for path in place.glob("model-*.npy")
            if (match := _MODEL_FILE.fullmatch(path.name))
        }
        if rounds:
            return rounds[max(rounds)]
    raise ModelError(
        f"{folder} holds no trained model (model-NNNNN.npy); give a .npy file or the folder of a run of "
        f"{DEFAULT_TASK}"
    )


def train_quickly(
    task: CircuitTask,
    seed: int,
    rounds: int = QUICK_ROUNDS,
    report: Callable[[str], None] = lambda text: None,
) -> Parameters:
    """Parameters from ``rounds`` epochs over all training data in one place: no federation, no protection."""
    data = task.client_data(0, 1, seed)
    parameters = task.initial_parameters(seed)
    for number in range(1, rounds + 1):
        parameters = parameters + task.local_train(parameters, data, training_seed(seed, number, 0))
        report(f"epoch {number} of {rounds}: accuracy {task.evaluate(parameters).accuracy:.3f}")
    return parameters


def with_circuit_weights(
    task: CircuitTask, parameters: Parameters, weights: npt.NDArray[np.float64]
) -> Parameters:
    """``parameters`` with other angles in the circuit: ``weights``, 1-d float64 in radians.

    Where they lie in the flat array is asked of the task itself, by reading out an array of positions.
    """
    places = task.circuit_weights(np.arange(len(parameters), dtype=np.float32)).astype(np.int64)
    changed = parameters.copy()
    changed[places] = weights
    return changed
