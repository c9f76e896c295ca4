"""A small circuit model, and a cloud to run it on: qiskit-ibm-runtime as it is, with its HTTP client replaced.

Accounts, backends, sessions, jobs and encodings are the package's own; only ``RuntimeClient``, the class
that would send HTTP requests, is ours.  The cloud outlives the service objects, as the real one outlives our
processes.  ``test_cloud.py`` compares the signatures with the installed package.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pennylane as qml
import pytest

from fl.qpu.backends import AccountChoice, Device, open_device
from fl.qpu.model import CircuitModel
from fl.qpu.options import RunOptions

TOKEN = "Zx9-secret-api-key-0123456789abcdef"
CRN = "crn:v1:bluemix:public:quantum-computing:us-east:a/0123:4567::"
BACKEND = "ibm_testville"
N_WIRES = 3


def small_circuit(inputs: Any, weights: Any) -> None:
    """Angles, a chain of CNOTs and two rotations per wire; 3 inputs, 6 weights."""
    for wire in range(N_WIRES):
        qml.RY(inputs[wire], wires=wire)
    for wire in range(N_WIRES - 1):
        qml.CNOT(wires=[wire, wire + 1])
    for wire in range(N_WIRES):
        qml.RY(weights[2 * wire], wires=wire)
        qml.RZ(weights[2 * wire + 1], wires=wire)
    qml.CNOT(wires=[1, 0])


def small_model(n_examples: int = 12, seed: int = 3) -> CircuitModel:
    """A model whose labels are its own exact predictions."""
    rng = np.random.default_rng(seed)
    model = CircuitModel(
        name="small",
        quantum_function=small_circuit,
        n_wires=N_WIRES,
        observables=("ZII", "IZI", "IIZ"),
        inputs=rng.normal(size=(n_examples, N_WIRES)),
        weights=rng.normal(size=2 * N_WIRES),
        labels=np.zeros(n_examples, np.int64),
        read_out=lambda expectations: 3.0 * (expectations @ np.array([1.0, -2.0, 0.5])) + 0.1,
    )
    return replace(model, labels=model.predict(model.exact()))


class ConnectionLost(Exception):
    """What a broken network looks like; carries a token as careless libraries do."""


@dataclass
class CloudJob:
    """One job at the service."""

    job_id: str
    backend: str
    payload: str
    tags: list[str]
    session_id: str | None
    max_execution_time: int | None
    state: str = "COMPLETED"
    reason: str | None = None


@dataclass
class Cloud:
    """What the service knows; ``fates`` decides the state of coming jobs, ``on_submit`` runs after one is taken."""

    jobs: dict[str, CloudJob] = field(default_factory=dict)
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    fates: Iterator[tuple[str, str | None]] = field(
        default_factory=lambda: itertools.repeat(("COMPLETED", None))
    )
    on_submit: Callable[[CloudJob], None] = lambda job: None
    outage: int = 0
    listed_late: int = 0
    """Looks at the list of jobs that come too early to see any."""

    def fail_next(self, *fates: tuple[str, str | None]) -> None:
        """The next jobs end like this, later ones well."""
        self.fates = itertools.chain(fates, itertools.repeat(("COMPLETED", None)))

    def program_of(self, job: CloudJob) -> Any:
        """The quantum program that was submitted with a job, decoded by the package's decoder."""
        return _program_of(job.payload)


