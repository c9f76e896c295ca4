"""Options of ``qunetlab qpu`` and the request they make."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fl.qpu.options import TrainingPlan
    from fl.qpu.request import QpuRequest

BackendOption = Annotated[
    str | None,
    typer.Option(
        "--backend", help="fake_manila, FakeBrisbane, ..., aer, aer:fake_manila, or a backend of the service."
    ),
]
ModelOption = Annotated[
    Path | None,
    typer.Option("--model", help="Trained model: .npy file or folder of a run; else trained here."),
]
TaskOption = Annotated[
    str | None, typer.Option("--task", help="Task with a circuit; sentiment:hybrid without.")
]
SentencesOption = Annotated[
    int | None, typer.Option("--sentences", min=1, help="Test examples; 200 without.")
]
ShotsOption = Annotated[int | None, typer.Option("--shots", min=2, help="Shots per circuit; 4096 without.")]
MitigationOption = Annotated[
    str | None,
    typer.Option(
        "--mitigation",
        help="none; trex: readout errors, the default; zne: these, and gate errors by extrapolation.",
    ),
]
DecouplingOption = Annotated[
    str | None, typer.Option("--dynamical-decoupling", help="Pulse sequence on idle qubits: XX, XpXm, XY4.")
]
TwirlOption = Annotated[
    bool | None, typer.Option("--twirl-gates/--no-twirl-gates", help="Twirl two-qubit gates.")
]
TwirlReadoutOption = Annotated[
    bool | None, typer.Option("--twirl-readout/--no-twirl-readout", help="Twirl measurements.")
]
ExecutionOption = Annotated[
    str | None, typer.Option("--execution", help="Execution mode of the service: job, batch or session.")
]
PerJobOption = Annotated[int | None, typer.Option("--sets-per-job", min=1, help="Sentences in one job.")]
PendingOption = Annotated[
    int | None, typer.Option("--max-pending", min=1, help="Jobs at the service at once.")
]
LimitOption = Annotated[
    int | None, typer.Option("--max-job-seconds", min=1, help="QPU seconds after which a job is stopped.")
]
TrialsOption = Annotated[
    int | None,
    typer.Option("--layout-trials", min=1, help="Transpilations, the best of which is run; 20 without."),
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, help="Seed of sample, transpiler and simulator.")
]
AccountOption = Annotated[str | None, typer.Option("--account", help="Name of the saved account.")]
ChannelOption = Annotated[
    str | None,
    typer.Option("--channel", help="ibm_quantum_platform or ibm_cloud; the account's own without."),
]
InstanceOption = Annotated[str | None, typer.Option("--instance", help="Service instance, by name or CRN.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the data set.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", help="Folder of the run; qunetlab-runs/... without.")
]
ResumeOption = Annotated[Path | None, typer.Option("--resume", help="Folder of a run to go on with.")]
RetryOption = Annotated[
    bool,
    typer.Option("--retry-failed", help="With --resume: submit failed jobs again (may be charged again)."),
]
YesOption = Annotated[bool, typer.Option("--yes", help="Accept the cost on a real backend.")]


OPTION_NAMES = {
    "shots": "shots",
    "mitigation": "mitigation",
    "dynamical_decoupling": "dynamical_decoupling",
    "twirl_gates": "twirl_gates",
    "twirl_readout": "twirl_measurement",
    "execution": "execution",
    "sets_per_job": "sets_per_job",
    "max_pending": "max_pending",
    "max_job_seconds": "max_job_s",
    "layout_trials": "layout_trials",
    "seed": "seed",
}
"""Options on the command line and their names in ``RunOptions``."""

REQUEST_NAMES = frozenset({*OPTION_NAMES, "task", "sentences", "account", "channel", "instance", "data"})


def given(chosen: dict[str, Any], names: frozenset[str] = REQUEST_NAMES) -> dict[str, Any]:
    """Those of the options ``names`` that were given."""
    return {name: value for name, value in chosen.items() if name in names and value is not None}


def request_from(
    backend: str | None, chosen: dict[str, Any], training: TrainingPlan | None = None
) -> QpuRequest:
    """The request of a new run; raises RunOptionsError."""
    from fl.qpu.backends import AccountChoice
    from fl.qpu.options import RunOptions, RunOptionsError
    from fl.qpu.request import QpuRequest

    if backend is None:
        raise RunOptionsError(
            "--backend is missing: fake_manila, fake_brisbane, aer, or a backend of the service"
        )
    asked = given(chosen)
    options: dict[str, Any] = {own: asked[name] for name, own in OPTION_NAMES.items() if name in asked}
    rest: dict[str, Any] = {name: asked[name] for name in ("task", "sentences") if name in asked}
    return QpuRequest(
        backend=backend,
        options=RunOptions(**options),
        account=AccountChoice(*(asked.get(name) for name in ("account", "channel", "instance"))),
        data=str(asked["data"]) if "data" in asked else None,
        training=training,
        **rest,
    )


def refuse_with_resume(resume: Path, chosen: dict[str, Any]) -> None:
    """Raise RunOptionsError if anything but the folder was given: a run goes on as it began."""
    from fl.qpu.options import RunOptionsError

    surplus = ["--" + name.replace("_", "-") for name, value in sorted(chosen.items()) if value is not None]
    if surplus:
        raise RunOptionsError(f"--resume takes its settings from {resume}; leave out {', '.join(surplus)}")
