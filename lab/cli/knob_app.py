"""``qunetlab set`` and ``qunetlab monitor``: an operator's knob and meter."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import Annotated

import msgspec
import typer

from lab.cli.completing import known_roles
from lab.cli.options import Json, LitOption, SecretsPath, StatePath, TestbedPath, show
from lab.runs.shown import echo

CHECK_S = 0.2


def set_command(
    testbed: TestbedPath,
    setting: Annotated[
        str, typer.Argument(metavar="INSTRUMENT.PARAMETER", help="Such as voa_alice.attenuation_db.")
    ],
    value: Annotated[str, typer.Argument(help="A number in the parameter's unit, on or off, or a word.")],
    hold_s: Annotated[
        float | None,
        typer.Option(
            "--hold",
            min=0.0,
            metavar="SECONDS",
            help="How long it is held; without: until Ctrl-C on a terminal, else not at all.",
        ),
    ] = None,
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Leave it as it is set. Only where that harms nobody: switches, meters, polarisation controllers.",
        ),
    ] = False,
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """Set a parameter of an instrument that no role has, read it back, hold it, and make its owner's instruments safe.

    Values outside the instrument's limits are refused, and nothing is sent. While a role runs it alone has its instruments: then
    this says who. `qunetlab instruments TESTBED` lists parameters, units and limits.
    """
    from lab.runs.knobs import alone, held, knob, turn
    from lab.runs.testbeds.folder import find_testbed
    from lab.testbed import load_testbed

    path = find_testbed(testbed).absolute()
    loaded = load_testbed(path)
    wanted = knob(loaded, setting)
    if keep and hold_s is not None:
        raise ValueError("--keep leaves the setting and --hold ends it: give one of them")
    if keep:
        with alone(wanted) as instrument:
            turned = turn(instrument, wanted.parameter, value)
        show(msgspec.to_builtins(turned), as_json, f"{turned}; left so")
        return
    with held(loaded, path, wanted, state) as (instrument, session), contextlib.suppress(KeyboardInterrupt):
        turned = turn(instrument, wanted.parameter, value)
        until_s = _until(hold_s)
        show(msgspec.to_builtins(turned), as_json, f"{turned}{_how_long(hold_s, until_s)}")
        while time.monotonic() < until_s:
            session.check()
            time.sleep(CHECK_S)
    if not as_json:
        echo(session.left_safe())


def _until(hold_s: float | None) -> float:
    """A moment of the monotonic clock."""
    if hold_s is None:
        return float("inf") if sys.stdin.isatty() else 0.0
    return time.monotonic() + hold_s


def _how_long(hold_s: float | None, until_s: float) -> str:
    if hold_s is not None:
        return f"; held for {hold_s:g} s"
    return "; held until Ctrl-C" if until_s else ""


def monitor_command(
    testbed: TestbedPath,
    role: Annotated[
        str,
        typer.Option(
            metavar="ROLE",
            autocompletion=known_roles,
            help="Only the readings of relay or a user; all without.",
        ),
    ] = "",
    lit: LitOption = None,
    secrets: SecretsPath = None,
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """Live counts at D1 and D2, QBER and visibility of the latest blocks, readings with limits; Ctrl-C ends it.

    On a terminal it redraws itself; elsewhere it prints once. Of users there are temperatures and nothing secret.
    With --lit PAIR an operator has the light in hand: a knob is turned by typing INSTRUMENT.PARAMETER VALUE, and counts, visibility
    and QBER move; dark at the end.
    With --json each word of light, blocks and readings is a line, as in `qunetlab status --watch --json`.
    """
    if lit is not None:
        from lab.cli.lit_meter import show_lit

        if role:
            raise ValueError(
                "--role is for a ring that runs, and --lit for one where no role does: give one of them"
            )
        show_lit(testbed, lit, state, as_json)
        return
    from lab.cli.monitor import show_meter

    show_meter(testbed, secrets, role, as_json)
