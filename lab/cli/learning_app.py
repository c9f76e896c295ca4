"""Commands about learning: the demo, training and comparing, data sets, and the roles of server and clients."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from fl.modes.table import DEFAULT_MODE, MODES
from lab.cli.naming import TESTBED, TESTBED_HELP, known_testbeds, told_apart
from lab.cli.options import TASKS, DataPath, Json, SecretsPath, SourceOption, StatePath, TestbedPath, show
from lab.runs.testbeds.folder import DEFAULT_TESTBED

DashboardBeside = Annotated[
    bool,
    typer.Option("--dashboard", help="Show the ring in a browser meanwhile; the address is printed."),
]

fl_app = typer.Typer(no_args_is_help=True, help="Federated-learning server and clients.")
data_app = typer.Typer(no_args_is_help=True, help="Data sets: fetch, verify, list.")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("qunetlab-demo"),
    rounds: Annotated[int, typer.Option(min=1, help="Training rounds.")] = 10,
    task: Annotated[str, typer.Option(help=f"{TASKS}.")] = "digits",
    data: DataPath = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the simulated ring, the first model and the shards.")
    ] = 1,
    testbed: SourceOption = DEFAULT_TESTBED,
    dashboard: DashboardBeside = False,
    as_json: Json = False,
) -> None:
    """Run everything on this machine: simulated ring, relay, four nodes, keys, training, report."""
    from lab.cli.dashboard import tell_dashboard
    from lab.runs.demo import healthy, run_demo, summary

    report = run_demo(
        out=out,
        rounds=rounds,
        task=task,
        data=data,
        seed=seed,
        source=testbed or DEFAULT_TESTBED,
        dashboard=partial(tell_dashboard, as_json=as_json) if dashboard else None,
    )
    show(report, as_json, summary(report, out))
    raise typer.Exit(0 if healthy(report) else 1)


def train(
    task: Annotated[
        str,
        typer.Argument(help=f"{TASKS}."),
    ],
    clients: Annotated[int | None, typer.Option(min=1, help="Number of clients.")] = None,
    mode: Annotated[
        str | None,
        typer.Option(
            help=", ".join(
                f"{each.name} ({each.hint})" if each.hint else each.name for each in MODES.values()
            )
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model of the task.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help="Which data set, of a task that has several."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="How the data is shared out.")] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Training rounds.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, max=10_000, help="Number of seeds.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The first seed.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="About two minutes; not the full experiment, and says so.")
    ] = False,
    baselines: Annotated[bool, typer.Option(help="Run what the result is compared with as well.")] = True,
    levels: Annotated[int | None, typer.Option(help="Quantisation levels on either side of zero.")] = None,
    ring_width: Annotated[
        int | None, typer.Option(help="Bits of an integer on the wire; the fewest without.")
    ] = None,
    clip: Annotated[float | None, typer.Option(help="Largest update that is sent.")] = None,
    clip_of: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARRAY=CLIP",
            help="Clip of the model's arrays with that name or pattern, 0: not in the sum; repeatable.",
        ),
    ] = None,
    clip_decay: Annotated[float | None, typer.Option(help="Factor on the clip after every round.")] = None,
    keep: Annotated[float | None, typer.Option(help="Share of the parameters sent in a round.")] = None,
    error_feedback: Annotated[
        bool | None, typer.Option(help="Keep what was cut or rounded away for later rounds.")
    ] = None,
    drop_outs: Annotated[
        int, typer.Option(min=0, help="Clients that vanish in every round (lightsecagg, simulated).")
    ] = 0,
    colluders: Annotated[int | None, typer.Option(help="T of lightsecagg.")] = None,
    survivors: Annotated[int | None, typer.Option(help="U of lightsecagg.")] = None,
    testbed: SourceOption = None,
    live: Annotated[bool, typer.Option("--live", help="Make the keys on the ring while training.")] = False,
    if_short: Annotated[
        str, typer.Option(help="When keys run short: wait, stop, or expanded (computational security).")
    ] = "wait",
    max_wait: Annotated[
        float | None, typer.Option(min=0, help="Longest time the key of the run may take to make, s.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=0, max=64, help="Processes that train; 0 trains in this one.")
    ] = None,
    data: DataPath = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; qunetlab-runs/... without.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Folder of a run to go on with.")] = None,
    dashboard: DashboardBeside = False,
    as_json: Json = False,
) -> None:
    """Train a workload: checks, key forecast, seeds, baselines, results.json and report.html."""
    from lab.cli.train import run_train
    from lab.cli.train_options import asked_options, clips_of_arrays

    asked = asked_options(
        task=task,
        model=model,
        dataset=dataset,
        split=split,
        mode=mode,
        clients=clients,
        rounds=rounds,
        seeds=seeds,
        first_seed=seed,
        quick=quick,
        baselines=baselines,
        levels=levels,
        ring_width=ring_width,
        clip=clip,
        clips=clips_of_arrays(clip_of),
        clip_decay=clip_decay,
        keep=keep,
        error_feedback=error_feedback,
        drop_outs=drop_outs,
        colluders=colluders,
        survivors=survivors,
        testbed=testbed,
        live=live,
        if_short=if_short,
        max_wait_s=max_wait,
    )
    raise typer.Exit(
        run_train(
            asked,
            out=out,
            resume=resume,
            data=data,
            workers=workers,
            as_json=as_json,
            dashboard=dashboard,
        )
    )


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders or results.json files.")],
    out: Annotated[Path | None, typer.Option(help="HTML page with the curves of all runs.")] = None,
    as_json: Json = False,
) -> None:
    """Training runs side by side."""
    from lab.cli.compare import compare_runs

    raise typer.Exit(compare_runs(runs, out, as_json))


@fl_app.command("server")
def fl_server(
    testbed: TestbedPath,
    secrets: SecretsPath = None,
    state: StatePath = None,
    config: Annotated[str, typer.Option(help="Training configuration as JSON text or @FILE.")] = "{}",
    task: Annotated[str | None, typer.Option(help=f"{TASKS}; digits without.")] = None,
    data: DataPath = None,
) -> None:
    """Run the federated-learning server."""
    from lab.runs.roles.processes import fl_server_role

    raise typer.Exit(fl_server_role(testbed, secrets, state, config, task, data))


@fl_app.command("client")
def fl_client(
    name: Annotated[str, typer.Argument(help="User whose client this is.")],
    testbed: TestbedPath,
    secrets: SecretsPath = None,
    state: StatePath = None,
    data: DataPath = None,
    self_check: Annotated[
        Path | None,
        typer.Option(help="Simulation only: write unmasked updates here so that the sum can be checked."),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="The mode this user agrees to; a run in any other is refused.")
    ] = DEFAULT_MODE,
    task: Annotated[
        str | None,
        typer.Option(help="A workload of your own that is trained, MODULE:NAME; others need no naming."),
    ] = None,
) -> None:
    """Run one user's federated-learning client."""
    from lab.runs.roles.processes import fl_client_role

    name, testbed = told_apart(name, testbed)
    raise typer.Exit(fl_client_role(name, testbed, secrets, state, data, self_check, mode, task))


