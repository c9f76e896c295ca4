"""A disk that is really full during the first start of a node: nothing is lost, and the error names the place.

The state folder is a small tmpfs in a mount namespace of its own, from too small for anything to large enough; once
it is enlarged the node must start, with every initial secret in its lanes.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SIZES_KIB = (64, 400, 700, 800, 900, 1000, 1100, 2000)

STARTS = """
import json, shutil, subprocess, sys
from pathlib import Path
from lab.runs.testbeds.folder import create_folder, template_path
from lab.testbed import load_testbed
from orchestrator.keystore.pair_secret import PairSecret
from orchestrator.processes.node_store import open_node_store

work, sizes = Path(sys.argv[1]), [int(size) for size in sys.argv[2:]]
testbed = load_testbed(create_folder(work / "bench", template_path("simulated-reference")))
state = work / "state"
state.mkdir()
for size in sizes:
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(state)]
    subprocess.run(mount, check=True)
    secrets = work / f"secrets{size}"
    shutil.copytree(work / "bench" / "secrets" / "bob", secrets)
    files = sorted((secrets / "initial").iterdir())
    kept = {path.stem: PairSecret.read(path) for path in files}
    try:
        open_node_store(testbed, "bob", secrets, state).close()
        said = "ok"
    except Exception as error:
        said = str(error)
    left = len(list((secrets / "initial").glob("*.secret")))
    subprocess.run(["mount", "-o", "remount,size=64m", str(state)], check=True)
    with open_node_store(testbed, "bob", secrets, state) as store:
        whole = all(store.deposits.holds_seed(peer, s.auth_ab, s.auth_ba) for peer, s in kept.items())
    print(json.dumps({"said": said, "left": left, "of": len(files), "whole": whole}))
    subprocess.run(["umount", str(state)], check=True)
"""


def test_a_disk_that_fills_up_during_the_first_start_costs_no_secret(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or subprocess.run([unshare, "-m", "true"], check=False, capture_output=True).returncode
    ):
        pytest.skip("needs the right to make a mount namespace (root)")
    done = subprocess.run(
        [unshare, "-m", sys.executable, "-c", STARTS, str(tmp_path), *map(str, SIZES_KIB)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(SIZES_KIB)
    assert all(row["whole"] for row in rows)
    for row in rows:
        if row["said"] == "ok":
            assert row["left"] == 0
        else:
            assert str(tmp_path / "state") in row["said"]
            assert "full" in row["said"] or "No space left" in row["said"]
            assert row["left"] == row["of"]
    assert rows[0]["said"] != "ok"
    assert rows[-1]["said"] == "ok"
