"""Commands about learning: the demo, training and comparing, data sets, and the roles of server and clients."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from fl.modes.table import DEFAULT_MODE
from lab.cli.completing import known_users
from lab.cli.naming import told_apart
from lab.cli.options import (
    TASKS,
    DataPath,
    GivenFolderOption,
    Json,
    MetricsListen,
    SecretsPath,
    SourceOption,
    StatePath,
    TestbedPath,
    show,
)
from lab.cli.train_options import as_data, as_file, asked_now, like, on_command_line, taking_options
from lab.runs.addresses import LOOPBACK
from lab.runs.testbeds.folder import DEFAULT_TESTBED

DashboardBeside = Annotated[
    bool,
    typer.Option("--dashboard", help="Show the ring in a browser meanwhile; the address is printed."),
]

OF_A_SERVER = (
    *("mode", "rounds", "levels", "ring_width", "clip", "clips", "clip_decay", "keep"),
    *("error_feedback", "colluders", "survivors"),
)
"""Options of a run that are a server's as well."""

fl_app = typer.Typer(no_args_is_help=True, help="Federated-learning server and clients.")
data_app = typer.Typer(no_args_is_help=True, help="Data sets: fetch, verify, list.")


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("qunetlab-demo"),
    rounds: Annotated[int, like("rounds")] = 10,
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
    show(msgspec.to_builtins(report), as_json, summary(report, out))
    raise typer.Exit(0 if healthy(report) else 1)


@taking_options()
def train(
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with options by their names; those of the command line win over it.",
        ),
    ] = None,
    print_config: Annotated[
        bool,
        typer.Option("--print-config", help="Print the options as such a file, and train nothing."),
    ] = False,
    resume: Annotated[Path | None, typer.Option(help="Folder of a run to go on with.")] = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Train a workload: checks, key forecast, seeds, baselines, results.json and report.html."""
    from lab.cli.train import run_train

    asked = asked_now(on_command_line(options), config, resume)
    if print_config:
        show(as_data(asked), as_json, as_file(asked))
        return
    raise typer.Exit(run_train(asked, resume=resume, as_json=as_json))


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders or results.json files.")],
    out: Annotated[Path | None, typer.Option(help="HTML page with the curves of all runs.")] = None,
    as_json: Json = False,
) -> None:
    """Training runs side by side."""
    from lab.cli.compare import compare_runs

    raise typer.Exit(compare_runs(runs, out, as_json))


@fl_app.command("server")
@taking_options(*OF_A_SERVER)
def fl_server(
    testbed: TestbedPath,
    secrets: SecretsPath = None,
    state: StatePath = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with settings by the names of `qunetlab train`, and others of a run; the command line wins over it.",
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help=f"{TASKS}; digits without.")] = None,
    data: DataPath = None,
    metrics: MetricsListen = LOOPBACK,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Run the federated-learning server."""
    from fl.experiments.server_options import settings_in
    from lab.cli.role_line import run_role
    from lab.runs.roles.processes import fl_server_role

    settings = {**(settings_in(config) if config else {}), **on_command_line(options)}
    settings |= {name: str(value) for name, value in (("task", task), ("data", data)) if value is not None}
    role = partial(fl_server_role, testbed, secrets, state, settings, metrics=metrics)
    raise typer.Exit(run_role("fl-server", role, as_json=as_json))


@fl_app.command("client")
def fl_client(
    name: Annotated[str, typer.Argument(autocompletion=known_users, help="User whose client this is.")],
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
    metrics: MetricsListen = LOOPBACK,
    as_json: Json = False,
) -> None:
    """Run one user's federated-learning client."""
    from lab.cli.role_line import run_role
    from lab.runs.roles.processes import fl_client_role

    name, testbed = told_apart(name, testbed)
    role = partial(
        fl_client_role, name, testbed, secrets, state, data, self_check, mode, task, metrics=metrics
    )
    raise typer.Exit(run_role(f"fl-{name}", role, as_json=as_json))


@fl_app.command("consent")
def fl_consent(
    run_file: Annotated[
        Path, typer.Argument(metavar="RUNFILE", help="What the learning server wrote: run-description.json.")
    ],
    user: Annotated[
        str | None,
        typer.Option(
            autocompletion=known_users, help="Whose consent it is; without, the one user of this machine."
        ),
    ] = None,
    testbed: GivenFolderOption = None,
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
