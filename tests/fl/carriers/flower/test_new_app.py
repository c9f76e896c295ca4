"""``qunetlab new``: the made app trains as it is, and nothing that is there already is touched."""

from __future__ import annotations

import importlib
import logging
import re
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' in this folder")
pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[learning]' in this folder")

from typer.testing import CliRunner

from lab.cli.main import app as cli
from lab.runs.new_app import NewAppError, make_app, template
from tests.fl.carriers.flower.conftest import call_apps


def test_the_made_app_trains_under_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own client and server apps, called as Flower calls them, with the configuration of its own pyproject."""
    package = make_app(tmp_path / "made-by-test")
    monkeypatch.syspath_prepend(str(tmp_path / "made-by-test"))
    project = tomllib.loads((tmp_path / "made-by-test" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    apps = {}
    for side, place in project["components"].items():
        module, name = place.split(":")
        apps[side] = getattr(importlib.import_module(module), name)
    config = {**project["config"], "rounds": 2, "state-folder": str(tmp_path / "state")}
    with caplog.at_level(logging.INFO):
        call_apps(apps["clientapp"], apps["serverapp"], config)
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    accuracies = [float(each) for each in re.findall(r"'accuracy': '?([0-9.e+-]+)", caplog.text)]
    assert accuracies[-1] > 0.8
    assert caplog.text.count("kbit of key (simulated) used, 6 pairs") == 2
    assert "masks are added and cancel, but they protect nothing" in caplog.text


def test_only_two_names_stand_for_secure_aggregation() -> None:
    """Whoever has an app changes these, and nothing else of it."""
    taken = {
        line.strip()
        for path in (template() / "app").glob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.startswith(("from fl.", "import fl", "from qunetlab", "import qunetlab"))
    }
    assert taken == {
        "from fl.carriers.flower.mod import qkd_secagg_mod",
        "from fl.carriers.flower.strategy import QkdFedAvg",
    }


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("My App", "small letters"),
        ("a-name-of-more-than-20", "20 characters"),
        ("1st", "small letters"),
        ("torch", "an installed one"),
        ("json", "Python's own"),
        ("class", "Python's own"),
        ("fl", "an installed one"),
    ],
)
def test_a_name_that_cannot_be_an_app_is_refused(tmp_path: Path, name: str, told: str) -> None:
    with pytest.raises(NewAppError, match=told):
        make_app(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_touched(tmp_path: Path) -> None:
    folder = tmp_path / "my-app"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    told = CliRunner().invoke(cli, ["new", str(folder)])
    assert isinstance(told.exception, NewAppError)
    assert [path.name for path in tmp_path.rglob("*")] == [folder.name, "mine.txt"]


def test_keys_of_nodes_are_said_in_the_configuration_and_others_refused(tmp_path: Path) -> None:
    make_app(tmp_path / "ringed", "nodes")
    project = tomllib.loads((tmp_path / "ringed" / "pyproject.toml").read_text())
    assert project["tool"]["flwr"]["app"]["config"]["key-supply"] == "node"
    with pytest.raises(NewAppError, match="simulated-ring or nodes, not 'magic'"):
        make_app(tmp_path / "other", "magic")
