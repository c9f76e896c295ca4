"""Whether what runs here lives, for the health check of a container: ``python -m lab.runs.watched.healthy FOLDER``.

A role alone answers ``/healthz`` at port 9464; roles that ``qunetlab up`` runs for FOLDER answer where its list of targets says, and
all of them have to.  Exit code 0, or 1 and who does not answer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from lab.runs.addresses import ALONE
from lab.runs.shown import echo
from lab.runs.testbeds.folder import up_folder, up_process
from lab.runs.watched.page import HEALTH
from lab.runs.watched.targets import TARGETS_FILE

PATIENCE_S = 3.0


def addresses(home: Path) -> dict[str, str]:
    """HOST:PORT by process; raises OSError or ValueError while ``qunetlab up`` has not told any."""
    if up_process(home) is None:
        return {"the role": ALONE}
    told = json.loads((up_folder(home) / TARGETS_FILE).read_text(encoding="utf-8"))
    return {each["labels"]["process"]: address for each in told for address in each["targets"]}


def silent(home: Path) -> Iterator[str]:
    """Who does not answer that it lives, and why."""
    try:
        found = addresses(home)
    except (OSError, ValueError) as error:
        yield f"the roles are not ready yet: {error}"
        return
    for name, address in found.items():
        connection = HTTPConnection(address, timeout=PATIENCE_S)
        try:
            connection.request("GET", HEALTH)
            if (status := connection.getresponse().status) != 200:
                yield f"{name} at {address}: status {status}"
        except (OSError, HTTPException) as error:
            yield f"{name} at {address}: {error}"
        finally:
            connection.close()


if __name__ == "__main__":
    wrong = list(silent(Path(sys.argv[1])))
    echo("\n".join(wrong) or "alive")
    sys.exit(bool(wrong))
