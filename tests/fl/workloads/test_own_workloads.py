"""Workloads that are not ours: named by module and class, or registered by a package; checked where they enter."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from fl.carriers.in_process.results import CohortError
from fl.carriers.in_process.run import run_cohort
from fl.rounds.config import FLConfig
from fl.workloads import UnknownTaskError, load_task, open_task, parse_task, record_of
from fl.workloads.base import TaskError
from fl.workloads.data import DataSource
from fl.workloads.own import OwnTask
from fl.workloads.provenance import learnt_from
from lab.cli.main import app

MODULE = '''
"""Two clouds of points, told apart by a line."""

import numpy as np

from fl.workloads.data import DataSource
from fl.workloads.base import Evaluation, Examples, TaskDefaults, fingerprint_of, iid_shard


class Clouds:
    name = "clouds"
    n_parameters = 3
    fingerprint = fingerprint_of("clouds", 3)
    defaults = TaskDefaults(clip=1.0, levels=127, rounds=4)

    def __init__(self):
        rng = np.random.default_rng(1)
        labels = np.arange(80) % 2
        self.x = (rng.normal(size=(80, 2)) + 3 * labels[:, None]).astype(np.float32)
        self.y = labels.astype(np.int64)

    def initial_parameters(self, seed):
        return np.zeros(3, np.float32)

    def client_data(self, client_index, n_clients, seed):
        return Examples(self.x, self.y).take(iid_shard(80, client_index, n_clients, seed))

    def local_train(self, parameters, data, seed):
        w = parameters.astype(np.float64)
        for _ in range(30):
            miss = 1 / (1 + np.exp(-(data.inputs @ w[:2] + w[2]))) - data.labels
            w = w - 0.1 * np.append(data.inputs.T @ miss, miss.sum()) / len(data)
        return (w - parameters).astype(np.float32)

    def evaluate(self, parameters):
        right = ((self.x @ parameters[:2] + parameters[2] > 0) == self.y).mean()
        return Evaluation(float(right), 0.5)


class Titled(Clouds):
    title = "Two <clouds> of points"
    sources = (DataSource("clouds.csv", "ab" * 32, "drawn by a generator", "CC0-1.0"),)


class InFolder(Clouds):
    def __init__(self, data_folder=None):
        super().__init__()
        self.folder = data_folder


class WrongShape(Clouds):
    def local_train(self, parameters, data, seed):
        return np.zeros(4)


class Words(Clouds):
    def initial_parameters(self, seed):
        return ["a", "b", "c"]


class Breaks(Clouds):
    def local_train(self, parameters, data, seed):
        return {}["missing"]


class Quits(Clouds):
    def local_train(self, parameters, data, seed):
        raise SystemExit(0)


class Nothing:
    name = 7
    n_parameters = 0
    fingerprint = "not hex"
    sources = "clouds.csv"

    def local_train(self, parameters):
        return parameters


class NeedsMore:
    def __init__(self, points):
        self.points = points


instance = Clouds()
'''


@pytest.fixture
def clouds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with workloads that Python finds."""
    name = f"own_clouds_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize("name", ["mytask:Wine", "a.b_c:Wine", "mytask:Wine@own"])
def test_names_are_understood_without_opening_anything(name: str) -> None:
    spec = parse_task(name)
    assert spec.split == "own"
    assert parse_task(str(spec)) == spec
    assert str(spec) == f"{name.removesuffix('@own')}@own"
    assert parse_task("digits:mlp").split == "iid"


@pytest.mark.parametrize(
    "name", ["wine", "my task:Wine", "mytask:Wine@iid", "digits:Wine", "mytask:", ".a:B", ""]
)
def test_what_is_neither_ours_nor_a_module_is_refused(name: str) -> None:
    with pytest.raises(UnknownTaskError):
        parse_task(name)


