"""``qunetlab bench`` runs the benchmarks of its own source tree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rows

import lab
from fl.workloads.data import DataError


def test_bench_names_what_it_knows(qunetlab: Any) -> None:
    ended = qunetlab("bench", "--only", "warp_speed")
    assert ended.returncode == 2
    assert "link_pulses_per_s" in ended.stderr


def test_a_benchmark_that_fails_takes_no_other_figure_with_it(
    qunetlab: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Any:
        raise ConnectionError("no link")

    def lack() -> Any:
        raise DataError("run `qunetlab data fetch mnist`")

    good: Any = {"first": lambda: {"first": {"value": 1.5, "unit": "s", "checks_passed": True}}}

    def with_rows(**measured: Any) -> None:
        monkeypatch.setattr(rows, "ROWS", dict.fromkeys(measured, ""))
        monkeypatch.setattr(rows, "measure", lambda name: measured[name]())

    with_rows(**good, second=fail, third=lack)
    said = qunetlab("bench", "--json")
    assert said.returncode == 1
    assert list(json.loads(said.stdout)) == ["first"]
    assert "second is left out: error: no link" in said.stderr
    with_rows(**good, third=lack)
    said = qunetlab("bench")
    assert said.returncode == 0
    assert said.stdout.startswith("first ")
    assert "third is left out: error: run `qunetlab data fetch mnist`" in said.stderr


def test_an_installation_without_sources_says_how_to_get_the_benchmarks(
    qunetlab: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lab, "__file__", str(tmp_path / "site-packages" / "lab" / "__init__.py"))
    ended = qunetlab("bench")
    assert ended.returncode == 2
    assert "benchmarks come with the source" in ended.stderr
    assert "pip install -e ." in ended.stderr
