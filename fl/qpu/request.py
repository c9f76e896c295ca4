"""What a user asked for, kept in the run folder so that ``--resume FOLDER`` needs nothing else.

``request.json`` names task, examples, backend, account (by name, never its token) and options; the trained
parameters lie beside it as ``model.npy``.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np

from fl.qpu.backends import AccountChoice
from fl.qpu.errors import QpuFolderError
from fl.qpu.journal import read_struct
from fl.qpu.options import RunOptions, TrainingPlan
from fl.qpu.tasks import (
    DEFAULT_SENTENCES,
    DEFAULT_TASK,
    QUICK_ROUNDS,
    load_parameters,
    model_file,
    open_circuit_task,
    train_quickly,
)
from fl.workloads.base import CircuitTask, Parameters
from orchestrator.durable import replace_file, write_kept

REQUEST_FILE, MODEL_FILE = "request.json", "model.npy"
FORMAT = 2


class QpuRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A run: ``sentences`` examples of ``task`` on ``backend``; ``model`` says where the parameters came from.

    With ``training`` it is steps of training instead.
    """

    backend: str
    task: str = DEFAULT_TASK
    model: str = ""
    sentences: int = DEFAULT_SENTENCES
    options: RunOptions = RunOptions()
    account: AccountChoice = AccountChoice()
    data: str | None = None
    training: TrainingPlan | None = None
    format: int = FORMAT

    @property
    def purpose(self) -> str:
        """The command that it belongs to."""
        return "run" if self.training is None else "train"


def trained_model(
    request: QpuRequest, model: Path | None, report: Callable[[str], None]
) -> tuple[QpuRequest, CircuitTask, Parameters]:
    """The task and its parameters: those of ``model``, or without one a short training here, which the request
    then says."""
    task = open_circuit_task(request.task, data_folder(request))
    if model is not None:
        file = model_file(model)
        return msgspec.structs.replace(request, model=str(file)), task, load_parameters(task, file)
    note = f"trained here: {QUICK_ROUNDS} epochs over all training data in one place, no federation, no protection"
    report(f"no --model given; {note}")
    parameters = train_quickly(task, request.options.seed, report=report)
    return msgspec.structs.replace(request, model=note), task, parameters


def data_folder(request: QpuRequest) -> Path | None:
    """Where the task's files lie, if not in the usual place."""
    return None if request.data is None else Path(request.data)


def refuse_used(folder: Path) -> None:
    """Raise QpuFolderError if ``folder`` holds a run that has begun."""
    if any(folder.glob("**/run.json")):
        raise QpuFolderError(f"{folder} already holds a run; --resume it or choose another folder")


def keep_request(folder: Path, request: QpuRequest, parameters: Parameters) -> None:
    """Write request and parameters to ``folder``, which is locked; raises QpuFolderError if it holds a run."""
    refuse_used(folder)
    try:
        buffer = BytesIO()
        np.save(buffer, parameters, allow_pickle=False)
        replace_file(folder / MODEL_FILE, buffer.getvalue())
        write_kept(folder / REQUEST_FILE, request)
    except OSError as error:
        raise QpuFolderError(f"cannot write to {folder}: {error}") from error


def kept_request(folder: Path, purpose: str = "run") -> tuple[QpuRequest, CircuitTask, Parameters]:
    """Request, task and parameters of the run in ``folder``; raises QpuFolderError, ModelError."""
    path = folder / REQUEST_FILE
    if not path.is_file():
        raise QpuFolderError(f"{folder} holds no run to resume (there is no {REQUEST_FILE})")
    request = read_struct(path, QpuRequest, FORMAT)
    if request.purpose != purpose:
        what = "training" if request.training is not None else "run"
        raise QpuFolderError(
            f"{folder} holds a {what}; resume it with `qunetlab qpu {request.purpose} --resume {folder}`"
        )
    task = open_circuit_task(request.task, data_folder(request))
    return request, task, load_parameters(task, folder / MODEL_FILE)
