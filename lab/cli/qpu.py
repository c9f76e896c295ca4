"""``qunetlab qpu``: trained circuits on a quantum processor or its simulated stand-in.

The cost is shown before anything is submitted, and a real backend needs ``--yes``.  A run that was
interrupted goes on with ``--resume FOLDER`` and submits nothing twice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lab.cli.options import Json
from lab.cli.qpu_mitigation import mitigation_command
from lab.cli.qpu_options import (
    AccountOption,
    BackendOption,
    ChannelOption,
    DataOption,
    DecouplingOption,
    ExecutionOption,
    InstanceOption,
    LimitOption,
    MitigationOption,
    ModelOption,
    OutOption,
    PendingOption,
    PerJobOption,
    ResumeOption,
    RetryOption,
    SeedOption,
    SentencesOption,
    ShotsOption,
    TaskOption,
    TrialsOption,
    TwirlOption,
    TwirlReadoutOption,
    YesOption,
    given,
    refuse_with_resume,
    request_from,
)
from lab.cli.qpu_talk import consent, interrupted, progress, teller
from lab.runs.shown import echo

if TYPE_CHECKING:
    from fl.qpu.analysis import Comparison
    from fl.qpu.evaluate import QpuReport
    from fl.qpu.request import QpuRequest
    from lab.runs.qpu import Start

qpu_app = typer.Typer(no_args_is_help=True, help="Trained circuits on a QPU or its simulated stand-in.")

qpu_app.command("mitigation")(mitigation_command)


@qpu_app.command("run")
def run_command(
    backend: BackendOption = None,
    model: ModelOption = None,
    task: TaskOption = None,
    sentences: SentencesOption = None,
    shots: ShotsOption = None,
    mitigation: MitigationOption = None,
    dynamical_decoupling: DecouplingOption = None,
    twirl_gates: TwirlOption = None,
    twirl_readout: TwirlReadoutOption = None,
    execution: ExecutionOption = None,
    sets_per_job: PerJobOption = None,
    max_pending: PendingOption = None,
    max_job_seconds: LimitOption = None,
    layout_trials: TrialsOption = None,
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
    chosen = given(locals())
    if resume is not None:
        refuse_with_resume(resume, {**chosen, "backend": backend, "model": model, "out": out})
    from lab.runs.qpu import begun, resumed

    say = progress()
    started = resumed(resume, "run", say) if resume else begun(request_from(backend, chosen), model, out, say)
    with started as start:
        code = _run(start, retry_failed=retry_failed, yes=yes, as_json=as_json)
    raise typer.Exit(code)


@qpu_app.command("estimate")
def estimate_command(
    backend: BackendOption = None,
    model: ModelOption = None,
    task: TaskOption = None,
    sentences: SentencesOption = None,
    shots: ShotsOption = None,
    mitigation: MitigationOption = None,
    sets_per_job: PerJobOption = None,
    layout_trials: TrialsOption = None,
    seed: SeedOption = None,
    account: AccountOption = None,
    channel: ChannelOption = None,
    instance: InstanceOption = None,
    data: DataOption = None,
    as_json: Json = False,
) -> None:
    """What a run would cost, with every mitigation unless one is named; transpiles, submits nothing."""
    import msgspec

    from fl.qpu.backends import open_device
    from fl.qpu.options import MITIGATIONS
    from fl.qpu.request import data_folder
    from fl.qpu.tasks import circuit_model, load_parameters, open_circuit_task
    from lab.runs.qpu import costs_of

    request = request_from(backend, given(locals()))
    device = open_device(request.backend, request.account)
    opened = open_circuit_task(request.task, data_folder(request))
    # The cost depends on the circuit, not on its angles: an untrained model does as well.
    parameters = (
        opened.initial_parameters(request.options.seed) if model is None else load_parameters(opened, model)
    )
    circuit = circuit_model(opened, parameters, request.sentences, request.options.seed)
    wanted = MITIGATIONS if mitigation is None else (request.options.mitigation,)
    costs = costs_of(circuit, device, request.options, wanted)
    echo(msgspec.json.encode(costs).decode() if as_json else "\n".join(cost.text() for cost in costs))


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
        echo(msgspec.json.encode(records).decode())
        return
    for record in records:
        text = f"job {record.number}  {record.state:10s} {record.job_id or '-':24s} {record.count} sets"
        echo(f"{text}  {record.submitted_at}  {record.error}".rstrip())


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
        echo(json.dumps({"local": simulated, "service": real, "note": note}))
        return
    echo("simulated here: " + ", ".join(simulated))
    if not local:
        echo("of the service: " + (", ".join(real) or note or "none"))


@qpu_app.command("train")
def train_command(
    steps: Annotated[
        int | None,
        typer.Option("--steps", "--train-steps", min=1, help="Steps of gradient descent; 3 without."),
    ] = None,
    allow_training: Annotated[
        bool, typer.Option("--allow-training", help="Accept the cost that is shown, and train.")
    ] = False,
    train_weights: Annotated[
        int | None, typer.Option(min=1, help="How many of the circuit's weights are trained; 4 without.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Training examples per step; 8 without.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Step size; 0.5 without.")] = None,
    backend: BackendOption = None,
    model: ModelOption = None,
    task: TaskOption = None,
    shots: ShotsOption = None,
    mitigation: MitigationOption = None,
    execution: ExecutionOption = None,
    sets_per_job: PerJobOption = None,
    max_pending: PendingOption = None,
    layout_trials: TrialsOption = None,
    seed: SeedOption = None,
    account: AccountOption = None,
    channel: ChannelOption = None,
    instance: InstanceOption = None,
    data: DataOption = None,
    out: OutOption = None,
    resume: ResumeOption = None,
    retry_failed: RetryOption = False,
    as_json: Json = False,
) -> None:
    """Train a handful of the circuit's weights on a backend by parameter-shift gradients.

    Shows the cost first; trains only with --allow-training.
    """
    from fl.qpu.options import TrainingPlan
    from lab.cli.qpu_train import run_training
    from lab.runs.qpu import begun, resumed

    chosen = given(locals())
    numbers = {"steps": steps, "n_weights": train_weights, "batch": batch, "learning_rate": learning_rate}
    if resume is not None:
        refuse_with_resume(resume, {**chosen, **numbers, "backend": backend, "model": model, "out": out})
        started = resumed(resume, "train", progress())
    else:
        plan = TrainingPlan(**{name: value for name, value in numbers.items() if value is not None})  # type: ignore[arg-type]
        started = begun(request_from(backend, chosen, plan), model, out, progress())
    with started as start:
        code = run_training(start, allowed=allow_training, retry_failed=retry_failed, as_json=as_json)
    raise typer.Exit(code)


def _run(start: Start, *, retry_failed: bool, yes: bool, as_json: bool) -> int:
    from fl.qpu.evaluate import evaluate
    from fl.qpu.tasks import circuit_model
    from lab.runs.pages.qpu_report import write_page

    request, path = start.request, start.folder.folder
    model = circuit_model(start.task, start.parameters, request.sentences, request.options.seed)
    try:
        outcome = evaluate(
            model,
            start.device,
            request.options,
            start.folder,
            resume=start.resumed,
            retry_failed=retry_failed,
            # What was begun was agreed to; a failed job that is submitted again is another cost.
            agree=consent(start.say, yes=yes, asked_before=start.folder.started and not retry_failed),
            report=teller(start.say),
        )
    except KeyboardInterrupt:
        return interrupted(start, "run")
    write_page(outcome, request, path)
    echo(as_text_json(outcome, path, request) if as_json else summary(outcome, path, request))
    return 0


def as_text_json(outcome: QpuReport, folder: Path, request: QpuRequest) -> str:
    """The report as one JSON line, with folder and origin of the model."""
    import msgspec

    from fl.qpu.evaluate import QpuRun

    told = QpuRun(folder=str(folder), origin=request.model, **msgspec.structs.asdict(outcome))
    return msgspec.json.encode(told).decode()


def summary(outcome: QpuReport, folder: Path, request: QpuRequest) -> str:
    """The report for people."""
    options = outcome.options
    kind = "simulated here" if outcome.local else "real backend"
    lines = [
        f"{outcome.model} on {outcome.backend} ({kind}), qubits {', '.join(map(str, outcome.qubits))}, "
        f"{options.shots} shots, mitigation {options.mitigation}, seed {options.seed}",
        f"model: {request.model}",
        *_comparison_lines(outcome.comparison),
    ]
    if outcome.at_own_noise is not None:
        without = outcome.at_own_noise
        lines.append(
            f"without extrapolation: accuracy {without.accuracy_backend:.3f}, agreement {without.agreement:.3f}, "
            f"RMS deviation {without.deviation.rms:.4f}"
        )
    if outcome.unused_locally:
        lines.append(f"not available in local testing mode: {', '.join(outcome.unused_locally)}")
    charged = "no QPU time" if outcome.local else f"{outcome.qpu_s or 0:.0f} s of QPU time"
    lines.append(
        f"{outcome.jobs} jobs, {outcome.submitted} submitted by this call, {charged}, {outcome.wall_s:.0f} s; "
        f"report in {folder / 'report.html'}"
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
