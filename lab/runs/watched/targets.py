"""Where Prometheus finds the processes of a run: a file for its discovery by file (``file_sd_configs``), true at every moment.

The roles that ``qunetlab up`` runs stand in ``state/up/targets.json``, the server and the clients of a training on that ring in
``state/up/targets-training.json`` beside it.  A process that is replaced has another port, so the file is written whenever a
process says that it serves, whole or not at all, and is gone with the run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.durable import replace_file
from orchestrator.events.common import Serving

logger = logging.getLogger(__name__)

TARGETS_FILE, TRAINING_FILE = "targets.json", "targets-training.json"


def targets_text(serving: Mapping[str, Serving]) -> str:
    """The addresses of the processes' metrics, by process, in the order of their names."""
    found = [
        {"targets": [urlsplit(each.metrics).netloc], "labels": {"process": name}}
        for name, each in sorted(serving.items())
        if each.metrics
    ]
    return json.dumps(found, indent=1) + "\n"


class Targets:
    """The file of one run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = ""

    def tell(self, serving: Mapping[str, Serving]) -> None:
        """Write the file where it would say something else; whoever cannot is no worse off than without Prometheus."""
        if (text := targets_text(serving)) == self._written:
            return
        self._written = text
        try:
            replace_file(self._path, text.encode())
        except OSError as error:
            logger.warning("Prometheus does not find the processes: %s", error)

    def close(self) -> None:
        """The processes end."""
        self._path.unlink(missing_ok=True)
        self._written = ""
