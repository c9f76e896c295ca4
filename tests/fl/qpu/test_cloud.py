"""The cloud of the tests speaks like the installed qiskit-ibm-runtime: a change upstream shows here first."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path

import pytest
from qiskit_ibm_runtime import Batch, QiskitRuntimeService, RuntimeJobV2, Session
from qiskit_ibm_runtime.api.client import RuntimeClient
from qiskit_ibm_runtime.executor_estimator import Estimator
from qiskit_ibm_runtime.options_models import EstimatorOptions

from fl.qpu.options import MITIGATIONS, Mitigation, RunOptions


def test_the_stand_in_client_has_the_signatures_of_the_packages_client(cloud_client: type) -> None:
    methods = [name for name, value in vars(cloud_client).items() if inspect.isfunction(value)]
    assert len(methods) > 10
    for name in methods:
        theirs = inspect.signature(getattr(RuntimeClient, name)).parameters.values()
        ours = inspect.signature(getattr(cloud_client, name)).parameters.values()
        assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs], (
            name
        )


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (QiskitRuntimeService.__init__, {"name", "channel", "instance", "filename"}),
        (QiskitRuntimeService.backend, {"name"}),
        (QiskitRuntimeService.job, {"job_id"}),
        (QiskitRuntimeService.jobs, {"limit", "job_tags"}),
        (QiskitRuntimeService.save_account, {"channel", "token", "instance", "set_as_default"}),
        (Estimator.__init__, {"mode", "options"}),
        (Estimator.run, {"pubs"}),
        (Session.__init__, {"backend"}),
        (Batch.__init__, {"backend"}),
        (RuntimeJobV2.usage, {"partial"}),
    ],
)
def test_what_the_qpu_path_calls_exists(function: object, names: set[str]) -> None:
    assert names <= set(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_job_states_are_the_ones_waited_for() -> None:
    assert set(RuntimeJobV2.JOB_FINAL_STATES) == {"DONE", "CANCELLED", "ERROR"}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mitigation", MITIGATIONS)
@pytest.mark.parametrize("local", [True, False])
def test_the_estimator_takes_our_options_without_a_word(mitigation: Mitigation, local: bool) -> None:
    options = RunOptions(mitigation=mitigation, dynamical_decoupling="XY4", max_job_s=9, execution="job")
    taken = EstimatorOptions(**options.for_estimator(local=local, tag="mine"))
    assert (taken.default_shots, taken.resilience.measure_mitigation) == (4096, mitigation != "none")
    assert (taken.twirling.num_randomizations, taken.twirling.shots_per_randomization) == options.twirled
    assert taken.environment.job_tags == ([] if local else ["qunetlab", "mine"])
    assert taken.max_execution_time == (None if local else 9)
    assert taken.dynamical_decoupling.enable is not local


def test_later_versions_of_the_package_may_be_installed() -> None:
    """An upper bound would soon refuse to install; what CI ran is pinned in ``constraints.txt``."""
    root = Path(__file__).resolve().parents[3]
    needed = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"][
        "learning"
    ]
    (bound,) = [each for each in needed if each.startswith("qiskit-ibm-runtime")]
    assert bound == "qiskit-ibm-runtime>=0.51"
    assert "qiskit-ibm-runtime==" in (root / "constraints.txt").read_text()
