"""Writes docs/training-options.md: every option of ``qunetlab train``, from the table that the command line has.

    python docs/scripts/training_options.py

What a value may be is declared with the options and, where the whole run is asked, with the settings of the run.  A test says
when the page is no longer what this writes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec.inspect import (
    BoolType,
    DictType,
    FloatType,
    IntType,
    LiteralType,
    StructType,
    Type,
    VarTupleType,
)

from fl.experiments.options import Row
from fl.experiments.server_options import SERVER, server_rows
from fl.rounds.config import FLConfig
from fl.rounds.settings import RULES, kinds_of
from lab.cli.train_options import GROUPS, ROWS, default_of

PAGE = Path(__file__).resolve().parents[1] / "training-options.md"
HEAD = """\
# Options of a training run

Each option stands on the command line as `--NAME`, or in a TOML file as `NAME = value`; both have the same names.
`qunetlab train --config FILE` reads such a file, what stands on the command line wins over it, and `--no-NAME` takes back a
`NAME = true`. `--print-config` prints the options that would be used, as such a file, and trains nothing. Paths are seen from the
current folder. A key that is no option, or a value that cannot be, is refused with its name before anything starts.

```toml
task = "mnist:cnn@two-shard"
rounds = 20
mode = "lightsecagg"
clip-of = { "head.*" = 0.5 }
```

What is left out is chosen by the task's experiment. A learning server on its own (`qunetlab fl server --config FILE`) takes a file of
the same form: of these options those about what is trained, protected and sent, and its own in the last table. This page is written by `docs/scripts/training_options.py` from the table that
the command line has (`fl/experiments/options.py`); do not edit it.
"""


def page() -> str:
    """The whole page."""
    lines = [HEAD]
    for group in GROUPS:
        lines += [f"## {group}\n", "| option | value | default | what it is |", "|---|---|---|---|"]
        lines += [row_of(row) for row in ROWS.values() if row.group == group]
        lines.append("")
    lines += [f"## {SERVER}\n", "| setting | value | what it is |", "|---|---|---|"]
    own = [row for row in server_rows().values() if row.group == SERVER]
    lines += [f"| `{row.name}` | {'; '.join(value_of(row))} | {row.text} |" for row in own]
    return "\n".join(lines).rstrip() + "\n"


def row_of(row: Row) -> str:
    """One option."""
    shown = "true" if row.default is True else default_of(row)
    default = f"`{shown}`" if shown else ""
    return f"| `{row.name}` | {'; '.join(value_of(row))} | {default} | {row.text} |"


def value_of(row: Row) -> Iterator[str]:
    """Type and limits."""
    yield kind_of(row.kind)
    limits = row.kind
    if isinstance(limits, IntType | FloatType) and all(getattr(limits, key) is None for key, _, _ in RULES):
        limits = kinds_of(FLConfig).get(row.field, limits)
    for key, words, _ in RULES:
        if (limit := getattr(limits, key, None)) is not None:
            yield f"{words} {int(limit) if limit == int(limit) else limit:,}"


def kind_of(kind: Type) -> str:
    """A type in words."""
    if isinstance(kind, LiteralType):
        return " or ".join(f"`{each}`" for each in kind.values)
    if isinstance(kind, VarTupleType):
        items = {IntType: "whole numbers", StructType: "tables"}
        return f"list of {items.get(type(kind.item_type), 'texts')}"
    words = {IntType: "whole number", FloatType: "number", BoolType: "true or false"}
    return "table of arrays and numbers" if isinstance(kind, DictType) else words.get(type(kind), "text")


if __name__ == "__main__":
    sys.stdout.write(
        f"{PAGE} {'is as it was' if PAGE.exists() and PAGE.read_text() == page() else 'is written'}\n"
    )
    PAGE.write_text(page(), encoding="utf-8")
