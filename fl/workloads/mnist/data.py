"""MNIST, 60 000 training and 10 000 test images of 28x28 pixels, or a user's own images in its place.

A folder that the user names may hold the published files: then their checksums are verified.  It may hold
images of the user's own in files of the same names, or there is an NPZ file (:mod:`fl.workloads.images`).  Where
some of the files are the published ones and others are not, these are damaged and are refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fl.workloads.data import DataSource, file_content
from fl.workloads.images import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    ImageHalves,
    LabelledImages,
    Layout,
    checked_images,
    own_images,
    parse_idx,
)
from fl.workloads.mnist.sources import DATA

PIXELS = 28
LAYOUT = Layout(PIXELS, 255)


@dataclass(frozen=True)
class MnistImages:
    """The images in ``folder`` (None: where they are fetched to), each half read when it is asked for."""

    folder: Path | None = None

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """The published files, or the user's own."""
        return DATA.sources if self._own is None else self._own.sources

    @property
    def training(self) -> LabelledImages:
        """The training half; raises DataError saying what is wrong with which file."""
        return self._half(TRAIN_IMAGES, TRAIN_LABELS) if self._own is None else self._own.training

    @property
    def test(self) -> LabelledImages:
        """The test half; raises DataError saying what is wrong with which file."""
        return self._half(TEST_IMAGES, TEST_LABELS) if self._own is None else self._own.test

    @cached_property
    def _own(self) -> ImageHalves | None:
        if self.folder is None or is_published(self.folder):
            return None
        return own_images(self.folder, LAYOUT)

    def _half(self, images: str, labels: str) -> LabelledImages:
        arrays = [parse_idx(DATA.content(name, self.folder), name) for name in (images, labels)]
        return checked_images(arrays[0], arrays[1], LAYOUT, images, labels)


def is_published(folder: Path) -> bool:
    """Whether any file there is one of the published; raises DataError if others beside it are damaged.

    A folder without any of them is not: it is for :func:`own_images` to say what is missing.
    """
    if folder.is_file():
        return False
    same: dict[str, bool] = {}
    for name, digest in DATA.files.items():
        if any((folder / each).exists() for each in (name, f"{name}.gz")):
            content, _ = file_content(folder, name, DATA.remedy)
            same[name] = hashlib.sha256(content).hexdigest() == digest
    if any(same.values()):
        for name, right in same.items():
            if not right:
                DATA.content(name, folder)
        return True
    return False
