"""The settings of a learning server in a file of the same form as that of ``qunetlab train --config``.

What is an option of a run has that option's name; every other setting of :class:`fl.rounds.config.FLConfig` has its own, with
hyphens.  ``clients`` are the users who take part, by their names, and ``data`` is where the server's data lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.inspect import StrType

from fl.experiments.options import MACHINE, Row, TrainOptions, rows_of
from fl.experiments.options_file import options_in
from fl.rounds.config import FLConfig
from fl.rounds.settings import kinds_of

OTHERWISE = {"seed": "first_seed", "clients": ""}
"""Settings that are an option under another field's name, or none: `train` takes a number of clients."""

SERVER = "A learning server's own"
OWN = {
    "run_id": "Name of the run, for ever; drawn without.",
    "clients": "Users who take part; all without.",
    "weights": "Public weight of each client, in their order; 1 without.",
    "min_clients": "Fewest participants of a round; three without, or what the mode needs.",
    "heartbeat_s": "How often a client says that it is there, s.",
    "client_timeout_s": "A client that was silent for so long is gone, s.",
    "round_timeout_s": "Longest round, waiting for keys and peers aside, s.",
    "wait_timeout_s": "Longest wait for keys or peers, s.",
    "rejoin_grace_s": "How long a round waits for a client that is gone, s.",
    "max_aborts_in_a_row": "So many rounds without a sum, one after the other, end the run.",
    "arrays": "Clip of every array; from the task and clip-of.",
    "sources": "Files that the data come from; from the task.",
    "task_fingerprint": "Of model, vocabulary and data format; from the task.",
}
"""Settings that no option of `qunetlab train` is."""


def server_rows() -> dict[str, Row]:
    """Every setting by its field, as an option of the file."""
    options = {row.field: row for row in rows_of(TrainOptions)}
    found = {
        field: Row(field, about.name, kind, about.text, about.group, about.metavar, None)
        if (about := options.get(OTHERWISE.get(field, field)))
        else Row(field, field.replace("_", "-"), kind, OWN[field], SERVER, "", None)
        for field, kind in kinds_of(FLConfig).items()
    }
    found["clips"] = options["clips"]
    found["data"] = Row("data", "data", StrType(), "Where the data lie.", MACHINE, "PATH", None)
    return found


def settings_in(path: Path) -> dict[str, Any]:
    """The settings in a file; raises OptionsError for what is none, and OSError."""
    return options_in(path, server_rows().values(), "qunetlab fl server")


def as_toml(settings: Mapping[str, Any]) -> str:
    """A file of settings of a run, by their fields, for another process."""
    import tomli_w

    rows = server_rows()
    return tomli_w.dumps({rows[field].name: value for field, value in msgspec.to_builtins(settings).items()})


def called(setting: str) -> str:
    """What a setting is called in the file."""
    row = server_rows().get(setting)
    return row.name if row else setting
