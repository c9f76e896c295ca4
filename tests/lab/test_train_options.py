"""One table of options: what stands in a file is what stands on the command line, and the command line wins."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from fl.experiments.options import OptionsError, TrainOptions
from fl.experiments.server_options import as_toml, server_rows, settings_in
from fl.rounds.config import FLConfig
from lab.cli.main import app
from lab.cli.train_options import ROWS, Asked

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(
        'task = "digits"\nrounds = 20\nquick = true\nmax-wait = 60\ntestbed = "simulated-four-node"\n'
        'clip-of = { "layer1.*" = 0.5 }\n'
    )
    return path


def printed(qunetlab: Any, *arguments: str) -> dict[str, Any]:
    said = qunetlab("train", *arguments, "--print-config", "--json")
    assert said.returncode == 0, said.stderr
    return dict(json.loads(said.stdout))


def test_the_command_line_wins_over_the_file(qunetlab: Any, file: Path) -> None:
    alone = printed(qunetlab, "--config", str(file))
    assert alone["task"] == "digits:mlp@iid"
    assert (alone["rounds"], alone["quick"], alone["max-wait"]) == (20, True, 60.0)
    assert alone["clip-of"] == {"layer1.*": 0.5}
    more = ("mnist", "--rounds", "3", "--no-quick", "--clip-of", "head=0", "--model", "cnn")
    both = printed(qunetlab, "--config", str(file), *more)
    assert (both["task"].split("@")[0], both["rounds"], both["quick"]) == ("mnist:cnn", 3, False)
    assert both["clip-of"] == {"head": 0.0}
    assert both["testbed"] == "simulated-four-node"


def test_what_is_printed_is_a_file_that_asks_for_the_same(qunetlab: Any, file: Path, tmp_path: Path) -> None:
    said = qunetlab("train", "--config", str(file), "--seed", "7", "--print-config")
    again = tmp_path / "again.toml"
    again.write_text(said.stdout)
    assert printed(qunetlab, "--config", str(again)) == printed(
        qunetlab, "--config", str(file), "--seed", "7"
    )
    assert all(f"{row.name}" in said.stdout for row in ROWS.values())


def test_a_run_from_a_file_is_the_run_from_the_command_line(qunetlab: Any, tmp_path: Path) -> None:
    asked = {"rounds": 1, "seeds": 1, "clients": 3, "workers": 0, "baselines": False}
    path, out = tmp_path / "run.toml", tmp_path / "run"
    lines = [f"{name} = {json.dumps(value)}" for name, value in asked.items()]
    path.write_text("\n".join(['task = "digits"', f'out = "{out}"', *lines]))
    done = qunetlab("train", "--config", str(path), "--json")
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    assert (results["clients"], len(results["rounds"]), results["baselines"]) == (3, 1, {})
    plan = json.loads((out / "plan.json").read_text())
    assert set(plan["options"]) <= set(TrainOptions.__struct_fields__)
    resumed = qunetlab("train", "--resume", str(out), "--json")  # whose task is known
    assert resumed.returncode == 0, resumed.stderr


def test_every_mistake_of_a_file_is_told_at_once(qunetlab: Any, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        'task = "digits"\nround = 3\nmax_wait = 2\nclients = 0\nseed = "x"\nmode = "otpp"\n'
        'quick = 1\nclip-of = { "a" = -1 }\n'
    )
    said = qunetlab("train", "--config", str(path))
    assert said.returncode == 2
    for told in (
        f"error: {path}: ",
        "there is no option 'round'; is rounds meant?",
        "there is no option 'max_wait'; is max-wait meant?",
        "clients is 0: it must be at least 1",
        "seed is 'x': it must be a whole number",
        "mode is 'otpp': it must be one of",
        "quick is 1: it must be true or false",
        "clip-of has a = -1: a clip is a number of at least 0",
    ):
        assert told in said.stderr


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"task = ", "is no TOML"), (b"\xff\xfe", "is no TOML"), (None, "No such file or directory")],
)
def test_a_file_that_is_none_is_told_in_one_line(
    qunetlab: Any, content: bytes | None, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    said = qunetlab("train", "--config", str(path))
    assert said.returncode == 2
    assert told in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1


def test_nothing_to_train_says_where_to_name_it(qunetlab: Any) -> None:
    said = qunetlab("train")
    assert said.returncode == 2
    assert "qunetlab train TASK, or task = ... in the file of --config" in said.stderr


def test_parsing_follows_from_the_table() -> None:
    command = typer.main.get_command(app)
    options = {option: each for each in command.commands["train"].params for option in each.opts}  # type: ignore[attr-defined]
    for field in msgspec.structs.fields(Asked):
        row = ROWS[field.name]
        option = options["task" if row.field == "task" else f"--{row.name}"]
        assert option.name == row.field
        assert option.help.startswith(row.text)
        assert option.default is None  # else a file could not be told from a default


def test_the_page_is_what_the_table_says() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "scripts" / "training_options.py"))
    page = (ROOT / "docs" / "training-options.md").read_text(encoding="utf-8")
    assert page == script["page"](), "python docs/scripts/training_options.py writes it anew"


def test_other_commands_that_have_the_same_option_take_it_from_the_table() -> None:
    command = typer.main.get_command(app)
    for name, fields in (("demo", ["rounds"]), ("keycost", ["rounds", "mode", "levels"])):
        found = {each.name: each for each in command.commands[name].params}  # type: ignore[attr-defined]
        assert [found[field].help for field in fields] == [ROWS[field].text for field in fields]


def test_a_learning_servers_file_has_the_options_of_train_by_the_same_names_and_is_written_as_it_is_read(
    tmp_path: Path,
) -> None:
    config = FLConfig(
        "spring-1", "digits", ("alice", "bob", "carol"), rounds=4, clip_decay=0.5, weights=(1, 2, 1)
    )
    file = tmp_path / "server.toml"
    file.write_text(as_toml(msgspec.structs.asdict(config) | {"data": "here"}))
    found = settings_in(file)
    assert found.pop("data") == "here"
    assert FLConfig(**found) == config
    rows = server_rows()
    named = {row.field: row.name for row in ROWS.values()}
    shared = set(rows) & set(named) - {"clients"}
    assert {"mode", "rounds", "ring_width", "clips", "keep", "data", "task"} <= shared
    assert all(rows[field].name == named[field] for field in shared)
    file.write_text("clip-of = { head = 1.5 }\nmin_clients = 3\nclients = [1]")
    with pytest.raises(OptionsError, match=r"(?s)is min-clients meant\?.*clients is 1: it must be a text"):
        settings_in(file)
