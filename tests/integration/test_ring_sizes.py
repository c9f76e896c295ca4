"""Rings of other sizes than four, with all their processes: every pair is keyed and the sums are exact."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from command_line import run_qunetlab

from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import write_testbed

SMALL = {"slots_per_frame": 1 << 20, "pulses_per_block": 1 << 25}


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("count", "ring_width"), [(2, 9), (5, 11)])
def test_a_demo_of_so_many_users_keys_every_pair_and_sums_exactly(
    count: int, ring_width: int, tmp_path: Path
) -> None:
    data = tomllib.loads(template_path("simulated-four-node").read_text(encoding="utf-8"))
    data["protocol"] |= SMALL
    write_testbed(data, tmp_path / "small.toml")
    create_folder(tmp_path / "bench", tmp_path / "small.toml", users=count)
    out = tmp_path / "out"
    command = ("demo", "--testbed", str(tmp_path / "bench"), "--rounds", "2", "--out", str(out))
    said = run_qunetlab(*command, timeout_s=390)
    assert said.returncode == 0, said.stderr
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["aggregation"]["exact"] is True
    assert report["aggregation"]["ring_width"] == ring_width
    assert len(report["pairs"]) == count * (count - 1) // 2
    assert all(row["secret_bits"] > 0 for row in report["pairs"])
    assert any("each learns the other's update" in note for note in report["notes"]) == (count == 2)
