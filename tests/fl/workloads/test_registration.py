"""Workloads are registered once and whole: by a folder of ours, or by a package through an entry point."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fl.experiments.base import plan_for
from fl.experiments.options import TrainOptions
from fl.workloads import (
    UnknownTaskError,
    WorkloadError,
    full_name,
    names,
    open_task,
    ours,
    parse_task,
    workload,
)
from fl.workloads.data import DataError, DataSet
from fl.workloads.record import Experiment, Workload
from lab.cli.main import app

ROOT = Path(__file__).resolve().parents[3]

MODULE = """
import sys
sys.imported_for_registration = True

import numpy as np

from fl.workloads.base import Evaluation, Examples, TaskDefaults, iid_shard
from fl.workloads.data import DataSet
from fl.workloads.record import Workload


class Means:
    n_parameters = 2
    fingerprint = "c0de"
    defaults = TaskDefaults(clip=1.0, levels=127, rounds=2)

    def __init__(self, spec, folder):
        self.name, self.folder, self.spec = str(spec), folder, spec

    def initial_parameters(self, seed):
        return np.zeros(2, np.float32)

    def client_data(self, client_index, n_clients, seed):
        values = np.loadtxt(self.folder / "means.csv", dtype=np.float32)[:, None]
        return Examples(values, np.zeros(len(values), np.int64)).take(
            iid_shard(len(values), client_index, n_clients, seed)
        )

    def local_train(self, parameters, data, seed):
        return np.full(2, data.inputs.mean(), np.float32) - parameters

    def evaluate(self, parameters):
        return Evaluation(1.0, float(parameters.sum()))


