"""``qunetlab qpu`` as typed: what it prints, what it refuses, how a run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from lab.cli.errors import explain
from lab.cli.main import app

WIDTH, COUNT = 6, 90
FAST = ("--sentences", "6", "--shots", "256", "--sets-per-job", "3")


@pytest.fixture(autouse=True)
def little_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """``sentiment:hybrid`` on random embeddings, so that no data is needed."""
    from fl.workloads.sentiment.task import SentimentTask

    rng = np.random.default_rng(0)
    labels = (np.arange(COUNT) % 2).astype(np.int64)
    embeddings = rng.normal(size=(COUNT, WIDTH)) + (2 * labels[:, None] - 1)
    corpus = SimpleNamespace(
        encoder=SimpleNamespace(width=WIDTH),
        reviews=SimpleNamespace(labels=labels, texts=["words"] * COUNT),
        split=(np.arange(50), np.arange(50, COUNT)),
        embeddings=(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float32),
    )
    monkeypatch.setattr("fl.qpu.tasks.load_task", lambda name, folder: SentimentTask(corpus=corpus))  # type: ignore[arg-type]


def qpu(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["qpu", *arguments])


def told(result: Result) -> tuple[int, str]:
    """Exit code and text as ``main`` tells the error."""
    assert isinstance(result.exception, Exception), result.output
    return explain(result.exception)


def test_a_run_prints_its_comparison_and_is_resumed(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    first = qpu("run", "--backend", "aer", *FAST, "--out", out, "--json")
    assert first.exit_code == 0, first.output
    report = json.loads(first.stdout)
    assert report["folder"] == out
    assert "trained here" in report["origin"]
    assert (report["jobs"], report["submitted"], report["comparison"]["examples"]) == (2, 2, 6)
    assert "costs nothing" in first.stderr
    shown = (tmp_path / "run" / "report.html").read_text()
    assert "no quantum processor took part" in shown
    assert f"{100 * report['comparison']['agreement']:.1f} %" in shown
    assert shown.count("<svg") == 2
    kept = json.loads((tmp_path / "run" / "qpu.json").read_text())
    assert kept["comparison"] == report["comparison"]

    again = qpu("run", "--resume", out)
    assert again.exit_code == 0, again.output
    assert "agreement of labels" in again.stdout
    assert "2 jobs, 0 submitted by this call" in again.stdout
    assert "trained here" in again.stdout

    jobs = json.loads(qpu("jobs", out, "--json").stdout)
    assert [job["state"] for job in jobs] == ["done", "done"]
    assert "done" in qpu("jobs", out).stdout

    code, text = told(qpu("run", "--backend", "aer", *FAST, "--out", out))
    assert (code, "already holds a run" in text) == (2, True)
    code, text = told(qpu("run", "--resume", out, "--shots", "512"))
    assert (code, "leave out --shots" in text) == (2, True)


def test_an_estimate_submits_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = qpu("estimate", "--backend", "fake_manila", *FAST, "--json")
    costs = json.loads(result.stdout)
    assert [cost["mitigation"] for cost in costs] == ["none", "trex", "zne"]
    assert {(cost["parameter_sets"], cost["jobs"], cost["free"]) for cost in costs} == {(6, 2, True)}
    assert [cost["circuits"] for cost in costs] == [6, 4 * (6 + 2), 4 * (18 + 2)]
    assert costs[0]["qpu_s"] > 4
    one = qpu("estimate", "--backend", "fake_manila", *FAST, "--mitigation", "zne")
    assert "mitigation zne" in one.stdout
    assert "trex" not in one.stdout
    assert list(tmp_path.iterdir()) == []


def test_without_an_account_a_real_backend_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qiskit_ibm_runtime.accounts import management

    for name in ("_DEFAULT_ACCOUNT_CONFIG_JSON_FILE",):
        monkeypatch.setattr(management, name, str(tmp_path / "none.json"))
    monkeypatch.delenv("QISKIT_IBM_TOKEN", raising=False)
    code, text = told(qpu("run", "--backend", "ibm_brisbane", "--out", str(tmp_path / "run")))
    assert code == 2
    assert "save_account" in text
    assert not (tmp_path / "run").exists()
    listed = qpu("backends")
    assert "fake_manila" in listed.stdout
    assert "no usable IBM Quantum account" in listed.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--backend is missing"),
        (("--backend", "fake_nowhere"), "no device snapshot"),
        (("--backend", "aer", "--task", "digits"), "no circuit"),
        (("--backend", "aer", "--sentences", "41"), "1 to 40"),
        (("--backend", "aer", "--execution", "never"), "execution"),
        (("--backend", "aer", "--model", "nowhere"), "no file or folder"),
    ],
)
def test_mistakes_are_told(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = told(qpu("run", *arguments))
    assert code == 2
    assert message in text


def test_training_asks_first_and_leaves_a_model(tmp_path: Path) -> None:
    out = tmp_path / "training"
    plan = (
        "--train-steps",
        "1",
        "--batch",
        "2",
        "--train-weights",
        "1",
        "--shots",
        "256",
        "--mitigation",
        "none",
    )
    code, text = told(qpu("train", "--backend", "aer", *plan, "--out", str(out)))
    assert (code, "--allow-training" in text) == (2, True)
    assert not (out / "step-00001").exists()
    result = qpu("train", "--resume", str(out), "--allow-training", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert len(report["steps"]) == 1
    changed = np.load(out / "trained.npy") != np.load(out / "model.npy")
    assert int(changed.sum()) == 1
    evaluated = qpu(
        "run", "--backend", "aer", *FAST, "--model", report["model"], "--out", str(tmp_path / "run")
    )
    assert evaluated.exit_code == 0, evaluated.output


def test_ctrl_c_says_how_to_go_on_and_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    out = str(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("fl.qpu.evaluate.evaluate", interrupted)
        result = qpu("run", "--backend", "aer", *FAST, "--out", out)
    assert result.exit_code == 130
    assert f"qunetlab qpu run --resume {out}" in result.stderr
    resumed = qpu("run", "--resume", out, "--json")
    assert resumed.exit_code == 0, resumed.output
    assert json.loads(resumed.stdout)["submitted"] == 2


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    from fl.qpu.journal import QpuFolder

    with QpuFolder(tmp_path / "run"):
        code, text = told(qpu("run", "--backend", "aer", *FAST, "--out", str(tmp_path / "run")))
    assert (code, "in use by another process" in text) == (2, True)
    assert not (tmp_path / "run" / "request.json").exists()


def test_resuming_is_no_consent_to_a_run_that_never_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from fl.qpu import backends

    aer = backends.open_device("aer")
    service = SimpleNamespace(active_instance=lambda: "crn:mine")
    monkeypatch.setattr(backends, "open_device", lambda name, account=None: replace(aer, service=service))
    out = str(tmp_path / "run")
    for arguments in (("--backend", "ibm_testville", *FAST, "--out", out), ("--resume", out)):
        code, text = told(qpu("run", *arguments))
        assert (code, "confirm with --yes" in text) == (2, True)
    assert not (tmp_path / "run" / "run.json").exists()


def test_mitigations_are_compared_on_two_simulated_devices(tmp_path: Path) -> None:
    out = tmp_path / "compared"
    few = ("--sentences", "4", "--shots", "256", "--layout-trials", "2")
    few += ("--backend", "aer", "--backend", "fake_lima")
    result = qpu("mitigation", *few, "--out", str(out), "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert [(row["backend"], row["mitigation"]) for row in rows] == [
        (backend, mitigation) for backend in ("aer", "fake_lima") for mitigation in ("none", "trex", "zne")
    ]
    assert [row["shots"] for row in rows[:3]] == [4 * 256, (4 + 1) * 256, (3 * 4 + 1) * 256]
    for row in rows:
        assert 0 < row["mean_error"] <= row["rms_error"] <= row["largest_error"]
        # The cost of every one was told before the first began.
        assert f"mitigation {row['mitigation']}, in 1 jobs: {row['circuits']:,} circuits" in result.stderr
    shown = (out / "report.html").read_text()
    for row in rows:
        assert f"{row['mean_error']:.4f}" in shown
        assert f"{row['shots']:,}" in shown
    assert json.loads((out / "mitigation.json").read_text()) == rows
    code, text = told(qpu("mitigation", *few, "--out", str(out)))
    assert (code, "already holds a run" in text) == (2, True)
    code, text = told(qpu("mitigation", "--backend", "aer", "--backend", "aer", "--out", str(tmp_path / "x")))
    assert (code, "named twice" in text) == (2, True)


def test_a_real_backend_is_not_compared_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from fl.qpu import backends, mitigations

    aer = backends.open_device("aer")
    monkeypatch.setattr(
        mitigations, "open_device", lambda name: replace(aer, name=name, service=SimpleNamespace())
    )
    code, text = told(qpu("mitigation", "--backend", "ibm_x", "--out", str(tmp_path / "run")))
    assert (code, "`qunetlab qpu run --mitigation none`" in text) == (2, True)
    assert not (tmp_path / "run").exists()
