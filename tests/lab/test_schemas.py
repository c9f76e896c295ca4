"""Every ``--json`` has a published schema, and the schemas are what the types say."""

from __future__ import annotations

import inspect
import runpy
from pathlib import Path

import jsonschema
import pytest
from published_schema import command_of, hold_against_schema, validator_of

from lab.cli.answers import ANSWERS, ELSEWHERE
from lab.cli.examples import commands_of
from lab.cli.main import app
from orchestrator.events.process import MadeSafe, line_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
SCRIPT = runpy.run_path(str(DOCS / "scripts" / "schemas.py"))


def test_every_command_with_json_has_a_published_schema() -> None:
    speaking = {
        path
        for path, command in commands_of(app)
        if command.callback and "as_json" in inspect.signature(command.callback).parameters
    }
    named = {*ANSWERS, *(name for names in ELSEWHERE.values() for name in names)}
    assert speaking == {name.partition(" --")[0] for name in named}
    assert all((DOCS / name).is_file() for name in ELSEWHERE)


@pytest.mark.parametrize("name", SCRIPT["FILES"])
def test_what_is_published_is_what_the_types_say(name: str) -> None:
    published = (DOCS / name).read_text(encoding="utf-8")
    assert published == SCRIPT["FILES"][name](), "python docs/scripts/schemas.py writes it anew"


def test_a_wrong_answer_is_refused() -> None:
    assert command_of(("keys", "bench")) == "keys show"
    assert command_of(("status", "bench")) == ""
    hold_against_schema(("init", "x"), '{"testbed": "t", "secrets": "s", "uncalibrated": false}')
    with pytest.raises(jsonschema.ValidationError):
        hold_against_schema(("init", "x"), '{"testbed": "t", "secrets": "s"}')
    with pytest.raises(ValueError, match="Expecting"):
        hold_against_schema(("init", "x"), "Created x")
    for name in ANSWERS:
        validator_of(name).is_valid(None)  # raises where the published file has none of this name
    validator_of(name).check_schema(validator_of(name).schema)  # the same file for all, but for the name
    with pytest.raises(Exception, match="no-such-command"):
        validator_of("no-such-command").is_valid(None)


def test_a_line_of_a_role_is_as_published() -> None:
    import json

    schema = json.loads((DOCS / "events.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(json.loads(line_of(MadeSafe(("laser",)))), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"type": "MadeSafe"}, schema)
