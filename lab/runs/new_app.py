"""A Flower app of one's own that runs the first time: the template of ``fl/carriers/flower`` under another name.

The folder's name is the app's; its package has underscores in the place of hyphens.  A name that Python finds already
(``torch``, ``fl``) is refused, for the app would hide that module from everybody in its process or be hidden by it.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

Keys: TypeAlias = Literal["simulated-ring", "nodes"]
NAME: Final = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
LONGEST_NAME: Final = 20
"""An operator reads the name in every description of a run (:data:`fl.carriers.flower.secure_run.APP_NAME`)."""
TEMPLATE_NAMES: Final = ("my-app", "my_app")
SUPPLY: Final = {"simulated-ring": "simulated", "nodes": "node"}


class NewAppError(ValueError):
    """A folder in which no app can be made."""


def template() -> Path:
    """The folder that is copied."""
    return Path(str(files("fl.carriers.flower") / "template"))


def missing() -> tuple[str, ...]:
    """Modules that the app needs and this Python does not have."""
    return tuple(name for name in ("flwr", "ray", "torch", "sklearn") if not importlib.util.find_spec(name))


def make_app(folder: Path, keys: str = "simulated-ring") -> str:
    """Make the app; gives the name of its package.  Raises NewAppError, and nothing of what is there is touched."""
    if keys not in get_args(Keys):
        raise NewAppError(f"--keys is {' or '.join(get_args(Keys))}, not {keys!r}")
    name = folder.absolute().name
    package = name.replace("-", "_")
    if not NAME.fullmatch(name) or len(name) > LONGEST_NAME:
        raise NewAppError(
            f"an app is not called {name!r}: its name is of small letters and digits, with single hyphens or underscores "
            f"between them, {LONGEST_NAME} characters at most, such as my-app"
        )
    if keyword.iskeyword(package) or _is_taken(package):
        raise NewAppError(f"{package} is a module of Python's own, or an installed one: choose another name")
    if folder.exists() or folder.is_symlink():
        raise NewAppError(f"{folder} is there already and is left as it is: choose another name")
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.absolute().parent, prefix=f".{name}-") as staging:
        made = Path(staging) / name
        shutil.copytree(template(), made, ignore=shutil.ignore_patterns("__pycache__"))
        (made / "app").rename(made / package)
        for each in (made / "pyproject.toml", made / "README.md"):
            each.write_text(_renamed(each.read_text(encoding="utf-8"), name, package, keys), encoding="utf-8")
        made.rename(folder)
    return package


def _is_taken(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return True


def _renamed(text: str, name: str, package: str, keys: str) -> str:
    for before, after in zip(TEMPLATE_NAMES, (name, package), strict=True):
        text = text.replace(before, after)
    return text.replace('key-supply = "simulated"  ', f'key-supply = "{SUPPLY[keys]}"  ')
