"""All roles of a folder's testbed as ``qunetlab up`` runs them, for as long as a test wants them."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def going(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """All roles of a folder's testbed, until the block is left."""
    command = [sys.executable, "-P", "-m", "lab.cli.main", "up", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready"):
                break
        else:
            pytest.fail("the ring did not go up")
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def served(folder: Path, name: str) -> str:
    """Where the node of a user serves its applications, by its ready line."""
    for file in sorted((folder / "state" / "up").glob(f"{name}*")):
        found = re.findall(r'"etsi014": ?"(https://[^"]+)"', file.read_text(errors="replace"))
        if found:
            return str(found[-1])
    raise AssertionError(f"the node of {name} does not say where it serves")
