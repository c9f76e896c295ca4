"""Answers of commands held against ``docs/commands.schema.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jsonschema

from lab.cli.answers import ANSWERS

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "commands.schema.json"
DEFAULTS = ("list", "show")
"""Commands that a group means by itself."""


def command_of(arguments: Sequence[str]) -> str:
    """The whole name of the command; empty for one whose answers have a schema of their own."""
    first, second = (*arguments, "", "")[:2]
    names = (f"{first} {second}", first, *(f"{first} {each}" for each in DEFAULTS))
    return next((name for name in names if name in ANSWERS), "")


@cache
def validator_of(command: str) -> jsonschema.Draft202012Validator:
    """For the answers of one command."""
    published = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator({**published, "$ref": f"#/commands/{command.replace(' ', '~1')}"})


def hold_against_schema(arguments: Sequence[str], stdout: str) -> None:
    """Raises jsonschema.ValidationError, or ValueError for a line that is no JSON."""
    if command := command_of(arguments):
        for line in stdout.splitlines():
            validator_of(command).validate(json.loads(line))