@pytest.mark.parametrize("kind", ["Clouds", "instance"])
def test_it_trains_like_any_other(clouds: str, kind: str) -> None:
    task = open_task(f"{clouds}:{kind}")
    users = ("a", "b", "c", "d")
    for mode in ("otp", "lightsecagg"):
        config = FLConfig.for_task(task, users, run_id="own", name=f"{clouds}:{kind}", mode=mode)
        assert config.rounds == 4
        result = run_cohort(config, workers=0)
        assert all(row.exact for row in result.rounds)
        assert result.rounds[-1].accuracy > 0.95


def test_title_and_provenance_come_from_itself(clouds: str) -> None:
    plain, titled = (open_task(f"{clouds}:{kind}") for kind in ("Clouds", "Titled"))
    assert isinstance(plain, OwnTask)
    assert isinstance(titled, OwnTask)
    assert [record_of(name, trusted=name)[0].title for name in (f"{clouds}:Clouds", f"{clouds}:Titled")] == [
        "clouds",
        "Two <clouds> of points",
    ]
    assert titled.sources == (DataSource("clouds.csv", "ab" * 32, "drawn by a generator", "CC0-1.0"),)
    assert plain.sources == ()
    (digest,) = learnt_from(plain)
    assert digest.name == f"training examples of {clouds}:Clouds, as it hands them out"
    assert len(digest.sha256) == 64
    other = open_task(f"{clouds}:Clouds")
    other._task.x[0] += 1  # type: ignore[attr-defined]
    assert learnt_from(other)[0].sha256 != digest.sha256


def test_the_data_folder_reaches_whoever_asks_for_it(clouds: str, tmp_path: Path) -> None:
    task = open_task(f"{clouds}:InFolder", tmp_path)
    assert task._task.folder == tmp_path  # type: ignore[attr-defined]


def test_a_package_registers_a_workload_under_a_name_of_its_own(clouds: str, tmp_path: Path) -> None:
    info = tmp_path / "clouds-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: clouds\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[qunetlab.workloads]\ntwo-clouds = {clouds}:Titled\n")
    assert str(parse_task("two-clouds")) == "two-clouds:own@own"
    assert load_task("two-clouds").name == "clouds"  # it is installed: a server may name it, too
    with pytest.raises(UnknownTaskError, match="sentiment-imdb, two-clouds, and MODULE:NAME"):
        parse_task("one-cloud")
    (info / "entry_points.txt").write_text(f"[qunetlab.workloads]\ntwo-clouds = {clouds}:Gone\n")
    with pytest.raises(UnknownTaskError, match=r"workload two-clouds .*cannot be opened: AttributeError"):
        load_task("two-clouds")


@pytest.mark.parametrize("trusted", [None, "digits", "other:Clouds"])
def test_a_module_that_the_operator_did_not_name_is_not_even_imported(
    clouds: str, trusted: str | None
) -> None:
    with pytest.raises(UnknownTaskError, match="not its operator who named it: name it with --task"):
        load_task(f"{clouds}:Clouds", trusted=trusted)
    assert clouds not in sys.modules
    assert load_task(f"{clouds}:Clouds", trusted=f"{clouds}:Clouds@own").name == "clouds"


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("Missing", r"has no Missing; it has Clouds, Titled, InFolder, .*instance"),
        ("NeedsMore", r"cannot be opened: TypeError: .*'points'"),
        ("np", r"is no task: it has no name; it has no n_parameters; "),
        (
            "Nothing",
            r"its name is 7, it must be a text; its n_parameters is 0, it must be a whole number from 1 on; "
            r"its fingerprint is 'not hex', .*it has no defaults; it has no method initial_parameters\(seed\); "
            r"it has no method client_data\(client_index, n_clients, seed\); "
            r"its local_train does not take \(parameters, data, seed\); it has no method evaluate\(parameters\); "
            r"its sources are 'clouds\.csv', they must be a sequence of DataSource\. A task has name, ",
        ),
    ],
)
def test_what_is_missing_is_told_all_at_once(clouds: str, kind: str, told: str) -> None:
    with pytest.raises(UnknownTaskError, match=told):
        open_task(f"{clouds}:{kind}")


