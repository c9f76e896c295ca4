"""Where findings are kept: a file each, and their values in the book beside the testbed file."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from msgspec import structs

from lab.calibration.book import Book, Value, calibrated, read_book, write_book
from lab.calibration.errors import CalibrationRefusedError
from lab.calibration.finding import FORMAT, Finding
from lab.testbed import TestbedError, parse_testbed, read_testbed
from orchestrator.durable import locked, make_folder, read_kept, replace_file, write_kept

FINDINGS = "calibrations"
"""Folder of findings beside the testbed file."""
LOCK_FILE = ".lock"
TRY_BYTES = 1 << 20
"""Written and removed before there is light: more than any finding takes, and a book."""


def check_keeping(testbed_path: Path) -> None:
    """CalibrationRefusedError where no finding could be kept: to be asked before light is used for one."""
    folder = testbed_path.parent / FINDINGS
    places = [testbed_path.parent, *([folder] if folder.exists() else [])]
    with _refused_without_place():
        for place in places:
            tried = place / f".try-{os.getpid()}-{threading.get_ident()}"
            try:
                replace_file(tried, bytes(TRY_BYTES))
            finally:
                tried.unlink(missing_ok=True)


@contextmanager
def _refused_without_place() -> Iterator[None]:
    """What the disk does not take is refused, with the place and what to do."""
    try:
        yield
    except OSError as error:
        raise CalibrationRefusedError(
            f"what is found cannot be kept ({error.filename}: {error.strerror}), so nothing of it is applied",
            "make room there, or let whoever calibrates write there",
        ) from error


def keep(testbed_path: Path, finding: Finding, at: datetime) -> Book:
    """Keep a finding and put its values into the book, which is returned.

    Raises BookError for the book of another ring, and CalibrationRefusedError, with nothing kept, for values that no
    testbed may have and for a disk that takes nothing.  Several owners on one machine share the book: each changes it alone.
    """
    folder = testbed_path.parent / FINDINGS
    with _refused_without_place():
        make_folder(folder)
        with locked(folder / LOCK_FILE):
            return _keep(testbed_path, finding, at, folder)


def _keep(testbed_path: Path, finding: Finding, at: datetime, folder: Path) -> Book:
    values = {
        name: Value(value=each.value, uncertainty=each.uncertainty, step=finding.step, measured=at)
        for name, each in finding.values.items()
    }
    data = read_testbed(testbed_path)
    book = read_book(testbed_path, data).with_values(finding.owner, values)
    try:
        parse_testbed(calibrated(data, book), testbed_path)
    except TestbedError as error:
        told = "; ".join(f"{place}: {message}" for place, message in error.problems)
        raise CalibrationRefusedError(
            f"what was found makes no testbed ({told})",
            "the other values of the file, and the instruments of this step",
        ) from error
    stamp = at.strftime("%Y%m%dT%H%M%SZ")
    place = folder / f"{stamp}-{finding.step}-{finding.owner}.json"
    write_kept(place, structs.replace(finding, measured=at))
    try:
        write_book(testbed_path, book)
    except OSError:
        place.unlink()  # values that are applied nowhere must not be in its history
        raise
    return book


def kept_findings(testbed_path: Path) -> list[Finding]:
    """Everything that was found of a ring, oldest first.  Raises OSError, and ValueError naming a file that is none."""
    found = []
    for path in sorted((testbed_path.parent / FINDINGS).glob("*.json")):
        try:
            found.append(read_kept(path, Finding, FORMAT))
        except ValueError as error:
            raise ValueError(f"{path} is no finding of a calibration: {error}") from error
    return found
