"""The site of the pages: built strictly, every page in its place, and nothing that a browser would fetch from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FETCHED = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)=\"?([^\"\s>]+)")
needs_mkdocs = pytest.mark.skipif(find_spec("material") is None, reason="needs pip install '.[docs]'")


def build(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "-f",
            str(folder / "mkdocs.yml"),
            "-d",
            str(site),
        ],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@needs_mkdocs
def test_the_site_is_built_without_a_warning_and_needs_no_network(tmp_path: Path) -> None:
    built = build(ROOT, tmp_path)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    pages = {
        page.relative_to(tmp_path).as_posix(): page.read_text(encoding="utf-8")
        for page in tmp_path.rglob("*.html")
    }
    sources = {
        page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        for page in (ROOT / "docs").rglob("*.md")
    }
    assert sources - set(pages) == {"decisions/README.html"}  # the index of its folder
    fetched = {(name, target) for name, text in pages.items() for target in FETCHED.findall(text)}
    assert len(fetched) > 50
    outside = {(name, target) for name, target in fetched if re.match(r"(?:https?:)?//", target)}
    assert outside == set()


@needs_mkdocs
def test_a_link_to_a_heading_that_is_not_there_ends_the_build(tmp_path: Path) -> None:
    pages = tmp_path / "docs"
    pages.mkdir()
    (pages / "index.md").write_text("# Home\n\n[nowhere](index.md#not-there)\n", encoding="utf-8")
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("nav:\n  - Home")[0]
    (tmp_path / "mkdocs.yml").write_text(config, encoding="utf-8")
    built = build(tmp_path, tmp_path / "site")
    assert built.returncode != 0
    assert "not-there" in built.stderr


def test_the_figures_of_the_pages_are_those_that_their_script_draws() -> None:
    spec = spec_from_file_location("figures", ROOT / "docs" / "scripts" / "figures.py")
    assert spec is not None
    assert spec.loader is not None
    figures = module_from_spec(spec)
    sys.modules["figures"] = figures  # dataclasses look their module up
    spec.loader.exec_module(figures)
    for file, draw in figures.FIGURES.items():
        assert (ROOT / "docs" / file).read_text(encoding="utf-8") == draw().svg(), f"{file} is out of date"


@needs_mkdocs
def test_every_notebook_has_a_page_with_its_cells_and_plots_and_links_lead_there(tmp_path: Path) -> None:
    assert build(ROOT, tmp_path).returncode == 0
    notebooks = list((ROOT / "docs" / "notebooks").glob("*.ipynb"))
    assert len(notebooks) >= 4
    for path in notebooks:
        page = (tmp_path / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        plots = path.read_text(encoding="utf-8").count('"image/png"')
        assert (
            page.count("<img") == len(list((tmp_path / "notebooks").glob(f"{path.stem}-*.png"))) == plots > 0
        )
        assert f'href="{path.name}"' in page
        assert (tmp_path / "notebooks" / path.name).exists()
    assert 'href="notebooks/first_hour.html"' in (tmp_path / "instruments-in-a-notebook.html").read_text(
        encoding="utf-8"
    )
