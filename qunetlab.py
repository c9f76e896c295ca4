"""The command ``qunetlab``, also as ``python -m qunetlab``: our own packages are imported, and nobody else's.

The packages have everyday names (``lab``, ``drivers``, ...), and ``python -m`` looks into the current directory
first, where an operator may well keep a folder of the same name.  So that directory leaves the path before anything
of ours is imported, and a package that still comes from elsewhere, through PYTHONPATH or site-packages, is refused
by its place.
"""

from __future__ import annotations

import importlib.util
import os
import sys

ROOMS = ("drivers", "fl", "lab", "orchestrator", "sim_backends")
HOME = os.path.dirname(os.path.realpath(__file__))


def without_current_directory(path: list[str], current: str) -> list[str]:
    """``path`` without the entry that ``python -m`` put first for ``current``; PYTHONPATH's own entries stay.

    The folder of our own source stays as well.
    """
    foreign = os.path.realpath(current) != HOME
    return path[1:] if foreign and path and path[0] in ("", current) else path


def strangers(home: str = HOME) -> list[str]:
    """A sentence for each of our packages that would be imported from another folder than ``home``."""
    found = []
    for name in ROOMS:
        spec = importlib.util.find_spec(name)
        told = (spec.submodule_search_locations or [spec.origin or ""]) if spec else ()
        places = [os.path.realpath(place) for place in told]
        if places != [os.path.join(home, name)]:
            where = ", ".join(places) or "nowhere"
            found.append(f"the package {name!r} would come from {where} and not from {home}")
    return found


def main() -> None:
    """Run the command line.

    Raises:
        SystemExit: with the exit code of the command, or 1 when other packages bear the names of ours.
    """
    if found := strangers():
        advice = "rename what bears these names, or take its folder off PYTHONPATH"
        raise SystemExit("\n".join(["error: " + "; ".join(found), f"  {advice}"]))
    from lab.cli.main import main as run

    run()


if __name__ == "__main__":
    if not sys.flags.safe_path:
        sys.path[:] = without_current_directory(sys.path, os.getcwd())
    main()
