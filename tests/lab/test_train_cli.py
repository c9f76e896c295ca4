"""``qunetlab train``, ``compare`` and ``data`` as their user sees them: results, resuming, and clear refusals."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fl.carriers.in_process.results import CohortError
from fl.rounds.quantise import UpdateNotFiniteError
from fl.workloads import open_task
from fl.workloads.data import DataError
from fl.workloads.provenance import check_data
from lab.runs.training.folder import held
from lab.runs.training.words import against_float32

SMALL = ["--rounds", "2", "--seeds", "2", "--clients", "3", "--workers", "0"]


@pytest.fixture(scope="module")
def run(qunetlab: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished run."""
    folder = tmp_path_factory.mktemp("train") / "run"
    done = qunetlab("train", "digits", *SMALL, "--quick", "--out", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((folder / "results.json").read_text())
    assert "NOT the full experiment" in done.stderr
    return folder


def test_results_hold_what_was_agreed(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    assert (results["task"], results["mode"], results["split"], results["clients"]) == (
        "digits",
        "otp",
        "iid",
        3,
    )
    assert [row["round"] for row in results["rounds"]] == [1, 2]
    # 1810 parameters at b = 10 (127 levels, 3 clients), three pairs
    assert [row["upload_bytes_per_client"] for row in results["rounds"]] == [2263, 2263]
    assert [row["key_bits"] for row in results["rounds"]] == [3 * 18_100] * 2
    assert all(row["exact"] is True for row in results["rounds"])
    assert results["final"]["seeds"] == 2
    assert results["final"]["accuracy_mean"] > 0.8
    assert results["compression"]["ring_width"] == 10
    assert results["compression"]["saving_vs_float32"] == pytest.approx(1 - 2263 / 7240)
    assert results["key_supply"] == "simulated"
    assert results["security"] == "information-theoretic"
    assert results["quick"] is True
    assert results["baselines"]["float32"]["security"] == "none"
    assert results["baselines"]["float32"]["final"]["accuracy_mean"] > 0.8
    assert len(results["data"][0]["sha256"]) == 64
    assert {"torch", "numpy"} <= set(results["versions"])


def test_the_report_is_one_page_that_says_what_it_is(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert page.count("<svg") == 6
    assert "http" not in page.replace("https://", "http://").split("<main>")[0]
    for text in ("NOT the full experiment", "simulated", "information-theoretic", "68.74 % less"):
        assert text in page


def test_compare_puts_runs_side_by_side(qunetlab: Any, run: Path, tmp_path: Path) -> None:
    other = tmp_path / "plain"
    made = qunetlab("train", "digits", *SMALL, "--mode", "plain", "--no-baselines", "--out", str(other))
    assert made.returncode == 0, made.stderr
    page = tmp_path / "page.html"
    said = qunetlab("compare", str(run), str(other / "results.json"), "--json", "--out", str(page))
    assert said.returncode == 0, said.stderr
    rows = json.loads(said.stdout)["runs"]
    assert [(row["run"], row["security"]) for row in rows] == [
        ("run", "information-theoretic"),
        ("plain", "none"),
    ]
    assert [row["key_bits_per_round"] for row in rows] == [54_300, 0]
    assert (
        rows[0]["accuracy_mean"] == rows[1]["accuracy_mean"]
    )  # masks cancel: the same sums, the same models
    assert page.read_text().count("<svg") == 6
    table = qunetlab("compare", str(run), str(other))
    assert "plain" in table.stdout
    assert "none" in table.stdout


@pytest.mark.usefixtures("no_figures")
def test_a_finished_run_is_not_overwritten_and_resuming_it_changes_nothing(qunetlab: Any, run: Path) -> None:
    before = json.loads((run / "results.json").read_text())
    again = qunetlab("train", "digits", *SMALL, "--out", str(run))
    assert again.returncode == 2
    assert "already holds a run" in again.stderr
    resumed = qunetlab("train", "digits", "--resume", str(run), "--json")
    assert resumed.returncode == 0, resumed.stderr
    after = json.loads(resumed.stdout)
    assert after["wall_s"] > before["wall_s"]
    for changing in ("wall_s", "configuration"):
        before.pop(changing)
        after.pop(changing)
    assert after == before


@pytest.mark.usefixtures("no_figures")
def test_an_interrupted_run_says_how_to_go_on_and_ends_as_it_would_have(
    qunetlab: Any, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cut"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # whatever comes too late must not end the tests
    main_thread = threading.main_thread().ident
    assert main_thread is not None

    def interrupt_after_the_first_cell() -> None:
        deadline = time.monotonic() + 90
        while not list(folder.glob("cells/*.json")) and time.monotonic() < deadline:
            time.sleep(0.01)
        signal.pthread_kill(main_thread, signal.SIGINT)

    watcher = threading.Thread(target=interrupt_after_the_first_cell)
    watcher.start()
    try:
        cut = qunetlab("train", "digits", *SMALL, "--quick", "--out", str(folder))
    finally:
        watcher.join()
        signal.signal(signal.SIGINT, before)
    assert cut.returncode == 130
    assert f"Go on with: qunetlab train digits:mlp@iid --resume {folder}" in cut.stderr
    assert json.loads((folder / "results.json").read_text())["complete"] is False
    done = qunetlab("train", "digits", "--resume", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    whole = json.loads((run / "results.json").read_text())
    assert json.loads(done.stdout)["rounds"] == whole["rounds"]
    assert json.loads(done.stdout)["complete"] is True


@pytest.fixture
def half(run: Path, tmp_path: Path) -> Path:
    """The folder of a run whose second seed is still to come."""
    folder = tmp_path / "half"
    shutil.copytree(run, folder)
    for path in folder.glob("cells/*-2*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (CohortError("process 1 died"), "seed 2: process 1 died"),
        (UpdateNotFiniteError("client 2, round 1: parameter 7 of the update is nan"), "parameter 7"),
    ],
)
def test_a_run_that_fails_half_way_keeps_what_is_finished_and_says_how_to_go_on(
    qunetlab: Any, half: Path, error: Exception, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("fl.carriers.in_process.run.run_cohort", fail)
    (half / "results.json").unlink()
    said = qunetlab("train", "digits", "--resume", str(half), "--json")
    assert said.returncode == 1
    assert said.stdout == ""
    assert told in said.stderr
    assert (
        f"what is finished is kept. Go on with: qunetlab train digits:mlp@iid --resume {half}" in said.stderr
    )
    assert "Traceback" not in said.stderr
    kept = json.loads((half / "results.json").read_text())
    assert (kept["final"]["seeds"], kept["complete"]) == (1, False)


@pytest.mark.parametrize(
    "content", ["", '{"seed": 1', '{"seed": 1, "rounds": []}', '{"seed": 3, "rounds": []}']
)
def test_a_damaged_file_of_a_finished_cell_is_named_and_never_believed(
    qunetlab: Any, half: Path, content: str
) -> None:
    damaged = half / "cells" / "federated-1.json"
    damaged.write_text(content)
    said = qunetlab("train", "digits", "--resume", str(half))
    assert said.returncode == 1
    assert f"cannot use {damaged}" in said.stderr
    assert "remove it to run that cell again" in said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.usefixtures("no_figures")
def test_a_damaged_checkpoint_says_what_to_remove(qunetlab: Any, half: Path) -> None:
    (half / "cells" / "federated-2").mkdir()
    (half / "cells" / "federated-2" / "cohort.json").write_text('{"format": 1')
    said = qunetlab("train", "digits", "--resume", str(half))
    assert said.returncode == 1
    assert f"remove {half / 'cells' / 'federated-2'} to begin this cell again" in said.stderr


def test_one_process_at_a_time_works_in_the_folder_of_a_run(
    qunetlab: Any, half: Path, tmp_path: Path
) -> None:
    fresh = tmp_path / "fresh"
    for folder, more in ((half, ["--resume", str(half)]), (fresh, [*SMALL, "--out", str(fresh)])):
        with held(folder, new=folder == fresh):
            said = qunetlab("train", "digits", *more)
        assert said.returncode == 2
        assert f"process {os.getpid()} is training in {folder}" in said.stderr
    assert not fresh.exists()  # a run that came to nothing leaves nothing
    with held(half, new=False):
        pass
    assert (half / "plan.json").exists()


def test_a_new_run_takes_nothing_of_an_older_one_for_its_own(qunetlab: Any, half: Path) -> None:
    for name in ("plan.json", "results.json"):
        (half / name).unlink()
    said = qunetlab("train", "digits", *SMALL, "--out", str(half))
    assert said.returncode == 2
    assert "already holds a run" in said.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["digitz"], "no task is called 'digitz'; there are digits"),
        (["digits", "--split", "two-shard"], "no split 'two-shard'; there are iid"),
        (["digits", "--model", "cnn"], "no model 'cnn'; there are mlp"),
        (["digits", "--mode", "otpp"], "no mode is called 'otpp'; there are otp, lightsecagg"),
        (["digits", "--dataset", "imdb"], "--dataset is for quantum-states, sentiment, sentiment-imdb"),
        (["digits", "--ring-width", "8"], "--ring-width 8 is too narrow: N = 4 clients"),
        (["digits", "--ring-width", "8"], "use b = 10 for L = 127, or L = 31 fits b = 8"),
        (["digits", "--clients", "200", "--ring-width", "8"], "no L fits b = 8"),
        (["digits", "--ring-width", "99"], "--ring-width is 99: it must be at least 2 and at most 32"),
        (["digits", "--clip", "0"], "--clip is 0.0: it must be greater than 0"),
        (["digits", "--clip", "nan"], "--clip is nan: it must be a finite number greater than 0"),
        (["digits", "--clip-decay", "2"], "--clip-decay is 2.0: it must be greater than 0 and at most 1"),
        (["digits", "--keep", "1.5"], "--keep is 1.5: it must be greater than 0 and at most 1"),
        (["digits", "--levels", "0"], "--levels is 0: it must be at least 1"),
        (
            ["digits", "--mode", "lightsecagg", "--survivors", "-5"],
            "--survivors is -5: it must be at least 0",
        ),
        (["digits", "--rounds", "99999999999999999999"], "--rounds is 99999999999999999999: it must be"),
        (["digits", "--seed", str(1 << 62)], "--seed is 4611686018427387904: it must be at least 0"),
        (["digits", "--seed", "9" * 30], f"--seed is {'9' * 30}: it must be at least 0"),
        (
            ["digits", "--seed", str((1 << 62) - 1), "--seeds", "2"],
            "with 2 seeds ends at 4611686018427387904",
        ),
        (
            ["digits", "--clip-decay", "1e-300"],
            "--clip-decay is 1e-300: with it the clip 1 of round 1 shrinks",
        ),
        (["digits", "--clip", "1e-40"], "--clip is 1e-40: it must be a number from 1e-30 to 1e+30"),
        (["digits", "--clip-of", "head"], "--clip-of head: give ARRAY=CLIP, with a number of at least 0"),
        (
            ["digits", "--clip-of", "bn.*=1"],
            "--clip-of: no array of the model is called 'bn.*'; there are layer1.",
        ),
        (["digits", "--split", ""], "--split is empty"),
        (["digits", "--resume", "here", "--out", "there"], "leave --out away"),
        (["digits", "--clients", "1"], "at least two clients"),
        (["digits", "--clients", "5000"], "--clients is 5000: it must be at least 1 and at most 1,000"),
        (["digits", "--survivors", "3"], "belong to lightsecagg"),
        (
            ["digits", "--mode", "lightsecagg", "--clients", "10", "--colluders", "6", "--survivors", "7"],
            "U = 7 survivors of N = 10 clients with T = 6 colluders",
        ),
        (["digits", "--mode", "lightsecagg", "--colluders", "9", "--clients", "10"], "T = 9 colluders"),
        (["digits", "--drop-outs", "1"], "use mode lightsecagg for drop-outs"),
        (["digits", "--mode", "lightsecagg", "--drop-outs", "3"], "at most 1 may drop out"),
        (["digits", "--live"], "--live needs --testbed"),
        (["digits", "--testbed", "nowhere"], "no such file; `qunetlab init FOLDER`"),
        (["digits", "--testbed", "simulated-four-node"], "starts with empty key stores; add --live"),
        (["digits", "--testbed", "simulated-four-node", "--live", "--clients", "9"], "has 4 users"),
        (["digits", "--testbed", "simulated-four-node", "--live", "--seeds", "3"], "has one seed"),
        (["digits", "--testbed", "simulated-four-node", "--live", "--ring-width", "8"], "use b = 10"),
        (["digits", "--if-short", "panic"], "--if-short is wait, stop, expanded"),
        (["digits", "--if-short", "stop"], "belong to --testbed"),
        (["digits", "--resume", "nowhere"], "holds no run that could be resumed"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(
    qunetlab: Any, arguments: list[str], told: str, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    more = [] if "--resume" in arguments else ["--out", str(folder)]
    said = qunetlab("train", *arguments, *more)
    assert said.returncode == 2, said.stderr
    assert told in said.stderr
    assert "Traceback" not in said.stderr
    assert len(said.stderr.strip().splitlines()) == 1
    assert not folder.exists()


def test_missing_data_says_how_to_get_it_and_damaged_data_what_is_wrong(
    qunetlab: Any, tmp_path: Path
) -> None:
    for task, command in (("mnist", "data fetch mnist"), ("sentiment", "data fetch sentiment")):
        said = qunetlab("train", task, "--quick", "--out", str(tmp_path / "out"), data=tmp_path)
        assert said.returncode == 2, said.stderr
        assert command in said.stderr
        assert "Traceback" not in said.stderr
    folder = tmp_path / "idx"
    folder.mkdir()
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (folder / name).write_bytes(b"\0\0\x08\x01\0\0\0\x01\x05")
    said = qunetlab("train", "mnist", "--quick", "--data", str(folder), "--out", str(tmp_path / "out"))
    assert said.returncode == 2
    assert "t10k-images-idx3-ubyte is missing" in said.stderr
    assert not (tmp_path / "out").exists()


def test_files_that_are_read_only_later_are_verified_before_anything_starts(tmp_path: Path) -> None:
    """The reviews stand for all files that a record lists: the first that differs ends it."""
    (tmp_path / "reviews.csv").write_bytes(b"text,label,source\n")
    with pytest.raises(DataError, match=r"reviews\.csv: not the published file"):
        check_data("sentiment", open_task("sentiment", tmp_path), tmp_path, 4, 1)


def test_another_setting_does_not_go_on_with_a_run(qunetlab: Any, run: Path) -> None:
    for arguments, told in (
        (["digits", "--rounds", "9"], "rounds is 2 there, not 9"),
        (["mnist"], "task is digits:mlp@iid there, not mnist:mlp@iid"),
        (["digits", "--mode", "expanded"], "mode is otp there, not expanded"),
    ):
        said = qunetlab("train", *arguments, "--resume", str(run))
        assert said.returncode == 2, said.stderr
        assert told in said.stderr


def test_a_folder_that_cannot_be_written_is_told(qunetlab: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        said = qunetlab("train", "digits", *SMALL, "--out", str(folder))
        assert said.returncode == 2
        assert f"{folder} cannot be the folder of a run" in said.stderr
        assert "Traceback" not in said.stderr


def test_compare_refuses_what_is_no_run(qunetlab: Any, tmp_path: Path) -> None:
    said = qunetlab("compare", str(tmp_path))
    assert said.returncode == 2
    assert "name the folder of a run" in said.stderr
    assert "Traceback" not in said.stderr


def test_data_list_names_every_data_set(qunetlab: Any, tmp_path: Path) -> None:
    said = qunetlab("data", "list", "--json", data=tmp_path)
    assert said.returncode == 0, said.stderr
    rows = {row["name"]: row for row in json.loads(said.stdout)["data"]}
    assert set(rows) == {"digits", "mnist", "sentiment", "quantum-states"}
    assert rows["digits"]["verified"] is True
    assert rows["mnist"]["verified"] is False
    assert "data fetch mnist" in rows["mnist"]["state"]
    unknown = qunetlab("data", "fetch", "cifar")
    assert unknown.returncode == 2
    assert "mnist, sentiment" in unknown.stderr


def test_an_upload_larger_than_float32_is_called_larger() -> None:
    assert against_float32(0.9003) == "90.03 % less"
    assert against_float32(-1.4613) == "146.13 % more"


READERS = """
import json, sys
from pathlib import Path
from typer.testing import CliRunner
from lab.cli.main import app
import lab.cli.status

run, testbed, jobs = sys.argv[1:]
heavy = ("numba", "torch", "matplotlib", "pennylane", "qiskit", "qcodes", "sklearn")
found = {}
for arguments in (["--help"], ["compare", run], ["keys", testbed], ["qpu", "jobs", jobs], ["check", testbed]):
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 or arguments[0] == "keys", (arguments, result.output, result.exception)
    found[" ".join(arguments[:1])] = sorted(set(heavy) & set(sys.modules))
print(json.dumps(found))
"""


def test_commands_that_only_read_load_no_kernels_and_no_frameworks(run: Path, tmp_path: Path) -> None:
    """They are to be quick, and to work where nothing can be compiled."""
    from lab.runs.testbeds.folder import create_folder, template_path

    create_folder(tmp_path / "bench", template_path("simulated-four-node"))
    (tmp_path / "jobs").mkdir()
    done = subprocess.run(
        [sys.executable, "-P", "-c", READERS, str(run), str(tmp_path / "bench"), str(tmp_path / "jobs")],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    # check makes the drivers, to hold the file against them
    assert loaded == {"--help": [], "compare": [], "keys": [], "qpu": [], "check": ["qcodes"]}


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("clip", "told"),
    [
        ("1e-6", "WARNING: the clip is too small: more than 5 % of the update was cut off"),
        ("1e6", "WARNING: the clip is too large: more than 99 % of the update was rounded to nothing"),
    ],
)
def test_a_clip_that_spoils_the_run_is_told_first_of_all(
    qunetlab: Any, clip: str, told: str, tmp_path: Path
) -> None:
    """Both ended at chance level without a word."""
    out = tmp_path / "run"
    few = ("--rounds", "1", "--seeds", "1", "--no-baselines", "--workers", "0")
    said = qunetlab("train", "digits", "--clip", clip, *few, "--out", str(out))
    assert said.returncode == 0, said.stderr
    assert f"4 clients, otp: {told}" in said.stderr
    assert said.stdout.startswith(f"{told} at 4 of 4 clients")
    assert "--clip" in said.stdout.splitlines()[0]
    results = json.loads((out / "results.json").read_text())
    assert [warning.startswith(told) for warning in results["warnings"]] == [True]
    assert results["rounds"][0]["clipping"]["clients"] == 4
    body = (out / "report.html").read_text().partition("<main>")[2].lstrip()
    assert body.startswith(f"<p class='alarm'>{told}")
