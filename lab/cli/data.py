"""``qunetlab data``: fetch and list data sets."""

from __future__ import annotations

import json

import typer

from fl.data import DataError, data_folder, fetch_mnist, load_mnist, mnist_folder

DATA_SETS = ("mnist",)


def fetch(name: str, as_json: bool) -> int:
    """Fetch ``name`` into the cache folder and verify its checksums."""
    if name not in DATA_SETS:
        raise ValueError(f"no data set is called {name!r}; there are {', '.join(DATA_SETS)}")
    folder = fetch_mnist(progress=lambda text: typer.echo(text, err=True))
    typer.echo(json.dumps({"name": name, "folder": str(folder)}) if as_json else f"{name} is in {folder}")
    return 0


def list_data(as_json: bool) -> int:
    """Print which data sets are in the cache folder and whether their checksums hold."""
    try:
        load_mnist()
        state = "verified"
    except DataError as error:
        state = f"not usable: {error}"
    if as_json:
        row = {"name": "mnist", "folder": str(mnist_folder()), "verified": state == "verified"}
        typer.echo(json.dumps({"folder": str(data_folder()), "data": [row]}))
    else:
        typer.echo(f"data folder {data_folder()} (set QUNETLAB_DATA to move it)")
        typer.echo("digits  bundled with scikit-learn")
        typer.echo(f"mnist   {state}")
    return 0
