"""The notebook of the documents: executed as it is stored, with its plots, and nothing of anybody's machine in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbclient import NotebookClient

if TYPE_CHECKING:
    from tests.lab.conftest import SimulatedLab

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "first_hour.ipynb"


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


def test_the_stored_notebook_is_whole() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = [kind for said in outputs(notebook) for kind, _ in said]
    assert kinds.count("plot") == 3
    assert "error" not in kinds
    for cell in notebook.cells:
        texts = [
            cell.source,
            *(text for said in outputs(nbformat.from_dict({"cells": [cell]})) for _, text in said),
        ]
        assert not re.search(r"(^|[\s\"'(@])/\w+/", "\n".join(texts)), cell.id


@pytest.mark.long
def test_the_notebook_gives_what_is_stored(
    lab: SimulatedLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "bench").symlink_to(lab.folder)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = outputs(notebook)
    NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert outputs(notebook) == stored
    assert lab.bench.unsafe() == []
