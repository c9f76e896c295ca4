"""How a circuit is run: shots, mitigation, execution mode, jobs and seeds.

Errors are mitigated by the estimator, on this machine, whatever the backend (``mitigation``):

* ``trex``, twirled readout error extinction (van den Berg, Minev and Temme, arXiv 2012.09738): qubits are
  flipped at random before they are read and the outcomes flipped back, which makes readout errors symmetric
  and an expectation value shrink by a factor that one calibration of |0> per job measures; it is divided by it;
* ``zne``: the same, and two-qubit gates are twirled and run at :data:`NOISE_FACTORS` times their noise, from
  which :mod:`fl.qpu.extrapolate` goes back to none.

What a local run does without is listed in its report (``unused_locally``), never passed over in silence.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import msgspec

from fl.qpu.errors import QpuError

Execution = Literal["job", "batch", "session"]
Mitigation = Literal["none", "trex", "zne"]
DECOUPLING = ("", "XX", "XpXm", "XY4")
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)
MITIGATIONS: tuple[Mitigation, ...] = get_args(Mitigation)
NOISE_FACTORS = (1, 3, 5)
RANDOMISATIONS, LEAST_SHOTS_EACH = 32, 64
"""Twirled circuits that the shots of one circuit are spread over, and the fewest shots of each."""


class RunOptionsError(QpuError, ValueError):
    """A setting of the run is out of range."""


class RunOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of a run.

    ``shots`` per circuit, basis and noise factor; ``mitigation`` of errors; ``sets_per_job`` parameter sets in one
    job; ``max_pending`` jobs waiting at the service at once; ``max_job_s`` QPU seconds after which the service stops
    a job; ``layout_trials`` transpilations, the best of which is run; ``seed`` of transpiler and simulator.
    """

    shots: int = 4096
    mitigation: Mitigation = "trex"
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
            ("sets_per_job", 1, 100_000),
            ("max_pending", 1, 1000),
            ("optimization_level", 0, 3),
            ("layout_trials", 1, 1000),
            ("seed", 0, 2**31 - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise RunOptionsError(f"{name} is {value}; it must be {low} to {high}")
        for name, allowed in (
            ("mitigation", MITIGATIONS),
            ("dynamical_decoupling", DECOUPLING),
            ("execution", EXECUTIONS),
        ):
            if getattr(self, name) not in allowed:
                known = ", ".join(filter(None, allowed))
                raise RunOptionsError(f"{name} is {getattr(self, name)!r}; it must be one of {known}")
        if self.max_job_s is not None and self.max_job_s < 1:
            raise RunOptionsError(f"max_job_s is {self.max_job_s}; it must be at least 1")

    @property
    def noise_factors(self) -> tuple[int, ...]:
        """Multiples of the device's own noise that every circuit is run at."""
        return NOISE_FACTORS if self.mitigation == "zne" else (1,)

    @property
    def twirled(self) -> tuple[int, int]:
        """``(circuits, shots of each)`` that one circuit becomes: at least ``shots`` together."""
        plain = self.mitigation == "none" and not self.twirl_gates and not self.twirl_measurement
        if plain:
            return 1, self.shots
        each = max(LEAST_SHOTS_EACH, math.ceil(self.shots / RANDOMISATIONS))
        return math.ceil(self.shots / each), each

    def for_estimator(self, *, local: bool, tag: str = "", chunk: int = 0) -> dict[str, Any]:
        """Options of the estimator: for a job at the service, marked with ``tag``, or simulated here as ``chunk``,
        each of which has a seed of its own.

        Everything is said outright, so that a default that changes in a later version changes no result.
        """
        circuits, shots_each = self.twirled
        options: dict[str, Any] = {
            "default_shots": self.shots,
            "resilience_level": 0,
            "resilience": {
                "measure_mitigation": self.mitigation != "none",
                "zne_mitigation": self.mitigation == "zne",
                # The fit is made here (fl.qpu.extrapolate), from the values at every noise factor.
                "zne": {
                    "noise_factors": NOISE_FACTORS,
                    "amplifier": "gate_folding",
                    "extrapolator": "fallback",
                },
            },
            "twirling": {
                "enable_gates": self.twirl_gates or self.mitigation == "zne",
                "enable_measure": self.twirl_measurement or self.mitigation != "none",
                "num_randomizations": circuits,
                "shots_per_randomization": shots_each,
            },
        }
        if local:
            return options | {"simulator": {"seed_simulator": self.simulator_seed(chunk)}}
        options["environment"] = {"job_tags": ["qunetlab", tag]}
        if self.dynamical_decoupling:
            options["dynamical_decoupling"] = {"enable": True, "sequence_type": self.dynamical_decoupling}
        if self.max_job_s is not None:
            options["max_execution_time"] = self.max_job_s
        return options

    def simulator_seed(self, chunk: int) -> int:
        """Seed of a chunk's simulation: never 0, which local testing mode takes for none."""
        return 1 + (self.seed * 1_000_003 + chunk * 7919) % (2**31 - 2)

    @property
    def unused_locally(self) -> tuple[str, ...]:
        """Settings that a local run does without: idle qubits are not simulated, and nobody charges seconds."""
        names = []
        if self.dynamical_decoupling:
            names.append(f"dynamical decoupling {self.dynamical_decoupling}")
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
                raise RunOptionsError(f"{name} is {getattr(self, name)}; it must be {low} to {high}")
        if not 0 < self.learning_rate <= 100:
            raise RunOptionsError(
                f"learning_rate is {self.learning_rate}; it must be above 0 and at most 100"
            )

    @property
    def sets_per_step(self) -> int:
        """Parameter sets that one step measures."""
        return self.batch * (2 * self.n_weights + 1)
