"""The ``qunetlab`` command: one sub-command per task, everything heavy imported only when it runs.

Exit codes: 0 success, 1 the work failed, 2 the command line or a file given to it is wrong, 3 an instrument
or peer could not be reached, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from click.core import ParameterSource

from lab.cli.alarms_app import alarms_app
from lab.cli.attack_app import attack_command
from lab.cli.audit import audit
from lab.cli.calibrate_app import calibrate_command
from lab.cli.completing import known_roles, known_users_and_pairs
from lab.cli.dashboard import dashboard
from lab.cli.doctor import doctor
from lab.cli.examples import shown_on_pages
from lab.cli.instruments_app import instruments_app
from lab.cli.keycost import keycost
from lab.cli.keys_app import keys_app
from lab.cli.knob_app import monitor_command, set_command
from lab.cli.learning_app import compare, data_app, demo, fl_app, train
from lab.cli.naming import told_apart, users_and_testbed
from lab.cli.new import new
from lab.cli.options import (
    EXIT_INTERRUPTED,
    AuthorityKeyOption,
    Json,
    PairOption,
    SecretsPath,
    SourceOption,
    StatePath,
    StoreKeyOption,
    TestbedPath,
    show,
)
from lab.cli.qpu import qpu_app
from lab.cli.queue_app import queue_app
from lab.cli.roles_app import node, orchestrator, relay, simulate
from lab.cli.runs_app import runs_app
from lab.cli.sae_app import sae_app
from lab.cli.scan_app import scan_command
from lab.cli.surroundings import do_without_home, stand_somewhere
from lab.cli.systemd import systemd
from lab.cli.up import down, up
from lab.runs.addresses import ALONE
from lab.runs.shown import echo
from lab.runs.testbeds.folder import DEFAULT_TESTBED
from orchestrator.protocols.catalogue import DEFAULT, PROTOCOLS

DEBUG = "--debug"
RoleArgument = Annotated[
    str | None,
    typer.Argument(metavar="[ROLE]", autocompletion=known_roles, help="relay or a user; all without."),
]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(instruments_app, name="instruments")
app.add_typer(alarms_app, name="alarms")
app.add_typer(fl_app, name="fl")
app.add_typer(data_app, name="data")
app.add_typer(keys_app, name="keys")
app.add_typer(qpu_app, name="qpu")
app.add_typer(queue_app, name="queue")
app.add_typer(runs_app, name="runs")
app.add_typer(sae_app, name="sae")


def tell_version(asked: bool) -> None:
    """``qunetlab 0.1.0``, with the commit where the package lies in its repository."""
    if asked:
        from importlib.metadata import version

        from lab.runs.software import commit

        at = commit()
        echo(f"qunetlab {version('qunetlab')}{f' (commit {at})' if at else ''}")
        raise typer.Exit


@app.callback()
def everything(
    debug: Annotated[
        bool, typer.Option(DEBUG, help="Where something fails, show the trace too; may stand anywhere.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=tell_version, help="Say the version, and end."),
    ] = False,
) -> None:
    """Lab control and orchestration for a quantum-secure federated-learning testbed."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to create.")],
    template: Annotated[
        str, typer.Option(help="Bundled testbed to start from, or a testbed file of your own.")
    ] = DEFAULT_TESTBED,
    host: Annotated[
        str | None,
        typer.Option(help="Machine of hub and learning server; fills in every endpoint left 'auto'."),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65000, help="First port for --host.")] = 47600,
    users: Annotated[int | None, typer.Option(help="Number of users; those of the template without.")] = None,
    uncalibrated: Annotated[
        bool,
        typer.Option(
            "--uncalibrated",
            help="A fresh simulated ring that nobody has surveyed: its file holds the values of its order, and it must be "
            "calibrated before it makes key.",
        ),
    ] = False,
    ring_seed: Annotated[
        int | None,
        typer.Option(
            min=0, help="What became of the ring's order; drawn for --uncalibrated, else the template's."
        ),
    ] = None,
    store_key: StoreKeyOption = "file",
    authority_key: AuthorityKeyOption = "file",
    sae: Annotated[
        list[str] | None,
        typer.Option(
            "--sae", metavar="NAME@USER", help="Application that draws keys at this user's node; repeatable."
        ),
    ] = None,
    export: Annotated[
        list[str] | None,
        typer.Option("--export", help="Move what the machine of this role needs into a parcel; repeatable."),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="The parcel: a folder or a .tar; default: FOLDER-ROLE.tar.")
    ] = None,
    anew: Annotated[
        list[str] | None,
        typer.Option(
            "--anew",
            help="Fresh keys for this role, whose machine is lost, in a parcel; repeatable. Then `keys replace` on every machine.",
        ),
    ] = None,
    parcel: Annotated[
        Path | None, typer.Option("--import", help="Take in a parcel on its machine, and destroy it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a testbed folder: testbed file, CURVE keys, certificates, initial pair secrets (0600); or move a role's part."""
    from lab.key_delivery import applications_named
    from lab.runs.certificates.signing_key import passphrase_of
    from lab.runs.testbeds.folder import create_folder, source_path
    from lab.runs.testbeds.store_key import StoreKey

    if sum(map(bool, (export, anew, parcel))) > 1:
        raise ValueError("--export and --anew make a parcel, and --import takes one in: give one of them")
    if export or parcel:
        from lab.cli.parcels import arrive, export_parcel

        if export:
            export_parcel(folder, export, to, as_json)
        elif parcel:
            arrive(folder, parcel, as_json)
        return
    passphrase = StoreKey.parse(store_key).chosen("the key store of every user")
    if anew:
        from lab.cli.anew import make_anew

        make_anew(folder, anew, to, passphrase, passphrase_of(authority_key), as_json)
        return
    path = create_folder(
        folder,
        source_path(template),
        host=host,
        port=port,
        users=users,
        ring_seed=ring_seed,
        uncalibrated=uncalibrated,
        passphrase=passphrase,
        authority_passphrase=passphrase_of(authority_key, confirm=True),
        applications=applications_named(sae or ()),
    )
    text = (
        f"Created {path}\nSecrets are in {folder / 'secrets'} (0600). `qunetlab init {folder} --export ROLE` moves what the machine "
        "of a role needs."
    )
    if uncalibrated:
        text += (
            "\nNobody has calibrated this ring: its file has the values of its order, and no plan promises key."
            f"\nMeasure them first: `qunetlab calibrate --testbed {folder}`."
        )
    answer = {"testbed": str(path), "secrets": str(folder / "secrets"), "uncalibrated": uncalibrated}
    show(answer, as_json, text)


@app.command()
def check(testbed: TestbedPath, as_json: Json = False) -> None:
    """Hold a testbed file against the drivers of its instruments, and the secrets beside it against the file; every mistake
    is listed with its place."""
    from lab.cli.check import show_check

    show_check(testbed, as_json)


@app.command()
def keyrate(
    context: typer.Context,
    loss_db_a: Annotated[
        float | None, typer.Option(help="Arm of the first user, detector included, dB.")
    ] = None,
    loss_db_b: Annotated[
        float | None, typer.Option(help="Arm of the second user, detector included, dB.")
    ] = None,
    testbed: SourceOption = None,
    pair: PairOption = None,
    mu_a: Annotated[float | None, typer.Option(help="Photons per pulse of the first user.")] = None,
    mu_b: Annotated[float | None, typer.Option(help="Photons per pulse of the second user.")] = None,
    p_x: Annotated[float | None, typer.Option(help="Probability of basis X.")] = None,
    visibility: Annotated[float, typer.Option(help="Interference visibility.")] = 0.99,
    dark_count: Annotated[float, typer.Option(help="Dark counts per gate and detector.")] = 1e-7,
    f_ec: Annotated[float, typer.Option(help="Reconciliation inefficiency.")] = 1.16,
    pulses: Annotated[float | None, typer.Option(help="Pulses of the block; asymptotic without.")] = None,
    eps_sec: Annotated[float, typer.Option(help="Secrecy epsilon.")] = 1e-10,
    eps_cor: Annotated[float, typer.Option(help="Correctness epsilon.")] = 1e-15,
    phase_uncertainty_rad: Annotated[
        float, typer.Option(help="How far each of a user's phases may be wrong; charged to the key.")
    ] = 0.0,
    intensity_tolerance_db: Annotated[
        float, typer.Option(help="How far intensities may exceed their nominal values; charged to the key.")
    ] = 0.0,
    extinction_db: Annotated[
        float | None,
        typer.Option(
            help="Light of a pulse over light of an empty gate behind the carver; none passes without."
        ),
    ] = None,
    protocol: Annotated[str, typer.Option(help=f"One of: {', '.join(PROTOCOLS)}.")] = DEFAULT,
    optimize: Annotated[
        bool, typer.Option("--optimize", help="Choose mu and p_x for the best rate.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Secret key rate of a pair, asymptotic or for a finite block; on a testbed, with what its light must be set to."""
    from lab.cli.keyrate import as_table, keyrate_command, pair_report

    if testbed is not None:
        given = [
            name
            for name in context.params
            if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        ]
        if more := set(given) - {"testbed", "pair", "as_json"}:
            named = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(more))
            raise ValueError(
                f"the testbed file says what {named} would; leave it out, or leave out --testbed"
            )
        on_testbed = pair_report(testbed, pair)
        show(on_testbed, as_json, as_table(on_testbed))
        return
    report = keyrate_command(
        protocol=protocol,
        loss_a_db=loss_db_a,
        loss_b_db=loss_db_b,
        mu_a=mu_a,
        mu_b=mu_b,
        p_x=p_x,
        visibility=visibility,
        dark_count=dark_count,
        f_ec=f_ec,
        n_pulses=pulses,
        eps_sec=eps_sec,
        eps_cor=eps_cor,
        phase_uncertainty_rad=phase_uncertainty_rad,
        intensity_tolerance_db=intensity_tolerance_db,
        extinction_db=extinction_db,
        optimize=optimize,
    )
    show(report, as_json, as_table(report))


for command in (simulate, orchestrator, relay, node, demo, train, compare, new, keycost):
    app.command()(command)
app.command("up")(up)
app.command("down")(down)
app.command("calibrate")(calibrate_command)
app.command("audit")(audit)
app.command("attack")(attack_command)
app.command("dashboard")(dashboard)
app.command("doctor")(doctor)
app.command("scan")(scan_command)
app.command("set")(set_command)
app.command("systemd")(systemd)
app.command("monitor")(monitor_command)


@app.command()
def keygen(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="FIRST SECOND",
            autocompletion=known_users_and_pairs,
            help="The users of the pair, in any order, or alice-bob; a testbed may stand before or behind them.",
        ),
    ],
    bits: Annotated[str | None, typer.Option(help="Bits of key to make, such as 250k or 1M.")] = None,
    blocks: Annotated[
        int | None,
        typer.Option(min=1, help="Blocks to make instead, on a simulated ring of its own; default: 1."),
    ] = None,
    testbed: SourceOption = None,
    priority: Annotated[int, typer.Option(help="On a ring that runs: place in its queue, -10 to 10.")] = 0,
    due_in: Annotated[
        str | None, typer.Option("--due-in", help="On a ring that runs: wanted by then, such as 30m or 2h.")
    ] = None,
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """Make key for one pair: in the queue of a ring that runs, or on simulated instruments; never shows bits."""
    from lab.cli.keygen import run_keygen
    from lab.runs.testbeds.folder import named_testbed, template_path

    pair, place = users_and_testbed(words, named_testbed(testbed) if testbed else None)
    raise typer.Exit(
        run_keygen(
            str(place or template_path(DEFAULT_TESTBED)),
            pair,
            bits=bits,
            blocks=blocks,
            priority=priority,
            due_in=due_in,
            state=state,
            as_json=as_json,
        )
    )


@app.command()
def status(
    testbed: TestbedPath,
    secrets: SecretsPath = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show every change until Ctrl-C.")] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="One line; exit code 0 well, 1 degraded, 3 stopped or no answer."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Is the ring well?  The verdict first; then pairs, stock, rates, leases, peers and alarms, with ages."""
    from lab.cli.status import show_status

    raise typer.Exit(show_status(testbed, secrets, as_json, watch=watch, check=check))


@app.command()
def metrics(
    testbed: TestbedPath,
    secrets: SecretsPath = None,
    listen: Annotated[
        str, typer.Option(help="HOST:PORT; everybody who reaches it may read, so this machine by default.")
    ] = ALONE,
) -> None:
    """Serve /metrics of the whole testbed for Prometheus, as far as the hub tells it, until Ctrl-C; each role has its own."""
    from lab.cli.metrics import serve_metrics

    raise typer.Exit(serve_metrics(testbed, secrets, listen))


@app.command()
def stop(
    testbed: TestbedPath,
    role: RoleArgument = None,
    reason: Annotated[str, typer.Option(help="Why, for whoever acknowledges.")] = "",
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """Light off now, at every role on this machine or at one; it stays off until acknowledged.  Needs no hub."""
    from lab.cli.interlock import stop_roles

    if role is not None:
        role, testbed = told_apart(role, testbed)
    raise typer.Exit(stop_roles(testbed, role, state, reason, as_json))


@app.command()
def acknowledge(
    testbed: TestbedPath, role: RoleArgument = None, state: StatePath = None, as_json: Json = False
) -> None:
    """Release the interlocks of this machine, or one, once their causes are gone: you have looked."""
    from lab.cli.interlock import acknowledge_roles

    if role is not None:
        role, testbed = told_apart(role, testbed)
    raise typer.Exit(acknowledge_roles(testbed, role, state, as_json))


@app.command()
def bench(
    only: Annotated[list[str] | None, typer.Option(help="Run only this benchmark; repeatable.")] = None,
    as_json: Json = False,
) -> None:
    """Measure speed: ring model, link, keys, masking, secret sharing, circuits, training rounds."""
    from lab.cli.bench import run_benchmarks

    raise typer.Exit(run_benchmarks(only or [], as_json))


@app.command("compile")
def compile_command() -> None:
    """Compile the numerical kernels once, so that every process starts fast."""
    from lab.runs.supervising.kernels import compile_all

    compile_all()


shown_on_pages(app)


def main() -> None:
    """Entry point: turns expected errors into one clear message and an exit code.

    Nearly every command holds key for a while, and a simulator the symbols: none leaves a core file.
    """
    from orchestrator.core_files import no_core_files

    debug = DEBUG in sys.argv[1:]
    try:
        no_core_files()
        stand_somewhere()
        do_without_home()
        app([word for word in sys.argv[1:] if word != DEBUG])
    except KeyboardInterrupt:
        echo("interrupted", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the last place where an error can be told to the user
        from lab.cli.errors import UNEXPECTED, explain, tell_supervisor, text_on_terminal
        from lab.runs.roles.logs import told_at_the_end

        code, text = explain(error)
        in_log = (UNEXPECTED.strip(), error) if text.startswith(UNEXPECTED) else (text, None)
        if not told_at_the_end(*in_log):
            echo(text_on_terminal(error, text, debug=debug), err=True)
        tell_supervisor(error, text)
        sys.exit(code)


if __name__ == "__main__":
    main()