SHA = "0e5ae9a1c7b5b28ce2b4d4bb8b0b43a33dca48ee4e8a1e9b5d0e0a4c0c0fcd77"
MEANS = Workload(
    "means", "Means {of} {model}", Means, (DataSet("means", "a form", "CC0-1.0", {"means.csv": SHA}),),
    models=("one", "two"), splits=("even", "odd"),
)
"""


def register(folder: Path, package: str, value: str, name: str = "means") -> None:
    """What installing a package with that entry point leaves behind."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[qunetlab.workloads]\n{name} = {value}\n")


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A folder on the path of Python, and the name of a module in it that registers nothing yet."""
    name = f"means_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delattr(sys, "imported_for_registration", raising=False)
    return tmp_path, name


def test_every_workload_of_ours_tells_all_that_is_needed() -> None:
    for record in ours().values():
        for model in record.models:
            for split in record.splits:
                spec = record.spec(model, split)
                assert parse_task(f"{record.name}:{model}@{split}") == spec
                assert record.open(spec, None).name in (str(spec), record.name)
        for model in record.circuit_models:
            task = open_task(f"{record.name}:{model}")
            assert {"circuit_inputs", "circuit_weights", "read_out", "test_examples"} <= set(dir(task))
            assert task.circuit.n_wires == len(task.circuit.observables)  # type: ignore[attr-defined]
        assert {*record.circuit_models, record.experiment.model} <= {*record.models, ""}
        for meant in record.datasets.values():
            parse_task(meant)
    assert full_name("mnist") == "mnist:mlp@iid"
    assert full_name("mnist", model="cnn", split="two-shard") == "mnist:cnn@two-shard"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"title": ""}, "it has no title"),
        ({"data": ()}, "it has no data"),
        ({"models": ()}, "it has no models"),
        ({"models": "one"}, "its models is 'one', it must be a tuple of names"),
        (
            {"data": "a.csv", "title": 7},
            "its title is 7, it must be a text; its data is 'a.csv', it must be a tuple of",
        ),
        ({"open": None}, "it has no open"),
        ({"name": "My Means"}, "its name is 'My Means', it must be of the letters"),
        (
            {"data": (DataSet("means", "", "CC0-1.0", {"a": "ab"}),)},
            "has no source; the checksum of a is 'ab'",
        ),
        ({"datasets": 5}, "its datasets is 5, it must be a mapping of names to tasks"),
        ({"experiment": 5}, "its experiment is 5, it must be an Experiment"),
        (
            {"experiment": Experiment(clients="four", quick_seeds=0)},  # type: ignore[arg-type]
            "its experiment has clients 'four', it must be a whole number from 1 on; "
            "its experiment has quick_seeds 0, it must be",
        ),
        (
            {"experiment": Experiment(model="three")},
            "its experiment has model 'three', it must be one of its models",
        ),
        ({"beside": 5}, "its beside is 5, it must be what lays out an experiment"),
        (
            {"circuit_models": ("three",)},
            "its circuit_models is .'three',., it must be a tuple of its models",
        ),
        ({"own_files": 5}, "its own_files is 5, it must be a text"),
    ],
)
def test_half_a_workload_is_refused_when_its_record_is_made(changes: dict[str, object], told: str) -> None:
    whole: dict[str, object] = {
        "name": "means",
        "title": "Means",
        "open": lambda spec, folder: None,
        "data": (DataSet("means", "a form", "CC0-1.0", {"a": "ab" * 32}),),
        "models": ("one",),
    }
    Workload(**whole)  # type: ignore[arg-type]
    with pytest.raises(WorkloadError, match=f"is registered by half: .*{told}"):
        Workload(**{**whole, **changes})  # type: ignore[arg-type]


def test_a_folder_is_all_that_a_workload_of_ours_takes(tmp_path: Path) -> None:
    """A copy of the tree gets one folder more: the help and the lists name it; half of one is an error."""
    for room in ("fl", "lab", "orchestrator", "drivers"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("*.html"))
    place = tmp_path / "fl" / "workloads"
    (place / "two_letters").mkdir()
    for file in (place / "digits").glob("*.py"):
        text = file.read_text()
        text = text.replace("workloads.digits", "workloads.two_letters").replace('"digits"', '"two-letters"')
        (place / "two_letters" / file.name).write_text(text)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        """Python in the copy."""
        return subprocess.run(
            [sys.executable, "-P", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "400"},
            capture_output=True,
            text=True,
            check=False,
        )

    assert "sentiment, two-letters, of an installed" in run("-m", "lab.cli.main", "train", "--help").stdout
    ask = (
        "import sys; from fl.workloads import names, parse_task; print(*names(), parse_task('two-letters'));"
        "assert not {'numpy', 'torch', 'sklearn', 'msgspec'} & set(sys.modules)"
    )
    listed = "digits mnist quantum-states sentiment sentiment-imdb two-letters two-letters:mlp@iid"
    assert run("-c", ask).stdout.strip() == listed
    (place / "two_letters" / "__init__.py").write_text("")
    assert (
        "fl.workloads.two_letters is registered by half: its WORKLOADS hold no record"
        in run("-c", ask).stderr
    )


def test_a_record_of_a_package_has_models_and_splits_of_its_own(packages: tuple[Path, str]) -> None:
    folder, module = packages
    register(folder, "means", f"{module}:MEANS")
    assert names()[-1] == "means"
    with pytest.raises(UnknownTaskError, match=r"there are digits, .*means"):
        parse_task("mean")
    assert not hasattr(sys, "imported_for_registration")  # named, and none of its code has run
    assert str(parse_task("means")) == "means:one@even"
    assert open_task("means:two@odd").name == "means:two@odd"
    with pytest.raises(UnknownTaskError, match="task means has no model 'three'; there are one, two"):
        parse_task("means:three")
    options = TrainOptions(task="means:two@even")
    plan = plan_for(options, open_task(options.task), None)
    assert (plan.title, [cell.name for cell in plan.cells]) == ("Means {of} two", ["federated", "float32"])
    assert open_task(f"{module}:MEANS").name == "means:one@even"  # the same record, named by its module


def test_two_packages_that_register_one_name_are_both_named(packages: tuple[Path, str]) -> None:
    folder, module = packages
    register(folder, "means", f"{module}:MEANS")
    register(folder, "averages", "averages.workload:MEANS")
    assert "means" in names()
    told = (
        r"registered by (averages 1.0 \(averages.workload:MEANS\)|means 1.0 .*) and by (means|averages) 1.0"
    )
    with pytest.raises(WorkloadError, match=told):
        workload("means")
    register(folder, "thief", f"{module}:MEANS", name="digits")
    with pytest.raises(WorkloadError, match=r"digits is registered by qunetlab and by thief 1\.0"):
        parse_task("digits")


@pytest.mark.parametrize(
    ("value", "told", "cause"),
    [
        (
            "nowhere_at_all.workload:MEANS",
            "ModuleNotFoundError: No module named 'nowhere_at_all'",
            ModuleNotFoundError,
        ),
        ("{module}:GONE", "AttributeError: .*GONE", AttributeError),
        ("broken_{module}:MEANS", r"ZeroDivisionError: .*broken_.*\.py, line 1", ZeroDivisionError),
    ],
)
def test_an_entry_point_that_fails_is_told_with_package_and_place(
    packages: tuple[Path, str], value: str, told: str, cause: type[Exception]
) -> None:
    folder, module = packages
    (folder / f"broken_{module}.py").write_text("1 / 0\n")
    value = value.format(module=module)
    register(folder, "means", value)
    with pytest.raises(
        UnknownTaskError, match=rf"workload means \({value} of package means 1\.0\).*{told}"
    ) as caught:
        open_task("means")
    assert isinstance(caught.value.__cause__, cause)


def test_an_entry_point_of_another_name_than_its_record_is_half_a_registration(
    packages: tuple[Path, str],
) -> None:
    folder, module = packages
    register(folder, "means", f"{module}:MEANS", name="medians")
    with pytest.raises(
        WorkloadError, match=r"workload medians .* is registered by half: its record is named means"
    ):
        parse_task("medians")


def test_data_of_another_checksum_end_the_run_before_it_begins(packages: tuple[Path, str]) -> None:
    folder, module = packages
    register(folder, "means", f"{module}:MEANS")
    (folder / "means.csv").write_text("".join(f"{value}\n" for value in range(12)))
    said = CliRunner().invoke(app, ["train", "means", "--data", str(folder), "--out", str(folder / "run")])
    assert isinstance(said.exception, DataError)
    for words in (
        str(folder / "means.csv"),
        "SHA-256 ",
        "expected 0e5ae9a1c7b5",
        "put the registered file there",
        "--data",
    ):
        assert words in str(said.exception)
    assert not (folder / "run").exists()
    task = open_task("means", folder)
    task.initial_parameters(1)
    for call in (lambda: task.client_data(0, 4, 1), lambda: task.evaluate(np.zeros(2, np.float32))):
        with pytest.raises(DataError, match=r"means\.csv: not the published file of means"):
            call()


def test_own_images_train_a_workload_of_ours_and_are_named_in_its_results(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    labels = np.arange(60) % 10
    pictures = (8 * rng.integers(0, 2, (60, 8, 8)) + labels[:, None, None] % 9).astype(np.uint8)
    path = tmp_path / "own.npz"
    np.savez(path, x_train=pictures[:40], y_train=labels[:40], x_test=pictures[40:], y_test=labels[40:])
    small = (
        "--clients",
        "3",
        "--rounds",
        "1",
        "--seeds",
        "1",
        "--no-baselines",
        "--out",
        str(tmp_path / "run"),
    )
    said = CliRunner().invoke(app, ["train", "digits", "--data", str(path), *small])
    assert said.exit_code == 0, (said.output, said.exception)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["title"] == "Handwritten digits, 8x8, on own files"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert results["data"] == [
        {"name": "own file own.npz", "sha256": digest, "source": "own files", "licence": ""}
    ]
    assert results["configuration"]["federated"]["sources"] == [
        {"name": "own file own.npz", "sha256": digest}
    ]
    assert digest in (tmp_path / "run" / "report.html").read_text()
    few = ("--clients", "41", "--no-baselines", "--out", str(tmp_path / "few"))
    said = CliRunner().invoke(app, ["train", "digits", "--data", str(path), *few])
    assert "40 examples cannot be split over 41 clients" in str(said.exception)
    said = CliRunner().invoke(app, ["train", "digits", "--data", str(tmp_path / "gone.npz"), *few])
    assert "gone.npz: there is no such file or folder" in str(said.exception)
    said = CliRunner().invoke(app, ["train", "quantum-states", "--data", str(path), *few])
    assert "own.npz is a file, and quantum-states reads a folder; digits (8x8 images), mnist" in str(
        said.exception
    )
    assert not (tmp_path / "few").exists()


def test_a_learning_server_with_other_files_ends_before_a_round_spends_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "means_at_the_server.py").write_text(MODULE)
    (tmp_path / "means.csv").write_text("1\n2\n")

    def serve(*_: object, **__: object) -> None:
        pytest.fail("the server serves with files whose checksum is wrong")

    monkeypatch.setattr("fl.carriers.zeromq.server.run_server", serve)
    bench, task = str(tmp_path / "bench"), "means_at_the_server:MEANS"
    made = CliRunner().invoke(app, ["init", bench, "--host", "127.0.0.1"])
    assert made.exit_code == 0, made.output
    ended = CliRunner().invoke(app, ["fl", "server", bench, "--task", task, "--data", str(tmp_path)])
    assert isinstance(ended.exception, DataError)
    assert "means.csv: not the published file of means" in str(ended.exception)
