"""The estimator of qiskit-ibm-runtime: the one module that names its class and knows how jobs come and go.

``EstimatorV2`` mitigates errors at the service.  The package deprecates it since 0.50 (24 September 2026), to
be removed no sooner than three months after that, in favour of ``executor_estimator.Estimator``, which
mitigates on the client and has the same ``run`` and result; the names at the package's top level are to move
over as well.  ``pyproject.toml`` therefore bounds the package from above, and a move is a matter of
this module and of ``RunOptions.for_service``.  The package's warning is for us and not for users.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from fl.qpu.backends import Device
from fl.qpu.options import Execution


class Desk:
    """Takes jobs for one device and finds them again; a session or batch is opened with the first job."""

    def __init__(self, device: Device, execution: Execution) -> None:
        self._device = device
        self._execution = execution
        self._mode: Any = None

    @property
    def session_id(self) -> str:
        """The session or batch of the jobs, if there is one."""
        return str(getattr(self._mode, "session_id", "") or "")

    def submit(self, pubs: Sequence[tuple[Any, ...]], options: dict[str, Any]) -> Any:
        """The job that measures ``pubs``: circuits with observables and parameter values."""
        from qiskit_ibm_runtime import Batch, EstimatorV2, Session

        if self._mode is None:
            kind = {"batch": Batch, "session": Session}.get(self._execution)
            self._mode = self._device.backend if kind is None else kind(backend=self._device.backend)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return EstimatorV2(mode=self._mode, options=options).run(list(pubs))

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
