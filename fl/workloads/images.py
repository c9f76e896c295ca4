"""Labelled images in files: the IDX format, and a user's own images as IDX or NPZ files.

IDX (the format of the MNIST files): big-endian magic ``0x00000803`` (unsigned bytes, three dimensions) or
``0x00000801`` (one dimension), one uint32 per dimension, then the values.  A folder of one's own holds the four
files under their usual names, plain or gzipped; an NPZ file (``numpy.savez``) holds the arrays ``x_train``,
``y_train``, ``x_test`` and ``y_test``.
"""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.workloads.data import DataError, DataSource, file_content

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"
IDX_FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
NPZ_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
OWN_FILES = "own files"


@dataclass(frozen=True)
class Layout:
    """What images must look like: ``side`` x ``side`` grey levels from 0 to ``brightest``, labels below ``classes``."""

    side: int
    brightest: int
    classes: int = 10


@dataclass(frozen=True)
class LabelledImages:
    """``images`` uint8 of shape (n, side, side), ``labels`` uint8 of shape (n,)."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]

    def take(self, indices: npt.NDArray[np.int64]) -> LabelledImages:
        """The images at ``indices``, int64 of shape (n,), in that order."""
        return LabelledImages(self.images[indices], self.labels[indices])


@dataclass(frozen=True)
class ImageHalves:
    """The images of a data set, and the files that they come from."""

    training: LabelledImages
    test: LabelledImages
    sources: tuple[DataSource, ...]


def parse_idx(data: bytes, where: str) -> npt.NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes, uint8, 1-d or of shape (n, rows, columns); raises DataError naming ``where`` and what is wrong."""
    if len(data) < 4:
        raise DataError(f"{where}: {len(data)} bytes are too few for an IDX file")
    if data[:2] != b"\0\0" or data[2] != 0x08 or data[3] not in (1, 3):
        raise DataError(
            f"{where}: magic number {data[:4].hex()} is not that of an IDX file of unsigned bytes "
            "with 1 or 3 dimensions (00000801 or 00000803)"
        )
    n_dimensions = data[3]
    header = 4 + 4 * n_dimensions
    if len(data) < header:
        raise DataError(f"{where}: cut short within the header")
    shape = tuple(int(size) for size in np.frombuffer(data, ">u4", n_dimensions, 4))
    expected = header + math.prod(shape)
    if len(data) != expected:
        problem = "cut short" if len(data) < expected else "followed by other bytes"
        raise DataError(
            f"{where}: {problem}; dimensions {shape} need {expected} bytes, the file has {len(data)}"
        )
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def own_images(path: Path, layout: Layout) -> ImageHalves:
    """The images in an NPZ file, or in a folder of IDX files.

    Raises DataError naming file, array and what is wrong with it.
    """
    arrays, sources = _npz_arrays(path) if path.is_file() else _idx_arrays(path)
    halves = [
        checked_images(arrays[images], arrays[labels], layout, f"{path}: {images}", f"{path}: {labels}")
        for images, labels in (list(arrays)[:2], list(arrays)[2:])
    ]
    return ImageHalves(halves[0], halves[1], sources)


def _idx_arrays(folder: Path) -> tuple[dict[str, npt.NDArray[Any]], tuple[DataSource, ...]]:
    arrays, sources = {}, []
    for name in IDX_FILES:
        remedy = f"give a folder with {', '.join(IDX_FILES)}, or an NPZ file with {', '.join(NPZ_ARRAYS)}"
        content, path = file_content(folder, name, remedy)
        arrays[name] = parse_idx(content, str(path))
        sources.append(DataSource(f"own file {name}", hashlib.sha256(content).hexdigest(), OWN_FILES))
    return arrays, tuple(sources)


def _npz_arrays(path: Path) -> tuple[dict[str, npt.NDArray[Any]], tuple[DataSource, ...]]:
    try:
        content = path.read_bytes()
        if not zipfile.is_zipfile(path):
            raise DataError(f"{path} is no NPZ file: save {', '.join(NPZ_ARRAYS)} with numpy.savez")
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            if missing := [name for name in NPZ_ARRAYS if name not in held]:
                raise DataError(
                    f"{path} lacks {', '.join(missing)}: it holds {', '.join(held) or 'nothing'}, and must hold "
                    f"{', '.join(NPZ_ARRAYS)}"
                )
            arrays = {name: held[name] for name in NPZ_ARRAYS}
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read as an NPZ file of plain arrays: {error}") from error
    return arrays, (DataSource(f"own file {path.name}", hashlib.sha256(content).hexdigest(), OWN_FILES),)


def checked_images(
    images: npt.NDArray[Any], labels: npt.NDArray[Any], layout: Layout, where: str, where_labels: str
) -> LabelledImages:
    """The arrays as bytes, images uint8 of shape (n, side, side) and labels uint8 of shape (n,); raises DataError for another shape, type, count or range, naming the array."""
    side = layout.side
    if images.ndim == 2 and images.shape[1] == side * side:
        images = images.reshape(-1, side, side)
    if images.ndim != 3 or images.shape[1:] != (side, side):
        raise DataError(f"{where} has shape {images.shape}; images have shape (n, {side}, {side})")
    if not len(images):
        raise DataError(f"{where} holds no image")
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"{where_labels} has shape {labels.shape}; {len(images)} images have ({len(images)},) labels"
        )
    return LabelledImages(
        _bytes_up_to(layout.brightest, images, where, "grey levels"),
        _bytes_up_to(layout.classes - 1, labels, where_labels, "labels"),
    )


def _bytes_up_to(largest: int, values: npt.NDArray[Any], where: str, what: str) -> npt.NDArray[np.uint8]:
    if values.dtype.kind not in "uif":
        raise DataError(f"{where} is of type {values.dtype}; {what} are whole numbers from 0 to {largest}")
    wrong = ~((values >= 0) & (values <= largest) & (values == np.floor(values)))
    if wrong.any():
        raise DataError(f"{where} holds {values[wrong][0]}; {what} are whole numbers from 0 to {largest}")
    return np.ascontiguousarray(values, np.uint8)
