"""The table of modes: all else follows from a row, and a row without its module is an error."""

from __future__ import annotations

import ast
import dataclasses
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fl.experiments.options import TrainOptions
from fl.modes.base import ModeError, aggregation_class
from fl.modes.table import DEFAULT_MODE, MODES, Mode
from fl.rounds.aggregation import aggregation_for
from fl.rounds.config import ConfigError, FLConfig, check_config

ROOT = Path(__file__).resolve().parents[3]
USERS = ("alice", "bob", "charlie")

FIFTH = """
from fl.modes.otp import PairwisePads


class Fifth(PairwisePads):
    pass
"""
ROW = """        Mode("fifth", "fifth:Fifth", "computational", "expanded", ("what mode fifth of {run_id} tells",)),
"""
USE = """
import msgspec, numpy as np, sys, types
from pathlib import Path

table = types.ModuleType("fl.modes.table")
sys.modules["fl.modes.table"] = table
exec(compile(Path(sys.argv[1]).read_text(), "table", "exec"), table.__dict__)

from fl.experiments.notes import notes_for
from fl.experiments.options import TrainOptions
from fl.rounds.aggregation import aggregation_for
from fl.rounds.client_rules import ClientRules
from fl.rounds.config import FLConfig, check_config
from fl.rounds.consent_words import explained
from lab.cli.train_options import asked_options, of_run
from orchestrator.delivery.consent import check_description

users = ("alice", "bob", "charlie")
config = FLConfig(run_id="r", task="digits", clients=users, mode="fifth", levels=31)
check_config(config)
ClientRules("fifth").check_run("bob", config)
mode = aggregation_for(config, 40, bytes(32))
check_description(mode.description)
words = explained(mode.description, "bob")
options = of_run(asked_options({"task": "digits", "mode": "fifth", "if_short": "wait"}))
assert msgspec.json.decode(msgspec.json.encode(options), type=TrainOptions) == options
print(type(mode).__name__, mode.key_bits_per_pair, mode.description.smallest_set)
print(any("what mode fifth of r tells" in text for text in words), any("256 bits" in text for text in words))
print(notes_for(config)[0].partition(";")[0])
"""


def test_a_mode_is_a_module_and_a_row(tmp_path: Path) -> None:
    (tmp_path / "fifth.py").write_text(FIFTH)
    table, start = (ROOT / "fl/modes/table.py").read_text(), "    for mode in (\n"
    assert table.count(start) == 1
    (tmp_path / "table.txt").write_text(table.replace(start, start + ROW))
    code = f"import sys; sys.path[:0] = {[str(ROOT), str(tmp_path)]!r}\n{USE}"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "table.txt")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["Fifth 256 3", "True True", "mode fifth: computational"]


@pytest.mark.parametrize("name", MODES)
def test_every_row_has_its_aggregation(name: str) -> None:
    config = FLConfig(run_id="r", task="digits", clients=USERS, mode=name)
    found = aggregation_for(config, 40)
    assert found.mode is MODES[name]
    assert MODES[name].name == name
    assert (found.key_bits_per_pair > 0) is (MODES[name].cipher is not None)
    assert (found.rules(USERS).survivors is not None) is MODES[name].thresholds


@pytest.mark.parametrize(
    ("aggregation", "wrong"),
    [
        ("fl.modes.nothing:Here", "No module named"),
        ("fl.modes.otp:Nothing", "has no attribute"),
        ("fl.modes.otp:sum_of", "is no Aggregation"),
        ("", "Empty module name"),
    ],
)
def test_a_row_without_its_aggregation_is_an_error(aggregation: str, wrong: str) -> None:
    row = dataclasses.replace(MODES["otp"], name="half", aggregation=aggregation)
    with pytest.raises(ModeError, match=f"mode half.*{wrong}.*mend its row in fl/modes/table.py"):
        aggregation_class(row)


def test_an_unknown_mode_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(
        ConfigError, match=f"mode is 'otp2': it must be one of .*{', '.join(sorted(MODES)[:1])}"
    ):
        check_config(FLConfig(run_id="r", task="digits", clients=USERS, mode="otp2"))
    with pytest.raises(msgspec.ValidationError, match="otp2"):
        msgspec.json.decode(b'{"task": "digits", "mode": "otp2"}', type=TrainOptions)


def test_no_other_module_tells_modes_apart_by_name() -> None:
    """The names in code are those of the rows, and of what delivery ciphers for."""
    at_home = {"fl/modes/table.py", "fl/modes/otp.py", "fl/modes/lightsecagg.py"}
    named = {
        f"{path.relative_to(ROOT)}: {node.value}"
        for room in ("fl", "lab")
        for path in sorted((ROOT / room).rglob("*.py"))
        if str(path.relative_to(ROOT)) not in at_home
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value in MODES
    }
    assert named == set()
    assert isinstance(MODES[DEFAULT_MODE], Mode)
