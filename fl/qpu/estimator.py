"""The estimator of qiskit-ibm-runtime: the one module that names its class and knows how jobs come and go.

``executor_estimator.Estimator`` prepares circuits and evaluates counts on this machine: twirling, folding of
gates and readout calibration are the same for a backend of the service and for one that is simulated here.
What it submits are jobs of the service's executor; their results name the estimator, and the package turns
them into expectation values wherever they are fetched, so that a job is found by its id as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from qiskit import QuantumCircuit
from qiskit.quantum_info import SparsePauliOp

from fl.qpu.backends import Device
from fl.qpu.errors import JobFailedError
from fl.qpu.extrapolate import Floats
from fl.qpu.options import Execution
from fl.qpu.simulated import narrowed


def measured(job: Any, noise_factors: Sequence[int]) -> tuple[Floats, Floats]:
    """Expectation values and standard errors of a finished job, float64 (factors, sets, observables).

    Raises JobFailedError if the result is not one of such a run.
    """
    pubs = job.result()
    if len(pubs) != 1:
        raise JobFailedError(f"the result has {len(pubs)} parts, one was submitted")
    data = pubs[0].data
    names = ("evs_noise_factors", "stds_noise_factors") if len(noise_factors) > 1 else ("evs", "stds")
    if missing := [name for name in names if name not in data]:
        raise JobFailedError(f"the result has no {' and no '.join(missing)}, only {', '.join(data)}")
    # As submitted: (observables, sets), with the noise factors behind where there are several.
    values, errors = (np.asarray(data[name], np.float64) for name in names)
    if len(noise_factors) == 1:
        values, errors = values[..., None], errors[..., None]
    return values.T, errors.T


class DeviceJobs:
    """Takes jobs for one device and finds them again; a session or batch is opened with the first job."""

    def __init__(self, device: Device, execution: Execution) -> None:
        self._device = device
        self._execution = execution
        self._mode: Any = None

    @property
    def session_id(self) -> str:
        """The session or batch of the jobs, if there is one."""
        return str(getattr(self._mode, "session_id", "") or "")

    def submit(
        self,
        circuit: QuantumCircuit,
        operators: Sequence[SparsePauliOp],
        values: Floats,
        options: dict[str, Any],
    ) -> Any:
        """The job that measures ``operators`` after ``circuit`` for every row of ``values`` (sets, parameters)."""
        from qiskit_ibm_runtime import Batch, Session
        from qiskit_ibm_runtime.executor_estimator import Estimator

        if self._device.local:
            circuit, operators, mode = narrowed(circuit, operators, self._device.backend)
        else:
            if self._mode is None:
                kind = {"batch": Batch, "session": Session}.get(self._execution)
                self._mode = self._device.backend if kind is None else kind(backend=self._device.backend)
            mode = self._mode
        pub = (circuit, [[operator] for operator in operators], values)
        return Estimator(mode=mode, options=options).run([pub])

    def job(self, job_id: str) -> Any | None:
        """A job by its id, None if this account and instance do not know it."""
        from qiskit_ibm_runtime.exceptions import RuntimeJobNotFound

        assert self._device.service is not None
        try:
            return self._device.service.job(job_id)
        except RuntimeJobNotFound:
            return None

    def tagged(self, tag: str) -> list[Any]:
        """All jobs that carry ``tag``."""
        assert self._device.service is not None
        return list(self._device.service.jobs(limit=None, job_tags=[tag]))

    def close(self) -> None:
        """Take no more jobs into the session or batch; those in it go on."""
        if self._mode is not None and self._mode is not self._device.backend:
            self._mode.close()
