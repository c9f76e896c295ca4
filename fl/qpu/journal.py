"""What was submitted, durable before and after: the folder of a run.

QPU time is paid for, so nothing may be submitted twice.  Every job has a file ``job-0000.json``:

* ``submitting`` is on disk *before* the job goes out, with a tag of its own that travels with the job (the
  run's random tag, the number of the job, the attempt: two runs of the same thing do not share it);
* ``submitted`` with the service's job id right after; a process that died in between finds the job at the
  service by its tag;
* ``done`` once its results lie in ``result-0000.npz``;
* ``failed`` with the service's reason; it is submitted again only on request.

``run.json`` says what the run is; a digest over circuit, angles, backend and options ties every file to it,
so a folder is never continued with something else, nor under a service instance that would not know its
jobs.  A lock keeps a second process out.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TypeVar
from zipfile import BadZipFile

import msgspec
import numpy as np

from fl.qpu.errors import QpuFolderError
from fl.qpu.extrapolate import Floats
from fl.qpu.options import RunOptions
from orchestrator.durable import read_kept, replace_file, write_kept
from orchestrator.randomness import random_hex

if TYPE_CHECKING:
    from qiskit import QuantumCircuit

_T = TypeVar("_T", bound=msgspec.Struct)
State = Literal["planned", "submitting", "submitted", "done", "failed"]
FORMAT = 3
RUN_FILE, CIRCUIT_FILE, LOCK_FILE = "run.json", "circuit.qpy", ".lock"


class RunPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run is: ``parameter_sets`` in ``jobs`` jobs on ``backend``; ``digest`` over everything submitted.

    ``instance`` is the service instance that is charged; ``tag`` is drawn when the run starts.
    """

    digest: str
    backend: str
    local: bool
    options: RunOptions
    parameter_sets: int
    observables: tuple[str, ...]
    jobs: int
    instance: str = ""
    tag: str = ""
    format: int = FORMAT


class JobRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One job: parameter sets ``first`` to ``first + count``; ``attempt`` counts submissions from 1."""

    number: int
    first: int
    count: int
    digest: str
    state: State = "planned"
    attempt: int = 0
    tag: str = ""
    job_id: str = ""
    session_id: str = ""
    submitted_at: str = ""
    qpu_s: float | None = None
    error: str = ""
    earlier_job_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobResult:
    """Expectation values and standard errors as the estimator gave them, float64 (noise factors, count,
    observables)."""

    expectations: Floats
    standard_errors: Floats


class QpuFolder:
    """The durable state of one run; a context manager that holds the folder's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock: int | None = None

    def __enter__(self) -> QpuFolder:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise QpuFolderError(f"cannot write to {self.folder}: {error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            self._lock = None
            raise QpuFolderError(
                f"{self.folder} is in use by another process; wait for it or stop it"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def started(self) -> bool:
        """Whether a run is in here."""
        return (self.folder / RUN_FILE).exists()

    def keep_circuit(self, circuit: QuantumCircuit) -> None:
        """Keep the transpiled circuit: a backend is calibrated anew while a run lasts, its jobs must not differ."""
        from qiskit import qpy

        buffer = BytesIO()
        qpy.dump(circuit, buffer)
        replace_file(self.folder / CIRCUIT_FILE, buffer.getvalue())

    def circuit_bytes(self) -> bytes:
        """The file of the transpiled circuit."""
        try:
            return (self.folder / CIRCUIT_FILE).read_bytes()
        except OSError as error:
            raise QpuFolderError(f"cannot read {self.folder / CIRCUIT_FILE}: {error}") from error

    def start(self, plan: RunPlan) -> RunPlan:
        """Keep the plan of a run, or check that it is the one kept; returns it with the tag of the run.

        Raises QpuFolderError if the folder holds another run.
        """
        if not self.started:
            drawn = msgspec.structs.replace(plan, tag=f"qunetlab-{random_hex(8)}")
            write_kept(self.folder / RUN_FILE, drawn)
            return drawn
        kept = self.plan()
        if kept == msgspec.structs.replace(plan, tag=kept.tag):
            return kept
        if kept == msgspec.structs.replace(plan, tag=kept.tag, instance=kept.instance):
            raise QpuFolderError(
                f"{self.folder} was begun under the service instance {kept.instance or '(none)'}, the account "
                f"now opens {plan.instance or '(none)'}, where its jobs are not known; nothing was submitted: "
                "resume it with the account and instance of its beginning"
            )
        raise QpuFolderError(
            f"{self.folder} holds another run (backend {kept.backend}); nothing was submitted: "
            "resume it with the same model, sentences and settings or choose another folder"
        )

    def plan(self) -> RunPlan:
        """What the run in this folder is."""
        return read_struct(self.folder / RUN_FILE, RunPlan, FORMAT)

    def circuit(self) -> QuantumCircuit:
        """The transpiled circuit that all jobs of the run use."""
        from qiskit import qpy

        content = self.circuit_bytes()
        try:
            return qpy.load(BytesIO(content))[0]
        except Exception as error:
            raise QpuFolderError(f"cannot read {self.folder / CIRCUIT_FILE}: {error}") from error

    def job(self, number: int) -> JobRecord | None:
        """The record of a job, or None before its first submission."""
        path = self._job_path(number)
        return read_struct(path, JobRecord) if path.exists() else None

    def jobs(self) -> list[JobRecord]:
        """All records, in order."""
        return [read_struct(path, JobRecord) for path in sorted(self.folder.glob("job-*.json"))]

    def save(self, record: JobRecord) -> None:
        """Keep ``record``; durable when this returns."""
        write_kept(self._job_path(record.number), record)

    def save_result(self, record: JobRecord, result: JobResult) -> JobRecord:
        """Keep the results of a job; returns the record, state ``done``."""
        buffer = BytesIO()
        np.savez(buffer, **vars(result))
        replace_file(self._result_path(record.number), buffer.getvalue())
        done = msgspec.structs.replace(record, state="done", error="")
        self.save(done)
        return done

    def result(self, record: JobRecord) -> JobResult:
        """The results of a finished job."""
        path = self._result_path(record.number)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return JobResult(**{name: arrays[name] for name in arrays.files})
        except (OSError, ValueError, EOFError, TypeError, BadZipFile) as error:
            raise QpuFolderError(f"cannot read {path}: {error}") from error

    def _job_path(self, number: int) -> Path:
        return self.folder / f"job-{number:04d}.json"

    def _result_path(self, number: int) -> Path:
        return self.folder / f"result-{number:04d}.npz"


def digest_of(*parts: object) -> str:
    """Hex SHA-256 over texts, bytes and arrays, each with its length in front."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            content = repr((part.dtype.str, part.shape)).encode() + np.ascontiguousarray(part).tobytes()
        else:
            content = part if isinstance(part, bytes) else repr(part).encode()
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.hexdigest()


def tag_of(plan: RunPlan, number: int, attempt: int) -> str:
    """The tag that marks a job at the service, one of its own for every attempt."""
    return f"{plan.tag}-{number:04d}-{attempt}"


def slices(count: int, size: int) -> Sequence[tuple[int, int]]:
    """``(first, count)`` of consecutive chunks of at most ``size``."""
    return [(first, min(size, count - first)) for first in range(0, count, size)]


def read_struct(path: Path, kind: type[_T], readable: int = 1) -> _T:
    """The struct in a file of a run, see :func:`orchestrator.durable.read_kept`; raises QpuFolderError.

    The records of jobs carry no number: all of them are of the first format.
    """
    try:
        return read_kept(path, kind, readable)
    except (OSError, ValueError) as error:
        raise QpuFolderError(f"cannot read {path}: {error}") from error