@fl_app.command("consent")
def fl_consent(
    run_file: Annotated[
        Path, typer.Argument(metavar="RUNFILE", help="What the learning server wrote: run-description.json.")
    ],
    user: Annotated[
        str | None, typer.Option(help="Whose consent it is; without, the one user of this machine.")
    ] = None,
    testbed: Annotated[
        Path | None,
        typer.Option(
            metavar="TESTBED",
            click_type=TESTBED,
            autocompletion=known_testbeds,
            help=f"{TESTBED_HELP}; without, the present folder.",
        ),
    ] = None,
    state: StatePath = None,
    accept_leak: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN", help="Earlier run with other terms: accept what its sums and these tell together."
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Agree without being asked.")] = False,
) -> None:
    """Read what a training run is and what it tells, and agree to it for one user."""
    from lab.cli.consent import consent_to

    raise typer.Exit(consent_to(run_file, user, testbed, state, accept_leak or [], yes=yes))


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help="Workload whose data is fetched.")],
    as_json: Json = False,
) -> None:
    """Fetch a data set into the cache folder and verify its checksums."""
    from lab.cli.data import fetch

    raise typer.Exit(fetch(name, as_json))


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """Data sets that are here."""
    from lab.cli.data import list_data

    raise typer.Exit(list_data(as_json))