class CloudClient:
    """Stands where the package has its HTTP client."""

    cloud: Cloud

    def __init__(self, params: Any) -> None:
        assert params.token == TOKEN
        self._instance = params.instance

    def program_run(
        self,
        program_id: str,
        backend_name: str | None,
        params: dict[str, Any],
        image: str | None,
        log_level: str | None,
        session_id: str | None,
        job_tags: list[str] | None = None,
        max_execution_time: int | None = None,
        start_session: bool | None = False,
        session_time: int | None = None,
        private: bool | None = False,
        calibration_id: str | None = None,
    ) -> dict[str, Any]:
        from qiskit_ibm_runtime import RuntimeEncoder

        assert program_id == "executor"
        if session_id is not None:
            assert self.cloud.sessions[session_id]["accepting_jobs"]
        state, reason = next(self.cloud.fates)
        job = CloudJob(
            job_id=f"d{len(self.cloud.jobs):06d}",
            backend=str(backend_name),
            payload=json.dumps(params, cls=RuntimeEncoder),
            tags=list(job_tags or []),
            session_id=session_id,
            max_execution_time=max_execution_time,
            state=state,
            reason=reason,
        )
        self.cloud.jobs[job.job_id] = job
        self.cloud.on_submit(job)
        return {"id": job.job_id, "backend": backend_name}

    def job_get(self, job_id: str, exclude_params: bool = True) -> dict[str, Any]:
        from qiskit_ibm_runtime.api.exceptions import RequestsApiError

        if self.cloud.outage:
            self.cloud.outage -= 1
            raise ConnectionLost(f"no route to host, header Authorization: Bearer {TOKEN}")
        if job_id not in self.cloud.jobs:
            raise RequestsApiError("job not found", 404)
        job = self.cloud.jobs[job_id]
        return {
            "id": job.job_id,
            "backend": job.backend,
            "program": {"id": "executor"},
            "state": {"status": job.state, "reason": job.reason},
            "tags": job.tags,
            "session_id": job.session_id,
        }

    def jobs_get(
        self,
        limit: int | None = None,
        skip: int | None = None,
        backend_name: str | None = None,
        pending: bool | None = None,
        program_id: str | None = None,
        job_tags: list[str] | None = None,
        session_id: str | None = None,
        created_after: Any = None,
        created_before: Any = None,
        descending: bool = True,
        include_mocks: bool = False,
    ) -> dict[str, Any]:
        if self.cloud.listed_late:
            self.cloud.listed_late -= 1
            return {"jobs": [], "count": 0}
        wanted = set(job_tags or [])
        found = [self.job_get(job.job_id) for job in self.cloud.jobs.values() if wanted <= set(job.tags)]
        return {"jobs": found[skip or 0 :], "count": len(found)}

    def job_results(self, job_id: str) -> str:
        job = self.cloud.jobs[job_id]
        return _measured(job.payload) if job.state == "COMPLETED" else job.reason or ""

    def job_metadata(self, job_id: str) -> dict[str, Any]:
        return {"usage": {"qpu_charge_time_seconds": 3, "status": "complete"}}

    def create_session(
        self,
        backend: str | None = None,
        instance: str | None = None,
        max_time: int | None = None,
        mode: str | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        name = f"session-{len(self.cloud.sessions)}"
        self.cloud.sessions[name] = {"id": name, "mode": mode, "accepting_jobs": True, "state": "active"}
        return self.cloud.sessions[name]

    def close_session(self, session_id: str) -> None:
        self.cloud.sessions[session_id]["accepting_jobs"] = False

    def session_details(self, session_id: str) -> dict[str, Any]:
        return self.cloud.sessions[session_id]

    def list_backends(self, include_mocks: bool = False) -> list[dict[str, Any]]:
        return [{"name": BACKEND}]

    def backend_configuration(
        self, backend_name: str, refresh: bool = False, calibration_id: str | None = None
    ) -> dict[str, Any]:
        device = _manila()
        return {**device._load_json(device.conf_filename), "backend_name": backend_name, "simulator": False}

    def backend_properties(
        self, backend_name: str, datetime: Any = None, calibration_id: str | None = None
    ) -> dict[str, Any]:
        device = _manila()
        properties: dict[str, Any] = device._load_json(device.props_filename)
        return properties

    def backend_status(self, backend_name: str) -> dict[str, Any]:
        return {
            "backend_name": backend_name,
            "backend_version": "1",
            "status_msg": "active",
            "operational": True,
            "pending_jobs": 0,
        }

    def cloud_usage(self) -> dict[str, Any]:
        return {"usage_limit_seconds": 600, "usage_consumed_seconds": 0}


def _measured(payload: str) -> str:
    """The encoded result of a job; what is the same job to the machine is simulated once for all tests."""
    program = _program_of(payload)
    key = str([program.shots, *map(_machine_text, program.items)])
    if key not in _RESULTS:
        _RESULTS[key] = _simulated(program)
    return _encoded(program, _RESULTS[key])


_RESULTS: dict[str, Any] = {}


def _program_of(payload: str) -> Any:
    from qiskit_ibm_runtime.quantum_program.params_converters import QUANTUM_PROGRAM_PARAMS_CONVERTERS

    submitted = json.loads(payload)
    converter = QUANTUM_PROGRAM_PARAMS_CONVERTERS[submitted["schema_version"]]
    program, _ = converter.decoder(converter.model.model_validate(submitted))
    return program


def _machine_text(item: Any) -> list[str]:
    """Gates and values of an item, without names that are drawn anew for every circuit."""
    gates = [
        (step.operation.name, [item.circuit.find_bit(qubit).index for qubit in step.qubits])
        for step in item.circuit.data
    ]
    given = item.samplex_arguments
    arrays = [np.asarray(given[spec.name]).tolist() for spec in given.specs if spec.name in given]
    return [str(gates), str(item.shape), str(arrays)]


def _simulated(program: Any) -> Any:
    from qiskit_ibm_runtime.fake_provider.executor.run_quantum_program import run_quantum_program
    from qiskit_ibm_runtime.options_models import SimulatorOptions

    for item in program.items:
        item.samplex.finalize()
    return run_quantum_program(_simulated_manila(), program, SimulatorOptions(seed_simulator=11))


def _encoded(program: Any, result: Any) -> str:
    """``result`` as the service sends it: arrays, and what the program said is to be done with them."""
    from ibm_quantum_schemas.common import CompressedTensorModel
    from ibm_quantum_schemas.executor import version_2_0 as schema
    from qiskit_ibm_runtime.quantum_program.converters.converters_2_0 import passthrough_data_to_2_0

    items = [
        schema.QuantumProgramResultItemModel(
            results={name: CompressedTensorModel.from_numpy(np.asarray(item[name])) for name in item},
            metadata=schema.ItemMetadataModel(),
        )
        for item in result
    ]
    model = schema.QuantumProgramResultModel(
        data=items,
        metadata=schema.MetadataModel(chunk_timing=[]),
        passthrough_data=passthrough_data_to_2_0(program.passthrough_data),
        semantic_role=program._semantic_role,
    )
    return str(model.model_dump_json())


@functools.cache
def _simulated_manila() -> Any:
    from qiskit_aer import AerSimulator

    return AerSimulator.from_backend(_manila())


@functools.cache
def _manila() -> Any:
    from qiskit_ibm_runtime.fake_provider import FakeManilaV2

    return FakeManilaV2()


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """A cloud behind the package's own service class."""
    from qiskit_ibm_runtime import qiskit_runtime_service
    from qiskit_ibm_runtime.accounts.account import Account

    client = type("Client", (CloudClient,), {"cloud": Cloud()})
    monkeypatch.setattr(qiskit_runtime_service, "RuntimeClient", client)
    instance = {"crn": CRN, "plan": "open", "name": "lab", "tags": [], "pricing_type": "free"}
    monkeypatch.setattr(Account, "list_instances", lambda self: [instance])
    found: Cloud = client.cloud  # type: ignore[attr-defined]
    return found


@pytest.fixture
def cloud_client() -> type[CloudClient]:
    """The class that stands for the package's HTTP client."""
    return CloudClient


@pytest.fixture
def model() -> CircuitModel:
    """A model with twelve examples."""
    return small_model()


@pytest.fixture
def make_model() -> Callable[..., CircuitModel]:
    """Makes models: ``make_model(n_examples, seed)``."""
    return small_model


@pytest.fixture
def account(tmp_path: Path) -> AccountChoice:
    """An account saved the way users save theirs."""
    from qiskit_ibm_runtime import QiskitRuntimeService

    filename = str(tmp_path / "account.json")
    QiskitRuntimeService.save_account(
        channel="ibm_quantum_platform", token=TOKEN, instance=CRN, filename=filename, set_as_default=True
    )
    return AccountChoice(filename=filename)


@pytest.fixture
def device(cloud: Cloud, account: AccountChoice) -> Device:
    """The cloud's only machine."""
    return open_device(BACKEND, account)


@pytest.fixture
def options() -> RunOptions:
    """Three jobs for twelve examples, few shots."""
    return RunOptions(shots=256, sets_per_job=4, max_pending=2, optimization_level=1, layout_trials=1)
