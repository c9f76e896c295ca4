"""``qunetlab`` in a process of its own: roles arm signals, set the umask and take over the logs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

QUNETLAB = (sys.executable, "-P", "-m", "lab.cli.main")
"""The command of this environment, whatever stands in the current folder."""


def run_qunetlab(*arguments: str, timeout_s: float = 110.0, **more: Any) -> subprocess.CompletedProcess[str]:
    """``qunetlab ARGUMENTS`` to its end, which the test judges; ``more`` as :func:`subprocess.run` has it."""
    return subprocess.run(
        [*QUNETLAB, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False, **more
    )
