"""A role that lies, as a process: ``python -m lab.runs.attacks.role ATTACK STRENGTH TESTBED COMMAND...``.

The command is that of the honest role, and what runs is its program with :func:`lab.runs.attacks.lies.lie` before it.  Only
what starts the roles of a simulated ring starts it; for a ring that is not simulated it ends with an error before it does
anything.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

from lab.runs.supervising.supervisor import HONEST
from lab.runs.testbeds.folder import find_testbed
from lab.testbed import load_testbed

MODULE = "lab.runs.attacks.role"


def check(testbed: Path) -> None:
    """Raises ValueError for a ring that is not simulated."""
    loaded = load_testbed(find_testbed(testbed))
    if loaded.simulation is None:
        raise ValueError(f"{loaded.name} is not simulated: no process of it may lie")


def main() -> None:
    """The honest role's ``main``, lying."""
    name, strength, testbed, *command = sys.argv[1:]
    try:
        check(Path(testbed))
    except ValueError as error:
        sys.exit(f"error: {error}")
    from lab.runs.attacks.lies import lie

    lie(name, float(strength))
    sys.argv[1:] = command
    runpy.run_module(*HONEST, run_name="__main__")


if __name__ == "__main__":
    main()
