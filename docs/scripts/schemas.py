"""Writes docs/commands.schema.json, docs/events.schema.json and docs/json.md: what commands print with ``--json``.

    python docs/scripts/schemas.py

All of it is made from types: those in ``lab/cli/answers.py``, and the events of roles.  A test says when a file is no longer what
this writes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from lab.cli.answers import ANSWERS, ELSEWHERE, answers_of
from orchestrator.events.process import ProcessEvent

DOCS = Path(__file__).resolve().parents[1]
DRAFT = "https://json-schema.org/draft/2020-12/schema"
HEAD = """\
# JSON of commands

With `--json` a command prints its answer for programs: one line of JSON on standard output; what follows something live prints a
line for each change. Errors stay words on standard error, and exit codes mean what they mean without it
([running a ring](running.md#ending-and-exit-codes)). Other versions may add keys; a key that goes, or means something else, grows
the `schema` of a document that has one. Secrets are in none of them.

| command | what its line is held against |
|---|---|
"""
TAIL = """
In `commands.schema.json` the answers of a command stand under `commands`, by its name with `/` in the place of a space. Tests hold
every answer that they get against it. This page and the schemas of commands and events are written by `docs/scripts/schemas.py`
from the types in `lab/cli/answers.py`; do not edit them.
"""


def commands_schema() -> str:
    """Every command's answers."""
    every = {name: answers_of(name) for name in ANSWERS}
    flat = [each for answers in every.values() for each in answers]
    kinds, parts = msgspec.json.schema_components(flat, ref_template="#/$defs/{name}")
    left = iter(kinds)
    commands = {
        name.replace(" ", "/"): {"anyOf": [next(left) for _ in answers]} for name, answers in every.items()
    }
    return _text({"$schema": DRAFT, "title": "qunetlab COMMAND --json", "commands": commands, "$defs": parts})


def events_schema() -> str:
    """The lines of roles."""
    (kinds,), parts = msgspec.json.schema_components((ProcessEvent,), ref_template="#/$defs/{name}")
    return _text({"$schema": DRAFT, "title": "Events of roles", **kinds, "$defs": parts})


def _text(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, indent=1) + "\n"


def page() -> str:
    """The list of commands."""
    where = dict.fromkeys(ANSWERS, "commands.schema.json")
    where |= {name: file for file, names in ELSEWHERE.items() for name in names}
    rows = [
        f"| `{name.removesuffix(' list').removesuffix(' show')}` | [{file}]({file}) |"
        for name, file in sorted(where.items())
    ]
    return HEAD + "\n".join(rows) + "\n" + TAIL


FILES = {"commands.schema.json": commands_schema, "events.schema.json": events_schema, "json.md": page}

if __name__ == "__main__":
    for name, made in FILES.items():
        path = DOCS / name
        same = path.exists() and path.read_text(encoding="utf-8") == made()
        path.write_text(made(), encoding="utf-8")
        sys.stdout.write(f"{path} {'is as it was' if same else 'is written'}\n")
