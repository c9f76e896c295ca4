"""The testbed as it is calibrated at this moment, for roles that run while others calibrate.

The layout stays what it was when the role started; only the values of the book may change under it, between two light
phases.  A book that cannot be read leaves the last values in place and is told.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from lab.calibration.book import Book, BookError, book_path, calibrated, now, read_book
from lab.calibration.finding import Finding
from lab.calibration.keeping import check_keeping, keep

if TYPE_CHECKING:
    from lab.testbed import Testbed

logger = logging.getLogger(__name__)


class CurrentTestbed:
    """The values of one testbed file with those of the book beside it."""

    def __init__(self, path: Path, testbed: Testbed) -> None:
        """``testbed`` is what ``path`` says at this moment."""
        self._path = path
        self._testbed = testbed
        self._book = self._content()

    def __call__(self) -> Testbed:
        """The testbed with the book's present values; the same object as long as the book is the same."""
        content = self._content()
        if content != self._book:
            self._book = content
            self._read()
        return self._testbed

    def book(self) -> Book:
        """Everything that is calibrated.  BookError for a book that cannot be used."""
        return read_book(self._path, self._testbed.model_dump(mode="json", exclude_unset=True))

    def check_keeping(self) -> None:
        """Raise CalibrationRefusedError where nothing that is found could be kept here."""
        check_keeping(self._path)

    def keep(self, finding: Finding) -> None:
        """Keep what was found here, for everybody who reads the testbed."""
        keep(self._path, finding, now())

    def _content(self) -> bytes:
        try:
            return book_path(self._path).read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            logger.warning("calibrated values stay as they are: %s", error)
            return self._book

    def _read(self) -> None:
        from lab.testbed import TestbedError, parse_testbed

        data = self._testbed.model_dump(mode="json", exclude_unset=True)
        try:
            self._testbed = parse_testbed(calibrated(data, read_book(self._path, data)), self._path)
        except (BookError, TestbedError) as error:
            logger.error("calibrated values stay as they are: %s", error)
        else:
            logger.info("calibrated values were read again from %s", book_path(self._path))
