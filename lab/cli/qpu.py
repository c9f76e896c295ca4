"""``qunetlab qpu``: trained circuits on a quantum processor or its simulated stand-in.

The cost is shown before anything is submitted, and a real backend needs ``--yes``.  A run that was
interrupted goes on with ``--resume FOLDER`` and submits nothing twice.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fl.qpu.analysis import Comparison
    from fl.qpu.cost import CostEstimate
    from fl.qpu.evaluate import QpuReport
    from fl.qpu.options import RunOptions
    from fl.qpu.request import QpuRequest
    from fl.qpu.runner import QpuEvent

RUNS_FOLDER = "qunetlab-runs"
EXIT_INTERRUPTED = 130

qpu_app = typer.Typer(no_args_is_help=True, help="Trained circuits on a QPU or its simulated stand-in.")

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
TaskOption = Annotated[str | None, typer.Option("--task", help="sentiment:hybrid or sentiment:hybrid-lora.")]
SentencesOption = Annotated[
    int | None, typer.Option("--sentences", min=1, help="Test examples; 200 without.")
]
ShotsOption = Annotated[int | None, typer.Option("--shots", min=2, help="Shots per circuit; 4096 without.")]
ResilienceOption = Annotated[
    int | None,
    typer.Option(
        "--resilience", min=0, max=2, help="0 none, 1 readout mitigation, 2 and zero-noise extrapolation."
    ),
]
ReadoutOption = Annotated[
    str | None,
    typer.Option("--readout", help="Where readout errors are mitigated: auto, calibrate, service."),
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
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@qpu_app.command("run")
def run_command(
    backend: BackendOption = None,
    model: ModelOption = None,
    task: TaskOption = None,
    sentences: SentencesOption = None,
    shots: ShotsOption = None,
    resilience: ResilienceOption = None,
    readout: ReadoutOption = None,
    dynamical_decoupling: DecouplingOption = None,
    twirl_gates: TwirlOption = None,
    twirl_readout: TwirlReadoutOption = None,
    execution: ExecutionOption = None,
    sets_per_job: PerJobOption = None,
    max_pending: PendingOption = None,
    max_job_seconds: LimitOption = None,
    seed: SeedOption = None,
    account: AccountOption = None,
    channel: ChannelOption = None,
    instance: InstanceOption = None,
    data: DataOption = None,
    out: OutOption = None,
    resume: ResumeOption = None,
    retry_failed: RetryOption = False,
    yes: YesOption = False,
    as_json: Json = False,
) -> None:
    """Evaluate a trained circuit on a backend and compare it with exact simulation."""
    chosen = {name: value for name, value in locals().items() if name in _REQUEST_NAMES}
    request = _request(resume, out, backend, chosen)
    raise typer.Exit(_run(request, model, out, resume, retry_failed=retry_failed, yes=yes, as_json=as_json))


@qpu_app.command("estimate")
def estimate_command(
    backend: BackendOption = None,
    model: ModelOption = None,
    task: TaskOption = None,
    sentences: SentencesOption = None,
    shots: ShotsOption = None,
    resilience: ResilienceOption = None,
    readout: ReadoutOption = None,
    sets_per_job: PerJobOption = None,
    seed: SeedOption = None,
    account: AccountOption = None,
    channel: ChannelOption = None,
    instance: InstanceOption = None,
    data: DataOption = None,
    as_json: Json = False,
) -> None:
    """What a run would cost; transpiles, submits nothing."""
    import msgspec

    from fl.qpu.backends import open_device
    from fl.qpu.evaluate import cost_of, prepare
    from fl.qpu.request import data_folder, open_circuit_task
    from fl.qpu.tasks import circuit_model, load_parameters

    chosen = {name: value for name, value in locals().items() if name in _REQUEST_NAMES}
    request = _request(None, None, backend, chosen)
    device = open_device(request.backend, request.account)
    opened = open_circuit_task(request.task, data_folder(request))
    # The cost depends on the circuit, not on its angles: an untrained model does as well.
    parameters = (
        opened.initial_parameters(request.options.seed) if model is None else load_parameters(opened, model)
    )
    circuit = circuit_model(opened, parameters, request.sentences, request.options.seed)
    cost = cost_of(prepare(circuit, device, request.options), device, request.options)
    typer.echo(msgspec.json.encode(cost).decode() if as_json else cost.text())


@qpu_app.command("jobs")
def jobs_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")], as_json: Json = False
) -> None:
    """The jobs of a run: submitted, finished, failed."""
    import msgspec

    from fl.qpu.errors import QpuFolderError
    from fl.qpu.journal import QpuFolder

    if not folder.is_dir():
        raise QpuFolderError(f"there is no folder {folder}")
    records = QpuFolder(folder).jobs()
    if as_json:
        typer.echo(msgspec.json.encode(records).decode())
        return
    for record in records:
        text = f"job {record.number}  {record.state:10s} {record.job_id or '-':24s} {record.count} sets"
        typer.echo(f"{text}  {record.submitted_at}  {record.error}".rstrip())


@qpu_app.command("backends")
def backends_command(
    account: AccountOption = None,
    channel: ChannelOption = None,
    instance: InstanceOption = None,
    local: Annotated[bool, typer.Option("--local", help="Only the ones simulated here.")] = False,
    as_json: Json = False,
) -> None:
    """Backends that can be named: simulated here, and those of the saved account."""
    from fl.qpu.backends import AccountChoice, fake_names, open_service
    from fl.qpu.errors import AccountError, ServiceError

    simulated = ["aer", *fake_names()]
    real: list[str] = []
    note = ""
    if not local:
        try:
            service = open_service(AccountChoice(account, channel, instance))
            real = sorted(backend.name for backend in service.backends())
        except (AccountError, ServiceError) as error:
            note = str(error).splitlines()[0]
    if as_json:
        typer.echo(json.dumps({"local": simulated, "service": real, "note": note}))
        return
    typer.echo("simulated here: " + ", ".join(simulated))
    if not local:
        typer.echo("of the service: " + (", ".join(real) or note or "none"))


_REQUEST_NAMES = frozenset(
    "task sentences shots resilience readout dynamical_decoupling twirl_gates twirl_readout execution sets_per_job "
    "max_pending max_job_seconds seed account channel instance data".split()
)
_OPTION_NAMES = {
    "shots": "shots",
    "resilience": "resilience_level",
    "readout": "readout",
    "dynamical_decoupling": "dynamical_decoupling",
    "twirl_gates": "twirl_gates",
    "twirl_readout": "twirl_measurement",
    "execution": "execution",
    "sets_per_job": "sets_per_job",
    "max_pending": "max_pending",
    "max_job_seconds": "max_job_s",
    "seed": "seed",
}


def _request(
    resume: Path | None, out: Path | None, backend: str | None, chosen: dict[str, Any]
) -> QpuRequest | None:
    """The request on the command line; None with ``--resume``, which takes everything from its folder."""
    from fl.qpu.backends import AccountChoice
    from fl.qpu.options import OptionsError, RunOptions
    from fl.qpu.request import QpuRequest

    given = {name: value for name, value in chosen.items() if value is not None}
    if resume is not None:
        surplus = sorted([*given, *(["backend"] if backend else []), *(["out"] if out else [])])
        if surplus:
            names = ", ".join("--" + name.replace("_", "-") for name in surplus)
            raise OptionsError(f"--resume takes its settings from {resume}; leave out {names}")
        return None
    if backend is None:
        raise OptionsError(
            "--backend is missing: fake_manila, fake_brisbane, aer, or a backend of the service"
        )
    options: dict[str, Any] = {own: given[name] for name, own in _OPTION_NAMES.items() if name in given}
    rest: dict[str, Any] = {name: given[name] for name in ("task", "sentences") if name in given}
    return QpuRequest(
        backend=backend,
        options=RunOptions(**options),
        account=AccountChoice(*(given.get(name) for name in ("account", "channel", "instance"))),
        data=str(given["data"]) if "data" in given else None,
        **rest,
    )


def _run(
    asked: QpuRequest | None,
    model: Path | None,
    out: Path | None,
    resume: Path | None,
    *,
    retry_failed: bool,
    yes: bool,
    as_json: bool,
) -> int:
    from fl.qpu.backends import open_device
    from fl.qpu.evaluate import evaluate
    from fl.qpu.options import OptionsError
    from fl.qpu.request import keep_request, kept_request, trained_model
    from fl.qpu.tasks import circuit_model

    say = progress()
    if asked is None:
        assert resume is not None
        if model is not None:
            raise OptionsError(f"--resume takes its settings from {resume}; leave out --model")
        folder = resume
        request, task, parameters = kept_request(folder)
        device = open_device(request.backend, request.account)
    else:
        folder = out or Path(RUNS_FOLDER) / f"qpu-{datetime.now(UTC).strftime('%Y%m%d-%H%M%S')}"
        device = open_device(asked.backend, asked.account)
        request, task, parameters = trained_model(asked, model, say)
        keep_request(folder, request, parameters)
    circuit = circuit_model(task, parameters, request.sentences, request.options.seed)
    try:
        outcome = evaluate(
            circuit,
            device,
            request.options,
            folder,
            resume=resume is not None,
            retry_failed=retry_failed,
            agree=consent(say, yes=yes, asked_before=resume is not None and not retry_failed),
            report=teller(say),
        )
    except KeyboardInterrupt:
        typer.echo(
            f"interrupted; jobs at the service go on. Go on with: qunetlab qpu run --resume {folder}",
            err=True,
        )
        return EXIT_INTERRUPTED
    typer.echo(as_text_json(outcome, folder, request) if as_json else summary(outcome, folder, request))
    return 0


def progress() -> Callable[[str], None]:
    """Prints a line with the time since the start, on standard error."""
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", file=sys.stderr, flush=True)

    return say


def teller(say: Callable[[str], None]) -> Callable[[QpuEvent], None]:
    """Tells events of jobs."""
    return lambda event: say(f"job {event.job + 1} of {event.jobs}: {event.text}")


def consent(say: Callable[[str], None], *, yes: bool, asked_before: bool) -> Callable[[CostEstimate], bool]:
    """Shows the cost; free runs and runs agreed to before go on, others need ``--yes`` or an answer."""

    def agree(cost: CostEstimate) -> bool:
        say(cost.text())
        if cost.free or yes or asked_before:
            return True
        return sys.stdin.isatty() and typer.confirm("Submit?", err=True)

    return agree


def as_text_json(outcome: QpuReport, folder: Path, request: QpuRequest) -> str:
    """The report as one JSON line, with folder and origin of the model."""
    import msgspec

    return json.dumps({"folder": str(folder), "origin": request.model, **msgspec.to_builtins(outcome)})


def summary(outcome: QpuReport, folder: Path, request: QpuRequest) -> str:
    """The report for people."""
    options = outcome.options
    kind = "simulated here" if outcome.local else "real backend"
    lines = [
        f"{outcome.model} on {outcome.backend} ({kind}), qubits {', '.join(map(str, outcome.qubits))}, "
        f"{options.shots} shots, seed {options.seed}",
        f"model: {request.model}",
        *_comparison_lines(outcome.comparison),
    ]
    if outcome.unmitigated is not None:
        without = outcome.unmitigated
        lines.append(
            f"without readout calibration: accuracy {without.accuracy_backend:.3f}, agreement {without.agreement:.3f}, "
            f"RMS deviation {without.deviation.rms:.4f}"
        )
    if outcome.unused_locally:
        lines.append(f"not available in local testing mode: {', '.join(outcome.unused_locally)}")
    charged = "no QPU time" if outcome.local else f"{outcome.qpu_s or 0:.0f} s of QPU time"
    lines.append(
        f"{outcome.jobs} jobs, {outcome.submitted} submitted by this call, {charged}, {outcome.wall_s:.0f} s; "
        f"results in {folder}"
    )
    return "\n".join(lines)


def _comparison_lines(comparison: Comparison) -> list[str]:
    low, high = comparison.agreement_ci95
    lines = [
        f"accuracy  exact {comparison.accuracy_exact:.3f}  backend {comparison.accuracy_backend:.3f}  "
        f"({comparison.examples} examples)",
        f"agreement of labels {comparison.agreement:.3f} (95 % interval {low:.3f} to {high:.3f}); "
        f"shot noise alone would give {comparison.shot_noise_agreement:.3f}",
        "expectation values        RMS  shot noise  device noise  mean offset  contrast",
    ]
    for row in (*comparison.observables, comparison.deviation):
        lines.append(
            f"  {row.observable:12s}      {row.rms:9.4f}   {row.shot_noise:9.4f}     {row.rest:9.4f}    "
            f"{row.mean:+9.4f}  {row.contrast:8.3f}"
        )
    return lines
