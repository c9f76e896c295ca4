"""What ``QkdFedAvg()`` takes from the run configuration, so that it stands where ``FedAvg()`` stood.

``flwr run . --run-config '...'`` and ``[tool.flwr.app.config]`` of the app's ``pyproject.toml`` are one configuration.
Every key below may be left away::

    key-supply    "simulated" in Flower's simulation; else keys come from the users' nodes
    testbed       with keys from nodes: the testbed file on the server's machine, or its folder (default: here)
    secrets       the folder with fl-server's key pair (default: ``secrets`` beside the testbed file)
    run-id        with keys from nodes, needed: by which name the operators consent to the run
    state-folder  where used round numbers are kept (default: FLWR_HOME/qunetlab)
    clients       for how many users the first round waits (default: all of the testbed file, or three)
    app           what operators call the task (default: flower)

    quorum        fewest participants of a round (default: three, or what the mode needs)
    pause         seconds for which a run waits for a user that has gone
    key-timeout   seconds of these for keys, or for a peer that has gone

and mode, levels, ring-width, clip, clip-decay, keep, colluders, survivors and seed: settings of any run, by the names that
``qunetlab train`` has for them.  A key that says 0 or "" counts as left away.

The context that holds the configuration is an argument of the server app's main function.  Flower gives a strategy
no other way to it, so :func:`running_app` looks for it among the callers.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from flwr.app import Context
from msgspec.inspect import FloatType, IntType, LiteralType, StrType

from fl.carriers.flower.participant import SetupError, TestbedKeys
from fl.carriers.flower.records import KeySupply
from fl.carriers.flower.roster import Roster
from fl.carriers.flower.secure_run import SecureRun
from fl.modes.table import MODES
from fl.rounds.config import SMALLEST_QUORUM, FLConfig
from fl.rounds.settings import kinds_of
from orchestrator.wire.curve import load_keys

KINDS: Mapping[type, Callable[[Any], Any]] = {LiteralType: str, StrType: str, IntType: int, FloatType: float}
OWN: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "app": ("app", str),
    "quorum": ("quorum", int),
    "pause": ("pause_s", float),
    "key-timeout": ("wait_timeout_s", float),
}
"""Keys of Flower's runs alone."""


def _of_every_run() -> Mapping[str, tuple[str, Callable[[Any], Any]]]:
    """The settings of any run (:class:`fl.rounds.config.FLConfig`) that a SecureRun has too, by the names that `train` has for them."""
    fields = {each.name for each in dataclasses.fields(SecureRun)} - {field for field, _ in OWN.values()}
    return {
        field.replace("_", "-"): (field, KINDS[type(kind)])
        for field, kind in kinds_of(FLConfig).items()
        if field in fields and type(kind) in KINDS
    }


SETTINGS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {**_of_every_run(), **OWN}
"""Which field of a SecureRun a key sets, and its type."""


def running_app() -> Mapping[str, Any]:
    """The run configuration of the server app whose main function is being run; raises SetupError outside one."""
    frame = sys._getframe(1)
    while frame is not None:
        for value in frame.f_locals.values():
            if isinstance(value, Context):
                return dict(value.run_config)
        frame = frame.f_back  # type: ignore[assignment]
    raise SetupError(
        "QkdFedAvg() without a run configuration is for the main function of a ServerApp, which Flower hands a "
        "context; elsewhere give it run_config, or run, roster and state_folder"
    )


def secure_run_of(config: Mapping[str, Any], defaults: SecureRun | None = None) -> SecureRun:
    """The settings of a run configuration over ``defaults``; raises SetupError for one that is none."""
    given = {}
    for key, (field, kind) in SETTINGS.items():
        value = config.get(key)
        if value in (None, "") or value == 0:
            continue
        try:
            given[field] = kind(value)
            if given[field] != value:
                raise ValueError
        except (TypeError, ValueError):
            raise SetupError(
                f"{key} = {value!r} in the run configuration: it is of type {kind.__name__}"
            ) from None
    run = replace(defaults or SecureRun(), **given)
    protecting = [each.name for each in MODES.values() if each.cipher]
    if run.mode not in protecting:
        raise SetupError(
            f"mode = {run.mode!r} in the run configuration: it is {', '.join(protecting[:-1])} or {protecting[-1]}"
        )
    return run


def roster_of(config: Mapping[str, Any]) -> Roster:
    """Who may take part: the users of the testbed file, or whoever is simulated; raises SetupError or KeyFileError."""
    supply = config.get("key-supply", "node")
    if supply not in get_args(KeySupply):
        raise SetupError(f"key-supply = {supply!r} in the run configuration: it is 'node' or 'simulated'")
    if supply == "simulated":
        return Roster(None)
    path = Path(str(config.get("testbed") or "."))
    if not config.get("testbed") and not (path / "testbed.toml").exists():
        raise SetupError(
            'the run configuration says neither testbed="FILE", the testbed file whose users take part, nor '
            'key-supply="simulated", which is for Flower\'s simulation and protects nothing'
        )
    if not config.get("run-id"):
        raise SetupError('the users consent to a run by its name: give it one with run-id="NAME"')
    file = TestbedKeys.read(path)
    secrets = Path(str(config.get("secrets") or file.path.parent / "secrets"))
    return Roster.of_testbed(file.clients(), load_keys(secrets / "fl-server"))


def clients_of(config: Mapping[str, Any], roster: Roster) -> int:
    """For how many users the first round waits; raises SetupError."""
    number = config.get("clients") or len(roster.users()) or SMALLEST_QUORUM
    if not isinstance(number, int) or number < 2:
        raise SetupError(f"clients = {number!r} in the run configuration: it is a number of at least 2")
    return number
