"""What ``--testbed`` names, and how the run gets its processes there.

A bundled testbed or a testbed file: everything is simulated and supervised here, in a private folder.  A
testbed folder is at work whose endpoints are all written down, in its file or, while ``qunetlab up`` runs here, among the
addresses in use: its hub, relay and nodes run somewhere, and only the learning server and the clients whose secrets are on
this machine are started.  Any other simulated folder, its endpoints left ``auto``, is supervised here, with its own key stores.

Training on stock alone (without ``--live``) needs key stores that were filled before: such a folder.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fl.experiments.options import OptionsError, TrainOptions
from lab.runs.supervising.supervised import Run, attached_run, supervised_folder, supervised_run
from lab.runs.testbeds.folder import RUNNING_FILE, SECRETS, TEMPLATES, source_path
from lab.testbed import AUTO, Testbed, load_testbed

LOGS = "logs"
LEARNING = "fl.server"
"""The endpoint that a learning server chooses itself where it is left ``auto``."""

PlaceKind = Literal["fresh", "folder", "attached"]


@dataclass(frozen=True)
class Place:
    """What ``--testbed`` names: ``source`` is a bundled name, a file, or a folder."""

    kind: PlaceKind
    source: str
    testbed: Testbed


def find_place(name: str) -> Place:
    """What ``--testbed`` names; raises FolderError, TestbedError or OptionsError."""
    file = source_path(name)
    if name in TEMPLATES:
        return Place("fresh", name, load_testbed(file))
    testbed = load_testbed(file)
    if not (file.parent / SECRETS).is_dir():
        if testbed.simulation is None:
            raise OptionsError(
                f"{file} has no [simulation] and no secrets beside it; make a testbed folder with "
                f"`qunetlab init FOLDER --template {file} --host HOST` and start its roles"
            )
        return Place("fresh", str(file), testbed)
    missing = open_endpoints(testbed)
    if file.name == RUNNING_FILE:  # with the addresses in use, of the roles that run here
        if without := [each for each in missing if each != LEARNING]:
            raise OptionsError(
                f"{file.parent} is at work, by `qunetlab up`, without {', '.join(without)}: write the endpoints of those roles "
                f"into its file, or end it (`qunetlab down {file.parent}`)"
            )
        return Place("attached", str(file), testbed)
    if not missing:
        return Place("attached", str(file), testbed)
    if testbed.simulation is None:
        raise OptionsError(
            f"{file} leaves {', '.join(missing)} 'auto'; write the endpoints of the running roles there"
        )
    return Place("folder", str(file), testbed)


def open_endpoints(testbed: Testbed) -> list[str]:
    """Endpoints that the file leaves ``auto``."""
    places = {
        "hub.control": testbed.hub.control,
        "hub.bulk": testbed.hub.bulk,
        LEARNING: testbed.fl.server,
        **{f"users.{user.name}.delivery": user.delivery for user in testbed.users},
    }
    return [key for key, endpoint in places.items() if endpoint == AUTO]


def check_place(place: Place, options: TrainOptions) -> None:
    """Raise OptionsError for what is not offered on this testbed."""
    if options.drop_outs:
        raise OptionsError("--drop-outs belongs to simulated clients; on a testbed, stop a client instead")
    if options.seeds not in (None, 1):
        raise OptionsError("a run on a testbed has one seed; repeat it with another --seed")
    if options.live:
        return
    if place.kind == "fresh":
        raise OptionsError(
            f"{place.source} starts with empty key stores; add --live to make keys, or name a testbed folder "
            "whose nodes have key in stock"
        )
    if place.kind == "attached":
        raise OptionsError(
            f"{place.source} is at work, and its ring makes key on demand: add --live.  Training on stock alone "
            "is for a simulated testbed folder with endpoints left 'auto'"
        )


def opened(place: Place, seed: int, folder: Path) -> AbstractContextManager[Run]:
    """The processes of the testbed, or the way to those that run already; their records are gathered in ``folder``."""
    if place.kind == "fresh":
        return supervised_run(place.source, {"simulation": {"seed": seed}}, records=folder)
    if place.kind == "folder":
        return supervised_folder(Path(place.source), records=folder)
    return attached_run(Path(place.source), folder / LOGS, records=folder)
