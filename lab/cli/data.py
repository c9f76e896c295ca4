"""``qunetlab data``: fetch and list data sets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from fl.workloads.mnist.data import DataError, data_folder, fetch_mnist, load_mnist, mnist_folder
from fl.workloads.sentiment.data import SHA256 as REVIEW_FILES
from fl.workloads.sentiment.data import fetch_sentiment, sentiment_folder, verified_file
from lab.runs.shown import echo

FETCHERS: dict[str, Callable[..., Path]] = {"mnist": fetch_mnist, "sentiment": fetch_sentiment}


@dataclass(frozen=True)
class DataRow:
    """One data set: where it is, and whether its checksums hold."""

    name: str
    folder: str
    verified: bool
    state: str


def fetch(name: str, as_json: bool) -> int:
    """Fetch ``name`` into the cache folder and verify its checksums."""
    if name not in FETCHERS:
        raise ValueError(
            f"no data set called {name!r} can be fetched; there are {', '.join(FETCHERS)} (digits are bundled, "
            "quantum states are made here on first use)"
        )
    folder = FETCHERS[name](progress=lambda text: echo(text, err=True))
    echo(json.dumps({"name": name, "folder": str(folder)}) if as_json else f"{name} is in {folder}")
    return 0


def list_data(as_json: bool) -> int:
    """Print which data sets are here and whether their checksums hold."""
    rows = list(data_rows())
    if as_json:
        echo(json.dumps({"folder": str(data_folder()), "data": [asdict(row) for row in rows]}))
        return 0
    echo(f"data folder {data_folder()} (set QUNETLAB_DATA to move it)")
    for row in rows:
        echo(f"{row.name:15s} {row.state}")
    return 0


def data_rows() -> Iterator[DataRow]:
    """Every data set."""
    yield DataRow("digits", "", True, "bundled with scikit-learn")
    yield _checked("mnist", mnist_folder(), load_mnist)

    def verify_sentiment() -> None:
        for name in REVIEW_FILES:
            verified_file(name)

    yield _checked("sentiment", sentiment_folder(), verify_sentiment)
    yield _quantum_states()


def _checked(name: str, folder: Path, check: Callable[[], object]) -> DataRow:
    try:
        check()
    except DataError as error:
        return DataRow(name, str(folder), False, f"not usable: {error}")
    return DataRow(name, str(folder), True, "verified")


def _quantum_states() -> DataRow:
    """The caches of states; what is not there is made on first use, so its absence is no fault."""
    from fl.experiments.sources import state_files

    found = state_files()
    folder = str(data_folder() / "quantum-states")
    if not found:
        return DataRow("quantum-states", folder, False, "not here yet: made on first use, some ten seconds")
    return DataRow(
        "quantum-states", folder, all(f.verified for f in found), "; ".join(f.state for f in found)
    )
