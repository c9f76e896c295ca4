"""``qunetlab attack``: the attack range of a simulated ring."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from lab.cli.options import Json, StatePath, TestbedPath, show


def attack_command(
    testbed: TestbedPath,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The attack; without it, all of them.")
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="How strong, in the unit that the list says; its usual one without.")
    ] = None,
    stop: Annotated[bool, typer.Option("--stop", help="End the attack that is on.")] = False,
    state: StatePath = None,
    as_json: Json = False,
) -> None:
    """Put a simulated ring under an attack, and watch it end in an abort or a shorter key; without NAME, list them.

    Refused for a ring that is not simulated. What became of it: `qunetlab status TESTBED --watch`, or the page Attacks of
    `qunetlab dashboard TESTBED`.
    """
    from lab.runs.attacks import control
    from lab.runs.testbeds.machine import Machine

    machine = Machine(testbed, state)
    control.check_simulated(machine)
    if stop and (name is not None or strength is not None):
        raise ValueError("--stop ends the attack that is on: it takes no NAME and no --strength")
    if stop:
        text = control.end(machine)
        show({"text": text}, as_json, text)
    elif name is not None:
        text = control.begin(machine, name, strength)
        show({"text": text}, as_json, text)
    elif strength is not None:
        raise ValueError("--strength is of an attack: give its NAME too")
    else:
        listed = _listed(machine)
        show(listed, as_json, _as_text(listed))


def _listed(machine: Any) -> dict[str, Any]:
    """Every attack, and the one that is on; ``problem``: why that is not known."""
    from lab.runs.attacks.control import ControlError, attack_on, rows

    on, problem = None, ""
    try:
        if (shown := attack_on(machine)).name:
            on = msgspec.to_builtins(shown)
    except ControlError as error:
        problem = f"{error}"
    return {"attacks": rows(), "on": on, "problem": problem}


def _as_text(listed: dict[str, Any]) -> str:
    lines = []
    for row in listed["attacks"]:
        unit = f" {row['unit']}"
        lines += [
            f"{row['name']}: {row['title']} ({row['least']:g} to {row['most']:g}{unit} {row['strength']}, "
            f"usual {row['usual']:g}{unit})",
            f"  does:     {row['does']}",
            f"  promised: {row['promise']}",
            f"  source:   {row['source']}",
        ]
    on = listed["on"]
    if on:
        lines.append(
            f"ON for {on['for_s']:.0f} s: {on['name']}, strength {on['strength']:g}, begun by {on['who']}"
        )
    else:
        lines.append(f"not known which is on: {listed['problem']}" if listed["problem"] else "none is on")
    return "\n".join(lines)
