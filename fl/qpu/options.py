"""How a circuit is run: shots, mitigation, execution mode, jobs and seeds.

The service applies mitigation, suppression and twirling on its side; local testing mode has none of them.
Readout errors are then calibrated here (:mod:`fl.qpu.readout`); what else a local run does without is listed
in its report (``unused_locally``), never passed over in silence.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from fl.qpu.errors import QpuError
from fl.qpu.readout import can_calibrate

Execution = Literal["job", "batch", "session"]
DECOUPLING = ("", "XX", "XpXm", "XY4")
EXECUTIONS: tuple[Execution, ...] = ("job", "batch", "session")


class OptionsError(QpuError, ValueError):
    """A setting of the run is out of range."""


class RunOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of a run.

    ``shots`` per circuit and basis; ``resilience_level`` 0 none, 1 readout mitigation, 2 readout and zero-noise
    extrapolation; ``sets_per_job`` parameter sets in one job; ``max_pending`` jobs waiting at the service at
    once; ``readout`` where readout errors are mitigated: by calibration circuits beside every job, by the service,
    or (``auto``) by the service for its backends and by calibration for local ones; ``max_job_s`` QPU seconds
    after which the service stops a job; ``layout_trials`` transpilations, the best of which is run; ``seed`` of
    transpiler and simulator.
    """

    shots: int = 4096
    resilience_level: int = 1
    readout: Literal["auto", "calibrate", "service"] = "auto"
    dynamical_decoupling: Literal["", "XX", "XpXm", "XY4"] = ""
    twirl_gates: bool = False
    twirl_measurement: bool = False
    execution: Execution = "batch"
    sets_per_job: int = 100
    max_pending: int = 3
    max_job_s: int | None = None
    optimization_level: int = 3
    layout_trials: int = 20
    seed: int = 1

    def __post_init__(self) -> None:
        for name, low, high in (
            ("shots", 2, 10_000_000),
            ("resilience_level", 0, 2),
            ("sets_per_job", 1, 100_000),
            ("max_pending", 1, 1000),
            ("optimization_level", 0, 3),
            ("layout_trials", 1, 1000),
            ("seed", 0, 2**31 - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise OptionsError(f"{name} is {value}; it must be {low} to {high}")
        if self.readout not in ("auto", "calibrate", "service"):
            raise OptionsError(f"readout is {self.readout!r}; it must be auto, calibrate or service")
        if self.dynamical_decoupling not in DECOUPLING:
            raise OptionsError(
                f"dynamical_decoupling is {self.dynamical_decoupling!r}; it must be one of {', '.join(DECOUPLING[1:])}"
            )
        if self.execution not in EXECUTIONS:
            raise OptionsError(f"execution is {self.execution!r}; it must be one of {', '.join(EXECUTIONS)}")
        if self.max_job_s is not None and self.max_job_s < 1:
            raise OptionsError(f"max_job_s is {self.max_job_s}; it must be at least 1")

    def for_service(self, tag: str) -> dict[str, Any]:
        """Options of ``EstimatorV2`` for a job at the service, marked with ``tag``."""
        options: dict[str, Any] = {
            "default_shots": self.shots,
            "resilience_level": self.resilience_level,
            "environment": {"job_tags": ["qunetlab", tag]},
        }
        if self.dynamical_decoupling:
            options["dynamical_decoupling"] = {"enable": True, "sequence_type": self.dynamical_decoupling}
        # Only what is wanted is set: measurement twirling is part of the service's own readout mitigation.
        twirling = {"enable_gates": self.twirl_gates, "enable_measure": self.twirl_measurement}
        if wanted := {name: True for name, value in twirling.items() if value}:
            options["twirling"] = wanted
        if self.max_job_s is not None:
            options["max_execution_time"] = self.max_job_s
        return options

    def for_simulator(self, chunk: int) -> dict[str, Any]:
        """Options of ``EstimatorV2`` in local testing mode; every chunk has a seed of its own."""
        return {"default_shots": self.shots, "simulator": {"seed_simulator": self.simulator_seed(chunk)}}

    def simulator_seed(self, chunk: int) -> int:
        """Seed of a chunk's simulation: never 0, which local testing mode takes for none."""
        return 1 + (self.seed * 1_000_003 + chunk * 7919) % (2**31 - 2)

    def calibrates(self, observables: tuple[str, ...], *, local: bool) -> bool:
        """Whether every job carries circuits that calibrate the readout."""
        wanted = self.readout == "calibrate" or (
            self.readout == "auto" and local and self.resilience_level >= 1
        )
        return wanted and can_calibrate(observables)

    def unused_locally(self, observables: tuple[str, ...]) -> tuple[str, ...]:
        """Settings that a local run does without."""
        names = []
        if self.resilience_level >= 1 and not self.calibrates(observables, local=True):
            names.append("readout mitigation")
        if self.resilience_level >= 2:
            names.append("zero-noise extrapolation")
        if self.dynamical_decoupling:
            names.append(f"dynamical decoupling {self.dynamical_decoupling}")
        if self.twirl_gates or self.twirl_measurement:
            names.append("twirling")
        if self.max_job_s is not None:
            names.append("limit of QPU seconds")
        return tuple(names)


class TrainingPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``steps`` of gradient descent on ``n_weights`` weights with ``batch`` examples each."""

    steps: int = 3
    n_weights: int = 4
    batch: int = 8
    learning_rate: float = 0.5

    def __post_init__(self) -> None:
        for name, low, high in (("steps", 1, 1000), ("n_weights", 1, 64), ("batch", 1, 10_000)):
            if not low <= getattr(self, name) <= high:
                raise OptionsError(f"{name} is {getattr(self, name)}; it must be {low} to {high}")
        if not 0 < self.learning_rate <= 100:
            raise OptionsError(f"learning_rate is {self.learning_rate}; it must be above 0 and at most 100")

    @property
    def sets_per_step(self) -> int:
        """Parameter sets that one step measures."""
        return self.batch * (2 * self.n_weights + 1)
