"""The site of the pages: built strictly, every page in its place, and nothing that a browser would fetch from elsewhere."""

from __future__ import annotations

import os
import re
import shutil
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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a warning."""
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


@needs_mkdocs
def test_every_page_is_there_and_the_site_needs_no_network(site: Path) -> None:
    pages = {
        page.relative_to(site).as_posix(): page.read_text(encoding="utf-8") for page in site.rglob("*.html")
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
    hook = Path("docs", "scripts", "notebooks.py")
    (tmp_path / hook).parent.mkdir()
    shutil.copy(ROOT / hook, tmp_path / hook)
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
def test_every_notebook_has_a_page_with_its_cells_and_plots_and_links_lead_there(site: Path) -> None:
    notebooks = list((ROOT / "docs" / "notebooks").glob("*.ipynb"))
    assert len(notebooks) >= 4
    for path in notebooks:
        page = (site / "notebooks" / f"{path.stem}.html").read_text(encoding="utf-8")
        plots = path.read_text(encoding="utf-8").count('"image/png"')
        drawn = list((site / "notebooks").glob(f"{path.stem}-*.png"))
        assert page.count("<img") == len(drawn) == plots > 0
        assert f'href="{path.name}"' in page
        assert (site / "notebooks" / path.name).exists()
    linking = (site / "instruments-in-a-notebook.html").read_text(encoding="utf-8")
    assert 'href="notebooks/first_hour.html"' in linking