def test_a_module_that_is_not_there_or_breaks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_broken_one.py").write_text("import nothing_of_this_name\n")
    (tmp_path / "own_broken_two.py").write_text("\n\n1 / 0\n")
    with pytest.raises(UnknownTaskError, match=r"there is no module mnsit: is its folder in PYTHONPATH\?"):
        open_task("mnsit:mlp")
    with pytest.raises(UnknownTaskError, match="ModuleNotFoundError: No module named 'nothing_of_this_name'"):
        open_task("own_broken_one:Task")
    with pytest.raises(UnknownTaskError, match=r"ZeroDivisionError.*own_broken_two\.py, line 3"):
        open_task("own_broken_two:Task")
    (tmp_path / "own_broken_three.py").write_text("raise SystemExit(0)\n")
    with pytest.raises(
        UnknownTaskError, match=r"cannot be opened: SystemExit: 0 \(.*own_broken_three\.py, line 1\)"
    ):
        open_task("own_broken_three:Task")
    (tmp_path / "own_broken_four.py").write_text("def make():\n    raise SystemExit\n")
    with pytest.raises(UnknownTaskError, match=r"cannot be opened: SystemExit.*own_broken_four\.py, line 2"):
        open_task("own_broken_four:make")


@pytest.mark.parametrize(
    ("kind", "call", "told"),
    [
        ("WrongShape", "local_train", r"gives float64 of shape \(4,\), it must give float32 of shape \(3,\)"),
        ("Words", "initial_parameters", r"gives <U1 of shape \(3,\)"),
        ("Quits", "local_train", r"failed: SystemExit: 0 \(.*\.py, line \d+\)"),
        ("Breaks", "local_train", r"failed: KeyError: 'missing' \(.*\.py, line \d+\)"),
    ],
)
def test_what_it_hands_over_is_checked(clouds: str, kind: str, call: str, told: str) -> None:
    task = open_task(f"{clouds}:{kind}")
    calls: dict[str, Callable[[], Any]] = {
        "local_train": lambda: task.local_train(
            np.zeros(3, np.float32), task.client_data(0, 4, 1), (1, 1, 0)
        ),
        "initial_parameters": lambda: task.initial_parameters(1),
    }
    with pytest.raises(TaskError, match=rf"{clouds}:{kind}\.{call} {told}"):
        calls[call]()


def test_train_as_typed(clouds: str, tmp_path: Path) -> None:
    small = ("--clients", "3", "--rounds", "2", "--seeds", "1", "--no-baselines")
    out = tmp_path / "run"
    done = CliRunner().invoke(
        app, ["train", f"{clouds}:Titled", *small, "--workers", "0", "--out", str(out), "--json"]
    )
    assert done.exit_code == 0, (done.output, done.exception)
    results = json.loads((out / "results.json").read_text())
    assert (results["task"], results["model"], results["title"]) == (
        clouds,
        "Titled",
        "Two <clouds> of points",
    )
    assert results["data"] == [
        {
            "name": "clouds.csv",
            "sha256": "ab" * 32,
            "source": "drawn by a generator",
            "licence": "CC0-1.0",
        }
    ]
    assert all(row["exact"] for row in results["rounds"])
    shown = (out / "report.html").read_text()
    for text in ("Two &lt;clouds&gt; of points", "clouds.csv", "drawn by a generator", "CC0-1.0"):
        assert text in shown


def test_processes_of_a_crew_import_it_and_tell_its_failures(clouds: str) -> None:
    whole = FLConfig.for_task(
        open_task(f"{clouds}:Clouds"), ("a", "b", "c"), run_id="own", name=f"{clouds}:Clouds", rounds=1
    )
    assert run_cohort(whole, workers=1).rounds[0].exact
    task = open_task(f"{clouds}:Breaks")
    config = FLConfig.for_task(task, ("a", "b", "c"), run_id="own", name=f"{clouds}:Breaks", rounds=1)
    with pytest.raises(CohortError, match=r"Breaks\.local_train failed: KeyError: 'missing'"):
        run_cohort(config, workers=1)
