"""The notebooks of the documents: executed as they are stored, with their plots, and nothing of anybody's machine in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from flower_home import flower_home, stop_superlink
from nbclient import NotebookClient

if TYPE_CHECKING:
    from tests.lab.conftest import SimulatedLab

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "docs" / "notebooks"
FIFTEEN, FIRST_HOUR, FLOWER, QCODES = (
    NOTEBOOKS / f"{name}.ipynb" for name in ("fifteen_minutes", "first_hour", "flower_users", "qcodes_users")
)
PLOTS = {FIFTEEN: 3, FIRST_HOUR: 3, FLOWER: 1, QCODES: 1}


def outputs(notebook: Any) -> list[list[tuple[str, str]]]:
    """Per code cell: what it gave, as kind and text; of plots and counts only that there are some."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            said = []
            for output in cell.outputs:
                data = output.get("data", {})
                kind = "plot" if "image/png" in data else output.output_type
                text = "" if kind == "plot" else output.get("text", "") or data.get("text/plain", "")
                said.append((kind, re.sub(r"\d{5,}\.?", "N", text)))
            found.append(said)
    return found


def spoken(notebook: Any) -> list[str]:
    """Per code cell: all of its text, in however many pieces it came."""
    return ["".join(text for _, text in said) for said in outputs(notebook)]


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_stored_notebook_is_whole(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = [kind for said in outputs(notebook) for kind, _ in said]
    assert kinds.count("plot") == PLOTS[path]
    assert "error" not in kinds
    for cell in notebook.cells:
        texts = [
            cell.source,
            *(text for said in outputs(nbformat.from_dict({"cells": [cell]})) for _, text in said),
        ]
        assert not re.search(r"(^|[\s\"'(@])/\w+/", "\n".join(texts)), cell.id


def run(path: Path, folder: Path, timeout_s: int) -> Any:
    """The notebook with what its cells give in ``folder``; raises CellExecutionError where one fails."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=timeout_s, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


@pytest.mark.early
def test_the_notebook_for_users_of_qcodes_gives_what_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = run(QCODES, tmp_path, 100)
    assert outputs(found) == outputs(nbformat.read(QCODES, as_version=4))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.long)])
def test_fifteen_minutes_go_from_twins_to_a_trained_model(
    quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counts are drawn anew each time, so what is said of them has to hold, not to be the same.

    Quickly it is the same cells, with two users and a shorter calibration.
    """
    pytest.importorskip("torch", reason="training needs the extra learning")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    if quick:
        monkeypatch.setenv("QUNETLAB_QUICK", "1")
    notebook = run(FIFTEEN, tmp_path, 400)
    said = "\n".join(spoken(notebook))
    kinds = [kind for each in outputs(notebook) for kind, _ in each]
    assert kinds.count("plot") == PLOTS[FIFTEEN]
    ratios = [float(each) for each in re.findall(r"\d+ dB: (\S+) \+-", said)]
    assert len(ratios) == 5
    assert ratios == sorted(ratios)
    assert f"... {14 if quick else 22} instruments" in said
    assert ("trigger_jitter_ps: " if quick else "dark_count_probability: ") in said
    assert ratios[0] < 1.5 < 4 < ratios[-1]
    assert float(re.findall(r"QBER (\S+) %, planned", said)[0]) < 1.5
    assert "N secret bits, planned N" in said  # of five digits and more
    assert float(re.findall(r"(\S+) % after \d+ rounds", said)[-1]) > 90


@pytest.mark.long
def test_the_first_hour_gives_what_is_stored(
    lab: SimulatedLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "bench").symlink_to(lab.folder)
    assert outputs(run(FIRST_HOUR, tmp_path, 100)) == outputs(nbformat.read(FIRST_HOUR, as_version=4))
    assert lab.bench.unsafe() == []


@pytest.mark.timeout(400)
def test_the_flower_notebook_trains_as_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it costs is the same to the bit; of what is learned, that every round gave a sum and the last a good one."""
    pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' in this folder")
    for name, value in flower_home(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(FLOWER, as_version=4)
    stored = spoken(notebook)
    try:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    finally:
        stop_superlink(tmp_path / "home")
    found = spoken(notebook)
    assert found[:4] == stored[:4]
    trained, before = (
        re.findall(r"round \d: accuracy (\S+), (\S+) kbit", said[4]) for said in (found, stored)
    )
    assert [key for _, key in trained] == [key for _, key in before]
    assert len(trained) == 5
    assert float(trained[-1][0]) > 0.85
