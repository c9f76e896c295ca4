"""Round numbers of a run, each given out once, whatever happens to the server app.

``rounds-<run>.json`` in a folder of the server holds the highest number given out and is durable before the
number is used.  A strategy that is started twice in one Flower run, or a server app that is started again,
goes on with the next number; the nodes would refuse an old one anyway.  The run's description lies beside it.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from orchestrator.delivery.consent import RunDescription
from orchestrator.delivery.consent_book import write_run_file
from orchestrator.durable import replace_file

_log = logging.getLogger(__name__)


class CounterError(Exception):
    """The file of a round counter cannot be read or written."""


class RoundCounter:
    """Gives out 1, 2, 3 ... for the run ``run_id``."""

    def __init__(self, folder: Path, run_id: str) -> None:
        """Use ``folder`` (made if it is missing); raises CounterError where it cannot be."""
        self._run_id = run_id
        self._path = folder / f"rounds-{run_id}.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(folder, error) from error

    def keep(self, description: RunDescription) -> None:
        """Leave the run's description beside its numbers, for the operators to consent to; raises CounterError."""
        file = self._path.with_name(f"run-{description.run_id}.json")
        try:
            write_run_file(file, description)
        except OSError as error:
            raise _unusable(file, error) from error
        _log.info("run %s: what its operators consent to stands in %s", description.run_id, file)

    @property
    def last(self) -> int:
        """The highest number given out, 0 before the first; raises CounterError."""
        try:
            number = json.loads(self._path.read_text(encoding="utf-8"))["last"]
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CounterError(f"cannot read {self._path}: {error}; numbers may have been used") from error
        if not isinstance(number, int) or number < 0:
            raise CounterError(f"{self._path} holds no round number")
        return number

    def next(self) -> int:
        """The next number, durable when this returns it."""
        number = self.last + 1
        try:
            replace_file(self._path, json.dumps({"run": self._run_id, "last": number}).encode())
        except OSError as error:
            raise _unusable(self._path, error) from error
        return number


def _unusable(path: Path, error: OSError) -> CounterError:
    return CounterError(
        f"cannot keep what the run needs in {path}: {error.strerror}.  Give the server app a state "
        'folder that can be written and has room (in the example: state-folder="FOLDER" in the run configuration, or '
        "FLWR_HOME)"
    )
